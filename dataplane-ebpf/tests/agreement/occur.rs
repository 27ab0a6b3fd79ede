//! Which verdicts occur at which hook, for which family: all that can, and no others.

use std::collections::BTreeMap;

use dataplane_core::pipeline::{DropReason, Hook, PassReason, Verdict};

/// What a frame says that it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
    /// Neither, as far as this test can see.
    Other,
}

impl Family {
    const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Other];

    /// Behind two 802.1Q tags at the most.
    pub fn of(frame: &[u8]) -> Self {
        let mut at = 12;
        for _ in 0..3 {
            match frame.get(at..at + 2) {
                Some([0x08, 0x00]) => return Self::V4,
                Some([0x86, 0xdd]) => return Self::V6,
                Some([0x81, 0x00] | [0x88, 0xa8]) => at += 4,
                _ => break,
            }
        }
        Self::Other
    }
}

/// How often each verdict occurred, by the hook's number, the family and the verdict's number.
#[derive(Debug, Default)]
pub struct Seen(BTreeMap<(u8, Family, u8), u64>);

impl Seen {
    pub fn note(&mut self, hook: Hook, family: Family, verdict: Verdict) {
        *self.0.entry((hook as u8, family, verdict.number())).or_default() += 1;
    }

    /// Fails where what occurred is not what can occur.
    pub fn is_what_can_occur(&self) {
        let mut wrong = Vec::new();
        for hook in Hook::ALL {
            for family in Family::ALL {
                for verdict in Verdict::all() {
                    let count = self.0.get(&(hook as u8, family, verdict.number())).copied().unwrap_or(0);
                    let can = can_occur(hook, family, verdict);
                    if can && count == 0 {
                        wrong.push(format!("{} {family:?} {verdict}: never occurred", hook.name()));
                    } else if !can && count > 0 {
                        wrong.push(format!(
                            "{} {family:?} {verdict}: was thought not to occur, occurred {count} times",
                            hook.name()
                        ));
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

fn can_occur(hook: Hook, family: Family, verdict: Verdict) -> bool {
    use {DropReason as D, PassReason as P};
    let (xdp, out) = (hook == Hook::Xdp, hook == Hook::Egress);
    match verdict {
        // One frame at a time: nobody to race with.
        Verdict::Drop(D::Contended) => false,
        // The table is larger than all ranges of ports together, and no route goes.
        Verdict::Drop(D::NatFull | D::StackOnly) => false,
        // Its own headers always fit.
        Verdict::Pass(P::Unreadable) => false,
        // Every stage is in its place.
        Verdict::Pass(P::NoProgram) => false,
        // An LRU table evicts.
        Verdict::Drop(D::ConntrackFull) => false,
        // The kernel would have to refuse a write within a frame that was just read.
        Verdict::Drop(D::Rewrite) => false,
        // Whose a frame is that goes out is not asked.
        Verdict::Pass(P::NotForHost) => !out,
        Verdict::Pass(P::NotIp) => family == Family::Other,
        // A tag that is cut off. At tc the frames of test runs are long enough for two.
        Verdict::Pass(P::Malformed) if family == Family::Other => xdp,
        _ if family == Family::Other => false,
        Verdict::Pass(_) => true,
        Verdict::Leave(_) => xdp,
        Verdict::Deliver => !xdp,
        Verdict::Forward => !out,
        // The stack sends it on its way, or XDP leaves it to tc.
        Verdict::Drop(D::TooBig) => !xdp && !out,
        Verdict::Drop(D::Malformed) => true,
        // Of what goes out only replies are looked at, and the stack has found their way.
        Verdict::Drop(_) => !out,
    }
}
