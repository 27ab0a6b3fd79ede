//! Latency of a new TCP connection to the last of N services: a client, the balancer and a backend, each in a network
//! namespace, joined by veths.
//!
//! The ways take turns in rounds, so that a disturbance hits them alike: the balancer that only routes, the one that
//! has iptables' chains, and the one with Forebay at tcx.

use std::{
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use dataplane_core::{
    abi::ServiceKeyV4,
    tables::Store,
    wire::{Be16, PROTOCOL_TCP},
};
use dataplane_ebpf::{EbpfDataplane, Uplink, XdpMode};
use dataplane_testkit::net::{LoadBalancerTopology, Namespace, Route};
use serde::Serialize;

use crate::{
    catalogue::{BACKENDS, Catalogue, FRONTENDS, frontend},
    control::{Control, capacity},
    gate,
    iptables::{self, Restore},
    profile::Profile,
    sample::quantile,
};

/// The first of the backends' ports.
const PORT: u16 = 8080;
const TIMEOUT: Duration = Duration::from_secs(5);
/// Connects before the first that counts.
const WARM_UP: u32 = 20;

/// One way at one number of services.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Who balances.
    pub way: &'static str,
    /// Number of services; where packets are only routed, that of the round.
    pub services: u32,
    /// Median of the connects, in microseconds.
    pub p50: f64,
    /// 99th percentile, in microseconds.
    pub p99: f64,
    /// How many connects.
    pub connects: usize,
    /// How long it took to program all services from nothing or from the number before, in milliseconds.
    pub programmed: Option<f64>,
}

/// All rows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Connects {
    /// In the order of their measurement.
    pub rows: Vec<Row>,
    /// What loaded the chains.
    pub iptables: Option<String>,
    /// Which hooks Forebay had.
    pub attached: Vec<String>,
    /// What was not measured, and why.
    pub missing: Vec<String>,
}

/// Measures.
///
/// # Errors
/// What the kernel refuses.
pub fn measure(profile: &Profile) -> Result<Connects> {
    let mut result = Connects::default();
    let most = profile.services.last().copied().unwrap_or(1);

    let mut routed = Site::new()?;
    let mut ours = Site::new()?;
    let forebay = Forebay::open(&ours, most)?;
    result.attached = forebay.plane.attachments().iter().map(ToString::to_string).collect();
    let restore = Restore::find();
    let mut chains = match &restore {
        Ok(restore) => {
            result.iptables = Some(restore.version.clone());
            Some((Site::new()?, restore))
        }
        Err(error) => {
            result.missing.push(format!("connects through iptables: {error:#}"));
            None
        }
    };

    for (&services, port) in profile.services.iter().zip((PORT..).step_by(BACKENDS as usize)) {
        let target = frontend(services - 1);
        let sites = [&mut routed, &mut ours].into_iter().chain(chains.as_mut().map(|(site, _)| site));
        for site in sites {
            site.serve(port)?;
        }
        let catalogue = |site: &Site| Catalogue { services, last: site.backends() };
        let [direct, ..] = routed.backends();
        let mut ways = vec![Way::new("routing alone, to the backend", &routed, direct, services)];
        if let Some((site, restore)) = &chains {
            if services > profile.most_iptables_services {
                result.missing.push(format!(
                    "iptables with {services} services: loading takes minutes, and a {} run has one",
                    profile.name
                ));
            } else {
                let rules = iptables::rules(&catalogue(site));
                match restore.load(&site.topology.balancer, &rules) {
                    Ok(time) => ways.push(Way::new("iptables", site, target, services).programmed(time)),
                    Err(error) => {
                        result.missing.push(format!("iptables with {services} services: {error:#}"));
                    }
                }
            }
        }
        let picture = catalogue(&ours).all()?;
        let time = forebay.control.timed_replace(picture)?;
        let before = forebay.flows(target)?;
        ways.push(Way::new("Forebay, tcx", &ours, target, services).programmed(time));

        for way in &mut ways {
            way.connect(WARM_UP)?;
            way.times.clear();
        }
        for _ in 0..profile.rounds {
            for way in &mut ways {
                way.connect(profile.connects)?;
            }
        }
        // It must have been our programs that balanced.
        let wanted = u64::from(WARM_UP + profile.rounds * profile.connects);
        let opened = forebay.flows(target)? - before;
        // A SYN that meets a connection which is over opens it again.
        if opened < wanted {
            bail!("Forebay's programs opened {opened} flows to {target} for {wanted} connects");
        }
        result.rows.extend(ways.into_iter().map(Way::row));
    }
    Ok(result)
}

/// A client, a balancer and a backend that listens.
#[derive(Debug)]
struct Site {
    topology: LoadBalancerTopology,
    servers: Vec<Server>,
}

impl Site {
    fn new() -> Result<Self> {
        let topology = LoadBalancerTopology::builder(1).build()?;
        // The plan's own virtual addresses are too few.
        let balancer = balancer_address(&topology)?;
        topology.client.add_route(&Route::to(FRONTENDS.parse()?).via(balancer.into()))?;
        Ok(Self { topology, servers: Vec::new() })
    }

    /// Has the backend host listen at three ports from this one on, and no longer at others. Services with backends in
    /// common would reuse each other's connections while the backend still remembers them: a client's port, one backend,
    /// and two services make one tuple there, and a SYN in TIME_WAIT costs 10 ms.
    fn serve(&mut self, port: u16) -> Result<()> {
        let host = self.topology.backends.first().context("no backend")?;
        let ports = (port..).take(BACKENDS as usize);
        let servers = ports.map(|port| {
            let address = SocketAddrV4::new(host.addresses.v4, port);
            Server::start(host.namespace.clone(), address)
        });
        self.servers = servers.collect::<Result<_>>()?;
        Ok(())
    }

    /// The backends, on one host. It must serve.
    fn backends(&self) -> [SocketAddrV4; BACKENDS as usize] {
        std::array::from_fn(|i| {
            let unspecified = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
            self.servers.get(i).map_or(unspecified, |server| server.address)
        })
    }
}

/// The balancer's address on the client's link.
fn balancer_address(topology: &LoadBalancerTopology) -> Result<Ipv4Addr> {
    let addresses = topology.client_side.addresses()?;
    let found = addresses.into_iter().find_map(|address| match address {
        ipnet::IpNet::V4(v4) => Some(v4.addr()),
        ipnet::IpNet::V6(_) => None,
    });
    found.context("the balancer has no IPv4 address towards the client")
}

/// Takes connections and closes them.
#[derive(Debug)]
struct Server {
    address: SocketAddrV4,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
    host: Namespace,
}

impl Server {
    fn start(host: Namespace, address: SocketAddrV4) -> Result<Self> {
        let listener = host.run(|| TcpListener::bind(address))?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = host.spawn({
            let stop = Arc::clone(&stop);
            move || {
                while let Ok((connection, _)) = listener.accept() {
                    drop(connection);
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                }
            }
        })?;
        Ok(Self { address, stop, thread: Some(thread), host })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // A last connection wakes it.
        let woken = self.host.run(|| TcpStream::connect_timeout(&self.address.into(), TIMEOUT));
        if let Some(thread) = self.thread.take()
            && woken.is_ok()
        {
            thread.join().ok();
        }
    }
}

/// Forebay on a site's balancer.
struct Forebay {
    plane: EbpfDataplane,
    control: Control,
}

impl Forebay {
    fn open(site: &Site, services: u32) -> Result<Self> {
        let mut builder = EbpfDataplane::builder().unpinned().capacity(capacity(services));
        for interface in site.topology.balancer_interfaces() {
            builder = builder.uplink(Uplink::named(interface.name()).xdp(XdpMode::Off));
        }
        let plane = site.topology.balancer.run(|| builder.open())?;
        let control = Control::new(plane.tables())?;
        Ok(Self { plane, control })
    }

    /// How many flows its programs opened to a service.
    fn flows(&self, target: SocketAddrV4) -> Result<u64> {
        let tables = self.plane.tables();
        let (address, port) = ((*target.ip()).into(), Be16::new(target.port()));
        let key = ServiceKeyV4 { address, port, protocol: PROTOCOL_TCP, scope: 0 };
        let service = tables.services_v4().get(&key)?.with_context(|| format!("no service {target}"))?;
        Ok(tables.counters().service(service.index())?.flows)
    }
}

/// One way of balancing, at one number of services.
struct Way<'a> {
    name: &'static str,
    site: &'a Site,
    target: SocketAddrV4,
    services: u32,
    programmed: Option<Duration>,
    times: Vec<f64>,
}

impl<'a> Way<'a> {
    fn new(name: &'static str, site: &'a Site, target: SocketAddrV4, services: u32) -> Self {
        Self { name, site, target, services, programmed: None, times: Vec::new() }
    }

    fn programmed(mut self, time: Duration) -> Self {
        self.programmed = Some(time);
        self
    }

    /// Connects so many times, one after the other.
    fn connect(&mut self, connects: u32) -> Result<()> {
        let target = self.target.into();
        let times = self.site.topology.client.run(|| -> Result<Vec<f64>> {
            gate::pin()?;
            let mut times = Vec::new();
            for _ in 0..connects {
                let start = Instant::now();
                let connection = TcpStream::connect_timeout(&target, TIMEOUT);
                times.push(start.elapsed().as_secs_f64() * 1e6);
                drop(
                    connection
                        .with_context(|| format!("no connection to {target} by way of {}", self.name))?,
                );
            }
            Ok(times)
        })?;
        self.times.extend(times);
        Ok(())
    }

    fn row(mut self) -> Row {
        self.times.sort_by(f64::total_cmp);
        Row {
            way: self.name,
            services: self.services,
            p50: quantile(&self.times, 0.5),
            p99: quantile(&self.times, 0.99),
            connects: self.times.len(),
            programmed: self.programmed.map(|time| time.as_secs_f64() * 1e3),
        }
    }
}

#[cfg(test)]
mod tests {
    use dataplane_testkit::require_kernel;

    use super::*;

    #[test]
    fn every_way_connects() {
        require_kernel!(Restore::find().map(|_| ()));
        let profile = Profile {
            services: &[2, 20],
            most_iptables_services: 10,
            rounds: 2,
            connects: 3,
            ..Profile::SMOKE
        };
        let connects = measure(&profile).unwrap();
        let rows: Vec<_> = connects.rows.iter().map(|row| (row.services, row.connects)).collect();
        assert_eq!(rows, [(2, 6), (2, 6), (2, 6), (20, 6), (20, 6)], "{connects:?}");
        assert!(connects.rows.iter().all(|row| row.p50 > 0.0 && row.p50 <= row.p99), "{connects:?}");
        assert_eq!(connects.missing.len(), 1, "{connects:?}");
    }
}
