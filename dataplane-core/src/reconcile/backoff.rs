//! When to try again.

use std::time::Duration;

/// Waits twice as long after each failure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    pub first: Duration,
    pub longest: Duration,
}

impl Backoff {
    /// How long to wait after so many failures in a row.
    pub fn after(self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(20);
        self.first.saturating_mul(1 << doublings).min(self.longest)
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(10), longest: Duration::from_secs(5) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_its_longest() {
        let waits = [1, 2, 3, 9, 10, u32::MAX].map(|attempts| Backoff::default().after(attempts).as_millis());
        assert_eq!(waits, [10, 20, 40, 2560, 5000, 5000]);
    }
}
