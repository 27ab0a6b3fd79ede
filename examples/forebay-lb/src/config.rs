//! The daemon's own file: what does not change while it runs. Services stand in files of their own, which are followed.
//!
//! ```yaml
//! uplinks:                        # where clients come in and where backends answer
//!   - eth0
//!   - {name: eth1, xdp: off, tc: auto, order: first, zone: 0}
//! services: services.d            # a file or a folder, beside this file unless it begins with /
//! status: 127.0.0.1:9095          # loopback only
//! capacity: {frontends: 65536, backends: 65536, slots: 1048576, conntrack: 262144}
//! pins: /sys/fs/bpf/forebay       # tables and programs outlive the process there
//! maglev_seed: 0                  # the same on every balancer that is to choose alike
//! timeouts: {tcp_opening: 60, tcp_established: 21600, tcp_closing: 10, udp: 60, udp_stream: 180}   # seconds
//! ```

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use control_static::{Errors, Field, Reader};
use dataplane_core::{
    abi::DEFAULT_ANSWERS_A_SECOND,
    model::NatPorts,
    pipeline::{AddressSettings, Timeouts},
    tables::Capacity,
};
use dataplane_ebpf::{Order, TcMode, Uplink, XdpMode};

/// What the file says.
#[derive(Clone, Debug)]
pub struct Config {
    /// At least one, no name twice.
    pub uplinks: Vec<Uplink>,
    /// The file or folder of services.
    pub services: PathBuf,
    /// Where status is served.
    pub status: SocketAddr,
    /// Sizes of the tables.
    pub capacity: Capacity,
    /// How long flows are kept without a packet.
    pub timeouts: Timeouts,
    /// The ports that source NAT gives out.
    pub nat_ports: NatPorts,
    /// How many answers each CPU sends a second to what is dropped.
    pub answers_a_second: u32,
    /// What becomes of packets to virtual addresses that are of no service.
    pub addresses: AddressSettings,
    /// Where tables and programs are pinned, if they are.
    pub pins: Option<PathBuf>,
    /// What Maglev tables are made with.
    pub maglev_seed: u64,
}

const STATUS: ([u8; 4], u16) = ([127, 0, 0, 1], 9095);

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// All that is wrong with it, each with line, column and field.
    pub fn load(file: &Path) -> Result<Self, Errors> {
        let folder = file.parent().unwrap_or(Path::new(""));
        control_static::read_file(file, |root, reader| document(root, folder, reader))
    }
}

const FIELDS: [&str; 11] = [
    "uplinks",
    "services",
    "status",
    "capacity",
    "timeouts",
    "nat_ports",
    "answers_a_second",
    "answer_ping",
    "drop_unserved_ports",
    "pins",
    "maglev_seed",
];

fn document(root: &Field<'_>, folder: &Path, reader: &mut Reader<'_>) -> Option<Config> {
    let expected = "a mapping with `uplinks` and `services`";
    let [
        uplinks,
        services,
        status,
        capacity,
        timeouts,
        nat_ports,
        answers,
        ping,
        unserved,
        pins,
        maglev_seed,
    ] = root.fields(&FIELDS, expected, reader)?;

    // Everything is read before the first `?`, so that one pass finds all that is wrong.
    let uplinks = match uplinks {
        Some(field) => self::uplinks(&field, reader),
        None => root.missing("uplinks", "name the network cards, such as `uplinks: [eth0, eth1]`", reader),
    };
    let services = match services {
        Some(field) => match field.text() {
            Some(path) => Some(folder.join(path)),
            None => field.refuse("the path of a file with services, or of a folder of them", reader),
        },
        None => {
            let expected = "where they stand, such as `services: /etc/forebay/services.d`";
            root.missing("services", expected, reader)
        }
    };
    let status = or(status, STATUS.into(), |field| address(field, reader));
    let capacity = or(capacity, Capacity::default(), |field| self::capacity(field, reader));
    let timeouts = or(timeouts, Timeouts::default(), |field| self::timeouts(field, reader));
    let nat_ports = or(nat_ports, NatPorts::default(), |field| self::ports(field, reader));
    let answers_a_second = or(answers, DEFAULT_ANSWERS_A_SECOND, |field| match field.number() {
        Some(answers) => Some(answers),
        None => field.refuse("how many each CPU sends: a number, or 0 for none", reader),
    });
    let default = AddressSettings::default();
    let answer_ping = or(ping, default.answer_ping, |field| truth(field, reader));
    let drop_unserved_ports = or(unserved, default.drop_unserved_ports, |field| truth(field, reader));
    let pins =
        or(pins, None, |field| match field.text().map(PathBuf::from).filter(|path| path.is_absolute()) {
            Some(path) => Some(Some(path)),
            None => field
                .refuse("the absolute path of a directory in a bpffs, such as /sys/fs/bpf/forebay", reader),
        });
    let maglev_seed = or(maglev_seed, 0, |field| match field.number() {
        Some(seed) => Some(seed),
        None => field.refuse("a number from 0 to 4294967295", reader),
    });
    Some(Config {
        uplinks: uplinks?,
        services: services?,
        status: status?,
        capacity: capacity?,
        timeouts: timeouts?,
        nat_ports: nat_ports?,
        answers_a_second: answers_a_second?,
        addresses: AddressSettings { answer_ping: answer_ping?, drop_unserved_ports: drop_unserved_ports? },
        pins: pins?,
        maglev_seed: maglev_seed?.into(),
    })
}

/// The default where a field is not there; nothing where it is wrong.
fn or<T>(field: Option<Field<'_>>, default: T, read: impl FnOnce(&Field<'_>) -> Option<T>) -> Option<T> {
    field.map_or(Some(default), |field| read(&field))
}

fn truth(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<bool> {
    match field.text() {
        Some("true") => Some(true),
        Some("false") => Some(false),
        _ => field.refuse("`true` or `false`", reader),
    }
}

fn uplinks(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<Vec<Uplink>> {
    let expected = "a list of at least one network card, such as `[eth0, eth1]`";
    let items = field.items(expected, reader)?;
    if items.is_empty() {
        return field.refuse(expected, reader);
    }
    let mut uplinks: Vec<Uplink> = Vec::new();
    let mut places = Vec::new();
    for item in &items {
        let Some(uplink) = self::uplink(item, reader) else { continue };
        match uplinks.iter().position(|known| known.name() == uplink.name()) {
            Some(first) => {
                let first: &Field<'_> = places.get(first).copied().unwrap_or(item);
                item.again::<()>(format!("uplink {}", uplink.name()), first, reader);
            }
            None => {
                uplinks.push(uplink);
                places.push(item);
            }
        }
    }
    (uplinks.len() == items.len()).then_some(uplinks)
}

const UPLINK: [&str; 6] = ["name", "xdp", "tc", "order", "zone", "masquerade_as"];

fn uplink(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<Uplink> {
    if !field.is_mapping() {
        return Some(Uplink::named(interface(field, reader)?));
    }
    let [name, xdp, tc, order, zone, masquerade_as] = field.fields(&UPLINK, "a network card", reader)?;
    let name = match name {
        Some(name) => interface(&name, reader),
        None => field.missing("name", "the network card's, such as `name: eth0`", reader),
    };
    let xdp = or(xdp, XdpMode::default(), |field| {
        let names = [
            ("auto", XdpMode::Auto),
            ("native", XdpMode::Native),
            ("generic", XdpMode::Generic),
            ("off", XdpMode::Off),
        ];
        field.one_of(&names, "`auto`, `native`, `generic` or `off`", reader)
    });
    let tc = or(tc, TcMode::default(), |field| {
        let names = [("auto", TcMode::Auto), ("tcx", TcMode::Tcx), ("clsact", TcMode::Clsact)];
        field.one_of(&names, "`auto`, `tcx` or `clsact`", reader)
    });
    let order = or(order, Order::default(), |field| {
        field.one_of(&[("first", Order::First), ("last", Order::Last)], "`first` or `last`", reader)
    });
    let zone = or(zone, 0, |field| match field.number().and_then(|number| u16::try_from(number).ok()) {
        Some(zone) => Some(zone),
        None => field.refuse("a conntrack zone: a number from 0 to 65535", reader),
    });
    let masquerade_as = or(masquerade_as, Vec::new(), |field| addresses(field, reader));
    let uplink = Uplink::named(name?).xdp(xdp?).tc(tc?).order(order?).zone(zone?);
    Some(masquerade_as?.into_iter().fold(uplink, Uplink::masquerade_as))
}

/// An address, or one of each family.
fn addresses(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<Vec<IpAddr>> {
    let expected = "an address of this host, or a list of one for each family";
    let one = |field: &Field<'_>, reader: &mut Reader<'_>| {
        let address: Option<IpAddr> = field.text().and_then(|text| text.parse().ok());
        match address.filter(|address| !address.is_unspecified() && !address.is_multicast()) {
            Some(address) => Some(address),
            None => field.refuse(expected, reader),
        }
    };
    if field.text().is_some() {
        return one(field, reader).map(|address| vec![address]);
    }
    let items = field.items(expected, reader)?;
    let addresses: Vec<IpAddr> = items.iter().filter_map(|item| one(item, reader)).collect();
    let v6 = addresses.iter().filter(|address| address.is_ipv6()).count();
    if addresses.len() != items.len() {
        None
    } else if v6 > 1 || addresses.len() - v6 > 1 {
        field.refuse(expected, reader)
    } else {
        Some(addresses)
    }
}

/// A range of ports.
fn ports(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<NatPorts> {
    let range = field.text().and_then(|text| {
        let (first, last) = text.split_once('-')?;
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    });
    match range.and_then(|range| NatPorts::new(range).ok()) {
        Some(ports) => Some(ports),
        None => field.refuse("a range of ports from 1024 on, such as `49152-65535`", reader),
    }
}

/// IFNAMSIZ is 16 with the NUL at its end; the kernel takes neither `/` nor white space nor `:` (dev_valid_name).
fn interface<'d>(field: &Field<'d>, reader: &mut Reader<'_>) -> Option<&'d str> {
    let is_name = |name: &&str| {
        (1..16).contains(&name.len())
            && !matches!(*name, "." | "..")
            && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
    };
    match field.text().filter(is_name) {
        Some(name) => Some(name),
        None => {
            field.refuse("the name of a network card, as `ip link` shows it: at most 15 characters", reader)
        }
    }
}

fn address(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<SocketAddr> {
    let address = field.text().and_then(|text| text.parse().ok());
    match address.filter(|address: &SocketAddr| address.ip().is_loopback()) {
        Some(address) => Some(address),
        None => field.refuse("an address of the loopback and a port, such as `127.0.0.1:9095`", reader),
    }
}

const CAPACITY: [&str; 8] =
    ["frontends", "backends", "slots", "conntrack", "opening", "nat", "affinity", "fragments"];

fn capacity(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<Capacity> {
    let expected = "a mapping of tables and the number of their entries";
    let [frontends, backends, slots, conntrack, opening, nat, affinity, fragments] =
        field.fields(&CAPACITY, expected, reader)?;
    let default = Capacity::default();
    let mut entries = |field: Option<Field<'_>>, default, least, expected| {
        or(field, default, |field| match field.number().filter(|number| *number >= least) {
            Some(number) => Some(number),
            None => field.refuse(expected, reader),
        })
    };
    let frontends = entries(frontends, default.frontends, 1, "how many frontends there is room for");
    let backends = entries(backends, default.backends, 1, "how many backends there is room for");
    let slots = entries(slots, default.slots, 16, "the words for lists of backends: a number, 16 at least");
    let conntrack =
        entries(conntrack, default.conntrack, 64, "how many flows are kept: a number, 64 at least");
    let opening =
        entries(opening, default.opening, 64, "how many unconfirmed flows are kept: a number, 64 at least");
    let nat = entries(nat, default.nat, 1, "how many masqueraded flows there is room for");
    let affinity = entries(affinity, default.affinity, 1, "how many clients with an affinity are remembered");
    let fragments = entries(fragments, default.fragments, 1, "how many packets in parts there is room for");
    Some(Capacity {
        frontends: frontends?,
        backends: backends?,
        slots: slots?,
        conntrack: conntrack?,
        opening: opening?,
        nat: nat?,
        affinity: affinity?,
        fragments: fragments?,
    })
}

const TIMEOUTS: [&str; 5] = ["tcp_opening", "tcp_established", "tcp_closing", "udp", "udp_stream"];

fn timeouts(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<Timeouts> {
    let expected = "a mapping of time-outs in seconds";
    let [opening, established, closing, udp, stream] = field.fields(&TIMEOUTS, expected, reader)?;
    let default = Timeouts::default();
    let mut milliseconds = |field: Option<Field<'_>>, default| {
        or(field, default, |field| match field.number().filter(|seconds| *seconds > 0) {
            Some(seconds) => Some(u64::from(seconds) * 1000),
            None => field.refuse("a number of seconds, 1 at least", reader),
        })
    };
    let opening = milliseconds(opening, default.tcp_opening);
    let established = milliseconds(established, default.tcp_established);
    let closing = milliseconds(closing, default.tcp_closing);
    let udp = milliseconds(udp, default.udp);
    let stream = milliseconds(stream, default.udp_stream);
    Some(Timeouts {
        tcp_opening: opening?,
        tcp_established: established?,
        tcp_closing: closing?,
        udp: udp?,
        udp_stream: stream?,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lb.yaml");
        fs::write(&file, text).unwrap();
        let shown = format!("{}/", folder.path().display());
        Config::load(&file)
            .map(|config| Config {
                services: config
                    .services
                    .strip_prefix(folder.path())
                    .map_or(config.services.clone(), Into::into),
                ..config
            })
            .map_err(|errors| errors.to_string().replace(&shown, ""))
    }

    #[test]
    fn the_least_that_is_said_has_defaults() {
        let config = load("uplinks: [eth0]\nservices: services.d\n").unwrap();
        assert_eq!(config.uplinks, [Uplink::named("eth0")]);
        assert_eq!(config.services, Path::new("services.d"));
        assert_eq!(config.status.to_string(), "127.0.0.1:9095");
        assert!(config.addresses.answer_ping && !config.addresses.drop_unserved_ports);
        assert_eq!((config.capacity, config.timeouts), (Capacity::default(), Timeouts::default()));
    }

    #[test]
    fn all_of_it_is_read() {
        let config = load(
            "
uplinks:
  - eth0
  - {name: eth1, xdp: off, tc: clsact, order: last, zone: 7, masquerade_as: [192.0.2.9, '2001:db8::9']}
services: /etc/forebay/services.yaml
status: '[::1]:80'
capacity: {frontends: 1, backends: 2, slots: 16, conntrack: 64, opening: 65, nat: 5, affinity: 6, fragments: 7}
nat_ports: 2000-2001
answers_a_second: 0
answer_ping: false
drop_unserved_ports: true
pins: /sys/fs/bpf/edge
maglev_seed: 4294967295
timeouts: {tcp_opening: 1, tcp_established: 2, tcp_closing: 3, udp: 4, udp_stream: 5}
",
        )
        .unwrap();
        let second = Uplink::named("eth1").xdp(XdpMode::Off).tc(TcMode::Clsact).order(Order::Last).zone(7);
        let second =
            second.masquerade_as([192, 0, 2, 9].into()).masquerade_as("2001:db8::9".parse().unwrap());
        assert_eq!(config.uplinks, [Uplink::named("eth0"), second]);
        assert_eq!(config.services, Path::new("/etc/forebay/services.yaml"));
        assert_eq!(config.status.to_string(), "[::1]:80");
        let expected = Capacity {
            frontends: 1,
            backends: 2,
            slots: 16,
            conntrack: 64,
            opening: 65,
            nat: 5,
            affinity: 6,
            fragments: 7,
        };
        assert_eq!(config.capacity, expected);
        assert_eq!((config.nat_ports.range(), config.answers_a_second), (2000..=2001, 0));
        let expected = AddressSettings { answer_ping: false, drop_unserved_ports: true };
        assert_eq!(config.addresses, expected);
        let Timeouts { tcp_opening, tcp_established, tcp_closing, udp, udp_stream } = config.timeouts;
        let all = [tcp_opening, tcp_established, tcp_closing, udp, udp_stream];
        assert_eq!(all, [1000, 2000, 3000, 4000, 5000]);
        assert_eq!(config.pins.as_deref(), Some(Path::new("/sys/fs/bpf/edge")));
        assert_eq!(config.maglev_seed, 4_294_967_295);
    }

    #[test]
    fn each_mistake_is_told_with_its_place_and_all_at_once() {
        let text = "
uplinks: [eth0, {name: 'a b'}, {xdp: fast}, eth0, {name: eth2, zone: 65536}, {name: e3, masquerade_as: '::'}]
service: here
status: 0.0.0.0:80
capacity: {conntrack: 63, opening: 63}
timeouts: {udp: 0, tcp: 1}
pins: here
maglev_seed: -1
nat_ports: 80-90
answer_ping: 1
drop_unserved_ports: yes
";
        let told = load(text).unwrap_err();
        let expected = "\
lb.yaml:2:1: missing field `services`: where they stand, such as `services: /etc/forebay/services.d`
lb.yaml:2:24: uplinks[1].name: expected the name of a network card, as `ip link` shows it: at most 15 characters, found the quoted text \"a b\"
lb.yaml:2:32: uplinks[2]: missing field `name`: the network card's, such as `name: eth0`
lb.yaml:2:38: uplinks[2].xdp: expected `auto`, `native`, `generic` or `off`, found `fast`
lb.yaml:2:45: uplinks[3]: uplink eth0 stands here a second time, first at lb.yaml:2:11
lb.yaml:2:70: uplinks[4].zone: expected a conntrack zone: a number from 0 to 65535, found `65536`
lb.yaml:2:104: uplinks[5].masquerade_as: expected an address of this host, or a list of one for each family, found the quoted text \"::\"
lb.yaml:3:1: service: unknown field `service`: did you mean `services`? expected one of `uplinks`, `services`, `status`, `capacity`, `timeouts`, `nat_ports`, `answers_a_second`, `answer_ping`, `drop_unserved_ports`, `pins`, `maglev_seed`
lb.yaml:4:9: status: expected an address of the loopback and a port, such as `127.0.0.1:9095`, found `0.0.0.0:80`
lb.yaml:5:23: capacity.conntrack: expected how many flows are kept: a number, 64 at least, found `63`
lb.yaml:5:36: capacity.opening: expected how many unconfirmed flows are kept: a number, 64 at least, found `63`
lb.yaml:6:17: timeouts.udp: expected a number of seconds, 1 at least, found `0`
lb.yaml:6:20: timeouts.tcp: unknown field `tcp`: expected one of `tcp_opening`, `tcp_established`, `tcp_closing`, `udp`, `udp_stream`
lb.yaml:7:7: pins: expected the absolute path of a directory in a bpffs, such as /sys/fs/bpf/forebay, found `here`
lb.yaml:8:14: maglev_seed: expected a number from 0 to 4294967295, found `-1`
lb.yaml:9:12: nat_ports: expected a range of ports from 1024 on, such as `49152-65535`, found `80-90`
lb.yaml:10:14: answer_ping: expected `true` or `false`, found `1`
lb.yaml:11:22: drop_unserved_ports: expected `true` or `false`, found `yes`";
        assert_eq!(told, expected);
    }

    #[test]
    fn what_is_no_mapping_or_has_no_uplink_is_refused() {
        for (text, said) in [
            ("", "lb.yaml:1:1: is empty"),
            ("[eth0]", "lb.yaml:1:1: expected a mapping with `uplinks` and `services`, found a list"),
            (
                "uplinks: []\nservices: a",
                "lb.yaml:1:10: uplinks: expected a list of at least one network card",
            ),
            ("uplinks: eth0\nservices: a", "lb.yaml:1:10: uplinks: expected a list"),
            ("uplinks: [a]\nservices:", "lb.yaml:2:9: services: expected the path of a file"),
            ("uplinks: [a]\nservices: a\ncapacity: 5", "lb.yaml:3:11: capacity: expected a mapping"),
        ] {
            let told = load(text).unwrap_err();
            assert!(told.starts_with(said), "{text:?}: {told}");
        }
        let gone = Config::load(Path::new("/nowhere/lb.yaml")).unwrap_err().to_string();
        assert!(gone.starts_with("/nowhere/lb.yaml: cannot be read: No such file"), "{gone}");
    }
}
