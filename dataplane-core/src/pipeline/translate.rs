//! The new tuple of a packet, and how plain bytes get it.

use super::{ApplyError, Headers, HopLimit, ParseFamily};
use crate::{
    tables::{Family, FlowParts, Tuple},
    wire::{Be16, Delta, Frame, PROTOCOL_TCP, TcpHeader, UdpHeader},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The new tuple of a packet, complete, and what it adds to the checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation<F: Family> {
    /// New source address.
    pub source: F::Address,
    /// New destination address.
    pub destination: F::Address,
    /// New source port.
    pub source_port: Be16,
    /// New destination port.
    pub destination_port: Be16,
    /// What the change of addresses adds to a checksum.
    pub address_delta: Delta,
    /// What the change of ports adds to a checksum.
    pub port_delta: Delta,
}

impl<F: Family> Translation<F> {
    /// The translation between two tuples.
    #[inline(always)]
    pub fn between(from: &Tuple<F>, to: &Tuple<F>) -> Self {
        let address_delta = F::replace_address(Delta::ZERO, from.source, to.source);
        Self {
            source: to.source,
            destination: to.destination,
            source_port: to.source_port,
            destination_port: to.destination_port,
            address_delta: F::replace_address(address_delta, from.destination, to.destination),
            port_delta: Delta::ZERO
                .replace16(from.source_port, to.source_port)
                .replace16(from.destination_port, to.destination_port),
        }
    }
}

impl<F: Family> From<&FlowParts<F>> for Translation<F> {
    #[inline(always)]
    fn from(parts: &FlowParts<F>) -> Self {
        Self {
            source: parts.source,
            destination: parts.destination,
            source_port: parts.source_port,
            destination_port: parts.destination_port,
            address_delta: parts.address_delta,
            port_delta: parts.port_delta,
        }
    }
}

/// Both ports, as they begin every transport header.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Ports {
    source: Be16,
    destination: Be16,
}

/// Translates a packet whose checksums are all there: in memory, and in XDP. An skb's may still be unfinished; there
/// the kernel's helpers do it.
///
/// # Errors
/// [`ApplyError`] where a header is not within the frame any more.
#[inline(always)]
pub fn translate_in_place<F: ParseFamily, P: Frame + ?Sized>(
    frame: &mut P,
    headers: &Headers<F>,
    translation: &Translation<F>,
    hop_limit: HopLimit,
) -> Result<(), ApplyError> {
    let hops = match hop_limit {
        HopLimit::Keep => 0,
        HopLimit::Decrement => 1,
    };
    let Translation { source, destination, address_delta, port_delta, .. } = *translation;
    F::write_network(frame, headers.l3, source, destination, address_delta, hops).ok_or(ApplyError)?;

    let ports = Ports { source: translation.source_port, destination: translation.destination_port };
    frame.write(headers.l4, ports).ok_or(ApplyError)?;

    let delta = address_delta.and(port_delta);
    if headers.tuple.protocol == PROTOCOL_TCP {
        let at = headers.l4.wrapping_add(TcpHeader::CHECKSUM_OFFSET);
        let checksum: Be16 = frame.read(at).ok_or(ApplyError)?;
        frame.write(at, delta.apply(checksum)).ok_or(ApplyError)
    } else {
        let at = headers.l4.wrapping_add(UdpHeader::CHECKSUM_OFFSET);
        let checksum: Be16 = frame.read(at).ok_or(ApplyError)?;
        frame.write(at, delta.apply_udp(checksum)).ok_or(ApplyError)
    }
}
