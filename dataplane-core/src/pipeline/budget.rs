//! A limit on how many of something each CPU sends in a second: answers, and events of drops.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Tick;

/// How many of a kind, answers say, may be sent: one CPU's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Budget {
    /// How many are left.
    pub left: u32,
    /// When some were last added.
    pub filled: u32,
}

impl Budget {
    /// Takes one, where there is one: `a_second` come back each second, and as many are there at most.
    #[inline(always)]
    pub fn take(&mut self, now: Tick, a_second: u32) -> bool {
        let passed = now.since(Tick(self.filled));
        if passed != 0 {
            // A tick is 2^27 ns: 137 of 1024 parts of a second.
            let passed = if passed > 8 { 8 } else { passed };
            let new = u64::from(a_second).wrapping_mul(u64::from(passed)).wrapping_mul(137) >> 10;
            let left = u64::from(self.left).wrapping_add(if new == 0 { 1 } else { new });
            self.left = if left > a_second.into() { a_second } else { left as u32 };
            self.filled = now.0;
        }
        if self.left == 0 || a_second == 0 {
            return false;
        }
        self.left = self.left.wrapping_sub(1);
        true
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_gives_out_as_many_as_it_gets() {
        let mut budget = Budget::default();
        let mut taken = 0;
        // Ten seconds, 100 a second, asked for all the time; it begins full.
        for tick in 1_000..1_075 {
            for _ in 0..1_000 {
                taken += u32::from(budget.take(Tick(tick), 100));
            }
        }
        assert!((1_000..=1_110).contains(&taken), "{taken}");
        assert!(!budget.take(Tick(5_000), 0), "none are to be sent");
        let mut slow = Budget::default();
        let taken: u32 = (1_000..1_075).map(|tick| u32::from(slow.take(Tick(tick), 1))).sum();
        assert!(taken > 0);
    }
}
