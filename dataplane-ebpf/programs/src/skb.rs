//! A packet at tcx or clsact.

use aya_ebpf::bindings::__sk_buff;
use dataplane_core::{
    abi::counter_index,
    pipeline::{
        Action, ApplyError, ErrorTranslation, Headers, Hook, HopLimit, MAX_VLAN_TAGS, NextHop, Packet,
        ParseFamily, PassReason, Quote, Stage, Step, Verdict, begin, resume,
    },
    tables::{Flow, Tuple},
    wire::{
        Delta, Frame, Header, IcmpHeader, LAST_HEADER_OFFSET, MacAddress, PROTOCOL_ICMPV6, PROTOCOL_UDP,
        TcpHeader, UdpHeader,
    },
};

use crate::{
    environment::{self, Kernel},
    helpers::{self, Skb},
    maps,
};

/// `TCX_NEXT` and `TC_ACT_UNSPEC`: whoever stands behind us decides.
const NEXT: i32 = -1;
/// `TCX_PASS` and `TC_ACT_OK`: to the stack.
const PASS: i32 = 0;
/// `TCX_DROP` and `TC_ACT_SHOT`.
const DROP: i32 = 2;
/// `TCX_REDIRECT` and `TC_ACT_REDIRECT`.
const REDIRECT: i32 = 7;

/// `PACKET_HOST`: for this host.
const FOR_HOST: u32 = 0;

/// So much of a packet is made linear: two tags, the longest IPv4 and TCP headers, or IPv6 with some extensions.
const HEADERS: u32 = 192;

struct SkbPacket {
    skb: Skb,
    hook: Hook,
    action: i32,
}

/// So much of a packet is made linear that quotes another one: all that is ever read.
const QUOTES: u32 = LAST_HEADER_OFFSET + 1 + 40;

/// The program that is attached.
#[inline(always)]
pub fn run(context: *mut __sk_buff, hook: Hook) -> i32 {
    if !make_linear(Skb(context), HEADERS) {
        return unreadable(hook);
    }
    run_stage(context, hook, None)
}

/// A program that it goes on with.
#[inline(always)]
pub fn go_on(context: *mut __sk_buff, hook: Hook, stage: Stage) -> i32 {
    if matches!(stage, Stage::IcmpV4 | Stage::IcmpV6) && !make_linear(Skb(context), QUOTES) {
        return unreadable(hook);
    }
    run_stage(context, hook, Some(stage))
}

/// Makes so many bytes linear, as far as there are so many.
#[inline(always)]
fn make_linear(skb: Skb, bytes: u32) -> bool {
    let wanted = if skb.len() < bytes { skb.len() } else { bytes };
    let linear = skb.bytes();
    linear.data + wanted as usize <= linear.end || skb.pull(wanted).is_ok()
}

#[inline(always)]
fn unreadable(hook: Hook) -> i32 {
    maps::count(counter_index(hook, Verdict::Pass(PassReason::Unreadable).into()));
    NEXT
}

#[inline(always)]
fn run_stage(context: *mut __sk_buff, hook: Hook, stage: Option<Stage>) -> i32 {
    let mut packet = SkbPacket { skb: Skb(context), hook, action: DROP };
    let Some((work, route)) = maps::room(hook) else {
        return DROP;
    };
    let kernel = Kernel::new(context.cast(), route);
    let step = match stage {
        None => begin(&mut packet, &kernel, work),
        Some(stage) => resume(stage, &mut packet, &kernel, work),
    };
    let verdict = match step {
        Step::Done(verdict) => verdict,
        Step::Next(stage) => {
            maps::go_on_at_tc(context, hook, stage);
            environment::absent(hook, stage)
        }
    };
    environment::report(verdict);
    match verdict.action() {
        Action::Pass | Action::Leave => NEXT,
        Action::Deliver => PASS,
        Action::Forward | Action::Answer => packet.action,
        Action::Drop => DROP,
    }
}

impl Frame for SkbPacket {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.skb.len()
    }

    #[inline(always)]
    fn read<T: Header>(&self, offset: u32) -> Option<T> {
        self.skb.bytes().read(offset)
    }

    #[inline(always)]
    fn write<T: Header>(&mut self, offset: u32, header: T) -> Option<()> {
        self.skb.bytes().write(offset, header)
    }

    #[inline(always)]
    fn segment_length(&self, l3_length: u32, headers: u32) -> u32 {
        let payload = self.skb.gso_size();
        if payload == 0 { l3_length } else { headers.wrapping_add(payload) }
    }

    #[inline(always)]
    fn is_segmented(&self) -> bool {
        self.skb.gso_size() != 0
    }
}

impl Packet for SkbPacket {
    #[inline(always)]
    fn hook(&self) -> Hook {
        self.hook
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        self.skb.ifindex()
    }

    #[inline(always)]
    fn is_for_host(&self, _destination: MacAddress, _own: MacAddress) -> bool {
        self.skb.pkt_type() == FOR_HOST
    }

    #[inline(always)]
    fn has_tag_beside(&self) -> bool {
        self.skb.vlan_present() != 0
    }

    #[inline(always)]
    fn untag(&mut self, tags: u32) -> Result<(), ApplyError> {
        if self.has_tag_beside() {
            self.skb.pop_tag()?;
        }
        for popped in 0..MAX_VLAN_TAGS {
            if popped < tags {
                self.skb.pop_tag()?;
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn translate<F: ParseFamily>(
        &mut self,
        headers: &Headers<F>,
        flow: &F::Flow,
        hop_limit: HopLimit,
    ) -> Result<(), ApplyError> {
        let skb = self.skb;
        let addresses = [flow.source(), flow.destination()];
        let ports = [flow.source_port(), flow.destination_port()];
        write_network::<F>(skb, headers, &addresses, flow.address_delta(), hop_limit)?;
        let udp = headers.tuple.protocol() == PROTOCOL_UDP;
        let offset = if udp { UdpHeader::CHECKSUM_OFFSET } else { TcpHeader::CHECKSUM_OFFSET };
        let at_checksum = headers.l4 + offset;
        skb.mend_transport_addresses(at_checksum, flow.address_delta().0, udp)?;
        skb.mend_transport_ports(at_checksum, flow.port_delta().0, udp)?;
        skb.store(headers.l4, &ports)
    }

    #[inline(always)]
    fn translate_network<F: ParseFamily>(
        &mut self,
        headers: &Headers<F>,
        flow: &F::Flow,
        hop_limit: HopLimit,
    ) -> Result<(), ApplyError> {
        let addresses = [flow.source(), flow.destination()];
        write_network::<F>(self.skb, headers, &addresses, flow.address_delta(), hop_limit)
    }

    #[inline(always)]
    fn translate_error<F: ParseFamily>(
        &mut self,
        headers: &Headers<F>,
        quote: &Quote,
        translation: &ErrorTranslation<F>,
        hop_limit: HopLimit,
    ) -> Result<(), ApplyError> {
        let skb = self.skb;
        write_network::<F>(skb, headers, &translation.addresses, translation.address_delta, hop_limit)?;
        let at_checksum = headers.l4 + IcmpHeader::CHECKSUM_OFFSET;
        if F::ICMP == PROTOCOL_ICMPV6 {
            skb.mend_transport_addresses(at_checksum, translation.address_delta.0, false)?;
        }
        skb.mend_transport_ports(at_checksum, translation.message_delta.0, false)?;
        if let Some(offset) = F::CHECKSUM_OFFSET {
            skb.store(quote.l3 + offset, &translation.quoted_network_checksum)?;
        }
        skb.store(quote.l3 + F::ADDRESSES_OFFSET, &translation.quoted_addresses)?;
        skb.store(quote.l4, &translation.quoted_ports)?;
        if quote.checksum != 0 {
            skb.store(quote.checksum, &translation.quoted_transport_checksum)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn sum(&self, offset: u32, length: u32) -> Result<Delta, ApplyError> {
        let room = maps::sum_room().ok_or(ApplyError)?;
        self.skb.sum(offset, length, room)
    }

    #[inline(always)]
    fn put<T: Header>(&mut self, offset: u32, value: T) -> Result<(), ApplyError> {
        self.skb.store_unbalanced(offset, &value)
    }

    #[inline(always)]
    fn resize(&mut self, length: u32, front: u32) -> Result<(), ApplyError> {
        self.skb.truncate(length)?;
        if front == 0 { Ok(()) } else { self.skb.grow(front) }
    }

    #[inline(always)]
    fn send(&mut self, hop: &NextHop) -> Result<(), ApplyError> {
        environment::report_hop(hop);
        self.action = helpers::redirect_neighbor(hop);
        if self.action == REDIRECT { Ok(()) } else { Err(ApplyError) }
    }
}

/// Writes addresses and hop limit into the IP header, and mends its own checksum.
#[inline(always)]
fn write_network<F: ParseFamily>(
    skb: Skb,
    headers: &Headers<F>,
    addresses: &[F::Address; 2],
    address_delta: Delta,
    hop_limit: HopLimit,
) -> Result<(), ApplyError> {
    let hops = match hop_limit {
        HopLimit::Keep => 0,
        HopLimit::Decrement => 1,
    };
    let hop_limit = headers.hop_limit.wrapping_sub(hops);
    let at_hop_limit = headers.l3 + F::HOP_LIMIT_OFFSET;
    let at_addresses = headers.l3 + F::ADDRESSES_OFFSET;
    if let Some(offset) = F::CHECKSUM_OFFSET {
        let delta = F::hop_limit_delta(headers, hop_limit).and(address_delta);
        skb.mend_network(headers.l3 + offset, delta.0)?;
        skb.store(at_addresses, addresses)?;
        if hops != 0 {
            skb.store(at_hop_limit, &hop_limit)?;
        }
    } else {
        skb.store_unbalanced(at_addresses, addresses)?;
        if hops != 0 {
            skb.store_unbalanced(at_hop_limit, &hop_limit)?;
        }
    }
    Ok(())
}
