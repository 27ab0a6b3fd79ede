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
    source::Precedence,
};
use dataplane_ebpf::EbpfDataplane;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1},
    iterator::Signals,
};

use crate::{
    config::Config,
    failure::Failure,
    http,
    notify::Supervisor,
    status::{Board, Parts},
    watch::Watch,
};

/// How often uplinks are looked at.
const TICK: Duration = Duration::from_secs(1);

/// So long may the services take to be read and put in place that were just found to be good.
const START: Duration = Duration::from_secs(60);

/// So often it is asked whether it is to end, while it begins.
const GLANCE: Duration = Duration::from_millis(100);

/// Runs until it is told to end; then nothing of it is left in the kernel.
///
/// # Errors
/// Why it could not begin. Then, too, nothing is left.
pub fn run(config: &Config) -> Result<(), Failure> {
    let supervisor = Supervisor::from_environment();
    let signals = signals()?;
    // Before anything is attached: a second daemon with the same file ends here.
    let board = Arc::new(Board::new(config.services.clone()));
    serve_status(config, &board)?;

    let plane = open(config)?;
    let control = Controller::builder(plane.tables()).maglev_seed(config.maglev_seed).build();
    let applier = control
        .spawn()
        .map_err(|source| Failure::System { operation: "start the controller's thread", source })?;
    let source = StaticSource::new(&config.services);
    let status = source.status();
    let following = control.run_source(Box::new(source), Precedence::new(0))?;
    board.open(Parts { control: control.clone(), tables: plane.tables(), source: status.clone() });
    let begun = begin(config, &control, &status, following, &signals)?;

    let mut watch = Watch::new(control, status.clone());
    let Some(following) = begun else {
        drop(applier);
        plane.detach()?;
        tracing::info!("told to end before it served");
        return Ok(());
    };
    watch.look(&plane, &board);
    plane.attachments().iter().for_each(|attachment| tracing::info!("attached: {attachment}"));
    tracing::info!("status at http://{}/status", config.status);
    supervisor.tell(&format!("READY=1\nSTATUS={} services", status.now().services));
    loop {
        match signals.recv_timeout(TICK) {
            Err(RecvTimeoutError::Timeout) => watch.look(&plane, &board),
            Ok(SIGUSR1) => watch.confirm(),
            Ok(SIGHUP) => {
                tracing::info!("SIGHUP: files of services are followed as they change; nothing to do")
            }
            // The thread of signals lives as long as the process.
            Ok(_) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    supervisor.tell("STOPPING=1");
    drop(following);
    drop(applier);
    plane.detach()?;
    tracing::info!("taken off: nothing of this daemon is left in the kernel");
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

fn open(config: &Config) -> Result<EbpfDataplane, Failure> {
    let builder = EbpfDataplane::builder().unpinned().capacity(config.capacity).timeouts(config.timeouts);
    let plane =
        config.uplinks.iter().cloned().fold(builder, |builder, uplink| builder.uplink(uplink)).open()?;
    // At tcx the kernel takes both, and each would go by tables of its own.
    for attachment in plane.attachments() {
        if let Some(other) = attachment.others.first() {
            let (interface, hook, program_id) = (attachment.interface.clone(), other.hook, other.program_id);
            plane.detach()?;
            return Err(Failure::Occupied { interface, hook, program_id });
        }
    }
    Ok(plane)
}

/// Waits until the services stand in the tables, or it is known why not. Nothing where it is told to end meanwhile.
fn begin(
    config: &Config,
    control: &Controller,
    status: &StaticStatus,
    following: RunningSource,
    signals: &Receiver<i32>,
) -> Result<Option<RunningSource>, Failure> {
    let deadline = Instant::now() + START;
    // Files that were good a moment ago may be bad by now: then it waits until they are good again.
    loop {
        if matches!(signals.try_recv(), Ok(SIGTERM | SIGINT)) {
            return Ok(None);
        }
        let standing =
            status.wait_for(GLANCE, |standing| standing.revision.is_some()).unwrap_or_else(|| status.now());
        let outcome = standing.revision.map(|revision| control.wait_applied(revision, GLANCE));
        match outcome {
            // What is refused or in conflict is told, and does not keep the others from serving.
            Some(Ok(()) | Err(WaitError::Incomplete { .. })) => return Ok(Some(following)),
            None | Some(Err(_)) if Instant::now() < deadline && !following.is_finished() => {}
            Some(Err(error)) => {
                tracing::warn!("{error}");
                return Ok(Some(following));
            }
            None => {
                let wrong = standing.rejected.map(|rejected| rejected.to_string().into());
                let error = following.stop().err().or(wrong).unwrap_or_else(|| "they were not read".into());
                return Err(Failure::Source { path: config.services.clone(), error });
            }
        }
    }
}
