//! Headers as they stand on the wire, one file each.
//!
//! A header is a `repr(C)` struct of integers in network byte order. It is read from a [`Frame`] as a whole, which
//! checks the bounds once; its methods check what its fields say. Nothing here panics, for any bytes: a length that
//! is too small for its own header is `None` from the method that needs it.

mod checksum;
mod ethernet;
mod frame;
mod icmp;
mod integer;
mod ipv4;
mod ipv6;
mod tcp;
mod udp;

pub use checksum::{Delta, internet_checksum, sum_words};
pub use ethernet::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN, EthernetHeader, MacAddress, VlanTag,
};
pub use frame::{Frame, Header, LAST_HEADER_OFFSET};
pub use icmp::{IcmpHeader, PROTOCOL_ICMP, PROTOCOL_ICMPV6, icmp_type, icmpv6_type};
pub use integer::{Be16, Be32, Ipv4Address, Ipv6Address};
pub use ipv4::{Ipv4Header, PROTOCOL_TCP, PROTOCOL_UDP};
pub use ipv6::{
    ExtensionHeader, FragmentHeader, Ipv6Header, NEXT_HEADER_AUTHENTICATION, NEXT_HEADER_DESTINATION,
    NEXT_HEADER_FRAGMENT, NEXT_HEADER_HOP_BY_HOP, NEXT_HEADER_ROUTING, RoutingHeader,
};
pub use tcp::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, TcpHeader};
pub use udp::UdpHeader;
