//! Is this CPU ours alone?
//!
//! A virtual CPU shares its core with strangers, and this machine with other programs: the same code takes 10 ns or 25
//! by what they do. A loop of independent additions wants the whole width of the core, so it slows down as soon as
//! anybody takes a part of it, or the clock drops. Measurements count only between two loops at full speed, which is the
//! best that was ever seen.

use std::{
    io,
    time::{Duration, Instant},
};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::additions;

/// Rounds of additions in one loop: some 30 µs.
const ROUNDS: u32 = 40_000;
/// A loop is quiet up to so many times the best one.
const TOLERANCE: f64 = 1.02;

/// Pins the calling thread to the last CPU that it may use: interrupts prefer the first.
///
/// # Errors
/// The kernel's.
pub fn pin() -> io::Result<()> {
    let allowed = sched_getaffinity(None)?;
    let Some(last) = (0..CpuSet::MAX_CPU).rev().find(|&cpu| allowed.is_set(cpu)) else {
        return Err(io::Error::other("no CPU is allowed"));
    };
    let mut one = CpuSet::new();
    one.set(last);
    sched_setaffinity(None, &one)?;
    Ok(())
}

/// The best calibration loop so far.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    best: Duration,
    loops: u32,
    quiet: u32,
}

impl Gate {
    /// Looks for the best loop for so long. To be called on the thread that measures, once it is pinned.
    pub fn calibrate(time: Duration) -> Self {
        let mut gate = Self { best: Duration::MAX, loops: 0, quiet: 0 };
        let start = Instant::now();
        while start.elapsed() < time {
            gate.is_quiet();
        }
        // The first loops were held against nothing.
        (gate.loops, gate.quiet) = (0, 0);
        gate
    }

    /// Runs one loop, and tells whether it ran at full speed.
    pub fn is_quiet(&mut self) -> bool {
        let start = Instant::now();
        additions::run(ROUNDS);
        let time = start.elapsed();
        self.best = self.best.min(time);
        let quiet = time.as_secs_f64() <= self.best.as_secs_f64() * TOLERANCE;
        self.loops += 1;
        self.quiet += u32::from(quiet);
        quiet
    }

    /// Nanoseconds of one round of the best loop.
    pub fn best(&self) -> f64 {
        self.best.as_secs_f64() * 1e9 / f64::from(ROUNDS)
    }

    /// How many of the loops were quiet, in percent.
    pub fn quiet_percent(&self) -> u32 {
        (self.quiet * 100).checked_div(self.loops).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_loop_is_quiet_and_the_best_only_falls() {
        let mut gate = Gate::calibrate(Duration::ZERO);
        assert!(gate.is_quiet());
        let first = gate.best();
        for _ in 0..10 {
            gate.is_quiet();
        }
        assert!(gate.best() > 0.0 && gate.best() <= first);
        assert!((9..=100).contains(&gate.quiet_percent()));
    }

    #[test]
    fn a_pinned_thread_has_one_cpu() {
        std::thread::spawn(|| {
            pin().unwrap();
            assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
        })
        .join()
        .unwrap();
    }
}
