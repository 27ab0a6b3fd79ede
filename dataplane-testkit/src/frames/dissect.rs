//! Frames taken apart, by the book and without mercy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::checksum;

/// What a TCP or UDP packet says, as somebody reads it who checks everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dissected {
    /// Link-layer destination and source.
    pub link: ([u8; 6], [u8; 6]),
    /// Number of 802.1Q tags.
    pub tags: usize,
    /// From whom.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// The protocol's number.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// What follows the transport header's ports.
    pub rest: Vec<u8>,
    network_sum: bool,
    transport_sum: Option<bool>,
}

/// Whether the checksums of an IP header and of the ICMP or ICMPv6 message behind it are right; `None` if the frame is no
/// such whole packet.
pub fn icmp_checksums_hold(frame: &[u8]) -> Option<bool> {
    let packet = Packet::of(frame)?;
    let sum = match (packet.protocol, packet.source) {
        (1, IpAddr::V4(_)) => checksum(&[packet.segment]),
        (58, IpAddr::V6(_)) => packet.transport_sum(),
        _ => return None,
    };
    Some(packet.network_sum && sum == 0)
}

/// An IP packet in a frame.
struct Packet<'a> {
    link: ([u8; 6], [u8; 6]),
    tags: usize,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    hop_limit: u8,
    network_sum: bool,
    segment: &'a [u8],
}

impl<'a> Packet<'a> {
    fn of(frame: &'a [u8]) -> Option<Self> {
        let link = (frame.get(..6)?.try_into().ok()?, frame.get(6..12)?.try_into().ok()?);
        let (mut at, mut tags) = (12, 0);
        let word = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
        while matches!(word(at)?, 0x8100 | 0x88a8) {
            at += 4;
            tags += 1;
        }
        let ip = frame.get(at + 2..)?;
        let (source, destination, protocol, hop_limit, network_sum, segment): (
            IpAddr,
            IpAddr,
            _,
            _,
            _,
            &[u8],
        ) = match word(at)? {
            0x0800 => {
                let header = ip.get(..usize::from(ip.first()? & 15) * 4)?;
                // A later part of a packet has no transport header.
                if u16::from_be_bytes([*header.get(6)?, *header.get(7)?]) & 0x1fff != 0 {
                    return None;
                }
                let total = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
                let address =
                    |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(header.get(at..at + 4)?).ok()?));
                let sum = checksum(&[header]) == 0;
                (
                    address(12)?.into(),
                    address(16)?.into(),
                    header[9],
                    header[8],
                    sum,
                    ip.get(header.len()..total)?,
                )
            }
            0x86dd => {
                let address =
                    |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?));
                let total = 40 + usize::from(u16::from_be_bytes([*ip.get(4)?, *ip.get(5)?]));
                let (mut next, mut at) = (*ip.get(6)?, 40);
                while matches!(next, 0 | 43 | 44 | 51 | 60) {
                    let length = usize::from(*ip.get(at + 1)?);
                    if next == 44 && u16::from_be_bytes([*ip.get(at + 2)?, *ip.get(at + 3)?]) >> 3 != 0 {
                        return None;
                    }
                    let bytes = match next {
                        44 => 8,
                        51 => (length + 2) * 4,
                        _ => (length + 1) * 8,
                    };
                    (next, at) = (*ip.get(at)?, at + bytes);
                }
                (address(8)?.into(), address(24)?.into(), next, *ip.get(7)?, true, ip.get(at..total)?)
            }
            _ => return None,
        };
        Some(Self { link, tags, source, destination, protocol, hop_limit, network_sum, segment })
    }

    /// The sum over pseudo header and segment.
    fn transport_sum(&self) -> u16 {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let length = (self.segment.len() as u16).to_be_bytes();
        checksum(&[
            &octets(self.source),
            &octets(self.destination),
            &[0, self.protocol],
            &length,
            self.segment,
        ])
    }
}

impl Dissected {
    /// Takes a frame apart; `None` if it is no whole TCP or UDP packet.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let packet = Packet::of(frame)?;
        let sum = packet.transport_sum();
        let Packet { link, tags, source, destination, protocol, hop_limit, network_sum, segment } = packet;
        let port = |at: usize| Some(u16::from_be_bytes(segment.get(at..at + 2)?.try_into().ok()?));
        let transport_sum = match protocol {
            6 => Some(()),
            17 if port(6)? == 0 => None,
            17 => Some(()),
            _ => return None,
        }
        .map(|()| sum == 0);
        Some(Self {
            link,
            tags,
            source: SocketAddr::new(source, port(0)?),
            destination: SocketAddr::new(destination, port(2)?),
            protocol,
            hop_limit,
            rest: segment.get(4..)?.to_vec(),
            network_sum,
            transport_sum,
        })
    }

    /// Whether every checksum that is there is right.
    pub fn checksums_hold(&self) -> bool {
        self.network_sum && self.transport_sum.unwrap_or(true)
    }

    /// Whether it has a transport checksum at all.
    pub fn has_transport_checksum(&self) -> bool {
        self.transport_sum.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{Extension, Frame, flags};

    #[test]
    fn what_is_built_is_dissected() {
        for (source, destination) in
            [("192.0.2.1:1", "203.0.113.10:80"), ("[2001:db8::1]:65535", "[2001:db8:cafe::10]:443")]
        {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            for mut frame in [Frame::tcp(source, destination, flags::SYN), Frame::udp(source, destination)] {
                frame.payload = b"hello".to_vec();
                frame.tags = vec![(0x8100, 5)];
                frame.ip_options = 3;
                frame.extensions =
                    vec![Extension::HopByHop(1), Extension::Authentication, Extension::Destination(0)];
                let bytes = frame.build();
                let seen = Dissected::of(&bytes).unwrap();
                assert!(seen.checksums_hold(), "{seen:?}");
                assert_eq!((seen.source, seen.destination, seen.tags), (source, destination, 1));
                for at in 18..bytes.len() {
                    let mut broken = bytes.clone();
                    broken[at] ^= 0x10;
                    let seen = Dissected::of(&broken);
                    let is_v6 = source.is_ipv6();
                    // Nothing sums up an IPv6 header's first words or its options; the rest must be noticed.
                    let unsummed = is_v6 && (at < 26 || (58..18 + 40 + 16 + 24 + 8).contains(&at));
                    assert!(
                        unsummed || !seen.is_some_and(|s| s.checksums_hold() && s.has_transport_checksum()),
                        "byte {at}"
                    );
                }
            }
        }
    }
}
