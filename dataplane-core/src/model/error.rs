//! What can be wrong with a model object.

use std::net::{IpAddr, SocketAddr};

use super::{Frontend, IpFamily, ServiceName};

/// Why a model object was refused. Nothing is changed by a refused object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A name is empty, too long, or has a character that names do not have.
    #[error("{name:?} is no service name: {reason}")]
    Name {
        /// The name as it was given.
        name: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// Port 0 cannot be served or connected to.
    #[error("port 0 is not allowed for {address}: give a port from 1 to 65535")]
    PortZero {
        /// The address whose port it was.
        address: IpAddr,
    },
    /// The address cannot be that of a single host: unspecified, multicast, broadcast, IPv4-mapped.
    #[error("{address} cannot be used here: {reason}")]
    Address {
        /// The address as it was given.
        address: IpAddr,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The weight is out of its range.
    #[error("weight {weight} is out of range: give 0 (no new flows) to {most}", most = super::Weight::MAX.get())]
    Weight {
        /// The weight as it was given.
        weight: u32,
    },
    /// A service without a frontend would never be reached.
    #[error("service {service} has no frontend: give at least one address, port and protocol")]
    NoFrontend {
        /// The service.
        service: ServiceName,
    },
    /// A frontend stands in a service twice.
    #[error("service {service} names frontend {frontend} twice")]
    DuplicateFrontend {
        /// The service.
        service: ServiceName,
        /// The frontend that stands there twice.
        frontend: Frontend,
    },
    /// A backend stands in a service twice: give it a weight instead.
    #[error("service {service} names backend {backend} twice: for a larger share give it a weight")]
    DuplicateBackend {
        /// The service.
        service: ServiceName,
        /// The backend that stands there twice.
        backend: SocketAddr,
    },
    /// A backend is where the service itself is: its packets would come back for ever.
    #[error("service {service} has its own frontend {backend} as a backend: name the address of a host")]
    OwnFrontend {
        /// The service.
        service: ServiceName,
        /// The backend that is a frontend.
        backend: SocketAddr,
    },
    /// Frontends and backends of one service must all be IPv4 or all be IPv6.
    #[error(
        "service {service} is {expected} by its first frontend, but {address} is not: \
         make one service for each family"
    )]
    MixedFamilies {
        /// The service.
        service: ServiceName,
        /// The family of its first frontend.
        expected: IpFamily,
        /// The address of the other family.
        address: IpAddr,
    },
    /// One service can have so many backends and no more.
    #[error("service {service} has {count} backends: the most is {most}")]
    TooManyBackends {
        /// The service.
        service: ServiceName,
        /// How many it has.
        count: usize,
        /// How many it may have.
        most: usize,
    },
    /// A Maglev table's size must be prime, or backends would not reach all of its places.
    #[error("a Maglev table of {places} places: the size must be a prime number, such as {next}")]
    MaglevNoPrime {
        /// The size as it was given.
        places: u32,
        /// The next larger prime number.
        next: u16,
    },
    /// A place in a Maglev table is 16 bits wide.
    #[error(
        "a Maglev table of {places} places is too large: the most is {most}, a prime number",
        most = super::MaglevSize::MAX.get()
    )]
    MaglevTooLarge {
        /// The size as it was given.
        places: u32,
    },
    /// In a Maglev table each backend with a weight has one place at least.
    #[error(
        "service {service} has {backends} backends with a weight, and a Maglev table of {places} places: give it a \
         prime number of places that is not smaller, and for fine shares a hundred times as many"
    )]
    MaglevTooSmall {
        /// The service.
        service: ServiceName,
        /// The table's size.
        places: u16,
        /// How many backends with a weight above 0 it has, those that drain too.
        backends: usize,
    },
    /// A client is remembered for a second at least, and for a week at most.
    #[error(
        "affinity for {seconds} s is out of range: give 1 to {most} s, or no affinity",
        most = super::AffinityTimeout::MAX.seconds()
    )]
    AffinityTimeout {
        /// The time-out as it was given, in seconds.
        seconds: u32,
    },
    /// Source NAT needs ports that the host's own services do not use.
    #[error(
        "ports {first} to {last} for source NAT: the first must be 1024 or above, and the last not below it"
    )]
    NatPorts {
        /// The first as it was given.
        first: u16,
        /// The last as it was given.
        last: u16,
    },
}
