//! Holding back the removal of most of what serves.

use std::{collections::VecDeque, time::Duration};

/// When so much goes at once that it is more likely a mistake than a wish.
///
/// What is counted are an owner's backends that take new flows, once for each service. A transaction after which they
/// would be less than a share of the most that they were within a window of time is taken, but for what it takes away:
/// that is held back, and shown in the status, until it is confirmed
/// ([`SourceHandle::confirm`](crate::source::SourceHandle::confirm)) or another transaction says otherwise.
/// Many small removals within the window count together; what is replaced counts nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct RemovalGuard(Option<Limits>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limits {
    percent: u8,
    window: Duration,
    at_least: u32,
}

impl RemovalGuard {
    /// Holds back what takes away more than `percent` within `window`, and at least 16 backends.
    pub const fn new(percent: u8, window: Duration) -> Self {
        Self(Some(Limits { percent, window, at_least: 16 }))
    }

    /// Never mind losses of fewer backends than this.
    pub const fn at_least(self, backends: u32) -> Self {
        match self.0 {
            Some(limits) => Self(Some(Limits { at_least: backends, ..limits })),
            None => self,
        }
    }

    /// Holds nothing back.
    pub const fn off() -> Self {
        Self(None)
    }

    /// Whether so many of so many are too many to lose at once.
    pub(super) fn holds_back(self, of: u64, lost: u64) -> bool {
        self.0.is_some_and(|limits| {
            lost >= limits.at_least.into()
                && u128::from(lost) * 100 > u128::from(of) * u128::from(limits.percent)
        })
    }

    pub(super) fn is_off(self) -> bool {
        self.0.is_none()
    }
}

impl Default for RemovalGuard {
    /// More than half within a minute, and at least 16 backends.
    fn default() -> Self {
        Self::new(50, Duration::from_secs(60))
    }
}

/// How many backends an owner had within the window.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Totals that were the largest from their time on; the time is when they ended. Both rise and fall strictly.
    maxima: VecDeque<(Duration, u64)>,
}

impl Watch {
    /// Whether to go from `before` to `after` takes too much away. `before` has stood until `now`.
    pub fn trips(&mut self, guard: RemovalGuard, now: Duration, before: u64, after: u64) -> bool {
        let Some(limits) = guard.0 else {
            return false;
        };
        while self.maxima.back().is_some_and(|&(_, total)| total <= before) {
            self.maxima.pop_back();
        }
        self.maxima.push_back((now, before));
        while self.maxima.front().is_some_and(|&(ended, _)| ended + limits.window < now) {
            self.maxima.pop_front();
        }
        let most = self.maxima.front().map_or(before, |&(_, total)| total);
        let lost = most.saturating_sub(after);
        after < before && guard.holds_back(most, lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn small_steps_within_the_window_add_up_and_later_ones_do_not() {
        let guard = RemovalGuard::new(50, 10 * SECOND).at_least(2);
        let mut watch = Watch::default();
        for lost in 0..50u64 {
            let now = SECOND / 10 * lost as u32;
            assert!(!watch.trips(guard, now, 100 - lost, 99 - lost), "{lost}");
        }
        assert!(watch.trips(guard, 6 * SECOND, 50, 49));
        // Once the hundred are forgotten, fifty is what there was.
        assert!(!watch.trips(guard, 30 * SECOND, 50, 49));
    }

    #[test]
    fn little_and_gains_never_trip() {
        let mut watch = Watch::default();
        let guard = RemovalGuard::default();
        assert!(!watch.trips(guard, SECOND, 15, 0));
        assert!(!watch.trips(guard, SECOND, 0, 1000));
        assert!(!watch.trips(guard, SECOND, 1000, 1000));
        assert!(watch.trips(guard, SECOND, 1000, 499));
        assert!(!watch.trips(RemovalGuard::off(), SECOND, 1000, 0));
    }
}
