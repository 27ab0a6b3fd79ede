//! The parts of the pipeline that are programs of their own in the kernel.
//!
//! Together they would be more than one program may hold. The first one, which [`begin`](super::begin) is, has the link
//! layer and IPv4; a packet that needs another goes there by a tail call, with its workspaces as they are. No stage that
//! has a next one has changed the packet.

use super::{PassReason, Verdict, VerdictNumber};

/// A stage behind the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Stage {
    /// IPv6, from its header on.
    V6 = 0,
    /// An IPv4 connection whose source is translated is opened. It has a port to look for.
    MasqueradeV4 = 1,
    /// As [`MasqueradeV4`](Self::MasqueradeV4), of IPv6.
    MasqueradeV6 = 2,
    /// ICMP.
    IcmpV4 = 3,
    /// ICMPv6.
    IcmpV6 = 4,
    /// A packet of IPv4 is dropped and answered. Only at ingress.
    AnswerV4 = 5,
    /// A packet of IPv6 is dropped and answered. Only at ingress.
    AnswerV6 = 6,
    /// A part of an IPv4 packet.
    FragmentV4 = 7,
    /// A part of an IPv6 packet.
    FragmentV6 = 8,
    /// An IPv4 connection to a service with affinity is opened.
    AffinityV4 = 9,
    /// As [`AffinityV4`](Self::AffinityV4), of IPv6.
    AffinityV6 = 10,
}

impl Stage {
    /// All of them, in the order of their numbers.
    pub const ALL: &'static [Self] = &[
        Self::V6,
        Self::MasqueradeV4,
        Self::MasqueradeV6,
        Self::IcmpV4,
        Self::IcmpV6,
        Self::AnswerV4,
        Self::AnswerV6,
        Self::FragmentV4,
        Self::FragmentV6,
        Self::AffinityV4,
        Self::AffinityV6,
    ];

    /// Whether it has to do with IPv6.
    #[inline(always)]
    pub(super) const fn is_v6(self) -> bool {
        matches!(
            self,
            Self::V6
                | Self::MasqueradeV6
                | Self::IcmpV6
                | Self::AnswerV6
                | Self::FragmentV6
                | Self::AffinityV6
        )
    }

    /// What becomes of a packet whose next stage is not in its place.
    #[inline(always)]
    pub const fn absent(self) -> Verdict {
        Verdict::Pass(PassReason::NoProgram)
    }
}

/// What a stage comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// This, and it is counted.
    Done(VerdictNumber),
    /// Another stage goes on: [`resume`](super::resume).
    Next(Stage),
}

impl Step {
    /// There is a verdict.
    #[inline(always)]
    pub(super) fn done(verdict: Verdict) -> Self {
        Self::Done(verdict.into())
    }
}

impl From<Result<VerdictNumber, VerdictNumber>> for Step {
    #[inline(always)]
    fn from(result: Result<VerdictNumber, VerdictNumber>) -> Self {
        match result {
            Ok(verdict) | Err(verdict) => Self::Done(verdict),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_of_ipv6_are_those_that_are_called_so() {
        for stage in Stage::ALL {
            assert_eq!(stage.is_v6(), format!("{stage:?}").ends_with("V6"), "{stage:?}");
        }
    }

    #[test]
    fn stages_are_numbered_in_their_order() {
        for (stage, number) in Stage::ALL.iter().zip(0u32..) {
            assert_eq!(*stage as u32, number);
        }
    }
}
