//! Where packets end: a host's address and port.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
};

use serde::{Deserialize, Serialize};

use super::{IpFamily, ModelError, frontend::check_host_address};

/// Whether a backend gets new flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum BackendState {
    /// It gets new flows.
    #[default]
    Active,
    /// It keeps the flows that it has and gets no new ones.
    Draining,
}

/// On which side of this host's interfaces a backend is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Locality {
    /// On another host: packets leave again, by the route to its address.
    #[default]
    Remote,
    /// On this host, or behind it in a way that only its own stack knows: packets go to the stack translated.
    Local,
}

/// A backend's share of a service's new flows, against the weights of the others.
///
/// 0 to 256; 0 means no new flows. The default is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Weight(u16);

impl Weight {
    /// The largest weight.
    pub const MAX: Self = Self(256);

    /// Checks and makes a weight.
    ///
    /// # Errors
    /// [`ModelError::Weight`] over [`Weight::MAX`].
    pub fn new(weight: u32) -> Result<Self, ModelError> {
        match u16::try_from(weight) {
            Ok(narrow) if narrow <= Self::MAX.0 => Ok(Self(narrow)),
            _ => Err(ModelError::Weight { weight }),
        }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

impl TryFrom<u32> for Weight {
    type Error = ModelError;

    fn try_from(weight: u32) -> Result<Self, ModelError> {
        Self::new(weight)
    }
}

impl From<Weight> for u32 {
    fn from(weight: Weight) -> Self {
        weight.0.into()
    }
}

/// A host's address and port that packets of a service are sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct Backend {
    address: IpAddr,
    port: NonZeroU16,
    weight: Weight,
    state: BackendState,
    locality: Locality,
}

impl Backend {
    /// Checks and makes an active, remote backend of weight 1.
    ///
    /// # Errors
    /// [`ModelError::PortZero`]; [`ModelError::Address`] for an address that is not that of a single host.
    pub fn new(address: IpAddr, port: u16) -> Result<Self, ModelError> {
        let port = NonZeroU16::new(port).ok_or(ModelError::PortZero { address })?;
        check_host_address(address)?;
        Ok(Self {
            address,
            port,
            weight: Weight::default(),
            state: BackendState::default(),
            locality: Locality::default(),
        })
    }

    /// The same backend with this weight.
    #[must_use]
    pub fn with_weight(mut self, weight: Weight) -> Self {
        self.weight = weight;
        self
    }

    /// The same backend, keeping its flows and getting no new ones.
    #[must_use]
    pub fn draining(self) -> Self {
        self.with_state(BackendState::Draining)
    }

    /// The same backend in this state.
    #[must_use]
    pub fn with_state(mut self, state: BackendState) -> Self {
        self.state = state;
        self
    }

    /// The same backend, on this host.
    #[must_use]
    pub fn local(self) -> Self {
        self.with_locality(Locality::Local)
    }

    /// The same backend with this locality.
    #[must_use]
    pub fn with_locality(mut self, locality: Locality) -> Self {
        self.locality = locality;
        self
    }

    /// Address and port.
    pub fn socket_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port.get())
    }

    /// The family of the address.
    pub fn family(&self) -> IpFamily {
        IpFamily::of(self.address)
    }

    /// Its share of new flows.
    pub fn weight(&self) -> Weight {
        self.weight
    }

    /// Whether it gets new flows.
    pub fn state(&self) -> BackendState {
        self.state
    }

    /// Whether it is on this host.
    pub fn locality(&self) -> Locality {
        self.locality
    }

    /// Whether new flows may go to it: active, and of a weight above 0.
    pub fn is_selectable(&self) -> bool {
        self.state == BackendState::Active && self.weight.get() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_a_range() {
        assert_eq!(Weight::new(0).unwrap().get(), 0);
        assert_eq!(Weight::new(256).unwrap(), Weight::MAX);
        assert_eq!(Weight::new(257), Err(ModelError::Weight { weight: 257 }));
        assert_eq!(Weight::new(65_537), Err(ModelError::Weight { weight: 65_537 }));
    }

    #[test]
    fn only_active_backends_with_a_weight_are_selected() {
        let backend = Backend::new("192.0.2.1".parse().unwrap(), 80).unwrap();
        assert!(backend.is_selectable());
        assert!(!backend.draining().is_selectable());
        assert!(!backend.with_weight(Weight::new(0).unwrap()).is_selectable());
    }
}
