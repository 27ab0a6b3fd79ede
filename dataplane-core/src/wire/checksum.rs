//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use super::{Be16, Ipv4Address, Ipv6Address};

/// What a change of a packet adds to a checksum over it: a one's complement sum of 16-bit words, each loaded in the
/// host's order (RFC 1071, 2(B): the sum does not depend on it).
///
/// Deltas of several changes add up, in any order, so that one for all of them can be kept with a connection.
///
/// ```
/// use dataplane_core::wire::{Be16, Delta};
///
/// // The example of RFC 1624, section 4.
/// let delta = Delta::ZERO.replace16(Be16::new(0x5555), Be16::new(0x3285));
/// assert_eq!(delta.apply(Be16::new(0xdd2f)), Be16::new(0x0000));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(pub u16);

impl Delta {
    /// No change.
    pub const ZERO: Self = Self(0);

    /// Adds the change of one 16-bit word.
    #[inline(always)]
    #[must_use]
    pub const fn replace16(self, old: Be16, new: Be16) -> Self {
        Self(fold((self.0 as u32).wrapping_add(!old.0 as u32).wrapping_add(new.0 as u32)))
    }

    /// Adds the change of an aligned 32-bit word.
    #[inline(always)]
    #[must_use]
    pub const fn replace32(self, old: u32, new: u32) -> Self {
        let removed = (!old & 0xffff).wrapping_add(!old >> 16);
        let added = (new & 0xffff).wrapping_add(new >> 16);
        Self(fold((self.0 as u32).wrapping_add(removed).wrapping_add(added)))
    }

    /// Adds another delta.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(fold((self.0 as u32).wrapping_add(other.0 as u32)))
    }

    /// Adds the change of an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn replace_v4(self, old: Ipv4Address, new: Ipv4Address) -> Self {
        self.replace32(old.0, new.0)
    }

    /// Adds the change of an IPv6 address.
    #[inline(always)]
    #[must_use]
    pub const fn replace_v6(self, old: Ipv6Address, new: Ipv6Address) -> Self {
        let [a, b, c, d] = old.0;
        let [e, f, g, h] = new.0;
        self.replace32(a, e).replace32(b, f).replace32(c, g).replace32(d, h)
    }

    /// Adds words, in the host's order.
    #[inline(always)]
    #[must_use]
    pub fn words<const N: usize>(self, words: &[u16; N]) -> Self {
        let sum = words.iter().fold(u32::from(self.0), |sum, &word| sum.wrapping_add(word.into()));
        Self(fold(sum))
    }

    /// What makes zero of it when it is added.
    #[inline(always)]
    #[must_use]
    pub const fn negative(self) -> Self {
        Self(!self.0)
    }

    /// The checksum of data of which this is the sum.
    #[inline(always)]
    pub const fn checksum(self) -> Be16 {
        Be16(!self.0)
    }

    /// The checksum after the change: RFC 1624, equation 3.
    ///
    /// It is never 0xffff, as the kernel's `csum_fold` of a sum that is not zero never is.
    #[inline(always)]
    pub const fn apply(self, checksum: Be16) -> Be16 {
        // The upper half of the complement is 0xffff, one's complement zero: with it the sum is never plain 0.
        let sum = 0xffffu32.wrapping_add(!checksum.0 as u32).wrapping_add(self.0 as u32);
        Be16(!fold(sum))
    }

    /// The checksum of a UDP datagram after the change: 0 means "none" and stays (RFC 768), and a sum that comes out
    /// as 0 is sent as 0xffff.
    #[inline(always)]
    pub const fn apply_udp(self, checksum: Be16) -> Be16 {
        if checksum.0 == 0 {
            return checksum;
        }
        let changed = self.apply(checksum);
        if changed.0 == 0 { Be16(0xffff) } else { changed }
    }
}

/// Adds the carries back in, until 16 bits are left.
#[inline(always)]
const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff).wrapping_add(sum >> 16);
    (once & 0xffff).wrapping_add(once >> 16) as u16
}

/// The sum of words of 64 bits, each loaded in the host's order.
#[inline(always)]
pub fn sum_words(words: impl Iterator<Item = u64>) -> Delta {
    // No carry is lost: less than 2^32 of them.
    let sum = words.fold(0u64, |sum, word| sum.wrapping_add(word & 0xffff_ffff).wrapping_add(word >> 32));
    let folded = (sum & 0xffff_ffff).wrapping_add(sum >> 32);
    let folded = (folded & 0xffff_ffff).wrapping_add(folded >> 32);
    let folded = (folded & 0xffff).wrapping_add(folded >> 16);
    Delta(fold(folded as u32))
}

/// The Internet checksum of bytes, as it stands in a header: RFC 1071. `initial` is a sum to go on from, for a
/// pseudo header. Cost: linear in the bytes; packets are never summed on the packet path.
pub fn internet_checksum(initial: u16, bytes: &[u8]) -> Be16 {
    let mut sum = u64::from(initial);
    let mut pairs = bytes.chunks_exact(2);
    for pair in &mut pairs {
        if let &[a, b] = pair {
            sum = sum.wrapping_add(u16::from_ne_bytes([a, b]).into());
        }
    }
    if let &[last] = pairs.remainder() {
        sum = sum.wrapping_add(u16::from_ne_bytes([last, 0]).into());
    }
    let folded = (sum & 0xffff_ffff).wrapping_add(sum >> 32);
    let narrow = (folded & 0xffff).wrapping_add(folded >> 16);
    Be16(!fold(u32::try_from(narrow).unwrap_or(u32::MAX)))
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071, section 3: the words 0001 f203 f4f5 f6f7 sum to ddf2.
    #[test]
    fn rfc_1071_example() {
        let sum = internet_checksum(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.get(), !0xddf2);
    }

    /// RFC 1624, section 4: checksum dd2f, a word changes from 5555 to 3285, and the new checksum is 0000.
    #[test]
    fn rfc_1624_example() {
        let delta = Delta::ZERO.replace16(Be16::new(0x5555), Be16::new(0x3285));
        assert_eq!(delta.apply(Be16::new(0xdd2f)).get(), 0x0000);
        assert_eq!(delta.apply_udp(Be16::new(0xdd2f)).get(), 0xffff);
    }

    #[test]
    fn udp_without_a_checksum_stays_without() {
        let delta = Delta::ZERO.replace16(Be16::new(1), Be16::new(2));
        assert_eq!(delta.apply_udp(Be16(0)), Be16(0));
    }

    proptest! {
        /// The oracle is a checksum over the whole changed data.
        #[test]
        fn incremental_is_as_good_as_whole(mut data in prop::collection::vec(any::<u8>(), 40..60), new: [u8; 20]) {
            let data = { data.truncate(data.len() & !1); data };
            let before = internet_checksum(0, &data);
            let mut changed = data.clone();
            changed[4..24].copy_from_slice(&new);
            let word = |bytes: &[u8], at: usize| Be16(u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
            let long = |bytes: &[u8], at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
            let mut delta = Delta::ZERO;
            for at in (4..12).step_by(2) {
                delta = delta.replace16(word(&data, at), word(&changed, at));
            }
            let longs = (12..24).step_by(4).fold(Delta::ZERO, |d, at| d.replace32(long(&data, at), long(&changed, at)));
            let expected = internet_checksum(0, &changed);
            let got = delta.and(longs).apply(before);
            // 0000 and ffff are the same number in one's complement.
            prop_assert_eq!(got.0 % 0xffff, expected.0 % 0xffff);
            prop_assert_ne!(got.0, 0xffff);
        }
    }
}
