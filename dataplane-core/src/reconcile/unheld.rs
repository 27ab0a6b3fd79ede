//! Backends that lost their last holder, while somebody may be about to name them.

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::{model::IpFamily, state::Traffic};

/// A backend's place is not taken from it the moment nobody holds it: the service to which the same transaction gave it
/// may still be in the queue. It keeps index and generation, and so its flows, until all services were taken that were
/// queued when it lost its last holder.
#[derive(Debug, Default)]
pub(super) struct Unheld {
    queue: VecDeque<(u64, IpFamily, u32)>,
    /// How many services had been queued when each of them lost its last holder, last.
    since: HashMap<(IpFamily, u32), u64>,
    queued: u64,
}

impl Unheld {
    /// Hears how many services were queued by now.
    pub fn see(&mut self, traffic: Traffic) {
        self.queued = traffic.queued;
    }

    /// A backend lost its last holder.
    pub fn add(&mut self, family: IpFamily, index: u32) {
        if self.since.insert((family, index), self.queued) != Some(self.queued) {
            self.queue.push_back((self.queued, family, index));
        }
    }

    /// Whether this backend has lost its last holder and still has its place. It may have got another one since.
    pub fn contains(&self, family: IpFamily, index: u32) -> bool {
        self.since.contains_key(&(family, index))
    }

    /// A backend that nobody in the queue can name, unless it was named meanwhile.
    pub fn next(&mut self, traffic: Traffic) -> Option<(IpFamily, u32)> {
        while let Some(&(since, family, index)) = self.queue.front()
            && since <= traffic.taken
        {
            self.queue.pop_front();
            // Whoever was held and lost its holder again has another entry.
            if self.since.get(&(family, index)) == Some(&since) {
                self.since.remove(&(family, index));
                return Some((family, index));
            }
        }
        None
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_waits_for_those_who_were_queued_before_it_lost_its_holder() {
        let mut unheld = Unheld::default();
        unheld.see(Traffic { queued: 5, taken: 3 });
        unheld.add(IpFamily::V4, 1);
        unheld.see(Traffic { queued: 7, taken: 4 });
        unheld.add(IpFamily::V6, 1);
        assert_eq!(unheld.next(Traffic { queued: 7, taken: 4 }), None);
        assert_eq!(unheld.next(Traffic { queued: 7, taken: 5 }), Some((IpFamily::V4, 1)));
        assert!(unheld.contains(IpFamily::V6, 1) && !unheld.contains(IpFamily::V4, 1));
        assert_eq!(unheld.next(Traffic { queued: 9, taken: 6 }), None);
        assert_eq!(unheld.next(Traffic { queued: 9, taken: 7 }), Some((IpFamily::V6, 1)));
        assert_eq!(unheld.len(), 0);
    }

    #[test]
    fn whoever_loses_a_holder_again_waits_again() {
        let mut unheld = Unheld::default();
        unheld.see(Traffic { queued: 5, taken: 5 });
        unheld.add(IpFamily::V4, 1);
        unheld.add(IpFamily::V4, 1);
        unheld.see(Traffic { queued: 8, taken: 5 });
        unheld.add(IpFamily::V4, 1);
        assert_eq!(unheld.next(Traffic { queued: 8, taken: 7 }), None);
        assert_eq!(unheld.next(Traffic { queued: 8, taken: 8 }), Some((IpFamily::V4, 1)));
        assert_eq!(unheld.next(Traffic { queued: 8, taken: 8 }), None);
    }
}
