//! How often each backend of a service stands in its list.

use std::net::IpAddr;

use crate::model::{Backend, Locality, Service};

/// What makes a backend the same one in several services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Whether it is on this host.
    pub local: bool,
}

impl From<&Backend> for BackendKey {
    fn from(backend: &Backend) -> Self {
        let address = backend.socket_address();
        let local = backend.locality() == Locality::Local;
        Self { address: address.ip(), port: address.port(), local }
    }
}

/// A backend and how often it stands in the list: 0 for one that takes no new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The backend.
    pub backend: BackendKey,
    /// How often.
    pub times: u16,
}

/// The shares of a service's backends, in the service's order: their weights, divided by what all have in common.
pub fn shares(service: &Service) -> impl Iterator<Item = Share> {
    let common = service
        .backends()
        .iter()
        .filter(|backend| backend.is_selectable())
        .fold(0, |common, backend| greatest_common_divisor(common, backend.weight().get()))
        .max(1);
    service.backends().iter().map(move |backend| Share {
        backend: backend.into(),
        times: if backend.is_selectable() { backend.weight().get() / common } else { 0 },
    })
}

fn greatest_common_divisor(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Frontend, Protocol, Weight};

    #[test]
    fn weights_are_reduced_over_those_that_take_flows() {
        let backend = |host: u8, weight: u32| {
            let backend = Backend::new(IpAddr::from([192, 0, 2, host]), 80).unwrap();
            backend.with_weight(Weight::new(weight).unwrap())
        };
        let times = |backends: Vec<Backend>| -> Vec<u16> {
            let frontend = Frontend::new("203.0.113.1".parse().unwrap(), 80, Protocol::Tcp).unwrap();
            let service = Service::builder("web").frontend(frontend).backends(backends).build().unwrap();
            shares(&service).map(|share| share.times).collect()
        };
        assert_eq!(times(vec![backend(1, 256), backend(2, 128), backend(3, 64)]), [4, 2, 1]);
        assert_eq!(times(vec![backend(1, 7), backend(2, 7)]), [1, 1]);
        assert_eq!(times(vec![backend(1, 6), backend(2, 5).draining(), backend(3, 9)]), [2, 0, 3]);
        assert_eq!(times(vec![backend(1, 0), backend(2, 100)]), [0, 1]);
        assert_eq!(times(vec![backend(1, 0), backend(2, 5).draining()]), [0, 0]);
        assert_eq!(times(vec![]), [0u16; 0]);
    }
}
