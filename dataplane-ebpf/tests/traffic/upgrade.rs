//! What connections feel of an agent that is stopped, killed and replaced: nothing.
//!
//! The agent is this test program, started again in the balancer's network namespace. Each time it loads other programs:
//! the committed ones but for a constant of the hash by which Maglev places are found, which no service here uses.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{self, BufRead as _, Write as _},
    ops::ControlFlow,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use dataplane_core::{
    Controller, SourceHandle,
    model::{Backend, Frontend, Protocol, Service, Weight},
    source::Precedence,
    state::RemovalGuard,
    tables::Capacity,
};
use dataplane_ebpf::{EbpfDataplane, OBJECT_VARIABLE, PinDir, TcMode, Uplink, XdpMode, testing};
use dataplane_testkit::{
    Raise, child,
    net::{AddressPlan, HttpServer, KERNEL_TEST_LOG, LoadBalancerTopology, UdpEchoServer, http, wait_for},
    pins::PinFolder,
    require_kernel,
};

use parking_lot::Mutex;

use crate::world::{Front, Hooks, PATIENCE, World, backend_port};

/// Connections that live from the beginning to the end.
const LIVE: usize = 200;
/// From the end of one short one to the next, of each kind: some hundreds a second, which leaves something of the machine.
const PAUSE: Duration = Duration::from_millis(2);
/// None of those that live hears nothing for so long, also where the verifier has the CPUs.
const SILENCE: Duration = Duration::from_secs(60);
const ROUNDS: usize = 20;
/// Fewer rounds, where a kernel is emulated.
const ROUNDS_VARIABLE: &str = "FOREBAY_TEST_UPGRADES";

/// An agent has the verifier go through all programs: seconds here, and minutes where all clients share two emulated CPUs
/// with it.
const START: Duration = Duration::from_secs(300);

/// Set in the agent: which hooks it uses.
const HOOKS: &str = "FOREBAY_TEST_AGENT_HOOKS";
const UPLINKS: &str = "FOREBAY_TEST_AGENT_UPLINKS";
const PINS: &str = "FOREBAY_TEST_AGENT_PINS";
const BACKENDS: &str = "FOREBAY_TEST_AGENT_BACKENDS";

/// How an agent ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// It is told to, and leaves all attached.
    Stopped,
    /// Killed while it rests.
    Killed,
    /// Killed while it writes to the tables.
    KilledAtWork,
}

#[test]
fn tcx_connections_live_through_upgrades() {
    require_kernel!();
    check("upgrade::tcx_connections_live_through_upgrades", Hooks::Tcx);
}

#[test]
fn clsact_connections_live_through_upgrades() {
    require_kernel!();
    check("upgrade::clsact_connections_live_through_upgrades", Hooks::Clsact);
}

#[test]
fn xdp_connections_live_through_upgrades() {
    require_kernel!();
    check("upgrade::xdp_connections_live_through_upgrades", Hooks::Xdp);
}

fn check(test: &str, hooks: Hooks) {
    if env::var_os(HOOKS).is_some() {
        return agent();
    }
    // Some hundreds of threads each: one after the other.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock();
    let net = World::topology(hooks, 3);
    let folder = PinFolder::new(&format!("upgrade-{hooks:?}"));
    let (mut web, mut echo) = (Vec::new(), Vec::new());
    for backend in &net.backends {
        let (namespace, name) = (&backend.namespace, backend.name.as_str());
        let address = |protocol| backend.addresses.with_port(backend_port(protocol));
        web.push(HttpServer::start(namespace, name, &address(Protocol::Tcp)).unwrap());
        echo.push(UdpEchoServer::start(namespace, name, &address(Protocol::Udp)).unwrap());
    }
    let rounds = env::var(ROUNDS_VARIABLE).map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let objects = Objects::new();
    let start = |round| Agent::start(test, hooks, &net, &folder, objects.path(round));
    let mut running = start(0);
    let before = running.program();

    let (stop, failures) = (AtomicBool::new(false), Mutex::new(Vec::<String>::new()));
    let fail = |what: String| failures.lock().push(what);
    let received: Vec<AtomicU64> = (0..LIVE).map(|_| AtomicU64::new(0)).collect();
    let new = AtomicU64::new(0);
    let mut tags = BTreeSet::from([before]);
    thread::scope(|scope| {
        let _stop = Raise(&stop);
        for (number, received) in received.iter().enumerate() {
            let (net, stop, fail) = (&net, &stop, &fail);
            scope.spawn(move || net.client.run(|| live(number, received, stop, fail)));
        }
        for front in Front::ALL {
            let (net, stop, new, fail) = (&net, &stop, &new, &fail);
            scope.spawn(move || {
                net.client.run(|| {
                    while !stop.load(Ordering::Relaxed) {
                        match front.ask() {
                            Ok(_) => _ = new.fetch_add(1, Ordering::Relaxed),
                            Err(error) => fail(format!("a new one, {}: {error}", front.name())),
                        }
                        thread::sleep(PAUSE);
                    }
                });
            });
        }
        // Each connection that lives gets something, and new ones come.
        let all_go_on = |when: &str| {
            let bytes: Vec<u64> = received.iter().map(|one| one.load(Ordering::Relaxed)).collect();
            let target = new.load(Ordering::Relaxed) + 20;
            let outcome = wait_for(PATIENCE, when, || {
                let more = received.iter().zip(&bytes).all(|(now, then)| now.load(Ordering::Relaxed) > *then);
                more && new.load(Ordering::Relaxed) >= target || !failures.lock().is_empty()
            });
            let failures = failures.lock();
            assert!(outcome.is_ok() && failures.is_empty(), "{when}: {outcome:?}, {failures:?}");
        };
        all_go_on("at the beginning");
        for round in 1..=rounds {
            let end = [End::Stopped, End::Killed, End::KilledAtWork][round % 3];
            running.end(end);
            all_go_on(&format!("round {round}, {end:?}: nobody runs"));
            running = start(round);
            tags.insert(running.program());
            all_go_on(&format!("round {round}: the next one runs"));
        }
    });
    assert_eq!(*failures.lock(), [""; 0]);
    assert_eq!(tags.len(), 1 + rounds, "each time other programs");
    running.tell("detach");
    running.ends_well();
    assert_eq!(folder.names("."), [""; 0]);
    eprintln!("{hooks:?}: {LIVE} lived, {} came", new.load(Ordering::Relaxed));
}

/// Downloads a byte each tenth of a second until it is stopped; each is looked at.
fn live(number: usize, received: &AtomicU64, stop: &AtomicBool, fail: impl Fn(String)) {
    let address = Front::TCP[number % 2].virtual_address();
    let progress = |bytes| {
        received.store(bytes, Ordering::Relaxed);
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    if let Err(error) = http::download_while(address, 10, SILENCE, progress) {
        fail(format!("connection {number}: {error}"));
    }
}

/// Objects that differ from the committed one, and from each other, in one constant.
struct Objects {
    folder: std::path::PathBuf,
}

impl Objects {
    fn new() -> Self {
        // Processes of one test program run one test each that has such objects; its threads may run several.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("forebay-upgrade-{}-{number}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let named = env::var_os(OBJECT_VARIABLE).filter(|path| !path.is_empty());
        let bytes = named.map_or_else(|| testing::embedded_object().to_vec(), |path| fs::read(path).unwrap());
        // How the constant is loaded: two halves, the lower first, each at the end of an instruction.
        const LOAD: [u8; 12] = [0xeb, 0x11, 0x31, 0x13, 0, 0, 0, 0, 0xbb, 0x49, 0xd0, 0x94];
        let places: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(&LOAD)).collect();
        assert!(!places.is_empty(), "the programs do not load the constant any more: choose another one");
        for round in 0..=ROUNDS {
            let mut changed = bytes.clone();
            for &place in &places {
                changed[place + 1] ^= round as u8;
            }
            fs::write(folder.join(round.to_string()), changed).unwrap();
        }
        Self { folder }
    }

    fn path(&self, round: usize) -> std::path::PathBuf {
        self.folder.join(round.to_string())
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        let removed = fs::remove_dir_all(&self.folder);
        // A second panic would hide the first one.
        if !thread::panicking() {
            removed.unwrap();
        }
    }
}

/// An agent that runs. Dropping this kills it.
struct Agent {
    child: Child,
    input: ChildStdin,
    lines: child::Lines,
    ready: String,
}

impl Agent {
    fn start(
        test: &str,
        hooks: Hooks,
        net: &LoadBalancerTopology,
        folder: &PinFolder,
        object: std::path::PathBuf,
    ) -> Self {
        let uplinks: Vec<String> =
            net.balancer_interfaces().map(|interface| interface.name().to_owned()).collect();
        let backends: Vec<String> = net
            .backends
            .iter()
            .flat_map(|backend| backend.addresses.both().map(|address| address.to_string()))
            .collect();
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["--exact", "--nocapture", test])
            .env(HOOKS, format!("{hooks:?}"))
            .env(UPLINKS, uplinks.join(" "))
            .env(PINS, folder.edge())
            .env(BACKENDS, backends.join(" "))
            .env(OBJECT_VARIABLE, object)
            // It is no test of its own.
            .env_remove(KERNEL_TEST_LOG)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = net.balancer.run(|| command.spawn().unwrap());
        let lines = child::Lines::of(child.stdout.take().unwrap());
        let ready = lines.until("agent: ready", START).unwrap_or_else(|lines| panic!("{lines:?}"));
        Self { input: child.stdin.take().unwrap(), child, lines, ready: ready.last().unwrap().clone() }
    }

    /// The tag of its program at tc: a hash of the instructions.
    fn program(&self) -> String {
        let (_, tag) = self.ready.rsplit_once(' ').unwrap();
        tag.to_owned()
    }

    fn tell(&mut self, what: &str) {
        writeln!(self.input, "{what}").unwrap();
    }

    fn ends_well(&mut self) {
        let status = child::wait(&mut self.child, child::LIMIT, "an agent").unwrap();
        assert!(status.success(), "{status}: {:?}", self.lines.rest(Duration::from_secs(1)));
    }

    fn end(&mut self, end: End) {
        match end {
            End::Stopped => {
                self.tell("leave");
                self.ends_well();
            }
            End::Killed => {
                self.child.kill().unwrap();
                child::wait(&mut self.child, child::LIMIT, "a killed agent").unwrap();
            }
            End::KilledAtWork => {
                self.tell("work");
                // Some changes are through, and it goes on with others.
                self.lines.until("agent: works", child::LIMIT).unwrap();
                self.end(End::Killed);
            }
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended.
        self.child.kill().ok();
        let ended = child::wait(&mut self.child, child::LIMIT, "an agent");
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}

/// What the agent does.
fn agent() {
    let list =
        |variable| -> Vec<String> { env::var(variable).unwrap().split(' ').map(str::to_owned).collect() };
    let hooks = env::var(HOOKS).unwrap();
    // Room for all flows that can come from one client's ports: none is to be lost to the end of another one.
    let capacity = Capacity {
        frontends: 1024,
        slots: 1 << 14,
        backends: 1024,
        conntrack: 1 << 18,
        opening: 1 << 18,
        nat: 1 << 17,
        affinity: 1 << 17,
        fragments: 8,
    };
    let pins = PinDir::new(env::var(PINS).unwrap()).unwrap();
    let mut builder = EbpfDataplane::builder().pins(pins).capacity(capacity);
    for name in list(UPLINKS) {
        let tc = if hooks == "Clsact" { TcMode::Clsact } else { TcMode::Auto };
        let xdp = if hooks == "Xdp" { XdpMode::Native } else { XdpMode::Off };
        builder = builder.uplink(Uplink::named(name).tc(tc).xdp(xdp));
    }
    let plane = builder.open().unwrap();
    let control = Controller::builder(plane.tables()).removal_guard(RemovalGuard::off()).build().unwrap();
    let running = control.spawn().unwrap();
    let source = Arc::new(control.register("agent", Precedence::default()).unwrap());
    let addresses: Vec<std::net::IpAddr> =
        list(BACKENDS).iter().map(|address| address.parse().unwrap()).collect();
    let revision = source.replace(services(&addresses, [1, 1, 1])).unwrap();
    source.synced();
    control.wait_applied(revision, PATIENCE).unwrap();
    let id = plane.programs().unwrap().iter().find(|one| one.name == "forebay_ingress").unwrap().id;
    say(&format!("agent: ready {}", tag(id)));
    for line in io::stdin().lock().lines() {
        match line.unwrap().as_str() {
            "leave" => {
                drop((running, source, control));
                plane.leave_attached().unwrap();
                return;
            }
            "detach" => {
                drop((running, source, control));
                plane.detach().unwrap();
                return;
            }
            _ => {
                let (control, source, addresses) = (control.clone(), source.clone(), addresses.clone());
                thread::spawn(move || work(&control, &source, &addresses));
            }
        }
    }
}

/// The tag of a program that this process has open.
fn tag(id: u32) -> String {
    let descriptors = fs::read_dir("/proc/self/fdinfo").unwrap();
    let infos = descriptors.filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok());
    let value = |info: &str, name: &str| -> Option<String> {
        Some(info.lines().find_map(|line| line.strip_prefix(name))?.trim().to_owned())
    };
    let mut ours = infos.filter(|info| value(info, "prog_id:") == Some(id.to_string()));
    ours.find_map(|info| value(&info, "prog_tag:")).unwrap()
}

fn say(what: &str) {
    let mut output = io::stdout();
    writeln!(output, "{what}").unwrap();
    output.flush().unwrap();
}

/// Every kind of traffic over all backends, with these weights.
fn services(addresses: &[std::net::IpAddr], weights: [u32; 3]) -> Vec<Service> {
    let service = |front: Front| {
        let own = addresses.iter().filter(|address| address.is_ipv6() == front.v6);
        let backends = own.zip(weights).map(|(address, weight)| {
            let backend = Backend::new(*address, backend_port(front.protocol)).unwrap();
            backend.with_weight(Weight::new(weight).unwrap())
        });
        Service::builder(&front.name()).frontend(front.frontend()).backends(backends).build().unwrap()
    };
    Front::ALL.map(service).into()
}

/// Changes without end: weights of what serves, and services that come and go beside it.
fn work(control: &Controller, source: &SourceHandle, addresses: &[std::net::IpAddr]) {
    for round in 1u32.. {
        let weights = [1 + round % 3, 1 + round % 2, 1];
        let mut picture = services(addresses, weights);
        for other in 0..round % 7 {
            let address = AddressPlan::vip(1 + other as u8).v4.into();
            let frontend = Frontend::new(address, 1000 + round as u16 % 3, Protocol::Tcp).unwrap();
            let backend = Backend::new([198, 18, 0, 1 + (round % 250) as u8].into(), 80).unwrap();
            let name = format!("other-{other}");
            picture.push(Service::builder(&name).frontend(frontend).backend(backend).build().unwrap());
        }
        let revision = source.replace(picture).unwrap();
        if let Err(error) = control.wait_applied(revision, PATIENCE) {
            eprintln!("agent: {error}");
            std::process::abort();
        }
        if round == 20 {
            say("agent: works");
        }
    }
}
