//! Table writes: a connection opened, confirmed, or kept alive.
//!
//! A connection is opened in [`Place::Opening`], and moved to [`Place::Conntrack`] by the packet that confirms it: so what
//! forged sources open with one packet each pushes out nobody who has come through a handshake. Packets look into conntrack
//! first. An entry is put in there before it is taken out of the other table, so that there is no time at which it is in
//! neither; a packet that looks into the one before the first step and into the other after the second finds it in neither
//! all the same, and looks into conntrack once more before it goes by that.

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
    reserve(work, env, now)?;
    match Lookup::<F>::insert_flow(env, Place::Opening, &work.headers.tuple, &work.flow) {
        Ok(()) if holds_port::<F, E>(&work.pair_tuple, &work.headers.tuple, &mut work.found, env) => {
            Ok(Opened::Done)
        }
        Ok(()) => {
            take_back::<F, E>(Place::Opening, &work.headers.tuple, work.flow.state(), env);
            Err(DropReason::Contended)
        }
        Err(error) => {
            take_back::<F, E>(Place::Nat, &work.pair_tuple, work.pair.state(), env);
            match Obstacle::from(error) {
                Obstacle::Raced => adopt(work, env),
                Obstacle::Drop(reason) => Err(reason),
            }
        }
    }
}

/// Whether the reservation under a tuple is still that of the flow of `client`, whose entry was put in since. Who finds no
/// other port takes one that nobody has confirmed, at any age: he claims the reservation, and then takes out the client's
/// entry if there is one. Either he finds that, or it is found here that the port is gone. A swap, so that this look is not
/// before the insertion. `found` is room for a copy.
#[inline(always)]
fn holds_port<F, E>(tuple: &F::Tuple, client: &F::Tuple, found: &mut F::Flow, env: &E) -> bool
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let Some(entry) = Lookup::<F>::flow(env, Place::Nat, tuple) else {
        return false;
    };
    entry.read(tuple.tag(), found)
        && translates_to::<F>(found, client)
        && !Seen::from(found.state()).is_dying()
        && entry.exchange_state(found.state(), found.state())
}

/// Takes out an entry that this packet put in with this state, unless somebody has changed or claimed it since.
#[inline(always)]
fn take_back<F, E>(place: Place, tuple: &F::Tuple, state: StateWord, env: &E)
where
    F: Family,
    E: Environment + Lookup<F>,
{
    if let Some(entry) = Lookup::<F>::flow(env, place, tuple)
        && displace::<F, _>(&entry, state)
    {
        Lookup::<F>::remove_flow(env, place, tuple);
    }
}

/// Clears the way for a connection, and gives it its first state. `None`: another CPU is at it.
#[inline(always)]
fn begin<F, E>(work: &mut Workspace<F>, env: &E, now: Tick) -> Option<Seen>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let tuple = &work.headers.tuple;
    if let Some(reason) = CloseReason::from_number(work.stale) {
        let place = work.found.place();
        if let Some(entry) = Lookup::<F>::flow(env, place, tuple) {
            if !displace::<F, _>(&entry, work.found.state()) {
                return None;
            }
            remove_other_half::<F, E>(tuple, &work.found, &mut work.pair, env);
            Lookup::<F>::remove_flow(env, place, tuple);
            tell_closed::<F, E>(reason, Direction::Original, tuple, &work.found, now, env);
        }
    }
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
    match Lookup::<F>::insert_flow(env, Place::Opening, &work.headers.tuple, &work.flow) {
        Ok(()) => Ok(Opened::Done),
        Err(error) => {
            let ours = work.flow.backend();
            let opened = adopt(work, env);
            // Where the winner chose the same backend and keeps the source, the entry of the replies is its own too.
            let is_the_winners = work.flow.backend() == ours && !work.flow.is_masqueraded();
            if inserted && (!matches!(error, InsertError::Exists) || !is_the_winners) {
                Lookup::<F>::remove_flow(env, Place::Opening, &work.pair_tuple);
            }
            match Obstacle::from(error) {
                Obstacle::Raced => opened,
                Obstacle::Drop(reason) => Err(reason),
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
    if winner_in::<F, E>(Place::Conntrack, work, env) || winner_in::<F, E>(Place::Opening, work, env) {
        work.flow = work.found;
        return Ok(Opened::Raced);
    }
    if work.flow.is_masqueraded() { Err(DropReason::Contended) } else { Ok(Opened::Raced) }
}

/// Copies what another CPU wrote for the packet in the workspace into a table; tells whether it is of use.
#[inline(always)]
fn winner_in<F, E>(place: Place, work: &mut Workspace<F>, env: &E) -> bool
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let tuple = &work.headers.tuple;
    match Lookup::<F>::flow(env, place, tuple) {
        Some(entry) => {
            entry.read(tuple.tag(), &mut work.found)
                && !Seen::from(work.found.state()).is_dying()
                && Lookup::<F>::backend(env, work.found.backend()).is_some()
        }
        None => false,
    }
}

/// Why an entry could not be put in.
enum Obstacle {
    /// Another CPU is at the same connection.
    Raced,
    /// The packet must be dropped.
    Drop(DropReason),
}

impl From<InsertError> for Obstacle {
    #[inline(always)]
    fn from(error: InsertError) -> Self {
        match error {
            InsertError::Exists => Self::Raced,
            InsertError::Full => Self::Drop(DropReason::ConntrackFull),
            InsertError::Busy => Self::Drop(DropReason::Contended),
        }
    }
}

/// Puts the entry of the replies in, also where that of a connection stands that is over. Tells whether it is ours:
/// another CPU's, or one whose other half was evicted, may stand there and say the same.
///
/// It is put in first, and conntrack is looked at then: a connection that has the same replies, and was in the way of ours
/// before it was moved, is found there.
#[inline(always)]
fn insert_answers<F, E>(work: &mut Workspace<F>, env: &E, now: Tick) -> Result<bool, Obstacle>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let ours = match Lookup::<F>::insert_flow(env, Place::Opening, &work.pair_tuple, &work.pair) {
        Ok(()) => true,
        Err(InsertError::Exists) => {
            let cleared = clear_answers(Place::Opening, work, env, now)?;
            if cleared {
                Lookup::<F>::insert_flow(env, Place::Opening, &work.pair_tuple, &work.pair)?;
            }
            cleared
        }
        Err(error) => return Err(error.into()),
    };
    let conntrack = clear_answers(Place::Conntrack, work, env, now);
    if ours && conntrack.is_err() {
        Lookup::<F>::remove_flow(env, Place::Opening, &work.pair_tuple);
    }
    conntrack?;
    Ok(ours)
}

/// Takes the entry of the replies of a connection that is over out of a table, where it stands in the way of that in the
/// workspace; tells whether nothing is in the way now. What stays says the same.
#[inline(always)]
fn clear_answers<F, E>(place: Place, work: &mut Workspace<F>, env: &E, now: Tick) -> Result<bool, Obstacle>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let Some(entry) = Lookup::<F>::flow(env, place, &work.pair_tuple) else {
        return Ok(true);
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
    Lookup::<F>::remove_flow(env, place, &work.pair_tuple);
    Ok(true)
}

/// Notes what a packet of a known connection shows, in both entries: at once where it changes the connection's state,
/// else once a second. The other entry is made again where the table evicted it.
///
/// The entry is looked up once more for that, so that of those packets that change nothing none carries it along: the
/// verifier would walk through all that follows once for each table.
#[inline(always)]
pub(super) fn refresh<F, E>(work: &mut Workspace<F>, env: &E, now: Tick)
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
    work.pair_tuple = tuple.answering(&work.flow);
    let ended = before.0 & !after.0;
    let confirms = after.is_confirmed() && !before.is_confirmed();
    if !confirms && let Some(entry) = Lookup::<F>::flow(env, work.flow.place(), tuple) {
        if aged {
            entry.touch(now);
        }
        note::<F, _>(&entry, work.flow.state(), after, ended);
    }
    // What the collector thinks of this entry is not said of the other.
    let after = after.of_packets();
    // A reservation is confirmed first, and does not move: until it is, its port may be given to another flow, and then the
    // client's entry must not stay in conntrack.
    let moves_pair = confirms && !work.flow.is_masqueraded();
    if (moves_pair || note_in_pair(work, after, ended, env, now)) && confirms {
        confirm(work, after, env, now);
    }
}

/// Notes in the other entry of the connection in the workspace what its packet has shown; makes that entry again where it is
/// gone. Tells whether it stands, and says so.
#[inline(always)]
fn note_in_pair<F, E>(work: &mut Workspace<F>, after: Seen, ended: u32, env: &E, now: Tick) -> bool
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let tuple = &work.headers.tuple;
    let place = work.flow.place_of_pair();
    let tag = work.pair_tuple.tag();
    match Lookup::<F>::flow(env, place, &work.pair_tuple) {
        None => {
            if matches!(place, Place::Opening)
                && Lookup::<F>::flow(env, Place::Conntrack, &work.pair_tuple).is_some()
            {
                // It was moved there meanwhile.
                return true;
            }
            work.pair = work.flow.answering(tuple).starting(after.word(tag), now);
            // Where this fails, the next refresh tries again.
            if Lookup::<F>::insert_flow(env, place, &work.pair_tuple, &work.pair).is_err() {
                return false;
            }
            if work.flow.is_reservation()
                && !holds_port::<F, E>(tuple, &work.pair_tuple, &mut work.found, env)
            {
                take_back::<F, E>(place, &work.pair_tuple, work.pair.state(), env);
                return false;
            }
            true
        }
        Some(pair) => {
            if pair.read(tag, &mut work.pair)
                && translates_to::<F>(&work.pair, tuple)
                && work.pair.backend() == work.flow.backend()
            {
                pair.touch(now);
                return note::<F, _>(&pair, work.pair.state(), after, ended);
            }
            false
        }
    }
}

/// Moves the connection in the workspace, which this packet has brought into the state `seen`, to conntrack: the entry of the
/// replies first, where it is no reservation, then that of the client's packets. Only then they are taken out of the other
/// table; see the top of this file. Where there is no room they stay where they are, in the state before, and the next packet
/// tries again.
#[inline(always)]
fn confirm<F, E>(work: &mut Workspace<F>, seen: Seen, env: &E, now: Tick)
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let Workspace { headers, flow, pair_tuple, pair, found, .. } = work;
    let tuple = &headers.tuple;
    let has_answers = !flow.is_masqueraded();
    if has_answers {
        *pair = flow.answering(tuple).starting(seen.word(pair_tuple.tag()), now);
        if !stands::<F, E>(pair_tuple, pair, env) {
            return;
        }
    }
    *found = flow.starting(seen.word(tuple.tag()), now);
    if !stands::<F, E>(tuple, found, env) {
        return;
    }
    withdraw::<F, E>(tuple, env);
    if has_answers {
        withdraw::<F, E>(pair_tuple, env);
    }
}

/// Puts an entry into conntrack; tells whether one stands there now. Another CPU may have been faster.
#[inline(always)]
fn stands<F, E>(tuple: &F::Tuple, flow: &F::Flow, env: &E) -> bool
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let inserted = Lookup::<F>::insert_flow(env, Place::Conntrack, tuple, flow);
    matches!(inserted, Ok(()) | Err(InsertError::Exists))
}

/// Takes an entry that stands in conntrack by now out of the table of connections that are not confirmed.
#[inline(always)]
fn withdraw<F, E>(tuple: &F::Tuple, env: &E)
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let Some(entry) = Lookup::<F>::flow(env, Place::Opening, tuple) else {
        return;
    };
    let state = entry.state();
    // The element may be another tuple's by now.
    if state.tag() == tuple.tag() && claim::<F, _>(&entry, state) {
        Lookup::<F>::remove_flow(env, Place::Opening, tuple);
    }
}

/// Adds what was seen to a flow's state, which was `state` when it was read, and takes off what `ended`; tells whether the
/// state says so now. Where other CPUs are faster each time it is left at that: the next packet that shows it tries again.
/// One that is being replaced is left alone.
#[inline(always)]
fn note<F: Family, Entry: FlowEntry<F>>(entry: &Entry, state: StateWord, seen: Seen, ended: u32) -> bool {
    let mut current = state;
    for _ in 0..STATE_ATTEMPTS {
        if Seen::from(current).is_dying() {
            return false;
        }
        // The other half may be of another incarnation, which it keeps.
        let new = StateWord::new((current.seen() | seen.of_any_incarnation().0) & !ended, state.tag());
        if new == current || entry.exchange_state(current, new) {
            return true;
        }
        current = entry.state();
        if current.tag() != state.tag() {
            return false;
        }
    }
    false
}

/// Claims an entry for replacement: of several CPUs that want to, one does. What the collector noted is forgotten: it is to
/// find the entry dying in two rounds before it takes it out.
#[inline(always)]
pub(super) fn displace<F: Family, Entry: FlowEntry<F>>(entry: &Entry, state: StateWord) -> bool {
    let seen = Seen::from(state);
    !seen.is_dying()
        && entry.exchange_state(state, StateWord::new(seen.of_packets().0 | Seen::DYING, state.tag()))
}

/// Removes the other half of a connection of which one half, `flow`, stands under `tuple`; unless that of another
/// connection stands there by now, or none, or somebody else has claimed it. Tells whether it did. `pair` is room for a copy.
///
/// It is claimed first, as whatever goes by its key: the collector, which may have read it just before, would else claim
/// what is no longer in the table, and take out what stands under the key by then.
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
        && claim::<F, _>(&entry, pair.state())
    {
        Lookup::<F>::remove_flow(env, place, &other);
        return true;
    }
    false
}

/// Claims an entry for removal which had this state when it was read, also where packets have changed that since; tells whether
/// it did. Another CPU's claim, or another flow in its place, is left alone.
#[inline(always)]
fn claim<F: Family, Entry: FlowEntry<F>>(entry: &Entry, state: StateWord) -> bool {
    let mut current = state;
    for _ in 0..STATE_ATTEMPTS {
        let (now, before) = (Seen::from(current), Seen::from(state));
        if current.tag() != state.tag() || now.incarnation() != before.incarnation() || now.is_dying() {
            return false;
        }
        if displace::<F, _>(entry, current) {
            return true;
        }
        current = entry.state();
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
