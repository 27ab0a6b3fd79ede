//! Two million SYNs, and a million datagrams, from sources that nobody has, through a host in memory with small tables.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

#[path = "pipeline/host.rs"]
#[allow(dead_code, reason = "other stories need the rest")]
mod host;
#[path = "pipeline/siege.rs"]
mod siege;

use crate::{host::*, siege::*};

/// Of each family.
const SYNS: u32 = 1_000_000;
const DATAGRAMS: u32 = 500_000;

#[test]
fn tcp_over_ipv4_outlives_a_flood() {
    connections_outlive_a_flood(V4, TCP, 1, SYNS);
}

#[test]
fn tcp_over_ipv6_outlives_a_flood() {
    connections_outlive_a_flood(V6, TCP, 2, SYNS);
}

#[test]
fn udp_over_ipv4_outlives_a_flood() {
    connections_outlive_a_flood(V4, UDP, 3, DATAGRAMS);
}

#[test]
fn udp_over_ipv6_outlives_a_flood() {
    connections_outlive_a_flood(V6, UDP, 4, DATAGRAMS);
}

#[test]
fn masqueraded_connections_outlive_a_flood() {
    for (cast, seed) in [(V4, 1), (V6, 2)] {
        siege::masqueraded_connections_outlive_a_flood(cast, seed, SYNS / 10);
    }
}
