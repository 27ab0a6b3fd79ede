//! How far each commit has come.

use hashbrown::HashMap;

use super::ServiceId;
use crate::source::Revision;

/// How far a commit has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// There is no such revision yet.
    Unknown,
    /// Some of what it changed is not in the tables yet.
    Pending,
    /// Everything that it changed is in the tables as it said, or as a later commit said.
    Applied,
    /// All has been tried, and so many services were refused, lost a frontend or are held back.
    Incomplete {
        /// How many services.
        services: u32,
    },
}

/// Counts what is open of each revision. A revision of which nothing is open has no record.
#[derive(Debug, Default)]
pub(super) struct Revisions {
    records: HashMap<Revision, Record>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    waiting: u32,
    stuck: u32,
    example: Option<ServiceId>,
}

/// What of a revision is open because of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Open {
    /// The tables do not hold it yet.
    Waiting,
    /// The tables will not hold it, as things stand.
    Stuck,
}

impl Revisions {
    pub fn open(&mut self, revision: Revision, how: Open, service: ServiceId) {
        let record = self.records.entry(revision).or_default();
        match how {
            Open::Waiting => record.waiting += 1,
            Open::Stuck => {
                record.stuck += 1;
                record.example = Some(service);
            }
        }
    }

    pub fn close(&mut self, revision: Revision, how: Open) -> bool {
        let Some(record) = self.records.get_mut(&revision) else {
            return false;
        };
        match how {
            Open::Waiting => record.waiting -= 1,
            Open::Stuck => record.stuck -= 1,
        }
        let (waiting, stuck) = (record.waiting, record.stuck);
        if waiting == 0 && stuck == 0 {
            self.records.remove(&revision);
        }
        waiting == 0
    }

    pub fn progress(&self, revision: Revision, newest: Revision) -> Progress {
        match self.records.get(&revision) {
            _ if revision > newest => Progress::Unknown,
            None => Progress::Applied,
            Some(record) if record.waiting > 0 => Progress::Pending,
            Some(record) => Progress::Incomplete { services: record.stuck },
        }
    }

    /// A service because of which the revision is incomplete. It may have come further since.
    pub fn example(&self, revision: Revision) -> Option<ServiceId> {
        self.records.get(&revision)?.example
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.records.len()
    }
}
