//! Forebay embedded in twenty lines: the README shows this file's function, and its code blocks are compiled here.

use std::{
    error::Error,
    io::{self, Write as _},
    time::Duration,
};

use dataplane_core::{
    Controller,
    model::{Backend, Frontend, Protocol, Service},
    source::Precedence,
};
use dataplane_ebpf::{EbpfDataplane, Uplink};

/// Balances 203.0.113.10:80 over two backends, by programs on these interfaces, until `finished` returns.
///
/// Name the interfaces where clients come in and where backends answer: often it is one and the same.
///
/// # Errors
/// Whatever is in the way, in words: no privileges, no such interface, a name that is none, nobody who reads the output.
pub fn balance(interfaces: &[&str], finished: impl FnOnce()) -> Result<(), Box<dyn Error>> {
    let builder = EbpfDataplane::builder().unpinned();
    let plane = interfaces.iter().fold(builder, |b, name| b.uplink(Uplink::named(*name))).open()?;
    plane.attachments().iter().try_for_each(|attachment| writeln!(io::stdout(), "attached: {attachment}"))?;
    plane.warnings().iter().try_for_each(|warning| writeln!(io::stderr(), "warning: {warning}"))?;
    let control = Controller::new(plane.tables())?;
    let _applier = control.spawn()?;

    let agent = control.register("my-agent", Precedence::new(10))?;
    let web = Service::builder("web")
        .frontend(Frontend::new("203.0.113.10".parse()?, 80, Protocol::Tcp)?)
        .backend(Backend::new("198.51.100.2".parse()?, 8080)?)
        .backend(Backend::new("198.51.100.6".parse()?, 8080)?)
        .build()?;
    let revision = agent.transaction().upsert(web).commit()?;
    agent.synced();
    control.wait_applied(revision, Duration::from_secs(1))?;

    finished();
    Ok(plane.detach()?)
}

/// Compiles the code blocks of the README.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct Readme;
