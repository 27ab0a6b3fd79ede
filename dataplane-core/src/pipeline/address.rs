//! What comes to a virtual address and is of no service: pings, and packets to ports that nobody serves.
//!
//! A virtual address may be one of the host's own too; then it is the host's to answer. No program is told which addresses
//! are, but a route says: to what is the host's own it leads to the stack. So it does where the host has no route to the
//! virtual address at all, which is told apart no better: then the stack has such packets as well.

use super::{
    AnswerReason, ApplyError, DropReason, Environment, Headers, Hook, LeaveReason, Link, Packet, ParseFamily,
    PassReason, Route, RouteQuery, Routes, Verdict,
    answer::{HOP_LIMIT, ethernet_back, may_answer, untag},
    workspace::Workspace,
};
use crate::{
    abi::{ADDRESSES_ANSWER_PING, ADDRESSES_DROP_UNSERVED, Setting},
    tables::{Lookup, Tuple},
    wire::{Be16, Delta, IcmpHeader},
};

/// What becomes of packets to virtual addresses that are of no service. None of it concerns an address that is one of the host's
/// own as well: that is left to its stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressSettings {
    /// Whether echo requests are answered.
    pub answer_ping: bool,
    /// Whether packets to ports that no service has are dropped.
    pub drop_unserved_ports: bool,
}

impl Default for AddressSettings {
    /// Echo requests are answered, and nothing is dropped.
    fn default() -> Self {
        Self { answer_ping: true, drop_unserved_ports: false }
    }
}

impl AddressSettings {
    /// The word that the configuration has.
    pub fn word(self) -> u64 {
        let ping = if self.answer_ping { ADDRESSES_ANSWER_PING } else { 0 };
        let drop = if self.drop_unserved_ports { ADDRESSES_DROP_UNSERVED } else { 0 };
        (ping | drop).into()
    }
}

/// What becomes of a packet of TCP or UDP that is of no flow and of no service.
#[inline(always)]
pub(super) fn without_service<F, P, E>(packet: &P, env: &E, work: &mut Workspace<F>) -> Verdict
where
    F: ParseFamily,
    P: Packet,
    E: Environment + Lookup<F> + Routes<F>,
{
    if env.setting(Setting::Addresses) & ADDRESSES_DROP_UNSERVED == 0
        || !is_virtual::<F, E>(work.headers.tuple.destination(), env)
    {
        return Verdict::Pass(PassReason::NoService);
    }
    if is_stacks(packet, env, work) {
        return Verdict::Pass(PassReason::OwnAddress);
    }
    Verdict::Drop(DropReason::NoPort)
}

/// Answers an echo request to a virtual address; `None` where the packet is none.
///
/// The request itself becomes the reply: type, addresses and hop limit change, and all else stays, so that neither its length
/// matters nor where its data lie.
#[inline(always)]
pub(super) fn echo<F, P, E>(packet: &mut P, env: &E, work: &mut Workspace<F>, link: &Link) -> Option<Verdict>
where
    F: ParseFamily,
    P: Packet,
    E: Environment + Lookup<F> + Routes<F>,
{
    if matches!(packet.hook(), Hook::Egress) || env.setting(Setting::Addresses) & ADDRESSES_ANSWER_PING == 0 {
        return None;
    }
    let Headers { l3, l4, tuple, l3_length, traffic_class, .. } = work.headers;
    let icmp: IcmpHeader = packet.read(l4)?;
    if icmp.kind != F::ECHO[0] || icmp.code != 0 || !is_virtual::<F, E>(tuple.destination(), env) {
        return None;
    }
    if matches!(packet.hook(), Hook::Xdp) {
        return Some(Verdict::Leave(LeaveReason::Answer));
    }
    // Options and extension headers would have to be answered as well, and groups are not.
    if l4.wrapping_sub(l3) != F::NETWORK_LENGTH || link.ethernet.source.is_group() {
        return Some(Verdict::Pass(PassReason::Protocol));
    }
    if is_stacks(packet, env, work) {
        return Some(Verdict::Pass(PassReason::OwnAddress));
    }
    let query = RouteQuery {
        interface: packet.interface(),
        source: tuple.destination(),
        destination: tuple.source(),
        source_port: Be16(0),
        destination_port: Be16(0),
        protocol: F::ICMP,
        traffic_class,
        length: l3_length,
    };
    match Routes::<F>::route(env, &query, &mut work.hop) {
        Route::Forward => {}
        Route::TooBig => return Some(Verdict::Drop(DropReason::TooBig)),
        Route::Stack | Route::Unreachable | Route::ForwardingOff => {
            return Some(Verdict::Drop(DropReason::Unreachable));
        }
    }
    if !may_answer(env) {
        return Some(Verdict::Drop(DropReason::AnswerLimit));
    }
    let written = untag(packet, &mut work.headers, link)
        .and_then(|()| write_reply(packet, &work.headers, icmp, link))
        .and_then(|()| packet.send(&work.hop));
    Some(match written {
        Ok(()) => Verdict::Answer(AnswerReason::Echo),
        Err(ApplyError) => Verdict::Drop(DropReason::Rewrite),
    })
}

#[inline(always)]
fn write_reply<F: ParseFamily, P: Packet>(
    packet: &mut P,
    headers: &Headers<F>,
    icmp: IcmpHeader,
    link: &Link,
) -> Result<(), ApplyError> {
    let Headers { l3, l4, tuple, .. } = *headers;
    // Addresses in exchanged places are the same to a sum.
    let kind = |kind| Be16(u16::from_ne_bytes([kind, icmp.code]));
    let checksum = Delta::ZERO.replace16(kind(F::ECHO[0]), kind(F::ECHO[1])).apply(icmp.checksum);
    packet.put(l4, IcmpHeader { kind: F::ECHO[1], checksum, ..icmp })?;
    packet.put(l3.wrapping_add(F::ADDRESSES_OFFSET), [tuple.destination(), tuple.source()])?;
    let at_hops = l3.wrapping_add(F::HOP_LIMIT_OFFSET & !1);
    let [first, second]: [u8; 2] = packet.read(at_hops).ok_or(ApplyError)?;
    let is_first = F::HOP_LIMIT_OFFSET & 1 == 0;
    packet.put(at_hops, if is_first { [HOP_LIMIT, second] } else { [first, HOP_LIMIT] })?;
    if let Some(offset) = F::CHECKSUM_OFFSET {
        let at = l3.wrapping_add(offset);
        let old: Be16 = packet.read(at).ok_or(ApplyError)?;
        packet.put(at, F::hop_limit_delta(headers, HOP_LIMIT).apply(old))?;
    }
    packet.put(0, ethernet_back::<F>(link))
}

/// Whether a service has this address.
#[inline(always)]
fn is_virtual<F, E>(address: F::Address, env: &E) -> bool
where
    F: ParseFamily,
    E: Environment + Lookup<F>,
{
    let key = F::service_key(address, Be16(0), 0);
    match Lookup::<F>::service(env, &key) {
        Some(found) => found.tag() == F::service_tag(&key),
        None => false,
    }
}

/// Whether what is sent to the packet's destination is the stack's.
#[inline(always)]
fn is_stacks<F, P, E>(packet: &P, env: &E, work: &mut Workspace<F>) -> bool
where
    F: ParseFamily,
    P: Packet,
    E: Environment + Routes<F>,
{
    let tuple = &work.headers.tuple;
    let query = RouteQuery {
        interface: packet.interface(),
        source: tuple.source(),
        destination: tuple.destination(),
        source_port: tuple.source_port(),
        destination_port: tuple.destination_port(),
        protocol: tuple.protocol(),
        traffic_class: work.headers.traffic_class,
        // Whether it would fit is not asked.
        length: F::NETWORK_LENGTH,
    };
    matches!(Routes::<F>::route(env, &query, &mut work.hop), Route::Stack | Route::ForwardingOff)
}
