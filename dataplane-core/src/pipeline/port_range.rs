//! The ports that source NAT gives out.

use super::Environment;
use crate::{abi::Setting, wire::Be16};

/// A range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortRange {
    first: u16,
    count: u16,
}

impl PortRange {
    /// The configured ones.
    #[inline(always)]
    pub(super) fn of<E: Environment>(env: &E) -> Self {
        let word = env.setting(Setting::NatPorts);
        Self { first: word as u16, count: (word >> 16) as u16 }
    }

    /// Whether this port is one of them.
    #[inline(always)]
    pub(super) fn contains(self, port: Be16) -> bool {
        port.get().wrapping_sub(self.first) < self.count
    }

    /// How many there are.
    #[inline(always)]
    pub(super) fn count(self) -> u32 {
        self.count as u32
    }

    /// The port so many places behind the first.
    #[inline(always)]
    pub(super) fn at(self, place: u32) -> Be16 {
        Be16::new(self.first.wrapping_add(place as u16))
    }

    /// The place so far behind another one, at most once around: behind the last comes the first.
    #[inline(always)]
    pub(super) fn behind(self, place: u32, distance: u32) -> u32 {
        let place = place.wrapping_add(distance);
        if place >= self.count() { place.wrapping_sub(self.count()) } else { place }
    }
}
