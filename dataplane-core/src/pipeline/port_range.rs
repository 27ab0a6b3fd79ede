//! The ports that source NAT gives out.

use super::Environment;
use crate::{abi::Setting, wire::Be16};

/// A range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortRange {
    first: u32,
    count: u32,
}

impl PortRange {
    /// The configured ones.
    #[inline(always)]
    pub(super) fn of<E: Environment>(env: &E) -> Self {
        let word = env.setting(Setting::NatPorts);
        Self { first: word & 0xffff, count: word >> 16 }
    }

    /// Whether this port is one of them.
    #[inline(always)]
    pub(super) fn contains(self, port: Be16) -> bool {
        u32::from(port.get()).wrapping_sub(self.first) < self.count
    }

    /// How many there are.
    #[inline(always)]
    pub(super) fn count(self) -> u32 {
        self.count
    }

    /// The port so many places behind the first, for less than twice their number: after the last comes the first.
    #[inline(always)]
    pub(super) fn at(self, place: u32) -> Be16 {
        let place = if place >= self.count { place.wrapping_sub(self.count) } else { place };
        Be16::new(self.first.wrapping_add(place) as u16)
    }
}
