//! Forebay in the Linux kernel: loads the programs, fills their tables, attaches them to interfaces.
//!
//! ```no_run
//! use dataplane_core::{pipeline::Timeouts, tables::{Capacity, Store}};
//! use dataplane_ebpf::{EbpfDataplane, Error, Order, Uplink, XdpMode};
//!
//! # fn main() -> Result<(), Error> {
//! let plane = EbpfDataplane::builder()
//!     .unpinned()
//!     .capacity(Capacity { conntrack: 1 << 20, ..Capacity::default() })
//!     .timeouts(Timeouts::default())
//!     .uplink(Uplink::named("eth0").xdp(XdpMode::Auto).order(Order::First))
//!     .open()?;
//! for attachment in plane.attachments() {
//!     println!("{attachment}"); // eth0: XDP native, tcx
//! }
//! for warning in plane.warnings() {
//!     eprintln!("warning: {warning}");
//! }
//! let tables: std::sync::Arc<dyn Store> = plane.tables();
//! # drop(tables);
//! # Ok(())
//! # }
//! ```
//!
//! With [`Builder::pins`] in place of `unpinned`, tables and attachments stay when the dataplane is dropped or its process
//! is killed, and the next `open` takes them over: see [`PinDir`].
//!
//! | module | holds |
//! | --- | --- |
//! | `builder`, `dataplane`, `uplink` | opening a dataplane, and what is open |
//! | `tables` | [`Store`](dataplane_core::tables::Store) over the kernel's maps |
//! | `events` | events of drops and flows |
//! | `attach` | programs on interfaces: which hooks were got, and why |
//! | `pin` | what stays in the kernel while nobody runs, and how the next run takes it over |
//! | `lock` | who lives, and has a place or a pin directory |
//! | `probe` | what this kernel, this process and this host can do |
//! | `reattach` | an uplink whose interface went and came back |
//! | `net` | what the kernel tells of interfaces, over netlink |
//! | `object` | the compiled programs, and what they must look like |
//! | `sys` | system calls; all unsafe code |
//! | `testing` | programs with a test's clock, run on frames (feature `testing`) |

mod attach;
mod builder;
mod dataplane;
mod error;
mod events;
mod lock;
mod net;
mod object;
mod pin;
mod port_claim;
mod probe;
mod reattach;
mod sys;
mod tables;
#[cfg(feature = "testing")]
pub mod testing;
mod uplink;

pub use attach::{Attachment, OtherProgram, Standing, TcAttachment, XdpAttachment, XdpOff};
pub use builder::Builder;
pub use dataplane::{EbpfDataplane, ProgramReport};
pub use error::{Distrust, Error, PinFault};
pub use events::EventReader;
pub use object::OBJECT_VARIABLE;
pub use pin::PinDir;
pub use probe::{Features, PeerChecksums, Privileges, Warning};
pub use tables::KernelTables;
pub use uplink::{HookName, Order, TcMode, Uplink, XdpMode};
