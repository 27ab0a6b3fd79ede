//! Where clients go: a virtual address, a port and a protocol.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU16,
};

use serde::{Deserialize, Serialize};

use super::{IpFamily, ModelError};

/// Transport protocols that services have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Protocol {
    /// TCP, RFC 9293.
    Tcp,
    /// UDP, RFC 768.
    Udp,
}

impl Protocol {
    /// The protocol's number in an IP header.
    ///
    /// <https://www.iana.org/assignments/protocol-numbers>
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => crate::wire::PROTOCOL_TCP,
            Self::Udp => crate::wire::PROTOCOL_UDP,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A virtual address, port and protocol: what clients connect to.
///
/// ```
/// use dataplane_core::model::{Frontend, Protocol};
///
/// let web = Frontend::new("2001:db8::10".parse()?, 443, Protocol::Tcp)?;
/// assert_eq!(web.to_string(), "[2001:db8::10]:443/tcp");
/// assert!(Frontend::new("203.0.113.10".parse()?, 0, Protocol::Tcp).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct Frontend {
    address: IpAddr,
    port: NonZeroU16,
    protocol: Protocol,
}

impl Frontend {
    /// Checks and makes a frontend.
    ///
    /// # Errors
    /// [`ModelError::PortZero`]; [`ModelError::Address`] for an address that is not that of a single host.
    pub fn new(address: IpAddr, port: u16, protocol: Protocol) -> Result<Self, ModelError> {
        let port = NonZeroU16::new(port).ok_or(ModelError::PortZero { address })?;
        check_host_address(address)?;
        Ok(Self { address, port, protocol })
    }

    /// The virtual address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The port.
    pub fn port(&self) -> NonZeroU16 {
        self.port
    }

    /// The protocol.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The family of the address.
    pub fn family(&self) -> IpFamily {
        IpFamily::of(self.address)
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.address, self.port.get()), self.protocol)
    }
}

/// Refuses what cannot be the address of one host that packets are sent to.
pub(super) fn check_host_address(address: IpAddr) -> Result<(), ModelError> {
    let refuse = |reason| Err(ModelError::Address { address, reason });
    if address.is_unspecified() {
        return refuse("it is the unspecified address");
    }
    if address.is_multicast() {
        return refuse("it is a multicast address");
    }
    if address.is_loopback() {
        return refuse("it is a loopback address, which no packet on a wire carries");
    }
    match address {
        IpAddr::V4(v4) if v4 == Ipv4Addr::BROADCAST => refuse("it is the broadcast address"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => refuse("0.0.0.0/8 names no host (RFC 1122, 3.2.1.3)"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            refuse("it is an IPv4-mapped IPv6 address: write the IPv4 address")
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            refuse("a link-local address means another host on each link")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_no_single_host_has_are_refused() {
        for bad in [
            "0.0.0.0",
            "0.1.2.3",
            "255.255.255.255",
            "224.0.0.1",
            "127.0.0.1",
            "::",
            "::1",
            "ff02::1",
            "::ffff:192.0.2.1",
            "fe80::1",
        ] {
            let address: IpAddr = bad.parse().unwrap();
            let refused = Frontend::new(address, 80, Protocol::Tcp);
            assert!(matches!(refused, Err(ModelError::Address { .. })), "{bad}: {refused:?}");
        }
    }
}
