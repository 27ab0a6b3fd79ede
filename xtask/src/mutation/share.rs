//! Which mutations a run takes.

use std::str::FromStr;

/// Every so many-th of a list, beginning at one of the first: all shares together are the list, and none has what another
/// has. Neighbours, which break the same stage, go to different shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    first: usize,
    of: usize,
}

impl Share {
    /// The whole list.
    pub const WHOLE: Self = Self { first: 0, of: 1 };

    /// Whether it has what stands at this place of the list.
    pub fn has(self, place: usize) -> bool {
        place % self.of == self.first
    }
}

impl FromStr for Share {
    type Err = String;

    /// `K/N`: every N-th, beginning at the K-th, where the first is the 0th.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted = || format!("{text:?} is no share: K/N with 0 ≤ K < N, as 0/4");
        let (first, of) = text.split_once('/').ok_or_else(wanted)?;
        let number = |text: &str| text.parse::<usize>().map_err(|_| wanted());
        let share = Self { first: number(first)?, of: number(of)? };
        if share.first < share.of { Ok(share) } else { Err(wanted()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The places of the first ten that a share has.
    fn places(text: &str) -> Vec<usize> {
        let share: Share = text.parse().unwrap();
        (0..10).filter(|&place| share.has(place)).collect()
    }

    #[test]
    fn a_share_is_every_nth_from_the_kth() {
        assert_eq!(places("0/4"), [0, 4, 8]);
        assert_eq!(places("1/4"), [1, 5, 9]);
        assert_eq!(places("2/4"), [2, 6]);
        assert_eq!(places("3/4"), [3, 7]);
        assert_eq!(places("0/1"), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(places("7/100"), [7]);
        assert_eq!(places("12/100"), []);
        assert_eq!("0/1".parse(), Ok(Share::WHOLE));
    }

    #[test]
    fn what_is_no_share_is_refused_by_name() {
        for text in
            ["", "/", "3", "4/4", "5/4", "0/0", "-1/4", "1/-4", "1/", "/4", "1/2/3", "a/4", " 1/4", "1.0/4"]
        {
            let error = text.parse::<Share>().unwrap_err();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
