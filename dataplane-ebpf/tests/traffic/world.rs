//! A client, a balancer with a dataplane, and backends with servers.

use std::{net::SocketAddr, time::Duration};

use aya::programs::{Xdp, XdpMode as XdpFlags};
use dataplane_core::{
    Controller, Running,
    abi::{ServiceCounters, ServiceKeyV4, ServiceKeyV6, map},
    control::ControllerBuilder,
    model::{Affinity, Backend, Frontend, Masquerade, Protocol, Service},
    pipeline::{Hook, Verdict},
    source::{Precedence, SourceHandle},
    tables::{Capacity, Store},
    wire::Be16,
};
use dataplane_ebpf::{Builder, EbpfDataplane, TcAttachment, TcMode, Uplink, XdpMode, testing};
use dataplane_testkit::net::{
    AddressPlan, HttpServer, LoadBalancerTopology, Namespace, Offload, Statistics, UdpClient, UdpEchoServer,
    http, wait_for,
};

use crate::kernel;

/// More than any answer takes on a machine under load; nothing waits for so long unless something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// At which hooks the balancer's dataplane stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hooks {
    /// tcx alone, or clsact on kernels before 6.6, which have no tcx; all offloads of the veths are on, so that packets carry unfinished checksums and many segments.
    Tcx,
    /// clsact alone, likewise.
    Clsact,
    /// XDP in the driver, and tcx or clsact; hosts finish their checksums themselves.
    Xdp,
    /// XDP in the stack and tcx, likewise, and all neighbours known. Seen on 6.18: where the stack copies a packet for XDP
    /// and XDP passes it on, the copy reaches tcx without its Ethernet header (its `mac_len` is 0), so that tcx can't
    /// finish what XDP leaves.
    XdpGeneric,
}

impl Hooks {
    /// Whether XDP is there, in whatever mode.
    pub fn xdp(self) -> bool {
        matches!(self, Self::Xdp | Self::XdpGeneric)
    }

    /// Whether XDP sends frames out of another interface than theirs: in the driver only where the kernel says which
    /// interfaces take them, as it does from 6.3 on. Before, XDP leaves them to tc.
    pub fn xdp_redirects(self) -> bool {
        self == Self::XdpGeneric || self == Self::Xdp && kernel::is_at_least(6, 3)
    }
}

/// A kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Front {
    pub protocol: Protocol,
    pub v6: bool,
}

impl Front {
    pub const TCP_V4: Self = Self { protocol: Protocol::Tcp, v6: false };
    pub const TCP_V6: Self = Self { protocol: Protocol::Tcp, v6: true };
    pub const UDP_V4: Self = Self { protocol: Protocol::Udp, v6: false };
    pub const UDP_V6: Self = Self { protocol: Protocol::Udp, v6: true };
    pub const ALL: [Self; 4] = [Self::TCP_V4, Self::TCP_V6, Self::UDP_V4, Self::UDP_V6];
    pub const TCP: [Self; 2] = [Self::TCP_V4, Self::TCP_V6];

    /// Where clients go.
    pub fn virtual_address(self) -> SocketAddr {
        let port = if self.protocol == Protocol::Tcp { 80 } else { 53 };
        AddressPlan::vip(0).with_port(port)[usize::from(self.v6)]
    }

    pub fn frontend(self) -> Frontend {
        let address = self.virtual_address();
        Frontend::new(address.ip(), address.port(), self.protocol).unwrap()
    }

    pub fn name(self) -> String {
        format!("{}-{}", self.protocol, if self.v6 { "v6" } else { "v4" })
    }

    /// One question on a flow of its own, from where this is called: who answers? The socket is connected: an answer
    /// from another address than the virtual one is none.
    pub fn ask(self) -> Result<String, String> {
        ask(self.protocol, self.virtual_address(), PATIENCE)
    }
}

/// One question to a server: who is it?
pub fn ask(protocol: Protocol, address: SocketAddr, timeout: Duration) -> Result<String, String> {
    if protocol == Protocol::Tcp {
        let answer = http::get(address, "/name", timeout).map_err(|error| error.to_string())?;
        return String::from_utf8(answer.body).map_err(|error| error.to_string());
    }
    let client = UdpClient::connect(address).map_err(|error| error.to_string())?;
    Ok(client.exchange(b"who?", timeout).map_err(|error| error.to_string())?.server)
}

/// A backend's port; not the frontend's, so that ports are translated too.
pub fn backend_port(protocol: Protocol) -> u16 {
    if protocol == Protocol::Tcp { 8080 } else { 5353 }
}

/// Everything. Dropping it takes it down.
pub struct World {
    pub control: Controller,
    pub agent: SourceHandle,
    _running: Running,
    pub plane: EbpfDataplane,
    _ends: Option<XdpEnds>,
    pub hooks: Hooks,
    /// Of services that are balanced from now on.
    pub masquerade: Masquerade,
    /// Likewise.
    pub affinity: Affinity,
    pub web: Vec<HttpServer>,
    pub echo: Vec<UdpEchoServer>,
    pub net: LoadBalancerTopology,
}

impl World {
    /// Three backends with servers, each on a link of its own; nothing is balanced yet.
    pub fn new(hooks: Hooks) -> Self {
        Self::with(hooks, Self::topology(hooks, 3), |builder| builder)
    }

    pub fn topology(hooks: Hooks, backends: usize) -> LoadBalancerTopology {
        let builder = LoadBalancerTopology::builder(backends);
        if hooks.xdp() { builder.for_xdp() } else { builder }.build().unwrap()
    }

    /// On a network that is there already, with further settings.
    pub fn with(
        hooks: Hooks,
        net: LoadBalancerTopology,
        settings: impl FnOnce(Builder) -> Builder + Send,
    ) -> Self {
        Self::controlled(hooks, net, settings, |builder| builder)
    }

    /// And with further settings of its controller.
    pub fn controlled(
        hooks: Hooks,
        net: LoadBalancerTopology,
        settings: impl FnOnce(Builder) -> Builder + Send,
        control: impl FnOnce(ControllerBuilder) -> ControllerBuilder,
    ) -> Self {
        let uplinks: Vec<String> =
            net.balancer_interfaces().map(|interface| interface.name().to_owned()).collect();
        Self::begin(hooks, net, &uplinks, settings, control)
    }

    /// Of the tables, unless set.
    pub fn capacity() -> Capacity {
        Capacity { conntrack: 1 << 16, opening: 1 << 16, ..Capacity::small() }
    }

    /// With these uplinks only.
    pub fn at(
        hooks: Hooks,
        net: LoadBalancerTopology,
        uplinks: &[String],
        settings: impl FnOnce(Builder) -> Builder + Send,
    ) -> Self {
        Self::begin(hooks, net, uplinks, settings, |builder| builder)
    }

    fn begin(
        hooks: Hooks,
        net: LoadBalancerTopology,
        uplinks: &[String],
        settings: impl FnOnce(Builder) -> Builder + Send,
        control: impl FnOnce(ControllerBuilder) -> ControllerBuilder,
    ) -> Self {
        let ends = (hooks == Hooks::Xdp && net.switch.is_some()).then(|| XdpEnds::of(&net));
        if !hooks.xdp() {
            for interface in net.host_interfaces() {
                assert!(
                    interface.offload(Offload::TxChecksum).unwrap()
                        && interface.offload(Offload::Tso).unwrap()
                );
            }
        }
        let mut builder = EbpfDataplane::builder().unpinned().capacity(Self::capacity());
        for name in uplinks {
            let uplink = Uplink::named(name);
            builder = builder.uplink(match hooks {
                Hooks::Tcx => uplink.xdp(XdpMode::Off).tc(TcMode::Auto),
                Hooks::Clsact => uplink.xdp(XdpMode::Off).tc(TcMode::Clsact),
                Hooks::Xdp => uplink.xdp(XdpMode::Native).tc(TcMode::Auto),
                Hooks::XdpGeneric => uplink.xdp(XdpMode::Generic).tc(TcMode::Auto),
            });
        }
        let plane = net.balancer.run(|| settings(builder).open()).unwrap();
        for attachment in plane.attachments() {
            let can = (attachment.xdp_redirect, attachment.xdp_tx);
            let sends_back = ends.is_some() || hooks == Hooks::XdpGeneric;
            assert_eq!(can, (hooks.xdp_redirects(), sends_back), "{attachment}");
            let tc = match (hooks, kernel::is_at_least(6, 6)) {
                (Hooks::Clsact, _) => TcAttachment::Clsact,
                (_, true) => TcAttachment::Tcx,
                (_, false) => TcAttachment::ClsactForLackOfTcx,
            };
            assert_eq!(attachment.tc, tc, "{attachment}");
        }
        if hooks.xdp() {
            // The kernel switches it on with XDP; the balancer's own stack shall see what is on the wire.
            for interface in net.balancer_interfaces() {
                interface.set_offload(Offload::Gro, false).unwrap();
            }
        }
        if hooks == Hooks::XdpGeneric {
            know_neighbours(&net);
        }
        let control = control(Controller::builder(plane.tables())).build().unwrap();
        let running = control.spawn().unwrap();
        let agent = control.register("test", Precedence::new(10)).unwrap();
        agent.synced();
        let mut world = Self {
            control,
            agent,
            _running: running,
            plane,
            _ends: ends,
            hooks,
            masquerade: Masquerade::Never,
            affinity: Affinity::None,
            web: vec![],
            echo: vec![],
            net,
        };
        for backend in &world.net.backends {
            let (namespace, name) = (&backend.namespace, backend.name.as_str());
            let web = backend.addresses.with_port(backend_port(Protocol::Tcp));
            world.web.push(HttpServer::start(namespace, name, &web).unwrap());
            let echo = backend.addresses.with_port(backend_port(Protocol::Udp));
            world.echo.push(UdpEchoServer::start(namespace, name, &echo).unwrap());
        }
        world
    }

    /// Ends the agent and leaves its pinned dataplane attached; the network and the servers stay.
    pub fn leave_attached(self) -> (LoadBalancerTopology, impl Sized) {
        let Self { net, plane, control, agent, _running, web, echo, .. } = self;
        drop((_running, agent, control));
        plane.leave_attached().unwrap();
        (net, (web, echo))
    }

    /// The host of this number, as a backend.
    pub fn backend(&self, front: Front, number: usize) -> Backend {
        let address = self.net.backends[number].addresses.both()[usize::from(front.v6)];
        Backend::new(address, backend_port(front.protocol)).unwrap()
    }

    /// Balances a kind of traffic over these backends, and waits until it is.
    pub fn balance(&self, front: Front, backends: impl IntoIterator<Item = Backend>) {
        self.balance_at(&front.name(), front.virtual_address(), front.protocol, backends);
    }

    /// The same of a service of any name and address.
    pub fn balance_at(
        &self,
        name: &str,
        front: SocketAddr,
        protocol: Protocol,
        backends: impl IntoIterator<Item = Backend>,
    ) {
        let frontend = Frontend::new(front.ip(), front.port(), protocol).unwrap();
        let service = Service::builder(name).frontend(frontend).backends(backends);
        let service = service.masquerade(self.masquerade).affinity(self.affinity).build().unwrap();
        let revision = self.agent.transaction().upsert(service).commit().unwrap();
        self.control.wait_applied(revision, PATIENCE).unwrap();
    }

    /// Balances all traffic over all backends.
    pub fn balance_all(&self) {
        for front in Front::ALL {
            self.balance(front, (0..self.net.backends.len()).map(|number| self.backend(front, number)));
        }
    }

    /// Who answers the client, so many times.
    pub fn ask(&self, front: Front, times: usize) -> Vec<String> {
        self.net.client.run(|| {
            (0..times)
                .map(|number| {
                    front.ask().unwrap_or_else(|error| panic!("{} {number}: {error}", front.name()))
                })
                .collect()
        })
    }

    /// What the programs counted for a frontend.
    pub fn counters(&self, front: Front) -> ServiceCounters {
        let (tables, address) = (self.plane.tables(), front.virtual_address());
        let (port, protocol, scope) = (Be16::new(address.port()), front.protocol.number(), 0);
        let reference = match address {
            SocketAddr::V4(v4) => {
                let key = ServiceKeyV4 { address: (*v4.ip()).into(), port, protocol, scope };
                tables.services_v4().get(&key)
            }
            SocketAddr::V6(v6) => {
                let key = ServiceKeyV6 { address: (*v6.ip()).into(), port, protocol, scope };
                tables.services_v6().get(&key)
            }
        };
        tables.counters().service(reference.unwrap().unwrap().index()).unwrap()
    }

    /// How many packets had this verdict at this hook.
    pub fn count(&self, hook: Hook, verdict: Verdict) -> u64 {
        self.plane.tables().counters().verdict(hook, verdict).unwrap()
    }

    /// What the programs counted for all frontends of a family, TCP and UDP.
    pub fn family_counters(&self, v6: bool) -> ServiceCounters {
        let [a, b] = [Protocol::Tcp, Protocol::Udp].map(|protocol| self.counters(Front { protocol, v6 }));
        ServiceCounters {
            packets: a.packets + b.packets,
            bytes: a.bytes + b.bytes,
            reply_packets: a.reply_packets + b.reply_packets,
            reply_bytes: a.reply_bytes + b.reply_bytes,
            flows: a.flows + b.flows,
            drops: a.drops + b.drops,
        }
    }

    /// Waits until the programs' counters account for each packet that the client sent, and each that the backends sent
    /// back, since `before`: no more and no fewer. Nobody may be sending any more, but for the kernel.
    pub fn account(&self, before: &Sent) {
        let mut seen = String::new();
        let outcome = wait_for(Duration::from_secs(5), "counters that account for every packet", || {
            let (client, backends) = Sent::by(&self.net).since(before, self.hooks);
            let v4 = self.family_counters(false);
            let v6 = self.family_counters(true);
            let asked = [v4.packets + v4.drops, v6.packets + v6.drops];
            let answered = [v4.reply_packets, v6.reply_packets];
            seen = format!(
                "asked: counted {asked:?}, sent {client:?}; answered: counted {answered:?}, sent {backends:?}"
            );
            client.is(asked) && backends.is(answered)
        });
        outcome.unwrap_or_else(|error| panic!("{error}: {seen}"));
    }
}

/// Has the balancer know all its neighbours for good.
fn know_neighbours(net: &LoadBalancerTopology) {
    let backends =
        net.backends.iter().map(|backend| (&backend.balancer_side, &backend.interface, backend.addresses));
    let client = (&net.client_side, &net.client_interface, net.client_addresses);
    for (side, host, addresses) in backends.chain([client]) {
        for address in addresses.both() {
            side.add_permanent_neighbour(address, host.mac().unwrap()).unwrap();
        }
    }
}

/// How many packets of a kind hosts sent.
#[derive(Clone, Copy, Debug)]
pub enum Count {
    /// IPv4 and IPv6.
    Families([u64; 2]),
    /// Both together.
    All(u64),
}

impl Count {
    /// What a host sent, as a program at `hooks` sees it: at tc, the stack's packets, of up to 64 KiB; at XDP, segments,
    /// which the kernel does not count by family.
    pub fn of(host: &Statistics, hooks: Hooks) -> Self {
        if hooks.xdp() {
            let datagrams = host.udp.out_datagrams + host.udp6.out_datagrams;
            return Self::All(host.tcp_segments_sent() + datagrams);
        }
        Self::Families([false, true].map(|v6| packets(host, v6)))
    }

    fn combine(self, other: Self, operation: impl Fn(u64, u64) -> u64) -> Self {
        match (self, other) {
            (Self::Families(a), Self::Families(b)) => {
                Self::Families([operation(a[0], b[0]), operation(a[1], b[1])])
            }
            (Self::All(a), Self::All(b)) => Self::All(operation(a, b)),
            _ => panic!("{self:?} and {other:?}"),
        }
    }

    pub fn since(self, before: Self) -> Self {
        self.combine(before, |now, before| now - before)
    }

    /// Whether it is so many of each family.
    pub fn is(self, families: [u64; 2]) -> bool {
        match self {
            Self::Families(count) => count == families,
            Self::All(count) => count == families.iter().sum::<u64>(),
        }
    }
}

/// What the client and the backends have sent, by the kernel's own count.
#[derive(Clone, Debug)]
pub struct Sent {
    client: Statistics,
    backends: Vec<Statistics>,
}

impl Sent {
    pub fn by(net: &LoadBalancerTopology) -> Self {
        Self {
            client: net.client.statistics().unwrap(),
            backends: net.backends.iter().map(|backend| backend.namespace.statistics().unwrap()).collect(),
        }
    }

    /// Of the client, of all backends.
    fn since(&self, before: &Self, hooks: Hooks) -> (Count, Count) {
        let of =
            |now: &Statistics, before: &Statistics| Count::of(now, hooks).since(Count::of(before, hooks));
        let backends = self.backends.iter().zip(&before.backends).map(|(now, before)| of(now, before));
        let all = backends.reduce(|a, b| a.combine(b, |a, b| a + b)).unwrap();
        (of(&self.client, &before.client), all)
    }
}

/// How many IP packets of a family a host has sent, those of ICMP for IPv6 left out: neighbours are resolved by it.
pub fn packets(host: &Statistics, v6: bool) -> u64 {
    if v6 { host.ip6.out_requests - host.icmp6.out_messages } else { host.ip.out_requests }
}

/// Asserts that nothing on a host arrived with a wrong checksum.
pub fn assert_checksums(host: &Namespace) {
    let seen = host.statistics().unwrap();
    let wrong = [seen.tcp.in_checksum_errors, seen.udp.in_checksum_errors, seen.udp6.in_checksum_errors];
    assert_eq!(wrong, [0; 3], "{}: TCP, UDP over IPv4, UDP over IPv6", host.label());
}

/// An XDP program that passes everything, at the far end of every link: a veth with GRO takes what is redirected to it,
/// but loses what it is sent back (XDP_TX) without one.
struct XdpEnds {
    _program: aya::Ebpf,
}

impl XdpEnds {
    fn of(net: &LoadBalancerTopology) -> Self {
        let mut loader = aya::EbpfLoader::new();
        for large in [map::CONNTRACK_V4, map::CONNTRACK_V6, map::SERVICES_V4, map::SERVICES_V6, map::SLOTS] {
            loader.map_max_entries(large, 8);
        }
        // It knows no interface, and so takes no frame to be its own.
        let mut program = loader.load(testing::embedded_object()).unwrap();
        let xdp: &mut Xdp = program.program_mut("forebay_xdp").unwrap().try_into().unwrap();
        xdp.load().unwrap();
        let switch = net.switch.as_ref().unwrap();
        for interface in [&net.client_interface, &switch.interface("balancer").unwrap()] {
            let name = interface.name();
            interface.namespace().run(|| xdp.attach(name, XdpFlags::Driver)).unwrap();
        }
        Self { _program: program }
    }
}
