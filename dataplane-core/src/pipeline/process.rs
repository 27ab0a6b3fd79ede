//! The way of a packet, from its first byte to its verdict.

use super::{
    Direction, DropReason, Environment, Headers, Hook, HopLimit, LeaveReason, Link, NextHop, Packet,
    ParseFamily, PassReason, Route, RouteQuery, Routes, Translation, Verdict,
    commit::{self, Opened},
    decide::{Decision, decide},
};
use crate::{
    abi::INTERFACE_XDP_SEND,
    tables::{Lookup, V4, V6},
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, MacAddress},
};

/// How often a decision is made anew because another CPU was faster. The second time its entry is there.
const ATTEMPTS: u32 = 3;

/// Handles one packet: decides, writes tables, translates and sends it, and counts the verdict.
///
/// The caller only turns the verdict into its hook's return code. On [`Verdict::Pass`] and [`Verdict::Leave`] the
/// packet is untouched.
#[inline(always)]
pub fn process<P, E>(packet: &mut P, env: &E) -> Verdict
where
    P: Packet,
    E: Environment,
{
    let verdict = match handle(packet, env) {
        Ok(verdict) | Err(verdict) => verdict,
    };
    env.count(packet.hook(), verdict);
    verdict
}

#[inline(always)]
fn handle<P, E>(packet: &mut P, env: &E) -> Result<Verdict, Verdict>
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
    let zone = interface.map_or(0, |entry| entry.zone);
    match link.ethertype {
        ETHERTYPE_IPV4 => handle_family::<V4, P, E>(packet, env, &link, zone),
        ETHERTYPE_IPV6 => handle_family::<V6, P, E>(packet, env, &link, zone),
        _ => Err(Verdict::Pass(PassReason::NotIp)),
    }
}

#[inline(always)]
fn handle_family<F, P, E>(packet: &mut P, env: &E, link: &Link, zone: u16) -> Result<Verdict, Verdict>
where
    F: ParseFamily,
    P: Packet,
    E: Environment + Lookup<F> + Routes<F>,
{
    let mut headers = F::parse(packet, link.l3)?;
    headers.tuple.zone = zone;
    let now = env.now();
    for _ in 0..ATTEMPTS {
        match decide(&headers, env, packet.hook(), now) {
            Decision::Verdict(verdict, frontend) => {
                if let Some(index) = frontend {
                    count_drop(env, index);
                }
                return Ok(verdict);
            }
            Decision::Known(known) => {
                let parts = known.flow.parts;
                if !headers.consistent {
                    count_drop(env, parts.frontend);
                    return Err(Verdict::Drop(DropReason::Malformed));
                }
                let course = Course {
                    translation: Translation::from(&parts),
                    direction: parts.direction,
                    local: parts.local,
                    frontend: parts.frontend,
                };
                let way = course.find_way(packet, env, &headers, link)?;
                commit::refresh(&headers, &known, env, now);
                return course.take(&way, packet, env, &headers, link);
            }
            Decision::New(new) => {
                let course = Course {
                    translation: new.translation(&headers),
                    direction: Direction::Original,
                    local: new.backend.local,
                    frontend: new.frontend,
                };
                let way = course.find_way(packet, env, &headers, link)?;
                match commit::open(&headers, &new, &course.translation, env, now) {
                    Ok(Opened::Done) => {
                        env.count_service(new.frontend, |counters| {
                            counters.flows = counters.flows.wrapping_add(1)
                        });
                        return course.take(&way, packet, env, &headers, link);
                    }
                    Ok(Opened::Raced) => {}
                    Err(reason) => {
                        count_drop(env, new.frontend);
                        return Err(Verdict::Drop(reason));
                    }
                }
            }
        }
    }
    Err(Verdict::Drop(DropReason::Contended))
}

#[inline(always)]
fn count_drop<E: Environment>(env: &E, frontend: u32) {
    env.count_service(frontend, |counters| counters.drops = counters.drops.wrapping_add(1));
}

/// A packet's new tuple, and what decides where it goes.
struct Course<F: ParseFamily> {
    translation: Translation<F>,
    direction: Direction,
    local: bool,
    frontend: u32,
}

/// Where a packet goes.
enum Way {
    Stack,
    Forward(NextHop),
    Leave(LeaveReason),
}

impl<F: ParseFamily> Course<F> {
    /// Finds where the translated packet goes, before anything is written.
    #[inline(always)]
    fn find_way<P, E>(&self, packet: &P, env: &E, headers: &Headers<F>, link: &Link) -> Result<Way, Verdict>
    where
        P: Packet,
        E: Environment + Routes<F>,
    {
        let xdp = matches!(packet.hook(), Hook::Xdp);
        let stack = || if xdp { Way::Leave(LeaveReason::Local) } else { Way::Stack };
        if matches!(packet.hook(), Hook::Egress) {
            return Ok(Way::Stack);
        }
        if self.local && matches!(self.direction, Direction::Original) {
            return Ok(stack());
        }
        if xdp && link.tags != 0 {
            return Ok(Way::Leave(LeaveReason::Tagged));
        }
        let query = RouteQuery {
            interface: packet.interface(),
            source: self.translation.source,
            destination: self.translation.destination,
            protocol: headers.tuple.protocol,
            traffic_class: headers.traffic_class,
            length: packet.segment_length(headers.l3_length, headers.headers_length),
        };
        let reason = match Routes::<F>::route(env, &query) {
            Route::Stack => return Ok(stack()),
            Route::TooBig if xdp => return Ok(Way::Leave(LeaveReason::TooBig)),
            // The stack splits it.
            Route::TooBig if !headers.dont_fragment => return Ok(Way::Stack),
            Route::Forward(_) if headers.hop_limit <= 1 => DropReason::HopLimit,
            Route::Forward(hop) if xdp => return Ok(through_xdp(hop, env)),
            Route::Forward(hop) => return Ok(Way::Forward(hop)),
            Route::TooBig => DropReason::TooBig,
            Route::Unreachable => DropReason::Unreachable,
            Route::ForwardingOff => DropReason::ForwardingOff,
            Route::Failed => DropReason::RouteFailed,
        };
        count_drop(env, self.frontend);
        Err(Verdict::Drop(reason))
    }

    /// Translates the packet and lets it go its way.
    #[inline(always)]
    fn take<P, E>(
        &self,
        way: &Way,
        packet: &mut P,
        env: &E,
        headers: &Headers<F>,
        link: &Link,
    ) -> Result<Verdict, Verdict>
    where
        P: Packet,
        E: Environment,
    {
        let applied = match way {
            Way::Leave(reason) => return Ok(Verdict::Leave(*reason)),
            Way::Stack => {
                packet.translate(headers, &self.translation, HopLimit::Keep).map(|()| Verdict::Deliver)
            }
            Way::Forward(hop) => packet
                .translate(headers, &self.translation, HopLimit::Decrement)
                .and_then(|()| {
                    if link.tags != 0 || packet.has_tag_beside() { packet.untag(link.tags) } else { Ok(()) }
                })
                .and_then(|()| packet.send(hop))
                .map(|()| Verdict::Forward),
        };
        match applied {
            Ok(verdict) => {
                self.count(env, headers.l3_length);
                Ok(verdict)
            }
            Err(_) => {
                count_drop(env, self.frontend);
                Err(Verdict::Drop(DropReason::Rewrite))
            }
        }
    }

    #[inline(always)]
    fn count<E: Environment>(&self, env: &E, bytes: u32) {
        let bytes = u64::from(bytes);
        match self.direction {
            Direction::Original => env.count_service(self.frontend, |counters| {
                counters.packets = counters.packets.wrapping_add(1);
                counters.bytes = counters.bytes.wrapping_add(bytes);
            }),
            Direction::Reply => env.count_service(self.frontend, |counters| {
                counters.reply_packets = counters.reply_packets.wrapping_add(1);
                counters.reply_bytes = counters.reply_bytes.wrapping_add(bytes);
            }),
        }
    }
}

/// Whether XDP can send a packet to this hop itself.
#[inline(always)]
fn through_xdp<E: Environment>(hop: NextHop, env: &E) -> Way {
    if hop.link.is_none() {
        return Way::Leave(LeaveReason::NoNeighbor);
    }
    match env.interface(hop.interface) {
        Some(entry) if entry.flags & INTERFACE_XDP_SEND != 0 => Way::Forward(hop),
        _ => Way::Leave(LeaveReason::Interface),
    }
}
