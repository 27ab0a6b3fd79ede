//! Who answered how often, and the last lines.

use std::collections::BTreeMap;

use crate::say;

/// Answers and failures, of one kind of request.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Answers by the name of the backend.
    pub answers: BTreeMap<String, u64>,
    /// What failed, in words.
    pub failures: Vec<String>,
}

impl Tally {
    /// Counts one request.
    pub fn count(&mut self, result: Result<String, String>) {
        match result {
            Ok(name) => *self.answers.entry(name).or_default() += 1,
            Err(failure) => self.failures.push(failure),
        }
    }

    /// Adds another one.
    pub fn add(&mut self, other: Self) {
        for (name, count) in other.answers {
            *self.answers.entry(name).or_default() += count;
        }
        self.failures.extend(other.failures);
    }

    /// How many requests there were.
    pub fn requests(&self) -> u64 {
        self.answers.values().sum::<u64>() + self.failures.len() as u64
    }

    /// Answers of one backend.
    pub fn of(&self, name: &str) -> u64 {
        self.answers.get(name).copied().unwrap_or(0)
    }
}

/// The whole run.
pub struct Summary {
    /// Each kind of request: its name and its tally.
    pub kinds: Vec<(&'static str, Tally)>,
    /// Packets that the client sent, and those that were counted.
    pub packets: Packets,
    /// What else went wrong.
    pub complaints: Vec<String>,
}

/// Packets that the client sent, and those that were counted at the services.
#[derive(Clone, Copy)]
pub struct Packets {
    /// By the client's own counters.
    pub sent: u64,
    /// By the pipeline's own counters, which the kernel's programs and the simulator both keep.
    pub counted: u64,
    /// Which of these it was, in words.
    pub by: &'static str,
}

impl Summary {
    fn failed(&self) -> u64 {
        self.kinds.iter().map(|(_, tally)| tally.failures.len() as u64).sum()
    }

    /// Whether nothing failed and every packet is accounted for.
    pub fn is_good(&self) -> bool {
        self.failed() == 0 && self.complaints.is_empty() && self.packets.sent == self.packets.counted
    }

    /// Prints it; the last line is the one that counts.
    ///
    /// # Errors
    /// [`Closed`](crate::output::Closed) where nobody reads it.
    pub fn print(&self) -> anyhow::Result<()> {
        say!("\nWho answered how often:")?;
        for (kind, tally) in &self.kinds {
            let answers: Vec<_> =
                tally.answers.iter().map(|(name, count)| format!("{name} {count}")).collect();
            say!("  {kind:<14} {}", answers.join(", "))?;
            for failure in tally.failures.iter().take(5) {
                say!("  {:<14} failed: {failure}", "")?;
            }
        }
        let Packets { sent, counted, by } = self.packets;
        say!("Packets to the services: {sent} sent by the client, {counted} counted by {by}.")?;
        if sent != counted {
            say!("These differ: something else than Forebay handled some of them, or they were lost.")?;
        }
        for complaint in &self.complaints {
            say!("Wrong: {complaint}.")?;
        }
        let requests: u64 = self.kinds.iter().map(|(_, tally)| tally.requests()).sum();
        say!("{requests} requests, {} failed", self.failed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(failures: usize, sent: u64, counted: u64, complaints: usize) -> Summary {
        let mut tally = Tally::default();
        tally.count(Ok("backend0".into()));
        (0..failures).for_each(|_| tally.count(Err("refused".into())));
        let complaints = (0..complaints).map(|_| "late".into()).collect();
        Summary { kinds: vec![("HTTP", tally)], packets: Packets { sent, counted, by: "a test" }, complaints }
    }

    #[test]
    fn a_sum_has_the_answers_and_the_failures_of_both() {
        let of = |results: &[Result<&str, &str>]| {
            let mut tally = Tally::default();
            results.iter().for_each(|result| tally.count(result.map(Into::into).map_err(Into::into)));
            tally
        };
        let mut sum = of(&[Ok("backend0"), Err("refused")]);
        sum.add(of(&[Ok("backend0"), Ok("backend1"), Err("late")]));
        assert_eq!((sum.of("backend0"), sum.of("backend1"), sum.requests()), (2, 1, 5));
        assert_eq!(sum.failures, ["refused", "late"]);
    }

    /// What the README promises of the exit code.
    #[test]
    fn only_a_run_without_any_fault_is_good() {
        assert!(summary(0, 9, 9, 0).is_good());
        assert!(!summary(1, 9, 9, 0).is_good(), "a request failed");
        assert!(!summary(0, 9, 8, 0).is_good(), "a packet went another way");
        assert!(!summary(0, 8, 9, 0).is_good(), "somebody else's packets were counted");
        assert!(!summary(0, 9, 9, 1).is_good(), "a removed backend answered");
    }
}
