//! What may happen to a packet, by name and number.

/// Where a program stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Hook {
    /// XDP on an uplink: the shortcut for what leaves again.
    Xdp = 0,
    /// tcx or clsact, packets that come in: complete.
    Ingress = 1,
    /// tcx or clsact, packets that go out: replies of backends on this host.
    Egress = 2,
}

impl Hook {
    /// All hooks.
    pub const ALL: [Self; 3] = [Self::Xdp, Self::Ingress, Self::Egress];

    /// Its name in metrics and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// Defines an enum of reasons: number, name and meaning stand in one place.
macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$meaning:meta])+ $variant:ident = $number:literal $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$meaning])+ $variant = $number,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its name in metrics and messages.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            /// The reason of this number.
            #[inline(always)]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}
pub(super) use reasons;

reasons! {
    /// Why a packet is not ours. It goes on untouched, and programs behind us see it.
    PassReason {
        /// Neither IPv4 nor IPv6.
        NotIp = 0 "not-ip",
        /// Its link-layer destination is a group or another host.
        NotForHost = 1 "not-for-host",
        /// A header is cut off or contradicts itself, so that no table could apply.
        Malformed = 2 "malformed",
        /// A part of a packet, and whose it is can't be told: a later part of which the first has not come by lately, or one
        /// that would write over a TCP header.
        Fragment = 3 "fragment",
        /// Neither TCP nor UDP, or not yet at its last destination.
        Protocol = 4 "protocol",
        /// It belongs to no service and to no flow.
        NoService = 5 "no-service",
        /// Its source is an address that no packet on a wire may have.
        Martian = 6 "martian",
        /// The kernel could not make its headers readable.
        Unreadable = 7 "unreadable",
        /// The program that would have gone on is not in its place: never while a dataplane stands.
        NoProgram = 8 "no-program",
        /// It is for a virtual address, of no service, and the stack's: the address is the host's own as well, or the host has no
        /// route to it.
        OwnAddress = 9 "own-address",
    }
}

reasons! {
    /// Why XDP leaves a packet of ours untouched to the program at tcx, which makes the same decision.
    LeaveReason {
        /// The backend is on this host.
        Local = 16 "local",
        /// The neighbour's link-layer address is not known yet.
        NoNeighbor = 17 "no-neighbor",
        /// The interface that it leaves through does not take frames from XDP.
        Interface = 18 "interface",
        /// It is larger than the route allows.
        TooBig = 19 "too-big",
        /// It carries an 802.1Q tag.
        Tagged = 20 "tagged",
        /// It is to be dropped, and its sender told, which XDP can't.
        Answer = 22 "answer",
    }
}

reasons! {
    /// Why a packet of ours is dropped, and whoever sent it is told; or that it is answered.
    AnswerReason {
        /// The service has no backend that takes new flows: port unreachable, or a reset.
        NoBackend = 26 "no-backend",
        /// Its hop limit is used up: time exceeded.
        HopLimit = 27 "hop-limit",
        /// It is larger than the route allows and must not be split: fragmentation needed, or packet too big.
        TooBig = 28 "too-big",
        /// An echo request to a virtual address: its reply.
        Echo = 29 "echo",
    }
}

impl AnswerReason {
    /// What it is called where nobody is told.
    #[inline(always)]
    pub const fn dropped(self) -> DropReason {
        match self {
            Self::NoBackend => DropReason::NoBackend,
            Self::HopLimit => DropReason::HopLimit,
            Self::TooBig => DropReason::TooBig,
            Self::Echo => DropReason::AnswerLimit,
        }
    }
}

reasons! {
    /// Why a packet of ours is dropped.
    DropReason {
        /// The service has no backend that takes new flows.
        NoBackend = 32 "no-backend",
        /// Its hop limit is used up.
        HopLimit = 33 "hop-limit",
        /// The route to the backend or back to the client says unreachable, prohibited or blackhole.
        Unreachable = 34 "unreachable",
        /// It is larger than the route allows and must not be split.
        TooBig = 35 "too-big",
        /// Forwarding is switched off on the interface where it arrived.
        ForwardingOff = 36 "forwarding-off",
        /// The client uses the same port towards the same backend by way of another service already.
        TupleInUse = 37 "tuple-in-use",
        /// There is no room for another connection.
        ConntrackFull = 38 "conntrack-full",
        /// Its transport header contradicts itself.
        Malformed = 39 "malformed",
        /// The kernel refused to change the packet.
        Rewrite = 40 "rewrite",
        /// Its source is to be translated, and no address is known for the interface towards its backend: it is no uplink,
        /// or has no address of this family.
        NoMasqueradeAddress = 41 "no-masquerade-address",
        /// Every port that was tried towards its backend is in use.
        NatExhausted = 42 "nat-exhausted",
        /// There is no room for another reservation of a port.
        NatFull = 43 "nat-full",
        /// Another CPU was opening or ending the same connection, and what it made of it can't be told yet.
        Contended = 44 "contended",
        /// Its source was translated, and only the stack knows a way to its backend by now. The stack would take it for
        /// forged.
        StackOnly = 45 "stack-only",
        /// It would be answered, and this CPU has sent as many answers as it may.
        AnswerLimit = 46 "answer-limit",
        /// It is for a virtual address, at a port that no service has there.
        NoPort = 47 "no-port",
        /// The first part of a packet that is ours lacks a part of its transport header (RFC 1858).
        TinyFragment = 48 "tiny-fragment",
        /// It is a reset, or a SYN with an ACK, of no flow: it opens none.
        NoFlow = 49 "no-flow",
    }
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Not ours: untouched.
    Pass(PassReason),
    /// Ours, untouched by XDP: tcx does it.
    Leave(LeaveReason),
    /// Translated, and handed to this host's stack.
    Deliver,
    /// Translated, and sent to the next hop.
    Forward,
    /// Gone, and its sender is told: what leaves in its place is a packet of our own.
    Answer(AnswerReason),
    /// Gone.
    Drop(DropReason),
}

impl DropReason {
    /// Why its sender is told, if it is to be.
    #[inline(always)]
    pub const fn answered(self) -> Option<AnswerReason> {
        match self {
            Self::NoBackend => Some(AnswerReason::NoBackend),
            Self::HopLimit => Some(AnswerReason::HopLimit),
            Self::TooBig => Some(AnswerReason::TooBig),
            _ => None,
        }
    }
}

impl Verdict {
    /// The number under which it is counted: under 64.
    #[inline(always)]
    pub const fn number(self) -> u8 {
        match self {
            Self::Pass(reason) => reason as u8,
            Self::Leave(reason) => reason as u8,
            Self::Deliver => DELIVER,
            Self::Forward => FORWARD,
            Self::Answer(reason) => reason as u8,
            Self::Drop(reason) => reason as u8,
        }
    }

    /// Every verdict there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let passes = PassReason::ALL.iter().copied().map(Self::Pass);
        let leaves = LeaveReason::ALL.iter().copied().map(Self::Leave);
        let drops = DropReason::ALL.iter().copied().map(Self::Drop);
        let answers = AnswerReason::ALL.iter().copied().map(Self::Answer);
        passes.chain(leaves).chain([Self::Deliver, Self::Forward]).chain(answers).chain(drops)
    }

    /// What it does with the packet: `pass`, `leave`, `deliver`, `forward`, `answer` or `drop`.
    pub const fn action(self) -> &'static str {
        match self {
            Self::Pass(_) => "pass",
            Self::Leave(_) => "leave",
            Self::Deliver => "deliver",
            Self::Forward => "forward",
            Self::Answer(_) => "answer",
            Self::Drop(_) => "drop",
        }
    }

    /// Why, where there is more than one reason for the action.
    pub const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Pass(reason) => Some(reason.name()),
            Self::Leave(reason) => Some(reason.name()),
            Self::Deliver | Self::Forward => None,
            Self::Answer(reason) => Some(reason.name()),
            Self::Drop(reason) => Some(reason.name()),
        }
    }
}

/// A verdict by its number. So the programs carry it: of a verdict without a reason, the compiler would carry a reason that
/// is not there, which the verifier takes for a mistake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VerdictNumber(u8);

impl VerdictNumber {
    /// The number: under 64.
    #[inline(always)]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Why its sender is told, where it is a drop that is to be.
    #[inline(always)]
    pub const fn answered(self) -> Option<AnswerReason> {
        match DropReason::from_number(self.0) {
            Some(reason) => reason.answered(),
            None => None,
        }
    }

    /// What happens, whatever the reason.
    #[inline(always)]
    pub const fn action(self) -> Action {
        match self.0 {
            0..LEAVE => Action::Pass,
            LEAVE..DELIVER => Action::Leave,
            DELIVER => Action::Deliver,
            FORWARD => Action::Forward,
            ANSWER..DROP => Action::Answer,
            _ => Action::Drop,
        }
    }
}

/// What happens to a packet, without the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// [`Verdict::Pass`].
    Pass,
    /// [`Verdict::Leave`].
    Leave,
    /// [`Verdict::Deliver`].
    Deliver,
    /// [`Verdict::Forward`].
    Forward,
    /// [`Verdict::Answer`].
    Answer,
    /// [`Verdict::Drop`].
    Drop,
}

/// The first number of a reason to leave a packet.
const LEAVE: u8 = 16;
const DELIVER: u8 = 24;
const FORWARD: u8 = 25;
/// The first number of a reason to answer a packet.
const ANSWER: u8 = 26;
/// The first number of a reason to drop a packet.
const DROP: u8 = 32;

impl From<Verdict> for VerdictNumber {
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        Self(verdict.number())
    }
}

impl From<VerdictNumber> for Verdict {
    fn from(VerdictNumber(number): VerdictNumber) -> Self {
        let pass = PassReason::from_number(number).map(Self::Pass);
        let leave = || LeaveReason::from_number(number).map(Self::Leave);
        let answer = || AnswerReason::from_number(number).map(Self::Answer);
        let drop = || DropReason::from_number(number).map(Self::Drop);
        match pass.or_else(leave).or_else(answer).or_else(drop) {
            Some(verdict) => verdict,
            // A number comes from a verdict, and these are the two without a reason.
            None if number == Self::Forward.number() => Self::Forward,
            None => Self::Deliver,
        }
    }
}

impl core::fmt::Display for Verdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.reason() {
            Some(reason) => write!(f, "{}: {reason}", self.action()),
            None => f.write_str(self.action()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_verdict_has_a_number_and_a_text_of_its_own() {
        let numbers: HashSet<u8> = Verdict::all().map(Verdict::number).collect();
        assert_eq!(numbers.len(), Verdict::all().count());
        assert!(numbers.iter().all(|&number| number < 64));
        for verdict in Verdict::all() {
            let number = VerdictNumber::from(verdict);
            assert_eq!((number.get(), Verdict::from(number)), (verdict.number(), verdict));
            assert_eq!(format!("{:?}", number.action()).to_lowercase(), verdict.action());
        }
        let texts: HashSet<String> = Verdict::all().map(|verdict| verdict.to_string()).collect();
        assert_eq!(texts.len(), Verdict::all().count());
    }
}
