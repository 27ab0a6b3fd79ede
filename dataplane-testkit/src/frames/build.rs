//! Frames put together.

use std::net::{IpAddr, SocketAddr};

use super::checksum;

/// Flags of a TCP header.
pub mod flags {
    /// No more data.
    pub const FIN: u8 = 1;
    /// The first packet of a side.
    pub const SYN: u8 = 2;
    /// Reset.
    pub const RST: u8 = 4;
    /// Push.
    pub const PSH: u8 = 8;
    /// The acknowledgement counts.
    pub const ACK: u8 = 16;
}

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP with these flags and so many bytes of options (a multiple of 4, up to 40).
    Tcp {
        /// See [`flags`].
        flags: u8,
        /// Bytes of options.
        options: usize,
    },
    /// UDP; without a checksum where that is said.
    Udp {
        /// Whether the checksum is computed.
        checksum: bool,
    },
    /// ICMP or ICMPv6, by the family.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The second half of the header: an MTU, or an identifier and a sequence number.
        rest: u32,
    },
    /// Something else, by its protocol number.
    Other(u8),
}

/// An IPv6 extension header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Hop-by-hop options, in units of 8 bytes beyond the first 8.
    HopByHop(u8),
    /// Destination options, likewise.
    Destination(u8),
    /// A routing header with so many segments left.
    Routing(u8),
    /// An authentication header of 24 bytes.
    Authentication,
    /// A fragment header with this offset-and-more field.
    Fragment(u16),
}

/// A frame in the making; every field may be changed before it is built.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Link-layer destination.
    pub to: [u8; 6],
    /// Link-layer source.
    pub from: [u8; 6],
    /// 802.1Q tags, from the outside in: ethertype and control word.
    pub tags: Vec<(u16, u16)>,
    /// From whom.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// What it carries.
    pub transport: Transport,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Differentiated services.
    pub traffic_class: u8,
    /// IPv4 identification.
    pub identification: u16,
    /// IPv4 flags and fragment offset.
    pub fragment: u16,
    /// IPv4 options, 32-bit words of no-operations.
    pub ip_options: u8,
    /// IPv6 extension headers, in order.
    pub extensions: Vec<Extension>,
    /// What follows the transport header.
    pub payload: Vec<u8>,
}

impl Frame {
    fn new(source: SocketAddr, destination: SocketAddr, transport: Transport) -> Self {
        Self {
            to: [2, 0, 0, 0, 0, 1],
            from: [2, 0, 0, 0, 0, 9],
            tags: Vec::new(),
            source,
            destination,
            transport,
            hop_limit: 64,
            traffic_class: 0,
            identification: 1,
            fragment: 0x4000,
            ip_options: 0,
            extensions: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// A TCP packet with these [`flags`].
    pub fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8) -> Self {
        Self::new(source, destination, Transport::Tcp { flags, options: 0 })
    }

    /// A UDP datagram.
    pub fn udp(source: SocketAddr, destination: SocketAddr) -> Self {
        Self::new(source, destination, Transport::Udp { checksum: true })
    }

    /// An ICMP or ICMPv6 message, with what it quotes or carries as its payload. Ports are of no account.
    pub fn icmp(source: IpAddr, destination: IpAddr, kind: u8, code: u8, rest: u32) -> Self {
        let transport = Transport::Icmp { kind, code, rest };
        Self::new(SocketAddr::new(source, 0), SocketAddr::new(destination, 0), transport)
    }

    /// A packet of another protocol.
    pub fn other(source: SocketAddr, destination: SocketAddr, protocol: u8) -> Self {
        Self::new(source, destination, Transport::Other(protocol))
    }

    /// With this payload.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Between these link-layer addresses.
    #[must_use]
    pub fn link(mut self, to: [u8; 6], from: [u8; 6]) -> Self {
        (self.to, self.from) = (to, from);
        self
    }

    /// The IP packet alone, as an ICMP error quotes it.
    pub fn packet(&self) -> Vec<u8> {
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.v4(source.octets(), destination.octets()),
            (IpAddr::V6(source), IpAddr::V6(destination)) => self.v6(source.octets(), destination.octets()),
            families => panic!("a packet has one family: {families:?}"),
        }
    }

    /// The frame's bytes, every length and checksum as they should be.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = [self.to, self.from].concat();
        for (ethertype, control) in &self.tags {
            frame.extend(ethertype.to_be_bytes());
            frame.extend(control.to_be_bytes());
        }
        let ethertype: u16 = if self.source.is_ipv4() { 0x0800 } else { 0x86dd };
        frame.extend(ethertype.to_be_bytes());
        frame.extend(self.packet());
        frame
    }

    fn v4(&self, source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
        let header_length = 20 + usize::from(self.ip_options) * 4;
        let segment = self.segment(&source, &destination);
        let mut header = vec![0x40 | (header_length / 4) as u8, self.traffic_class];
        header.extend(((header_length + segment.len()) as u16).to_be_bytes());
        header.extend(self.identification.to_be_bytes());
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.hop_limit, self.protocol(), 0, 0]);
        header.extend(source);
        header.extend(destination);
        header.resize(header_length, 1);
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [header, segment].concat()
    }

    fn v6(&self, source: [u8; 16], destination: [u8; 16]) -> Vec<u8> {
        let numbers: Vec<u8> = self.extensions.iter().map(|e| e.number()).chain([self.protocol()]).collect();
        let extensions: Vec<u8> =
            self.extensions.iter().zip(&numbers[1..]).flat_map(|(e, &next)| e.bytes(next)).collect();
        let segment = self.segment(&source, &destination);
        let mut header = (6 << 28 | u32::from(self.traffic_class) << 20).to_be_bytes().to_vec();
        header.extend(((extensions.len() + segment.len()) as u16).to_be_bytes());
        header.extend([numbers[0], self.hop_limit]);
        header.extend(source);
        header.extend(destination);
        [header, extensions, segment].concat()
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => 6,
            Transport::Udp { .. } => 17,
            Transport::Icmp { .. } if self.source.is_ipv4() => 1,
            Transport::Icmp { .. } => 58,
            Transport::Other(protocol) => protocol,
        }
    }

    /// Transport header and payload.
    fn segment(&self, source: &[u8], destination: &[u8]) -> Vec<u8> {
        let mut segment = self.source.port().to_be_bytes().to_vec();
        segment.extend(self.destination.port().to_be_bytes());
        let checksum_at = match self.transport {
            Transport::Other(_) => return self.payload.clone(),
            Transport::Icmp { kind, code, rest } => {
                segment = vec![kind, code, 0, 0];
                segment.extend(rest.to_be_bytes());
                2
            }
            Transport::Tcp { flags, options } => {
                segment.extend([
                    0,
                    0,
                    0,
                    1,
                    0,
                    0,
                    0,
                    0,
                    (((20 + options) / 4) << 4) as u8,
                    flags,
                    0xff,
                    0xff,
                    0,
                    0,
                    0,
                    0,
                ]);
                segment.resize(20 + options, 1);
                16
            }
            Transport::Udp { .. } => {
                segment.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                segment.extend([0, 0]);
                6
            }
        };
        segment.extend(&self.payload);
        if self.transport == (Transport::Udp { checksum: false }) {
            return segment;
        }
        let length = (segment.len() as u16).to_be_bytes();
        let pseudo: &[&[u8]] =
            if self.protocol() == 1 { &[] } else { &[source, destination, &[0, self.protocol()], &length] };
        let sum = checksum(&[pseudo, &[&segment]].concat());
        // RFC 768: a sum that comes out as zero is sent as ones.
        let sum = if sum == 0 && self.protocol() == 17 { 0xffff } else { sum };
        segment[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
        segment
    }
}

impl Extension {
    fn number(self) -> u8 {
        match self {
            Self::HopByHop(_) => 0,
            Self::Routing(_) => 43,
            Self::Fragment(_) => 44,
            Self::Authentication => 51,
            Self::Destination(_) => 60,
        }
    }

    fn bytes(self, next: u8) -> Vec<u8> {
        match self {
            Self::HopByHop(length) | Self::Destination(length) => {
                let mut bytes = vec![0; 8 + usize::from(length) * 8];
                let options = (bytes.len() - 4).min(255) as u8;
                bytes[..4].copy_from_slice(&[next, length, 1, options]);
                bytes
            }
            Self::Routing(left) => {
                vec![next, 2, 4, left, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
            }
            Self::Authentication => {
                let mut bytes = vec![0; 24];
                bytes[..2].copy_from_slice(&[next, 4]);
                bytes
            }
            Self::Fragment(field) => [&[next, 0], &field.to_be_bytes()[..], &[0, 0, 0, 7]].concat(),
        }
    }
}
