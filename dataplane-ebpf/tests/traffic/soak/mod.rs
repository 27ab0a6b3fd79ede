//! Services and backends change at random, 200 times a second, while 100 clients connect over and over.
//!
//! What is promised: no connection to a backend that stays with its service fails, or is answered by a backend that its
//! service did not have for it; and when all is removed and over, tables, indexes and slots are as they were at the beginning.
//! `cargo xtask soak` runs it for minutes, and replays a seed.

mod changes;
mod history;
mod tables;

use std::{
    collections::BTreeMap,
    env,
    net::SocketAddr,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use dataplane_core::{
    Controller, Revision,
    control::ControllerBuilder,
    model::{Protocol, ServiceName},
    pipeline::{DropReason, Hook, Timeouts, Verdict},
    state::RemovalGuard,
};
use dataplane_testkit::{Raise, frames::Rng, require_kernel};
use parking_lot::Mutex;

use self::{
    changes::{Changes, HOSTS, SERVICES, Wanted},
    history::{Failure, History, Judgement, Record},
    tables::Fill,
};
use crate::{
    peers::{DatagramClient, LineClient, LineServer, SEED_VARIABLE, seed},
    world::{Hooks, World, backend_port},
};

/// How long it goes on, in seconds.
const SECONDS_VARIABLE: &str = "FOREBAY_SOAK_SECONDS";
const SECONDS: u64 = 8;

const CLIENTS: usize = 100;
/// From one change to the next.
const CHANGE: Duration = Duration::from_millis(5);
/// More than any step of a connection takes that is served.
const LIMIT: Duration = Duration::from_secs(5);

/// Ports of each client's own: by its port a client is told.
const PORTS_A_CLIENT: u16 = 600;
const FIRST_PORT: u16 = 2000;
/// A port is used again when its last flow is over for the dataplane too.
const PORT_RESTS: Duration = Duration::from_secs(8);

fn timeouts() -> Timeouts {
    let short = Timeouts::SHORTEST;
    Timeouts { tcp_opening: 4_000, tcp_established: 6_000, tcp_closing: short, udp: short, udp_stream: short }
}

#[test]
fn tcx_serves_while_everything_changes() {
    require_kernel!();
    soak(Hooks::Tcx);
}

#[test]
fn xdp_serves_while_everything_changes() {
    require_kernel!();
    soak(Hooks::Xdp);
}

fn soak(hooks: Hooks) {
    // Hundreds of threads each: one after the other.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock();
    let seconds = env::var(SECONDS_VARIABLE).map_or(SECONDS, |seconds| seconds.parse().unwrap());
    let seed = seed();
    eprintln!("{hooks:?}: seed {seed}, {seconds} s; {SEED_VARIABLE}={seed} makes the same changes again");

    let (world, _lines) = world(hooks);
    let before = Fill::of(&world);
    tables::take_all_there_is(&world);
    before.comes_back(&world);
    let mut changes = Changes::new(seed);
    let histories = Mutex::new(vec![History::default(); SERVICES]);
    commit(&world, &histories, changes.services()).unwrap_or_else(|error| panic!("{error}"));

    let (stop, records) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let start = Instant::now();
    let mut count = 0;
    let (revisions, applied) = mpsc::channel();
    thread::scope(|scope| {
        let _stop = Raise(&stop);
        for client in 0..CLIENTS {
            let (world, stop, records) = (&world, &stop, &records);
            scope.spawn(move || {
                let mine = world.net.client.run(|| connect_over_and_over(world, client, seed, stop));
                records.lock().extend(mine);
            });
        }
        scope.spawn(|| note_applied(&world.control, &histories, applied));
        while start.elapsed() < Duration::from_secs(seconds) {
            let changed = changes.next();
            revisions.send(begin(&world, &histories, &changed)).unwrap();
            count += 1;
            let due = start + CHANGE * count;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        drop(revisions);
    });
    let took = start.elapsed();
    let records = records.into_inner();
    let tally = Tally::of(&histories.into_inner(), &records);
    eprintln!(
        "{hooks:?}: {count} changes, digest {:016x}; {} connections in {took:.1?}: {tally}; drops: {:?}",
        changes.digest(),
        records.len(),
        drops(&world)
    );
    assert_eq!(tally.wrong, [""; 0]);
    // Each client connects some times a second, also on a machine that is busy, and most of them are nobody's to cut.
    assert!(records.len() as u64 > 5 * CLIENTS as u64 * seconds / 2, "{} connections", records.len());
    // Enough for what is lost now and then to be seen; the slower this machine, the longer each change is under way.
    assert!(tally.unexcused * 8 > records.len(), "{tally}");
    assert!(u64::from(count) > 150 * seconds, "{count} changes");

    tables::hold_what_is_wanted(&world, changes.services());
    tables::clients_are_remembered(&world);
    tables::remove_all(&world);
    before.comes_back(&world);
    tables::take_all_there_is(&world);
    before.comes_back(&world);
}

fn world(hooks: Hooks) -> (World, Vec<LineServer>) {
    let settings = |builder: dataplane_ebpf::Builder| builder.capacity(tables::CAPACITY).timeouts(timeouts());
    let control = |builder: ControllerBuilder| {
        builder.removal_guard(RemovalGuard::off()).collect_interval(Duration::from_secs(1))
    };
    let mut world = World::controlled(hooks, World::topology(hooks, HOSTS), settings, control);
    // Servers that say what they were asked, too, in the place of those for pages.
    world.web.clear();
    let hosts = world.net.backends.iter().map(|host| &host.namespace);
    // Ports are used again while the other side would remember them still.
    for host in hosts.chain([&world.net.client]) {
        host.sysctl("net/ipv4/tcp_max_tw_buckets", "0").unwrap();
    }
    let lines = world.net.backends.iter().map(|host| {
        let addresses = host.addresses.with_port(backend_port(Protocol::Tcp));
        LineServer::start(&host.namespace, &host.name, &addresses)
    });
    let lines = lines.collect();
    (world, lines)
}

/// Commits what changed, and notes when; what is to be waited for.
fn begin(world: &World, histories: &Mutex<Vec<History>>, changed: &[Wanted]) -> (Revision, Vec<[usize; 2]>) {
    let hosts: Vec<_> = world.net.backends.iter().map(|host| host.addresses).collect();
    let mut transaction = world.agent.transaction();
    for wanted in changed {
        transaction = match wanted.service(&hosts) {
            Some(service) => transaction.upsert(service),
            None => transaction.remove(&ServiceName::new(&Wanted::name(wanted.number())).unwrap()),
        };
    }
    let now = Instant::now();
    let mut histories = histories.lock();
    let note = |wanted: &Wanted| {
        let number = wanted.number();
        [number, histories[number].commit(now, wanted.picture())]
    };
    let notes = changed.iter().map(note).collect();
    (transaction.commit().unwrap(), notes)
}

/// The same, and waits until it is applied.
fn commit(world: &World, histories: &Mutex<Vec<History>>, changed: &[Wanted]) -> Result<(), String> {
    let (revision, _) = begin(world, histories, changed);
    world.control.wait_applied(revision, LIMIT).map_err(|error| error.to_string())
}

fn note_applied(
    control: &Controller,
    histories: &Mutex<Vec<History>>,
    applied: mpsc::Receiver<(Revision, Vec<[usize; 2]>)>,
) {
    for (revision, notes) in applied {
        control.wait_applied(revision, LIMIT).unwrap();
        let (now, mut histories) = (Instant::now(), histories.lock());
        for [service, number] in notes {
            histories[service].applied(number, now);
        }
    }
}

/// One client: connections one after the other, each from another port, to the port's own service.
fn connect_over_and_over(world: &World, client: usize, seed: u64, stop: &AtomicBool) -> Vec<Record> {
    let mut rng = Rng::new(seed ^ (client as u64 + 1) << 32);
    let mut records = Vec::new();
    let first = FIRST_PORT + client as u16 * PORTS_A_CLIENT;
    let mut used: Vec<Option<Instant>> = vec![None; usize::from(PORTS_A_CLIENT)];
    for turn in 0.. {
        let place = turn % used.len();
        while used[place].is_some_and(|used| used.elapsed() < PORT_RESTS) && !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let port = first + place as u16;
        // Always the same one: towards a backend that two services share, a port is one flow's where the client is seen.
        let service = usize::from(port).wrapping_mul(0x9e37_79b1) % SERVICES;
        let (front, to) = (Wanted::front(service), Wanted::address(service));
        let from = SocketAddr::new(world.net.client_addresses.both()[usize::from(front.v6)], port);
        let id = format!("{client}-{turn}");
        let begin = Instant::now();
        let mut steps = Steps { begin, answers: Vec::new() };
        let datagrams = front.protocol == Protocol::Udp;
        let pause = Duration::from_millis(rng.below(20) as u64);
        let converse = if datagrams {
            ask_datagrams(from, to, &id, pause, &mut steps)
        } else {
            ask_lines(from, to, &id, pause, &mut steps)
        };
        let failure = converse.err().map(|error| Failure { begin: steps.begin, error });
        let answers = steps.answers.iter().map(|name| name.strip_prefix("backend").unwrap().parse().unwrap());
        let answers = answers.collect();
        records.push(Record { service, begin, end: Instant::now(), answers, failure, datagrams });
        used[place] = Some(Instant::now());
    }
    records
}

/// How far a connection has come.
struct Steps {
    /// When the step began that it is at.
    begin: Instant,
    answers: Vec<String>,
}

impl Steps {
    /// One step; where it fails, the connection stays at it.
    fn step<T>(&mut self, step: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
        self.begin = Instant::now();
        step()
    }

    /// A step that somebody is to answer.
    fn ask(&mut self, ask: impl FnOnce() -> std::io::Result<String>) -> std::io::Result<()> {
        let answer = self.step(ask)?;
        self.answers.push(answer);
        Ok(())
    }
}

fn ask_lines(
    from: SocketAddr,
    to: SocketAddr,
    id: &str,
    pause: Duration,
    steps: &mut Steps,
) -> std::io::Result<()> {
    let mut client = steps.step(|| LineClient::connect(from, to, LIMIT))?;
    steps.ask(|| client.ask(&format!("{id}-first")))?;
    thread::sleep(pause);
    steps.ask(|| client.ask(&format!("{id}-second")))?;
    steps.step(|| client.end())
}

fn ask_datagrams(
    from: SocketAddr,
    to: SocketAddr,
    id: &str,
    pause: Duration,
    steps: &mut Steps,
) -> std::io::Result<()> {
    // One that is lost is lost: nobody sends it again.
    let client = DatagramClient::connect(from, to, Duration::from_secs(2))?;
    steps.ask(|| client.ask(&format!("{id}-first")))?;
    thread::sleep(pause);
    steps.ask(|| client.ask(&format!("{id}-second")))
}

/// What became of all connections.
#[derive(Debug, Default)]
struct Tally {
    served: usize,
    cut: usize,
    /// How many of those failed.
    failed: usize,
    /// Which nothing would have excused if their first packet had been lost.
    unexcused: usize,
    wrong: Vec<String>,
}

impl Tally {
    fn of(histories: &[History], records: &[Record]) -> Self {
        let mut tally = Self::default();
        for record in records {
            let history = &histories[record.service];
            tally.unexcused += usize::from(history.would_notice(record));
            match history.judge(record) {
                Judgement::Served => tally.served += 1,
                Judgement::Cut => {
                    tally.cut += 1;
                    tally.failed += usize::from(record.failure.is_some());
                }
                Judgement::Failed(how) | Judgement::Misdirected(how) => {
                    let name = Wanted::name(record.service);
                    let error = record.failure.as_ref().map(|failure| failure.error.to_string());
                    tally.wrong.push(format!(
                        "{name} {how}, {:?}, {error:?}: {record:?}, {}",
                        record.end - record.begin,
                        history.explain(record)
                    ));
                }
            }
        }
        tally
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { served, cut, failed, unexcused, wrong } = self;
        let wrong = wrong.len();
        write!(f, "{served} served, {cut} cut with their backend, of which {failed} failed; {wrong} wrong ")?;
        write!(f, "({unexcused} would have had no excuse)")
    }
}

/// Drops by their reason, of all hooks.
fn drops(world: &World) -> BTreeMap<&'static str, u64> {
    let count = |reason: DropReason| {
        let at = |hook| world.count(hook, Verdict::Drop(reason));
        (reason.name(), Hook::ALL.into_iter().map(at).sum())
    };
    let all = Verdict::all().filter_map(|verdict| match verdict {
        Verdict::Drop(reason) => Some(reason),
        _ => None,
    });
    all.map(count).filter(|(_, count)| *count > 0).collect()
}
