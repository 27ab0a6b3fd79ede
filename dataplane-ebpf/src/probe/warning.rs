//! What is not wrong enough to refuse, but will surprise.

use std::fmt;

use crate::uplink::HookName;

/// Something on this host that keeps traffic from flowing or costs speed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// The interface is down.
    InterfaceDown {
        /// The interface.
        interface: String,
    },
    /// The interface does not forward packets of a family, so none is sent on to a backend.
    ForwardingOff {
        /// The interface.
        interface: String,
        /// The setting that says so.
        setting: String,
    },
    /// The interface drops packets whose sender is reached by another interface.
    StrictReversePath {
        /// The interface.
        interface: String,
        /// The setting that says so.
        setting: String,
    },
    /// XDP runs on a veth, and frames of local senders carry unfinished checksums there.
    UnfinishedChecksums {
        /// The interface.
        interface: String,
        /// What is known of the other end.
        peer: PeerChecksums,
    },
    /// XDP runs on the interface, whose hardware takes VLAN tags off before, and VLANs stand on it: their frames look to
    /// XDP like the interface's own, and are balanced as such.
    ///
    /// VLANs that were moved to another network namespace can't be seen, and are not warned of.
    HiddenVlanTags {
        /// The interface.
        interface: String,
        /// The VLANs on top of it, by name.
        vlans: Vec<String>,
    },
    /// XDP runs on the interface, but frames that it sends out of it would be lost, so it leaves them to tc.
    XdpCannotSend {
        /// The interface.
        interface: String,
        /// Whether it is a veth, whose other end must have GRO on or an XDP program.
        veth: bool,
    },
    /// XDP runs in the stack, in front of tc, which gets what is left without a readable link-layer header on some
    /// kernels (Linux 6.18): connections to unknown neighbours and to backends on this host are lost there.
    GenericXdp {
        /// The interface.
        interface: String,
    },
    /// Another dataplane has a program on the same interface.
    SecondDataplane {
        /// The interface.
        interface: String,
        /// Where the other one's program stands.
        hook: HookName,
        /// The program's id.
        program_id: u32,
    },
    /// The ports of source NAT could not be reserved: a socket of the host may be given one of them. Before a port is used
    /// its sockets are asked, so that only sockets which come later lose packets.
    PortsNotReserved {
        /// Why.
        reason: String,
    },
    /// Connections were refused for lack of an address to masquerade them with (`no-masquerade-address`), and this uplink has
    /// none of a family.
    NoMasqueradeAddress {
        /// The interface.
        interface: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// The kernel has no batch commands (5.6): many changes take longer.
    NoBatch,
}

/// What is known of the TX checksum offload at the other end of a veth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerChecksums {
    /// It is on, at the interface of this name in the same network namespace.
    On(String),
    /// The other end is in another network namespace, where we can't look.
    Unknown,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InterfaceDown { interface } => {
                write!(f, "{interface} is down: `ip link set {interface} up`")
            }
            Self::ForwardingOff { interface, setting } => {
                write!(
                    f,
                    "{interface} does not forward: nothing that it receives is sent on to a backend until {setting} = 1"
                )
            }
            Self::StrictReversePath { interface, setting } => {
                write!(
                    f,
                    "{interface} drops what comes from where it would not send to ({setting} = 1): set 2 where replies \
                     leave by another interface"
                )
            }
            Self::UnfinishedChecksums { interface, peer: PeerChecksums::On(peer) } => {
                write!(
                    f,
                    "{interface} is a veth with XDP, and {peer} at its other end leaves checksums unfinished: `ethtool -K \
                     {peer} tx off`, or connections break"
                )
            }
            Self::UnfinishedChecksums { interface, peer: PeerChecksums::Unknown } => {
                write!(
                    f,
                    "{interface} is a veth with XDP: unless `ethtool -K … tx off` is set at its other end, in another \
                     network namespace, connections break"
                )
            }
            Self::HiddenVlanTags { interface, vlans } => {
                write!(
                    f,
                    "the hardware of {interface} takes VLAN tags off before XDP sees them, so frames of {} are balanced as \
                     {interface}'s own: `ethtool -K {interface} rxvlan off`, or XdpMode::Off",
                    vlans.join(", ")
                )
            }
            Self::XdpCannotSend { interface, veth: true } => {
                write!(
                    f,
                    "{interface} is a veth whose other end has neither an XDP program nor GRO (`ethtool -K … gro on`), so \
                     frames that XDP sends there would be lost; tc sends them"
                )
            }
            Self::XdpCannotSend { interface, veth: false } => {
                write!(
                    f,
                    "the driver of {interface} takes no frames from XDP, or not those in several buffers that an uplink with \
                     an MTU over 1500 has; tc sends them"
                )
            }
            Self::GenericXdp { interface } => {
                write!(
                    f,
                    "{interface} runs XDP in the stack (generic), which is for looking at things: on some kernels \
                     connections to unknown neighbours and to backends on this host are lost; use XdpMode::Auto, or \
                     XdpMode::Off where the driver has no XDP"
                )
            }
            Self::SecondDataplane { interface, hook, program_id } => {
                write!(
                    f,
                    "{interface} has a program of another dataplane at {hook} (id {program_id}): each goes by tables of its \
                     own, and the first in order takes what it knows; end one of them unless both are meant to be"
                )
            }
            Self::PortsNotReserved { reason } => {
                write!(
                    f,
                    "the ports of source NAT are not in net.ipv4.ip_local_reserved_ports ({reason}): add them, or sockets \
                     of this host may be given them"
                )
            }
            Self::NoMasqueradeAddress { interface, family } => {
                write!(
                    f,
                    "{interface} has no {family} address that is valid everywhere, and connections were refused for lack of \
                     one (no-masquerade-address): give it one, name one by Uplink::masquerade_as, or use Masquerade::Never"
                )
            }
            Self::NoBatch => {
                f.write_str("this kernel has no batch commands (5.6): tables are written entry by entry")
            }
        }
    }
}
