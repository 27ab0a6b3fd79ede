//! The ring that events go to.

use dataplane_core::pipeline::{Budget, EventRecord, EventSink, Tick};

use crate::{
    environment::nanoseconds,
    maps::{self, Untold},
};

/// The ring, for whoever has no packet.
pub struct Ring;

impl EventSink for Ring {
    #[inline(always)]
    fn emit<R: EventRecord>(&self, write: impl FnOnce(&mut R, u64)) {
        emit(write);
    }
}

/// Tells of an event, where that is wanted: elsewhere nothing of this is left in the program.
#[inline(always)]
pub fn emit<R: EventRecord>(write: impl FnOnce(&mut R, u64)) {
    if !maps::tells_events() {
        return;
    }
    let time = nanoseconds();
    let a_second = maps::drop_events_a_second();
    let take = |budget: &mut Budget| budget.take(Tick::from_nanoseconds(time), a_second);
    if R::LIMITED && !maps::take_drop_event(take) {
        maps::count_untold(Untold::Withheld);
    } else if !maps::tell(|record| write(record, time)) {
        maps::count_untold(Untold::Lost);
    }
}
