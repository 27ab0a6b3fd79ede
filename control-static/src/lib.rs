//! Forebay's control source for files: services written in YAML, watched for changes.
//!
//! Ten lines are a load balancer:
//!
//! ```yaml
//! services:
//!   - name: web
//!     address: 203.0.113.10     # where clients go; or addresses: [...]
//!     port: 80                  # protocol: tcp where nothing is said; or ports: [53, {port: 53, protocol: udp}]
//!     backends:
//!       - 192.0.2.11:8080
//!       - 192.0.2.12:8080
//!       - {address: 192.0.2.13, port: 8080, weight: 2, state: draining, locality: local}
//! ```
//!
//! The format, field by field, is in [`schema`]. What it says beyond that:
//!
//! - A name and a frontend (address, port, protocol) stand once in all files together.
//! - Addresses of both families may stand in one service with backends of both: each address is served by the
//!   backends of its family. It becomes two services: the IPv4 half keeps the name, the IPv6 half is called
//!   `NAME/ipv6`. A service of one family keeps its name, whichever it is.
//! - Several files, or a folder of them, make one picture; one bad document refuses the whole.
//! - `services: []` means no service, on purpose. A file that is empty or gone means a mistake.
//! - Unknown fields, doubled ones, anchors, aliases, tags and second documents are refused.
//!
//! [`parse`] reads one document, [`load`] a file or a folder:
//!
//! ```
//! let picture = control_static::parse(
//!     "
//! services:
//!   - name: web
//!     address: 203.0.113.10
//!     port: 80
//!     backends:
//!       - 192.0.2.11:8080
//!       - 192.0.2.12:8080
//! ",
//!     "web.yaml",
//! )?;
//! assert_eq!(picture.services()[0].backends().len(), 2);
//!
//! let errors = control_static::parse("services:\n- {name: web, port: http}\n", "web.yaml").unwrap_err();
//! let port = errors.iter().find(|error| error.field() == "services[0].port").expect("the port is wrong");
//! assert_eq!(
//!     port.to_string(),
//!     "web.yaml:2:21: services[0].port: expected a port: a number from 1 to 65535, found `http`"
//! );
//! # Ok::<(), control_static::Errors>(())
//! ```
//!
//! [`StaticSource`] gives them to a controller and follows their changes:
//!
//! ```no_run
//! use std::{sync::Arc, time::Duration};
//!
//! use control_static::StaticSource;
//! use dataplane_core::{Controller, memory::MemoryTables, source::Precedence, tables::Capacity};
//!
//! // Tables in memory; those of an `EbpfDataplane` in the kernel.
//! let tables = Arc::new(MemoryTables::new(Capacity::default()));
//! let control = Controller::new(tables)?;
//! let _stepping = control.spawn()?;
//! let source = StaticSource::new("/etc/forebay/services.d");
//! let status = source.status();
//! let running = control.run_source(Box::new(source), Precedence::new(0))?;
//! let standing = status.wait_for(Duration::from_secs(5), |standing| standing.readings > 0);
//! if let Some(rejected) = standing.and_then(|standing| standing.rejected) {
//!     eprintln!("{rejected}");
//! }
//! running.stop()?;
//! # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
//! ```
//!
//! [`read_file`] reads what is no list of services, such as the configuration of a daemon, with errors of the same kind.
//!
//! The way of a document: [`load`] → `yaml` (text to a tree with places, under limits) → `read` (tree to `document`,
//! field by field) → `convert` (document to model) → [`Picture`] → `source` (picture to transaction).

#![forbid(unsafe_code)]

mod context;
mod convert;
mod document;
mod errors;
mod load;
mod picture;
mod read;
mod reader;
mod schema;
mod source;
mod status;
mod trail;
mod watch;
mod yaml;

pub use errors::{Error, Errors, Place, Position, Problem};
pub use load::load;
pub use picture::{Picture, parse, parse_bytes};
pub use reader::{Field, Reader, read_file};
pub use schema::schema;
pub use source::{Notice, StaticSource, WatchError};
pub use status::{Rejected, Standing, StaticStatus};

/// The most bytes of all documents of a picture together: 64 MiB.
pub const MAX_BYTES: usize = 64 << 20;
