//! Figures out of samples.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

/// With fewer quiet samples a figure is not to be trusted.
pub const FEWEST_QUIET: usize = 3;

/// When to stop sampling.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// So many quiet samples are enough.
    pub quiet: usize,
    /// After so long it stops anyhow.
    pub time: Duration,
}

/// One figure, in the unit of its samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figure {
    /// Median of the quiet samples; where there is none, of all.
    pub median: f64,
    /// The smallest of the same.
    pub min: f64,
    /// The largest of the same.
    pub max: f64,
    /// Median of all samples.
    pub ungated: f64,
    /// How many samples were quiet.
    pub quiet: usize,
    /// How many samples there were.
    pub samples: usize,
}

impl Figure {
    /// Whether enough samples were quiet.
    pub fn is_trusted(&self) -> bool {
        self.quiet >= FEWEST_QUIET
    }

    fn of(mut quiet: Vec<f64>, mut all: Vec<f64>) -> Self {
        quiet.sort_by(f64::total_cmp);
        all.sort_by(f64::total_cmp);
        let used = if quiet.is_empty() { &all } else { &quiet };
        Self {
            median: quantile(used, 0.5),
            min: quantile(used, 0.0),
            max: quantile(used, 1.0),
            ungated: quantile(&all, 0.5),
            quiet: quiet.len(),
            samples: all.len(),
        }
    }
}

/// Samples until there are enough quiet ones: those right before and right after which `is_quiet` said so.
///
/// # Errors
/// Those of `sample`.
pub fn gated<E>(
    limits: Limits,
    mut is_quiet: impl FnMut() -> bool,
    mut sample: impl FnMut() -> Result<f64, E>,
) -> Result<Figure, E> {
    let (mut quiet, mut all) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while quiet.len() < limits.quiet && (all.is_empty() || start.elapsed() < limits.time) {
        let before = is_quiet();
        let value = sample()?;
        let after = is_quiet();
        all.push(value);
        if before && after {
            quiet.push(value);
        } else {
            // Let the disturbance pass.
            thread::sleep(Duration::from_micros(300));
        }
    }
    Ok(Figure::of(quiet, all))
}

/// The value below which this share of the sorted values lies; 0 where there are none.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_samples_count_and_all_are_told() {
        let figure = Figure::of(vec![12.0, 10.0, 11.0], vec![12.0, 30.0, 10.0, 40.0, 11.0]);
        let expected = Figure { median: 11.0, min: 10.0, max: 12.0, ungated: 12.0, quiet: 3, samples: 5 };
        assert_eq!(figure, expected);
        assert!(figure.is_trusted());
    }

    #[test]
    fn without_a_quiet_sample_all_are_used_and_none_trusted() {
        let figure = Figure::of(vec![], vec![30.0, 10.0, 20.0]);
        assert_eq!((figure.median, figure.min, figure.max), (20.0, 10.0, 30.0));
        assert!(!figure.is_trusted());
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let sorted: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(quantile(&sorted, 0.99), 99.0);
        assert_eq!(quantile(&sorted, 0.5), 50.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }

    #[test]
    fn a_sample_counts_between_two_quiet_loops() {
        // Before and after each sample: only the third has both.
        let mut loops = [true, false, false, true, true, true].into_iter();
        let mut values = [1.0, 2.0, 3.0].into_iter();
        let enough = Limits { quiet: 1, time: Duration::from_secs(60) };
        let figure = gated(enough, || loops.next().unwrap(), || values.next().ok_or(())).unwrap();
        assert_eq!((figure.quiet, figure.samples, figure.median, figure.ungated), (1, 3, 3.0, 2.0));
    }

    #[test]
    fn sampling_ends_with_the_time() {
        let never = Limits { quiet: usize::MAX, time: Duration::ZERO };
        assert_eq!(gated(never, || true, || Ok::<_, ()>(1.0)).unwrap().samples, 1);
        assert_eq!(gated(never, || true, || Err::<f64, _>("refused")), Err("refused"));
    }
}
