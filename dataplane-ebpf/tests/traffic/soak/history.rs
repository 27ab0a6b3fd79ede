//! What each service was, when: the oracle of the soak.
//!
//! A change is under way from its commit until it is applied; meanwhile a packet may meet what was and what is to be.

use std::time::Instant;

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

/// What became of a connection.
#[derive(Clone, Debug)]
pub struct Record {
    pub service: usize,
    pub begin: Instant,
    pub end: Instant,
    /// Who gave each answer, in order, until one failed.
    pub answers: Vec<usize>,
    pub error: Option<String>,
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
        let met = self.within(record.begin, record.end);
        let stood = |backend: usize, standing: Standing| {
            met.clone().any(|picture| match picture {
                Some(all) => all[backend] == standing,
                None => standing == Standing::Absent,
            })
        };
        // The first answer is that of a backend that was chosen for a new flow.
        if record.answers.iter().any(|who| !stood(*who, Standing::Open)) {
            return Judgement::Misdirected("by a backend that was not to get new flows");
        }
        let Some(first) = record.answers.first() else {
            let backends = met.clone().flatten().map(Vec::len).max().unwrap_or(0);
            let went = |backend| stood(backend, Standing::Open) && stood(backend, Standing::Absent);
            let nobody = met.clone().any(|picture| {
                picture.as_ref().is_none_or(|all| all.iter().all(|one| *one != Standing::Open))
            });
            let excused = nobody || (0..backends).any(went);
            return if excused { Judgement::Cut } else { Judgement::Failed("before its first answer") };
        };
        // It may have changed hands as often as it lost its backend.
        let lost = |who: &usize| stood(*who, Standing::Absent);
        let changed = record.answers.windows(2).find(|pair| pair[0] != pair[1]);
        match (changed, &record.error) {
            (None, None) => Judgement::Served,
            (Some(_), _) if !record.datagrams => Judgement::Misdirected("by two backends on one connection"),
            (Some(pair), _) if !lost(&pair[0]) => {
                Judgement::Misdirected("by another backend though the first stayed")
            }
            (None, Some(_)) if !lost(first) => Judgement::Failed("though its backend stayed"),
            _ => Judgement::Cut,
        }
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
        let judge = |times: [u64; 2], answers: &[usize], fails: bool, datagrams: bool| {
            let [begin, end] = times.map(|time| start + Duration::from_secs(time));
            let error = fails.then(|| "timed out".to_owned());
            let answers = answers.to_vec();
            history.judge(&Record { service: 0, begin, end, answers, error, datagrams })
        };
        for datagrams in [false, true] {
            let judge = |times, answers: &[usize], fails| judge(times, answers, fails, datagrams);
            assert_eq!(judge([3, 9], &[1, 1], false), Served);
            assert_eq!(judge([3, 15], &[1, 1], false), Served, "what drains keeps what it has");
            assert_eq!(judge([11, 15], &[1], false), Served, "before the change was applied");
            assert!(matches!(judge([13, 15], &[1], false), Misdirected(_)));
            assert!(matches!(judge([3, 15], &[1], true), Failed(_)), "to drain is no excuse");
            assert!(matches!(judge([13, 15], &[], true), Failed(_)));
            assert!(matches!(judge([3, 9], &[0, 1], false), Misdirected(_)));
            assert_eq!(judge([13, 25], &[0], true), Cut);
            assert_eq!(judge([13, 21], &[], true), Cut);
            assert_eq!(judge([23, 25], &[], true), Cut, "nobody was left");
            assert!(matches!(judge([23, 25], &[0], false), Misdirected(_)));
            assert_eq!(judge([35, 36], &[], true), Cut);
            assert!(matches!(judge([35, 36], &[0], false), Misdirected(_)));
        }
        assert!(matches!(judge([3, 25], &[0, 1], false, false), Misdirected(_)));
        assert_eq!(judge([3, 25], &[0, 1], false, true), Cut, "a datagram finds another backend");
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
