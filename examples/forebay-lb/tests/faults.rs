//! The documented set-up through what goes wrong in a balancer's life: no connection fails, whether it was there before,
//! lies idle meanwhile, or comes in the midst of it.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    ops::ControlFlow,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use common::{Daemon, LIMIT, PATIENCE, SILENCE, end_of, looks, page::Page, with};
use dataplane_testkit::{
    Raise,
    frames::{Frame, Rng, flags},
    net::{AddressPlan, Namespace, RawSender, http, wait_for},
    require_kernel,
};
use serde_json::{Value, json};

/// Connections of each family that lie idle through each fault.
const IDLE: usize = 25;
/// Connections of each family that transfer data all the time.
const BUSY: usize = 4;
/// Entries of each family for connections, and for half-open ones: less than the page has, so that a flood fills them in a few
/// seconds.
const ENTRIES: u64 = 8192;
/// Half-open connections that are begun, of each family half: several times as many as there are entries for.
const FLOOD: usize = 100_000;

/// A connection that has sent the first half of its request.
struct Idle(TcpStream, SocketAddr);

impl Idle {
    fn connect(to: SocketAddr) -> Self {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /name HTTP/1.1\r\n").unwrap();
        Self(stream, to)
    }

    /// Sends the second half: who answers.
    fn go_on(mut self) -> Result<String, String> {
        let Self(stream, to) = &mut self;
        let mut answer = String::new();
        stream
            .write_all(b"Host: x\r\nConnection: close\r\n\r\n")
            .and_then(|()| stream.read_to_string(&mut answer))
            .map_err(|error| format!("{to}, from {:?}: {error}", stream.local_addr()))?;
        match answer.rsplit_once("\r\n\r\n") {
            Some((head, name)) if head.starts_with("HTTP/1.1 200") => Ok(name.to_owned()),
            _ => Err(format!("{to} answered {answer:?}")),
        }
    }
}

/// What a socket says whose queue is full.
const NO_ROOM: i32 = rustix::io::Errno::NOBUFS.raw_os_error();

/// Packets of one kind from anybody, to each of the virtual addresses in turn; how many left.
fn send(
    client: &Namespace,
    count: usize,
    mut packet: impl FnMut(&mut Rng, SocketAddr) -> Vec<u8> + Send,
) -> u64 {
    client.run(|| {
        let sender = RawSender::new().unwrap();
        let mut random = Rng::new(0xf10d);
        let addresses = AddressPlan::vip(0).with_port(80);
        let mut sent = 0;
        for index in 0..count {
            let to = addresses[index % 2];
            let packet = packet(&mut random, to);
            match sender.send(&packet, to.ip()) {
                Ok(()) => sent += 1,
                // What its own queue has no room for is a packet less.
                Err(error) => assert_eq!(error.raw_os_error(), Some(NO_ROOM), "{to}: {error}"),
            }
        }
        sent
    })
}

/// How many packets XDP and tc dropped for this reason.
fn dropped(status: &Value, reason: &str) -> u64 {
    let at = |hook: &str| status["counters"][hook]["drop"][reason].as_u64().unwrap_or(0);
    at("xdp") + at("ingress")
}

/// How full the tables of this name are, of each family.
fn fill(status: &Value, table: &str) -> [u64; 2] {
    let tables = status["tables"].as_array().unwrap();
    let of =
        |name: String| tables.iter().find(|table| table["name"] == name).unwrap()["fill"].as_u64().unwrap();
    [of(format!("{table}_v4")), of(format!("{table}_v6"))]
}

/// An address and a port that are nobody's here.
fn stranger(random: &mut Rng, to: SocketAddr) -> SocketAddr {
    let bits = random.draw();
    let ip: IpAddr = match to {
        SocketAddr::V4(_) => [100, 64 | (bits >> 16) as u8 & 63, (bits >> 8) as u8, bits as u8].into(),
        SocketAddr::V6(_) => {
            std::net::Ipv6Addr::from_bits(0x2001_0db8_ffff << 80 | u128::from(random.draw())).into()
        }
    };
    SocketAddr::new(ip, 1024 + (bits >> 32) as u16 % 60_000)
}

#[test]
fn no_connection_fails_whatever_happens() {
    require_kernel!();
    let page = Page::new("faults");
    let config = std::fs::read_to_string(page.files.config()).unwrap();
    assert!(config.contains("conntrack: 262144"));
    page.files.configure(
        &config.replace("conntrack: 262144", &format!("conntrack: {ENTRIES}, opening: {ENTRIES}")),
    );
    let (balancer, client) = (&page.topology.balancer, &page.topology.client);
    let addresses = AddressPlan::vip(0).with_port(80);
    let before = looks(balancer);
    let start = || Daemon::start_as(balancer, with(&page.files, &["--keep"]));

    let (enough, asked) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 2]);
    let failures = Mutex::new(Vec::new());
    let (enough, asked, failures) = (&enough, &asked, &failures);
    let mut daemon = start();
    std::thread::scope(|scope| {
        // Whatever fails here, the threads end.
        let _at_the_end = Raise(enough);
        let go_on = |_| {
            if enough.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let busy: Vec<_> = (0..BUSY * 2)
            .map(|index| {
                let to = addresses[index % 2];
                scope.spawn(move || client.run(|| http::download_while(to, 1 << 17, SILENCE, go_on)))
            })
            .collect();
        for (to, asked) in addresses.into_iter().zip(asked) {
            scope.spawn(move || {
                client.run(|| {
                    while !enough.load(Ordering::Relaxed) {
                        match http::get(to, "/name", PATIENCE) {
                            Ok(_) => drop(asked.fetch_add(1, Ordering::Relaxed)),
                            Err(error) => failures.lock().unwrap().push(error.to_string()),
                        }
                    }
                })
            });
        }
        // New connections of both families are served, from now on.
        let served = |what: &str| {
            let before = asked.each_ref().map(|asked| asked.load(Ordering::Relaxed));
            wait_for(LIMIT, what, || {
                asked.iter().zip(before).all(|(asked, before)| asked.load(Ordering::Relaxed) > before + 10)
            })
            .unwrap();
        };
        let through = |what: &str, fault: &mut dyn FnMut()| {
            let idle: Vec<_> =
                client.run(|| (0..IDLE * 2).map(|index| Idle::connect(addresses[index % 2])).collect());
            fault();
            served(what);
            let (names, mut broken) = (Mutex::new(BTreeSet::new()), Vec::new());
            for idle in idle {
                match client.run(|| idle.go_on()) {
                    Ok(name) => drop(names.lock().unwrap().insert(name)),
                    Err(error) => broken.push(error),
                }
            }
            broken.append(&mut failures.lock().unwrap());
            assert!(broken.is_empty(), "{what}: {} failed: {broken:#?}", broken.len());
            eprintln!("{what}: {:?} answered", names.into_inner().unwrap());
        };

        let mut running = Some(daemon);
        through("nothing", &mut || {});
        through("the daemon restarts", &mut || {
            let (ended, said) = running.take().unwrap().terminate();
            assert!(ended.success() && said.contains("left attached"), "{said}");
            served("while nobody runs");
            running = Some(start());
        });
        through("the daemon is killed", &mut || {
            drop(running.take());
            served("while nobody runs");
            running = Some(start());
        });
        daemon = running.unwrap();
        through("a mistake in its file", &mut || {
            page.files.serve(&page.services.replace("port: 80\n", "port: http\n"));
            daemon.wait_for_status("it is told", |status| !status["source"]["rejected"].is_null());
            page.files.serve(&page.services);
            daemon.wait_for_status("it is mended", |status| status["source"]["rejected"].is_null());
        });
        through("a backend drains", &mut || {
            let read = daemon.status()["source"]["generation"].as_u64().unwrap();
            page.files.serve(&page.edit(1, |address| {
                Some(format!("{{address: \"{}\", port: 8080, state: draining}}", address.ip()))
            }));
            daemon.wait_for_status("it was read", |status| status["source"]["generation"] == read + 1);
            daemon.wait_for_status("it stands", |status| status["services"][0]["status"] == "applied");
        });
        through("neighbours are forgotten", &mut || {
            for backend in &page.topology.backends {
                for address in backend.addresses.both() {
                    backend.balancer_side.flush_neighbour(address).unwrap();
                }
            }
        });
        through("two kinds of packets that open nothing, from anybody", &mut || {
            let before = dropped(&daemon.status(), "no-flow");
            let sent = send(client, FLOOD / 2, |random, to| {
                let from = stranger(random, to);
                Frame::tcp(from, to, *random.pick(&[flags::RST, flags::SYN | flags::ACK])).packet()
            });
            assert!(sent > FLOOD as u64 / 4, "{sent} sent");
            daemon.wait_for_status("all are dropped by name", |status| {
                dropped(status, "no-flow") >= before + sent
            });
        });
        through("parts of packets, and what is no packet", &mut || {
            let sent = send(client, FLOOD / 2, |random, to| {
                let mut frame = Frame::tcp(stranger(random, to), to, flags::ACK).payload(&[0; 16]);
                frame.fragment = random.draw() as u16 & 0x3fff;
                frame.hop_limit = random.draw() as u8;
                let mut packet = frame.packet();
                // Behind version and length, which the kernel looks at as well.
                let at = 8 + random.below(packet.len() - 8);
                packet[at] = random.draw() as u8;
                let (from, length) = if to.is_ipv4() { (16, 4) } else { (24, 16) };
                let destination: Vec<u8> = match to.ip() {
                    IpAddr::V4(ip) => ip.octets().to_vec(),
                    IpAddr::V6(ip) => ip.octets().to_vec(),
                };
                packet[from..from + length].copy_from_slice(&destination);
                packet
            });
            assert!(sent > FLOOD as u64 / 4, "{sent} sent");
        });
        through("a flood of connections that are never finished", &mut || {
            let sent =
                send(client, FLOOD, |random, to| Frame::tcp(stranger(random, to), to, flags::SYN).packet());
            assert!(sent > 4 * ENTRIES, "{sent} sent");
            // An LRU table evicts before its last entry is taken.
            let status = daemon.wait_for_status("the tables of half-open connections are full", |status| {
                fill(status, "opening").into_iter().all(|fill| fill > ENTRIES * 3 / 4)
            });
            let standing = 2 * (IDLE + BUSY) as u64;
            assert!(fill(&status, "conntrack").into_iter().all(|fill| fill >= standing / 2), "{status:#}");
        });
        enough.store(true, Ordering::Relaxed);
        for busy in busy {
            assert!(busy.join().unwrap().unwrap().bytes > 0);
        }
        assert_eq!(daemon.status()["ready"], json!(true));
        let (ended, said) = daemon.terminate();
        assert!(ended.success() && !said.contains("panicked"), "{said}");
    });
    assert_eq!(balancer.run(|| end_of(with(&page.files, &["--remove"]))).0, 0);
    assert!(!page.pins.edge().exists());
    assert_eq!(looks(balancer), before);
}
