//! The parts of the pipeline that are programs of their own in the kernel.
//!
//! Together they would be more than one program may hold. The first one, which [`begin`](super::begin) is, has the link
//! layer and IPv4; a packet that needs another goes there by a tail call, with its workspaces as they are. No stage that
//! has a next one has changed the packet.

use super::{Environment, Hook, PassReason, Verdict};

/// A stage behind the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Stage {
    /// IPv6, from its header on.
    V6 = 0,
}

impl Stage {
    /// All of them, in the order of their numbers.
    pub const ALL: &'static [Self] = &[Self::V6];

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
    Done(Verdict),
    /// Another stage goes on: [`resume`](super::resume).
    Next(Stage),
}

impl Step {
    /// Counts the verdict, where there is one.
    #[inline(always)]
    pub(super) fn counted<E: Environment>(self, hook: Hook, env: &E) -> Self {
        if let Self::Done(verdict) = self {
            env.count(hook, verdict);
        }
        self
    }
}

impl From<Result<Verdict, Verdict>> for Step {
    #[inline(always)]
    fn from(result: Result<Verdict, Verdict>) -> Self {
        match result {
            Ok(verdict) | Err(verdict) => Self::Done(verdict),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_numbered_in_their_order() {
        for (stage, number) in Stage::ALL.iter().zip(0u32..) {
            assert_eq!(*stage as u32, number);
        }
    }
}
