//! Maglev tables: which backend each place belongs to (Eisenbud et al., "Maglev: A Fast and Reliable Software Network
//! Load Balancer", NSDI 2016, section 3.4).
//!
//! Each backend has a permutation of the places: its order of preference. In turns each takes the first place that is
//! free in its own order, until none is left. With a weight, a backend of the largest weight has a turn in each round and
//! the others in their share of the rounds: after `r` rounds, of weight `w` among weights up to `W`, it has had
//! `ceil(r·w / W)` turns.
//!
//! From this follow the laws that `tests/maglev.rs` holds it to:
//!
//! - each place belongs to a backend, and each backend with a weight has a place if there are no more of them than places;
//! - balance: there is a number of full rounds `r` such that each backend has `ceil(r·w / W)` places or as many as after
//!   `r + 1` rounds. Backends of one weight differ by one place at most;
//! - a backend that goes or comes moves little but its own places. Those that others exchange among themselves are, on
//!   average over seeds, less than a twentieth of all at a hundred places a backend (a fortieth was measured) and less
//!   than a hundredth at 16381 places and 10 backends. A single seed may have two backends whose permutations are much
//!   alike: at a hundred places a backend a fifth was seen once in 2000, at 16381 places and 10 backends no more than 1.6 %;
//! - the order in which backends are named changes nothing, and neither do indexes: a permutation is made of the
//!   backend's address, its port, and the seed.

use std::net::IpAddr;

use super::Share;
use crate::{abi::scatter, model::MaglevSize};

/// Which of the shares each place of the table belongs to. Shares of 0 times have none; where there are no others, there
/// is no table.
///
/// `shares` are those of one service: no address and port stands there twice. Cost: some `size · ln(size)` steps where
/// weights are alike, and up to `size` times the largest weight where they are not.
pub fn maglev_table(size: MaglevSize, seed: u64, shares: &[Share]) -> Vec<u16> {
    let places = u32::from(size.get());
    let mut candidates: Vec<Candidate> = (0u16..)
        .zip(shares)
        .filter_map(|(index, share)| Candidate::new(places, seed, index, share))
        .collect();
    let Some(heaviest) = candidates.iter().map(|candidate| candidate.weight).max() else {
        return Vec::new();
    };
    // Who is the first of a round must not depend on who was named first.
    candidates.sort_unstable_by_key(|candidate| candidate.name);
    candidates.iter_mut().for_each(|candidate| candidate.credit = heaviest - 1);

    let mut table = vec![FREE; places as usize];
    let mut free = places;
    loop {
        for candidate in &mut candidates {
            candidate.credit += candidate.weight;
            if candidate.credit < heaviest {
                continue;
            }
            candidate.credit -= heaviest;
            // It ends: a permutation visits all places, and one is free.
            let mut place = candidate.take(places);
            while table[place] != FREE {
                place = candidate.take(places);
            }
            table[place] = candidate.index;
            free -= 1;
            if free == 0 {
                return table;
            }
        }
    }
}

/// A place that is nobody's. There are fewer shares than this.
const FREE: u16 = u16::MAX;

/// A backend that takes places.
struct Candidate {
    index: u16,
    /// What its permutation is made of. Whether it is local is left out: hosts differ in that.
    name: (IpAddr, u16),
    weight: u32,
    /// What it saved up for its next turn.
    credit: u32,
    /// The place that it prefers of those that it has not tried yet.
    next: u32,
    /// From one of its places to the next one, modulo the size.
    skip: u32,
}

impl Candidate {
    fn new(places: u32, seed: u64, index: u16, share: &Share) -> Option<Self> {
        if share.times == 0 {
            return None;
        }
        let (address, port) = (share.backend.address, share.backend.port);
        let number = match address {
            IpAddr::V4(v4) => u128::from(u32::from(v4)),
            IpAddr::V6(v6) => u128::from(v6),
        };
        let words = [(number >> 64) as u64, number as u64, port.into()];
        let name = words.into_iter().fold(seed, scatter);
        // Two numbers that are independent of each other.
        let (offset, skip) = (scatter(name, OFFSET), scatter(name, SKIP));
        Some(Self {
            index,
            name: (address, port),
            weight: share.times.into(),
            credit: 0,
            next: (offset % u64::from(places)) as u32,
            // A size of 2 leaves a single one.
            skip: (skip % u64::from(places - 1)) as u32 + 1,
        })
    }

    /// The next place in its order of preference. Since the size is prime, it comes to each of them once.
    fn take(&mut self, places: u32) -> usize {
        let place = self.next;
        self.next += self.skip;
        if self.next >= places {
            self.next -= places;
        }
        place as usize
    }
}

const OFFSET: u64 = 1;
const SKIP: u64 = 2;
