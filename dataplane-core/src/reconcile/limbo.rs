//! What is linked no more, but may still be under a packet's eyes.

use std::{collections::VecDeque, time::Duration};

use super::ledger::Departure;
use crate::model::IpFamily;

/// What becomes free after a grace period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// A list that no word points to: its lines are free, and it holds its backends no more.
    List(u32),
    /// A backend that a list held which takes no new flows.
    Holder(IpFamily, u32),
    /// A backend that a frontend's list held: its flows are to go where others hold it still.
    Departure(Departure),
    /// Index of a frontend's word and counters.
    FrontendIndex(u32),
    /// A backend that no list sends new flows any more: its row is to say so.
    Selection(IpFamily, u32),
    /// A backend that nobody holds: its generation is to be cleared.
    Generation(IpFamily, u32),
    /// Index of a backend whose generation is cleared.
    BackendIndex(IpFamily, u32),
}

/// Things wait here for a grace period, all for the same one; then they are released in slices.
#[derive(Debug, Default)]
pub(super) struct Limbo {
    waiting: Vec<Release>,
    /// When the first of them came.
    since: Option<Duration>,
    urgent: bool,
    /// Their grace period is over.
    over: VecDeque<Release>,
    /// Their release failed; tried again at that time.
    failed: Vec<Release>,
    failed_until: Duration,
    attempts: u32,
    /// After a grace period that could not be had, the next attempt.
    no_grace_until: Option<Duration>,
    grace_attempts: u32,
}

impl Limbo {
    pub fn add(&mut self, release: Release, now: Duration) {
        self.since.get_or_insert(now);
        self.waiting.push(release);
    }

    pub fn len(&self) -> usize {
        self.waiting.len() + self.over.len() + self.failed.len()
    }

    /// What waits is needed: the next grace period is not to wait for more.
    pub fn hurry(&mut self) {
        self.urgent = self.since.is_some();
    }

    /// When the next grace period is due, if each waits up to `delay` for others to share it.
    pub fn grace_due(&self, delay: Duration) -> Option<Duration> {
        let since = self.since?;
        let due = if self.urgent { since } else { since + delay };
        Some(self.no_grace_until.map_or(due, |until| due.max(until)))
    }

    /// All that was waiting has had its grace period.
    pub fn grace_was_given(&mut self) {
        self.over.extend(self.waiting.drain(..));
        self.waiting.shrink_to(1024);
        self.since = None;
        self.urgent = false;
        self.no_grace_until = None;
        self.grace_attempts = 0;
    }

    pub fn grace_was_refused(&mut self, now: Duration, wait: impl Fn(u32) -> Duration) {
        self.grace_attempts = self.grace_attempts.saturating_add(1);
        self.no_grace_until = Some(now + wait(self.grace_attempts));
    }

    /// Takes something whose grace period is over.
    pub fn next(&mut self) -> Option<Release> {
        let next = self.over.pop_front();
        if self.over.is_empty() {
            self.over.shrink_to(1024);
        }
        next
    }

    pub fn has_next(&self) -> bool {
        !self.over.is_empty()
    }

    /// The release failed: it will be tried again. No further grace period is needed.
    pub fn failed(&mut self, release: Release, now: Duration, wait: impl Fn(u32) -> Duration) {
        if self.failed.is_empty() {
            self.attempts = self.attempts.saturating_add(1);
            self.failed_until = now + wait(self.attempts);
        }
        self.failed.push(release);
    }

    pub fn released(&mut self) {
        if self.failed.is_empty() {
            self.attempts = 0;
        }
    }

    pub fn retry_due(&self) -> Option<Duration> {
        (!self.failed.is_empty()).then_some(self.failed_until)
    }

    pub fn retry(&mut self) {
        self.over.extend(self.failed.drain(..));
    }
}
