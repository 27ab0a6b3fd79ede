//! What an embedder says: services, their frontends and their backends, validated on the way in.
//!
//! Every value of these types is valid: the only way to make one is a constructor that checks. What the
//! packets meet is made of it by [`compile`](crate::compile).
//!
//! ```
//! use dataplane_core::model::{Backend, Frontend, Protocol, Service};
//!
//! let web = Service::builder("web")
//!     .frontend(Frontend::new("203.0.113.10".parse()?, 80, Protocol::Tcp)?)
//!     .backend(Backend::new("192.0.2.11".parse()?, 8080)?)
//!     .backend(Backend::new("192.0.2.12".parse()?, 8080)?.draining())
//!     .build()?;
//! assert_eq!(web.backends().len(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod affinity;
mod backend;
mod choice;
mod error;
mod frontend;
mod masquerade;
mod name;
mod service;

pub use affinity::{Affinity, AffinityTimeout};
pub use backend::{Backend, BackendState, Locality, Weight};
pub use choice::{Choice, MaglevSize};
pub use error::ModelError;
pub use frontend::{Frontend, Protocol};
pub use masquerade::{Masquerade, NatPorts};
pub use name::ServiceName;
pub use service::{Service, ServiceBuilder};

use std::net::IpAddr;

/// The two families of addresses. A service has one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl std::fmt::Display for IpFamily {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}
