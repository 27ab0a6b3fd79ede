//! A service: frontends, and the backends that serve them.

use std::collections::HashSet;

use serde::Serialize;

use super::{Affinity, Backend, Choice, Frontend, IpFamily, Masquerade, ModelError, ServiceName};

/// Frontends and the backends that their packets are sent to.
///
/// All frontends and backends are of one family. A service may have no backend at all: then its packets are
/// refused, which is not the same as having no service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Service {
    name: ServiceName,
    frontends: Vec<Frontend>,
    backends: Vec<Backend>,
    choice: Choice,
    masquerade: Masquerade,
    affinity: Affinity,
}

impl Service {
    /// The most backends that one service has.
    pub const MAX_BACKENDS: usize = 65_535;

    /// Begins a service. Everything is checked by [`ServiceBuilder::build`].
    pub fn builder(name: &str) -> ServiceBuilder {
        ServiceBuilder {
            name: name.to_owned(),
            frontends: Vec::new(),
            backends: Vec::new(),
            choice: Choice::default(),
            masquerade: Masquerade::default(),
            affinity: Affinity::default(),
        }
    }

    /// The name.
    pub fn name(&self) -> &ServiceName {
        &self.name
    }

    /// The frontends, at least one, in the order given.
    pub fn frontends(&self) -> &[Frontend] {
        &self.frontends
    }

    /// The backends, in the order given.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// How a backend is chosen for a new flow.
    pub fn choice(&self) -> Choice {
        self.choice
    }

    /// Whose packets get an address of this host as their source.
    pub fn masquerade(&self) -> Masquerade {
        self.masquerade
    }

    /// Whether clients come to the same backend again.
    pub fn affinity(&self) -> Affinity {
        self.affinity
    }

    /// The family of all its addresses.
    pub fn family(&self) -> IpFamily {
        self.frontends.first().map_or(IpFamily::V4, Frontend::family)
    }
}

/// A service in the making.
#[derive(Clone, Debug)]
#[must_use]
pub struct ServiceBuilder {
    name: String,
    frontends: Vec<Frontend>,
    backends: Vec<Backend>,
    choice: Choice,
    masquerade: Masquerade,
    affinity: Affinity,
}

impl ServiceBuilder {
    /// Adds a frontend.
    pub fn frontend(mut self, frontend: Frontend) -> Self {
        self.frontends.push(frontend);
        self
    }

    /// Adds frontends.
    pub fn frontends(mut self, frontends: impl IntoIterator<Item = Frontend>) -> Self {
        self.frontends.extend(frontends);
        self
    }

    /// Adds a backend.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backends.push(backend);
        self
    }

    /// Adds backends.
    pub fn backends(mut self, backends: impl IntoIterator<Item = Backend>) -> Self {
        self.backends.extend(backends);
        self
    }

    /// Sets how a backend is chosen for a new flow: at random by default.
    pub fn choice(mut self, choice: Choice) -> Self {
        self.choice = choice;
        self
    }

    /// Sets whose packets get an address of this host as their source: those to backends on other hosts by default.
    pub fn masquerade(mut self, masquerade: Masquerade) -> Self {
        self.masquerade = masquerade;
        self
    }

    /// Sets whether clients come to the same backend again: not by default.
    pub fn affinity(mut self, affinity: Affinity) -> Self {
        self.affinity = affinity;
        self
    }

    /// Checks everything and makes the service.
    ///
    /// # Errors
    /// [`ModelError`] names the first rule that is broken, in the order name, frontends, backends, choice.
    pub fn build(self) -> Result<Service, ModelError> {
        let Self { name, frontends, backends, choice, masquerade, affinity } = self;
        let service = ServiceName::new(&name)?;
        let Some(first) = frontends.first() else {
            return Err(ModelError::NoFrontend { service });
        };
        let family = first.family();
        let mut seen = HashSet::with_capacity(frontends.len());
        for frontend in &frontends {
            if frontend.family() != family {
                return Err(ModelError::MixedFamilies {
                    service,
                    expected: family,
                    address: frontend.address(),
                });
            }
            if !seen.insert(*frontend) {
                return Err(ModelError::DuplicateFrontend { service, frontend: *frontend });
            }
        }
        if backends.len() > Service::MAX_BACKENDS {
            let count = backends.len();
            return Err(ModelError::TooManyBackends { service, count, most: Service::MAX_BACKENDS });
        }
        let mut seen = HashSet::with_capacity(backends.len());
        for backend in &backends {
            let address = backend.socket_address();
            if backend.family() != family {
                return Err(ModelError::MixedFamilies { service, expected: family, address: address.ip() });
            }
            if !seen.insert(address) {
                return Err(ModelError::DuplicateBackend { service, backend: address });
            }
            let is_here = |frontend: &Frontend| {
                (frontend.address(), frontend.port().get()) == (address.ip(), address.port())
            };
            if frontends.iter().any(is_here) {
                return Err(ModelError::OwnFrontend { service, backend: address });
            }
        }
        if let Choice::Maglev(size) = choice {
            // Who drains counts: that a backend drains, or does no longer, is no reason to refuse a service.
            let weighted = backends.iter().filter(|backend| backend.weight().get() > 0).count();
            if weighted > usize::from(size.get()) {
                return Err(ModelError::MaglevTooSmall { service, places: size.get(), backends: weighted });
            }
        }
        Ok(Service { name: service, frontends, backends, choice, masquerade, affinity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MaglevSize, Protocol, Weight};

    fn frontend(address: &str) -> Frontend {
        Frontend::new(address.parse().unwrap(), 80, Protocol::Tcp).unwrap()
    }

    fn backend(address: &str) -> Backend {
        Backend::new(address.parse().unwrap(), 8080).unwrap()
    }

    #[test]
    fn families_do_not_mix() {
        let mixed =
            Service::builder("web").frontend(frontend("203.0.113.1")).backend(backend("2001:db8::1")).build();
        assert!(matches!(mixed, Err(ModelError::MixedFamilies { expected: IpFamily::V4, .. })), "{mixed:?}");
        let mixed = Service::builder("web")
            .frontend(frontend("2001:db8::1"))
            .frontend(frontend("203.0.113.1"))
            .build();
        assert!(matches!(mixed, Err(ModelError::MixedFamilies { expected: IpFamily::V6, .. })), "{mixed:?}");
    }

    #[test]
    fn nothing_stands_twice() {
        let one = frontend("203.0.113.1");
        let twice = Service::builder("web").frontends([one, one]).build();
        assert!(matches!(twice, Err(ModelError::DuplicateFrontend { .. })), "{twice:?}");
        let two = [backend("192.0.2.1"), backend("192.0.2.1").draining()];
        let twice = Service::builder("web").frontend(one).backends(two).build();
        assert!(matches!(twice, Err(ModelError::DuplicateBackend { .. })), "{twice:?}");
        let own = Backend::new(one.address(), one.port().get()).unwrap();
        let own = Service::builder("web").frontend(one).backend(own).build();
        assert!(matches!(own, Err(ModelError::OwnFrontend { .. })), "{own:?}");
    }

    #[test]
    fn a_frontend_is_needed_and_backends_are_not() {
        assert!(matches!(Service::builder("web").build(), Err(ModelError::NoFrontend { .. })));
        let empty = Service::builder("web").frontend(frontend("203.0.113.1")).build().unwrap();
        assert!(empty.backends().is_empty());
    }

    #[test]
    fn each_backend_has_a_place_in_a_maglev_table() {
        let build = |size: u32, backends: Vec<Backend>| {
            let choice = Choice::Maglev(MaglevSize::new(size).unwrap());
            let service = Service::builder("web").frontend(frontend("203.0.113.1"));
            service.backends(backends).choice(choice).build().map(|service| service.choice())
        };
        let [one, two, three] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(backend);
        assert_eq!(build(3, vec![one, two, three]), Ok(Choice::Maglev(MaglevSize::new(3).unwrap())));
        let small = build(2, vec![one, two, three]);
        assert!(matches!(small, Err(ModelError::MaglevTooSmall { places: 2, backends: 3, .. })), "{small:?}");
        let small = build(2, vec![one, two, three.draining()]);
        assert!(matches!(small, Err(ModelError::MaglevTooSmall { .. })), "{small:?}");
        assert!(build(2, vec![one, two, three.with_weight(Weight::new(0).unwrap())]).is_ok());
        assert!(build(2, vec![]).is_ok());
    }
}
