//! The virtual addresses that stand in the tables of frontends beside their frontends.
//!
//! An address is written before the first of its frontends, and taken out before the last one is: so no address stays behind
//! whose frontends are gone, whatever write fails, and who tries again what failed comes by here again. No packet of a service
//! looks at it.

use std::net::IpAddr;

use hashbrown::HashMap;

use crate::{model::Frontend, reconcile::Presence};

/// The addresses of frontends that stand in the hash, or may.
#[derive(Debug, Default)]
pub(in crate::reconcile) struct Addresses(HashMap<IpAddr, Address>);

#[derive(Debug)]
struct Address {
    listed: Presence,
    /// Its frontends that stand in the hash, or may.
    frontends: u32,
}

impl Addresses {
    /// A frontend stands in the hash now, or may, that did not.
    pub fn gain(&mut self, frontend: &Frontend) {
        let new = Address { listed: Presence::Absent, frontends: 0 };
        self.0.entry(frontend.address()).or_insert(new).frontends += 1;
    }

    /// A frontend stands in the hash no more.
    pub fn lose(&mut self, frontend: &Frontend) {
        if let Some(address) = self.0.get_mut(&frontend.address()) {
            address.frontends -= 1;
            if address.frontends == 0 {
                self.0.remove(&frontend.address());
            }
        }
    }

    /// Whether an address stands in the hash.
    pub fn listed(&self, address: IpAddr) -> Presence {
        self.0.get(&address).map_or(Presence::Absent, |address| address.listed)
    }

    pub fn listing_is(&mut self, address: IpAddr, listed: Presence) {
        if let Some(address) = self.0.get_mut(&address) {
            address.listed = listed;
        }
    }

    /// Whether an address has no other frontends than so many, and is to go with them.
    pub fn goes_with(&self, address: IpAddr, frontends: u32) -> bool {
        self.0
            .get(&address)
            .is_some_and(|found| found.frontends <= frontends && found.listed != Presence::Absent)
    }
}
