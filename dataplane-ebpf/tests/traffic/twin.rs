//! The same traffic through Forebay and through the kernel's own NAT, in twin networks: what works in one works in the
//! other, and neither mixes up two flows.
//!
//! Every flow of a batch is open at the same time, from few ports of the client's, each of which serves flows to every
//! service; and all services share all backends. So wherever the client's port is kept, towards a backend many flows
//! would be one.

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::Barrier,
    thread,
    time::Duration,
};

use dataplane_core::model::{Backend, Masquerade, Protocol};
use dataplane_testkit::{
    frames::Rng,
    net::{AddressPlan, LoadBalancerTopology, UdpEchoServer},
    require_kernel,
};

use crate::{
    masquerade::cut_off,
    peers::{DatagramClient, LineClient, LineServer, SEED_VARIABLE, seed},
    world::{Front, Hooks, World, backend_port},
};

/// Of each kind of traffic.
const SERVICES: u8 = 4;
const BACKENDS: usize = 3;
const PORTS: u16 = 12;
const FIRST_PORT: u16 = 40_000;
const BATCHES: usize = 20;
/// Clients that open flows at the same time.
const THREADS: usize = 4;
const LIMIT: Duration = Duration::from_secs(10);
/// A TCP service whose backends do not listen there.
const DEAF: u8 = SERVICES;
const DEAF_PORT: u16 = 9;

/// One flow of the script.
#[derive(Clone, Copy, Debug)]
struct Flow {
    front: Front,
    vip: u8,
    port: u16,
    questions: usize,
}

impl Flow {
    fn to(self) -> SocketAddr {
        let port = self.front.virtual_address().port();
        AddressPlan::vip(self.vip).with_port(port)[usize::from(self.front.v6)]
    }
}

/// What became of it: who answered, or why nobody did.
type Outcome = Result<String, String>;

/// Some of all flows that there can be, in any order, for each batch and thread.
fn script(seed: u64) -> Vec<Vec<Vec<Flow>>> {
    let mut rng = Rng::new(seed);
    let batch = |_| {
        let mut threads = vec![Vec::new(); THREADS];
        for port in FIRST_PORT..FIRST_PORT + PORTS {
            for front in Front::ALL {
                let vips = if front.protocol == Protocol::Tcp { 0..DEAF + 1 } else { 0..SERVICES };
                for vip in vips {
                    if rng.chance(70) {
                        let flow = Flow { front, vip, port, questions: 1 + rng.below(4) };
                        threads[rng.below(THREADS)].push(flow);
                    }
                }
            }
        }
        for flows in &mut threads {
            for place in (1..flows.len()).rev() {
                flows.swap(place, rng.below(place + 1));
            }
        }
        threads
    };
    (0..BATCHES).map(batch).collect()
}

enum Open {
    Tcp(LineClient),
    Udp(DatagramClient),
}

/// Runs the script at the client: what became of each flow, in order.
fn run(net: &LoadBalancerTopology, script: &[Vec<Vec<Flow>>]) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for batch in script {
        let all_open = Barrier::new(THREADS);
        let converse = |flows: &[Flow]| -> Vec<Outcome> {
            let mut opened: Vec<Result<(Open, String), String>> =
                flows.iter().map(|flow| open(net, *flow).map_err(|error| error.kind().to_string())).collect();
            all_open.wait();
            for (flow, opened) in flows.iter().zip(&mut opened) {
                for question in 1..=flow.questions {
                    let Ok((client, first)) = opened else { break };
                    match ask(client, *flow, question) {
                        Ok(name) if name == *first => {}
                        Ok(name) => *opened = Err(format!("{first} answered, then {name}")),
                        Err(error) => *opened = Err(format!("{error} after {question} answers of {first}")),
                    }
                }
            }
            // A datagram's socket is kept until all have ended: a port of the client's is one flow's at a time.
            all_open.wait();
            let end = |opened: Result<(Open, String), String>| match opened? {
                (Open::Tcp(client), first) => {
                    client.end().map(|()| first).map_err(|error| format!("at its end: {error}"))
                }
                (Open::Udp(_), first) => Ok(first),
            };
            opened.into_iter().map(end).collect()
        };
        let all = net.client.run(|| {
            thread::scope(|scope| {
                let threads: Vec<_> = batch.iter().map(|flows| scope.spawn(|| converse(flows))).collect();
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
            })
        });
        outcomes.extend(all);
    }
    outcomes
}

fn open(net: &LoadBalancerTopology, flow: Flow) -> std::io::Result<(Open, String)> {
    let from = SocketAddr::new(net.client_addresses.both()[usize::from(flow.front.v6)], flow.port);
    let mut client = if flow.front.protocol == Protocol::Tcp {
        Open::Tcp(LineClient::connect(from, flow.to(), LIMIT)?)
    } else {
        Open::Udp(DatagramClient::connect(from, flow.to(), LIMIT)?)
    };
    let name = ask(&mut client, flow, 0)?;
    Ok((client, name))
}

fn ask(client: &mut Open, flow: Flow, question: usize) -> std::io::Result<String> {
    let id = format!("{}:{} {} {question}", flow.front.name(), flow.vip, flow.port);
    match client {
        Open::Tcp(client) => client.ask(&id),
        Open::Udp(client) => client.ask(&id),
    }
}

fn topology(hooks: Hooks) -> LoadBalancerTopology {
    let net = World::topology(hooks, BACKENDS);
    cut_off(&net);
    // The next batch uses the same ports again.
    net.client.sysctl("net/ipv4/tcp_max_tw_buckets", "0").unwrap();
    net
}

fn line_servers(net: &LoadBalancerTopology) -> Vec<LineServer> {
    let server = |host: &dataplane_testkit::net::BackendHost| {
        let addresses = host.addresses.with_port(backend_port(Protocol::Tcp));
        LineServer::start(&host.namespace, &host.name, &addresses)
    };
    net.backends.iter().map(server).collect()
}

fn through_forebay(hooks: Hooks, script: &[Vec<Vec<Flow>>]) -> Vec<Outcome> {
    let settings = |builder: dataplane_ebpf::Builder| {
        builder.capacity(dataplane_core::tables::Capacity { nat: 1 << 12, ..World::capacity() })
    };
    let mut world = World::with(hooks, topology(hooks), settings);
    world.masquerade = Masquerade::Auto;
    world.web.clear();
    let _lines = line_servers(&world.net);
    for front in Front::ALL {
        let backends: Vec<_> = (0..BACKENDS).map(|number| world.backend(front, number)).collect();
        for vip in 0..SERVICES {
            let flow = Flow { front, vip, port: 0, questions: 0 };
            let name = format!("{}-{vip}", front.name());
            world.balance_at(&name, flow.to(), front.protocol, backends.iter().copied());
        }
        if front.protocol == Protocol::Tcp {
            let deaf = backends
                .iter()
                .map(|backend| Backend::new(backend.socket_address().ip(), DEAF_PORT).unwrap());
            let flow = Flow { front, vip: DEAF, port: 0, questions: 0 };
            world.balance_at(&format!("{}-deaf", front.name()), flow.to(), front.protocol, deaf);
        }
    }
    run(&world.net, script)
}

/// The kernel's own: nftables, DNAT to a backend at random, and masquerade.
fn through_nftables(script: &[Vec<Vec<Flow>>]) -> Vec<Outcome> {
    let net = topology(Hooks::Tcx);
    let _lines = line_servers(&net);
    let echo = net.backends.iter().map(|host| {
        let addresses = host.addresses.with_port(backend_port(Protocol::Udp));
        UdpEchoServer::start(&host.namespace, host.name.as_str(), &addresses).unwrap()
    });
    let _echo: Vec<_> = echo.collect();
    let mut rules = String::from(
        "table inet twin {\n\
         chain after { type nat hook postrouting priority srcnat; oifname \"to-backend*\" masquerade; }\n\
         chain before { type nat hook prerouting priority dstnat;\n",
    );
    for front in Front::ALL {
        let family = if front.v6 { "ip6" } else { "ip" };
        let backends = net.backends.iter().map(|host| host.addresses.both()[usize::from(front.v6)]);
        let backends: Vec<_> =
            backends.enumerate().map(|(number, address)| format!("{number} : {address}")).collect();
        for vip in 0..=SERVICES {
            let port = if vip == DEAF { DEAF_PORT } else { backend_port(front.protocol) };
            let to = Flow { front, vip, port: 0, questions: 0 }.to();
            rules += &format!(
                "{family} daddr {} {protocol} dport {} dnat {family} to numgen random mod {BACKENDS} map {{ {} }} : {port};\n",
                to.ip(),
                to.port(),
                backends.join(", "),
                protocol = front.protocol,
            );
        }
    }
    rules += "}\n}\n";
    let output = net.balancer.run(|| {
        let nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut nft = nft.expect("nft, of the package nftables");
        nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        nft.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{}\n{rules}", String::from_utf8_lossy(&output.stderr));
    run(&net, script)
}

fn check(hooks: Hooks) {
    let seed = seed();
    let script = script(seed);
    let flows: Vec<Flow> = script.iter().flatten().flatten().copied().collect();
    eprintln!("{hooks:?}: {SEED_VARIABLE}={seed}, {} flows", flows.len());
    let ours = through_forebay(hooks, &script);
    let theirs = through_nftables(&script);
    assert_eq!((ours.len(), theirs.len()), (flows.len(), flows.len()));
    let mut shares: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for ((flow, ours), theirs) in flows.iter().zip(&ours).zip(&theirs) {
        match (ours, theirs) {
            (Ok(our), Ok(their)) => {
                assert!(flow.vip < SERVICES, "{flow:?}");
                shares.entry(our).or_default()[0] += 1;
                shares.entry(their).or_default()[1] += 1;
            }
            (ours, theirs) => {
                assert_eq!(ours, theirs, "{flow:?}");
                assert!(flow.vip >= SERVICES, "{flow:?}: {ours:?}");
            }
        }
    }
    eprintln!("{hooks:?}: {shares:?}");
    assert!(shares.keys().copied().eq(["backend0", "backend1", "backend2"]), "{shares:?}");
    let served = flows.iter().filter(|flow| flow.vip < SERVICES).count();
    for (who, share) in shares {
        assert!(share.iter().all(|share| share * 4 > served), "{who} has {share:?} of {served}");
    }
}

#[test]
fn what_nftables_serves_is_served_at_tcx() {
    require_kernel!();
    check(Hooks::Tcx);
}

#[test]
fn what_nftables_serves_is_served_at_xdp() {
    require_kernel!();
    check(Hooks::Xdp);
}
