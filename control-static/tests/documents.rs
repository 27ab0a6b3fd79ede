//! Good documents give exactly the services that they describe.

#![allow(clippy::unwrap_used, reason = "tests, and the helpers of tests, may panic")]

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use control_static::{Picture, parse};
use dataplane_core::model::{
    Affinity, AffinityTimeout, Backend, BackendState, Choice, Frontend, Locality, MaglevSize, Protocol,
    Service, Weight,
};
use proptest::prelude::*;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn frontend(text: &str, port: u16, protocol: Protocol) -> Frontend {
    Frontend::new(address(text), port, protocol).unwrap()
}

fn backend(text: &str) -> Backend {
    let socket: SocketAddr = text.parse().unwrap();
    Backend::new(socket.ip(), socket.port()).unwrap()
}

fn read(document: &str) -> Picture {
    parse(document, "good.yaml").unwrap_or_else(|errors| panic!("{errors}\n{document}"))
}

#[test]
fn ten_lines_are_a_service() {
    let picture = read(
        "\
services:
  - name: web
    address: 203.0.113.10
    port: 80
    backends:
      - 192.0.2.11:8080
      - 192.0.2.12:8080
      - {address: 192.0.2.13, port: 8081, weight: 3}
",
    );
    let web = Service::builder("web")
        .frontend(frontend("203.0.113.10", 80, Protocol::Tcp))
        .backend(backend("192.0.2.11:8080"))
        .backend(backend("192.0.2.12:8080"))
        .backend(backend("192.0.2.13:8081").with_weight(Weight::new(3).unwrap()))
        .build()
        .unwrap();
    assert_eq!(picture.services(), [web]);
    assert!(!picture.confirms_removals());
    let places: Vec<_> = picture.places().map(|(name, place)| format!("{name} {place}")).collect();
    assert_eq!(places, ["web good.yaml:2:11"]);
}

/// The crate's first page begins with a document.
#[test]
fn the_documented_example_is_a_document() {
    let page = include_str!("../src/lib.rs").lines().filter_map(|line| line.strip_prefix("//!"));
    let lines =
        page.skip_while(|line| !line.contains("```yaml")).skip(1).take_while(|line| !line.contains("```"));
    let document: String =
        lines.map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line))).collect();
    let picture = read(&document);
    assert_eq!(picture.services().len(), 1);
    assert_eq!(picture.services()[0].backends().len(), 3);
}

#[test]
fn an_affinity_has_a_short_form_and_a_long_one() {
    let affinity = |affinity: &str| {
        let text = format!(
            "services: [{{name: web, addresses: [203.0.113.10, 2001:db8::10], port: 80, backends: []{affinity}}}]"
        );
        let picture = read(&text);
        let found: Vec<_> = picture.services().iter().map(|service| service.affinity()).collect();
        assert_eq!(found.len(), 2, "one service for each family");
        assert_eq!(found[0], found[1]);
        found[0]
    };
    let client_ip = |seconds| Affinity::ClientIp { timeout: AffinityTimeout::new(seconds).unwrap() };
    assert_eq!(affinity(""), Affinity::None);
    assert_eq!(affinity(", affinity: none"), Affinity::None);
    assert_eq!(affinity(", affinity: client-ip"), client_ip(10_800));
    assert_eq!(affinity(", affinity: {client-ip: 1}"), client_ip(1));
    assert_eq!(affinity(", affinity: {client-ip: 604800}"), client_ip(604_800));
}

#[test]
fn a_choice_has_a_short_form_and_a_long_one() {
    let choice = |choice: &str| {
        let document = format!(
            "services: [{{name: web, addresses: [203.0.113.10, 2001:db8::10], port: 80, backends: []{choice}}}]"
        );
        let picture = read(&document);
        let choices: Vec<_> = picture.services().iter().map(|service| service.choice()).collect();
        assert_eq!(choices.len(), 2, "one service for each family");
        assert_eq!(choices[0], choices[1]);
        choices[0]
    };
    assert_eq!(choice(""), Choice::Random);
    assert_eq!(choice(", choice: random"), Choice::Random);
    assert_eq!(choice(", choice: maglev"), Choice::Maglev(MaglevSize::default()));
    assert_eq!(choice(", choice: {maglev: 65521}"), Choice::Maglev(MaglevSize::MAX));
    assert_eq!(choice(", choice: {maglev: 2}"), Choice::Maglev(MaglevSize::new(2).unwrap()));
}

#[test]
fn every_field_has_its_meaning() {
    let picture = read(
        "\
---   # a comment
services:
  - name: default/dns:dns
    addresses:
      - 2001:db8::53
      - 2001:DB8:0::54
    ports:
      - 53
      - {port: 53, protocol: udp}
    backends:
      - '[2001:db8:1::1]:5353'
      - address: 2001:db8:1::2
        port: 5353
        weight: 0
        state: draining
        locality: local
      - {address: \"2001:db8:1::3\", port: 5353, weight: 256, state: active, locality: remote}
removals: confirmed
",
    );
    let dns = Service::builder("default/dns:dns")
        .frontends(
            ["2001:db8::53", "2001:db8::54"]
                .into_iter()
                .flat_map(|at| [frontend(at, 53, Protocol::Tcp), frontend(at, 53, Protocol::Udp)]),
        )
        .backend(backend("[2001:db8:1::1]:5353"))
        .backend(
            backend("[2001:db8:1::2]:5353")
                .with_weight(Weight::new(0).unwrap())
                .with_state(BackendState::Draining)
                .with_locality(Locality::Local),
        )
        .backend(backend("[2001:db8:1::3]:5353").with_weight(Weight::MAX))
        .build()
        .unwrap();
    assert_eq!(picture.services(), [dns]);
    assert!(picture.confirms_removals());
}

#[test]
fn a_service_of_both_families_becomes_two() {
    let picture = read(
        "\
services:
- name: web
  addresses: [2001:db8::10, 203.0.113.10, 2001:db8::11]
  port: 443
  protocol: udp
  backends: ['[2001:db8:1::1]:8443', 192.0.2.1:8443]
- name: empty
  addresses: [2001:db8::12, 203.0.113.12]
  port: 443
  backends: []
",
    );
    let half = |name: &str, addresses: &[&str], protocol, backends: &[&str]| {
        Service::builder(name)
            .frontends(addresses.iter().map(|at| frontend(at, 443, protocol)))
            .backends(backends.iter().map(|at| backend(at)))
            .build()
            .unwrap()
    };
    let expected = [
        half("web", &["203.0.113.10"], Protocol::Udp, &["192.0.2.1:8443"]),
        half("web/ipv6", &["2001:db8::10", "2001:db8::11"], Protocol::Udp, &["[2001:db8:1::1]:8443"]),
        half("empty", &["203.0.113.12"], Protocol::Tcp, &[]),
        half("empty/ipv6", &["2001:db8::12"], Protocol::Tcp, &[]),
    ];
    assert_eq!(picture.services(), expected);
}

#[test]
fn no_service_on_purpose_is_a_picture() {
    for document in
        ["services: []", "---\nservices: []\n...\n", "{\"services\": []}", "services: [\n  # later\n]\n"]
    {
        let picture = read(document);
        assert!(picture.services().is_empty());
        assert!(picture.confirms_removals(), "{document}");
    }
}

#[test]
fn line_ends_and_notations_do_not_matter() {
    let block =
        "services:\n- name: web\n  address: 203.0.113.10\n  port: 80\n  backends:\n  - 192.0.2.11:8080\n";
    let expected = read(block);
    for document in [
        block.replace('\n', "\r\n"),
        format!("# first\n\n{block}\n# last"),
        block.trim_end().to_owned(),
        r#"{"services": [{"name": "web", "address": "203.0.113.10", "port": 80, "backends": ["192.0.2.11:8080"]}]}"#
            .to_owned(),
        "services: [{name: web, address: 203.0.113.10, port: 80, backends: [192.0.2.11:8080]}]".to_owned(),
        block.replace("name: web", "? name\n  : >-\n    web"),
    ] {
        assert_eq!(read(&document).services(), expected.services(), "{document}");
    }
}

/// A service as a document can say it, and how it is to be written.
#[derive(Clone, Debug)]
struct Said {
    service: Service,
    block: bool,
}

/// Writes a document from the model, by its own rules: nothing of the crate under test is used.
fn write(said: &[Said], json: bool) -> String {
    if said.is_empty() {
        return if json { "{\"services\": []}" } else { "services: []\n" }.to_owned();
    }
    let mut out = String::from(if json { "{\"services\": [\n" } else { "services:\n" });
    for (index, Said { service, block }) in said.iter().enumerate() {
        if json {
            let comma = if index > 0 { ", " } else { "" };
            write!(out, "{comma}{}", flow(service)).unwrap();
        } else if *block {
            out += &block_style(service);
        } else {
            writeln!(out, "- {}", flow(service)).unwrap();
        }
    }
    if json {
        out += "]}";
    }
    out
}

/// The distinct addresses and ports, in order.
fn product(service: &Service) -> (Vec<IpAddr>, Vec<(u16, Protocol)>) {
    let (mut addresses, mut ports) = (Vec::new(), Vec::new());
    for frontend in service.frontends() {
        let port = (frontend.port().get(), frontend.protocol());
        if !addresses.contains(&frontend.address()) {
            addresses.push(frontend.address());
        }
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    (addresses, ports)
}

fn words(backend: &Backend) -> (&'static str, &'static str) {
    let state = if backend.state() == BackendState::Draining { "draining" } else { "active" };
    let locality = if backend.locality() == Locality::Local { "local" } else { "remote" };
    (state, locality)
}

/// JSON on one line, every field written out.
fn flow(service: &Service) -> String {
    let (addresses, ports) = product(service);
    let addresses: Vec<_> = addresses.iter().map(|at| format!("\"{at}\"")).collect();
    let ports: Vec<_> = ports
        .iter()
        .map(|(port, protocol)| format!("{{\"port\": {port}, \"protocol\": \"{protocol}\"}}"))
        .collect();
    let backends: Vec<_> = service
        .backends()
        .iter()
        .map(|backend| {
            let at = backend.socket_address();
            let (state, locality) = words(backend);
            format!(
                "{{\"address\": \"{}\", \"port\": {}, \"weight\": {}, \"state\": \"{state}\", \
                 \"locality\": \"{locality}\"}}",
                at.ip(),
                at.port(),
                backend.weight().get()
            )
        })
        .collect();
    format!(
        "{{\"name\": \"{}\", \"addresses\": [{}], \"ports\": [{}], \"backends\": [{}]}}",
        service.name(),
        addresses.join(", "),
        ports.join(", "),
        backends.join(", ")
    )
}

/// As a person writes: short forms, and no field that has its default.
fn block_style(service: &Service) -> String {
    let (addresses, ports) = product(service);
    let mut out = format!("- name: '{}'\n", service.name());
    match addresses.as_slice() {
        [one] => writeln!(out, "  address: {one}").unwrap(),
        several => {
            out += "  addresses:\n";
            several.iter().for_each(|at| writeln!(out, "  - {at}").unwrap());
        }
    }
    match ports.as_slice() {
        [(port, Protocol::Tcp)] => writeln!(out, "  port: {port} # the default").unwrap(),
        [(port, protocol)] => writeln!(out, "  port: {port}\n  protocol: {protocol}").unwrap(),
        several => {
            out += "  ports:\n";
            for (port, protocol) in several {
                match protocol {
                    Protocol::Tcp => writeln!(out, "  - {port}").unwrap(),
                    _ => writeln!(out, "  - port: {port}\n    protocol: {protocol}").unwrap(),
                }
            }
        }
    }
    out += if service.backends().is_empty() { "  backends: []\n" } else { "  backends:\n" };
    for backend in service.backends() {
        let at = backend.socket_address();
        let plain = Backend::new(at.ip(), at.port()).unwrap();
        if *backend == plain {
            writeln!(out, "    - \"{at}\"").unwrap();
            continue;
        }
        writeln!(out, "    - address: {}\n      port: {}", at.ip(), at.port()).unwrap();
        if backend.weight() != Weight::default() {
            writeln!(out, "      weight: {}", backend.weight().get()).unwrap();
        }
        let (state, locality) = words(backend);
        if state != "active" {
            writeln!(out, "      state: {state}").unwrap();
        }
        if locality != "remote" {
            writeln!(out, "      locality: {locality}").unwrap();
        }
    }
    out
}

/// Any service in one family, of which the number makes name and addresses unique.
fn service(number: u8) -> impl Strategy<Value = Said> {
    let port = (1..=u16::MAX, prop::bool::ANY);
    let ports = prop::collection::btree_set(port, 1..4);
    let backend =
        (any::<u16>(), 1..=u16::MAX, 0..=256_u32, prop::bool::ANY, prop::bool::ANY, prop::bool::ANY);
    let backends = prop::collection::vec(backend, 0..6);
    let name = "[a-zA-Z0-9][a-zA-Z0-9._/:-]{0,12}";
    (name, prop::bool::ANY, 1..4_u8, ports, backends, prop::bool::ANY).prop_map(
        move |(name, v6, addresses, ports, backends, block)| {
            let host = |a: u8, b: u16| -> IpAddr {
                let [high, low] = b.to_be_bytes();
                if v6 {
                    Ipv6Addr::new(0x2001, 0xdb8, a.into(), number.into(), 0, 0, 0, b).into()
                } else {
                    Ipv4Addr::new(10 + a, number, high, low).into()
                }
            };
            let mut seen = std::collections::HashSet::new();
            let service = Service::builder(&format!("{name}.{number}"))
                .frontends((1..=addresses).flat_map(|at| {
                    ports.iter().map(move |(port, udp)| {
                        let protocol = if *udp { Protocol::Udp } else { Protocol::Tcp };
                        Frontend::new(host(0, at.into()), *port, protocol).unwrap()
                    })
                }))
                .backends(backends.iter().filter(|(at, port, ..)| seen.insert((*at, *port))).map(
                    |&(at, port, weight, plain, draining, local)| {
                        let backend = Backend::new(host(1, at), port).unwrap();
                        if plain {
                            return backend;
                        }
                        let state = if draining { BackendState::Draining } else { BackendState::Active };
                        let locality = if local { Locality::Local } else { Locality::Remote };
                        let weight = Weight::new(weight).unwrap();
                        backend.with_weight(weight).with_state(state).with_locality(locality)
                    },
                ))
                .build()
                .unwrap();
            Said { service, block }
        },
    )
}

fn services() -> impl Strategy<Value = Vec<Said>> {
    (0..8_u8).prop_flat_map(|count| (0..count).map(service).collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn what_is_written_is_read(said in services(), json in prop::bool::ANY) {
        let document = write(&said, json);
        let picture = parse(&document, "good.yaml");
        let picture = picture.map_err(|errors| TestCaseError::fail(format!("{errors}\n{document}")))?;
        let expected: Vec<_> = said.into_iter().map(|said| said.service).collect();
        prop_assert_eq!(picture.services(), expected.as_slice(), "{}", document);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
        check(text.as_bytes());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check(&bytes);
    }

    /// Good documents with a few bytes replaced, removed or doubled get past the first lines of the reader.
    #[test]
    fn damaged_documents_are_read_or_refused(
        said in services(),
        json in prop::bool::ANY,
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0..3_u8, any::<u8>()), 1..6),
    ) {
        let mut bytes = write(&said, json).into_bytes();
        for (index, how, byte) in damage {
            let index = index.index(bytes.len().max(1)).min(bytes.len());
            match how {
                0 if index < bytes.len() => bytes[index] = byte,
                1 if index < bytes.len() => { bytes.remove(index); }
                _ => bytes.insert(index, b" -:[]{}\"'#&*!|>%\n\t~0"[usize::from(byte) % 20]),
            }
        }
        check(&bytes);
    }
}

/// No panic; and what is refused is refused at a place in the text.
fn check(bytes: &[u8]) {
    match control_static::parse_bytes(bytes, "any.yaml") {
        Ok(picture) => assert_eq!(picture.places().count(), picture.services().len()),
        Err(errors) => {
            assert!(errors.iter().count() > 0);
            let lines =
                u32::try_from(bytes.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count()).unwrap();
            for error in errors.iter() {
                let position = error.place().position().expect("errors of a text have a position");
                assert!((1..=lines + 2).contains(&position.line) && position.column >= 1, "{error}");
            }
        }
    }
}
