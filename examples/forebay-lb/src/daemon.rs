//! The daemon at work: from opening the dataplane to taking it off again.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use control_static::{StaticSource, StaticStatus};
use dataplane_core::{
    Controller,
    control::{RunningSource, WaitError},
    event::EventOptions,
    pipeline::AddressSettings,
    source::Precedence,
};
use dataplane_ebpf::{EbpfDataplane, PinDir};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1},
    iterator::Signals,
};

use crate::{
    config::Config,
    failure::{Failure, explain},
    flow_log::FlowLog,
    http,
    notify::Supervisor,
    status::{Board, Parts, Pins},
    watch::Watch,
};

/// How often uplinks are looked at.
const TICK: Duration = Duration::from_secs(1);

/// So long may the services take to be read and put in place that were just found to be good.
const START: Duration = Duration::from_secs(60);

/// So often it is asked whether it is to end, while it begins.
const GLANCE: Duration = Duration::from_millis(100);

/// Runs until it is told to end; then nothing of it is left in the kernel, or with `keep` all of it. With `log_flows` it writes
/// what happens to flows.
///
/// # Errors
/// Why it could not begin. Then nothing is left but what was there before.
pub fn run(config: &Config, keep: bool, log_flows: bool) -> Result<(), Failure> {
    let supervisor = Supervisor::from_environment();
    let signals = signals()?;
    // Before anything is attached: a second daemon with the same file ends here.
    let board = Arc::new(Board::new(config.services.clone()));
    serve_status(config, &board)?;

    let plane = open(config, log_flows)?;
    let flow_log = match plane.events().map(FlowLog::start).transpose() {
        Ok(flow_log) => flow_log,
        Err(failure) => {
            give_up(plane)?;
            return Err(failure);
        }
    };
    let outcome = match serve(config, &plane, &board, &signals, &supervisor) {
        Ok(()) => end(plane, keep),
        // It served until now: packets are balanced on while it is started again.
        Err(failure @ Failure::Broken { .. }) => end(plane, keep).and(Err(failure)),
        Err(failure) => give_up(plane).and(Err(failure)),
    };
    // What happened to the end is told.
    if let Some(flow_log) = flow_log {
        flow_log.end();
    }
    outcome
}

/// Keeps the tables to the files until it is told to end.
fn serve(
    config: &Config,
    plane: &EbpfDataplane,
    board: &Board,
    signals: &Receiver<i32>,
    supervisor: &Supervisor,
) -> Result<(), Failure> {
    let control = Controller::builder(plane.tables()).maglev_seed(config.maglev_seed).build()?;
    let applier = control
        .spawn()
        .map_err(|source| Failure::System { operation: "start the controller's thread", source })?;
    let source = StaticSource::new(&config.services);
    let status = source.status();
    let following = control.run_source(Box::new(source), Precedence::new(0))?;
    let pins = plane.pins().map(|path| Pins { path: path.to_owned(), adopted: plane.is_adopted() });
    board.open(Parts {
        control: control.clone(),
        tables: plane.tables(),
        pins,
        source: status.clone(),
        events: plane.events(),
    });
    // Dropped before the applier: the source first, then the thread that applies what it said.
    let Some(Begun { following, confirms }) = begin(config, &control, &status, following, signals)? else {
        tracing::info!("told to end before it served");
        return Ok(());
    };

    let mut watch = Watch::new(control, status.clone());
    watch.look(plane, board);
    plane.attachments().iter().for_each(|attachment| tracing::info!("attached: {attachment}"));
    tracing::info!("status at http://{}/status", config.status);
    supervisor.tell(&format!("READY=1\nSTATUS={} services", status.now().services));
    if confirms {
        watch.confirm();
    }
    loop {
        match signals.recv_timeout(TICK) {
            Err(RecvTimeoutError::Timeout) => {
                watch.look(plane, board);
                if applier.is_finished() {
                    return Err(Failure::Broken { thread: "that keeps the tables" });
                }
                if following.is_finished() {
                    return Err(Failure::Broken { thread: "that follows the files" });
                }
            }
            Ok(SIGUSR1) => watch.confirm(),
            Ok(SIGHUP) => {
                tracing::info!("SIGHUP: files of services are followed as they change; nothing to do");
            }
            // The thread of signals lives as long as the process.
            Ok(_) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    supervisor.tell("STOPPING=1");
    Ok(())
}

fn end(plane: EbpfDataplane, keep: bool) -> Result<(), Failure> {
    if !keep {
        plane.detach()?;
        tracing::info!("taken off: nothing of this daemon is left in the kernel");
        return Ok(());
    }
    // What stands is left, and what does not is told: there is nobody to mend it.
    match plane.leave_attached() {
        Ok(()) => tracing::info!("left attached: packets are balanced on as the files said last"),
        Err(error) => tracing::warn!("left attached as far as it stands: {}", explain(&error)),
    }
    Ok(())
}

/// Takes off what this run attached. What it found stays, with its services.
fn give_up(plane: EbpfDataplane) -> Result<(), Failure> {
    if plane.is_adopted() {
        drop(plane);
        return Ok(());
    }
    Ok(plane.detach()?)
}

/// Takes off what an earlier run left attached.
///
/// # Errors
/// Why it is still there, or some of it.
pub fn remove(config: &Config) -> Result<(), Failure> {
    let directory = config.pins.as_deref().ok_or(Failure::NoPins { option: "--remove" })?;
    PinDir::new(directory)?.remove(None)?;
    tracing::info!("taken off: nothing is left of what was pinned in {}", directory.display());
    Ok(())
}

/// Signals from now on, in their order.
fn signals() -> Result<Receiver<i32>, Failure> {
    let failed = |source| Failure::System { operation: "catch signals", source };
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]).map_err(failed)?;
    let (tell, told) = mpsc::channel();
    let forward = move || {
        for signal in signals.forever() {
            if tell.send(signal).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(forward).map_err(failed)?;
    Ok(told)
}

fn serve_status(config: &Config, board: &Arc<Board>) -> Result<(), Failure> {
    let failed = |source| Failure::Status { address: config.status, source };
    let listener = TcpListener::bind(config.status).map_err(failed)?;
    let board = Arc::clone(board);
    http::serve(listener, move |path| board.answer(path)).map_err(failed)
}

fn open(config: &Config, log_flows: bool) -> Result<EbpfDataplane, Failure> {
    let builder = EbpfDataplane::builder().unpinned().capacity(config.capacity).timeouts(config.timeouts);
    let builder = builder.nat_ports(config.nat_ports).answers_a_second(config.answers_a_second);
    let AddressSettings { answer_ping, drop_unserved_ports } = config.addresses;
    let builder = builder.answer_ping(answer_ping).drop_unserved_ports(drop_unserved_ports);
    let builder = if log_flows { builder.events(EventOptions::default()) } else { builder };
    let builder = match &config.pins {
        Some(directory) => builder.pins(PinDir::new(directory)?),
        None => builder,
    };
    let plane =
        config.uplinks.iter().cloned().fold(builder, |builder, uplink| builder.uplink(uplink)).open()?;
    // At tcx the kernel takes both, and each would go by tables of its own.
    for attachment in plane.attachments() {
        if let Some(other) = attachment.others.first() {
            let (interface, hook, program_id) = (attachment.interface.clone(), other.hook, other.program_id);
            give_up(plane)?;
            return Err(Failure::Occupied { interface, hook, program_id });
        }
    }
    Ok(plane)
}

/// The services stand in the tables.
struct Begun {
    following: RunningSource,
    /// What is held back was confirmed meanwhile.
    confirms: bool,
}

/// Waits until the services stand in the tables, or it is known why not. Nothing where it is told to end meanwhile.
fn begin(
    config: &Config,
    control: &Controller,
    status: &StaticStatus,
    following: RunningSource,
    signals: &Receiver<i32>,
) -> Result<Option<Begun>, Failure> {
    let deadline = Instant::now() + START;
    let mut confirms = false;
    // Files that were good a moment ago may be bad by now: then it waits until they are good again.
    loop {
        match signals.try_recv() {
            Ok(SIGTERM | SIGINT) => return Ok(None),
            Ok(SIGUSR1) => confirms = true,
            _ => {}
        }
        let standing =
            status.wait_for(GLANCE, |standing| standing.revision.is_some()).unwrap_or_else(|| status.now());
        let outcome = standing.revision.map(|revision| control.wait_applied(revision, GLANCE));
        match outcome {
            // What is refused or in conflict is told, and does not keep the others from serving.
            Some(Ok(()) | Err(WaitError::Incomplete { .. })) => {
                return Ok(Some(Begun { following, confirms }));
            }
            None | Some(Err(_)) if Instant::now() < deadline && !following.is_finished() => {}
            Some(Err(error)) => {
                tracing::warn!("{error}");
                return Ok(Some(Begun { following, confirms }));
            }
            None => {
                let wrong = standing.rejected.map(|rejected| rejected.to_string().into());
                let error = following.stop().err().or(wrong).unwrap_or_else(|| "they were not read".into());
                return Err(Failure::Source { path: config.services.clone(), error });
            }
        }
    }
}
