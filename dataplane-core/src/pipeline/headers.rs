//! From a frame to what the decision needs, without a copy of anything else.

use super::{
    AnswerFamily, AnswerReason, Part, PassReason, QuotedHeader, Stage, Tick, Verdict,
    answer::HOP_LIMIT,
    transport::{NO_TRANSPORT, Transport},
};
use crate::{
    abi::{FragmentKeyV4, FragmentKeyV6, TupleV4, TupleV6},
    tables::{Family, Tuple, V4, V6},
    wire::{
        Be16, Be32, Delta, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN, EthernetHeader,
        ExtensionHeader, FragmentHeader, Frame, IcmpHeader, Ipv4Address, Ipv4Header, Ipv6Address, Ipv6Header,
        NEXT_HEADER_AUTHENTICATION, NEXT_HEADER_DESTINATION, NEXT_HEADER_FRAGMENT, NEXT_HEADER_HOP_BY_HOP,
        NEXT_HEADER_ROUTING, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP, RoutingHeader,
        VlanTag, icmp_type, icmpv6_type,
    },
};

/// More tags than this are not looked behind: a service tag and a customer tag.
pub const MAX_VLAN_TAGS: u32 = 2;

/// More IPv6 extension headers than this are not looked behind. RFC 8200, 4.1 orders six kinds, of which one may
/// stand there twice.
pub const MAX_EXTENSION_HEADERS: u32 = 6;

/// The link layer of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The first header.
    pub ethernet: EthernetHeader,
    /// How many 802.1Q tags stand in the frame.
    pub tags: u32,
    /// What follows the tags.
    pub ethertype: u16,
    /// Where it begins.
    pub l3: u32,
}

impl Link {
    /// Reads the Ethernet header, and steps over tags.
    #[inline(always)]
    pub fn parse<P: Frame + ?Sized>(frame: &P) -> Result<Self, Verdict> {
        const MALFORMED: Verdict = Verdict::Pass(PassReason::Malformed);
        let ethernet: EthernetHeader = frame.read(0).ok_or(MALFORMED)?;
        let mut link =
            Self { ethernet, tags: 0, ethertype: ethernet.ethertype.get(), l3: EthernetHeader::LENGTH };
        for _ in 0..MAX_VLAN_TAGS {
            if link.ethertype != ETHERTYPE_VLAN && link.ethertype != ETHERTYPE_QINQ {
                break;
            }
            let tag: VlanTag = frame.read(link.l3).ok_or(MALFORMED)?;
            link.ethertype = tag.ethertype.get();
            link.tags = link.tags.wrapping_add(1);
            link.l3 = link.l3.wrapping_add(VlanTag::LENGTH);
        }
        Ok(link)
    }
}

/// What the decision needs to know of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<F: Family> {
    /// From whom to whom.
    pub tuple: F::Tuple,
    /// Where the IP header begins.
    pub l3: u32,
    /// Where the transport header begins.
    pub l4: u32,
    /// Length of the IP packet in bytes, its header included.
    pub l3_length: u32,
    /// Length of IP and transport header in bytes.
    pub headers_length: u32,
    /// Flags of the TCP header; 0 for UDP.
    pub tcp_flags: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Differentiated services, for routes that depend on it.
    pub traffic_class: u8,
    /// Whether routers must not split the packet; always for IPv6.
    pub dont_fragment: bool,
    /// Whether the transport header's own lengths fit the packet.
    pub consistent: bool,
}

/// A family that can be parsed: IPv4 and IPv6 as two types.
pub trait ParseFamily: AnswerFamily {
    /// Where the two addresses stand in the IP header.
    const ADDRESSES_OFFSET: u32;
    /// Where TTL or hop limit stands in the IP header.
    const HOP_LIMIT_OFFSET: u32;
    /// Where the IP header's own checksum stands, if it has one.
    const CHECKSUM_OFFSET: Option<u32>;
    /// The protocol number of its ICMP.
    const ICMP: u8;
    /// The types of an echo request and of its reply.
    const ECHO: [u8; 2];
    /// The stage that handles its ICMP.
    const ICMP_STAGE: Stage;
    /// The stage that answers what is dropped.
    const ANSWER_STAGE: Stage;
    /// The stage that handles parts of packets.
    const FRAGMENT_STAGE: Stage;
    /// So long later parts are taken to be of the packet of which the first one was seen: as long as Linux waits for them.
    const REASSEMBLY_TICKS: u32;

    /// Whether an address is that of a group, or of all.
    fn is_group(address: Self::Address) -> bool;

    /// The stage that opens a connection whose source is translated.
    const MASQUERADE_STAGE: Stage;

    /// The stage that opens a connection to a service with affinity.
    const AFFINITY_STAGE: Stage;

    /// What a new TTL adds to the header's own checksum.
    fn hop_limit_delta(headers: &Headers<Self>, hop_limit: u8) -> Delta;

    /// Adds the change of an address to a delta.
    fn replace(delta: Delta, old: Self::Address, new: Self::Address) -> Delta;

    /// Whether an ICMP message of this type is an error, and quotes the packet that it is about. Source quench is none: it is
    /// deprecated, and hosts ignore it (RFC 6633).
    fn is_error(kind: u8) -> bool;

    /// Reads the IP header of a packet that is quoted.
    ///
    /// # Errors
    /// The verdict of an error about a packet to which no table could apply.
    fn parse_quoted<P: Frame + ?Sized>(frame: &P, at: u32) -> Result<QuotedHeader<Self>, Verdict>;

    /// Reads IP and transport header of a packet that passes an interface of this zone. That of ICMP, too, is only known to
    /// be there: its tuple has no ports.
    ///
    /// # Errors
    /// The verdict of a packet to which no table could apply.
    fn parse<P: Frame + ?Sized>(
        frame: &P,
        l3: u32,
        zone: u16,
        into: &mut Headers<Self>,
    ) -> Result<(), Verdict>;

    /// Reads a part of a packet, as [`parse`](Self::parse) does a whole one. The tuple of a later part lacks its ports and
    /// its protocol, and it has no transport header.
    ///
    /// # Errors
    /// The verdict of a part to which no table could apply.
    fn parse_fragment<P: Frame + ?Sized>(
        frame: &P,
        l3: u32,
        zone: u16,
        into: &mut Headers<Self>,
        part: &mut Part<Self>,
    ) -> Result<(), Verdict>;
}

const fn pass(reason: PassReason) -> Verdict {
    Verdict::Pass(reason)
}

impl AnswerFamily for V4 {
    type Network = Ipv4Header;
    const NETWORK_LENGTH: u32 = Ipv4Header::LENGTH;
    const LONGEST_QUOTE: u32 = 576 - Ipv4Header::LENGTH - IcmpHeader::LENGTH;
    const ETHERTYPE: u16 = ETHERTYPE_IPV4;

    #[inline(always)]
    fn network(
        source: Self::Address,
        destination: Self::Address,
        protocol: u8,
        payload: u32,
    ) -> Self::Network {
        let mut header = Ipv4Header {
            version_and_length: 0x45,
            total_length: Be16::new(payload.wrapping_add(Self::NETWORK_LENGTH) as u16),
            // Never split, it needs no identification (RFC 6864).
            fragment: Be16::new(0x4000),
            ttl: HOP_LIMIT,
            protocol,
            source,
            destination,
            ..Ipv4Header::default()
        };
        let words: [u16; 10] = zerocopy::transmute!(header);
        header.checksum = Delta::ZERO.words(&words).checksum();
        header
    }

    #[inline(always)]
    fn sum(address: Self::Address) -> Delta {
        Delta::ZERO.replace_v4(Ipv4Address(0), address)
    }

    #[inline(always)]
    fn error_kind(reason: AnswerReason) -> [u8; 2] {
        match reason {
            AnswerReason::NoBackend => [icmp_type::DESTINATION_UNREACHABLE, 3],
            AnswerReason::HopLimit => [icmp_type::TIME_EXCEEDED, 0],
            AnswerReason::TooBig => [icmp_type::DESTINATION_UNREACHABLE, 4],
            AnswerReason::Echo => [icmp_type::ECHO_REPLY, 0],
        }
    }
}

impl AnswerFamily for V6 {
    type Network = Ipv6Header;
    const NETWORK_LENGTH: u32 = Ipv6Header::LENGTH;
    const LONGEST_QUOTE: u32 = 1280 - Ipv6Header::LENGTH - IcmpHeader::LENGTH;
    const ETHERTYPE: u16 = ETHERTYPE_IPV6;

    #[inline(always)]
    fn network(
        source: Self::Address,
        destination: Self::Address,
        protocol: u8,
        payload: u32,
    ) -> Self::Network {
        Ipv6Header {
            version_class_flow: Be32::new(6 << 28),
            payload_length: Be16::new(payload as u16),
            next_header: protocol,
            hop_limit: HOP_LIMIT,
            source,
            destination,
        }
    }

    #[inline(always)]
    fn sum(address: Self::Address) -> Delta {
        Delta::ZERO.replace_v6(Ipv6Address([0; 4]), address)
    }

    #[inline(always)]
    fn error_kind(reason: AnswerReason) -> [u8; 2] {
        match reason {
            AnswerReason::NoBackend => [icmpv6_type::DESTINATION_UNREACHABLE, 4],
            AnswerReason::HopLimit => [icmpv6_type::TIME_EXCEEDED, 0],
            AnswerReason::TooBig => [icmpv6_type::PACKET_TOO_BIG, 0],
            AnswerReason::Echo => [icmpv6_type::ECHO_REPLY, 0],
        }
    }
}

impl ParseFamily for V4 {
    const ADDRESSES_OFFSET: u32 = 12;
    const HOP_LIMIT_OFFSET: u32 = 8;
    const CHECKSUM_OFFSET: Option<u32> = Some(10);
    const MASQUERADE_STAGE: Stage = Stage::MasqueradeV4;
    const AFFINITY_STAGE: Stage = Stage::AffinityV4;
    const ICMP: u8 = PROTOCOL_ICMP;
    const ECHO: [u8; 2] = [icmp_type::ECHO_REQUEST, icmp_type::ECHO_REPLY];
    const ICMP_STAGE: Stage = Stage::IcmpV4;
    const ANSWER_STAGE: Stage = Stage::AnswerV4;
    const FRAGMENT_STAGE: Stage = Stage::FragmentV4;
    const REASSEMBLY_TICKS: u32 = Tick::ticks_of_milliseconds(30_000);

    #[inline(always)]
    fn is_group(address: Self::Address) -> bool {
        address.is_martian_source()
    }

    #[inline(always)]
    fn replace(delta: Delta, old: Self::Address, new: Self::Address) -> Delta {
        delta.replace_v4(old, new)
    }

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(
            kind,
            icmp_type::DESTINATION_UNREACHABLE | icmp_type::TIME_EXCEEDED | icmp_type::PARAMETER_PROBLEM
        )
    }

    #[inline(always)]
    fn parse_quoted<P: Frame + ?Sized>(frame: &P, at: u32) -> Result<QuotedHeader<Self>, Verdict> {
        let ip: Ipv4Header = frame.read(at).ok_or(pass(PassReason::Malformed))?;
        let header_length = ip.header_length().ok_or(pass(PassReason::Malformed))?;
        if ip.is_later_fragment() {
            return Err(pass(PassReason::Fragment));
        }
        let Ipv4Header { source, destination, protocol, .. } = ip;
        Ok(QuotedHeader { source, destination, protocol, l4: at.wrapping_add(header_length) })
    }

    #[inline(always)]
    fn hop_limit_delta(headers: &Headers<Self>, hop_limit: u8) -> Delta {
        let word = |hops| Be16(u16::from_ne_bytes([hops, headers.tuple.protocol()]));
        Delta::ZERO.replace16(word(headers.hop_limit), word(hop_limit))
    }

    #[inline(always)]
    fn parse<P: Frame + ?Sized>(
        frame: &P,
        l3: u32,
        zone: u16,
        into: &mut Headers<Self>,
    ) -> Result<(), Verdict> {
        let ip: Ipv4Header = frame.read(l3).ok_or(pass(PassReason::Malformed))?;
        let header_length = ip.header_length().ok_or(pass(PassReason::Malformed))?;
        let l3_length = length_v4(frame, l3, &ip, header_length)?;
        if ip.is_fragment() {
            return Err(pass(PassReason::Fragment));
        }
        let l4 = l3.wrapping_add(header_length);
        let end = l3.wrapping_add(l3_length);
        let ports = Transport::parse(frame, ip.protocol, l4, end, Self::ICMP)?;
        *into = headers_v4(&ip, &ports, zone, l3, l4, l3_length);
        Ok(())
    }

    #[inline(always)]
    fn parse_fragment<P: Frame + ?Sized>(
        frame: &P,
        l3: u32,
        zone: u16,
        into: &mut Headers<Self>,
        part: &mut Part<Self>,
    ) -> Result<(), Verdict> {
        let ip: Ipv4Header = frame.read(l3).ok_or(pass(PassReason::Malformed))?;
        let header_length = ip.header_length().ok_or(pass(PassReason::Malformed))?;
        let l3_length = length_v4(frame, l3, &ip, header_length)?;
        let Ipv4Header { source, destination, protocol, .. } = ip;
        let offset = ip.fragment_offset();
        let (l4, end) = (l3.wrapping_add(header_length), l3.wrapping_add(l3_length));
        let first =
            if offset == 0 { Transport::parse_first(frame, protocol, l4, end)? } else { NO_TRANSPORT };
        let (ports, tiny) = first;
        *into = headers_v4(&ip, &ports, zone, l3, l4, l3_length);
        let identification = Be32::new(ip.identification.get().into());
        let key = FragmentKeyV4 { source, destination, identification, zone, protocol, reserved: 0 };
        *part = Part { key, offset, tiny };
        Ok(())
    }
}

/// What the headers of an IPv4 packet say, of which `l4` is where those above IP begin.
#[inline(always)]
fn headers_v4(
    ip: &Ipv4Header,
    transport: &Transport,
    zone: u16,
    l3: u32,
    l4: u32,
    l3_length: u32,
) -> Headers<V4> {
    let Ipv4Header { source, destination, protocol, .. } = *ip;
    let Transport { source_port, destination_port, .. } = *transport;
    Headers {
        tuple: TupleV4::new(source, destination, source_port, destination_port, protocol).in_zone(zone),
        l3,
        l4,
        l3_length,
        headers_length: l4.wrapping_sub(l3).wrapping_add(transport.header_length),
        tcp_flags: transport.tcp_flags,
        hop_limit: ip.ttl,
        traffic_class: ip.traffic_class,
        dont_fragment: ip.dont_fragment(),
        consistent: transport.consistent,
    }
}

/// The length of an IPv4 packet that could be one of ours.
#[inline(always)]
fn length_v4<P: Frame + ?Sized>(
    frame: &P,
    l3: u32,
    ip: &Ipv4Header,
    header_length: u32,
) -> Result<u32, Verdict> {
    let l3_length = match ip.total_length.get() {
        0 if frame.is_segmented() => frame.length().wrapping_sub(l3),
        length => length.into(),
    };
    if l3_length < header_length || l3.wrapping_add(l3_length) > frame.length() {
        return Err(pass(PassReason::Malformed));
    }
    if ip.source.is_martian_source() {
        return Err(pass(PassReason::Martian));
    }
    Ok(l3_length)
}

impl ParseFamily for V6 {
    const ADDRESSES_OFFSET: u32 = 8;
    const HOP_LIMIT_OFFSET: u32 = 7;
    const CHECKSUM_OFFSET: Option<u32> = None;
    const MASQUERADE_STAGE: Stage = Stage::MasqueradeV6;
    const AFFINITY_STAGE: Stage = Stage::AffinityV6;
    const ICMP: u8 = PROTOCOL_ICMPV6;
    const ECHO: [u8; 2] = [icmpv6_type::ECHO_REQUEST, icmpv6_type::ECHO_REPLY];
    const ICMP_STAGE: Stage = Stage::IcmpV6;
    const ANSWER_STAGE: Stage = Stage::AnswerV6;
    const FRAGMENT_STAGE: Stage = Stage::FragmentV6;
    const REASSEMBLY_TICKS: u32 = Tick::ticks_of_milliseconds(60_000);

    #[inline(always)]
    fn is_group(address: Self::Address) -> bool {
        address.is_martian_source()
    }

    #[inline(always)]
    fn replace(delta: Delta, old: Self::Address, new: Self::Address) -> Delta {
        delta.replace_v6(old, new)
    }

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(
            kind,
            icmpv6_type::DESTINATION_UNREACHABLE
                | icmpv6_type::PACKET_TOO_BIG
                | icmpv6_type::TIME_EXCEEDED
                | icmpv6_type::PARAMETER_PROBLEM
        )
    }

    #[inline(always)]
    fn parse_quoted<P: Frame + ?Sized>(frame: &P, at: u32) -> Result<QuotedHeader<Self>, Verdict> {
        let ip: Ipv6Header = frame.read(at).ok_or(pass(PassReason::Malformed))?;
        if !ip.has_version() {
            return Err(pass(PassReason::Malformed));
        }
        let (protocol, l4) = walk_extensions(frame, ip.next_header, at.wrapping_add(Ipv6Header::LENGTH))?;
        Ok(QuotedHeader { source: ip.source, destination: ip.destination, protocol, l4 })
    }

    #[inline(always)]
    fn hop_limit_delta(_headers: &Headers<Self>, _hop_limit: u8) -> Delta {
        Delta::ZERO
    }

    #[inline(always)]
    fn parse<P: Frame + ?Sized>(
        frame: &P,
        l3: u32,
        zone: u16,
        into: &mut Headers<Self>,
    ) -> Result<(), Verdict> {
        let ip: Ipv6Header = frame.read(l3).ok_or(pass(PassReason::Malformed))?;
        let l3_length = length_v6(frame, l3, &ip)?;
        let end = l3.wrapping_add(l3_length);
        let (protocol, l4) = walk_extensions(frame, ip.next_header, l3.wrapping_add(Ipv6Header::LENGTH))?;
        let ports = Transport::parse(frame, protocol, l4, end, Self::ICMP)?;
        *into = headers_v6(&ip, protocol, &ports, zone, l3, l4, l3_length);
        Ok(())
    }

    #[inline(always)]
    fn parse_fragment<P: Frame + ?Sized>(
        frame: &P,
        l3: u32,
        zone: u16,
        into: &mut Headers<Self>,
        part: &mut Part<Self>,
    ) -> Result<(), Verdict> {
        let ip: Ipv6Header = frame.read(l3).ok_or(pass(PassReason::Malformed))?;
        let l3_length = length_v6(frame, l3, &ip)?;
        let Ipv6Header { source, destination, .. } = ip;
        let mut header = FragmentHeader::default();
        let behind = l3.wrapping_add(Ipv6Header::LENGTH);
        let (protocol, l4) = walk::<P, true>(frame, ip.next_header, behind, &mut header)?;
        let offset = header.offset();
        let end = l3.wrapping_add(l3_length);
        let first =
            if offset == 0 { Transport::parse_first(frame, protocol, l4, end)? } else { NO_TRANSPORT };
        let (ports, tiny) = first;
        *into = headers_v6(&ip, protocol, &ports, zone, l3, l4, l3_length);
        let identification = header.identification;
        let key = FragmentKeyV6 { source, destination, identification, zone, protocol: 0, reserved: 0 };
        *part = Part { key, offset, tiny };
        Ok(())
    }
}

/// What the headers of an IPv6 packet say, of which `l4` is where those above IP and its extensions begin, which are of this
/// protocol.
#[inline(always)]
fn headers_v6(
    ip: &Ipv6Header,
    protocol: u8,
    transport: &Transport,
    zone: u16,
    l3: u32,
    l4: u32,
    l3_length: u32,
) -> Headers<V6> {
    let Ipv6Header { source, destination, .. } = *ip;
    let Transport { source_port, destination_port, .. } = *transport;
    Headers {
        tuple: TupleV6::new(source, destination, source_port, destination_port, protocol).in_zone(zone),
        l3,
        l4,
        l3_length,
        headers_length: l4.wrapping_sub(l3).wrapping_add(transport.header_length),
        tcp_flags: transport.tcp_flags,
        hop_limit: ip.hop_limit,
        traffic_class: (ip.version_class_flow.get() >> 20) as u8,
        dont_fragment: true,
        consistent: transport.consistent,
    }
}

/// The length of an IPv6 packet that could be one of ours.
#[inline(always)]
fn length_v6<P: Frame + ?Sized>(frame: &P, l3: u32, ip: &Ipv6Header) -> Result<u32, Verdict> {
    let l3_length = match ip.payload_length.get() {
        0 if frame.is_segmented() => frame.length().wrapping_sub(l3),
        length => Ipv6Header::LENGTH.wrapping_add(length.into()),
    };
    if !ip.has_version() || l3.wrapping_add(l3_length) > frame.length() {
        return Err(pass(PassReason::Malformed));
    }
    if ip.source.is_martian_source() {
        return Err(pass(PassReason::Martian));
    }
    Ok(l3_length)
}

/// Steps over the IPv6 extension headers of a whole packet: returns the transport protocol and where its header begins.
#[inline(always)]
fn walk_extensions<P: Frame + ?Sized>(frame: &P, first: u8, at: u32) -> Result<(u8, u32), Verdict> {
    walk::<P, false>(frame, first, at, &mut FragmentHeader::default())
}

/// Steps over IPv6 extension headers, of parts of packets only where `PARTS` says so: then `part` becomes the fragment header,
/// and of a later part what follows that is returned.
#[inline(always)]
fn walk<P: Frame + ?Sized, const PARTS: bool>(
    frame: &P,
    first: u8,
    at: u32,
    part: &mut FragmentHeader,
) -> Result<(u8, u32), Verdict> {
    const MALFORMED: Verdict = pass(PassReason::Malformed);
    let (mut next, mut at) = (first, at);
    for _ in 0..MAX_EXTENSION_HEADERS {
        match next {
            PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_ICMPV6 => return Ok((next, at)),
            NEXT_HEADER_FRAGMENT => {
                let fragment: FragmentHeader = frame.read(at).ok_or(MALFORMED)?;
                next = fragment.next_header;
                at = at.wrapping_add(FragmentHeader::LENGTH);
                if fragment.is_fragment() {
                    if !PARTS || part.is_fragment() {
                        return Err(pass(PassReason::Fragment));
                    }
                    *part = fragment;
                    if fragment.offset() != 0 {
                        return Ok((next, at));
                    }
                }
            }
            NEXT_HEADER_HOP_BY_HOP | NEXT_HEADER_DESTINATION | NEXT_HEADER_AUTHENTICATION => {
                let extension: ExtensionHeader = frame.read(at).ok_or(MALFORMED)?;
                at = at.wrapping_add(extension.bytes(next));
                next = extension.next_header;
            }
            NEXT_HEADER_ROUTING => {
                let routing: RoutingHeader = frame.read(at).ok_or(MALFORMED)?;
                if routing.segments_left != 0 {
                    return Err(pass(PassReason::Protocol));
                }
                at = at.wrapping_add(routing.extension.bytes(next));
                next = routing.extension.next_header;
            }
            _ => return Err(pass(PassReason::Protocol)),
        }
    }
    match next {
        PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_ICMPV6 => Ok((next, at)),
        _ => Err(pass(PassReason::Protocol)),
    }
}
