//! How plain bytes get a flow's new tuple.

use super::{ApplyError, ErrorTranslation, Headers, HopLimit, ParseFamily, Quote};
use crate::{
    tables::{Flow, Tuple},
    wire::{Be16, Delta, Frame, IcmpHeader, PROTOCOL_ICMPV6, PROTOCOL_TCP, TcpHeader, UdpHeader},
};

/// Translates a packet whose checksums are all there: in memory, and in XDP. An skb's may still be unfinished; there
/// the kernel's helpers do it.
///
/// # Errors
/// [`ApplyError`] where a header is not within the frame any more.
#[inline(always)]
pub fn translate_in_place<F: ParseFamily, P: Frame + ?Sized>(
    frame: &mut P,
    headers: &Headers<F>,
    flow: &F::Flow,
    hop_limit: HopLimit,
) -> Result<(), ApplyError> {
    let addresses = [flow.source(), flow.destination()];
    write_network(frame, headers, addresses, flow.address_delta(), hop_limit)?;

    let ports = [flow.source_port(), flow.destination_port()];
    frame.write(headers.l4, ports).ok_or(ApplyError)?;

    let delta = flow.address_delta().and(flow.port_delta());
    if headers.tuple.protocol() == PROTOCOL_TCP {
        let at = headers.l4.wrapping_add(TcpHeader::CHECKSUM_OFFSET);
        let checksum: Be16 = frame.read(at).ok_or(ApplyError)?;
        frame.write(at, delta.apply(checksum)).ok_or(ApplyError)
    } else {
        let at = headers.l4.wrapping_add(UdpHeader::CHECKSUM_OFFSET);
        let checksum: Be16 = frame.read(at).ok_or(ApplyError)?;
        frame.write(at, delta.apply_udp(checksum)).ok_or(ApplyError)
    }
}

/// Translates a later part of a packet: addresses and hop limit. The first part's transport checksum, which covers them all,
/// was mended with it.
///
/// # Errors
/// [`ApplyError`] where the IP header is not within the frame any more.
#[inline(always)]
pub fn translate_network_in_place<F: ParseFamily, P: Frame + ?Sized>(
    frame: &mut P,
    headers: &Headers<F>,
    flow: &F::Flow,
    hop_limit: HopLimit,
) -> Result<(), ApplyError> {
    let addresses = [flow.source(), flow.destination()];
    write_network(frame, headers, addresses, flow.address_delta(), hop_limit)
}

/// Translates an ICMP error whose checksums are all there, as [`translate_in_place`] does other packets.
///
/// # Errors
/// [`ApplyError`] where a header is not within the frame any more.
#[inline(always)]
pub fn translate_error_in_place<F: ParseFamily, P: Frame + ?Sized>(
    frame: &mut P,
    headers: &Headers<F>,
    quote: &Quote,
    translation: &ErrorTranslation<F>,
    hop_limit: HopLimit,
) -> Result<(), ApplyError> {
    let ErrorTranslation { addresses, address_delta, message_delta, .. } = *translation;
    write_network(frame, headers, addresses, address_delta, hop_limit)?;
    let at = headers.l4.wrapping_add(IcmpHeader::CHECKSUM_OFFSET);
    let checksum: Be16 = frame.read(at).ok_or(ApplyError)?;
    // The addresses are in ICMPv6's pseudo header.
    let pseudo = if F::ICMP == PROTOCOL_ICMPV6 { address_delta } else { Delta::ZERO };
    frame.write(at, message_delta.and(pseudo).apply(checksum)).ok_or(ApplyError)?;

    if let Some(offset) = F::CHECKSUM_OFFSET {
        frame.write(quote.l3.wrapping_add(offset), translation.quoted_network_checksum).ok_or(ApplyError)?;
    }
    let at = quote.l3.wrapping_add(F::ADDRESSES_OFFSET);
    frame.write(at, translation.quoted_addresses).ok_or(ApplyError)?;
    frame.write(quote.l4, translation.quoted_ports).ok_or(ApplyError)?;
    if quote.checksum != 0 {
        frame.write(quote.checksum, translation.quoted_transport_checksum).ok_or(ApplyError)?;
    }
    Ok(())
}

/// Writes addresses and hop limit into the IP header, and mends its own checksum.
#[inline(always)]
fn write_network<F: ParseFamily, P: Frame + ?Sized>(
    frame: &mut P,
    headers: &Headers<F>,
    addresses: [F::Address; 2],
    address_delta: Delta,
    hop_limit: HopLimit,
) -> Result<(), ApplyError> {
    let l3 = headers.l3;
    let mut network_delta = address_delta;
    if matches!(hop_limit, HopLimit::Decrement) {
        let left = headers.hop_limit.wrapping_sub(1);
        network_delta = network_delta.and(F::hop_limit_delta(headers, left));
        frame.write(l3.wrapping_add(F::HOP_LIMIT_OFFSET), left).ok_or(ApplyError)?;
    }
    if let Some(offset) = F::CHECKSUM_OFFSET {
        let at = l3.wrapping_add(offset);
        let checksum: Be16 = frame.read(at).ok_or(ApplyError)?;
        frame.write(at, network_delta.apply(checksum)).ok_or(ApplyError)?;
    }
    frame.write(l3.wrapping_add(F::ADDRESSES_OFFSET), addresses).ok_or(ApplyError)
}
