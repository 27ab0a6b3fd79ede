//! The run in memory: the same file, the same tables and pipeline, generated frames.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use dataplane_core::{
    memory::{MemoryTables, SimulatedInterface, Simulator, Target},
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
        for index in [CLIENT_SIDE, BACKEND_SIDE] {
            simulator.add_interface(SimulatedInterface::new(index, MAC))?;
        }
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
        let backend = self.forward(Frame::tcp(client, service, flags::SYN), sent)?;
        if self.one_refuses && self.backends[0].both().contains(&backend.ip()) {
            self.reply(Frame::tcp(backend, client, flags::RST | ack), service)?;
            bail!("{service}: connection refused");
        }
        self.reply(Frame::tcp(backend, client, flags::SYN | ack), service)?;
        for (flags, payload) in [(ack, &b""[..]), (ack | flags::PSH, b"GET / HTTP/1.1\r\n\r\n")] {
            let again = self.forward(Frame::tcp(client, service, flags).payload(payload), sent)?;
            if again != backend {
                bail!("a packet of a connection to {backend} went to {again}");
            }
        }
        self.reply(
            Frame::tcp(backend, client, ack | flags::PSH).payload(b"HTTP/1.1 200 OK\r\n\r\n"),
            service,
        )?;
        self.reply(Frame::tcp(backend, client, ack | flags::FIN), service)?;
        self.forward(Frame::tcp(client, service, ack | flags::FIN), sent)?;
        self.name_of(backend, BACKEND_HTTP)
    }

    /// A datagram and its echo; who served it.
    fn udp(&self, number: u32, sent: &mut u64) -> Result<String> {
        let (client, service) = pair(number, ECHO);
        let backend = self.forward(Frame::udp(client, service).payload(b"forebay"), sent)?;
        self.reply(Frame::udp(backend, client).payload(b"forebay"), service)?;
        self.name_of(backend, BACKEND_ECHO)
    }

    /// Sends a client's packet; returns where it came out.
    fn forward(&self, frame: Frame, sent: &mut u64) -> Result<SocketAddr> {
        *sent += 1;
        let out = self.run(CLIENT_SIDE, frame)?;
        Ok(out.destination)
    }

    /// Sends a backend's packet, which must come out as one of the service's.
    fn reply(&self, frame: Frame, service: SocketAddr) -> Result<()> {
        let out = self.run(BACKEND_SIDE, frame)?;
        if out.source != service {
            bail!("a reply came out as {} and not as {service}", out.source);
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
