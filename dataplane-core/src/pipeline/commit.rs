//! Table writes: a connection opened, or kept alive.

use super::{
    Direction, DropReason, Environment, Headers, Seen, Tick, Translation,
    decide::{Known, New},
    seen::is_expired,
};
use crate::{
    abi::{BackendRef, StateWord},
    tables::{Family, Flow, FlowEntry, FlowParts, InsertError, Lookup, Tuple},
};

/// How often a change of a flow's state is tried again when another CPU was faster.
const STATE_ATTEMPTS: u32 = 3;

/// How opening a connection went.
pub(super) enum Opened {
    /// Both entries stand.
    Done,
    /// Another CPU was faster: what it wrote decides.
    Raced,
}

/// Opens a connection: the entry of the replies first, then that of the client's packets, each only if there is none.
///
/// # Errors
/// The reason why the packet must be dropped; no entry was added.
#[inline(always)]
pub(super) fn open<F, E>(
    headers: &Headers<F>,
    new: &New<F, <E as Lookup<F>>::Entry>,
    translation: &Translation<F>,
    env: &E,
    now: Tick,
) -> Result<Opened, DropReason>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let seen = Seen::default().after(Direction::Original, headers.tuple.protocol, headers.tcp_flags);
    let parts = parts_of(translation, new.backend_ref, new.frontend, Direction::Original, new.backend.local);
    if let Some((entry, flow)) = &new.stale {
        if !displace(entry, flow) {
            return Ok(Opened::Raced);
        }
        let (old_reply, _) = pair_of(&headers.tuple, &flow.parts);
        remove_if_ours(&old_reply, &headers.tuple, env);
        Lookup::<F>::remove_flow(env, &F::tuple_key(&headers.tuple));
    }
    let (reply_tuple, reply) = pair_of(&headers.tuple, &parts);
    match insert(&reply_tuple, &reply, seen, env, now) {
        Ok(()) => {}
        Err(InsertError::Full) => return Err(DropReason::ConntrackFull),
        Err(InsertError::Exists) => match take_over(&reply_tuple, &reply, env, now)? {
            TakeOver::Kept => {}
            TakeOver::Removed => {
                if insert(&reply_tuple, &reply, seen, env, now).is_err() {
                    return Ok(Opened::Raced);
                }
            }
            TakeOver::Raced => return Ok(Opened::Raced),
        },
    }
    match insert(&headers.tuple, &parts, seen, env, now) {
        Ok(()) => Ok(Opened::Done),
        Err(error) => {
            // The winner may have chosen the same backend: then the entry of the replies is its own too.
            if !leads_to(&headers.tuple, &parts, env) {
                Lookup::<F>::remove_flow(env, &F::tuple_key(&reply_tuple));
            }
            match error {
                InsertError::Exists => Ok(Opened::Raced),
                InsertError::Full => Err(DropReason::ConntrackFull),
            }
        }
    }
}

/// Notes what a packet of a known connection shows, in both entries: at once where it changes the connection's state,
/// else once a second. The other entry is made again where the table evicted it.
#[inline(always)]
pub(super) fn refresh<F, E>(
    headers: &Headers<F>,
    known: &Known<F, <E as Lookup<F>>::Entry>,
    env: &E,
    now: Tick,
) where
    F: Family,
    E: Environment + Lookup<F>,
{
    let direction = known.flow.parts.direction;
    let before = Seen::from(known.flow.state);
    let after = before.after(direction, headers.tuple.protocol, headers.tcp_flags);
    let aged = now.since(known.flow.last_seen) >= Tick::REFRESH;
    if after == before && !aged {
        return;
    }
    if aged {
        known.entry.touch(now);
    }
    add_seen::<F, _>(&known.entry, known.flow.state, after, known.tag);

    let (pair_tuple, pair) = pair_of(&headers.tuple, &known.flow.parts);
    let key = F::tuple_key(&pair_tuple);
    let tag = F::tuple_tag(&key);
    let Some(entry) = Lookup::<F>::flow(env, &key) else {
        // Where this fails, the next refresh tries again.
        insert(&pair_tuple, &pair, after, env, now).unwrap_or(());
        return;
    };
    if let Some(value) = entry.read(tag) {
        let flow = F::flow(&value);
        if is_pair(&flow.parts, &pair) {
            entry.touch(now);
            add_seen::<F, _>(&entry, flow.state, after, tag);
        }
    }
}

/// Adds bits to a flow's state.
#[inline(always)]
fn add_seen<F: Family, Entry: FlowEntry<F>>(entry: &Entry, state: StateWord, seen: Seen, tag: u32) {
    let mut current = state;
    for _ in 0..STATE_ATTEMPTS {
        let new = StateWord::new(current.seen() | seen.0, tag);
        if new == current || entry.exchange_state(current, new) {
            return;
        }
        match entry.read(tag) {
            Some(value) => current = F::flow(&value).state,
            None => return,
        }
    }
}

/// Claims an entry for replacement: of several CPUs that want to, one does.
#[inline(always)]
fn displace<F: Family, Entry: FlowEntry<F>>(entry: &Entry, flow: &Flow<F>) -> bool {
    entry.exchange_state(flow.state, StateWord::new(flow.state.seen() | Seen::DYING, flow.state.tag()))
}

#[inline(always)]
fn insert<F, E>(
    tuple: &Tuple<F>,
    parts: &FlowParts<F>,
    seen: Seen,
    env: &E,
    now: Tick,
) -> Result<(), InsertError>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let key = F::tuple_key(tuple);
    let flow = Flow { state: seen.word(F::tuple_tag(&key)), parts: *parts, last_seen: now };
    Lookup::<F>::insert_flow(env, &key, &F::flow_value(&flow))
}

/// What became of an entry that stood where ours belongs.
enum TakeOver {
    /// It says what ours would.
    Kept,
    /// It is gone.
    Removed,
    /// Another CPU changed it meanwhile.
    Raced,
}

/// Deals with an entry that stands where the replies of a new connection belong.
#[inline(always)]
fn take_over<F, E>(
    tuple: &Tuple<F>,
    wanted: &FlowParts<F>,
    env: &E,
    now: Tick,
) -> Result<TakeOver, DropReason>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let key = F::tuple_key(tuple);
    let Some(entry) = Lookup::<F>::flow(env, &key) else {
        return Ok(TakeOver::Raced);
    };
    let Some(value) = entry.read(F::tuple_tag(&key)) else {
        return Ok(TakeOver::Raced);
    };
    let flow = F::flow(&value);
    let seen = Seen::from(flow.state);
    let over = seen.is_closed()
        || seen.is_dying()
        || is_expired(flow.last_seen, now, env.setting(seen.timeout(tuple.protocol)));
    if !over && is_pair(&flow.parts, wanted) {
        return Ok(if flow.parts.backend == wanted.backend {
            TakeOver::Kept
        } else {
            remove(&entry, &flow, &key, env)
        });
    }
    if !over {
        return Err(DropReason::TupleInUse);
    }
    Ok(remove(&entry, &flow, &key, env))
}

#[inline(always)]
fn remove<F, E>(entry: &<E as Lookup<F>>::Entry, flow: &Flow<F>, key: &F::TupleKey, env: &E) -> TakeOver
where
    F: Family,
    E: Environment + Lookup<F>,
{
    if displace(entry, flow) {
        Lookup::<F>::remove_flow(env, key);
        TakeOver::Removed
    } else {
        TakeOver::Raced
    }
}

/// Whether the entry of a tuple leads where `parts` does.
#[inline(always)]
fn leads_to<F, E>(tuple: &Tuple<F>, parts: &FlowParts<F>, env: &E) -> bool
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let key = F::tuple_key(tuple);
    Lookup::<F>::flow(env, &key)
        .and_then(|entry| entry.read(F::tuple_tag(&key)))
        .is_some_and(|value| F::flow(&value).parts.backend == parts.backend)
}

/// Removes the entry of `reply` where it translates back to the destination of `original`: another connection's
/// replies may have come to stand there.
#[inline(always)]
fn remove_if_ours<F, E>(reply: &Tuple<F>, original: &Tuple<F>, env: &E)
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let key = F::tuple_key(reply);
    let Some(value) = Lookup::<F>::flow(env, &key).and_then(|entry| entry.read(F::tuple_tag(&key))) else {
        return;
    };
    let parts = F::flow(&value).parts;
    if parts.source == original.destination && parts.source_port == original.destination_port {
        Lookup::<F>::remove_flow(env, &key);
    }
}

/// Whether two entries of one tuple translate alike.
#[inline(always)]
fn is_pair<F: Family>(a: &FlowParts<F>, b: &FlowParts<F>) -> bool {
    a.source == b.source && a.source_port == b.source_port && a.frontend == b.frontend
}

#[inline(always)]
fn parts_of<F: Family>(
    translation: &Translation<F>,
    backend: BackendRef,
    frontend: u32,
    direction: Direction,
    local: bool,
) -> FlowParts<F> {
    let Translation { source, destination, source_port, destination_port, address_delta, port_delta } =
        *translation;
    FlowParts {
        source,
        destination,
        source_port,
        destination_port,
        address_delta,
        port_delta,
        backend,
        frontend,
        direction,
        local,
    }
}

/// The other direction of a connection: its tuple, and what its entry says.
#[inline(always)]
fn pair_of<F: Family>(tuple: &Tuple<F>, parts: &FlowParts<F>) -> (Tuple<F>, FlowParts<F>) {
    let translated = Tuple {
        source: parts.source,
        destination: parts.destination,
        source_port: parts.source_port,
        destination_port: parts.destination_port,
        ..*tuple
    };
    let from = translated.reversed();
    let to = tuple.reversed();
    let direction = match parts.direction {
        Direction::Original => Direction::Reply,
        Direction::Reply => Direction::Original,
    };
    (from, parts_of(&Translation::between(&from, &to), parts.backend, parts.frontend, direction, parts.local))
}
