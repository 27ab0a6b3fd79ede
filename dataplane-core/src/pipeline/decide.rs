//! What is to happen to a packet: from its headers and the tables, without touching it.

use super::{
    Backend, DropReason, Environment, Headers, Hook, PassReason, Seen, Tick, Translation, Verdict,
    seen::{is_expired, is_opening},
};
use crate::{
    abi::{BackendRef, SLOT_HEADER_WORDS, SLOT_LINE_WORDS, ServiceRef, ServiceWord, SlotHeader},
    tables::{Family, Flow, FlowEntry, Lookup, ServiceParts},
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
pub(super) enum Decision<F: Family, Entry> {
    /// It is not translated. The frontend, where one was found, counts a drop.
    Verdict(Verdict, Option<u32>),
    /// It belongs to a connection that we know.
    Known(Known<F, Entry>),
    /// It opens a connection.
    New(New<F, Entry>),
}

/// A connection that we know.
pub(super) struct Known<F: Family, Entry> {
    /// Its entry for this direction.
    pub entry: Entry,
    /// What stood there.
    pub flow: Flow<F>,
    /// Tag of the entry's key.
    pub tag: u32,
}

/// A connection to be opened.
pub(super) struct New<F: Family, Entry> {
    /// Index of the frontend.
    pub frontend: u32,
    /// The backend chosen.
    pub backend_ref: BackendRef,
    /// The backend chosen.
    pub backend: Backend<F>,
    /// The entry that stands in the way: its connection is over, or its backend gone.
    pub stale: Option<(Entry, Flow<F>)>,
}

/// Decides about a packet that arrives at `hook` at `now`.
#[inline(always)]
pub(super) fn decide<F, E>(
    headers: &Headers<F>,
    env: &E,
    hook: Hook,
    now: Tick,
) -> Decision<F, <E as Lookup<F>>::Entry>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let key = F::tuple_key(&headers.tuple);
    let tag = F::tuple_tag(&key);
    let mut stale = None;
    if let Some(entry) = Lookup::<F>::flow(env, &key)
        && let Some(value) = entry.read(tag)
    {
        let flow = F::flow(&value);
        match judge(&flow, headers, env, hook, now) {
            Judgement::Use => return Decision::Known(Known { entry, flow, tag }),
            Judgement::Ignore => return Decision::Verdict(Verdict::Pass(PassReason::NoService), None),
            Judgement::Replace => stale = Some((entry, flow)),
        }
    }
    if matches!(hook, Hook::Egress) {
        return Decision::Verdict(Verdict::Pass(PassReason::NoService), None);
    }
    let Some((frontend, list)) = find_service(headers, env) else {
        return Decision::Verdict(Verdict::Pass(PassReason::NoService), None);
    };
    if !headers.consistent {
        return Decision::Verdict(Verdict::Drop(DropReason::Malformed), Some(frontend));
    }
    match choose::<F, E>(list, env) {
        Some((backend_ref, backend)) => Decision::New(New { frontend, backend_ref, backend, stale }),
        None => Decision::Verdict(Verdict::Drop(DropReason::NoBackend), Some(frontend)),
    }
}

/// What an entry that was found is good for.
enum Judgement {
    Use,
    Ignore,
    Replace,
}

#[inline(always)]
fn judge<F, E>(flow: &Flow<F>, headers: &Headers<F>, env: &E, hook: Hook, now: Tick) -> Judgement
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let seen = Seen::from(flow.state);
    let protocol = headers.tuple.protocol;
    let expired = seen.is_dying() || is_expired(flow.last_seen, now, env.setting(seen.timeout(protocol)));
    match flow.parts.direction {
        // A reply is translated back as long as its entry lives, whatever became of the backend.
        Direction::Reply if expired => Judgement::Ignore,
        Direction::Reply => Judgement::Use,
        // On its way out a client's packet was translated already, or came past us.
        Direction::Original if matches!(hook, Hook::Egress) => Judgement::Ignore,
        Direction::Original if expired => Judgement::Replace,
        Direction::Original if seen.is_closed() && is_opening(protocol, headers.tcp_flags) => {
            Judgement::Replace
        }
        Direction::Original => {
            if Lookup::<F>::backend(env, flow.parts.backend).is_some() {
                Judgement::Use
            } else {
                Judgement::Replace
            }
        }
    }
}

/// Finds the frontend that a packet is for: its index, and the first slot of its list.
#[inline(always)]
fn find_service<F, E>(headers: &Headers<F>, env: &E) -> Option<(u32, u32)>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let parts = ServiceParts {
        address: headers.tuple.destination,
        port: headers.tuple.destination_port,
        protocol: headers.tuple.protocol,
    };
    let key = F::service_key(&parts);
    let tag = F::service_tag(&key);
    let found: ServiceRef = Lookup::<F>::service(env, &key)?;
    let word: ServiceWord = Lookup::<F>::service_word(env, found.index())?;
    // Either may have been given to another frontend since the lookup; then this one is gone.
    if found.tag() != tag || word.tag() != tag || word.base() == 0 {
        return None;
    }
    Some((found.index(), word.base().wrapping_mul(SLOT_LINE_WORDS)))
}

/// Chooses a backend at random from the list that begins at slot `list`.
#[inline(always)]
fn choose<F, E>(list: u32, env: &E) -> Option<(BackendRef, Backend<F>)>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let entries = SlotHeader(Lookup::<F>::slot(env, list)?).entries();
    if entries == 0 {
        return None;
    }
    // The upper half of the product is spread over the list as evenly as 32 bits allow, without a division.
    let pick = (u64::from(env.random()).wrapping_mul(entries.into()) >> 32) as u32;
    let slot = list.wrapping_add(SLOT_HEADER_WORDS).wrapping_add(pick);
    let backend_ref = BackendRef(Lookup::<F>::slot(env, slot)?);
    let backend = Lookup::<F>::backend(env, backend_ref)?;
    Some((backend_ref, backend))
}

impl<F: Family, Entry> New<F, Entry> {
    /// The translation of the client's packets.
    #[inline(always)]
    pub fn translation(&self, headers: &Headers<F>) -> Translation<F> {
        let mut to = headers.tuple;
        to.destination = self.backend.address;
        to.destination_port = self.backend.port;
        Translation::between(&headers.tuple, &to)
    }
}
