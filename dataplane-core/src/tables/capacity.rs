//! How many entries the tables have room for.

/// The capacity of each table, fixed while a dataplane is open.
///
/// ```
/// use dataplane_core::tables::Capacity;
///
/// let capacity = Capacity { conntrack: 1 << 20, ..Capacity::default() };
/// assert!(capacity.backends >= 65_536);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Frontends of each family.
    pub frontends: u32,
    /// 8-byte words for lists of backends: a list takes 4 and one for each unit of weight, rounded up to 8; with Maglev
    /// one for each backend and a quarter of one for each place.
    pub slots: u32,
    /// Backends of each family.
    pub backends: u32,
    /// Conntrack entries of each family: two for each connection that is confirmed. The oldest ones go when it is full.
    pub conntrack: u32,
    /// Entries of each family of connections that are not confirmed yet, two for each: what a flood of forged packets gets.
    /// The oldest ones go when it is full, and where their clients were real, they come to the same backend again.
    pub opening: u32,
    /// Connections of each family whose source is translated: the reservations of their ports. New ones are refused when
    /// it is full.
    pub nat: u32,
    /// Clients of each family that services with affinity remember. The oldest ones go when it is full.
    pub affinity: u32,
    /// Datagrams of each family that are under way in parts. The oldest ones go when it is full.
    pub fragments: u32,
}

impl Default for Capacity {
    /// 65,536 frontends and backends of each family, 2^20 slot words, 2^18 conntrack entries,
    /// 2^16 of connections not confirmed yet, 2^17 reservations, 65,536 clients with an affinity and 2^14 datagrams in parts of each family.
    ///
    /// In the kernel that is 8 MiB of slots, 3 MiB of backends, some 70 MiB of conntrack, 18 MiB of unconfirmed connections, 35 MiB of reservations, 12 MiB of
    /// affinities and 4 MiB of datagrams (allocated up front), 23 MiB of frontends, and 3 MiB of counters for each CPU.
    fn default() -> Self {
        Self {
            frontends: 1 << 16,
            slots: 1 << 20,
            backends: 1 << 16,
            conntrack: 1 << 18,
            opening: 1 << 16,
            nat: 1 << 17,
            affinity: 1 << 16,
            fragments: 1 << 14,
        }
    }
}

impl Capacity {
    /// Small tables, for tests and for looking at full ones.
    pub const fn small() -> Self {
        Self {
            frontends: 64,
            slots: 1 << 10,
            backends: 64,
            conntrack: 1 << 10,
            opening: 1 << 10,
            nat: 1 << 9,
            affinity: 1 << 9,
            fragments: 1 << 8,
        }
    }

    /// Entries in each family's table of frontends: besides the frontends, their addresses have one each, and there are no more
    /// addresses than frontends.
    pub const fn frontend_entries(&self) -> u32 {
        self.frontends.saturating_mul(2)
    }
}
