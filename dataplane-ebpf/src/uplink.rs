//! What an embedder says of an interface.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// An interface that the dataplane works on, and how.
///
/// ```
/// use dataplane_ebpf::{Order, Uplink, XdpMode};
///
/// let uplink = Uplink::named("eth0").xdp(XdpMode::Auto).order(Order::First);
/// assert_eq!(uplink.name(), "eth0");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub(crate) name: String,
    pub(crate) xdp: XdpMode,
    pub(crate) tc: TcMode,
    pub(crate) order: Order,
    pub(crate) zone: u16,
    pub(crate) masquerade_v4: Option<Ipv4Addr>,
    pub(crate) masquerade_v6: Option<Ipv6Addr>,
}

impl Uplink {
    /// The interface of this name, in the network namespace of the thread that opens the dataplane.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            xdp: XdpMode::default(),
            tc: TcMode::default(),
            order: Order::default(),
            zone: 0,
            masquerade_v4: None,
            masquerade_v6: None,
        }
    }

    /// Whether and how XDP is used. [`XdpMode::Auto`] unless set.
    #[must_use]
    pub fn xdp(mut self, mode: XdpMode) -> Self {
        self.xdp = mode;
        self
    }

    /// How tc is used. [`TcMode::Auto`] unless set.
    #[must_use]
    pub fn tc(mut self, mode: TcMode) -> Self {
        self.tc = mode;
        self
    }

    /// Our place among others' programs at tc. [`Order::First`] unless set.
    #[must_use]
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// The conntrack zone: flows of interfaces in different zones are different flows, whatever their addresses. 0
    /// unless set. Where replies come in by another uplink than requests, both need the same zone.
    #[must_use]
    pub fn zone(mut self, zone: u16) -> Self {
        self.zone = zone;
        self
    }

    /// The address that flows to backends behind this interface get as their source, one for each family. Unless set it is
    /// the interface's own, the first that is neither secondary nor deprecated; it is looked up by
    /// [`open`](crate::Builder::open) and each [`refresh`](crate::EbpfDataplane::refresh). Packets to it must come in by this interface
    /// or another uplink of the same zone.
    #[must_use]
    pub fn masquerade_as(mut self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.masquerade_v4 = Some(v4),
            IpAddr::V6(v6) => self.masquerade_v6 = Some(v6),
        }
        self
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Whether XDP is used on an uplink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum XdpMode {
    /// In the driver where it can and nobody else is there, else not at all. Never on a veth: there the frames of local
    /// senders carry unfinished checksums, which XDP can't see.
    #[default]
    Auto,
    /// In the driver, or opening fails.
    Native,
    /// In the kernel's stack, behind the driver: for tests, and where tc is too late. Slower than native.
    ///
    /// For looking at things, not for service: on Linux 6.18, tcx gets what generic XDP left without a readable
    /// link-layer header and passes it on as not ours, so connections to unknown neighbours and to backends on this host
    /// are lost. [`Warning::GenericXdp`](crate::Warning::GenericXdp) says so of each such uplink.
    Generic,
    /// Not at all; tc does everything.
    Off,
}

/// How the programs at tc are attached. They are always there: XDP is a shortcut only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TcMode {
    /// tcx where the kernel has it (6.6), else clsact.
    #[default]
    Auto,
    /// tcx, or opening fails.
    Tcx,
    /// A filter on the clsact qdisc, which is made where it is not there, and left; with pins it goes with the rest where
    /// nobody else uses it.
    Clsact,
}

/// Our place among others' programs at tc.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// In front of those that are there. Later ones may still put themselves in front of us.
    #[default]
    First,
    /// Behind those that are there.
    Last,
}

/// A hook in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HookName {
    /// XDP in the driver.
    XdpNative,
    /// XDP in the stack.
    XdpGeneric,
    /// tcx, packets that come in.
    TcxIngress,
    /// tcx, packets that go out.
    TcxEgress,
    /// clsact, packets that come in.
    ClsactIngress,
    /// clsact, packets that go out.
    ClsactEgress,
}

impl fmt::Display for HookName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::XdpNative => "native XDP",
            Self::XdpGeneric => "generic XDP",
            Self::TcxIngress => "tcx ingress",
            Self::TcxEgress => "tcx egress",
            Self::ClsactIngress => "clsact ingress",
            Self::ClsactEgress => "clsact egress",
        })
    }
}
