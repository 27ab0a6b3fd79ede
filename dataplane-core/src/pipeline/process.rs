//! The way of a packet, from its first byte to its verdict.

use super::{
    Direction, DropReason, Environment, Hook, HopLimit, LeaveReason, Link, NextHop, Packet, ParseFamily,
    PassReason, Route, RouteQuery, Routes, Stage, Step, Verdict,
    commit::{self, Opened},
    decide::{Decision, decide, serves},
    workspace::{Arrival, Workspace, Workspaces},
};
use crate::{
    abi::{INTERFACE_XDP_REDIRECT, INTERFACE_XDP_TX},
    tables::{Flow, Lookup, Tuple},
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, MacAddress},
};

/// Handles one packet: decides, writes tables, translates and sends it, and counts the verdict.
///
/// The caller only turns the verdict into its hook's return code. On [`Verdict::Pass`] and [`Verdict::Leave`] the
/// packet is untouched. What the workspaces hold before does not matter.
#[inline(always)]
pub fn process<P, E>(packet: &mut P, env: &E, work: &mut Workspaces) -> Verdict
where
    P: Packet,
    E: Environment,
{
    let mut step = begin(packet, env, work);
    loop {
        step = match step {
            Step::Done(verdict) => return verdict,
            Step::Next(stage) => resume(stage, packet, env, work),
        }
    }
}

/// The first stage: the link layer, and all of IPv4.
#[inline(always)]
pub fn begin<P, E>(packet: &mut P, env: &E, work: &mut Workspaces) -> Step
where
    P: Packet,
    E: Environment,
{
    let step = match enter(packet, env, work) {
        Ok(ETHERTYPE_IPV4) => handle_family(packet, env, &mut work.v4, &work.arrival).into(),
        Ok(ETHERTYPE_IPV6) => return Step::Next(Stage::V6),
        Ok(_) => Step::Done(Verdict::Pass(PassReason::NotIp)),
        Err(verdict) => Step::Done(verdict),
    };
    step.counted(packet.hook(), env)
}

/// A later stage, of the packet and the workspaces that an earlier one left.
#[inline(always)]
pub fn resume<P, E>(stage: Stage, packet: &mut P, env: &E, work: &mut Workspaces) -> Step
where
    P: Packet,
    E: Environment,
{
    let step: Step = match stage {
        Stage::V6 => handle_family(packet, env, &mut work.v6, &work.arrival).into(),
    };
    step.counted(packet.hook(), env)
}

/// Reads the link layer, and where the packet arrived; returns the EtherType.
#[inline(always)]
fn enter<P, E>(packet: &mut P, env: &E, work: &mut Workspaces) -> Result<u16, Verdict>
where
    P: Packet,
    E: Environment,
{
    let link = Link::parse(packet)?;
    let interface = env.interface(packet.interface());
    if !matches!(packet.hook(), Hook::Egress) {
        let own = MacAddress::new(interface.unwrap_or_default().mac);
        if link.ethernet.destination.is_group() || !packet.is_for_host(link.ethernet.destination, own) {
            return Err(Verdict::Pass(PassReason::NotForHost));
        }
    }
    work.arrival = Arrival { link, zone: interface.map_or(0, |entry| entry.zone) };
    Ok(link.ethertype)
}

#[inline(always)]
fn handle_family<F, P, E>(
    packet: &mut P,
    env: &E,
    work: &mut Workspace<F>,
    Arrival { link, zone }: &Arrival,
) -> Result<Verdict, Verdict>
where
    F: ParseFamily,
    P: Packet,
    E: Environment + Lookup<F> + Routes<F>,
{
    F::parse(packet, link.l3, *zone, &mut work.headers)?;
    let now = env.now();
    let (known, stale) = match decide(work, env, packet.hook(), now) {
        Decision::Verdict(verdict) => return Err(verdict),
        Decision::Refuse(reason, frontend) => return Err(refuse(env, reason, frontend)),
        Decision::Known(entry) => (Some(entry), None),
        Decision::New(stale) => (None, stale),
    };
    let mut way = find_way(packet, env, work, link)?;
    if let Some(entry) = known {
        commit::refresh(work, &entry, env, now);
    } else {
        match commit::open(work, stale, env, now) {
            Ok(Opened::Done) => {
                env.count_service(work.flow.frontend(), |counters| {
                    counters.flows = counters.flows.wrapping_add(1)
                });
            }
            // The way found is that of another backend, maybe. The stack finds this one's.
            Ok(Opened::Raced) if matches!(packet.hook(), Hook::Xdp) => {
                way = Way::Leave(LeaveReason::Contended)
            }
            Ok(Opened::Raced) => way = Way::Stack,
            Err(reason) => return Err(refuse(env, reason, work.flow.frontend())),
        }
    }
    take(&way, packet, env, work, link)
}

/// Where a packet goes.
enum Way {
    Stack,
    Forward,
    Leave(LeaveReason),
}

/// Finds where the packet goes once it is translated, before anything is written.
#[inline(always)]
fn find_way<F, P, E>(packet: &P, env: &E, work: &mut Workspace<F>, link: &Link) -> Result<Way, Verdict>
where
    F: ParseFamily,
    P: Packet,
    E: Environment + Routes<F>,
{
    let Workspace { headers, flow, hop, .. } = work;
    let xdp = matches!(packet.hook(), Hook::Xdp);
    let stack = || if xdp { Way::Leave(LeaveReason::Local) } else { Way::Stack };
    if matches!(packet.hook(), Hook::Egress) {
        return Ok(Way::Stack);
    }
    if flow.is_local() && matches!(flow.direction(), Direction::Original) {
        return Ok(stack());
    }
    if xdp && link.tags != 0 {
        return Ok(Way::Leave(LeaveReason::Tagged));
    }
    let query = RouteQuery {
        interface: packet.interface(),
        source: flow.source(),
        destination: flow.destination(),
        source_port: flow.source_port(),
        destination_port: flow.destination_port(),
        protocol: headers.tuple.protocol(),
        traffic_class: headers.traffic_class,
        length: packet.segment_length(headers.l3_length, headers.headers_length),
    };
    let reason = match Routes::<F>::route(env, &query, hop) {
        Route::Stack => return Ok(stack()),
        Route::TooBig if xdp => return Ok(Way::Leave(LeaveReason::TooBig)),
        // The stack splits it.
        Route::TooBig if !headers.dont_fragment => return Ok(Way::Stack),
        Route::Forward if headers.hop_limit <= 1 => DropReason::HopLimit,
        Route::Forward if xdp => return Ok(through_xdp(hop, packet.interface(), env)),
        Route::Forward => return Ok(Way::Forward),
        Route::TooBig => DropReason::TooBig,
        Route::Unreachable => DropReason::Unreachable,
        Route::ForwardingOff => DropReason::ForwardingOff,
    };
    Err(refuse(env, reason, flow.frontend()))
}

/// Whether XDP can send a packet to this hop itself.
#[inline(always)]
fn through_xdp<E: Environment>(hop: &NextHop, arrived: u32, env: &E) -> Way {
    if !hop.resolved {
        return Way::Leave(LeaveReason::NoNeighbor);
    }
    let needed = if hop.interface == arrived { INTERFACE_XDP_TX } else { INTERFACE_XDP_REDIRECT };
    match env.interface(hop.interface) {
        Some(entry) if entry.flags & needed != 0 => Way::Forward,
        _ => Way::Leave(LeaveReason::Interface),
    }
}

/// Translates the packet and lets it go its way.
#[inline(always)]
fn take<F, P, E>(
    way: &Way,
    packet: &mut P,
    env: &E,
    work: &Workspace<F>,
    link: &Link,
) -> Result<Verdict, Verdict>
where
    F: ParseFamily,
    P: Packet,
    E: Environment + Lookup<F>,
{
    let Workspace { headers, flow, .. } = work;
    let applied = match way {
        Way::Leave(reason) => return Ok(Verdict::Leave(*reason)),
        Way::Stack => packet.translate(headers, flow, HopLimit::Keep).map(|()| Verdict::Deliver),
        Way::Forward => packet
            .translate(headers, flow, HopLimit::Decrement)
            .and_then(|()| {
                if link.tags != 0 || packet.has_tag_beside() { packet.untag(link.tags) } else { Ok(()) }
            })
            .and_then(|()| packet.send(&work.hop))
            .map(|()| Verdict::Forward),
    };
    let Ok(verdict) = applied else {
        return Err(refuse(env, DropReason::Rewrite, flow.frontend()));
    };
    let bytes = u64::from(headers.l3_length);
    let reply = matches!(flow.direction(), Direction::Reply);
    if reply
        && !serves::<F, E>(flow.frontend(), flow.source(), flow.source_port(), headers.tuple.protocol(), env)
    {
        // The frontend is gone: its counters are another's by now, or nobody's.
        return Ok(verdict);
    }
    env.count_service(flow.frontend(), |counters| {
        if reply {
            counters.reply_packets = counters.reply_packets.wrapping_add(1);
            counters.reply_bytes = counters.reply_bytes.wrapping_add(bytes);
        } else {
            counters.packets = counters.packets.wrapping_add(1);
            counters.bytes = counters.bytes.wrapping_add(bytes);
        }
    });
    Ok(verdict)
}

/// Counts a drop at its frontend.
#[inline(always)]
fn refuse<E: Environment>(env: &E, reason: DropReason, frontend: u32) -> Verdict {
    env.count_service(frontend, |counters| counters.drops = counters.drops.wrapping_add(1));
    Verdict::Drop(reason)
}
