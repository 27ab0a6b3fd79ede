//! Threads: one that steps, and one for a source.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{Builder, JoinHandle},
};

use super::Controller;
use crate::{
    reconcile::NextWake,
    source::{ControlSource, SourceError, SourceHandle, StopToken},
};

/// The thread that steps a controller. Dropping this stops and joins it; what stands in the tables stays.
#[derive(Debug)]
#[must_use = "dropping this stops the thread"]
pub struct Running {
    controller: Controller,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(super) fn start(controller: Controller) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = Builder::new().name("forebay-control".to_owned()).spawn({
            let (controller, stop) = (controller.clone(), Arc::clone(&stop));
            move || run(&controller, &stop)
        })?;
        Ok(Self { controller, stop, thread: Some(thread) })
    }

    /// Whether its thread has ended by itself: it panicked, and nobody keeps the tables any more.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

fn run(controller: &Controller, stop: &AtomicBool) {
    let changed = &controller.shared.changed;
    loop {
        // Whoever stops us raises the signal afterwards: if it is not stopped below, `seen` is old by the time we wait.
        let seen = changed.count();
        if stop.load(Ordering::Acquire) {
            return;
        }
        let step = controller.step(controller.now());
        match step.earlier(controller.collect(controller.now())) {
            NextWake::Now => {}
            NextWake::At(time) => {
                let wait = time.saturating_sub(controller.now());
                changed.wait(seen, Some(wait));
            }
            NextWake::OnChange => changed.wait(seen, None),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.controller.shared.changed.raise();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the controller's thread panicked");
        }
    }
}

/// A source on a thread of its own. Dropping this stops and joins it; what it said last goes on to serve.
#[derive(Debug)]
#[must_use = "dropping this stops the source"]
pub struct RunningSource {
    stop: StopToken,
    thread: Option<JoinHandle<Result<(), SourceError>>>,
}

impl RunningSource {
    pub(super) fn start(
        source: Box<dyn ControlSource>,
        handle: SourceHandle,
        stop: StopToken,
    ) -> std::io::Result<Self> {
        let name = format!("source-{}", handle.owner());
        let thread = Builder::new().name(name).spawn({
            let stop = stop.clone();
            move || source.run(handle, stop)
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Whether the source has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops the source and waits for its end.
    ///
    /// # Errors
    /// Why the source could not go on, or that it panicked.
    pub fn stop(mut self) -> Result<(), SourceError> {
        self.stop.stop();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err("the source panicked".into()),
            None => Ok(()),
        }
    }
}

impl Drop for RunningSource {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "a source ended"),
                Err(_) => tracing::error!("a source panicked"),
            }
        }
    }
}
