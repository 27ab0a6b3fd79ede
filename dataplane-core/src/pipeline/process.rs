//! The way of a packet, from its first byte to its verdict.

use super::{
    Action, ApplyError, Direction, DropReason, Environment, ErrorTranslation, Hook, HopLimit, LeaveReason,
    Link, NextHop, Packet, ParseFamily, PassReason, Route, RouteQuery, Routes, Stage, Step, Tick, Verdict,
    VerdictNumber, address, answer,
    commit::{self, Opened},
    decide::{Decision, choose_by_affinity, decide, find_known, serves},
    event::{tell_dropped, tell_opened},
    fragment::{self, Part},
    quote::parse_quote,
    workspace::{Arrival, Workspace, Workspaces},
};
use crate::{
    abi::{INTERFACE_XDP_REDIRECT, INTERFACE_XDP_TX, ServiceCounters},
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
            Step::Done(verdict) => return verdict.into(),
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
        Ok(ETHERTYPE_IPV4) => handle_family(packet, env, &mut work.v4, &work.arrival),
        Ok(ETHERTYPE_IPV6) => return Step::Next(Stage::V6),
        Ok(_) => Step::done(Verdict::Pass(PassReason::NotIp)),
        Err(verdict) => Step::done(verdict),
    };
    told(step, packet, env, &work.v4)
}

/// A later stage, of the packet and the workspaces that an earlier one left.
#[inline(always)]
pub fn resume<P, E>(stage: Stage, packet: &mut P, env: &E, work: &mut Workspaces) -> Step
where
    P: Packet,
    E: Environment,
{
    let step = match stage {
        Stage::V6 => handle_family(packet, env, &mut work.v6, &work.arrival),
        Stage::MasqueradeV4 => masquerade(packet, env, &mut work.v4, &work.arrival),
        Stage::MasqueradeV6 => masquerade(packet, env, &mut work.v6, &work.arrival),
        Stage::IcmpV4 => handle_icmp(packet, env, &mut work.v4, &work.arrival).into(),
        Stage::IcmpV6 => handle_icmp(packet, env, &mut work.v6, &work.arrival).into(),
        Stage::FragmentV4 => handle_fragment(packet, env, &mut work.v4, &mut work.part_v4, &work.arrival),
        Stage::FragmentV6 => handle_fragment(packet, env, &mut work.v6, &mut work.part_v6, &work.arrival),
        Stage::AffinityV4 => affinity(packet, env, &mut work.v4, &work.arrival),
        Stage::AffinityV6 => affinity(packet, env, &mut work.v6, &work.arrival),
        Stage::AnswerV4 => Step::done(answer::answer(packet, env, &mut work.v4, &work.arrival.link)),
        Stage::AnswerV6 => Step::done(answer::answer(packet, env, &mut work.v6, &work.arrival.link)),
    };
    if stage.is_v6() { told(step, packet, env, &work.v6) } else { told(step, packet, env, &work.v4) }
}

/// Counts the verdict, where there is one, and tells of it where it drops the packet.
#[inline(always)]
fn told<F, P, E>(step: Step, packet: &P, env: &E, work: &Workspace<F>) -> Step
where
    F: ParseFamily,
    P: Packet,
    E: Environment,
{
    if let Step::Done(verdict) = step {
        env.count(packet.hook(), verdict);
        tell_dropped(verdict, packet, work, env);
    }
    step
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
) -> Step
where
    F: ParseFamily,
    P: Packet,
    E: Environment + Lookup<F> + Routes<F>,
{
    match F::parse(packet, link.l3, *zone, &mut work.headers) {
        Err(Verdict::Pass(PassReason::Fragment)) => Step::Next(F::FRAGMENT_STAGE),
        Err(verdict) => Step::done(verdict),
        Ok(()) if work.headers.tuple.protocol() == F::ICMP => Step::Next(F::ICMP_STAGE),
        Ok(()) => handle_transport(packet, env, work, link, None),
    }
}

/// Handles TCP and UDP. `part`: which part of a packet it is, where it is the first of several.
#[inline(always)]
fn handle_transport<F, P, E>(
    packet: &mut P,
    env: &E,
    work: &mut Workspace<F>,
    link: &Link,
    part: Option<&Part<F>>,
) -> Step
where
    F: ParseFamily,
    P: Packet,
    E: Environment + Lookup<F> + Routes<F>,
{
    let now = env.now();
    let malformed =
        if part.is_some_and(|part| part.tiny) { DropReason::TinyFragment } else { DropReason::Malformed };
    let decision = decide(work, env, packet.hook(), now, malformed);
    if let Some(part) = part {
        match decision {
            Decision::Verdict(_) | Decision::NoService => fragment::supersede(part, &work.headers, env, now),
            Decision::Refuse(..) | Decision::RefuseKnown(_) => {}
            Decision::Known | Decision::New | Decision::NewWithAffinity => {
                fragment::note(part, &work.headers, env, now)
            }
        }
    }
    go_on(decision, packet, env, work, link, now)
}

/// Opens a connection to a frontend with affinity, and sends its first packet.
#[inline(always)]
fn affinity<F, P, E>(packet: &mut P, env: &E, work: &mut Workspace<F>, Arrival { link, .. }: &Arrival) -> Step
where
    F: ParseFamily,
    P: Packet,
    E: Environment + Lookup<F> + Routes<F>,
{
    let now = env.now();
    let decision = choose_by_affinity(work, env, now);
    go_on(decision, packet, env, work, link, now)
}

/// Does what was decided.
#[inline(always)]
fn go_on<F, P, E>(
    decision: Decision,
    packet: &mut P,
    env: &E,
    work: &mut Workspace<F>,
    link: &Link,
    now: Tick,
) -> Step
where
    F: ParseFamily,
    P: Packet,
    E: Environment + Lookup<F> + Routes<F>,
{
    let result = match decision {
        Decision::Verdict(verdict) => return Step::done(verdict),
        Decision::NoService => return Step::done(address::without_service(packet, env, work)),
        Decision::Refuse(reason, frontend) => {
            Err(refuse(packet.hook(), reason, || env.count_service(frontend, count_drop)).into())
        }
        Decision::RefuseKnown(reason) => Err(refuse_flow(env, packet.hook(), reason, work).into()),
        Decision::Known => {
            commit::refresh(work, env, now);
            send(packet, env, work, link, Translation::Whole)
        }
        Decision::NewWithAffinity => return Step::Next(F::AFFINITY_STAGE),
        Decision::New if work.flow.is_masqueraded() => return Step::Next(F::MASQUERADE_STAGE),
        Decision::New => open::<F, P, E, false>(packet, env, work, link, now),
    };
    end(result, packet, work)
}

/// The verdict, or what goes on with it: the answer to a packet that is dropped.
#[inline(always)]
fn end<F, P>(result: Result<VerdictNumber, VerdictNumber>, packet: &P, work: &mut Workspace<F>) -> Step
where
    F: ParseFamily,
    P: Packet,
{
    let (Ok(verdict) | Err(verdict)) = result;
    match verdict.answered() {
        Some(reason) if answer::is_possible(packet.hook()) => {
            work.answer = reason as u8;
            Step::Next(F::ANSWER_STAGE)
        }
        _ => Step::Done(verdict),
    }
}

/// Handles ICMP: echo requests to a virtual address, and errors about flows.
#[inline(always)]
fn handle_icmp<F, P, E>(
    packet: &mut P,
    env: &E,
    work: &mut Workspace<F>,
    arrival: &Arrival,
) -> Result<VerdictNumber, VerdictNumber>
where
    F: ParseFamily,
    P: Packet,
    E: Environment + Lookup<F> + Routes<F>,
{
    match address::echo(packet, env, work, &arrival.link) {
        Some(verdict) => Ok(verdict.into()),
        None => handle_error(packet, env, work, arrival),
    }
}

/// Handles a part of a packet: the first as the packet that it is of, a later one as the first was handled.
#[inline(always)]
fn handle_fragment<F, P, E>(
    packet: &mut P,
    env: &E,
    work: &mut Workspace<F>,
    part: &mut Part<F>,
    Arrival { link, zone }: &Arrival,
) -> Step
where
    F: ParseFamily,
    P: Packet,
    E: Environment + Lookup<F> + Routes<F>,
{
    match F::parse_fragment(packet, link.l3, *zone, &mut work.headers, part) {
        Err(verdict) => Step::done(verdict),
        Ok(()) if part.is_later() => handle_later(packet, env, work, link, part).into(),
        Ok(()) => handle_transport(packet, env, work, link, Some(part)),
    }
}

/// Handles a later part of a packet. It is never answered, and is nobody's life: that the first part was.
#[inline(always)]
fn handle_later<F, P, E>(
    packet: &mut P,
    env: &E,
    work: &mut Workspace<F>,
    link: &Link,
    part: &Part<F>,
) -> Result<VerdictNumber, VerdictNumber>
where
    F: ParseFamily,
    P: Packet,
    E: Environment + Lookup<F> + Routes<F>,
{
    let now = env.now();
    fragment::complete(part, &mut work.headers, env, now)?;
    find_known(work, env, packet.hook(), now)?;
    send(packet, env, work, link, Translation::Network)
}

/// Handles an ICMP error about a packet of a flow: it goes where the flow's packets of the other direction go, and leaves
/// no trace in a table.
#[inline(always)]
fn handle_error<F, P, E>(
    packet: &mut P,
    env: &E,
    work: &mut Workspace<F>,
    Arrival { link, .. }: &Arrival,
) -> Result<VerdictNumber, VerdictNumber>
where
    F: ParseFamily,
    P: Packet,
    E: Environment + Lookup<F> + Routes<F>,
{
    parse_quote(packet, &mut work.headers, &mut work.quote)?;
    find_known(work, env, packet.hook(), env.now())?;
    let way = find_way(packet, env, work, link, false)?;
    let translation = ErrorTranslation::new(packet, &work.headers, &work.quote, &work.flow);
    let translation = translation.ok_or(Verdict::Pass(PassReason::Malformed))?;
    take(way, packet, env, work, link, Translation::Error(&translation))
}

/// Opens the connection in the workspace, whose source is to be translated, and sends its first packet.
#[inline(always)]
fn masquerade<F, P, E>(
    packet: &mut P,
    env: &E,
    work: &mut Workspace<F>,
    Arrival { link, .. }: &Arrival,
) -> Step
where
    F: ParseFamily,
    P: Packet,
    E: Environment + Lookup<F> + Routes<F>,
{
    let now = env.now();
    let result = open::<F, P, E, true>(packet, env, work, link, now);
    end(result, packet, work)
}

/// Opens a connection, whose source is to be translated where `MASQUERADED` says so, once it is known that its first packet has
/// a way, and sends that.
#[inline(always)]
fn open<F, P, E, const MASQUERADED: bool>(
    packet: &mut P,
    env: &E,
    work: &mut Workspace<F>,
    link: &Link,
    now: Tick,
) -> Result<VerdictNumber, VerdictNumber>
where
    F: ParseFamily,
    P: Packet,
    E: Environment + Lookup<F> + Routes<F>,
{
    // It is noted, and not kept: the verifier would walk through what follows once for each.
    work.way = find_way(packet, env, work, link, true)?;
    let opened =
        if MASQUERADED { commit::open_masqueraded(work, env, now) } else { commit::open(work, env, now) };
    match opened {
        Ok(Opened::Done) => {
            env.count_service(work.flow.frontend(), |counters| {
                counters.flows = counters.flows.wrapping_add(1)
            });
            tell_opened(packet, work, env);
            let verdict = take(work.way, packet, env, work, link, Translation::Whole)?;
            count(verdict, work, env);
            Ok(verdict)
        }
        // The way found is that of another backend, maybe.
        Ok(Opened::Raced) => send(packet, env, work, link, Translation::Whole),
        Err(reason) => Err(refuse_flow(env, packet.hook(), reason, work).into()),
    }
}

/// Finds the way of a packet whose connection stands, and sends it.
#[inline(always)]
fn send<F, P, E>(
    packet: &mut P,
    env: &E,
    work: &mut Workspace<F>,
    link: &Link,
    translation: Translation<'_, F>,
) -> Result<VerdictNumber, VerdictNumber>
where
    F: ParseFamily,
    P: Packet,
    E: Environment + Lookup<F> + Routes<F>,
{
    let way = find_way(packet, env, work, link, false)?;
    let verdict = take(way, packet, env, work, link, translation)?;
    count(verdict, work, env);
    Ok(verdict)
}

/// Finds where the packet goes once it is translated, before anything of it is written. `opens`: whether it opens a
/// connection; one that the stack delivers keeps its source, whatever its service wants.
#[inline(always)]
fn find_way<F, P, E>(
    packet: &P,
    env: &E,
    work: &mut Workspace<F>,
    link: &Link,
    opens: bool,
) -> Result<VerdictNumber, VerdictNumber>
where
    F: ParseFamily,
    P: Packet,
    E: Environment + Lookup<F> + Routes<F>,
{
    let Workspace { headers, flow, hop, .. } = work;
    let xdp = matches!(packet.hook(), Hook::Xdp);
    let leave = |reason| Ok(Verdict::Leave(reason).into());
    let stack = || if xdp { leave(LeaveReason::Local) } else { Ok(Verdict::Deliver.into()) };
    if matches!(packet.hook(), Hook::Egress) {
        return Ok(Verdict::Deliver.into());
    }
    let original = matches!(flow.direction(), Direction::Original);
    if flow.is_local() && original {
        return stack();
    }
    // The stack takes a packet for forged that comes from an address of its own.
    let forged_to_stack = flow.is_masqueraded() && original;
    // Which address it will come from depends on where it leaves, also where XDP does not send it.
    let tagged = xdp && link.tags != 0;
    if tagged && !(forged_to_stack && opens) {
        return leave(LeaveReason::Tagged);
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
        Route::Stack if forged_to_stack && opens => {
            flow.set_masqueraded(false);
            return stack();
        }
        Route::Stack if forged_to_stack => DropReason::StackOnly,
        Route::Stack => return stack(),
        Route::TooBig if xdp => return leave(LeaveReason::TooBig),
        // The stack splits it.
        Route::TooBig if !headers.dont_fragment && !forged_to_stack => return Ok(Verdict::Deliver.into()),
        Route::Forward if headers.hop_limit <= 1 => DropReason::HopLimit,
        Route::Forward if tagged => return leave(LeaveReason::Tagged),
        Route::Forward if xdp => return Ok(through_xdp(hop, packet.interface(), env).into()),
        Route::Forward => return Ok(Verdict::Forward.into()),
        Route::TooBig => DropReason::TooBig,
        Route::Unreachable => DropReason::Unreachable,
        Route::ForwardingOff => DropReason::ForwardingOff,
    };
    Err(refuse_flow(env, packet.hook(), reason, work).into())
}

/// Whether XDP can send a packet to this hop itself.
#[inline(always)]
fn through_xdp<E: Environment>(hop: &NextHop, arrived: u32, env: &E) -> Verdict {
    if !hop.resolved {
        return Verdict::Leave(LeaveReason::NoNeighbor);
    }
    let needed = if hop.interface == arrived { INTERFACE_XDP_TX } else { INTERFACE_XDP_REDIRECT };
    match env.interface(hop.interface) {
        Some(entry) if entry.flags & needed != 0 => Verdict::Forward,
        _ => Verdict::Leave(LeaveReason::Interface),
    }
}

/// What of a packet is translated.
#[derive(Clone, Copy)]
enum Translation<'a, F: ParseFamily> {
    /// Addresses and ports.
    Whole,
    /// Addresses: it is a later part, and has no ports.
    Network,
    /// An ICMP error, and what it quotes.
    Error(&'a ErrorTranslation<F>),
}

/// Translates the packet, or the error, and lets it go its way.
#[inline(always)]
fn take<F, P, E>(
    way: VerdictNumber,
    packet: &mut P,
    env: &E,
    work: &Workspace<F>,
    link: &Link,
    translation: Translation<'_, F>,
) -> Result<VerdictNumber, VerdictNumber>
where
    F: ParseFamily,
    P: Packet,
    E: Environment + Lookup<F>,
{
    let hop_limit = match way.action() {
        Action::Deliver => HopLimit::Keep,
        Action::Forward => HopLimit::Decrement,
        Action::Leave | Action::Pass | Action::Answer | Action::Drop => return Ok(way),
    };
    match apply(packet, work, link, translation, hop_limit) {
        Ok(()) => Ok(way),
        Err(ApplyError) => Err(refuse_flow(env, packet.hook(), DropReason::Rewrite, work).into()),
    }
}

/// Translates a packet, and sends it where it takes a hop. No closure: one that is called twice becomes a function of its own,
/// with a stack of its own.
#[inline(always)]
fn apply<F, P>(
    packet: &mut P,
    Workspace { headers, flow, quote, hop, .. }: &Workspace<F>,
    link: &Link,
    translation: Translation<'_, F>,
    hop_limit: HopLimit,
) -> Result<(), ApplyError>
where
    F: ParseFamily,
    P: Packet,
{
    match translation {
        Translation::Whole => packet.translate(headers, flow, hop_limit)?,
        Translation::Network => packet.translate_network(headers, flow, hop_limit)?,
        Translation::Error(translation) => packet.translate_error(headers, quote, translation, hop_limit)?,
    }
    if matches!(hop_limit, HopLimit::Keep) {
        return Ok(());
    }
    if link.tags != 0 || packet.has_tag_beside() {
        packet.untag(link.tags)?;
    }
    packet.send(hop)
}

/// Counts a packet of a flow at its frontend, once it is on its way.
#[inline(always)]
fn count<F, E>(verdict: VerdictNumber, work: &Workspace<F>, env: &E)
where
    F: ParseFamily,
    E: Environment + Lookup<F>,
{
    if matches!(verdict.action(), Action::Leave) {
        return;
    }
    let bytes = u64::from(work.headers.l3_length);
    let reply = matches!(work.flow.direction(), Direction::Reply);
    count_flow(work, env, |counters| {
        if reply {
            counters.reply_packets = counters.reply_packets.wrapping_add(1);
            counters.reply_bytes = counters.reply_bytes.wrapping_add(bytes);
        } else {
            counters.packets = counters.packets.wrapping_add(1);
            counters.bytes = counters.bytes.wrapping_add(bytes);
        }
    });
}

/// Adds to the counters of the frontend of the flow in the workspace. A reply outlives its frontend, whose counters are
/// another's then, or nobody's.
#[inline(always)]
fn count_flow<F, E>(work: &Workspace<F>, env: &E, add: impl FnOnce(&mut ServiceCounters))
where
    F: ParseFamily,
    E: Environment + Lookup<F>,
{
    let Workspace { headers, flow, .. } = work;
    if matches!(flow.direction(), Direction::Original)
        || serves::<F, E>(flow.frontend(), flow.source(), flow.source_port(), headers.tuple.protocol(), env)
    {
        env.count_service(flow.frontend(), add);
    }
}

/// Drops a packet for a reason, and counts that at its frontend by `count`; XDP leaves what is to be answered to tcx.
#[inline(always)]
fn refuse(hook: Hook, reason: DropReason, count: impl FnOnce()) -> Verdict {
    if matches!(hook, Hook::Xdp) && reason.answered().is_some() {
        return Verdict::Leave(LeaveReason::Answer);
    }
    count();
    Verdict::Drop(reason)
}

/// As [`refuse`], of a packet of the flow in the workspace.
#[inline(always)]
fn refuse_flow<F, E>(env: &E, hook: Hook, reason: DropReason, work: &Workspace<F>) -> Verdict
where
    F: ParseFamily,
    E: Environment + Lookup<F>,
{
    refuse(hook, reason, || count_flow(work, env, count_drop))
}

#[inline(always)]
fn count_drop(counters: &mut ServiceCounters) {
    counters.drops = counters.drops.wrapping_add(1);
}
