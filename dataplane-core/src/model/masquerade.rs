//! Source NAT: whose packets get an address of this host as their source.

use std::ops::RangeInclusive;

use serde::Serialize;

use super::ModelError;

/// Whether a service's flows get an address of this host as their source on the way to a backend, so that the backend's
/// replies come back here by themselves. The backend then does not see who the client is.
///
/// A flow that is masqueraded has a port of this host to itself, out of [`NatPorts`], towards its backend: so many flows of
/// each protocol fit between this host and one backend's port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Masquerade {
    /// Where the backend is on another host. The default.
    #[default]
    Auto,
    /// Where the backend is on this host too, unless its address is the host's own: for backends behind an interface of this host
    /// that do not answer through it otherwise. That interface must be an uplink, or replies are not translated back.
    Always,
    /// Not at all: backends see clients' addresses, and their replies must come back through this host.
    Never,
}

/// The ports that source NAT gives out, on each address of this host that it uses.
///
/// ```
/// use dataplane_core::model::NatPorts;
///
/// assert_eq!(NatPorts::default().range(), 49_152..=65_535); // RFC 6335, 6: dynamic ports
/// assert_eq!(NatPorts::new(40_000..=40_000)?.count(), 1);
/// # Ok::<(), dataplane_core::model::ModelError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NatPorts {
    first: u16,
    last: u16,
}

impl NatPorts {
    /// Checks and makes a range. Programs of the host must not use these ports by themselves.
    ///
    /// # Errors
    /// [`ModelError::NatPorts`] for an empty range, and for ports below 1024, which belong to the host's services.
    pub const fn new(range: RangeInclusive<u16>) -> Result<Self, ModelError> {
        let (first, last) = (*range.start(), *range.end());
        if first > last || first < 1024 {
            return Err(ModelError::NatPorts { first, last });
        }
        Ok(Self { first, last })
    }

    /// The range.
    pub const fn range(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    /// How many there are.
    pub const fn count(self) -> u32 {
        self.last as u32 - self.first as u32 + 1
    }

    /// As it stands in the configuration: [`Setting::NatPorts`](crate::abi::Setting::NatPorts).
    pub const fn word(self) -> u64 {
        (self.count() as u64) << 16 | self.first as u64
    }
}

impl Default for NatPorts {
    /// 49152 to 65535.
    fn default() -> Self {
        Self { first: 49_152, last: 65_535 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_not_empty_and_leaves_the_system_ports_alone() {
        for (range, count) in [(1024..=65_535, 64_512), (2000..=2000, 1), (49_152..=65_535, 16_384)] {
            let ports = NatPorts::new(range.clone()).unwrap();
            assert_eq!((ports.range(), ports.count()), (range, count));
        }
        #[allow(clippy::reversed_empty_ranges)]
        for range in [2000..=1999, 0..=65_535, 1023..=2000] {
            let refused = NatPorts::new(range.clone());
            assert_eq!(refused, Err(ModelError::NatPorts { first: *range.start(), last: *range.end() }));
        }
    }
}
