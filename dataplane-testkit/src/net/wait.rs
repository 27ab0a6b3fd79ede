//! Waiting for a condition with a limit.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at the condition.
const INTERVAL: Duration = Duration::from_millis(2);

/// Waits until `condition` holds, looking every two milliseconds, at once first.
///
/// # Errors
/// [`WaitTimeout`], which names `what`, where it does not hold after `timeout`.
pub fn wait_for(
    timeout: Duration,
    what: impl fmt::Display,
    mut condition: impl FnMut() -> bool,
) -> Result<(), WaitTimeout> {
    let deadline = Instant::now() + timeout;
    loop {
        if condition() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(WaitTimeout { what: what.to_string(), timeout });
        }
        thread::sleep(INTERVAL);
    }
}

/// What was waited for did not come about in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("still not after {timeout:?}: {what}")]
pub struct WaitTimeout {
    what: String,
    timeout: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_holds_ends_the_wait() {
        let mut looks = 0;
        wait_for(Duration::from_secs(10), "three looks", || {
            looks += 1;
            looks == 3
        })
        .unwrap();
        assert_eq!(looks, 3);
    }

    #[test]
    fn a_timeout_names_what_was_waited_for() {
        let error = wait_for(Duration::from_millis(5), "the moon", || false).unwrap_err();
        assert_eq!(error.to_string(), "still not after 5ms: the moon");
    }
}
