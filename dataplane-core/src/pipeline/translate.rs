//! How plain bytes get a flow's new tuple.

use super::{ApplyError, Headers, HopLimit, ParseFamily};
use crate::{
    tables::{Flow, Tuple},
    wire::{Be16, Frame, PROTOCOL_TCP, TcpHeader, UdpHeader},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

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
    flow: &F::Flow,
    hop_limit: HopLimit,
) -> Result<(), ApplyError> {
    let hops = match hop_limit {
        HopLimit::Keep => 0,
        HopLimit::Decrement => 1,
    };
    F::write_network(frame, headers.l3, flow, hops).ok_or(ApplyError)?;

    let ports = Ports { source: flow.source_port(), destination: flow.destination_port() };
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
