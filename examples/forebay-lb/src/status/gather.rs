//! Putting the status together from the tables and from who writes them.

use std::{collections::BTreeSet, net::IpAddr, path::Path, process};

use control_static::{Rejected, Standing as SourceStanding};
use dataplane_core::{
    abi::SLOT_LINE_WORDS,
    model::{Backend, Choice, Frontend, Service},
    pipeline::{Hook, Verdict},
    state::{HeldBack, Phase, ServiceStatus},
    tables::{Family as _, Store, TableError, V4, V6},
    wire::Be16,
};
use dataplane_ebpf::{Attachment, Standing, TcAttachment, XdpAttachment};

use super::{
    Parts,
    flows::{Count, FlowCounts},
    how_to_confirm, shape,
};

/// What the status of a running daemon is made of besides its tables.
pub struct Surroundings<'a> {
    pub uptime_seconds: u64,
    pub not_ready: Vec<String>,
    pub services: &'a Path,
    pub attachments: &'a [Attachment],
    pub warnings: &'a [String],
}

/// Puts it together. Cost: linear in flows and services; some 100 ms for half a million of conntrack's entries, and two
/// system calls for each frontend.
///
/// # Errors
/// [`TableError`] where the kernel refuses.
pub fn gather(parts: &Parts, around: Surroundings<'_>) -> Result<shape::Status, TableError> {
    let tables = &*parts.tables;
    let flows = FlowCounts::of(tables)?;
    let statuses = parts.control.status();
    let held = statuses.iter().filter(|status| status.held_back.is_some()).count();
    let unclaimed = if parts.control.holds_unclaimed_back() { parts.control.usage().unclaimed } else { 0 };
    let held_back = shape::HeldBack { services: held, frontends: unclaimed, confirm: how_to_confirm() };
    let services = statuses.iter().map(|status| service(status, tables, &flows));
    let counters = Hook::ALL.into_iter().map(|hook| Ok((hook.name(), verdicts(tables, hook)?)));
    let [v4, v6] = [0, 1].map(|family| flows.families[family].flows + flows.opening[family].flows);
    let collected = parts.control.collected();
    Ok(shape::Status {
        version: shape::VERSION,
        forebay: env!("CARGO_PKG_VERSION"),
        process: process::id(),
        uptime_seconds: around.uptime_seconds,
        ready: around.not_ready.is_empty(),
        not_ready: around.not_ready,
        uplinks: around.attachments.iter().map(uplink).collect(),
        warnings: around.warnings.to_vec(),
        pins: parts.pins.as_ref().map(|pins| shape::Pins { path: pins.path.clone(), adopted: pins.adopted }),
        source: source(parts.source.now(), around.services),
        held_back: (held > 0 || unclaimed > 0).then_some(held_back),
        services: services.collect::<Result<_, _>>()?,
        flows: shape::Flows { ipv4: v4, ipv6: v6 },
        tables: fills(parts, &flows)?,
        nat: parts
            .control
            .nat_usage()
            .into_iter()
            .map(|usage| shape::Nat {
                address: usage.address,
                in_use: usage.in_use,
                high_water: usage.high_water,
            })
            .collect(),
        counters: counters.collect::<Result<_, TableError>>()?,
        collector: shape::Collector {
            rounds: collected.rounds,
            scanned: collected.scanned,
            expired: collected.expired,
            revoked: collected.revoked,
            failures: collected.failures,
        },
        // The kernel refuses only where this process ran out of descriptors or memory: then it is not known.
        events: parts
            .events
            .as_ref()
            .and_then(|reader| reader.losses().ok())
            .map(|losses| shape::Events { lost: losses.lost, withheld: losses.withheld }),
    })
}

fn uplink(attachment: &Attachment) -> shape::Uplink {
    let (xdp, xdp_off) = match &attachment.xdp {
        XdpAttachment::Native => ("native", None),
        XdpAttachment::Generic => ("generic", None),
        XdpAttachment::Off(why) => ("off", Some(why.to_string())),
        other => ("other", Some(other.to_string())),
    };
    let others = attachment.others.iter();
    shape::Uplink {
        interface: attachment.interface.clone(),
        index: attachment.index,
        zone: attachment.zone,
        xdp,
        xdp_off,
        tc: match attachment.tc {
            TcAttachment::Tcx => "tcx",
            _ => "clsact",
        },
        standing: match attachment.standing {
            Standing::Attached => "attached",
            Standing::InterfaceGone => "interface-gone",
            _ => "displaced",
        },
        others: others
            .map(|other| shape::Other { hook: other.hook.to_string(), program_id: other.program_id })
            .collect(),
    }
}

fn source(standing: SourceStanding, path: &Path) -> shape::Source {
    shape::Source {
        path: path.to_owned(),
        generation: standing.generation,
        revision: standing.revision.map(|revision| revision.get()),
        services: standing.services,
        readings: standing.readings,
        rejected: standing.rejected.as_deref().map(rejected),
        unwatched: standing.unwatched.as_deref().map(str::to_owned),
    }
}

fn rejected(rejected: &Rejected) -> shape::Rejected {
    match rejected {
        Rejected::Documents(errors) => shape::Rejected {
            errors: errors
                .iter()
                .map(|error| shape::Mistake {
                    file: Some(error.place().file().to_owned()),
                    line: error.place().position().map(|at| at.line),
                    column: error.place().position().map(|at| at.column),
                    field: Some(error.field().to_owned()).filter(|field| !field.is_empty()),
                    message: error.problem().to_string(),
                })
                .collect(),
            omitted: errors.omitted(),
        },
        other => {
            let message = other.to_string();
            let mistake = shape::Mistake { file: None, line: None, column: None, field: None, message };
            shape::Rejected { errors: vec![mistake], omitted: 0 }
        }
    }
}

fn service(
    status: &ServiceStatus,
    tables: &dyn Store,
    flows: &FlowCounts,
) -> Result<shape::Service, TableError> {
    let frontends = status.desired.as_deref().map_or(&[][..], Service::frontends);
    let backends = status.desired.as_deref().map_or(&[][..], Service::backends);
    let mut indexes = Vec::with_capacity(frontends.len());
    let mut shown = Vec::with_capacity(frontends.len());
    for frontend in frontends {
        // Where another service has it, the index is that one's, and so are its counters.
        let is_lost = status.conflicts.iter().any(|conflict| conflict.frontend == *frontend && !conflict.won);
        let index = if is_lost { None } else { index_of(frontend, tables)? };
        indexes.extend(index);
        shown.push(shape::Frontend {
            address: frontend.address(),
            port: frontend.port().get(),
            protocol: frontend.protocol(),
            counters: index.map(|index| counters(tables, index)).transpose()?,
        });
    }
    let choice = status.desired.as_deref().map(Service::choice);
    Ok(shape::Service {
        owner: status.owner.to_string(),
        name: status.service.to_string(),
        status: match &status.phase {
            Phase::Pending => "pending",
            Phase::Applied => "applied",
            Phase::Refused(_) => "refused",
            Phase::Conflict => "conflict",
            Phase::HeldBack => "held-back",
            Phase::Removing => "removing",
            _ => "other",
        },
        reason: reason(status),
        revision: status.revision.get(),
        frontends: shown,
        backends: backends.iter().map(|one| backend(one, &indexes, flows)).collect(),
        choice: choice.map(|choice| if choice == Choice::Random { "random" } else { "maglev" }),
        maglev: choice.and_then(|choice| match choice {
            Choice::Maglev(size) => Some(size.get()),
            _ => None,
        }),
        conflicts: status
            .conflicts
            .iter()
            .map(|conflict| shape::Conflict {
                frontend: conflict.frontend.to_string(),
                with: conflict.with.to_string(),
                won: conflict.won,
            })
            .collect(),
        failure: status
            .failure
            .map(|failure| shape::Failure { error: failure.error.to_string(), attempts: failure.attempts }),
        held_back: status.held_back.as_ref().map(|held| held_back(held, backends)),
    })
}

/// Why a service is not applied.
fn reason(status: &ServiceStatus) -> Option<String> {
    match &status.phase {
        Phase::Refused(refusal) => Some(refusal.to_string()),
        Phase::Conflict => status
            .conflicts
            .iter()
            .find(|conflict| !conflict.won)
            .map(|conflict| format!("{} serves {}", conflict.frontend, conflict.with)),
        Phase::HeldBack => Some(format!("what it removes waits to be confirmed: {}", how_to_confirm())),
        _ => status.failure.map(|failure| failure.error.to_string()),
    }
}

fn held_back(held: &HeldBack, now: &[Backend]) -> shape::ServiceHeldBack {
    let later: BTreeSet<_> = match held {
        HeldBack::Change(service) => {
            service.backends().iter().filter(|one| one.is_selectable()).map(Backend::socket_address).collect()
        }
        _ => BTreeSet::new(),
    };
    let going = now.iter().filter(|one| one.is_selectable()).map(Backend::socket_address);
    shape::ServiceHeldBack {
        removal: matches!(held, HeldBack::Removal),
        backends: going
            .filter(|address| !later.contains(address))
            .map(|address| address.to_string())
            .collect(),
    }
}

fn backend(backend: &Backend, frontends: &[u32], flows: &FlowCounts) -> shape::Backend {
    let address = backend.socket_address();
    shape::Backend {
        address: address.ip(),
        port: address.port(),
        weight: backend.weight().get(),
        state: backend.state(),
        locality: backend.locality(),
        flows: flows.of_backend(frontends, address),
    }
}

/// The index under which a frontend stands in the tables.
fn index_of(frontend: &Frontend, tables: &dyn Store) -> Result<Option<u32>, TableError> {
    let (port, protocol) = (Be16::new(frontend.port().get()), frontend.protocol().number());
    let found = match frontend.address() {
        IpAddr::V4(ip) => tables.services_v4().get(&V4::service_key(ip.into(), port, protocol))?,
        IpAddr::V6(ip) => tables.services_v6().get(&V6::service_key(ip.into(), port, protocol))?,
    };
    Ok(found.map(|reference| reference.index()))
}

fn counters(tables: &dyn Store, index: u32) -> Result<shape::Counters, TableError> {
    let counted = tables.counters().service(index)?;
    Ok(shape::Counters {
        packets: counted.packets,
        bytes: counted.bytes,
        reply_packets: counted.reply_packets,
        reply_bytes: counted.reply_bytes,
        flows: counted.flows,
        drops: counted.drops,
    })
}

fn fills(parts: &Parts, flows: &FlowCounts) -> Result<Vec<shape::Table>, TableError> {
    let (tables, usage) = (&parts.tables, parts.control.usage());
    let table =
        |name, fill: u32, capacity: u32| shape::Table { name, fill: fill.into(), capacity: capacity.into() };
    let ([v4, v6], [opening_v4, opening_v6]) = (flows.families, flows.opening);
    let counted = |name, count: Count, capacity: u32| shape::Table {
        name,
        fill: count.entries,
        capacity: capacity.into(),
    };
    let (services_v4, services_v6) = (tables.services_v4(), tables.services_v6());
    let (slots, backends_v4, backends_v6) = (tables.slots(), tables.backends_v4(), tables.backends_v6());
    let (nat_v4, nat_v6) = (tables.nat_v4(), tables.nat_v6());
    let (fragments_v4, fragments_v6) = (tables.fragments_v4(), tables.fragments_v6());
    Ok(vec![
        table(services_v4.name(), services_v4.fill()?, services_v4.capacity()),
        table(services_v6.name(), services_v6.fill()?, services_v6.capacity()),
        table(slots.name(), usage.lines.saturating_mul(SLOT_LINE_WORDS), slots.capacity()),
        table(backends_v4.name(), usage.backends_v4, backends_v4.capacity()),
        table(backends_v6.name(), usage.backends_v6, backends_v6.capacity()),
        counted(tables.conntrack_v4().name(), v4, tables.conntrack_v4().capacity()),
        counted(tables.conntrack_v6().name(), v6, tables.conntrack_v6().capacity()),
        counted(tables.opening_v4().name(), opening_v4, tables.opening_v4().capacity()),
        counted(tables.opening_v6().name(), opening_v6, tables.opening_v6().capacity()),
        table(nat_v4.name(), nat_v4.fill()?, nat_v4.capacity()),
        table(nat_v6.name(), nat_v6.fill()?, nat_v6.capacity()),
        table(fragments_v4.name(), fragments_v4.fill()?, fragments_v4.capacity()),
        table(fragments_v6.name(), fragments_v6.fill()?, fragments_v6.capacity()),
    ])
}

fn verdicts(tables: &dyn Store, hook: Hook) -> Result<shape::Verdicts, TableError> {
    let mut counted = shape::Verdicts::default();
    for verdict in Verdict::all() {
        let packets = tables.counters().verdict(hook, verdict)?;
        match verdict {
            Verdict::Pass(reason) => {
                counted.pass.insert(reason.name(), packets);
            }
            Verdict::Leave(reason) => {
                counted.leave.insert(reason.name(), packets);
            }
            Verdict::Deliver => counted.deliver = packets,
            Verdict::Forward => counted.forward = packets,
            Verdict::Answer(reason) => {
                counted.answer.insert(reason.name(), packets);
            }
            Verdict::Drop(reason) => {
                counted.drop.insert(reason.name(), packets);
            }
        }
    }
    Ok(counted)
}
