//! How much is measured.

use std::time::Duration;

use crate::sample::Limits;

/// The size of a run.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// Its name, which the files of its results carry.
    pub name: &'static str,
    /// Numbers of flows for packets through the kernel's programs; powers of two, rising.
    pub flows: &'static [u32],
    /// When a figure about packets is good enough.
    pub packets: Limits,
    /// Entries of conntrack, and of the tables of the lookup floors.
    pub table_entries: u32,
    /// Entries that the collector goes round.
    pub collected: u32,
    /// For how long it does.
    pub collect_time: Duration,
    /// Numbers of services for connect latency, rising.
    pub services: &'static [u32],
    /// The most services that are programmed through iptables: its time grows faster than they do.
    pub most_iptables_services: u32,
    /// Connects for each figure, in rounds that take turns between the ways.
    pub rounds: u32,
    /// Connects in a round.
    pub connects: u32,
}

impl Profile {
    /// About a minute, together with criterion's benches.
    pub const SMOKE: Self = Self {
        name: "smoke",
        flows: &[1, 1 << 10, 1 << 16],
        packets: Limits { quiet: 7, time: Duration::from_millis(350) },
        table_entries: 1 << 18,
        collected: 1_000_000,
        collect_time: Duration::from_secs(15),
        services: &[10, 1_000, 10_000, 100_000],
        most_iptables_services: 10_000,
        rounds: 8,
        connects: 50,
    };
}
