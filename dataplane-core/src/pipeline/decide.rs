//! What is to happen to a packet: from its headers and the tables, without touching it.

use super::{
    Backend, CloseReason, DropReason, Environment, Headers, Hook, PassReason, Seen, Tick, Verdict,
    affinity::{Visit, recall, remember},
    port_range::PortRange,
    seen::{is_of_another, is_opening, is_over},
    workspace::Workspace,
};
use crate::{
    abi::{
        BackendRef, LIST_AFFINITY, LIST_MASQUERADE, LIST_MASQUERADE_LOCAL, SLOT_HEADER_WORDS,
        SLOT_LINE_WORDS, SLOT_SEED_WORD, ServiceRef, ServiceWord, SlotHeader,
    },
    tables::{Family, Flow, FlowEntry, Lookup, Place, Tuple},
    wire::Be16,
};

/// Which way a packet of a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    Original,
    /// To the client.
    Reply,
}

/// What is to happen to a packet.
pub(super) enum Decision {
    /// It is not translated.
    Verdict(Verdict),
    /// It is of no flow and of no service.
    NoService,
    /// It is dropped by the frontend of this index.
    Refuse(DropReason, u32),
    /// It belongs to a connection that we know, whose flow is in the workspace, and is dropped.
    RefuseKnown(DropReason),
    /// It belongs to a connection that we know; its flow is in the workspace.
    Known,
    /// It opens a connection, whose flow is in the workspace. Where the workspace's `stale` is not 0 an entry stands in its way:
    /// that connection is over, or its backend gone; `found` is its flow.
    New,
    /// As [`New`](Self::New), to a frontend with affinity. The backend is not chosen yet.
    NewWithAffinity,
}

const NOT_OURS: Verdict = Verdict::Pass(PassReason::NoService);

/// Decides about the packet in the workspace, which passes `hook` at `now`. `malformed`: what one is dropped for whose
/// transport header contradicts itself.
#[inline(always)]
pub(super) fn decide<F, E>(
    work: &mut Workspace<F>,
    env: &E,
    hook: Hook,
    now: Tick,
    malformed: DropReason,
) -> Decision
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let headers = &work.headers;
    work.stale = 0;
    if find_flow::<F, E>(headers, &mut work.flow, env, hook) {
        match judge(&work.flow, headers, env, hook, now) {
            Judgement::Use if !headers.consistent => {
                return Decision::RefuseKnown(malformed);
            }
            Judgement::Use => return Decision::Known,
            Judgement::Ignore => return Decision::Verdict(NOT_OURS),
            Judgement::Replace(reason) => {
                work.found = work.flow;
                work.stale = reason as u8;
            }
        }
    }
    if matches!(hook, Hook::Egress) {
        return Decision::Verdict(NOT_OURS);
    }
    let Some((frontend, list)) = find_service(headers, env) else {
        return Decision::NoService;
    };
    if !headers.consistent {
        return Decision::Refuse(malformed, frontend);
    }
    if is_of_another(headers.tuple.protocol(), headers.tcp_flags) {
        return Decision::Refuse(DropReason::NoFlow, frontend);
    }
    let header = SlotHeader(Lookup::<F>::slot(env, list).unwrap_or(0));
    if header.flags() & LIST_AFFINITY != 0 {
        return Decision::NewWithAffinity;
    }
    match pick::<F, E>(&headers.tuple, list, header, env)
        .and_then(|backend| prepare(work, backend, frontend, header, env))
    {
        Some(()) => Decision::New,
        None => Decision::Refuse(DropReason::NoBackend, frontend),
    }
}

/// Chooses the backend of the client whose packet is in the workspace, which is for a frontend with affinity: the one that
/// it came to before, where that holds. The flow that is to be opened is in the workspace then.
///
/// The frontend is looked up once more: to carry it from one stage to the next, the workspaces would have to be larger, which
/// every IPv6 packet was measured to pay for.
///
/// What comes of it is as of [`decide`].
#[inline(always)]
pub(super) fn choose_by_affinity<F, E>(work: &mut Workspace<F>, env: &E, now: Tick) -> Decision
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let Some((frontend, list)) = find_service(&work.headers, env) else {
        return Decision::Verdict(NOT_OURS);
    };
    let header = SlotHeader(Lookup::<F>::slot(env, list).unwrap_or(0));
    let tuple = &work.headers.tuple;
    let visit = Visit { key: F::affinity_key(tuple.source(), frontend), list, entries: header.entries() };
    let backend = match recall::<F, E>(&visit, env, now) {
        Some(backend) => Some(backend),
        None => {
            pick::<F, E>(tuple, list, header, env).map(|backend| remember::<F, E>(&visit, backend, env, now))
        }
    };
    match backend.and_then(|backend| prepare(work, backend, frontend, header, env)) {
        Some(()) => Decision::New,
        None => Decision::Refuse(DropReason::NoBackend, frontend),
    }
}

/// Puts the flow to a backend, from a frontend's list with this header, into the workspace.
#[inline(always)]
fn prepare<F, E>(
    work: &mut Workspace<F>,
    backend_ref: BackendRef,
    frontend: u32,
    header: SlotHeader,
    env: &E,
) -> Option<()>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let mut backend: Backend<F> = Lookup::<F>::backend(env, backend_ref)?;
    if header.flags() & LIST_MASQUERADE_LOCAL != 0 {
        // It is to be found by its route as others are.
        backend.local = false;
    }
    work.flow = F::Flow::to_backend(&work.headers.tuple, &backend, backend_ref, frontend);
    if header.flags() & LIST_MASQUERADE != 0 && !backend.local {
        work.flow.set_masqueraded(true);
    }
    Some(())
}

/// Finds the entry of a packet and copies its flow; tells whether there is one. One lookup for every flow that is confirmed,
/// but those of clients that talk to a port of the reserved range.
///
/// An entry that is being moved to conntrack is put in there before it is taken out of the other table. So whoever looks
/// there first, and then here, may find neither while it is moved in between, and finds it where he looks there again: it is
/// never moved back. All look again but SYNs, of which a flood may come: one that is sent again at that very moment opens
/// a connection beside the one that is moved, which every other packet finds first.
#[inline(always)]
fn find_flow<F, E>(headers: &Headers<F>, flow: &mut F::Flow, env: &E, hook: Hook) -> bool
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let tuple = &headers.tuple;
    let tag = tuple.tag();
    // Who answers a masqueraded flow answers this host, whose own packets are not answers to it.
    if !matches!(hook, Hook::Egress)
        && PortRange::of(env).contains(tuple.destination_port())
        && let Some(entry) = Lookup::<F>::flow(env, Place::Nat, tuple)
        && entry.read(tag, flow)
    {
        return true;
    }
    if read_flow::<F, E>(env, Place::Conntrack, tuple, tag, flow)
        || read_flow::<F, E>(env, Place::Opening, tuple, tag, flow)
    {
        return true;
    }
    let may_be_moved = !is_opening(tuple.protocol(), headers.tcp_flags);
    may_be_moved && read_flow::<F, E>(env, Place::Conntrack, tuple, tag, flow)
}

/// Copies the flow of a tuple; tells whether there is one.
#[inline(always)]
fn read_flow<F, E>(env: &E, place: Place, tuple: &F::Tuple, tag: u32, flow: &mut F::Flow) -> bool
where
    F: Family,
    E: Environment + Lookup<F>,
{
    match Lookup::<F>::flow(env, place, tuple) {
        Some(entry) => entry.read(tag, flow),
        None => false,
    }
}

/// Puts the flow of the workspace's tuple there, without a write: what an ICMP error shows is nobody's life.
///
/// # Errors
/// The verdict where there is none that a packet of the tuple would go by.
#[inline(always)]
pub(super) fn find_known<F, E>(work: &mut Workspace<F>, env: &E, hook: Hook, now: Tick) -> Result<(), Verdict>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let headers = &work.headers;
    if find_flow::<F, E>(headers, &mut work.flow, env, hook)
        && matches!(judge(&work.flow, headers, env, hook, now), Judgement::Use)
    {
        return Ok(());
    }
    Err(NOT_OURS)
}

/// What an entry that was found is good for.
enum Judgement {
    Use,
    Ignore,
    /// For nothing: its flow ends, for this reason.
    Replace(CloseReason),
}

#[inline(always)]
fn judge<F, E>(flow: &F::Flow, headers: &Headers<F>, env: &E, hook: Hook, now: Tick) -> Judgement
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let seen = Seen::from(flow.state());
    let tuple = &headers.tuple;
    let protocol = tuple.protocol();
    let expired = seen.is_dying() || is_over::<F>(flow, protocol, now, |which| env.setting(which));
    match flow.direction() {
        // A reply is translated back as long as its entry lives, whatever became of the backend.
        Direction::Reply if expired => Judgement::Ignore,
        Direction::Reply => Judgement::Use,
        // On its way out a client's packet was translated already, or came past us.
        Direction::Original if matches!(hook, Hook::Egress) => Judgement::Ignore,
        Direction::Original if expired => Judgement::Replace(CloseReason::TimedOut),
        // Its service is gone, or its index was given to another: whether the tuple is ours is asked anew.
        Direction::Original
            if !serves::<F, E>(
                flow.frontend(),
                tuple.destination(),
                tuple.destination_port(),
                protocol,
                env,
            ) =>
        {
            Judgement::Replace(CloseReason::FrontendGone)
        }
        Direction::Original if seen.is_closed() && is_opening(protocol, headers.tcp_flags) => {
            Judgement::Replace(CloseReason::Finished)
        }
        Direction::Original => match Lookup::<F>::backend(env, flow.backend()) {
            None => Judgement::Replace(CloseReason::BackendGone),
            // Who is still trying to connect is to come to a backend that takes new connections. A SYN on a connection
            // that stands changes nothing: it may be forged, and where the client means it the backend's answer makes
            // the client reset the old one (RFC 9293, 3.10.7.4).
            Some(backend)
                if backend.draining && !seen.is_confirmed() && is_opening(protocol, headers.tcp_flags) =>
            {
                Judgement::Replace(CloseReason::BackendDraining)
            }
            Some(_) => Judgement::Use,
        },
    }
}

/// Whether this index is that of the frontend with this address, port and protocol: flows live for hours, and the index
/// may have been given to another since.
#[inline(always)]
pub(super) fn serves<F, E>(index: u32, address: F::Address, port: Be16, protocol: u8, env: &E) -> bool
where
    F: Family,
    E: Environment + Lookup<F>,
{
    match Lookup::<F>::service_word(env, index) {
        Some(word) => {
            word.tag() == F::service_tag(&F::service_key(address, port, protocol)) && word.base() != 0
        }
        None => false,
    }
}

/// Finds the frontend that a packet is for: its index, and the first slot of its list.
#[inline(always)]
fn find_service<F, E>(headers: &Headers<F>, env: &E) -> Option<(u32, u32)>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let tuple = &headers.tuple;
    let key = F::service_key(tuple.destination(), tuple.destination_port(), tuple.protocol());
    let tag = F::service_tag(&key);
    let found: ServiceRef = Lookup::<F>::service(env, &key)?;
    let word: ServiceWord = Lookup::<F>::service_word(env, found.index())?;
    // Either may have been given to another frontend since the lookup; then this one is gone.
    if found.tag() != tag || word.tag() != tag || word.base() == 0 {
        return None;
    }
    Some((found.index(), word.base().wrapping_mul(SLOT_LINE_WORDS)))
}

/// Picks a backend from a list with this header, by a hash of the tuple: an entry at once, or by the flow's place in the Maglev
/// table. So a flow whose entry was pushed out comes to the same backend again, as long as the list stands. What the hash
/// begins with is the list's own for Maglev, so that hosts agree, and else a secret, so that no client can choose.
#[inline(always)]
fn pick<F, E>(tuple: &F::Tuple, list: u32, header: SlotHeader, env: &E) -> Option<BackendRef>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let entries = header.entries();
    if entries == 0 {
        return None;
    }
    let first = list.wrapping_add(SLOT_HEADER_WORDS);
    let pick = if header.table() == 0 {
        spread(env.choice::<F>(tuple), entries)
    } else {
        let seed = Lookup::<F>::slot(env, list.wrapping_add(SLOT_SEED_WORD))?;
        let place = spread(tuple.hash(seed), header.table());
        let table = first.wrapping_add(entries);
        let word = Lookup::<F>::slot(env, table.wrapping_add(SlotHeader::word_of(place)))?;
        let pick = SlotHeader::index_in(word, place);
        // No table that we wrote names an entry that the list does not have.
        if pick >= entries {
            return None;
        }
        pick
    };
    Lookup::<F>::slot(env, first.wrapping_add(pick)).map(BackendRef)
}

/// A number below `count`, as evenly spread as `even` is over 32 bits: the upper half of the product, without a division.
#[inline(always)]
pub(super) fn spread(even: u32, count: u32) -> u32 {
    (u64::from(even).wrapping_mul(count.into()) >> 32) as u32
}
