//! Services by number, the same ones for every way of programming them: one frontend and three backends each.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;
use dataplane_core::model::{Backend, Frontend, Masquerade, Protocol, Service};

/// Backends of a service.
pub const BACKENDS: u32 = 3;

/// The prefix of all virtual addresses.
pub const FRONTENDS: &str = "10.96.0.0/12";

const FIRST_FRONTEND: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const FIRST_BACKEND: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 1);

/// The virtual address of a service.
pub fn frontend(number: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from_bits(FIRST_FRONTEND.to_bits() + number), 80)
}

/// The backends of a service, no two services' the same.
pub fn backends(number: u32) -> [SocketAddrV4; BACKENDS as usize] {
    [0, 1, 2].map(|i| {
        SocketAddrV4::new(Ipv4Addr::from_bits(FIRST_BACKEND.to_bits() + number * BACKENDS + i), 8080)
    })
}

/// Backends by the number of their service; the last service's may be real ones.
#[derive(Clone, Copy, Debug)]
pub struct Catalogue {
    /// How many services there are.
    pub services: u32,
    /// The backends of the last one.
    pub last: [SocketAddrV4; BACKENDS as usize],
}

impl Catalogue {
    /// So many services, none with a real backend.
    pub fn new(services: u32) -> Self {
        Self { services, last: backends(services.saturating_sub(1)) }
    }

    /// The backends of a service.
    pub fn backends(&self, number: u32) -> [SocketAddrV4; BACKENDS as usize] {
        if number + 1 == self.services { self.last } else { backends(number) }
    }

    /// A service, as an embedder says it.
    ///
    /// # Errors
    /// None, as long as the model takes these addresses.
    pub fn service(&self, number: u32) -> Result<Service> {
        service(number, &self.backends(number))
    }

    /// All services.
    ///
    /// # Errors
    /// As [`service`](Self::service).
    pub fn all(&self) -> Result<Vec<Service>> {
        (0..self.services).map(|number| self.service(number)).collect()
    }
}

/// A service of this number with these backends.
///
/// # Errors
/// Where the model refuses an address.
pub fn service(number: u32, backends: &[SocketAddrV4]) -> Result<Service> {
    let frontend = frontend(number);
    let mut builder = Service::builder(&format!("service-{number}")).frontend(Frontend::new(
        (*frontend.ip()).into(),
        frontend.port(),
        Protocol::Tcp,
    )?);
    for backend in backends {
        builder = builder.backend(Backend::new((*backend.ip()).into(), backend.port())?);
    }
    // As the baselines: destination NAT alone.
    Ok(builder.masquerade(Masquerade::Never).build()?)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_services_share_an_address() {
        const MOST: u32 = 100_000;
        let prefix: ipnet::Ipv4Net = FRONTENDS.parse().unwrap();
        let frontends: HashSet<_> = (0..MOST).map(frontend).collect();
        let backends: HashSet<_> = (0..MOST).flat_map(backends).collect();
        assert_eq!((frontends.len(), backends.len()), (100_000, 300_000));
        assert!(frontends.iter().all(|frontend| prefix.contains(frontend.ip())));
        assert!(backends.iter().all(|backend| !prefix.contains(backend.ip())));
    }

    #[test]
    fn only_the_last_service_has_the_real_backends() {
        let real = ["192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3"].map(|address| address.parse().unwrap());
        let catalogue = Catalogue { services: 3, last: real };
        assert_eq!([0, 1, 2].map(|number| catalogue.backends(number) == real), [false, false, true]);
        assert_eq!(catalogue.all().unwrap().len(), 3);
        assert_eq!(Catalogue::new(3).backends(2), backends(2));
    }
}
