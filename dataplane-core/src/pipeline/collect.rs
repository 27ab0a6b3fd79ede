//! The end of a flow's entry: a second look at what the collector suspects, safe against packets.

use super::{CloseReason, Direction, EventSink, Seen, Tick, event::tell_closed, seen::is_over};
use crate::{
    abi::{BackendRef, Setting, StateWord},
    tables::{Family, Flow, FlowEntry, Tuple},
};

/// What became of an entry that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Fate {
    /// It is not there, or is another flow's by now.
    Gone = 0,
    /// It lives on.
    Lives = 1,
    /// It is over: the next look removes it, unless a packet comes first.
    Condemned = 2,
    /// It was removed.
    Removed = 3,
}

impl Fate {
    /// The fate of this number.
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Lives,
            2 => Self::Condemned,
            3 => Self::Removed,
            _ => Self::Gone,
        }
    }
}

/// A flow that is to go although its time is not over: its frontend sends nothing to its backend any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Revoked {
    /// Index of the frontend.
    pub frontend: u32,
    /// The backend; [`BackendRef::default`] revokes nothing.
    pub backend: BackendRef,
}

impl Revoked {
    /// Whether this is the flow.
    #[inline(always)]
    pub fn is<F: Family>(&self, flow: &F::Flow) -> bool {
        self.backend.generation() != 0 && flow.backend() == self.backend && flow.frontend() == self.frontend
    }
}

/// Looks at the entry of a tuple once more, and claims it for removal where its flow is over: on [`Fate::Removed`] the
/// caller takes it out of the table, at once. `flow` is room for a copy.
///
/// A flow whose time is over takes two looks, at least one grace period apart. A packet that found it alive a moment before
/// the first one has noted its time long before the second, which then finds it alive. Between the claim, which is a swap
/// of the state, and the removal nobody else replaces the entry: packets find it dying and leave the key alone.
///
/// A flow is told of as closed when its client's half goes; of a half that the table evicted nobody is told.
#[inline(always)]
pub fn collect<F: Family, Entry: FlowEntry<F>>(
    entry: &Entry,
    tuple: &F::Tuple,
    revoked: &Revoked,
    flow: &mut F::Flow,
    now: Tick,
    setting: impl FnOnce(Setting) -> u32,
    sink: &impl EventSink,
) -> Fate {
    if !entry.read(tuple.tag(), flow) {
        return Fate::Gone;
    }
    let state = flow.state();
    let seen = Seen::from(state);
    let swap = |seen: u32| entry.exchange_state(state, StateWord::new(seen, state.tag()));
    if seen.is_dying() {
        // A packet is taking it out, which is a matter of microseconds, or the kernel refused that: a removal fails where it
        // interrupts another one of the same bucket. Nobody else would touch the entry any more, so a look that finds it
        // so once more, a grace period later, does it. Who claimed it has told of it. The swap shows that it is still the same.
        return match (seen.is_condemned(), swap(seen.0 | Seen::CONDEMNED)) {
            (_, false) => Fate::Lives,
            (false, true) => Fate::Condemned,
            (true, true) => Fate::Removed,
        };
    }
    let is_revoked = revoked.is::<F>(flow);
    if !is_revoked {
        if !is_over::<F>(flow, tuple.protocol(), now, setting) {
            if seen.is_condemned() {
                // Where a packet was faster the next look does it.
                swap(seen.0 & !Seen::CONDEMNED);
            }
            return Fate::Lives;
        }
        if !seen.is_condemned() {
            return if swap(seen.0 | Seen::CONDEMNED) { Fate::Condemned } else { Fate::Lives };
        }
    }
    if !swap(seen.of_packets().0 | Seen::DYING) {
        return Fate::Lives;
    }
    if matches!(flow.direction(), Direction::Original) {
        let otherwise = if is_revoked { CloseReason::BackendGone } else { CloseReason::TimedOut };
        tell_closed::<F, _>(otherwise, Direction::Original, tuple, flow, now, sink);
    }
    Fate::Removed
}

/// Whether a flow, as it was read some time ago, is worth a look.
#[inline]
pub fn is_suspect<F: Family>(
    flow: &F::Flow,
    protocol: u8,
    now: Tick,
    setting: impl FnOnce(Setting) -> u32,
) -> bool {
    let seen = Seen::from(flow.state());
    seen.is_dying() || seen.is_condemned() || is_over::<F>(flow, protocol, now, setting)
}
