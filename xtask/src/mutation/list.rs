//! The mutations: each breaks another stage of the pipeline.
//!
//! The list follows the code: where a line is changed that stands here, the chore says so, and the list is mended.
//! What changes verdicts, bytes or tables of single frames is for the agreement test; what lets a packet believe a value
//! that is being changed, or another key's, is for the torn-read test.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

/// One line of the programs' sources, changed.
pub struct Mutation {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it breaks, for people.
    pub breaks: &'static str,
    /// The file, from the root of the repository.
    pub file: &'static str,
    /// The line as it is, without what it is indented by.
    pub from: &'static str,
    /// The line as it becomes.
    pub to: &'static str,
}

/// Mutations that the agreement test must catch.
pub const AGREEMENT: &[Mutation] = &[
    Mutation {
        name: "second-tag",
        breaks: "parse: of two 802.1Q tags the second is not stepped over",
        file: "dataplane-core/src/pipeline/headers.rs",
        from: "pub const MAX_VLAN_TAGS: u32 = 2;",
        to: "pub const MAX_VLAN_TAGS: u32 = 1;",
    },
    Mutation {
        name: "ipv4-options",
        breaks: "parse: IPv4 options are taken for the transport header",
        file: "dataplane-core/src/pipeline/headers.rs",
        from: "let l4 = l3.wrapping_add(header_length);",
        to: "let l4 = l3.wrapping_add(20);",
    },
    Mutation {
        name: "extension-length",
        breaks: "parse: an IPv6 extension header's length counts 4 bytes a unit",
        file: "dataplane-core/src/wire/ipv6.rs",
        from: "((self.length as u32) << 3).wrapping_add(8)",
        to: "((self.length as u32) << 2).wrapping_add(4)",
    },
    Mutation {
        name: "gone-backend",
        breaks: "decide: a backend's generation is not compared, flows stay with one that is gone",
        file: "dataplane-core/src/pipeline/decide.rs",
        from: "None => Judgement::Replace(CloseReason::BackendGone),",
        to: "None => Judgement::Use,",
    },
    Mutation {
        name: "closed-connection",
        breaks: "decide: a SYN on a closed connection goes where the old one went",
        file: "dataplane-core/src/pipeline/decide.rs",
        from: "Direction::Original if seen.is_closed() && is_opening(protocol, headers.tcp_flags) => {",
        to: "Direction::Original if seen.is_dying() && is_opening(protocol, headers.tcp_flags) => {",
    },
    Mutation {
        name: "draining-backend",
        breaks: "decide: who is still trying to connect to a backend that drains stays with it",
        file: "dataplane-core/src/pipeline/decide.rs",
        from: "if backend.draining && !seen.is_confirmed() && is_opening(protocol, headers.tcp_flags) =>",
        to: "if backend.draining && seen.is_dying() && is_opening(protocol, headers.tcp_flags) =>",
    },
    Mutation {
        name: "maglev-port",
        breaks: "decide: the hash that finds a place in a Maglev table leaves out the client's port",
        file: "dataplane-core/src/abi/flow.rs",
        from: "($tuple.source_port.get() as u64) << 32",
        to: "($tuple.destination_port.get() as u64) << 32",
    },
    Mutation {
        name: "maglev-packing",
        breaks: "decide: places of a Maglev table are taken for bytes",
        file: "dataplane-core/src/abi/service.rs",
        from: "let shift = (place % PLACES_PER_WORD) << PLACE_SHIFT;",
        to: "let shift = (place % PLACES_PER_WORD) << 3;",
    },
    Mutation {
        name: "maglev-seed",
        breaks: "decide: the hash that finds a place in a Maglev table has another seed than the list says",
        file: "dataplane-core/src/pipeline/decide.rs",
        from: "let seed = Lookup::<F>::slot(env, list.wrapping_add(SLOT_SEED_WORD))?;",
        to: "let seed = Lookup::<F>::slot(env, list)?;",
    },
    Mutation {
        name: "choice-by-dice",
        breaks: "decide: who lost its entry gets another backend",
        file: "dataplane-core/src/pipeline/decide.rs",
        from: "spread(env.choice::<F>(tuple), entries)",
        to: "spread(env.random(), entries)",
    },
    Mutation {
        name: "no-flow",
        breaks: "decide: a reset of no flow opens one",
        file: "dataplane-core/src/pipeline/decide.rs",
        from: "if is_of_another(headers.tuple.protocol(), headers.tcp_flags) {",
        to: "if is_of_another(headers.tuple.protocol(), headers.tcp_flags & !4) {",
    },
    Mutation {
        name: "reset-confirms",
        breaks: "commit: a connection is confirmed by what a host says to an answer that it did not ask for",
        file: "dataplane-core/src/pipeline/seen.rs",
        from: "if bits & Self::REPLIED != 0 && tcp_flags & (TCP_SYN | TCP_RST) == 0 {",
        to: "if bits & Self::REPLIED != 0 && tcp_flags & TCP_SYN == 0 {",
    },
    Mutation {
        name: "not-moved",
        breaks: "commit: who came through a handshake stays among those that a flood pushes out",
        file: "dataplane-core/src/pipeline/commit.rs",
        from: "let confirms = after.is_confirmed() && !before.is_confirmed();",
        to: "let confirms = after.is_confirmed() && before.0 == 0;",
    },
    Mutation {
        name: "not-withdrawn",
        breaks: "commit: what was moved to conntrack stands in both tables",
        file: "dataplane-core/src/pipeline/commit.rs",
        from: "withdraw::<F, E>(pair_tuple, env);",
        to: "",
    },
    Mutation {
        name: "tuple-in-conntrack",
        breaks: "commit: replies of a connection that is confirmed are not in the way of another's",
        file: "dataplane-core/src/pipeline/commit.rs",
        from: "let conntrack = clear_answers(Place::Conntrack, work, env, now);",
        to: "let conntrack = clear_answers(Place::Opening, work, env, now);",
    },
    Mutation {
        name: "affinity-timeout",
        breaks: "decide: a client is remembered for ever",
        file: "dataplane-core/src/pipeline/affinity.rs",
        from: "if entry.head.is_dying() || age > timeout || !names::<F, E>(visit, entry.backend, env) {",
        to: "if entry.head.is_dying() || timeout == u32::MAX || !names::<F, E>(visit, entry.backend, env) {",
    },
    Mutation {
        name: "affinity-search",
        breaks: "decide: the search for a backend in a list misses those behind the middle",
        file: "dataplane-core/src/pipeline/affinity.rs",
        from: "self.low = middle.wrapping_add(1);",
        to: "self.low = middle.wrapping_add(2);",
    },
    Mutation {
        name: "affinity-refresh",
        breaks: "decide: a client that comes again is forgotten all the same",
        file: "dataplane-core/src/pipeline/affinity.rs",
        from: "if age > 0 {",
        to: "if age > timeout {",
    },
    Mutation {
        name: "affinity-stale",
        breaks: "decide: what was remembered and does not hold is left, so that nothing new is remembered",
        file: "dataplane-core/src/pipeline/affinity.rs",
        from: "if !entry.head.is_dying() && cell.exchange_head(entry.head, entry.head.dying()) {",
        to: "if entry.head.is_dying() && cell.exchange_head(entry.head, entry.head.dying()) {",
    },
    Mutation {
        name: "no-neighbour",
        breaks: "route: XDP sends to a neighbour whose link-layer address it does not know",
        file: "dataplane-core/src/pipeline/process.rs",
        from: "if !hop.resolved {",
        to: "if hop.interface == 0 {",
    },
    Mutation {
        name: "last-hop",
        breaks: "route: a packet with one hop left is forwarded",
        file: "dataplane-core/src/pipeline/process.rs",
        from: "Route::Forward if headers.hop_limit <= 1 => DropReason::HopLimit,",
        to: "Route::Forward if headers.hop_limit < 1 => DropReason::HopLimit,",
    },
    Mutation {
        name: "tuple-in-use",
        breaks: "commit: replies of one service's connection are given to another's",
        file: "dataplane-core/src/pipeline/commit.rs",
        from: "if !translates_to::<F>(&work.found, &work.headers.tuple) {",
        to: "if work.found.state().seen() == u32::MAX {",
    },
    Mutation {
        name: "pair-not-refreshed",
        breaks: "commit: a packet keeps its own entry alive, but not that of the other direction",
        file: "dataplane-core/src/pipeline/commit.rs",
        from: "pair.touch(now);",
        to: "pair.touch(work.pair.last_seen());",
    },
    Mutation {
        name: "hop-not-taken",
        breaks: "apply: what is forwarded keeps its hop limit",
        file: "dataplane-core/src/pipeline/translate.rs",
        from: "if matches!(hop_limit, HopLimit::Decrement) {",
        to: "if matches!(hop_limit, HopLimit::Keep) {",
    },
    Mutation {
        name: "checksum-delta",
        breaks: "apply: in XDP the change of ports does not reach the transport checksum",
        file: "dataplane-core/src/pipeline/translate.rs",
        from: "let delta = flow.address_delta().and(flow.port_delta());",
        to: "let delta = flow.address_delta();",
    },
    Mutation {
        name: "quoted-ports",
        breaks: "an ICMP error: the quoted packet's ports are left as they are",
        file: "dataplane-core/src/pipeline/quote.rs",
        from: "quoted_ports: [flow.destination_port(), flow.source_port()],",
        to: "quoted_ports: [headers.tuple.destination_port(), headers.tuple.source_port()],",
    },
    Mutation {
        name: "part-of-another",
        breaks: "a later part: that of another time's packet with the same identification is taken for this one's",
        file: "dataplane-core/src/pipeline/fragment.rs",
        from: "if !is_its || now.since(Tick(record.seen)) > F::REASSEMBLY_TICKS {",
        to: "if !is_its {",
    },
    Mutation {
        name: "part-over-header",
        breaks: "a later part may write over a TCP header",
        file: "dataplane-core/src/pipeline/fragment.rs",
        from: "if record.protocol == PROTOCOL_TCP && part.offset < TcpHeader::LENGTH {",
        to: "if record.protocol == PROTOCOL_TCP && part.offset == 0 {",
    },
    Mutation {
        name: "part-superseded",
        breaks: "a first part that is not ours leaves an earlier one's record standing",
        file: "dataplane-core/src/pipeline/process.rs",
        from: "Decision::Verdict(_) | Decision::NoService => fragment::supersede(part, &work.headers, env, now),",
        to: "Decision::Verdict(_) | Decision::NoService => {}",
    },
    Mutation {
        name: "part-tiny",
        breaks: "a first part without its whole TCP header is handled as any other",
        file: "dataplane-core/src/pipeline/transport.rs",
        from: "let tiny = at.wrapping_add(header_length) > end;",
        to: "let tiny = false;",
    },
    Mutation {
        name: "quoted-checksum",
        breaks: "an ICMP error: its checksum does not follow the quoted packet's",
        file: "dataplane-core/src/pipeline/quote.rs",
        from: "message_delta = message_delta.replace16(old, quoted_transport_checksum);",
        to: "",
    },
    Mutation {
        name: "quoted-source",
        breaks: "an ICMP error: every router speaks for the flow's own source",
        file: "dataplane-core/src/pipeline/quote.rs",
        from: "let new_source = if is_kept { source } else { flow.source() };",
        to: "let new_source = flow.source();",
    },
    Mutation {
        name: "quotation-cut",
        breaks: "parse: an ICMP error may quote less than the ports and what follows them",
        file: "dataplane-core/src/pipeline/quote.rs",
        from: "if quoted.l4.wrapping_add(QUOTED_TRANSPORT) > end {",
        to: "if quoted.l4.wrapping_add(2) > end {",
    },
    Mutation {
        name: "error-of-others",
        breaks: "parse: an ICMP error to another than who sent what it quotes is taken for the flow's",
        file: "dataplane-core/src/pipeline/quote.rs",
        from: "if quoted.source != headers.tuple.destination() {",
        to: "if false {",
    },
    Mutation {
        name: "answer-balance",
        breaks: "an answer: a quoted packet whose checksum is finished on its way spoils the error's",
        file: "dataplane-core/src/pipeline/answer.rs",
        from: "let balance = half(without.negative());",
        to: "let balance = without.negative();",
    },
    Mutation {
        name: "answer-mtu",
        breaks: "an answer: the MTU of the route is not told",
        file: "dataplane-core/src/pipeline/answer.rs",
        from: "let mtu = work.hop.mtu;",
        to: "let mtu = work.hop.mtu >> 1;",
    },
    Mutation {
        name: "reset-number",
        breaks: "an answer: a reset does not acknowledge the SYN",
        file: "dataplane-core/src/pipeline/answer.rs",
        from: "let syn = u32::from(tcp.flags & TCP_SYN != 0);",
        to: "let syn = 0;",
    },
    Mutation {
        name: "reset-answered",
        breaks: "an answer: a reset is answered",
        file: "dataplane-core/src/pipeline/answer.rs",
        from: "if headers.tcp_flags & TCP_RST != 0",
        to: "if false",
    },
    Mutation {
        name: "echo-checksum",
        breaks: "a ping: the reply has the request's checksum",
        file: "dataplane-core/src/pipeline/address.rs",
        from: "packet.put(l4, IcmpHeader { kind: F::ECHO[1], checksum, ..icmp })?;",
        to: "packet.put(l4, IcmpHeader { kind: F::ECHO[1], ..icmp })?;",
    },
    Mutation {
        name: "own-address",
        breaks: "a ping, or a port without a service: the host's own addresses are taken for nobody's",
        file: "dataplane-core/src/pipeline/address.rs",
        from: "matches!(Routes::<F>::route(env, &query, &mut work.hop), Route::Stack | Route::ForwardingOff)",
        to: "matches!(Routes::<F>::route(env, &query, &mut work.hop), Route::ForwardingOff)",
    },
    Mutation {
        name: "no-udp-checksum",
        breaks: "apply: in XDP a UDP datagram without a checksum gets one",
        file: "dataplane-core/src/wire/checksum.rs",
        from: "if checksum.0 == 0 {",
        to: "if checksum.0 == 0xffff {",
    },
    Mutation {
        name: "nat-socket",
        breaks: "reserve: a port that a socket of the host has is lent",
        file: "dataplane-core/src/pipeline/reserve.rs",
        from: "if self.outcome == FULL || Lookup::<F>::is_bound(*env, &work.pair_tuple) {",
        to: "if self.outcome == FULL || work.pair_tuple.protocol() == 0 {",
    },
    Mutation {
        name: "nat-margin",
        breaks: "reserve: a reservation ends with its flow, whose packets still come",
        file: "dataplane-core/src/pipeline/seen.rs",
        from: "let margin = if is_reservation { RESERVATION_MARGIN } else { 0 };",
        to: "let margin = if is_reservation { RESERVATION_MARGIN & 0 } else { 0 };",
    },
    Mutation {
        name: "nat-range",
        breaks: "reserve: the port behind the last one of the range is lent",
        file: "dataplane-core/src/pipeline/port_range.rs",
        from: "if place >= self.count() { place.wrapping_sub(self.count()) } else { place }",
        to: "if place > self.count { place.wrapping_sub(self.count) } else { place }",
    },
    Mutation {
        name: "nat-last-port",
        breaks: "decide: answers to the last port of the range are not looked for",
        file: "dataplane-core/src/pipeline/port_range.rs",
        from: "port.get().wrapping_sub(self.first) < self.count",
        to: "port.get().wrapping_sub(self.first) < self.count.wrapping_sub(1)",
    },
    Mutation {
        name: "nat-pair",
        breaks: "reserve: who gets another one's port gets that one's way back, too",
        file: "dataplane-core/src/pipeline/reserve.rs",
        from: "take_from(work, env, now);",
        to: "take_from(work, env, now); if true { return insert(work, env, now).map_err(|_| DropReason::Contended); }",
    },
    Mutation {
        name: "nat-other-half",
        breaks: "reserve: who loses a port goes on sending from it",
        file: "dataplane-core/src/pipeline/reserve.rs",
        from: "let ends = remove_other_half::<F, E>(pair_tuple, found, pair, env);",
        to: "let (ends, _kept) = (false, &pair);",
    },
    Mutation {
        name: "event-reason",
        breaks: "an event: a flow that both sides finished is told of as reset",
        file: "dataplane-core/src/pipeline/event.rs",
        from: "} else if self.0 & Self::RESET != 0 {",
        to: "} else if self.0 & Self::CLIENT_FIN != 0 {",
    },
    Mutation {
        name: "event-client",
        breaks: "an event: a flow that is told of by its replies has its backend as the client",
        file: "dataplane-core/src/pipeline/event.rs",
        from: "(self.client, self.client_port) = (flow.destination, flow.destination_port);",
        to: "(self.client, self.client_port) = (tuple.source, tuple.source_port);",
    },
    Mutation {
        name: "event-revoked",
        breaks: "an event: a flow whose backend left its service is told of as timed out",
        file: "dataplane-core/src/pipeline/collect.rs",
        from: "let otherwise = if is_revoked { CloseReason::BackendGone } else { CloseReason::TimedOut };",
        to: "let otherwise = CloseReason::TimedOut;",
    },
    Mutation {
        name: "event-twice",
        breaks: "an event: a flow is closed once more with its replies' half",
        file: "dataplane-core/src/pipeline/collect.rs",
        from: "if matches!(flow.direction(), Direction::Original) {",
        to: "if matches!(flow.direction(), Direction::Original | Direction::Reply) {",
    },
];

/// Mutations that the test of events in the kernel must catch: of what only the programs have.
pub const EVENTS: &[Mutation] = &[
    Mutation {
        name: "event-lost",
        breaks: "events: what finds the ring full is not counted",
        file: "dataplane-ebpf/programs/src/events.rs",
        from: "maps::count_untold(Untold::Lost);",
        to: "",
    },
    Mutation {
        name: "event-limit",
        breaks: "events: a flood of drops is told of whole",
        file: "dataplane-ebpf/programs/src/events.rs",
        from: "if R::LIMITED && !maps::take_drop_event(take) {",
        to: "if !R::LIMITED && !maps::take_drop_event(take) {",
    },
];

/// Mutations that the host's tests must catch, and the agreement test can't: it has one frame at a time, and no table of it is
/// ever full.
pub const HOST: &[Mutation] = &[
    Mutation {
        name: "removed-first",
        breaks: "commit: what is moved to conntrack is in neither table for a time",
        file: "dataplane-core/src/pipeline/commit.rs",
        from: "let has_answers = !flow.is_masqueraded();",
        to: "let has_answers = !flow.is_masqueraded(); withdraw::<F, E>(tuple, env); withdraw::<F, E>(pair_tuple, env);",
    },
    Mutation {
        name: "second-look-of-replies",
        breaks: "decide: a reply to a connection that is being moved leaves as it came",
        file: "dataplane-core/src/pipeline/decide.rs",
        from: "may_be_moved && read_flow::<F, E>(env, Place::Conntrack, tuple, tag, flow)",
        to: "false && may_be_moved",
    },
    Mutation {
        name: "second-look-of-data",
        breaks: "decide: data of a connection that is being moved leaves as it came, or opens another one",
        file: "dataplane-core/src/pipeline/decide.rs",
        from: "let may_be_moved = !is_opening(tuple.protocol(), headers.tcp_flags);",
        to: "let may_be_moved = is_of_another(tuple.protocol(), headers.tcp_flags);",
    },
    Mutation {
        name: "half-made-again",
        breaks: "commit: the other half of a connection that is being moved is made again where it was",
        file: "dataplane-core/src/pipeline/commit.rs",
        from: "&& Lookup::<F>::flow(env, Place::Conntrack, &work.pair_tuple).is_some()",
        to: "&& false",
    },
    Mutation {
        name: "nat-oldest",
        breaks: "reserve: any port that nobody confirmed is taken, and not the oldest",
        file: "dataplane-core/src/pipeline/reserve.rs",
        from: "if age > self.age {",
        to: "if age != LIVE {",
    },
    Mutation {
        name: "nat-lap",
        breaks: "reserve: a search looks at the same ports again and again",
        file: "dataplane-core/src/pipeline/reserve.rs",
        from: "if self.place == self.first {",
        to: "if self.place == u32::MAX {",
    },
    Mutation {
        name: "nat-held",
        breaks: "commit: a flow goes on from a port that was taken while it was opened",
        file: "dataplane-core/src/pipeline/commit.rs",
        from: "&& translates_to::<F>(found, client)",
        to: "&& client.protocol() != 0",
    },
    Mutation {
        name: "nat-confirmed-late",
        breaks: "commit: a flow is confirmed whose port was taken at that moment",
        file: "dataplane-core/src/pipeline/commit.rs",
        from: "if (moves_pair || note_in_pair(work, after, ended, env, now)) && confirms {",
        to: "if (note_in_pair(work, after, ended, env, now) || true) && confirms {",
    },
    Mutation {
        name: "dying-for-ever",
        breaks: "collect: an entry whose removal failed stays for ever",
        file: "dataplane-core/src/pipeline/collect.rs",
        from: "(true, true) => Fate::Removed,",
        to: "(true, true) => Fate::Lives,",
    },
    Mutation {
        name: "full-of-half-open",
        breaks: "reserve: a table full of reservations that nobody confirmed has room for nobody",
        file: "dataplane-core/src/pipeline/reserve.rs",
        from: "self.outcome == RESERVED || (self.outcome == FULL && self.age == OVER)",
        to: "self.outcome == RESERVED || self.outcome == FULL",
    },
    Mutation {
        name: "claim-that-failed",
        breaks: "collect: an entry goes also where a packet has just replaced it",
        file: "dataplane-core/src/pipeline/collect.rs",
        from: "if !swap(seen.of_packets().0 | Seen::DYING) {",
        to: "if !swap(seen.of_packets().0 | Seen::DYING) && false {",
    },
    Mutation {
        name: "unclaimed-half",
        breaks: "commit: the other half of a flow is taken out while the collector may be about to claim it",
        file: "dataplane-core/src/pipeline/commit.rs",
        from: "&& claim::<F, _>(&entry, pair.state())",
        to: "",
    },
    Mutation {
        name: "port-of-who-lost",
        breaks: "commit: who finds another CPU's flow in its place keeps the port that it reserved",
        file: "dataplane-core/src/pipeline/commit.rs",
        from: "take_back::<F, E>(Place::Nat, &work.pair_tuple, work.pair.state(), env);",
        to: "",
    },
];

/// Mutations that the torn-read test must catch.
pub const TORN: &[Mutation] = &[
    Mutation {
        name: "torn-word",
        breaks: "maps: a word of an array is loaded in two pieces, as a memcpy may",
        file: "dataplane-ebpf/programs/src/maps.rs",
        from: "Some(unsafe { read_volatile(value) })",
        to: "Some(unsafe { u64::from(read_volatile(value.cast::<u32>())) | u64::from(read_volatile(value.cast::<u32>().add(1))) << 32 })",
    },
    Mutation {
        name: "word-tag",
        breaks: "decide: an index that was given to another frontend is followed",
        file: "dataplane-core/src/pipeline/decide.rs",
        from: "if found.tag() != tag || word.tag() != tag || word.base() == 0 {",
        to: "if found.tag() != tag || word.base() == 0 {",
    },
    Mutation {
        name: "reference-tag",
        breaks: "decide: an element of the services that was recycled is followed",
        file: "dataplane-core/src/pipeline/decide.rs",
        from: "if found.tag() != tag || word.tag() != tag || word.base() == 0 {",
        to: "if word.tag() != tag || word.base() == 0 {",
    },
    Mutation {
        name: "flow-tag",
        breaks: "maps: an element of conntrack that was recycled is believed",
        file: "dataplane-ebpf/programs/src/maps.rs",
        from: "into.has_tag(tag)",
        to: "tag != into.frontend.wrapping_add(1) || into.has_tag(tag)",
    },
    Mutation {
        name: "flow-tail",
        breaks: "maps: an element of conntrack is believed where only its front is still the key's",
        file: "dataplane-ebpf/programs/src/maps.rs",
        from: "into.has_tag(tag)",
        to: "into.state.tag() == tag",
    },
];

impl Mutation {
    /// Changes the line in the copy at `root`.
    pub fn apply(&self, root: &Path) -> Result<()> {
        let path = root.join(self.file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", self.file))?;
        let changed = self.changed(&text)?;
        fs::write(&path, changed).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The text with the line changed.
    fn changed(&self, text: &str) -> Result<String> {
        let count = text.lines().filter(|line| line.trim() == self.from).count();
        if count != 1 {
            bail!(
                "the mutation {} wants this line exactly once in {}, and it is there {count} times; \
                 keep xtask/src/mutation/list.rs up with the code:\n    {}",
                self.name,
                self.file,
                self.from
            );
        }
        let lines = text.lines().map(|line| if line.trim() == self.from { self.to } else { line });
        Ok(lines.flat_map(|line| [line, "\n"]).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_line_stands_in_its_file_once() {
        let all = || AGREEMENT.iter().chain(EVENTS).chain(TORN).chain(HOST);
        for mutation in all() {
            let text = fs::read_to_string(crate::repo::root().join(mutation.file)).unwrap();
            let changed = mutation.changed(&text).unwrap();
            let differing = text.lines().zip(changed.lines()).filter(|(old, new)| old != new).count();
            assert_eq!(differing, 1, "{}", mutation.name);
            assert_eq!(text.lines().count(), changed.lines().count(), "{}", mutation.name);
        }
        let names: HashSet<_> = all().map(|mutation| mutation.name).collect();
        assert_eq!(names.len(), all().count());
    }

    #[test]
    fn a_line_that_is_not_there_or_twice_is_an_error() {
        let mutation = &AGREEMENT[0];
        assert!(mutation.changed("nothing of the kind").is_err());
        assert!(mutation.changed(&format!("{0}\n  {0}\n", mutation.from)).is_err());
    }
}
