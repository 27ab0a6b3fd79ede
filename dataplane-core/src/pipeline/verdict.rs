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
        }
    };
}

reasons! {
    /// Why a packet is not ours. It goes on untouched, and programs behind us see it.
    PassReason {
        /// Neither IPv4 nor IPv6.
        NotIp = 0 "not-ip",
        /// Its link-layer destination is a group or another host.
        NotForHost = 1 "not-for-host",
        /// A header is cut off or contradicts itself, so that no table could apply.
        Malformed = 2 "malformed",
        /// A part of a packet.
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
        /// Another CPU opened its connection in the same moment.
        Contended = 21 "contended",
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
    /// Gone.
    Drop(DropReason),
}

impl Verdict {
    /// The number under which it is counted: under 64.
    #[inline(always)]
    pub const fn number(self) -> u8 {
        match self {
            Self::Pass(reason) => reason as u8,
            Self::Leave(reason) => reason as u8,
            Self::Deliver => 24,
            Self::Forward => 25,
            Self::Drop(reason) => reason as u8,
        }
    }

    /// Every verdict there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let passes = PassReason::ALL.iter().copied().map(Self::Pass);
        let leaves = LeaveReason::ALL.iter().copied().map(Self::Leave);
        let drops = DropReason::ALL.iter().copied().map(Self::Drop);
        passes.chain(leaves).chain([Self::Deliver, Self::Forward]).chain(drops)
    }

    /// What it does with the packet: `pass`, `leave`, `deliver`, `forward` or `drop`.
    pub const fn action(self) -> &'static str {
        match self {
            Self::Pass(_) => "pass",
            Self::Leave(_) => "leave",
            Self::Deliver => "deliver",
            Self::Forward => "forward",
            Self::Drop(_) => "drop",
        }
    }

    /// Why, where there is more than one reason for the action.
    pub const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Pass(reason) => Some(reason.name()),
            Self::Leave(reason) => Some(reason.name()),
            Self::Deliver | Self::Forward => None,
            Self::Drop(reason) => Some(reason.name()),
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
        let texts: HashSet<String> = Verdict::all().map(|verdict| verdict.to_string()).collect();
        assert_eq!(texts.len(), Verdict::all().count());
    }
}
