//! How plain bytes get a flow's new tuple.

use super::{ApplyError, Headers, HopLimit, ParseFamily};
use crate::{
    tables::{Flow, Tuple},
    wire::{Be16, Frame, PROTOCOL_TCP, TcpHeader, UdpHeader},
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
    let l3 = headers.l3;
    let mut network_delta = flow.address_delta();
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
    let addresses = [flow.source(), flow.destination()];
    frame.write(l3.wrapping_add(F::ADDRESSES_OFFSET), addresses).ok_or(ApplyError)?;

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
