//! What each service was, when: the oracle of the soak.
//!
//! A change is under way from its commit until it is applied; meanwhile a packet may meet what was and what is to be.
//!
//! A step that fails by its time-out ends long after what it failed by, and some backend of a service nearly always goes
//! meanwhile. Therefore a failure is held against the time around the step's beginning only, [`PROMPT`].

use std::{
    io,
    time::{Duration, Instant},
};

/// What goes later than so long after a step began is no excuse for its failure. What the step sends first is sent at its
/// beginning, and is answered within this unless it is lost. What TCP sends again (a SYN after a second, the rest after
/// 200 ms at least) is answered too, so that the step does not fail, or is refused or reset, which ends the step at once: a
/// step that fails later than this lost its first packet to something.
pub const PROMPT: Duration = Duration::from_millis(300);

/// What a service may send a flow to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing: its flows are cut.
    Absent,
    /// The flows that it has.
    Idle,
    /// New flows too.
    Open,
}

/// How a service stands to each backend; `None`: there is no such service.
pub type Picture = Option<Vec<Standing>>;

#[derive(Clone, Debug)]
struct Epoch {
    /// The commit's beginning.
    from: Instant,
    /// When the next one was applied.
    until: Option<Instant>,
    picture: Picture,
}

/// All that a service was.
#[derive(Clone, Debug, Default)]
pub struct History {
    epochs: Vec<Epoch>,
}

/// A step of a connection that failed: to connect, to be answered, or to close.
#[derive(Debug)]
pub struct Failure {
    /// When the step began; all that was before it went well.
    pub begin: Instant,
    pub error: io::Error,
}

/// What became of a connection.
#[derive(Debug)]
pub struct Record {
    pub service: usize,
    pub begin: Instant,
    pub end: Instant,
    /// Who gave each answer, in order, until one failed.
    pub answers: Vec<usize>,
    pub failure: Option<Failure>,
    /// Whether answers may come from several: after its backend has gone a datagram finds another one.
    pub datagrams: bool,
}

/// What a connection's end says of the dataplane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// All was answered, by whom it should.
    Served,
    /// It failed or changed hands, and its backend was not stable.
    Cut,
    /// It failed though no backend went.
    Failed(&'static str),
    /// Somebody answered who must not.
    Misdirected(&'static str),
}

impl History {
    /// What is committed from now on; its number among the service's.
    pub fn commit(&mut self, from: Instant, picture: Picture) -> usize {
        self.epochs.push(Epoch { from, until: None, picture });
        self.epochs.len() - 1
    }

    /// The commit of this number is in the tables: what was before it is no more.
    pub fn applied(&mut self, number: usize, now: Instant) {
        for epoch in self.epochs[..number].iter_mut().rev() {
            if epoch.until.is_some() {
                break;
            }
            epoch.until = Some(now);
        }
    }

    /// What a packet may have met between two moments.
    fn within(&self, begin: Instant, end: Instant) -> impl Iterator<Item = &Picture> + Clone {
        let later = self.epochs.partition_point(|epoch| epoch.from <= end);
        let met = self.epochs[..later].iter().rev();
        met.take_while(move |epoch| epoch.until.is_none_or(|until| until >= begin))
            .map(|epoch| &epoch.picture)
    }

    /// What a connection may have met, for people: when a change was begun and the next one applied, after the
    /// connection began.
    pub fn explain(&self, record: &Record) -> String {
        let met = self.epochs.iter().filter(|epoch| {
            epoch.from <= record.end && epoch.until.is_none_or(|until| until >= record.begin)
        });
        let after = |time: Instant| match time.checked_duration_since(record.begin) {
            Some(after) => format!("{after:.1?}"),
            None => format!("-{:.1?}", record.begin - time),
        };
        let one = |epoch: &Epoch| {
            let until = epoch.until.map_or_else(String::new, after);
            format!("from {} until {until}: {:?}", after(epoch.from), epoch.picture)
        };
        met.map(one).collect::<Vec<_>>().join("; ")
    }

    /// Holds a connection against it.
    pub fn judge(&self, record: &Record) -> Judgement {
        let answered = record.failure.as_ref().map_or(record.end, |failure| failure.begin);
        self.judge_answers(record, answered)
            .or_else(|| {
                let failure = record.failure.as_ref()?;
                self.judge_failure(record, record.end.min(failure.begin + PROMPT))
            })
            .unwrap_or_else(|| {
                let whole =
                    record.failure.is_none() && record.answers.windows(2).all(|pair| pair[0] == pair[1]);
                if whole { Judgement::Served } else { Judgement::Cut }
            })
    }

    /// How a service stood to a backend at one moment at least, between two.
    fn stood(&self, begin: Instant, end: Instant) -> impl Fn(usize, Standing) -> bool {
        let met = self.within(begin, end);
        move |backend, standing| {
            met.clone().any(|picture| match picture {
                Some(all) => all[backend] == standing,
                None => standing == Standing::Absent,
            })
        }
    }

    /// What is wrong with who answered, all of it before this moment.
    fn judge_answers(&self, record: &Record, answered: Instant) -> Option<Judgement> {
        let stood = self.stood(record.begin, answered);
        // The first answer is that of a backend that was chosen for a new flow.
        if record.answers.iter().any(|who| !stood(*who, Standing::Open)) {
            return Some(Judgement::Misdirected("by a backend that was not to get new flows"));
        }
        // It may have changed hands as often as it lost its backend.
        let changed = record.answers.windows(2).find(|pair| pair[0] != pair[1])?;
        if !record.datagrams {
            return Some(Judgement::Misdirected("by two backends on one connection"));
        }
        let lost = stood(changed[0], Standing::Absent);
        (!lost).then_some(Judgement::Misdirected("by another backend though the first stayed"))
    }

    /// What it says that a connection failed, where nothing until this moment excuses it.
    fn judge_failure(&self, record: &Record, until: Instant) -> Option<Judgement> {
        let stood = self.stood(record.begin, until);
        if let Some(last) = record.answers.last() {
            return (!stood(*last, Standing::Absent))
                .then_some(Judgement::Failed("though its backend stayed"));
        }
        let met = self.within(record.begin, until);
        let backends = met.clone().flatten().map(Vec::len).max().unwrap_or(0);
        let went = |backend| stood(backend, Standing::Open) && stood(backend, Standing::Absent);
        let nobody = met
            .clone()
            .any(|picture| picture.as_ref().is_none_or(|all| all.iter().all(|one| *one != Standing::Open)));
        let excused = nobody || (0..backends).any(went);
        (!excused).then_some(Judgement::Failed("before its first answer"))
    }

    /// Whether it would be a mistake of the dataplane's if the first packet of this connection were lost, and it failed.
    pub fn would_notice(&self, record: &Record) -> bool {
        let first = Record { answers: Vec::new(), failure: None, ..*record };
        // It would wait until its time was over.
        self.judge_failure(&first, record.begin + PROMPT).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        Judgement::{Cut, Failed, Misdirected, Served},
        Standing::{Absent, Idle, Open},
        *,
    };

    /// At 0: both backends get flows; from 10 to 12 the second begins to drain; from 20 to 22 the first goes; from 30 to 32
    /// the service goes.
    fn history(start: Instant) -> History {
        let at = |moment| start + Duration::from_secs(moment);
        let mut history = History::default();
        let pictures = [Some(vec![Open, Open]), Some(vec![Open, Idle]), Some(vec![Absent, Idle]), None];
        for (number, picture) in (0..).zip(pictures) {
            assert_eq!(history.commit(at(10 * number), picture), number as usize);
            history.applied(number as usize, at(10 * number + 2));
        }
        history
    }

    #[test]
    fn connections_are_held_against_what_stood() {
        let start = Instant::now();
        let history = history(start);
        // What fails waited from its beginning to its end for its first answer, or from this moment for the next one.
        let judge = |times: [u64; 3], answers: &[usize], fails: bool, datagrams: bool| {
            let [begin, step, end] = times.map(|time| start + Duration::from_secs(time));
            let failure = fails.then(|| Failure { begin: step, error: io::ErrorKind::TimedOut.into() });
            let answers = answers.to_vec();
            history.judge(&Record { service: 0, begin, end, answers, failure, datagrams })
        };
        for datagrams in [false, true] {
            let served = |begin, end, answers: &[usize]| judge([begin, end, end], answers, false, datagrams);
            assert_eq!(served(3, 9, &[1, 1]), Served);
            assert_eq!(served(3, 15, &[1, 1]), Served, "what drains keeps what it has");
            assert_eq!(served(11, 15, &[1]), Served, "before the change was applied");
            assert!(matches!(served(13, 15, &[1]), Misdirected(_)));
            assert!(matches!(served(3, 9, &[0, 1]), Misdirected(_)));
            assert!(matches!(served(23, 25, &[0]), Misdirected(_)));
            assert!(matches!(served(35, 36, &[0]), Misdirected(_)));

            let fails = |times, answers: &[usize]| judge(times, answers, true, datagrams);
            assert!(matches!(fails([3, 11, 15], &[1]), Failed(_)), "to drain is no excuse");
            assert!(matches!(fails([13, 13, 15], &[]), Failed(_)));
            assert_eq!(fails([13, 21, 26], &[0]), Cut);
            assert_eq!(fails([13, 23, 28], &[0]), Cut, "it went before this step, after the first");
            assert_eq!(fails([19, 21, 26], &[]), Cut);
            assert_eq!(fails([21, 21, 26], &[]), Cut);
            assert_eq!(fails([23, 23, 25], &[]), Cut, "nobody was left");
            assert_eq!(fails([35, 35, 36], &[]), Cut);
            // Its backend goes while it waits for its time-out, which is not why.
            assert!(matches!(fails([13, 19, 25], &[0]), Failed(_)));
            assert!(matches!(fails([19, 19, 25], &[]), Failed(_)));
            // Who answered before it failed is not excused by what came later.
            assert!(matches!(fails([3, 5, 25], &[0, 1]), Misdirected(_)));
        }
        assert!(matches!(judge([3, 25, 25], &[0, 1], false, false), Misdirected(_)));
        assert_eq!(judge([3, 25, 25], &[0, 1], false, true), Cut, "a datagram finds another backend");
    }

    #[test]
    fn a_failure_s_first_moments_are_what_counts() {
        let start = Instant::now();
        let history = history(start);
        // The first backend begins to go after 20 s.
        let went = start + Duration::from_secs(20);
        let judge = |before: Duration, took: Duration| {
            let begin = went - before;
            let failure = Some(Failure { begin, error: io::ErrorKind::TimedOut.into() });
            let end = begin + took;
            let (answers, datagrams) = (Vec::new(), false);
            history.judge(&Record { service: 0, begin, end, answers, failure, datagrams })
        };
        let (moment, long) = (Duration::from_millis(1), Duration::from_secs(5));
        assert_eq!(judge(PROMPT - moment, long), Cut);
        assert!(matches!(judge(PROMPT + moment, long), Failed(_)));
        assert!(matches!(judge(2 * moment, moment), Failed(_)), "it was over before");
        assert_eq!(judge(moment, 2 * moment), Cut);
    }

    #[test]
    fn what_is_overtaken_ends_with_the_one_that_overtook_it() {
        let start = Instant::now();
        let at = |moment| start + Duration::from_secs(moment);
        let mut history = History::default();
        for moment in 0..3 {
            history.commit(at(moment), Some(vec![[Open, Absent, Idle][moment as usize]]));
        }
        assert_eq!(history.within(at(5), at(6)).count(), 3);
        history.applied(2, at(4));
        assert_eq!(history.within(at(5), at(6)).count(), 1);
        assert_eq!(history.within(at(0), at(0)).count(), 1);
        assert_eq!(history.within(at(3), at(6)).count(), 3);
    }
}
