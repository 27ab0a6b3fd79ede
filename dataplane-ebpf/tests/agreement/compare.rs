//! What must be the same.

use std::{collections::HashMap, fmt::Debug, hash::Hash};

use dataplane_core::{
    abi::TestInput,
    memory::Outcome as Simulated,
    pipeline::{Hook, Verdict},
    tables::{HashTable, Store, WordArray},
};
use dataplane_ebpf::testing::{Outcome, TestDataplane};

use crate::{Case, world::World};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;
const TCX_NEXT: u32 = u32::MAX;
const TCX_PASS: u32 = 0;
const TCX_DROP: u32 = 2;
const TCX_REDIRECT: u32 = 7;

/// What differs for one frame.
pub fn outcomes(case: &Case, kernel: &TestDataplane, expected: &Simulated, got: &Outcome) -> Vec<String> {
    let mut differences = Vec::new();
    let number = kernel.get(TestInput::Verdict);
    let verdict = Verdict::all().find(|verdict| u64::from(verdict.number()) | 1 << 32 == number);
    if verdict != Some(expected.verdict) {
        differences
            .push(format!("verdict: simulator {:?}, kernel {verdict:?} ({number:#x})", expected.verdict));
    }
    let sent = expected.sent.filter(|_| matches!(expected.verdict, Verdict::Forward | Verdict::Answer(_)));
    let egress = u64::from(sent.map_or(0, |hop| hop.interface));
    if kernel.get(TestInput::Egress) != egress {
        differences.push(format!("egress: simulator {egress}, kernel {}", kernel.get(TestInput::Egress)));
    }
    let [a, b, c, d] = sent.map_or([0; 4], |hop| hop.gateway.address);
    // Only the first word is an IPv4 address's.
    let v6 = sent.is_some_and(|hop| hop.gateway.v6);
    let mask = if v6 { u64::MAX } else { 0xffff_ffff << 32 };
    let wanted = [u64::from(a) << 32 | u64::from(b), u64::from(c) << 32 | u64::from(d)];
    let gateway =
        [kernel.get(TestInput::GatewayHigh) & mask, if v6 { kernel.get(TestInput::GatewayLow) } else { 0 }];
    if gateway != wanted {
        differences.push(format!("gateway: simulator {wanted:x?}, kernel {gateway:x?}"));
    }
    let returns = match (case.hook, expected.verdict) {
        (Hook::Xdp, Verdict::Pass(_) | Verdict::Leave(_) | Verdict::Deliver) => XDP_PASS,
        (Hook::Xdp, Verdict::Forward) if egress == u64::from(case.interface) => XDP_TX,
        (Hook::Xdp, Verdict::Forward) => XDP_REDIRECT,
        (Hook::Xdp, Verdict::Answer(_) | Verdict::Drop(_)) => XDP_DROP,
        (_, Verdict::Pass(_) | Verdict::Leave(_)) => TCX_NEXT,
        (_, Verdict::Deliver) => TCX_PASS,
        (_, Verdict::Forward) => TCX_REDIRECT,
        (_, Verdict::Answer(_)) => TCX_REDIRECT,
        (_, Verdict::Drop(_)) => TCX_DROP,
    };
    if got.returned != returns {
        differences.push(format!("return code: expected {returns}, kernel {}", got.returned));
    }
    // Nobody sees a dropped packet again.
    if !matches!(expected.verdict, Verdict::Drop(_)) && got.frame != expected.frame[..] {
        differences.push("bytes".to_owned());
    }
    differences
}

/// Compares whole dumps of all tables.
pub fn tables(world: &World, when: &str) {
    let (memory, kernel) = (world.simulator.tables(), world.kernel.plane().tables());
    let mut differences = Vec::new();
    hash(memory.conntrack_v4(), kernel.conntrack_v4(), &mut differences);
    hash(memory.conntrack_v6(), kernel.conntrack_v6(), &mut differences);
    hash(memory.opening_v4(), kernel.opening_v4(), &mut differences);
    hash(memory.opening_v6(), kernel.opening_v6(), &mut differences);
    hash(memory.nat_v4(), kernel.nat_v4(), &mut differences);
    hash(memory.nat_v6(), kernel.nat_v6(), &mut differences);
    hash(memory.affinity_v4(), kernel.affinity_v4(), &mut differences);
    hash(memory.affinity_v6(), kernel.affinity_v6(), &mut differences);
    hash(memory.fragments_v4(), kernel.fragments_v4(), &mut differences);
    hash(memory.fragments_v6(), kernel.fragments_v6(), &mut differences);
    hash(memory.services_v4(), kernel.services_v4(), &mut differences);
    hash(memory.services_v6(), kernel.services_v6(), &mut differences);
    words(memory.service_words(), kernel.service_words(), &mut differences);
    words(memory.slots(), kernel.slots(), &mut differences);
    words(memory.backends_v4(), kernel.backends_v4(), &mut differences);
    words(memory.backends_v6(), kernel.backends_v6(), &mut differences);
    for hook in Hook::ALL {
        for verdict in Verdict::all() {
            let counts = [memory.counters(), kernel.counters()].map(|c| c.verdict(hook, verdict).unwrap());
            if counts[0] != counts[1] {
                differences.push(format!("counter of {} {verdict}: {counts:?}", hook.name()));
            }
        }
    }
    for index in world.frontends() {
        let counts = [memory.counters(), kernel.counters()].map(|c| c.service(index).unwrap());
        if counts[0] != counts[1] {
            differences.push(format!("counters of frontend {index}: {counts:?}"));
        }
    }
    if !differences.is_empty() {
        println!("DISAGREEMENT of tables, {when}");
        for difference in differences.iter().take(20) {
            println!("  {difference}");
        }
        panic!("tables of kernel and simulator disagree in {} places", differences.len());
    }
}

fn hash<K, V>(memory: &dyn HashTable<K, V>, kernel: &dyn HashTable<K, V>, differences: &mut Vec<String>)
where
    K: Eq + Hash + Debug,
    V: PartialEq + Debug,
{
    let [memory_rows, mut kernel_rows] =
        [memory, kernel].map(|table| table.entries().map(Result::unwrap).collect::<HashMap<_, _>>());
    assert!(memory_rows.len() < memory.capacity() as usize / 2, "too full: evictions would differ");
    for (key, value) in memory_rows {
        match kernel_rows.remove(&key) {
            Some(other) if other == value => {}
            other => {
                differences.push(format!("{} {key:?}: simulator {value:?}, kernel {other:?}", memory.name()))
            }
        }
    }
    for (key, value) in kernel_rows {
        differences.push(format!("{} {key:?}: only the kernel has {value:?}", memory.name()));
    }
}

fn words(memory: &dyn WordArray, kernel: &dyn WordArray, differences: &mut Vec<String>) {
    for index in 0..memory.capacity().min(kernel.capacity()) {
        for word in 0..memory.width() {
            let loaded = [memory, kernel].map(|array| array.load(index, word));
            if loaded[0] != loaded[1] {
                differences.push(format!("{} {index}.{word}: {loaded:x?}", memory.name()));
            }
        }
    }
}

/// Bytes as people paste them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
