//! Which verdicts occur at which hook, for which family: all that can, and no others.

use std::collections::BTreeMap;

use dataplane_core::pipeline::{DropReason, Hook, LeaveReason, PassReason, Verdict};

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

/// What an IP header says that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Carried {
    /// An ICMP error, whole enough to be one.
    Error,
    /// A later part of a packet.
    Later,
    /// Anything else.
    Other,
}

impl Carried {
    const ALL: [Self; 3] = [Self::Error, Self::Later, Self::Other];

    /// Where no tag and no extension header stands before it.
    pub fn of(frame: &[u8]) -> Self {
        let byte = |at: usize| frame.get(at).copied().unwrap_or(0);
        let offset = |at: usize| u16::from_be_bytes([byte(at), byte(at + 1)]);
        let kind = match Family::of(frame) {
            Family::V4 if byte(12) == 8 && byte(14) >> 4 == 4 && offset(20) & 0x1fff != 0 => {
                return Self::Later;
            }
            Family::V6 if byte(12) == 0x86 && byte(20) == 44 && offset(56) >> 3 != 0 => return Self::Later,
            Family::V4 if byte(12) == 8 && byte(14) >> 4 == 4 && byte(23) == 1 => {
                let header = usize::from(byte(14) & 15) * 4;
                return if matches!(byte(14 + header), 3 | 11 | 12) { Self::Error } else { Self::Other };
            }
            Family::V6 if byte(12) == 0x86 && byte(20) == 58 => byte(54),
            _ => 0,
        };
        if matches!(kind, 1..=4) { Self::Error } else { Self::Other }
    }
}

/// How often each verdict occurred, by the hook's number, the family, what was carried and the verdict's number.
#[derive(Debug, Default)]
pub struct Seen(BTreeMap<(u8, Family, Carried, u8), u64>);

impl Seen {
    pub fn note(&mut self, hook: Hook, family: Family, carried: Carried, verdict: Verdict) {
        *self.0.entry((hook as u8, family, carried, verdict.number())).or_default() += 1;
    }

    /// Fails where what occurred is not what can occur.
    pub fn is_what_can_occur(&self) {
        let mut wrong = Vec::new();
        for hook in Hook::ALL {
            for (family, carried) in
                Family::ALL.into_iter().flat_map(|family| Carried::ALL.map(|carried| (family, carried)))
            {
                for verdict in Verdict::all() {
                    let count =
                        self.0.get(&(hook as u8, family, carried, verdict.number())).copied().unwrap_or(0);
                    let can = can_occur(hook, family, verdict)
                        && match carried {
                            Carried::Error => can_of_errors(hook, family, verdict),
                            Carried::Later => can_of_later(hook, family, verdict),
                            Carried::Other => true,
                        };
                    let what = format!("{} {family:?} {carried:?} {verdict}", hook.name());
                    if can && count == 0 {
                        wrong.push(format!("{what}: never occurred"));
                    } else if !can && count > 0 {
                        wrong.push(format!("{what}: was thought not to occur, occurred {count} times"));
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
        // What goes out is nobody's but its flow's.
        Verdict::Pass(P::OwnAddress) => !out,
        Verdict::Pass(_) => true,
        Verdict::Leave(_) => xdp,
        Verdict::Deliver => !xdp,
        Verdict::Forward => !out,
        Verdict::Answer(_) => hook == Hook::Ingress,
        // There are enough of them.
        Verdict::Drop(D::AnswerLimit) => false,
        // XDP leaves to tc what is to be answered; tc drops it in silence where it is a reset or an error, or has no way
        // back.
        Verdict::Drop(D::TooBig | D::HopLimit | D::NoBackend) => hook == Hook::Ingress,
        Verdict::Drop(D::Malformed | D::TinyFragment) => true,
        // Of what goes out only replies are looked at, and the stack has found their way.
        Verdict::Drop(_) => !out,
    }
}

/// Of the verdicts that can occur: those of ICMP errors.
fn can_of_errors(hook: Hook, family: Family, verdict: Verdict) -> bool {
    use {DropReason as D, LeaveReason as L, PassReason as P};
    match verdict {
        _ if family == Family::Other => false,
        // It is seen to be one where no tag stands before it.
        Verdict::Leave(L::Tagged) => false,
        // An error opens nothing, and is of a flow that has a backend.
        Verdict::Drop(D::NoBackend | D::NoFlow | D::TupleInUse | D::Malformed | D::TinyFragment) => false,
        Verdict::Answer(_) => false,
        Verdict::Drop(D::NoMasqueradeAddress | D::NatExhausted) => false,
        // It is asked whose port it is of TCP and UDP alone, and whose address of echo requests.
        Verdict::Drop(D::NoPort) | Verdict::Pass(P::OwnAddress) => false,
        // The one router that is no source for IPv4 is one for IPv6.
        Verdict::Pass(P::Martian) => true,
        Verdict::Deliver | Verdict::Forward | Verdict::Pass(_) | Verdict::Leave(_) => true,
        Verdict::Drop(_) => hook != Hook::Egress,
    }
}

/// Of the verdicts that can occur: those of later parts of packets.
fn can_of_later(hook: Hook, family: Family, verdict: Verdict) -> bool {
    use {DropReason as D, LeaveReason as L, PassReason as P};
    match verdict {
        _ if family == Family::Other => false,
        // It is seen to be one where no tag stands before it.
        Verdict::Leave(L::Tagged) => false,
        // What it carries is not looked at, and without a service it is passed for being a part.
        Verdict::Pass(P::Protocol | P::OwnAddress) | Verdict::Drop(D::NoPort) => false,
        // It opens nothing, is of a flow that has a backend, and is never answered.
        Verdict::Drop(D::NoBackend | D::NoFlow | D::TupleInUse | D::Malformed | D::TinyFragment) => false,
        Verdict::Drop(D::NoMasqueradeAddress | D::NatExhausted) | Verdict::Answer(_) => false,
        Verdict::Deliver | Verdict::Forward | Verdict::Pass(_) | Verdict::Leave(_) => true,
        Verdict::Drop(_) => hook != Hook::Egress,
    }
}
