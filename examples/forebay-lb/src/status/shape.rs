//! The status as JSON: what `GET /status` gives. Every field is always there; what is not known, or does not apply, is
//! `null`. `docs/bare-metal.md` explains the fields, and `fields.txt` holds their names.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use dataplane_core::model::{BackendState, Locality, Protocol};
use serde::Serialize;

/// The version of this shape. It rises when a field goes or changes its meaning; new fields alone do not raise it.
pub const VERSION: u32 = 1;

/// All of it.
#[derive(Debug, Serialize)]
pub struct Status {
    pub version: u32,
    /// The daemon's own version.
    pub forebay: &'static str,
    pub process: u32,
    pub uptime_seconds: u64,
    pub ready: bool,
    /// What keeps it from being ready.
    pub not_ready: Vec<String>,
    pub uplinks: Vec<Uplink>,
    /// What keeps traffic from flowing or costs speed.
    pub warnings: Vec<String>,
    pub pins: Option<Pins>,
    pub source: Source,
    pub held_back: Option<HeldBack>,
    pub services: Vec<Service>,
    pub flows: Flows,
    pub tables: Vec<Table>,
    pub nat: Vec<Nat>,
    /// Packets by hook (`xdp`, `ingress`, `egress`), what became of them, and why.
    pub counters: BTreeMap<&'static str, Verdicts>,
    pub collector: Collector,
    /// What the flow log misses, where flows are logged.
    pub events: Option<Events>,
}

#[derive(Debug, Serialize)]
pub struct Uplink {
    pub interface: String,
    pub index: u32,
    pub zone: u16,
    /// `native`, `generic` or `off`.
    pub xdp: &'static str,
    /// Why it is off.
    pub xdp_off: Option<String>,
    /// `tcx` or `clsact`.
    pub tc: &'static str,
    /// `attached`, `interface-gone` or `displaced`.
    pub standing: &'static str,
    /// Programs of other dataplanes at the same interface.
    pub others: Vec<Other>,
}

#[derive(Debug, Serialize)]
pub struct Other {
    pub hook: String,
    pub program_id: u32,
}

/// Where tables and programs outlive the process.
#[derive(Debug, Serialize)]
pub struct Pins {
    pub path: PathBuf,
    /// Whether they were taken over from an earlier run.
    pub adopted: bool,
}

/// The files of services.
#[derive(Debug, Serialize)]
pub struct Source {
    pub path: PathBuf,
    /// How many different states of the files were applied.
    pub generation: u64,
    pub revision: Option<u64>,
    pub services: usize,
    pub readings: u64,
    /// What is wrong with the files as they are now; what was applied last goes on serving.
    pub rejected: Option<Rejected>,
    /// Why changes may be seen late.
    pub unwatched: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Rejected {
    pub errors: Vec<Mistake>,
    /// How many more there were.
    pub omitted: usize,
}

#[derive(Debug, Serialize)]
pub struct Mistake {
    pub file: Option<PathBuf>,
    pub line: Option<u32>,
    pub column: Option<u32>,
    pub field: Option<String>,
    pub message: String,
}

/// Removals that wait for a person.
#[derive(Debug, Serialize)]
pub struct HeldBack {
    pub services: usize,
    /// Frontends of an earlier run that no file names any more.
    pub frontends: u32,
    /// What to do where they are meant.
    pub confirm: String,
}

#[derive(Debug, Serialize)]
pub struct Service {
    pub owner: String,
    pub name: String,
    /// `pending`, `applied`, `refused`, `conflict`, `held-back` or `removing`.
    pub status: &'static str,
    /// Why it is not applied.
    pub reason: Option<String>,
    pub revision: u64,
    pub frontends: Vec<Frontend>,
    pub backends: Vec<Backend>,
    /// `random` or `maglev`.
    pub choice: Option<&'static str>,
    /// How many places the Maglev table has.
    pub maglev: Option<u16>,
    /// Frontends that another service claims, too.
    pub conflicts: Vec<Conflict>,
    /// The last attempt to write it, where that failed; it is repeated.
    pub failure: Option<Failure>,
    pub held_back: Option<ServiceHeldBack>,
}

#[derive(Debug, Serialize)]
pub struct Frontend {
    pub address: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    /// `null` while the tables do not hold it.
    pub counters: Option<Counters>,
}

#[derive(Debug, Serialize)]
pub struct Counters {
    pub packets: u64,
    pub bytes: u64,
    pub reply_packets: u64,
    pub reply_bytes: u64,
    pub flows: u64,
    pub drops: u64,
}

#[derive(Debug, Serialize)]
pub struct Backend {
    pub address: IpAddr,
    pub port: u16,
    pub weight: u16,
    /// `active` or `draining`.
    pub state: BackendState,
    /// `remote` or `local`.
    pub locality: Locality,
    /// Flows of this service that it has now.
    pub flows: u64,
}

#[derive(Debug, Serialize)]
pub struct Conflict {
    pub frontend: String,
    pub with: String,
    pub won: bool,
}

#[derive(Debug, Serialize)]
pub struct Failure {
    pub error: String,
    pub attempts: u32,
}

#[derive(Debug, Serialize)]
pub struct ServiceHeldBack {
    /// Whether the whole service is to go.
    pub removal: bool,
    /// Backends that are to go, or to take no new flows.
    pub backends: Vec<String>,
}

/// Connections, confirmed or not, both directions of a connection counted as one. Others write meanwhile: it is exact only
/// where nothing happens.
#[derive(Debug, Serialize)]
pub struct Flows {
    pub ipv4: u64,
    pub ipv6: u64,
}

#[derive(Debug, Serialize)]
pub struct Table {
    pub name: &'static str,
    pub fill: u64,
    pub capacity: u64,
}

/// Ports that source NAT has lent, as the collector's last whole round found them.
#[derive(Debug, Serialize)]
pub struct Nat {
    /// An address of this host.
    pub address: IpAddr,
    pub in_use: u32,
    /// The most that a round found.
    pub high_water: u32,
}

/// Events that nobody was told of since the programs were loaded.
#[derive(Debug, Serialize)]
pub struct Events {
    /// The ring was full.
    pub lost: u64,
    /// Drops beyond those that a CPU may tell of in a second.
    pub withheld: u64,
}

/// Packets by verdict.
#[derive(Debug, Default, Serialize)]
pub struct Verdicts {
    /// Not ours: untouched.
    pub pass: BTreeMap<&'static str, u64>,
    /// Ours, left by XDP to tc.
    pub leave: BTreeMap<&'static str, u64>,
    /// Translated, for this host.
    pub deliver: u64,
    /// Translated, and sent on.
    pub forward: u64,
    /// Dropped, and its sender told.
    pub answer: BTreeMap<&'static str, u64>,
    pub drop: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
pub struct Collector {
    pub rounds: u64,
    pub scanned: u64,
    pub expired: u64,
    pub revoked: u64,
    pub failures: u64,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    /// A status in which nothing is `null` and no list is empty.
    fn full() -> Status {
        let text = || String::from("text");
        let frontend = Frontend {
            address: [203, 0, 113, 10].into(),
            port: 80,
            protocol: Protocol::Tcp,
            counters: Some(Counters {
                packets: 1,
                bytes: 2,
                reply_packets: 3,
                reply_bytes: 4,
                flows: 5,
                drops: 6,
            }),
        };
        let backend = Backend {
            address: [198, 51, 100, 10].into(),
            port: 8080,
            weight: 1,
            state: BackendState::Draining,
            locality: Locality::Remote,
            flows: 7,
        };
        let service = Service {
            owner: text(),
            name: text(),
            status: "conflict",
            reason: Some(text()),
            revision: 1,
            frontends: vec![frontend],
            backends: vec![backend],
            choice: Some("maglev"),
            maglev: Some(16381),
            conflicts: vec![Conflict { frontend: text(), with: text(), won: false }],
            failure: Some(Failure { error: text(), attempts: 1 }),
            held_back: Some(ServiceHeldBack { removal: false, backends: vec![text()] }),
        };
        let mistake = Mistake {
            file: Some("web.yaml".into()),
            line: Some(1),
            column: Some(1),
            field: Some(text()),
            message: text(),
        };
        Status {
            version: VERSION,
            forebay: "0.1.0",
            process: 1,
            uptime_seconds: 1,
            ready: false,
            not_ready: vec![text()],
            uplinks: vec![Uplink {
                interface: text(),
                index: 1,
                zone: 0,
                xdp: "off",
                xdp_off: Some(text()),
                tc: "tcx",
                standing: "attached",
                others: vec![Other { hook: text(), program_id: 1 }],
            }],
            warnings: vec![text()],
            pins: Some(Pins { path: "/sys/fs/bpf/forebay".into(), adopted: true }),
            source: Source {
                path: "services.d".into(),
                generation: 1,
                revision: Some(1),
                services: 1,
                readings: 1,
                rejected: Some(Rejected { errors: vec![mistake], omitted: 0 }),
                unwatched: Some(text()),
            },
            held_back: Some(HeldBack { services: 1, frontends: 1, confirm: text() }),
            services: vec![service],
            flows: Flows { ipv4: 1, ipv6: 0 },
            tables: vec![Table { name: "slots", fill: 1, capacity: 2 }],
            nat: vec![Nat { address: "192.0.2.1".parse().unwrap(), in_use: 1, high_water: 2 }],
            counters: ["xdp", "ingress", "egress"].map(|hook| (hook, Verdicts::default())).into(),
            collector: Collector { rounds: 1, scanned: 1, expired: 0, revoked: 0, failures: 0 },
            events: Some(Events { lost: 0, withheld: 0 }),
        }
    }

    fn fields(value: &Value, path: &str, into: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                for (name, value) in object {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    into.insert(path.clone());
                    fields(value, &path, into);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| fields(item, &format!("{path}[]"), into)),
            _ => {}
        }
    }

    /// There are readers outside. A name that goes, or another meaning, needs another [`VERSION`].
    #[test]
    fn the_names_of_the_fields_are_held() {
        let mut found = BTreeSet::new();
        fields(&serde_json::to_value(full()).unwrap(), "", &mut found);
        let found: Vec<_> = found.iter().map(String::as_str).collect();
        let held: Vec<_> = include_str!("fields.txt").lines().collect();
        assert_eq!(found, held, "the fields are now:\n{}", found.join("\n"));
        assert_eq!(VERSION, 1);
    }

    #[test]
    fn every_field_is_documented() {
        let page = include_str!("../../../../docs/bare-metal.md");
        for path in include_str!("fields.txt").lines() {
            let name = path.rsplit('.').next().unwrap_or(path);
            assert!(page.contains(&format!("`{name}`")) || page.contains(&format!("`{name}[]`")), "{path}");
        }
    }
}
