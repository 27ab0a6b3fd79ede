//! Source NAT: a port of this host, reserved for one flow towards one backend.
//!
//! A reservation is the entry of the replies, under the tuple that the backend will answer with. Who inserts it has the
//! port; so two flows never share one towards the same backend, and towards different ones they may.

use super::{
    CloseReason, Direction, DropReason, Environment, Seen, Steps, Tick,
    commit::{displace, remove_other_half},
    decide::spread,
    event::tell_closed,
    port_range::PortRange,
    seen::is_expired,
    workspace::Workspace,
};
use crate::{
    tables::{Family, Flow, FlowEntry, InsertError, Lookup, Place, Tuple},
    wire::{Be16, PROTOCOL_TCP},
};

/// How many ports are looked at for one flow. Where all are equally likely to be taken, so many fail together once in 30
/// times when nine of ten are taken.
const PROBES: u32 = 32;

/// Flows of datagrams keep their ports for so many ticks, two seconds at least, also where nobody has confirmed them. An answer that
/// comes after its port has changed hands is given to another client: TCP refuses it by its number, others take it for theirs.
const DATAGRAMS_SPARED: u32 = 2 * Tick::REFRESH;

/// Reserves a port for the flow in the workspace, which has its first state: the flow gets its source, and the entry of its
/// replies stands.
///
/// # Errors
/// Why the packet must be dropped; nothing is reserved.
#[inline(always)]
pub(super) fn reserve<F, E>(work: &mut Workspace<F>, env: &E, now: Tick) -> Result<(), DropReason>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let Some(address) = Lookup::<F>::masquerade_address(env, work.hop.interface) else {
        return Err(DropReason::NoMasqueradeAddress);
    };
    work.flow.set_source(&work.headers.tuple, address);
    work.pair_tuple = work.headers.tuple.answering(&work.flow);
    work.pair = work.flow.answering(&work.headers.tuple);

    let ports = PortRange::of(env);
    // Nobody outside is to know which port comes next (RFC 6056).
    let random = env.random();
    let place = spread(random, ports.count());
    let (probes, stride) = if ports.count() <= PROBES {
        (ports.count(), 1)
    } else {
        // Each search has a stride of its own: from one port to the next, all would end up behind the same long runs of
        // ports that are taken. Odd, so that it meets as many ports as it makes probes where their number is a power of two.
        (PROBES, spread(random << 16, ports.count()) | 1)
    };
    let mut search =
        Search { work, env, now, ports, place, first: place, stride, outcome: TAKEN, second: 0, age: LIVE };
    env.repeat(probes, &mut search);
    let Search { work, outcome, second, age, .. } = search;
    if outcome == RESERVED {
        return Ok(());
    }
    if age == LIVE {
        return Err(if outcome == FULL { DropReason::NatFull } else { DropReason::NatExhausted });
    }
    work.pair_tuple.set_destination_port(Be16(second as u16));
    take_from(work, env, now);
    // It was room for the other one's.
    work.pair = work.flow.answering(&work.headers.tuple);
    match insert(work, env, now) {
        Ok(()) => Ok(()),
        Err(InsertError::Full) => Err(DropReason::NatFull),
        Err(InsertError::Exists | InsertError::Busy) => Err(DropReason::Contended),
    }
}

/// Inserts the entry of the replies under the tuple in the workspace, and gives the flow its port.
#[inline(always)]
fn insert<F, E>(work: &mut Workspace<F>, env: &E, now: Tick) -> Result<(), InsertError>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let port = work.pair_tuple.destination_port();
    work.flow.set_source_port(&work.headers.tuple, port);
    let seen = Seen::from(work.flow.state());
    work.pair.open_answers(&work.flow, seen.word(work.pair_tuple.tag()), now);
    Lookup::<F>::insert_flow(env, Place::Nat, &work.pair_tuple, &work.pair)
}

/// The search for a port. It holds plain numbers, since the compiler would leave parts of an enum unwritten, which the
/// verifier takes for a mistake.
struct Search<'a, F: Family, E> {
    work: &'a mut Workspace<F>,
    env: &'a E,
    now: Tick,
    ports: PortRange,
    /// Where in the range the next look is, where the first one of this lap was, and how far from each the next one is.
    place: u32,
    first: u32,
    stride: u32,
    /// [`TAKEN`], [`RESERVED`] or [`FULL`], which it stays.
    outcome: u32,
    /// Of the ports that were seen, the one whose flow can be done without best, in the network's order, and how long that one
    /// has been without a packet: as [`age_of`] says.
    second: u32,
    age: u32,
}

/// No port was free yet.
const TAKEN: u32 = 0;
/// The workspace's tuple is reserved.
const RESERVED: u32 = 1;
/// There is no room for another reservation: only a port will do whose flow can be done without.
const FULL: u32 = 2;

impl<F: Family, E> Search<'_, F, E> {
    /// Whether looking on would find nothing better.
    #[inline(always)]
    fn is_over(&self) -> bool {
        self.outcome == RESERVED || (self.outcome == FULL && self.age == OVER)
    }
}

impl<F, E> Steps for Search<'_, F, E>
where
    F: Family,
    E: Environment + Lookup<F>,
{
    #[inline(always)]
    fn step(&mut self, _probe: u32) -> bool {
        let port = self.ports.at(self.place);
        self.place = self.ports.behind(self.place, self.stride);
        if self.place == self.first {
            // The stride and the range have a factor in common: another lap, among the ports that this one left out.
            self.place = self.ports.behind(self.place, 1);
            self.first = self.place;
        }
        let Self { work, env, now, .. } = self;
        work.pair_tuple.set_destination_port(port);
        if let Some(entry) = Lookup::<F>::flow(*env, Place::Nat, &work.pair_tuple) {
            let age = age_of::<F, E>(&entry, work.pair_tuple.protocol(), *env, *now);
            if age > self.age {
                (self.second, self.age) = (port.0.into(), age);
            }
            return self.is_over();
        }
        if self.outcome == FULL || Lookup::<F>::is_bound(*env, &work.pair_tuple) {
            return false;
        }
        self.outcome = match insert(work, *env, *now) {
            Ok(()) => RESERVED,
            Err(InsertError::Full) => FULL,
            // Another CPU was faster, or is at work there: another port will do.
            Err(InsertError::Exists | InsertError::Busy) => return false,
        };
        self.is_over()
    }
}

/// The age of a flow that keeps its port: it is a connection, or somebody is about to take the port from it.
const LIVE: u32 = 0;
/// The age of a flow that is over: it was closed, or its time is.
const OVER: u32 = u32::MAX;

/// How well the flow can be done without that has a port, the more the better: [`LIVE`], or for how long nobody has gone on with
/// it, or [`OVER`].
///
/// A connection of TCP that nobody has confirmed is safe at no age: if it were, a flood of SYNs that takes all ports within that
/// time would keep everybody else out. The oldest of those that a search meets goes instead, and a client confirms within one round
/// trip what a forged source never does.
#[inline(always)]
fn age_of<F, E>(entry: &<E as Lookup<F>>::Entry, protocol: u8, env: &E, now: Tick) -> u32
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let seen = Seen::from(entry.state());
    let last_seen = entry.last_seen();
    if seen.is_dying() {
        LIVE
    } else if seen.is_closed() || is_expired(seen, protocol, last_seen, now, true, |which| env.setting(which))
    {
        OVER
    } else if seen.is_confirmed() {
        LIVE
    } else {
        match now.since(last_seen) {
            age if protocol != PROTOCOL_TCP && age < DATAGRAMS_SPARED => LIVE,
            age => age.saturating_add(1),
        }
    }
}

/// Takes the port of the tuple in the workspace from the flow that has it, unless that one lives again. Who inserts next
/// finds out.
#[inline(always)]
fn take_from<F, E>(work: &mut Workspace<F>, env: &E, now: Tick)
where
    F: Family,
    E: Environment + Lookup<F>,
{
    let Workspace { pair_tuple, found, pair, .. } = work;
    let Some(entry) = Lookup::<F>::flow(env, Place::Nat, pair_tuple) else {
        return;
    };
    if !entry.read(pair_tuple.tag(), found)
        || age_of::<F, E>(&entry, pair_tuple.protocol(), env, now) == LIVE
        || !displace::<F, _>(&entry, found.state())
    {
        return;
    }
    // Its client's packets must not go on from a port that is another's.
    let ends = remove_other_half::<F, E>(pair_tuple, found, pair, env);
    Lookup::<F>::remove_flow(env, Place::Nat, pair_tuple);
    // Without its client's half it was told of already.
    if ends {
        tell_closed::<F, E>(CloseReason::PortTaken, Direction::Reply, pair_tuple, found, now, env);
    }
}
