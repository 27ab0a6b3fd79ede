//! What holds for every frame and every table.

use dataplane_core::{
    abi::{FLOW_MASQUERADED, FLOW_REPLY, StateWord},
    memory::{MemoryTables, Outcome},
    pipeline::{AnswerReason, Hook, Seen, Verdict},
    tables::{Family, Flow, HashTable, Store, Tuple},
};
use dataplane_testkit::frames::{Dissected, icmp_checksums_hold};

/// A packet that was translated, before and after.
#[derive(Debug)]
pub struct Translated {
    pub before: Dissected,
    pub after: Dissected,
}

impl Translated {
    /// Whether both ends changed, and not only one.
    pub fn is_masqueraded(&self) -> bool {
        self.before.source != self.after.source && self.before.destination != self.after.destination
    }
}

/// Checks what became of a frame. `Some` where it was translated and could be read with right checksums before.
///
/// # Panics
/// Where something does not hold: that is what a fuzzer looks for.
pub fn outcome(input: &[u8], hook: Option<Hook>, out: &Outcome) -> Option<Translated> {
    match out.verdict {
        Verdict::Pass(_) | Verdict::Leave(_) => {
            assert_eq!(&out.frame[..], input, "{}: the frame was touched", out.verdict);
            assert_eq!(out.sent, None);
            assert!(hook == Some(Hook::Xdp) || !matches!(out.verdict, Verdict::Leave(_)), "only XDP leaves");
            None
        }
        Verdict::Drop(_) => None,
        Verdict::Answer(_) => {
            assert_eq!(hook.unwrap_or(Hook::Ingress), Hook::Ingress, "only ingress answers");
            out.sent.expect("answered somebody");
            let reset = || Dissected::of(&out.frame).map(|seen| seen.checksums_hold());
            let holds = icmp_checksums_hold(&out.frame).or_else(reset);
            // A reply to a ping carries on what was wrong with it.
            let echo = out.verdict == Verdict::Answer(AnswerReason::Echo);
            let expected = if echo { icmp_checksums_hold(input) } else { Some(true) };
            assert_eq!(holds, expected, "the answer's checksums");
            None
        }
        Verdict::Deliver => {
            assert!(hook != Some(Hook::Xdp), "XDP cannot deliver");
            assert_eq!(out.sent, None);
            assert_eq!(out.frame.len(), input.len());
            translated(input, out, 0)
        }
        Verdict::Forward => {
            assert!(hook != Some(Hook::Egress), "what leaves is not forwarded again");
            let hop = out.sent.expect("forwarded somewhere");
            assert!(hop.resolved || hook != Some(Hook::Xdp), "XDP has nobody to send it to");
            translated(input, out, 1)
        }
    }
}

fn translated(input: &[u8], out: &Outcome, hops: u8) -> Option<Translated> {
    if icmp_checksums_hold(input) == Some(true) {
        assert_eq!(icmp_checksums_hold(&out.frame), Some(true), "checksums of a translated ICMP error");
        return None;
    }
    let before = Dissected::of(input).filter(Dissected::checksums_hold)?;
    let after = Dissected::of(&out.frame).expect("a packet that could be read can be read no more");
    assert!(after.checksums_hold(), "checksums: {before:?} became {after:?}");
    assert_eq!(after.has_transport_checksum(), before.has_transport_checksum());
    assert_eq!(after.protocol, before.protocol);
    assert_eq!(after.hop_limit, before.hop_limit - hops);
    assert_eq!(after.tags, if hops == 0 { before.tags } else { 0 });
    assert_eq!(out.frame.len(), input.len() - (before.tags - after.tags) * 4);
    assert_eq!(without_checksum(&after), without_checksum(&before), "what follows the ports");
    let (same_source, same_destination) =
        (after.source == before.source, after.destination == before.destination);
    assert!(!same_source || !same_destination, "neither end is translated: {before:?} became {after:?}");
    Some(Translated { before, after })
}

/// What follows the ports, without the checksum: at 16 of a TCP header, at 6 of a UDP one.
fn without_checksum(packet: &Dissected) -> Vec<u8> {
    let at = if packet.protocol == 6 { 12 } else { 2 };
    let mut rest = packet.rest.clone();
    rest.drain(at..at + 2);
    rest
}

/// Checks the tables of connections and reservations: tags, directions, which of them is whose, and fill.
///
/// # Panics
/// Where something does not hold.
pub fn tables(tables: &MemoryTables) {
    for (v4, v6) in [
        (tables.conntrack_v4(), tables.conntrack_v6()),
        (tables.opening_v4(), tables.opening_v6()),
        (tables.nat_v4(), tables.nat_v6()),
    ] {
        table::<dataplane_core::tables::V4>(v4, |flow| (flow.flags, flow.tail_tag, flow.state));
        table::<dataplane_core::tables::V6>(v6, |flow| (flow.flags, flow.tail_tag, flow.state));
    }
}

fn table<F: Family>(
    table: &dyn HashTable<F::Tuple, F::Flow>,
    words: impl Fn(&F::Flow) -> (u16, u32, StateWord),
) {
    let mut entries = 0;
    for entry in table.entries() {
        let (tuple, flow) = entry.expect("memory is always there");
        entries += 1;
        let (flags, tail_tag, state) = words(&flow);
        assert_eq!((state.tag(), tail_tag), (tuple.tag(), tuple.tag()), "tags of {tuple:?}");
        assert_ne!(flow.backend().generation(), 0, "{tuple:?} goes nowhere");
        let (is_reply, is_masqueraded) = (flags & FLOW_REPLY != 0, flags & FLOW_MASQUERADED != 0);
        let place = match (is_reply && is_masqueraded, Seen::from(state).is_confirmed()) {
            (true, _) => "nat",
            (false, true) => "conntrack",
            (false, false) => "opening",
        };
        assert!(table.name().starts_with(place), "{tuple:?} stands in {}", table.name());
        // A client's packet keeps its source, an answer its destination; where the source is ours neither does.
        let source_stays = (flow.source(), flow.source_port()) == (tuple.source(), tuple.source_port());
        let destination_stays =
            (flow.destination(), flow.destination_port()) == (tuple.destination(), tuple.destination_port());
        let expected = (!is_reply && !is_masqueraded, is_reply && !is_masqueraded);
        assert_eq!((source_stays, destination_stays), expected, "{tuple:?}: {flow:?}");
    }
    assert_eq!(table.fill().expect("memory is always there"), entries);
    assert!(entries <= table.capacity(), "{entries} entries in {}", table.name());
}

/// Checks that each entry has the other half of its connection: where nothing was evicted, ran out or closed.
///
/// # Panics
/// Where something does not hold.
pub fn halves(tables: &MemoryTables) {
    half::<dataplane_core::tables::V4>(tables.conntrack_v4(), tables.opening_v4(), tables.nat_v4());
    half::<dataplane_core::tables::V6>(tables.conntrack_v6(), tables.opening_v6(), tables.nat_v6());
}

type Flows<'a, F> = &'a dyn HashTable<<F as Family>::Tuple, <F as Family>::Flow>;

fn half<F: Family>(conntrack: Flows<'_, F>, opening: Flows<'_, F>, nat: Flows<'_, F>) {
    for table in [conntrack, opening, nat] {
        for entry in table.entries() {
            let (tuple, flow) = entry.expect("memory is always there");
            let other = tuple.answering(&flow);
            // Only one of two that are masqueraded is a reservation.
            let is_client = flow.is_masqueraded() && !table.name().starts_with("nat");
            let confirmed = Seen::from(flow.state()).is_confirmed();
            let its = if is_client {
                nat
            } else if confirmed {
                conntrack
            } else {
                opening
            };
            let pair = its.get(&other).expect("memory is always there");
            let pair = pair.unwrap_or_else(|| panic!("{tuple:?} has no other half: {other:?}"));
            assert_eq!((pair.backend(), pair.frontend()), (flow.backend(), flow.frontend()));
            assert_ne!(pair.direction(), flow.direction());
            assert_eq!(other.answering(&pair), tuple, "the way back");
            assert_eq!(pair.state().seen(), flow.state().seen(), "both halves have seen the same");
        }
    }
}
