//! Counting flows: one pass through conntrack, and one through the connections that are not confirmed.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use dataplane_core::{
    pipeline::Direction,
    tables::{Family, Flow, HashTable, Store, TableError, V4, V6},
};

/// How many flows there are.
#[derive(Debug, Default)]
pub struct FlowCounts {
    /// IPv4 and IPv6: connections that are confirmed.
    pub families: [Count; 2],
    /// IPv4 and IPv6: connections that are not.
    pub opening: [Count; 2],
    /// By index of the frontend, and backend.
    by_backend: HashMap<(u32, SocketAddr), u64>,
}

/// What a table of flows holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// Entries: one for each direction.
    pub entries: u64,
    /// Flows.
    pub flows: u64,
}

impl FlowCounts {
    /// Counts them. Cost: linear in the entries, some 100 ms for half a million.
    ///
    /// # Errors
    /// [`TableError`] where the kernel refuses.
    pub fn of(store: &dyn Store) -> Result<Self, TableError> {
        let mut counts = Self::default();
        let families =
            [counts.family::<V4>(store.conntrack_v4())?, counts.family::<V6>(store.conntrack_v6())?];
        let opening = [counts.family::<V4>(store.opening_v4())?, counts.family::<V6>(store.opening_v6())?];
        Ok(Self { families, opening, ..counts })
    }

    fn family<F: Family>(&mut self, table: &dyn HashTable<F::Tuple, F::Flow>) -> Result<Count, TableError>
    where
        F::Address: Into<IpAddr>,
    {
        let mut count = Count::default();
        for entry in table.entries() {
            let (_, flow) = entry?;
            count.entries += 1;
            if flow.direction() == Direction::Original {
                count.flows += 1;
                let backend = SocketAddr::new(flow.destination().into(), flow.destination_port().get());
                *self.by_backend.entry((flow.frontend(), backend)).or_default() += 1;
            }
        }
        Ok(count)
    }

    /// Flows of a backend, through frontends of these indexes.
    pub fn of_backend(&self, frontends: &[u32], backend: SocketAddr) -> u64 {
        frontends.iter().filter_map(|index| self.by_backend.get(&(*index, backend))).sum()
    }
}
