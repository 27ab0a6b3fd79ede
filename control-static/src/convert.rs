//! What a document says to services of the model: families are told apart, nothing stands twice.

use std::{collections::HashMap, hash::Hash};

use dataplane_core::model::{Backend, Frontend, IpFamily, Protocol, Service};

use crate::{
    context::{Context, Path},
    document::{BackendEntry, Document, Item, PortEntry, Removals, ServiceEntry},
    errors::{Position, Problem},
    picture::Gathering,
};

/// What is appended to the name of a service with addresses of both families, for its IPv6 half.
const IPV6_SUFFIX: &str = "/ipv6";

/// Adds the services of a document. Those with something wrong in them are left out; the report says what.
pub(crate) fn document(document: &Document, gathering: &mut Gathering, context: &mut Context<'_>) {
    let top = Path::ROOT;
    let services = top.field("services");
    if document.removals == Some(Removals::Confirmed) {
        gathering.confirm_removals();
    }
    for entry in &document.services {
        service(&entry.value, services.item(entry.index), gathering, context);
    }
}

/// Adds a service, or its two halves. Gives nothing where something is wrong.
fn service(
    entry: &ServiceEntry,
    at: Path<'_>,
    gathering: &mut Gathering,
    context: &mut Context<'_>,
) -> Option<()> {
    let name = &entry.name.value;
    // Everything is looked at before the first `?`, so that one pass finds all that is wrong.
    let frontends = frontends(entry, at, gathering, context);
    let backends = backends(&entry.backends, at.field("backends"), context);
    let (frontends, backends) = (frontends?, backends?);

    let has_address = |family| frontends.iter().any(|(frontend, _)| frontend.family() == family);
    let has_backend = |family| backends.iter().any(|backend| backend.family() == family);
    let mut matching = true;
    for (item, backend) in entry.backends.iter().zip(&backends) {
        let family = backend.family();
        if !has_address(family) {
            let list = at.field("backends");
            context.report(item.at, list.item(item.index), Problem::NoAddressOfFamily { family });
            matching = false;
        }
    }
    for family in [IpFamily::V4, IpFamily::V6] {
        let first = frontends.iter().find(|(frontend, _)| frontend.family() == family);
        if let Some((_, position)) = first
            && !backends.is_empty()
            && !has_backend(family)
            && matching
        {
            context.report(*position, at, Problem::NoBackendOfFamily { family });
            matching = false;
        }
    }
    if !matching {
        return None;
    }

    let dual_stack = has_address(IpFamily::V4) && has_address(IpFamily::V6);
    for family in [IpFamily::V4, IpFamily::V6] {
        if !has_address(family) {
            continue;
        }
        let model_name = match family {
            IpFamily::V6 if dual_stack => format!("{name}{IPV6_SUFFIX}"),
            _ => name.as_str().to_owned(),
        };
        let half: Vec<_> =
            frontends.iter().filter(|(frontend, _)| frontend.family() == family).copied().collect();
        let built = Service::builder(&model_name)
            .frontends(half.iter().map(|(frontend, _)| *frontend))
            .backends(backends.iter().filter(|backend| backend.family() == family).copied())
            .build();
        match built {
            Ok(service) => gathering.add(service, entry.name.at, &half, at, context),
            Err(error) => context.report(entry.name.at, at, Problem::Model(error)),
        }
    }
    Some(())
}

/// Each address with each port, and where the address stands.
fn frontends(
    entry: &ServiceEntry,
    at: Path<'_>,
    gathering: &Gathering,
    context: &mut Context<'_>,
) -> Option<Vec<(Frontend, Position)>> {
    let list = at.field("addresses");
    let one = entry.address.iter().map(|located| (located.at, located.value, at.field("address")));
    let many = entry.addresses.iter().flatten().map(|item| (item.at, item.value, list.item(item.index)));
    let addresses: Vec<_> = one.chain(many).collect();

    let list = at.field("ports");
    let one = entry.port.iter().map(|located| {
        let protocol = entry.protocol.map(|protocol| protocol.value);
        (located.at, PortEntry { port: located.value, protocol }, at.field("port"))
    });
    let many = entry.ports.iter().flatten().map(|item| (item.at, item.value, list.item(item.index)));
    let ports: Vec<_> =
        one.chain(many).map(|(at, port, path)| (at, (port.port, protocol(&port)), path)).collect();

    let unique = only_once(&addresses, |address| format!("address {address}"), "", context)
        & only_once(&ports, |(port, protocol)| format!("port {port}/{protocol}"), "", context);
    if addresses.len().saturating_mul(ports.len()) > gathering.room_for_frontends() {
        let problem = Problem::TooManyFrontends { most: Gathering::MAX_FRONTENDS };
        return context.refuse(entry.name.at, at, problem);
    }

    let mut frontends = Vec::with_capacity(addresses.len() * ports.len());
    let mut valid = unique;
    for (position, address, path) in &addresses {
        for (_, (port, protocol), _) in &ports {
            match Frontend::new(*address, port.get(), *protocol) {
                Ok(frontend) => frontends.push((frontend, *position)),
                Err(error) => {
                    context.report(*position, *path, Problem::Model(error));
                    valid = false;
                    // The address is at fault, with whichever port.
                    break;
                }
            }
        }
    }
    valid.then_some(frontends)
}

fn protocol(port: &PortEntry) -> Protocol {
    port.protocol.unwrap_or(Protocol::Tcp)
}

fn backends(entries: &[Item<BackendEntry>], at: Path<'_>, context: &mut Context<'_>) -> Option<Vec<Backend>> {
    let mut backends = Vec::with_capacity(entries.len());
    let mut places = Vec::with_capacity(entries.len());
    for Item { index, at: position, value: entry } in entries {
        match Backend::new(entry.address.value, entry.port.get()) {
            Ok(backend) => {
                places.push((*position, backend.socket_address(), at.item(*index)));
                backends.push(
                    backend
                        .with_weight(entry.weight.unwrap_or_default())
                        .with_state(entry.state.unwrap_or_default())
                        .with_locality(entry.locality.unwrap_or_default()),
                );
            }
            Err(error) => context.report(entry.address.at, at.item(*index), Problem::Model(error)),
        }
    }
    let hint = ": for a larger share give it a weight";
    let unique = only_once(&places, |address| format!("backend {address}"), hint, context);
    (unique && backends.len() == entries.len()).then_some(backends)
}

/// Whether each value stands there once. Each that stands there again is reported, with the first one's place.
fn only_once<T: Copy + Eq + Hash>(
    values: &[(Position, T, Path<'_>)],
    name: impl Fn(&T) -> String,
    hint: &'static str,
    context: &mut Context<'_>,
) -> bool {
    let mut seen = HashMap::with_capacity(values.len());
    let mut unique = true;
    for (position, value, path) in values {
        let first = *seen.entry(*value).or_insert(*position);
        if first != *position {
            let problem = Problem::Duplicate { what: name(value), first: context.place(first), hint };
            context.report(*position, *path, problem);
            unique = false;
        }
    }
    unique
}
