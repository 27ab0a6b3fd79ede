//! What a document says to services of the model: families are told apart, nothing stands twice.

use std::{collections::HashMap, hash::Hash, net::IpAddr};

use dataplane_core::model::{Backend, Frontend, IpFamily, ModelError, Protocol, Service};

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

/// A frontend, and the address that it was made of.
#[derive(Clone, Copy)]
pub(crate) struct Claim<'p> {
    pub(crate) frontend: Frontend,
    pub(crate) at: Position,
    pub(crate) field: Path<'p>,
}

/// Adds a service, or its two halves. Gives nothing where something is wrong.
fn service(
    entry: &ServiceEntry,
    at: Path<'_>,
    gathering: &mut Gathering,
    context: &mut Context<'_>,
) -> Option<()> {
    let (address, addresses) = (at.field("address"), at.field("addresses"));
    let one = entry.address.iter().map(|located| (located.at, located.value, address));
    let several = entry.addresses.iter().flatten();
    let several = several.map(|item| (item.at, item.value, addresses.item(item.index)));
    let addresses: Vec<_> = one.chain(several).collect();

    // Everything is looked at before the first `?`, so that one pass finds all that is wrong.
    let claims = claims(entry, &addresses, at, gathering, context);
    let backends = backends(&entry.backends, at.field("backends"), context);
    let (claims, backends) = (claims?, backends?);

    let halves = [IpFamily::V4, IpFamily::V6].map(|family| Half {
        family,
        claims: claims.iter().filter(|claim| claim.frontend.family() == family).copied().collect(),
        backends: backends.iter().filter(|backend| backend.family() == family).copied().collect(),
    });
    check_families(entry, at, &halves, context)?;

    let dual_stack = halves.iter().all(|half| !half.claims.is_empty());
    for Half { family, claims, backends } in halves.into_iter().filter(|half| !half.claims.is_empty()) {
        let name = match family {
            IpFamily::V6 if dual_stack => format!("{}{IPV6_SUFFIX}", entry.name.value),
            _ => entry.name.value.to_string(),
        };
        let frontends = claims.iter().map(|claim| claim.frontend);
        let choice = entry.choice.map(|choice| choice.value).unwrap_or_default();
        let service = Service::builder(&name).frontends(frontends).backends(backends).choice(choice);
        let service = service.masquerade(entry.masquerade.unwrap_or_default());
        match service.affinity(entry.affinity.unwrap_or_default()).build() {
            Ok(service) => gathering.add(service, entry.name.at, &claims, at, context),
            Err(error @ ModelError::MaglevTooSmall { .. }) => {
                let position = entry.choice.map_or(entry.name.at, |choice| choice.at);
                context.report(position, at.field("choice"), Problem::Model(error));
            }
            Err(error) => context.report(entry.name.at, at, Problem::Model(error)),
        }
    }
    Some(())
}

/// What a service has in one family.
struct Half<'p> {
    family: IpFamily,
    claims: Vec<Claim<'p>>,
    backends: Vec<Backend>,
}

/// Whether each family that has one of addresses and backends has both. No backend at all is well.
fn check_families(
    entry: &ServiceEntry,
    at: Path<'_>,
    halves: &[Half<'_>],
    context: &mut Context<'_>,
) -> Option<()> {
    let list = at.field("backends");
    for Half { family, claims, backends } in halves {
        if claims.is_empty() && !backends.is_empty() {
            let strangers = entry.backends.iter();
            for item in strangers.filter(|item| IpFamily::of(item.value.address.value) == *family) {
                let problem = Problem::NoAddressOfFamily { family: *family };
                context.report(item.at, list.item(item.index), problem);
            }
            return None;
        }
    }
    for Half { family, claims, backends } in halves {
        if let Some(first) = claims.first()
            && backends.is_empty()
            && !entry.backends.is_empty()
        {
            return context.refuse(first.at, first.field, Problem::NoBackendOfFamily { family: *family });
        }
    }
    Some(())
}

/// Each address with each port.
fn claims<'p>(
    entry: &ServiceEntry,
    addresses: &[(Position, IpAddr, Path<'p>)],
    at: Path<'_>,
    gathering: &mut Gathering,
    context: &mut Context<'_>,
) -> Option<Vec<Claim<'p>>> {
    let (port, ports) = (at.field("port"), at.field("ports"));
    let one = entry.port.iter().map(|located| {
        let protocol = entry.protocol.map(|protocol| protocol.value);
        (located.at, PortEntry { port: located.value, protocol }, port)
    });
    let several = entry.ports.iter().flatten().map(|item| (item.at, item.value, ports.item(item.index)));
    let ports: Vec<_> =
        one.chain(several).map(|(at, port, path)| (at, (port.port, protocol(&port)), path)).collect();

    let unique = only_once(addresses, |address| format!("address {address}"), "", context)
        & only_once(&ports, |(port, protocol)| format!("port {port}/{protocol}"), "", context);
    let count = addresses.len().saturating_mul(ports.len());
    if !gathering.make_room(count) {
        let problem = Problem::TooManyFrontends { most: Gathering::MAX_FRONTENDS };
        return context.refuse(entry.name.at, at, problem);
    }

    let mut claims = Vec::with_capacity(count);
    let mut valid = unique;
    for (at, address, field) in addresses {
        for (_, (port, protocol), _) in &ports {
            match Frontend::new(*address, port.get(), *protocol) {
                Ok(frontend) => claims.push(Claim { frontend, at: *at, field: *field }),
                Err(error) => {
                    context.report(*at, *field, Problem::Model(error));
                    valid = false;
                    // The address is at fault, with whichever port.
                    break;
                }
            }
        }
    }
    valid.then_some(claims)
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
            Err(error) => {
                let item = at.item(*index);
                // In the short form the backend is its address.
                let long_form = entry.address.at != *position;
                let field = if long_form { item.field("address") } else { item };
                context.report(entry.address.at, field, Problem::Model(error));
            }
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
