//! ICMP errors: the beginning of the packet that one is about, and how it is translated.
//!
//! Whoever sent the packet must find it again in what the error quotes, so the quoted headers are translated back to what
//! they were: an error about a packet of one direction belongs to the flow of the other. What the kernel's own NAT does
//! holds here too: the error's source, which may be any router, becomes the flow's where the flow has another source than
//! its packets had, and stays else, so that people who trace a path see its routers.

use super::{Headers, ParseFamily, PassReason, Verdict};
use crate::{
    tables::{Family, Flow, Tuple},
    wire::{Be16, Delta, Frame, IcmpHeader, PROTOCOL_TCP, PROTOCOL_UDP, TcpHeader, UdpHeader},
};

/// So much of the transport header is always quoted: RFC 792 asks for it.
const QUOTED_TRANSPORT: u32 = 8;

/// The packet that an ICMP error is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quote {
    /// Where its IP header begins.
    pub l3: u32,
    /// Where its transport header begins.
    pub l4: u32,
    /// Where its transport checksum stands; 0 where that is cut off.
    pub checksum: u32,
}

/// The IP header of a quoted packet.
pub struct QuotedHeader<F: Family> {
    /// From whom.
    pub source: F::Address,
    /// To whom.
    pub destination: F::Address,
    /// The transport protocol.
    pub protocol: u8,
    /// Where its header begins.
    pub l4: u32,
}

/// Reads the ICMP header that `headers` tells of, and what an error quotes. The tuple becomes that of the packets which
/// would answer the quoted one: the flow that the error belongs to.
///
/// # Errors
/// The verdict of what is no error about a packet of a flow.
#[inline(always)]
pub(super) fn parse_quote<F: ParseFamily, P: Frame + ?Sized>(
    frame: &P,
    headers: &mut Headers<F>,
    quote: &mut Quote,
) -> Result<(), Verdict> {
    const MALFORMED: Verdict = Verdict::Pass(PassReason::Malformed);
    let icmp: IcmpHeader = frame.read(headers.l4).ok_or(MALFORMED)?;
    if !F::is_error(icmp.kind) {
        return Err(Verdict::Pass(PassReason::Protocol));
    }
    let l3 = headers.l4.wrapping_add(IcmpHeader::LENGTH);
    let end = headers.l3.wrapping_add(headers.l3_length);
    let quoted = F::parse_quoted(frame, l3)?;
    let at_checksum = match quoted.protocol {
        PROTOCOL_TCP => TcpHeader::CHECKSUM_OFFSET,
        PROTOCOL_UDP => UdpHeader::CHECKSUM_OFFSET,
        _ => return Err(Verdict::Pass(PassReason::Protocol)),
    };
    if quoted.l4.wrapping_add(QUOTED_TRANSPORT) > end {
        return Err(MALFORMED);
    }
    // An error goes to who sent the packet that it is about (RFC 792; RFC 4443, 2.2).
    if quoted.source != headers.tuple.destination() {
        return Err(MALFORMED);
    }
    let [source_port, destination_port]: [Be16; 2] = frame.read(quoted.l4).ok_or(MALFORMED)?;
    let checksum = quoted.l4.wrapping_add(at_checksum);
    let is_there = checksum.wrapping_add(2) <= end;
    *quote = Quote { l3, l4: quoted.l4, checksum: if is_there { checksum } else { 0 } };
    headers.tuple =
        F::Tuple::new(quoted.destination, quoted.source, destination_port, source_port, quoted.protocol)
            .in_zone(headers.tuple.zone());
    Ok(())
}

/// What is written into an ICMP error.
#[derive(Clone, Copy, Debug)]
pub struct ErrorTranslation<F: Family> {
    /// The error's own addresses: source, destination.
    pub addresses: [F::Address; 2],
    /// What they add to a checksum.
    pub address_delta: Delta,
    /// What changes of the message itself add to its checksum.
    pub message_delta: Delta,
    /// The quoted packet's addresses: source, destination.
    pub quoted_addresses: [F::Address; 2],
    /// The quoted packet's ports: source, destination.
    pub quoted_ports: [Be16; 2],
    /// The checksum of the quoted IP header, where it has one.
    pub quoted_network_checksum: Be16,
    /// The quoted transport checksum, where it is there.
    pub quoted_transport_checksum: Be16,
}

impl<F: ParseFamily> ErrorTranslation<F> {
    /// What `flow` makes of an error; `None` where a header is not within the frame any more.
    #[inline(always)]
    pub(super) fn new<P: Frame + ?Sized>(
        frame: &P,
        headers: &Headers<F>,
        quote: &Quote,
        flow: &F::Flow,
    ) -> Option<Self> {
        let [source, destination]: [F::Address; 2] =
            frame.read(headers.l3.wrapping_add(F::ADDRESSES_OFFSET))?;
        let is_kept = flow.source() == headers.tuple.source();
        let new_source = if is_kept { source } else { flow.source() };
        let address_delta =
            F::replace(F::replace(Delta::ZERO, source, new_source), destination, flow.destination());
        // The quoted packet has the flow's addresses and ports in exchanged places: that is the same to a sum.
        let mut message_delta = flow.address_delta().and(flow.port_delta());
        let mut quoted_network_checksum = Be16(0);
        if let Some(offset) = F::CHECKSUM_OFFSET {
            let old: Be16 = frame.read(quote.l3.wrapping_add(offset))?;
            quoted_network_checksum = flow.address_delta().apply(old);
            message_delta = message_delta.replace16(old, quoted_network_checksum);
        }
        let mut quoted_transport_checksum = Be16(0);
        if quote.checksum != 0 {
            let delta = flow.address_delta().and(flow.port_delta());
            let old: Be16 = frame.read(quote.checksum)?;
            quoted_transport_checksum = if headers.tuple.protocol() == PROTOCOL_UDP {
                delta.apply_udp(old)
            } else {
                delta.apply(old)
            };
            message_delta = message_delta.replace16(old, quoted_transport_checksum);
        }
        Some(Self {
            addresses: [new_source, flow.destination()],
            address_delta,
            message_delta,
            quoted_addresses: [flow.destination(), flow.source()],
            quoted_ports: [flow.destination_port(), flow.source_port()],
            quoted_network_checksum,
            quoted_transport_checksum,
        })
    }
}
