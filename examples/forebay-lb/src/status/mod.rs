//! What is known about the daemon at a moment, put together on demand.

mod flows;
mod gather;
mod shape;

use std::{
    path::PathBuf,
    process,
    sync::Arc,
    time::{Duration, Instant},
};

use control_static::StaticStatus;
use dataplane_core::{Controller, collect::Collected, tables::Store};
use dataplane_ebpf::{Attachment, EventReader};
use parking_lot::Mutex;

use self::gather::{Surroundings, gather};
use crate::http::Answer;

/// A status is this old at the most; asking more often costs nothing.
const AGE: Duration = Duration::from_secs(1);

/// The main thread looks around every second, and the collector goes round every five; where one has not for so long, it
/// hangs.
const HANGS: Duration = Duration::from_secs(30);

/// Everything that status is made of. Shared with the threads that serve it.
pub struct Board {
    begun: Instant,
    services: PathBuf,
    seen: Mutex<Seen>,
    /// What the collector had done, and since when it is no more.
    collected: Mutex<(Collected, Instant)>,
    /// The tables and who writes them, once they are open.
    parts: Mutex<Option<Parts>>,
    last: Mutex<Option<(Instant, Answer)>>,
}

/// What the main thread saw when it last looked.
#[derive(Default)]
struct Seen {
    at: Option<Instant>,
    attachments: Vec<Attachment>,
    warnings: Vec<String>,
    /// What keeps an uplink from working.
    trouble: Option<String>,
}

/// Where the daemon's tables and programs are pinned.
#[derive(Clone)]
pub struct Pins {
    /// The directory.
    pub path: PathBuf,
    /// Whether they were taken over from an earlier run.
    pub adopted: bool,
}

/// What a running daemon consists of.
#[derive(Clone)]
pub struct Parts {
    /// Who writes the tables.
    pub control: Controller,
    /// The tables.
    pub tables: Arc<dyn Store>,
    /// Where they are pinned, if they are.
    pub pins: Option<Pins>,
    /// The files.
    pub source: StaticStatus,
    /// Who reads events, where flows are logged.
    pub events: Option<EventReader>,
}

impl Board {
    /// Nothing is open yet. `services`: the file or folder of services.
    pub fn new(services: PathBuf) -> Self {
        Self {
            begun: Instant::now(),
            services,
            seen: Mutex::default(),
            collected: Mutex::new((Collected::default(), Instant::now())),
            parts: Mutex::default(),
            last: Mutex::default(),
        }
    }

    /// The daemon runs, with these.
    pub fn open(&self, parts: Parts) {
        *self.parts.lock() = Some(parts);
    }

    /// What the main thread sees now.
    pub fn see(&self, attachments: Vec<Attachment>, warnings: Vec<String>, trouble: Option<String>) {
        let now = Instant::now();
        *self.seen.lock() = Seen { at: Some(now), attachments, warnings, trouble };
        if let Some(parts) = &*self.parts.lock() {
            let done = parts.control.collected();
            let mut collected = self.collected.lock();
            if collected.0 != done {
                *collected = (done, now);
            }
        }
    }

    /// The page of a path.
    pub fn answer(&self, path: &str) -> Answer {
        match path {
            "/healthz" => self.health(),
            "/readyz" => match self.obstacles() {
                obstacles if obstacles.is_empty() => Answer::text(200, "ready\n"),
                obstacles => Answer::text(503, format!("not ready: {}\n", obstacles.join("; "))),
            },
            "/status" => self.status(),
            "/" => Answer::text(200, "/healthz\n/readyz\n/status\n"),
            _ => Answer::text(404, "there are /healthz, /readyz and /status\n"),
        }
    }

    fn health(&self) -> Answer {
        let looked = self.seen.lock().at.map_or_else(|| self.begun.elapsed(), |at| at.elapsed());
        let collected = self.collected.lock().1.elapsed();
        let silent = |who: &str, since: Duration| {
            Answer::text(503, format!("{who} has done nothing for {} s\n", since.as_secs()))
        };
        match () {
            () if looked > HANGS => silent("the main thread", looked),
            () if collected > HANGS => silent("the thread that keeps the tables", collected),
            () => Answer::text(200, "ok\n"),
        }
    }

    /// What keeps the daemon from being ready.
    fn obstacles(&self) -> Vec<String> {
        let Some(parts) = self.parts.lock().clone() else {
            return vec!["it is starting".into()];
        };
        let mut obstacles = Vec::new();
        let standing = parts.source.now();
        if standing.revision.is_none() {
            obstacles.push("no service was read yet".into());
        }
        obstacles.extend(self.seen.lock().trouble.clone());
        obstacles
    }

    fn status(&self) -> Answer {
        // Held while it is put together: who asks at the same time gets the same.
        let mut last = self.last.lock();
        if let Some((at, answer)) = &*last
            && at.elapsed() < AGE
        {
            return answer.clone();
        }
        let answer = self.gathered();
        *last = Some((Instant::now(), answer.clone()));
        answer
    }

    fn gathered(&self) -> Answer {
        let Some(parts) = self.parts.lock().clone() else {
            return Answer::text(503, "it is starting\n");
        };
        let not_ready = self.obstacles();
        let (attachments, warnings) = {
            let seen = self.seen.lock();
            (seen.attachments.clone(), seen.warnings.clone())
        };
        let around = Surroundings {
            uptime_seconds: self.begun.elapsed().as_secs(),
            not_ready,
            services: &self.services,
            attachments: &attachments,
            warnings: &warnings,
        };
        let status = match gather(&parts, around) {
            Ok(status) => status,
            Err(error) => return Answer::text(500, format!("cannot read the tables: {error}\n")),
        };
        match serde_json::to_string_pretty(&status) {
            Ok(json) => Answer { status: 200, media_type: "application/json", body: (json + "\n").into() },
            Err(error) => Answer::text(500, format!("cannot write the status: {error}\n")),
        }
    }
}

/// How a person lets through what is held back.
pub fn how_to_confirm() -> String {
    format!(
        "`kill -USR1 {}` (`systemctl kill -s USR1 forebay-lb`), or `removals: confirmed` in a file of services",
        process::id()
    )
}
