//! Routes in a namespace's main table.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType, RouteVia,
};

use super::netlink::family;
use super::{Interface, Namespace, NetError};

/// What the kernel does with a packet that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouteKind {
    /// Sends it on.
    Unicast,
    /// Drops it silently.
    Blackhole,
    /// Drops it; the sender hears "host unreachable".
    Unreachable,
    /// Drops it; the sender hears "administratively prohibited".
    Prohibit,
}

/// A route, built up and then given to [`Namespace::add_route`].
///
/// ```
/// use dataplane_testkit::net::Route;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let vips = Route::to("203.0.113.0/24".parse()?).via("192.0.2.1".parse()?);
/// let hole = Route::to("2001:db8:dead::/48".parse()?).blackhole();
/// assert_eq!(vips.to_string(), "unicast 203.0.113.0/24 via 192.0.2.1");
/// assert_eq!(hole.to_string(), "blackhole 2001:db8:dead::/48");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    destination: IpNet,
    kind: RouteKind,
    gateway: Option<IpAddr>,
    device: Option<u32>,
    source: Option<IpAddr>,
    metric: Option<u32>,
    mtu: Option<u32>,
}

impl Route {
    /// To a prefix; bits beyond its length are ignored.
    pub fn to(destination: IpNet) -> Self {
        let destination = destination.trunc();
        Self {
            destination,
            kind: RouteKind::Unicast,
            gateway: None,
            device: None,
            source: None,
            metric: None,
            mtu: None,
        }
    }

    /// To everywhere, by a gateway of either family.
    pub fn default_via(gateway: IpAddr) -> Self {
        let everywhere = match gateway {
            IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
            IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
        };
        Self::to(everywhere).via(gateway)
    }

    /// By a gateway: of the destination's family, or IPv6 for an IPv4 destination (kernel 5.2).
    pub fn via(mut self, gateway: IpAddr) -> Self {
        self.gateway = Some(gateway);
        self
    }

    /// Out of an interface. Without a gateway, the destinations are neighbours on it.
    pub fn on(mut self, device: &Interface) -> Self {
        self.device = Some(device.index());
        self
    }

    /// The address that a socket without one gets.
    pub fn source(mut self, address: IpAddr) -> Self {
        self.source = Some(address);
        self
    }

    /// Of two routes to a prefix the one with the lower metric counts.
    pub fn metric(mut self, metric: u32) -> Self {
        self.metric = Some(metric);
        self
    }

    /// The largest packet, in bytes, that this route takes. Locked, without which the kernel does not hold a
    /// forwarded IPv4 packet to it.
    pub fn mtu(mut self, bytes: u32) -> Self {
        self.mtu = Some(bytes);
        self
    }

    /// Drops what matches, silently.
    pub fn blackhole(self) -> Self {
        self.kind(RouteKind::Blackhole)
    }

    /// Drops what matches and answers "host unreachable".
    pub fn unreachable(self) -> Self {
        self.kind(RouteKind::Unreachable)
    }

    /// Drops what matches and answers "administratively prohibited".
    pub fn prohibit(self) -> Self {
        self.kind(RouteKind::Prohibit)
    }

    fn kind(mut self, kind: RouteKind) -> Self {
        self.kind = kind;
        self
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family(self.destination.addr());
        message.header.destination_prefix_length = self.destination.prefix_len();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        // A neighbour on a device has scope link; IPv6 knows no scopes and ignores it.
        let on_link = self.kind == RouteKind::Unicast && self.gateway.is_none();
        message.header.scope = if on_link { RouteScope::Link } else { RouteScope::Universe };
        message.header.kind = match self.kind {
            RouteKind::Unicast => RouteType::Unicast,
            RouteKind::Blackhole => RouteType::BlackHole,
            RouteKind::Unreachable => RouteType::Unreachable,
            RouteKind::Prohibit => RouteType::Prohibit,
        };
        let mut attributes = Vec::new();
        if self.destination.prefix_len() > 0 {
            attributes.push(RouteAttribute::Destination(self.destination.addr().into()));
        }
        attributes.extend(self.gateway.map(|gateway| match (self.destination, gateway) {
            (IpNet::V4(_), IpAddr::V6(v6)) => RouteAttribute::Via(RouteVia::Inet6(v6)),
            (_, same) => RouteAttribute::Gateway(same.into()),
        }));
        attributes.extend(self.device.map(RouteAttribute::Oif));
        attributes.extend(self.source.map(|source| RouteAttribute::PrefSource(source.into())));
        attributes.extend(self.metric.map(RouteAttribute::Priority));
        attributes.extend(self.mtu.map(|bytes| {
            let lock_of_mtu = 1 << u32::from(RTAX_MTU);
            RouteAttribute::Metrics(vec![RouteMetric::Lock(lock_of_mtu), RouteMetric::Mtu(bytes)])
        }));
        message.attributes = attributes;
        message
    }
}

/// linux/rtnetlink.h: the number of the MTU among a route's metrics.
const RTAX_MTU: u16 = 2;

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            RouteKind::Unicast => "unicast",
            RouteKind::Blackhole => "blackhole",
            RouteKind::Unreachable => "unreachable",
            RouteKind::Prohibit => "prohibit",
        };
        write!(f, "{kind} {}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(device) = self.device {
            write!(f, " dev #{device}")?;
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        if let Some(metric) = self.metric {
            write!(f, " metric {metric}")?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, " mtu lock {mtu}")?;
        }
        Ok(())
    }
}

impl Namespace {
    /// Adds a route.
    ///
    /// # Errors
    /// [`NetError::Netlink`]: EEXIST where one of the same prefix and metric is there, EHOSTUNREACH or ENETUNREACH where
    /// no interface reaches the gateway.
    pub fn add_route(&self, route: &Route) -> Result<(), NetError> {
        let message = route.message();
        self.netlink(format!("add route {route}"), async move |handle| {
            handle.route().add(message).execute().await
        })
    }

    /// Adds a route, in place of the one of the same prefix and metric where there is one.
    pub fn replace_route(&self, route: &Route) -> Result<(), NetError> {
        let message = route.message();
        self.netlink(format!("replace route {route}"), async move |handle| {
            handle.route().add(message).replace().execute().await
        })
    }

    /// Deletes a route.
    ///
    /// # Errors
    /// [`NetError::Netlink`], ESRCH where it is not there.
    pub fn delete_route(&self, route: &Route) -> Result<(), NetError> {
        let message = route.message();
        self.netlink(format!("delete route {route}"), async move |handle| {
            handle.route().del(message).execute().await
        })
    }
}
