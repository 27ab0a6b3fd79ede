//! Answers to what is dropped: "too big", "time exceeded", "port unreachable", and resets.
//!
//! An answer is made of the packet itself, at tcx only: an ICMP error keeps its beginning and gets new headers in front, a
//! reset takes its place. Its source is the address that the packet was for: a client hears from the virtual address that
//! it asked, and a backend from the client's, both of which come through filters that the packets before came through.
//! (RFC 1812, 4.3.2.7 and RFC 4443, 2.2 want an address of the router's own for packets that it only forwards; no program
//! is told one before Linux 6.7.)
//!
//! **Unfinished checksums.** A packet of a socket on this machine carries a transport checksum that whoever sends it last
//! finishes: the sum over everything from the transport header on is put where the packet had the checksum, and no program
//! can tell whether that is still to come. So the answer is made such that its checksums are right either way. Finishing
//! a segment makes its sum the negative of what stood in the checksum field (RFC 1071). Quoted, a segment gets the number `p`
//! there that makes its sum `-p` already: half of the negative sum of everything else, which exists, since 2 divides no
//! multiple of 65,535 but in one way. A reset has the sum of its pseudo header there, as an unfinished one has, and its
//! window, which nobody reads, makes its sum the negative of that.

use super::{
    AnswerReason, ApplyError, DropReason, Environment, Headers, Hook, Link, Packet, ParseFamily, Route,
    RouteQuery, Routes, Verdict, workspace::Workspace,
};
use crate::{
    abi::Setting,
    tables::{Family, Tuple},
    wire::{
        Be16, Be32, Delta, EthernetHeader, IcmpHeader, PROTOCOL_ICMPV6, PROTOCOL_TCP, TCP_ACK, TCP_FIN,
        TCP_RST, TCP_SYN, TcpHeader, UdpHeader,
    },
};

/// Hops that an answer may take.
pub(super) const HOP_LIMIT: u8 = 64;

/// The MTU of a route cannot be less (RFC 791; RFC 8200, 5).
const fn least_mtu(v6: bool) -> u32 {
    if v6 { 1280 } else { 68 }
}

/// The headers that an answer begins with.
pub trait AnswerFamily: Family {
    /// The IP header of an answer, with its own checksum.
    type Network: crate::wire::Header;
    /// Its length in bytes.
    const NETWORK_LENGTH: u32;
    /// So much of a packet is quoted that an error has 576 bytes (RFC 1812, 4.3.2.3) or 1280 (RFC 4443, 2.4).
    const LONGEST_QUOTE: u32;
    /// What stands in the Ethernet header.
    const ETHERTYPE: u16;

    /// The header of an answer with a payload of so many bytes.
    fn network(
        source: Self::Address,
        destination: Self::Address,
        protocol: u8,
        payload: u32,
    ) -> Self::Network;
    /// The sum of an address's words.
    fn sum(address: Self::Address) -> Delta;
    /// Type and code of an error.
    fn error_kind(reason: AnswerReason) -> [u8; 2];
}

/// Drops the packet in the workspace for the reason that stands there, and answers it where that is proper.
#[inline(always)]
pub(super) fn answer<F, P, E>(packet: &mut P, env: &E, work: &mut Workspace<F>, link: &Link) -> Verdict
where
    F: ParseFamily,
    P: Packet,
    E: Environment + Routes<F>,
{
    let Some(reason) = AnswerReason::from_number(work.answer) else {
        return Verdict::Drop(DropReason::Rewrite);
    };
    let silently = Verdict::Drop(reason.dropped());
    let headers = &work.headers;
    let tuple = headers.tuple;
    let tcp = tuple.protocol() == PROTOCOL_TCP;
    let reset = tcp && matches!(reason, AnswerReason::NoBackend);
    // A reset has its header where the packet has it.
    let in_place = headers.l4.wrapping_sub(headers.l3) == F::NETWORK_LENGTH;
    if headers.tcp_flags & TCP_RST != 0
        || link.ethernet.source.is_group()
        || F::is_group(tuple.destination())
        || (reset && !in_place)
    {
        return silently;
    }
    let quoted = if headers.l3_length < F::LONGEST_QUOTE { headers.l3_length } else { F::LONGEST_QUOTE };
    let payload = if reset { TcpHeader::LENGTH } else { quoted.wrapping_add(IcmpHeader::LENGTH) };
    let query = RouteQuery {
        interface: packet.interface(),
        source: tuple.destination(),
        destination: tuple.source(),
        source_port: if reset { tuple.destination_port() } else { Be16(0) },
        destination_port: if reset { tuple.source_port() } else { Be16(0) },
        protocol: if reset { PROTOCOL_TCP } else { F::ICMP },
        traffic_class: 0,
        length: payload.wrapping_add(F::NETWORK_LENGTH),
    };
    let mtu = work.hop.mtu;
    if !matches!(Routes::<F>::route(env, &query, &mut work.hop), Route::Forward) {
        return silently;
    }
    if !may_answer(env) {
        return Verdict::Drop(DropReason::AnswerLimit);
    }
    let written = untag(packet, &mut work.headers, link).and_then(|()| {
        if reset {
            write_reset(packet, &work.headers)
        } else {
            write_error(packet, &work.headers, reason, quoted, mtu)
        }
    });
    let written = written.and_then(|()| {
        let network = F::network(tuple.destination(), tuple.source(), query.protocol, payload);
        packet.put(0, ethernet_back::<F>(link))?;
        packet.put(EthernetHeader::LENGTH, network)?;
        packet.send(&work.hop)
    });
    match written {
        Ok(()) => Verdict::Answer(reason),
        Err(ApplyError) => Verdict::Drop(DropReason::Rewrite),
    }
}

/// Whether this CPU may send another answer; it is counted then.
#[inline(always)]
pub(super) fn may_answer<E: Environment>(env: &E) -> bool {
    env.take_answer(|budget| budget.take(env.now(), env.setting(Setting::AnswersASecond)))
}

/// The Ethernet header of an answer: to where the packet came from.
#[inline(always)]
pub(super) fn ethernet_back<F: AnswerFamily>(link: &Link) -> EthernetHeader {
    EthernetHeader {
        destination: link.ethernet.source,
        source: link.ethernet.destination,
        ethertype: Be16::new(F::ETHERTYPE),
    }
}

#[inline(always)]
pub(super) fn untag<F: ParseFamily, P: Packet>(
    packet: &mut P,
    headers: &mut Headers<F>,
    link: &Link,
) -> Result<(), ApplyError> {
    if link.tags == 0 && !packet.has_tag_beside() {
        return Ok(());
    }
    packet.untag(link.tags)?;
    headers.l4 = headers.l4.wrapping_sub(headers.l3).wrapping_add(EthernetHeader::LENGTH);
    headers.l3 = EthernetHeader::LENGTH;
    Ok(())
}

/// Cuts the packet behind what is quoted, and puts an ICMP header in front of it, with room for the headers before that.
#[inline(always)]
fn write_error<F: ParseFamily, P: Packet>(
    packet: &mut P,
    headers: &Headers<F>,
    reason: AnswerReason,
    quoted: u32,
    mtu: u32,
) -> Result<(), ApplyError> {
    let Headers { l3, l4, tuple, .. } = *headers;
    let at_checksum = l4.wrapping_add(if tuple.protocol() == PROTOCOL_TCP {
        TcpHeader::CHECKSUM_OFFSET
    } else {
        UdpHeader::CHECKSUM_OFFSET
    });
    let network_length = l4.wrapping_sub(l3);
    let old: Be16 = packet.read(at_checksum).ok_or(ApplyError)?;
    let network = packet.sum(l3, network_length)?;
    let transport = packet.sum(l4, quoted.wrapping_sub(network_length))?;
    let without = transport.replace16(old, Be16(0));
    let balance = half(without.negative());
    packet.put(at_checksum, Be16(balance.0))?;

    let mtu =
        if mtu < least_mtu(F::ICMP == PROTOCOL_ICMPV6) { least_mtu(F::ICMP == PROTOCOL_ICMPV6) } else { mtu };
    let mtu = if !matches!(reason, AnswerReason::TooBig) {
        0
    } else if mtu > 0xffff {
        0xffff
    } else {
        mtu as u16
    };
    let [kind, code] = F::error_kind(reason);
    let mut icmp = IcmpHeader { kind, code, checksum: Be16(0), rest: [Be16(0), Be16::new(mtu)] };
    let words: [u16; 4] = zerocopy::transmute!(icmp);
    let mut sum = without.and(balance).and(network).words(&words);
    if F::ICMP == PROTOCOL_ICMPV6 {
        let length = Be16::new(quoted.wrapping_add(IcmpHeader::LENGTH) as u16);
        sum = sum.and(pseudo::<F>(tuple, F::ICMP, length));
    }
    icmp.checksum = sum.checksum();
    packet.resize(l3.wrapping_add(quoted), F::NETWORK_LENGTH.wrapping_add(IcmpHeader::LENGTH))?;
    packet.put(EthernetHeader::LENGTH.wrapping_add(F::NETWORK_LENGTH), icmp)
}

/// Makes the packet the reset that answers it: RFC 9293, 3.5.2.
#[inline(always)]
fn write_reset<F: ParseFamily, P: Packet>(packet: &mut P, headers: &Headers<F>) -> Result<(), ApplyError> {
    let Headers { l3_length, headers_length, l4, tuple, .. } = *headers;
    let tcp: TcpHeader = packet.read(l4).ok_or(ApplyError)?;
    let (sequence, acknowledgement, flags) = if tcp.flags & TCP_ACK != 0 {
        (tcp.acknowledgement, Be32(0), TCP_RST)
    } else {
        // SYN and FIN take a number each.
        let syn = u32::from(tcp.flags & TCP_SYN != 0);
        let fin = u32::from(tcp.flags & TCP_FIN != 0);
        let length = l3_length.wrapping_sub(headers_length).wrapping_add(syn).wrapping_add(fin);
        (Be32(0), Be32::new(tcp.sequence.get().wrapping_add(length)), TCP_RST | TCP_ACK)
    };
    let pseudo = pseudo::<F>(tuple, PROTOCOL_TCP, Be16::new(TcpHeader::LENGTH as u16));
    let mut reset = TcpHeader {
        source_port: tuple.destination_port(),
        destination_port: tuple.source_port(),
        sequence,
        acknowledgement,
        data_offset: 5 << 4,
        flags,
        window: Be16(0),
        checksum: Be16(0),
        urgent: Be16(0),
    };
    let words: [u16; 10] = zerocopy::transmute!(reset);
    reset.window = Be16(pseudo.and(pseudo).words(&words).negative().0);
    reset.checksum = Be16(pseudo.0);
    packet.resize(l4.wrapping_add(TcpHeader::LENGTH), 0)?;
    packet.put(l4, reset)
}

/// The sum of an answer's pseudo header.
#[inline(always)]
fn pseudo<F: ParseFamily>(tuple: F::Tuple, protocol: u8, length: Be16) -> Delta {
    let addresses = F::sum(tuple.source()).and(F::sum(tuple.destination()));
    addresses.words(&[length.0, Be16::new(protocol.into()).0])
}

/// The number that is this one when it is added to itself.
#[inline(always)]
const fn half(sum: Delta) -> Delta {
    let number = sum.0 as u32;
    let even = if number & 1 == 0 { number } else { number.wrapping_add(0xffff) };
    Delta((even >> 1) as u16)
}

/// Whether the hook can answer: elsewhere the packet is left to the one that can, or is dropped in silence.
#[inline(always)]
pub(super) const fn is_possible(hook: Hook) -> bool {
    matches!(hook, Hook::Ingress)
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    #[test]
    fn half_of_each_number_twice_is_that_number() {
        for number in 0..=u16::MAX {
            let half = half(Delta(number));
            assert_eq!(u32::from(half.and(half).0) % 0xffff, u32::from(number) % 0xffff, "{number}");
        }
    }
}
