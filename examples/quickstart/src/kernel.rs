//! The run with real traffic, as root.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use dataplane_core::{
    abi::{ServiceKeyV4, ServiceKeyV6},
    pipeline::{Hook, Verdict},
    tables::{Capacity, Store},
    wire::{Be16, PROTOCOL_TCP, PROTOCOL_UDP},
};
use dataplane_ebpf::{EbpfDataplane, Uplink, Warning, XdpMode};
use dataplane_testkit::net::{HttpServer, LoadBalancerTopology, Statistics, UdpEchoServer};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    Arguments, Interrupt, Sabotage,
    config::{BACKEND_ECHO, BACKEND_HTTP, Config, Control, ECHO, HTTP, Role, virtual_addresses},
    load::{self, Stage},
    say,
    tally::{Packets, Summary, Tally},
};

const BACKENDS: usize = 3;
/// Connections at once, of each kind.
const WORKERS: u32 = 4;
/// So long may nothing happen before the run is given up.
const PATIENCE: Duration = Duration::from_secs(20);
/// A download takes some six seconds at this rate.
const DOWNLOAD: u64 = 48 << 20;
const DOWNLOAD_RATE: u64 = 8 << 20;

/// Who counts packets here.
const PROGRAMS: &str = "the programs in the kernel";

/// Runs it.
pub fn run(arguments: &Arguments, interrupt: &Interrupt) -> Result<Summary> {
    say!("Building five network namespaces: a client, the balancer, {BACKENDS} backends.")?;
    let builder = LoadBalancerTopology::builder(BACKENDS);
    let builder = if arguments.xdp { builder.for_xdp() } else { builder };
    let topology = builder.build().context("cannot build the namespaces")?;
    let mut servers = Servers::start(&topology)?;
    let mut config = Config::write(topology.backends.iter().map(|backend| backend.addresses))?;
    say!("{} says:\n\n{}", config.path().display(), indent(&config.text()))?;

    let mode = if arguments.xdp { XdpMode::Native } else { XdpMode::Auto };
    let uplinks: Vec<_> =
        topology.balancer_interfaces().map(|interface| Uplink::named(interface.name()).xdp(mode)).collect();
    let plane = topology
        .balancer
        .run(|| {
            uplinks
                .into_iter()
                .fold(EbpfDataplane::builder().unpinned().capacity(Capacity::default()), |b, uplink| {
                    b.uplink(uplink)
                })
                .open()
        })
        .context("cannot open the dataplane in the kernel")?;
    for attachment in plane.attachments() {
        say!("attached: {attachment}")?;
    }
    for warning in plane.warnings() {
        // The namespaces of the other ends were made here, with checksum offload off where XDP runs.
        if !matches!(warning, Warning::UnfinishedChecksums { .. }) {
            say!("warning: {warning}")?;
        }
    }
    if !arguments.xdp {
        say!("(tcx carries everything here; --xdp shows the shortcut)")?;
    }
    let control = Control::follow(&config.path(), plane.tables())?;
    interrupt.check()?;

    let before = topology.client.statistics().context("cannot read the client's counters")?;
    let run = Traffic::start(&topology, arguments.requests, interrupt);
    let outcome = run.drive(&topology, &mut servers, &mut config, &control, (arguments, interrupt));
    if outcome.is_err() {
        interrupt.give_up();
    }
    let mut summary = run.finish(outcome, &servers)?;
    interrupt.check()?;
    if arguments.is_sabotaged_by(Sabotage::Elsewhere) {
        let [backend, _] = topology.backends[0].addresses.with_port(BACKEND_ECHO);
        topology.client.run(|| load::echo(backend)).map_err(anyhow::Error::msg)?;
    }
    summary.packets = settle(&topology, &plane, &before)?;
    for hook in Hook::ALL {
        let forwarded = plane.tables().counters().verdict(hook, Verdict::Forward)?;
        say!("forwarded at {}: {forwarded} packets, both ways", hook.name())?;
    }
    drop(control);
    plane.detach().context("cannot detach the programs")?;
    Ok(summary)
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// What the backends run.
struct Servers {
    http: Vec<HttpServer>,
    echo: Vec<UdpEchoServer>,
}

impl Servers {
    fn start(topology: &LoadBalancerTopology) -> Result<Self> {
        let mut servers = Self { http: Vec::new(), echo: Vec::new() };
        for backend in &topology.backends {
            let (namespace, addresses) = (&backend.namespace, &backend.addresses);
            let http =
                HttpServer::start(namespace, backend.name.as_str(), &addresses.with_port(BACKEND_HTTP))?;
            let echo =
                UdpEchoServer::start(namespace, backend.name.as_str(), &addresses.with_port(BACKEND_ECHO))?;
            servers.http.push(http);
            servers.echo.push(echo);
        }
        Ok(servers)
    }

    /// Has a backend serve HTTP where nobody looks for it.
    fn refuse(&mut self, topology: &LoadBalancerTopology, backend: usize) -> Result<()> {
        let host = topology.backends.get(backend).context("no such backend")?;
        let addresses = host.addresses.with_port(BACKEND_HTTP + 1);
        self.http[backend] = HttpServer::start(&host.namespace, host.name.as_str(), &addresses)?;
        Ok(())
    }
}

/// Threads of clients.
struct Traffic {
    requests: Vec<(&'static str, thread::JoinHandle<Tally>)>,
    downloads: Vec<(SocketAddr, thread::JoinHandle<Result<u64, String>>)>,
    /// Requests done, of each kind.
    done: Vec<Arc<AtomicU64>>,
    received: Vec<Arc<AtomicU64>>,
    /// Requests of each kind.
    requests_each: u64,
    stage: Stage,
}

/// What became of the backend that was taken away.
struct Removal {
    backend: usize,
    /// Requests that it got after it had drained.
    answered: u64,
}

impl Traffic {
    fn start(topology: &LoadBalancerTopology, requests: u32, interrupt: &Interrupt) -> Self {
        let mut traffic = Self {
            requests: Vec::new(),
            downloads: Vec::new(),
            done: Vec::new(),
            received: Vec::new(),
            requests_each: u64::from(requests),
            stage: Stage::default(),
        };
        for address in virtual_addresses(HTTP) {
            let received = Arc::new(AtomicU64::new(0));
            traffic.received.push(Arc::clone(&received));
            let interrupt = interrupt.clone();
            let download = move || load::download(address, DOWNLOAD, DOWNLOAD_RATE, &received, &interrupt);
            traffic.downloads.push((address, spawn(topology, download)));
        }
        type Request = fn(SocketAddr) -> Result<String, String>;
        let kinds: [(_, _, Request); 2] = [("HTTP", HTTP, load::get), ("UDP", ECHO, load::echo)];
        for (kind, port, request) in kinds {
            let done_of_kind = Arc::new(AtomicU64::new(0));
            traffic.done.push(Arc::clone(&done_of_kind));
            for worker in 0..WORKERS {
                let count = requests / WORKERS + u32::from(worker < requests % WORKERS);
                let (done, stage, interrupt) =
                    (Arc::clone(&done_of_kind), traffic.stage.clone(), interrupt.clone());
                let work =
                    move || load::repeat(count, virtual_addresses(port), request, &done, &stage, &interrupt);
                traffic.requests.push((kind, spawn(topology, work)));
            }
        }
        traffic
    }

    /// Lets traffic flow, and takes a backend away in the midst of it.
    fn drive(
        &self,
        topology: &LoadBalancerTopology,
        servers: &mut Servers,
        config: &mut Config,
        control: &Control,
        (arguments, interrupt): (&Arguments, &Interrupt),
    ) -> Result<Removal> {
        let bar = progress_bar(self.total());
        // Who serves the downloads is known before anybody else asks: theirs are the first requests.
        self.wait(interrupt, "the downloads to begin", || {
            self.received.iter().all(|r| r.load(Ordering::Relaxed) > 0)
        })?;
        let busy: Vec<_> = servers.http.iter().map(|server| server.requests() > 0).collect();
        let backend = busy.iter().position(|busy| !busy).context("three backends serve two downloads?")?;
        let name = servers.http.get(backend).map_or("", HttpServer::name).to_owned();
        if arguments.is_sabotaged_by(Sabotage::Refuse) {
            servers.refuse(topology, backend)?;
        }
        self.stage.reach(Stage::ALL_SERVE);

        // UDP is faster than HTTP: the edits come when the slower of them has done its third.
        let reach = |share: u64| {
            self.done.iter().all(|done| done.load(Ordering::Relaxed) >= self.requests_each * share / 100)
        };
        self.wait_with(interrupt, "a third of the requests", &bar, || reach(33))?;
        bar.suspend(|| say!("editing the file: {name} drains: it ends what it has, and gets nothing new"))?;
        config.set(backend, Role::Draining)?;
        control.wait_for(2)?;
        self.stage.reach(Stage::DRAINED);
        // What was under way when the file was edited is let finish: the count stands still. Of UDP nothing is said: a
        // port that a client gets a second time is an old flow, which a draining backend keeps.
        let served = || servers.http.get(backend).map_or(0, HttpServer::requests);
        let mut answered_before = served();
        self.wait_with(interrupt, "the drained backend to get nothing new", &bar, || {
            thread::park_timeout(Duration::from_millis(100));
            let now = served();
            std::mem::replace(&mut answered_before, now) == now
        })?;
        bar.suspend(|| say!("editing the file: {name} is gone, while the downloads go on"))?;
        let is_back = arguments.is_sabotaged_by(Sabotage::Return);
        config.set(backend, if is_back { Role::Active } else { Role::Gone })?;
        control.wait_for(3)?;
        self.stage.reach(Stage::GONE);
        self.wait_with(interrupt, "the rest of the requests", &bar, || reach(100))?;
        self.wait_with(interrupt, "the downloads to end", &bar, || {
            self.downloads.iter().all(|(_, thread)| thread.is_finished())
        })?;
        let answered = served() - answered_before;
        bar.finish_and_clear();
        Ok(Removal { backend, answered })
    }

    fn wait(&self, interrupt: &Interrupt, what: &str, enough: impl FnMut() -> bool) -> Result<()> {
        self.wait_with(interrupt, what, &ProgressBar::hidden(), enough)
    }

    fn wait_with(
        &self,
        interrupt: &Interrupt,
        what: &str,
        bar: &ProgressBar,
        mut enough: impl FnMut() -> bool,
    ) -> Result<()> {
        let mut said = Instant::now();
        let mut moved = (Instant::now(), 0);
        while !enough() {
            interrupt.check()?;
            let received: u64 = self.received.iter().map(|received| received.load(Ordering::Relaxed)).sum();
            let done = self.done();
            if moved.1 != done + received {
                moved = (Instant::now(), done + received);
            }
            if moved.0.elapsed() > PATIENCE {
                bail!("nothing moved for {PATIENCE:?} while waiting for {what}");
            }
            let downloads = format!("downloads {} of {} MiB", received >> 20, (2 * DOWNLOAD) >> 20);
            bar.set_position(done);
            bar.set_message(downloads.clone());
            if bar.is_hidden() && said.elapsed() > Duration::from_secs(1) {
                // Nobody sees the bar where the output is no terminal.
                said = Instant::now();
                say!("  {done} of {} requests, {downloads}", self.total())?;
            }
            thread::park_timeout(Duration::from_millis(20));
        }
        Ok(())
    }

    fn total(&self) -> u64 {
        self.requests_each * self.done.len() as u64
    }

    fn done(&self) -> u64 {
        self.done.iter().map(|done| done.load(Ordering::Relaxed)).sum()
    }

    /// Joins the threads and counts.
    fn finish(self, outcome: Result<Removal>, servers: &Servers) -> Result<Summary> {
        let mut kinds =
            [("HTTP", Tally::default()), ("UDP", Tally::default()), ("long downloads", Tally::default())];
        // Nothing may keep waiting for the start where something went wrong before it.
        self.stage.reach(Stage::GONE);
        for (kind, thread) in self.requests {
            let tally = thread.join().map_err(|_| anyhow::anyhow!("a client's thread panicked"))?;
            if let Some((_, sum)) = kinds.iter_mut().find(|(name, _)| *name == kind) {
                sum.add(tally);
            }
        }
        let [_, _, (_, downloads)] = &mut kinds;
        for (address, thread) in self.downloads {
            let result = thread.join().map_err(|_| anyhow::anyhow!("a download's thread panicked"))?;
            downloads.count(result.map(|bytes| format!("{address} {} MiB:", bytes >> 20)));
        }
        let removal = outcome?;
        let mut complaints = Vec::new();
        if let Some(server) = servers.http.get(removal.backend) {
            let [(_, http), ..] = &kinds;
            if removal.answered != 0 {
                complaints.push(format!(
                    "{} got {} requests after it had drained",
                    server.name(),
                    removal.answered
                ));
            }
            if http.of(server.name()) == 0 {
                complaints.push(format!("{} answered nothing before it was taken away", server.name()));
            }
        }
        Ok(Summary {
            kinds: kinds.into(),
            packets: Packets { sent: 0, counted: 0, by: PROGRAMS },
            complaints,
        })
    }
}

fn spawn<T: Send + 'static>(
    topology: &LoadBalancerTopology,
    work: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let client = topology.client.clone();
    thread::spawn(move || client.run(work))
}

fn progress_bar(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} requests, {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style)
}

/// Waits until the last packets of closing connections have arrived, and compares the client's counters with the
/// programs'.
fn settle(topology: &LoadBalancerTopology, plane: &EbpfDataplane, before: &Statistics) -> Result<Packets> {
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        let now = topology.client.statistics().context("cannot read the client's counters")?;
        let v4 =
            now.ip.out_requests - before.ip.out_requests - (now.icmp.out_messages - before.icmp.out_messages);
        let v6 = now.ip6.out_requests
            - before.ip6.out_requests
            - (now.icmp6.out_messages - before.icmp6.out_messages);
        let packets = Packets { sent: v4 + v6, counted: counted(plane)?, by: PROGRAMS };
        if packets.sent == packets.counted || Instant::now() > deadline {
            return Ok(packets);
        }
        thread::park_timeout(Duration::from_millis(50));
    }
}

/// Packets from clients that the programs counted at the frontends.
fn counted(plane: &EbpfDataplane) -> Result<u64> {
    let tables = plane.tables();
    let mut sum = 0;
    for (port, protocol) in [(HTTP, PROTOCOL_TCP), (ECHO, PROTOCOL_UDP)] {
        for address in virtual_addresses(port) {
            let port = Be16::new(port);
            let found = match address.ip() {
                std::net::IpAddr::V4(ip) => tables.services_v4().get(&ServiceKeyV4 {
                    address: ip.into(),
                    port,
                    protocol,
                    scope: 0,
                })?,
                std::net::IpAddr::V6(ip) => tables.services_v6().get(&ServiceKeyV6 {
                    address: ip.into(),
                    port,
                    protocol,
                    scope: 0,
                })?,
            };
            let frontend = found.with_context(|| format!("{address} is not in the tables"))?;
            sum += tables.counters().service(frontend.index())?.packets;
        }
    }
    Ok(sum)
}
