//! Events in memory: the same records as in the kernel, in a queue of the same size.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use crate::{
    event::{EventLosses, EventOptions},
    pipeline::{Budget, EventRecord, EventSink, Tick},
};

/// What the kernel's ring takes for each record beside its bytes (`BPF_RINGBUF_HDR_SZ`).
const HEADER: usize = 8;

/// Records of drops and flows that nobody has read yet, and the clock that they are told by.
///
/// Off until [`switch`](Self::switch) says what is wanted; then packets and the collector write to it. As in the kernel, what
/// finds no room is lost and counted; here one budget of drops is everybody's.
#[derive(Debug, Default)]
pub struct MemoryEvents {
    nanoseconds: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    options: Option<EventOptions>,
    records: VecDeque<Vec<u8>>,
    bytes: usize,
    budget: Budget,
    losses: EventLosses,
}

impl MemoryEvents {
    /// Says which events are wanted; `None`: none, and those that nobody has read are gone.
    pub fn switch(&self, options: Option<EventOptions>) {
        let losses = self.losses();
        *self.state.lock() = State { options, losses, ..State::default() };
    }

    /// Takes the oldest record, for [`Event::parse`](crate::event::Event::parse).
    pub fn take(&self) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        let record = state.records.pop_front()?;
        state.bytes -= room(record.len());
        Some(record)
    }

    /// What was not told since the tables were made.
    pub fn losses(&self) -> EventLosses {
        self.state.lock().losses
    }

    pub(super) fn set_time(&self, nanoseconds: u64) {
        self.nanoseconds.store(nanoseconds, Ordering::Relaxed);
    }

    pub(super) fn nanoseconds(&self) -> u64 {
        self.nanoseconds.load(Ordering::Relaxed)
    }
}

/// What a record of this length takes of a ring.
fn room(length: usize) -> usize {
    HEADER + length.next_multiple_of(8)
}

impl EventSink for MemoryEvents {
    fn emit<R: EventRecord>(&self, write: impl FnOnce(&mut R, u64)) {
        let time = self.nanoseconds();
        let mut state = self.state.lock();
        let State { options, budget, losses, .. } = &mut *state;
        let Some(options) = options else { return };
        if R::LIMITED && !budget.take(Tick::from_nanoseconds(time), options.drops_a_second()) {
            losses.withheld += 1;
            return;
        }
        let mut record = R::new_zeroed();
        write(&mut record, time);
        let record = record.as_bytes().to_vec();
        // The kernel's ring never fills to its last byte.
        if state.bytes + room(record.len())
            >= state.options.map_or(0, |options| options.ring_bytes() as usize)
        {
            state.losses.lost += 1;
            return;
        }
        state.bytes += room(record.len());
        state.records.push_back(record);
    }
}
