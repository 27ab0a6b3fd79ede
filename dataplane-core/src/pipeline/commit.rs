//! Table writes: a connection opened, or kept alive.

use super::{
    CloseReason, Direction, DropReason, Environment, Seen, Tick, event::tell_closed, reserve::reserve,
    seen::is_over, workspace::Workspace,
};
use crate::{
    abi::StateWord,
    tables::{Family, Flow, FlowEntry, InsertError, Lookup, Place, Tuple},
};

/// How often a change of a flow's state is tried again when another CPU was faster.
const STATE_ATTEMPTS: u32 = 3;

/// How opening a connection went.
pub(super) enum Opened {
    /// Both entries stand.
    Done,
    /// Another CPU was faster: its flow is in the workspace now.
    Raced,
}

/// Opens the connection in the workspace: the entry of the replies first, then that of the client's packets, each only
/// if there is none.
///
/// # Errors
/// The reason why the packet must be dropped; no entry was added.
#[inline(always)]
pub(super) fn open<F, E>(work: &mut Workspace<F>, env: &E, now: Tick) -> Result<Opened, DropReason>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let Some(seen) = begin(work, env, now) else {
        return adopt(work, env);
    };
    insert(work, env, now, seen)
}

/// As [`open`], of a connection whose source is to be translated, if its packet has a way past the stack.
#[inline(always)]
pub(super) fn open_masqueraded<F, E>(
    work: &mut Workspace<F>,
    env: &E,
    now: Tick,
) -> Result<Opened, DropReason>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let Some(seen) = begin(work, env, now) else {
        return adopt(work, env);
    };
    if !work.flow.is_masqueraded() {
        return insert(work, env, now, seen);
    }
    reserve(work, env, now, seen)?;
    match Lookup::<F>::insert_flow(env, Place::Conntrack, &work.headers.tuple, &work.flow) {
        Ok(()) => Ok(Opened::Done),
        Err(error) => {
            Lookup::<F>::remove_flow(env, Place::Nat, &work.pair_tuple);
            match error {
                InsertError::Exists => adopt(work, env),
                InsertError::Full => Err(DropReason::ConntrackFull),
            }
        }
    }
}

/// Clears the way for a connection, and gives it its first state. `None`: another CPU is at it.
#[inline(always)]
fn begin<F, E>(work: &mut Workspace<F>, env: &E, now: Tick) -> Option<Seen>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    if let Some(reason) = CloseReason::from_number(work.stale)
        && let Some(entry) = Lookup::<F>::flow(env, Place::Conntrack, &work.headers.tuple)
    {
        if !displace::<F, _>(&entry, work.found.state()) {
            return None;
        }
        remove_other_half::<F, E>(&work.headers.tuple, &work.found, &mut work.pair, env);
        Lookup::<F>::remove_flow(env, Place::Conntrack, &work.headers.tuple);
        tell_closed::<F, E>(reason, Direction::Original, &work.headers.tuple, &work.found, now, env);
    }
    let tuple = &work.headers.tuple;
    let seen = Seen::of_incarnation(env.random());
    let seen = seen.after(Direction::Original, tuple.protocol(), work.headers.tcp_flags);
    work.flow = work.flow.starting(seen.word(tuple.tag()), now);
    Some(seen)
}

/// Puts both entries of a connection that keeps its source in.
#[inline(always)]
fn insert<F, E>(work: &mut Workspace<F>, env: &E, now: Tick, seen: Seen) -> Result<Opened, DropReason>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let tuple = &work.headers.tuple;
    work.pair_tuple = tuple.answering(&work.flow);
    work.pair = work.flow.answering(tuple).starting(seen.word(work.pair_tuple.tag()), now);
    let inserted = match insert_answers(work, env, now) {
        Err(Obstacle::Raced) => return adopt(work, env),
        Err(Obstacle::Drop(reason)) => return Err(reason),
        Ok(inserted) => inserted,
    };
    match Lookup::<F>::insert_flow(env, Place::Conntrack, &work.headers.tuple, &work.flow) {
        Ok(()) => Ok(Opened::Done),
        Err(error) => {
            let ours = work.flow.backend();
            let opened = adopt(work, env);
            // Where the winner chose the same backend and keeps the source, the entry of the replies is its own too.
            let is_the_winners = work.flow.backend() == ours && !work.flow.is_masqueraded();
            if inserted && (matches!(error, InsertError::Full) || !is_the_winners) {
                Lookup::<F>::remove_flow(env, Place::Conntrack, &work.pair_tuple);
            }
            match error {
                InsertError::Exists => opened,
                InsertError::Full => Err(DropReason::ConntrackFull),
            }
        }
    }
}

/// Takes the flow that another CPU opened for the packet in the workspace. Where there is none yet, or only one that is
/// being replaced, the packet goes by its own choice, and the next one finds what the other CPU wrote.
///
/// # Errors
/// Where its own choice is of no use: it has no port.
#[inline(always)]
fn adopt<F, E>(work: &mut Workspace<F>, env: &E) -> Result<Opened, DropReason>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    if let Some(entry) = Lookup::<F>::flow(env, Place::Conntrack, &work.headers.tuple)
        && entry.read(work.headers.tuple.tag(), &mut work.found)
        && !Seen::from(work.found.state()).is_dying()
        && Lookup::<F>::backend(env, work.found.backend()).is_some()
    {
        work.flow = work.found;
        return Ok(Opened::Raced);
    }
    if work.flow.is_masqueraded() { Err(DropReason::Contended) } else { Ok(Opened::Raced) }
}

/// Why the entry of the replies could not be put in.
enum Obstacle {
    /// Another CPU is at the same connection.
    Raced,
    /// The packet must be dropped.
    Drop(DropReason),
}

/// Puts the entry of the replies in, also where that of a connection stands that is over. Tells whether it is ours:
/// another CPU's, or one whose other half was evicted, may stand there and say the same.
#[inline(always)]
fn insert_answers<F, E>(work: &mut Workspace<F>, env: &E, now: Tick) -> Result<bool, Obstacle>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    match Lookup::<F>::insert_flow(env, Place::Conntrack, &work.pair_tuple, &work.pair) {
        Ok(()) => return Ok(true),
        Err(InsertError::Full) => return Err(Obstacle::Drop(DropReason::ConntrackFull)),
        Err(InsertError::Exists) => {}
    }
    let Some(entry) = Lookup::<F>::flow(env, Place::Conntrack, &work.pair_tuple) else {
        return Err(Obstacle::Raced);
    };
    if !entry.read(work.pair_tuple.tag(), &mut work.found) {
        return Err(Obstacle::Raced);
    }
    let seen = Seen::from(work.found.state());
    let over = seen.is_closed()
        || seen.is_dying()
        || is_over::<F>(&work.found, work.pair_tuple.protocol(), now, |which| env.setting(which));
    if !over {
        if !translates_to::<F>(&work.found, &work.headers.tuple) {
            return Err(Obstacle::Drop(DropReason::TupleInUse));
        }
        if work.found.backend() == work.flow.backend() {
            return Ok(false);
        }
    }
    if !displace::<F, _>(&entry, work.found.state()) {
        return Err(Obstacle::Raced);
    }
    Lookup::<F>::remove_flow(env, Place::Conntrack, &work.pair_tuple);
    match Lookup::<F>::insert_flow(env, Place::Conntrack, &work.pair_tuple, &work.pair) {
        Ok(()) => Ok(true),
        Err(InsertError::Exists) => Err(Obstacle::Raced),
        Err(InsertError::Full) => Err(Obstacle::Drop(DropReason::ConntrackFull)),
    }
}

/// Notes what a packet of a known connection shows, in both entries: at once where it changes the connection's state,
/// else once a second. The other entry is made again where the table evicted it.
#[inline(always)]
pub(super) fn refresh<F, E>(work: &mut Workspace<F>, entry: &<E as Lookup<F>>::Entry, env: &E, now: Tick)
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let tuple = &work.headers.tuple;
    let before = Seen::from(work.flow.state());
    let after = before.after(work.flow.direction(), tuple.protocol(), work.headers.tcp_flags);
    let aged = now.since(work.flow.last_seen()) >= Tick::REFRESH;
    if after == before && !aged {
        return;
    }
    if aged {
        entry.touch(now);
    }
    let ended = before.0 & !after.0;
    note::<F, _>(entry, work.flow.state(), after, ended);

    // What the collector thinks of this entry is not said of the other.
    let after = after.of_packets();
    let place = work.flow.place_of_pair();
    work.pair_tuple = tuple.answering(&work.flow);
    let tag = work.pair_tuple.tag();
    match Lookup::<F>::flow(env, place, &work.pair_tuple) {
        None => {
            work.pair = work.flow.answering(tuple).starting(after.word(tag), now);
            // Where this fails, the next refresh tries again.
            Lookup::<F>::insert_flow(env, place, &work.pair_tuple, &work.pair).unwrap_or(());
        }
        Some(pair) => {
            if pair.read(tag, &mut work.pair)
                && translates_to::<F>(&work.pair, tuple)
                && work.pair.backend() == work.flow.backend()
            {
                pair.touch(now);
                note::<F, _>(&pair, work.pair.state(), after, ended);
            }
        }
    }
}

/// Adds what was seen to a flow's state, which was `state` when it was read, and takes off what `ended`. Where other CPUs
/// are faster each time it is left at that: the next packet that shows it tries again.
#[inline(always)]
fn note<F: Family, Entry: FlowEntry<F>>(entry: &Entry, state: StateWord, seen: Seen, ended: u32) {
    let mut current = state;
    for _ in 0..STATE_ATTEMPTS {
        // The other half may be of another incarnation, which it keeps.
        let new = StateWord::new((current.seen() | seen.of_any_incarnation().0) & !ended, state.tag());
        if new == current || entry.exchange_state(current, new) {
            return;
        }
        current = entry.state();
        if current.tag() != state.tag() {
            return;
        }
    }
}

/// Claims an entry for replacement: of several CPUs that want to, one does.
#[inline(always)]
pub(super) fn displace<F: Family, Entry: FlowEntry<F>>(entry: &Entry, state: StateWord) -> bool {
    !Seen::from(state).is_dying()
        && entry.exchange_state(state, StateWord::new(state.seen() | Seen::DYING, state.tag()))
}

/// Removes the other half of a connection of which one half, `flow`, stands under `tuple`; unless that of another
/// connection stands there by now, or none. Tells whether it did. `pair` is room for a copy.
#[inline(always)]
pub(super) fn remove_other_half<F, E>(tuple: &F::Tuple, flow: &F::Flow, pair: &mut F::Flow, env: &E) -> bool
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let place = flow.place_of_pair();
    let other = tuple.answering(flow);
    if let Some(entry) = Lookup::<F>::flow(env, place, &other)
        && entry.read(other.tag(), pair)
        && translates_to::<F>(pair, tuple)
    {
        Lookup::<F>::remove_flow(env, place, &other);
        return true;
    }
    false
}

/// Whether what `pair` translates comes out as an answer to `tuple`.
#[inline(always)]
fn translates_to<F: Family>(pair: &F::Flow, tuple: &F::Tuple) -> bool {
    pair.source() == tuple.destination()
        && pair.source_port() == tuple.destination_port()
        && pair.destination() == tuple.source()
        && pair.destination_port() == tuple.source_port()
}
