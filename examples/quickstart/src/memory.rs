//! The run in memory: the same file, the same tables and pipeline, generated frames.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use dataplane_core::{
    memory::{MemoryTables, SimulatedInterface, Simulator, Target},
    model::NatPorts,
    pipeline::Verdict,
    tables::Capacity,
};
use dataplane_testkit::{
    frames::{Dissected, Frame, flags},
    net::{AddressPlan, HostAddresses},
};

use crate::{
    Arguments, Interrupt, Sabotage,
    config::{BACKEND_ECHO, BACKEND_HTTP, Config, Control, ECHO, HTTP, Role, virtual_addresses},
    say,
    tally::{Packets, Summary, Tally},
};

const CLIENT_SIDE: u32 = 1;
const BACKEND_SIDE: u32 = 2;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// Who the balancer is for its backends, which see it as the client.
const OWN: HostAddresses = HostAddresses {
    v4: Ipv4Addr::new(198, 51, 100, 1),
    v6: Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 1),
};

/// Runs it.
pub fn run(arguments: &Arguments, interrupt: &Interrupt) -> Result<Summary> {
    let backends: Vec<_> = (1..=3u16)
        .map(|host| HostAddresses {
            v4: [198, 51, 100, host as u8 + 1].into(),
            v6: [0x2001, 0xdb8, 0xb, 0, 0, 0, 0, host + 1].into(),
        })
        .collect();
    let mut config = Config::write(backends.iter().copied())?;
    say!("{} says:\n\n{}", config.path().display(), config.text())?;
    let tables = Arc::new(MemoryTables::new(Capacity::default()));
    // The clock stands still and no flow ends: each has a port to the end, and nobody else wants one.
    tables.set_nat_ports(NatPorts::new(1024..=u16::MAX)?);
    let mut host = Host::new(Arc::clone(&tables), backends)?;
    host.one_refuses = arguments.is_sabotaged_by(Sabotage::Refuse);
    let control = Control::follow(&config.path(), tables)?;

    let mut kinds = [("HTTP", Tally::default()), ("UDP", Tally::default())];
    let mut sent = 0;
    let third = arguments.requests / 3;
    for number in 0..arguments.requests {
        interrupt.check()?;
        if number == third {
            say!("editing the file: backend0 drains")?;
            config.set(0, Role::Draining)?;
            control.wait_for(2)?;
        }
        if number == 2 * third {
            say!("editing the file: backend0 is gone")?;
            config.set(0, Role::Gone)?;
            control.wait_for(3)?;
        }
        let [(_, http), (_, udp)] = &mut kinds;
        http.count(host.http(number, &mut sent).map_err(|error| format!("{error:#}")));
        udp.count(host.udp(number, &mut sent).map_err(|error| format!("{error:#}")));
    }
    if arguments.is_sabotaged_by(Sabotage::Elsewhere) {
        let [backend, _] = host.backends[0].with_port(BACKEND_ECHO);
        // The pipeline has nothing to do with it, and says so.
        host.forward(Frame::udp(pair(0, ECHO).0, backend), &mut sent).err().context("it was forwarded")?;
    }
    let counted = host.counted()?;
    Ok(Summary {
        kinds: kinds.into(),
        packets: Packets { sent, counted, by: "the simulator" },
        complaints: Vec::new(),
    })
}

/// The way that a client's packet takes behind the balancer.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Path {
    backend: SocketAddr,
    /// Whom the backend takes for the client.
    seen_as: SocketAddr,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "to {} from {}", self.backend, self.seen_as)
    }
}

/// The simulated balancer, with clients on one side and backends on the other.
struct Host {
    simulator: Simulator,
    backends: Vec<HostAddresses>,
    /// The first backend answers no SYN but with RST.
    one_refuses: bool,
}

impl Host {
    fn new(tables: Arc<MemoryTables>, backends: Vec<HostAddresses>) -> Result<Self> {
        let mut simulator = Simulator::new(tables);
        simulator.add_interface(SimulatedInterface::new(CLIENT_SIDE, MAC))?;
        let mut backend_side = SimulatedInterface::new(BACKEND_SIDE, MAC);
        (backend_side.masquerade_v4, backend_side.masquerade_v6) = (Some(OWN.v4), Some(OWN.v6));
        simulator.add_interface(backend_side)?;
        let routes = simulator.routes_mut();
        routes.insert(AddressPlan::CLIENT_V4.into(), Target::Link(CLIENT_SIDE));
        routes.insert(AddressPlan::CLIENT_V6.into(), Target::Link(CLIENT_SIDE));
        routes.insert(AddressPlan::BACKENDS_V4.into(), Target::Link(BACKEND_SIDE));
        routes.insert(AddressPlan::BACKENDS_V6.into(), Target::Link(BACKEND_SIDE));
        Ok(Self { simulator, backends, one_refuses: false })
    }

    /// A connection from its first SYN to its last ACK; who served it.
    fn http(&self, number: u32, sent: &mut u64) -> Result<String> {
        let (client, service) = pair(number, HTTP);
        let ack = flags::ACK;
        let path = self.forward(Frame::tcp(client, service, flags::SYN), sent)?;
        let reply = |flags, payload| {
            let frame = Frame::tcp(path.backend, path.seen_as, flags).payload(payload);
            self.reply(frame, service, client)
        };
        if self.one_refuses && self.backends[0].both().contains(&path.backend.ip()) {
            reply(flags::RST | ack, b"")?;
            bail!("{service}: connection refused");
        }
        reply(flags::SYN | ack, b"")?;
        for (flags, payload) in [(ack, &b""[..]), (ack | flags::PSH, b"GET / HTTP/1.1\r\n\r\n")] {
            let again = self.forward(Frame::tcp(client, service, flags).payload(payload), sent)?;
            if again != path {
                bail!("a packet of a connection that went {path} went {again}");
            }
        }
        reply(ack | flags::PSH, b"HTTP/1.1 200 OK\r\n\r\n")?;
        reply(ack | flags::FIN, b"")?;
        self.forward(Frame::tcp(client, service, ack | flags::FIN), sent)?;
        self.name_of(path.backend, BACKEND_HTTP)
    }

    /// A datagram and its echo; who served it.
    fn udp(&self, number: u32, sent: &mut u64) -> Result<String> {
        let (client, service) = pair(number, ECHO);
        let path = self.forward(Frame::udp(client, service).payload(b"forebay"), sent)?;
        self.reply(Frame::udp(path.backend, path.seen_as).payload(b"forebay"), service, client)?;
        self.name_of(path.backend, BACKEND_ECHO)
    }

    /// Sends a client's packet; returns how it came out.
    fn forward(&self, frame: Frame, sent: &mut u64) -> Result<Path> {
        *sent += 1;
        let out = self.run(CLIENT_SIDE, frame)?;
        if !OWN.both().contains(&out.source.ip()) {
            bail!("a backend would see {} and not the balancer", out.source);
        }
        Ok(Path { backend: out.destination, seen_as: out.source })
    }

    /// Sends a backend's packet, which must come out as one of the service's to the client.
    fn reply(&self, frame: Frame, service: SocketAddr, client: SocketAddr) -> Result<()> {
        let out = self.run(BACKEND_SIDE, frame)?;
        if (out.source, out.destination) != (service, client) {
            let (source, destination) = (out.source, out.destination);
            bail!("a reply of {service} to {client} came out as one of {source} to {destination}");
        }
        Ok(())
    }

    fn run(&self, interface: u32, frame: Frame) -> Result<Dissected> {
        let outcome = self.simulator.receive(interface, &frame.link(MAC, PEER).build());
        if outcome.verdict != Verdict::Forward {
            bail!("verdict {}", outcome.verdict);
        }
        let out = Dissected::of(&outcome.frame).context("the frame came out broken")?;
        if !out.checksums_hold() {
            bail!("a checksum came out wrong");
        }
        Ok(out)
    }

    fn name_of(&self, backend: SocketAddr, port: u16) -> Result<String> {
        let place = self.backends.iter().position(|addresses| addresses.with_port(port).contains(&backend));
        Ok(format!("backend{}", place.with_context(|| format!("{backend} is nobody's address"))?))
    }

    fn counted(&self) -> Result<u64> {
        use dataplane_core::tables::Store;
        let tables = self.simulator.tables();
        let v4 = tables.services_v4().entries().map(|entry| entry.map(|(_, found)| found.index()));
        let v6 = tables.services_v6().entries().map(|entry| entry.map(|(_, found)| found.index()));
        let mut sum = 0;
        for index in v4.chain(v6) {
            // An address has none.
            if let Ok(index) = index.map(|index| tables.counters().service(index)) {
                sum += index.map_or(0, |counters| counters.packets);
            }
        }
        Ok(sum)
    }
}

/// A client of its own for each request, of both families in turn.
fn pair(number: u32, port: u16) -> (SocketAddr, SocketAddr) {
    let family = (number % 2) as usize;
    let host = 2 + (number / 2) % 200;
    let client: IpAddr = match family {
        0 => std::net::Ipv4Addr::from_bits(AddressPlan::CLIENT_V4.addr().to_bits() + host).into(),
        _ => std::net::Ipv6Addr::from_bits(AddressPlan::CLIENT_V6.addr().to_bits() + u128::from(host)).into(),
    };
    let client_port = 20_000 + (number / 400 % 40_000) as u16;
    let [v4, v6] = virtual_addresses(port);
    (SocketAddr::new(client, client_port), if family == 0 { v4 } else { v6 })
}
