//! A tree of values to what the document says, field by field, with everything that is wrong on the way.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU16,
};

use dataplane_core::model::{
    Affinity, AffinityTimeout, BackendState, Choice, Locality, MaglevSize, Masquerade, ModelError, Protocol,
    ServiceName, Weight,
};

use crate::{
    context::{Context, Path, excerpt},
    document::{
        AffinityEntry, BackendEntry, ChoiceEntry, Document, Item, Located, PortEntry, Removals, ServiceEntry,
    },
    errors::{Position, Problem},
    yaml::{Node, Value, is_null},
};

/// Reads the document. Services with something wrong in them are left out; the report says what.
pub(crate) fn document(root: &Node<'_>, context: &mut Context<'_>) -> Option<Document> {
    let top = Path::ROOT;
    let [services, removals] = fields(root, top, &Document::FIELDS, "a mapping with `services`", context)?;
    let removals = optional(removals, |node| {
        let names = [("guarded", Removals::Guarded), ("confirmed", Removals::Confirmed)];
        one_of(node, top.field("removals"), &names, "`guarded` or `confirmed`", context)
    });
    let expected = "write `services:` and a list, or `services: []` for none on purpose";
    let services = required(services, root, top, "services", expected, context)?;
    let at = top.field("services");
    let Value::List(items) = &services.value else {
        return unexpected(services, at, LIST_OF_SERVICES, context);
    };
    // A service that is wrong does not keep the others from being looked at.
    let services = items.iter().enumerate().filter_map(|(index, node)| {
        let value = service(node, at.item(index), context)?;
        Some(Item { index, at: node.at, value })
    });
    Some(Document { services: services.collect(), removals: removals? })
}

const LIST_OF_SERVICES: &str = "a list of services, or `[]` for none on purpose";
const LIST_OF_BACKENDS: &str = "a list of backends, or `[]` for none on purpose";

fn service(node: &Node<'_>, at: Path<'_>, context: &mut Context<'_>) -> Option<ServiceEntry> {
    let expected = "a service: a mapping with `name`, `address`, `port` and `backends`";
    let [name, address, addresses, port, protocol, ports, backends, choice, masquerade, affinity] =
        fields(node, at, &ServiceEntry::FIELDS, expected, context)?;

    let excluded = [
        (address, addresses, "address", "addresses", "write one address, or a list of them"),
        (port, ports, "port", "ports", "write one port, or a list of them"),
        (protocol, ports, "protocol", "ports", "write each port as `{port: 53, protocol: udp}`"),
    ];
    let mut consistent = true;
    for (one, other, one_name, other_name, instead) in excluded {
        if let (Some(_), Some(other)) = (one, other) {
            let problem = Problem::ExclusiveFields { one: one_name, other: other_name, instead };
            context.report(other.at, at.field(other_name), problem);
            consistent = false;
        }
    }

    // Everything is read before the first `?`, so that one pass finds all that is wrong.
    let name = required(name, node, at, "name", "give the service a name, such as `name: web`", context)
        .and_then(|node| located(node, at.field("name"), service_name, context));
    if address.is_none() && addresses.is_none() {
        let expected = "say where clients go, such as `address: 203.0.113.10`";
        context.report(node.at, at, Problem::MissingField { name: "address", expected });
        consistent = false;
    }
    let address = optional(address, |node| located(node, at.field("address"), ip_address, context));
    let addresses = optional(addresses, |node| {
        some(node, at.field("addresses"), "a list of addresses", ip_address, context)
    });
    if port.is_none() && ports.is_none() {
        let expected = "say where clients go, such as `port: 80`";
        context.report(node.at, at, Problem::MissingField { name: "port", expected });
        consistent = false;
    }
    let port = optional(port, |node| located(node, at.field("port"), port_number, context));
    let protocol = optional(protocol, |node| located(node, at.field("protocol"), protocol_name, context));
    let ports = optional(ports, |node| some(node, at.field("ports"), "a list of ports", port_entry, context));
    let expected = "list them, such as `- 192.0.2.11:8080`, or write `backends: []` for none on purpose";
    let backends = required(backends, node, at, "backends", expected, context)
        .and_then(|node| list(node, at.field("backends"), LIST_OF_BACKENDS, backend, context));
    let choice = optional(choice, |node| located(node, at.field("choice"), choice_of, context));
    let masquerade = optional(masquerade, |node| {
        let names =
            [("auto", Masquerade::Auto), ("always", Masquerade::Always), ("never", Masquerade::Never)];
        one_of(node, at.field("masquerade"), &names, "`auto`, `always` or `never`", context)
    });
    let affinity = optional(affinity, |node| affinity_of(node, at.field("affinity"), context));

    let entry = ServiceEntry {
        name: name?,
        address: address?,
        addresses: addresses?,
        port: port?,
        protocol: protocol?,
        ports: ports?,
        backends: backends?,
        choice: choice?,
        masquerade: masquerade?,
        affinity: affinity?,
    };
    consistent.then_some(entry)
}

fn port_entry(node: &Node<'_>, at: Path<'_>, context: &mut Context<'_>) -> Option<PortEntry> {
    if let Value::Scalar { .. } = node.value {
        return Some(PortEntry { port: port_number(node, at, context)?, protocol: None });
    }
    let expected = "a port: a number from 1 to 65535, or a mapping with `port` and `protocol`";
    let [port, protocol] = fields(node, at, &PortEntry::FIELDS, expected, context)?;
    let port = required(port, node, at, "port", "a number from 1 to 65535", context)
        .and_then(|node| port_number(node, at.field("port"), context));
    let protocol = optional(protocol, |node| protocol_name(node, at.field("protocol"), context));
    Some(PortEntry { port: port?, protocol: protocol? })
}

fn choice_of(node: &Node<'_>, at: Path<'_>, context: &mut Context<'_>) -> Option<Choice> {
    if let Value::Scalar { text, .. } = &node.value {
        return match &**text {
            "random" => Some(Choice::Random),
            "maglev" => Some(Choice::Maglev(MaglevSize::default())),
            _ if is_null(text) => unexpected(node, at, "`random` or `maglev`", context),
            other => {
                let name = excerpt(other).into_owned();
                context.refuse(node.at, at, Problem::UnknownValue { name, expected: &["random", "maglev"] })
            }
        };
    }
    let expected = "a choice: `random`, `maglev`, or a mapping such as `maglev: 16381`";
    let [maglev] = fields(node, at, &ChoiceEntry::FIELDS, expected, context)?;
    let size = required(maglev, node, at, "maglev", "the number of places, such as 16381", context)
        .and_then(|node| maglev_size(node, at.field("maglev"), context));
    let entry = ChoiceEntry { maglev: size? };
    Some(Choice::Maglev(entry.maglev))
}

fn affinity_of(node: &Node<'_>, at: Path<'_>, context: &mut Context<'_>) -> Option<Affinity> {
    if let Value::Scalar { text, .. } = &node.value {
        return match &**text {
            "none" => Some(Affinity::None),
            "client-ip" => Some(Affinity::ClientIp { timeout: AffinityTimeout::default() }),
            _ if is_null(text) => unexpected(node, at, "`none` or `client-ip`", context),
            other => {
                let name = excerpt(other).into_owned();
                let expected = &["none", "client-ip"];
                context.refuse(node.at, at, Problem::UnknownValue { name, expected })
            }
        };
    }
    let expected = "an affinity: `none`, `client-ip`, or a mapping such as `client-ip: 10800`";
    let [client_ip] = fields(node, at, &AffinityEntry::FIELDS, expected, context)?;
    let timeout =
        required(client_ip, node, at, "client-ip", "the time-out in seconds, such as 10800", context)
            .and_then(|node| affinity_timeout(node, at.field("client-ip"), context));
    let entry = AffinityEntry { client_ip: timeout? };
    Some(Affinity::ClientIp { timeout: entry.client_ip })
}

fn backend(node: &Node<'_>, at: Path<'_>, context: &mut Context<'_>) -> Option<BackendEntry> {
    const EXPECTED: &str =
        "a backend: 192.0.2.11:8080, \"[2001:db8::1]:8080\", or a mapping with `address` and `port`";
    if let Value::Scalar { text, .. } = &node.value {
        let Some(address) = socket_address(text) else {
            let expected = if names_host(text) {
                "an address and a port: behind the colon a number from 1 to 65535"
            } else {
                EXPECTED
            };
            return unexpected(node, at, expected, context);
        };
        let Some(port) = NonZeroU16::new(address.port()) else {
            let problem = Problem::Model(ModelError::PortZero { address: address.ip() });
            return context.refuse(node.at, at, problem);
        };
        let address = Located { at: node.at, value: address.ip() };
        return Some(BackendEntry { address, port, weight: None, state: None, locality: None });
    }
    let [address, port, weight, state, locality] =
        fields(node, at, &BackendEntry::FIELDS, EXPECTED, context)?;
    let address = required(address, node, at, "address", "the address of the backend's host", context)
        .and_then(|node| located(node, at.field("address"), ip_address, context));
    let port = required(port, node, at, "port", "a number from 1 to 65535", context)
        .and_then(|node| port_number(node, at.field("port"), context));
    let weight = optional(weight, |node| weight_number(node, at.field("weight"), context));
    let state = optional(state, |node| {
        let names = [("active", BackendState::Active), ("draining", BackendState::Draining)];
        one_of(node, at.field("state"), &names, "`active` or `draining`", context)
    });
    let locality = optional(locality, |node| {
        let names = [("remote", Locality::Remote), ("local", Locality::Local)];
        one_of(node, at.field("locality"), &names, "`remote` or `local`", context)
    });
    Some(BackendEntry { address: address?, port: port?, weight: weight?, state: state?, locality: locality? })
}

// Values.

fn service_name(node: &Node<'_>, at: Path<'_>, context: &mut Context<'_>) -> Option<ServiceName> {
    let Value::Scalar { text, plain } = &node.value else {
        return unexpected(node, at, "a name", context);
    };
    if *plain && is_not_text(text) {
        return unexpected(node, at, "a name (text: put it in quotes if this is meant)", context);
    }
    match ServiceName::new(text) {
        Ok(name) => Some(name),
        Err(ModelError::Name { reason, .. }) => {
            let name = excerpt(text).into_owned();
            context.refuse(node.at, at, Problem::Model(ModelError::Name { name, reason }))
        }
        Err(error) => context.refuse(node.at, at, Problem::Model(error)),
    }
}

fn ip_address(node: &Node<'_>, at: Path<'_>, context: &mut Context<'_>) -> Option<IpAddr> {
    let parsed = scalar(node).and_then(|text| text.parse().ok());
    match parsed {
        Some(address) => Some(address),
        None => {
            let expected =
                "an IPv4 or IPv6 address without port or prefix, such as 203.0.113.10 or 2001:db8::10";
            unexpected(node, at, expected, context)
        }
    }
}

/// Reads `192.0.2.1:80` and `[2001:db8::1]:80`. A scope (`%eth0`) and leading zeros are refused.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    if host.contains('%') || (port.len() > 1 && port.starts_with('0')) {
        return None;
    }
    text.parse().ok()
}

/// Whether what stands before the last colon is an address, so that it is the port that is wrong.
fn names_host(text: &str) -> bool {
    let host = text.rsplit_once(':').map_or("", |(host, _)| host);
    let six = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    six.map_or(host.parse::<Ipv4Addr>().is_ok(), |host| host.parse::<Ipv6Addr>().is_ok())
}

fn port_number(node: &Node<'_>, at: Path<'_>, context: &mut Context<'_>) -> Option<NonZeroU16> {
    match number(node).and_then(|number| u16::try_from(number).ok()).and_then(NonZeroU16::new) {
        Some(port) => Some(port),
        None => unexpected(node, at, "a port: a number from 1 to 65535", context),
    }
}

fn weight_number(node: &Node<'_>, at: Path<'_>, context: &mut Context<'_>) -> Option<Weight> {
    match number(node).and_then(|number| Weight::new(number).ok()) {
        Some(weight) => Some(weight),
        None => unexpected(node, at, "a weight: a number from 0 (no new connections) to 256", context),
    }
}

fn maglev_size(node: &Node<'_>, at: Path<'_>, context: &mut Context<'_>) -> Option<MaglevSize> {
    let Some(places) = number(node) else {
        return unexpected(node, at, "a number of places: a prime number up to 65521", context);
    };
    match MaglevSize::new(places) {
        Ok(size) => Some(size),
        Err(error) => context.refuse(node.at, at, Problem::Model(error)),
    }
}

fn affinity_timeout(node: &Node<'_>, at: Path<'_>, context: &mut Context<'_>) -> Option<AffinityTimeout> {
    let Some(seconds) = number(node) else {
        return unexpected(node, at, "a time-out: seconds from 1 to 604800", context);
    };
    match AffinityTimeout::new(seconds) {
        Ok(timeout) => Some(timeout),
        Err(error) => context.refuse(node.at, at, Problem::Model(error)),
    }
}

fn protocol_name(node: &Node<'_>, at: Path<'_>, context: &mut Context<'_>) -> Option<Protocol> {
    one_of(node, at, &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)], "`tcp` or `udp`", context)
}

pub(crate) fn one_of<T: Copy>(
    node: &Node<'_>,
    at: Path<'_>,
    names: &[(&str, T)],
    expected: &'static str,
    context: &mut Context<'_>,
) -> Option<T> {
    let named = scalar(node).and_then(|text| names.iter().find(|(name, _)| *name == text));
    match named {
        Some((_, value)) => Some(*value),
        None => unexpected(node, at, expected, context),
    }
}

fn scalar<'n>(node: &'n Node<'_>) -> Option<&'n str> {
    match &node.value {
        Value::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

/// A decimal number without quotes, sign or leading zero: `080` is 80 in YAML 1.2 and an error or 64 in 1.1.
pub(crate) fn number(node: &Node<'_>) -> Option<u32> {
    match &node.value {
        Value::Scalar { text, plain: true }
            if text.bytes().all(|byte| byte.is_ascii_digit())
                && (text.len() == 1 || !text.starts_with('0')) =>
        {
            text.parse().ok()
        }
        _ => None,
    }
}

/// Whether a plain scalar is nothing, a truth value or a number, as YAML 1.2 (10.3.2) and 1.1 take it.
fn is_not_text(plain: &str) -> bool {
    is_null(plain)
        || matches!(plain, "true" | "True" | "TRUE" | "false" | "False" | "FALSE")
        || plain.parse::<f64>().is_ok()
        || plain.starts_with("0x")
        || plain.starts_with("0o")
}

// Shapes.

/// The values of a mapping's fields, in the order of `names`.
pub(crate) fn fields<'n, 't, const N: usize>(
    node: &'n Node<'t>,
    at: Path<'_>,
    names: &'static [&'static str; N],
    expected: &'static str,
    context: &mut Context<'_>,
) -> Option<[Option<&'n Node<'t>>; N]> {
    let Value::Mapping(entries) = &node.value else {
        return unexpected(node, at, expected, context);
    };
    let mut found: [Option<(Position, &Node<'t>)>; N] = [None; N];
    for (key, value) in entries {
        let slot = names.iter().position(|name| *name == key.text).and_then(|index| found.get_mut(index));
        let problem = match slot {
            None => Problem::UnknownField { name: excerpt(&key.text).into_owned(), expected: names },
            Some(Some((first, _))) => {
                Problem::DuplicateField { name: key.text.clone().into_owned(), first: *first }
            }
            Some(slot @ None) => {
                *slot = Some((key.at, value));
                continue;
            }
        };
        // What is known is still looked at, so that one pass finds all that is wrong.
        context.report(key.at, at.field(&key.text), problem);
    }
    Some(found.map(|slot| slot.map(|(_, value)| value)))
}

fn required<'n, 't>(
    value: Option<&'n Node<'t>>,
    parent: &Node<'_>,
    at: Path<'_>,
    name: &'static str,
    expected: &'static str,
    context: &mut Context<'_>,
) -> Option<&'n Node<'t>> {
    value.or_else(|| context.refuse(parent.at, at, Problem::MissingField { name, expected }))
}

/// `Some(None)` where the field is not there, nothing where it is wrong.
fn optional<'n, 't, T>(
    value: Option<&'n Node<'t>>,
    read: impl FnOnce(&'n Node<'t>) -> Option<T>,
) -> Option<Option<T>> {
    match value {
        Some(node) => read(node).map(Some),
        None => Some(None),
    }
}

fn located<T>(
    node: &Node<'_>,
    at: Path<'_>,
    read: impl FnOnce(&Node<'_>, Path<'_>, &mut Context<'_>) -> Option<T>,
    context: &mut Context<'_>,
) -> Option<Located<T>> {
    Some(Located { at: node.at, value: read(node, at, context)? })
}

/// The items, if all of them are well.
fn list<T>(
    node: &Node<'_>,
    at: Path<'_>,
    expected: &'static str,
    read: impl Fn(&Node<'_>, Path<'_>, &mut Context<'_>) -> Option<T>,
    context: &mut Context<'_>,
) -> Option<Vec<Item<T>>> {
    let Value::List(items) = &node.value else {
        return unexpected(node, at, expected, context);
    };
    let mut values = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        if let Some(value) = read(item, at.item(index), context) {
            values.push(Item { index, at: item.at, value });
        }
    }
    (values.len() == items.len()).then_some(values)
}

/// A list with at least one item.
fn some<T>(
    node: &Node<'_>,
    at: Path<'_>,
    expected: &'static str,
    read: impl Fn(&Node<'_>, Path<'_>, &mut Context<'_>) -> Option<T>,
    context: &mut Context<'_>,
) -> Option<Vec<Item<T>>> {
    if matches!(&node.value, Value::List(items) if items.is_empty()) {
        return unexpected(node, at, expected, context);
    }
    list(node, at, expected, read, context)
}

pub(crate) fn unexpected<T>(
    node: &Node<'_>,
    at: Path<'_>,
    expected: &'static str,
    context: &mut Context<'_>,
) -> Option<T> {
    context.refuse(node.at, at, Problem::Expected { expected, found: describe(node) })
}

/// What stands at a place, in words.
fn describe(node: &Node<'_>) -> String {
    match &node.value {
        Value::List(items) if items.is_empty() => "an empty list".to_owned(),
        Value::List(_) => "a list".to_owned(),
        Value::Mapping(_) => "a mapping".to_owned(),
        Value::Scalar { text, plain: true } if is_null(text) => "nothing".to_owned(),
        Value::Scalar { text, plain: true } => format!("`{}`", excerpt(text).escape_debug()),
        Value::Scalar { text, plain: false } => format!("the quoted text {:?}", excerpt(text)),
    }
}
