//! Time as the tables hold it.

use crate::abi::Setting;

/// A point in time, or a span of it: 2^27 ns, about 134 ms, counted from an arbitrary start, modulo 2^32 (18 years).
///
/// A shift makes it of the kernel's nanoseconds; a division would cost more than the lookup of an array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tick(pub u32);

impl Tick {
    const SHIFT: u32 = 27;

    /// A packet refreshes its flow once in so many ticks: about a second.
    pub const REFRESH: u32 = 8;

    /// The tick in which this nanosecond is.
    #[inline(always)]
    pub const fn from_nanoseconds(nanoseconds: u64) -> Self {
        Self((nanoseconds >> Self::SHIFT) as u32)
    }

    /// The shortest number of ticks that is not shorter than this many milliseconds. It saturates at some nine years:
    /// beyond that, past and future could not be told apart.
    pub const fn ticks_of_milliseconds(milliseconds: u64) -> u32 {
        let nanoseconds = milliseconds.saturating_mul(1_000_000);
        let ticks = nanoseconds.div_ceil(1 << Self::SHIFT);
        if ticks > (u32::MAX >> 1) as u64 { u32::MAX >> 1 } else { ticks as u32 }
    }

    /// How long so many ticks are.
    pub const fn span(ticks: u32) -> core::time::Duration {
        core::time::Duration::from_nanos((ticks as u64) << Self::SHIFT)
    }

    /// How many ticks have passed since `earlier`. A time that seems to lie in the future counts as now: clocks of two
    /// CPUs may differ by a tick.
    #[inline(always)]
    pub const fn since(self, earlier: Self) -> u32 {
        let passed = self.0.wrapping_sub(earlier.0);
        if passed > u32::MAX >> 1 { 0 } else { passed }
    }
}

/// How long flows are kept without a packet. Less than [`SHORTEST`](Timeouts::SHORTEST) counts as that.
///
/// Defaults are those that people of the field expect: 60 s for a TCP connection that is opening, 6 h established,
/// 10 s closing; UDP 60 s unanswered and 180 s with traffic both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP: not yet answered and acknowledged, in milliseconds.
    pub tcp_opening: u64,
    /// TCP: established, in milliseconds.
    pub tcp_established: u64,
    /// TCP: closed by both sides or reset, in milliseconds.
    pub tcp_closing: u64,
    /// UDP: unanswered, in milliseconds.
    pub udp: u64,
    /// UDP: with traffic both ways, in milliseconds.
    pub udp_stream: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_opening: 60_000,
            tcp_established: 21_600_000,
            tcp_closing: 10_000,
            udp: 60_000,
            udp_stream: 180_000,
        }
    }
}

impl Timeouts {
    /// The shortest time-out, in milliseconds: twice as long as the pause between two refreshes of a flow that has
    /// packets all the time.
    pub const SHORTEST: u64 = 2_200;

    /// The time-outs as they stand in the configuration: a word of ticks each.
    pub const fn settings(&self) -> [(Setting, u64); 5] {
        [
            (Setting::TcpOpening, Self::ticks(self.tcp_opening)),
            (Setting::TcpEstablished, Self::ticks(self.tcp_established)),
            (Setting::TcpClosing, Self::ticks(self.tcp_closing)),
            (Setting::Udp, Self::ticks(self.udp)),
            (Setting::UdpStream, Self::ticks(self.udp_stream)),
        ]
    }

    const fn ticks(milliseconds: u64) -> u64 {
        let milliseconds = if milliseconds < Self::SHORTEST { Self::SHORTEST } else { milliseconds };
        Tick::ticks_of_milliseconds(milliseconds) as u64
    }
}

const _: () = assert!(Tick::ticks_of_milliseconds(Timeouts::SHORTEST) >= 2 * Tick::REFRESH);

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_never_shorter_than_asked_for() {
        for milliseconds in [0u64, 1, 134, 135, 10_000, 60_000, 21_600_000] {
            let ticks = u64::from(Tick::ticks_of_milliseconds(milliseconds));
            assert!(ticks << 27 >= milliseconds * 1_000_000, "{milliseconds}");
            assert!(ticks << 27 < milliseconds * 1_000_000 + (1 << 27), "{milliseconds}");
        }
        assert_eq!(Tick::ticks_of_milliseconds(u64::MAX), u32::MAX / 2);
    }

    #[test]
    fn time_wraps() {
        assert_eq!(Tick(3).since(Tick(u32::MAX - 1)), 5);
        assert_eq!(Tick(3).since(Tick(4)), 0);
        assert_eq!(Tick::from_nanoseconds(u64::MAX), Tick(u32::MAX));
    }
}
