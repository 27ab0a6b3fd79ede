//! How many ports of each of this host's addresses source NAT has lent.

use std::{collections::BTreeMap, net::IpAddr};

/// Ports that are reserved on one address of this host, as the collector's last whole round found them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NatUsage {
    /// The address that flows have as their source.
    pub address: IpAddr,
    /// Reservations: one for each masqueraded connection, of all protocols and towards all backends together. Those whose
    /// time was over and which the round did not remove yet count.
    pub in_use: u32,
    /// The most that a round found since the controller began.
    pub high_water: u32,
}

/// Counts reservations, a round after the other.
#[derive(Debug, Default)]
pub(super) struct NatCount {
    /// Of this round.
    counting: BTreeMap<IpAddr, u32>,
    /// In use and high water, of whole rounds.
    counted: BTreeMap<IpAddr, (u32, u32)>,
}

impl NatCount {
    /// A round begins; what an earlier one left unfinished does not count.
    pub fn begin(&mut self) {
        self.counting.clear();
    }

    /// One more stands on this address.
    pub fn add(&mut self, address: IpAddr) {
        *self.counting.entry(address).or_default() += 1;
    }

    /// One that was counted in this round is gone.
    pub fn subtract(&mut self, address: IpAddr) {
        if let Some(count) = self.counting.get_mut(&address) {
            *count = count.saturating_sub(1);
        }
    }

    /// The round is over.
    pub fn end(&mut self) {
        for (in_use, _) in self.counted.values_mut() {
            *in_use = 0;
        }
        for (address, count) in std::mem::take(&mut self.counting) {
            let (in_use, high_water) = self.counted.entry(address).or_default();
            *in_use = count;
            *high_water = count.max(*high_water);
        }
    }

    /// Every address that ever had a reservation in a whole round, IPv4 first.
    pub fn usage(&self) -> Vec<NatUsage> {
        let one = |(&address, &(in_use, high_water)): (&IpAddr, &(u32, u32))| NatUsage {
            address,
            in_use,
            high_water,
        };
        self.counted.iter().map(one).collect()
    }
}
