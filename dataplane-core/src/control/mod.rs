//! The controller: sources in, tables out.
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//!
//! use dataplane_core::{
//!     Controller, NextWake,
//!     model::{Backend, Frontend, Protocol, Service},
//!     source::Precedence,
//!     tables::Store,
//! };
//!
//! fn serve(tables: Arc<dyn Store>) -> Result<(), Box<dyn std::error::Error>> {
//!     let control = Controller::new(tables)?;
//!     let _running = control.spawn()?;
//!     let agent = control.register("my-agent", Precedence::new(10))?;
//!     let web = Service::builder("web")
//!         .frontend(Frontend::new("203.0.113.10".parse()?, 80, Protocol::Tcp)?)
//!         .backend(Backend::new("192.0.2.11".parse()?, 8080)?)
//!         .build()?;
//!     let revision = agent.transaction().upsert(web).commit()?;
//!     agent.synced();
//!     control.wait_applied(revision, Duration::from_secs(1))?;
//!     Ok(())
//! }
//! ```

mod controller;
mod running;
mod signal;
mod wait;

pub use controller::{Controller, ControllerBuilder, ControllerError};
pub use running::{Running, RunningSource};
pub use wait::{Applied, WaitError};
