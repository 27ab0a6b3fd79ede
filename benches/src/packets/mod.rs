//! Nanoseconds per packet through the kernel's programs, above the floor programs measured in the same run.
//!
//! Each program is run by `BPF_PROG_TEST_RUN` on a fresh packet of another flow each time, which a prelude in the
//! program writes; the prelude is measured alone and taken off. It is the program alone: no driver, no network card, and
//! at tc not the work that follows a redirect.

#[path = "../../../dataplane-ebpf/programs/src/bench/config.rs"]
mod config;
mod programs;
mod world;

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use dataplane_core::{
    event::EventOptions,
    pipeline::{Hook, PassReason, Verdict},
    wire::{TCP_ACK, TCP_SYN},
};
use serde::Serialize;

pub use self::programs::Family;
use self::{
    programs::EMPTY,
    world::{Network, Peer, World},
};
use crate::{
    gate::{self, Gate},
    profile::Profile,
    sample::{Figure, gated},
};

/// How long one sample takes: long beside the start of a run, short beside the pauses of noisy neighbours.
const SAMPLE: Duration = Duration::from_millis(4);
/// Packets before the first sample, and every flow once.
const WARM_UP: u32 = 10_000;

// What programs return: linux/bpf.h.
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const TC_NEXT: u32 = u32::MAX;
const TC_OK: u32 = 0;
const TC_REDIRECT: u32 = 7;

/// One measured program.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// `IPv4` or `IPv6`; the empty program has neither.
    pub family: &'static str,
    /// Number of flows.
    pub flows: u32,
    /// Nanoseconds per packet, the prelude and the kernel's loop included.
    pub gross: Figure,
    /// Nanoseconds per packet without them.
    pub net: f64,
    /// Net, in multiples of the net lookup floor L(n) of the same family and number of flows.
    pub ratio: Option<f64>,
    /// Whether this and its prelude had enough quiet samples.
    pub trusted: bool,
}

/// All rows, and how quiet it was.
#[derive(Clone, Debug, Serialize)]
pub struct Packets {
    /// In the order of their measurement.
    pub rows: Vec<Row>,
    /// Nanoseconds of a round of the best calibration loop.
    pub best_loop: f64,
    /// How many of the calibration loops were quiet, in percent.
    pub quiet_percent: u32,
    /// Entries of conntrack and of the floors' tables.
    pub table_entries: u32,
    /// Verified instructions: program, in the bench object.
    pub verified: Vec<(&'static str, Option<u32>)>,
}

/// Measures.
///
/// # Errors
/// What the kernel refuses, and a program that does not do its work.
pub fn measure(profile: &Profile, object: &Path) -> Result<Packets> {
    let object = fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
    let network = Network::new()?;
    network.host.run(|| {
        let world = World::open(&network, object.clone(), profile.table_entries, None)?;
        gate::pin().context("cannot pin the thread to a CPU")?;
        let gate = Gate::calibrate(Duration::from_secs(1));
        let mut bench = Bench { world, gate, profile, rows: Vec::new() };
        bench.all()?;
        let verified = [
            "forebay_xdp",
            "forebay_xdp_v6",
            "forebay_ingress",
            "forebay_ingress_v6",
            "forebay_egress",
            "forebay_egress_v6",
        ]
        .map(|name| (name, bench.world.plane.verified_instructions(name)));
        let Bench { rows, gate, .. } = bench;
        let events = Some(EventOptions::default());
        let world = World::open(&network, object, profile.table_entries, events)?;
        let mut bench = Bench { world, gate, profile, rows };
        bench.with_events()?;
        Ok(Packets {
            rows: bench.rows,
            best_loop: bench.gate.best(),
            quiet_percent: bench.gate.quiet_percent(),
            table_entries: profile.table_entries,
            verified: verified.to_vec(),
        })
    })
}

struct Bench<'a> {
    world: World,
    gate: Gate,
    profile: &'a Profile,
    rows: Vec<Row>,
}

/// What is taken off, and what is compared with.
#[derive(Clone, Copy)]
struct Base {
    family: Family,
    flows: u32,
    prelude: Figure,
    lookup: Option<f64>,
}

impl Bench<'_> {
    fn all(&mut self) -> Result<()> {
        self.world.set_flows(1, false)?;
        let empty = self.sample(Family::V4, EMPTY, XDP_TX, 1)?;
        self.push("empty program, no prelude", "", 1, empty, empty.median, None, empty.is_trusted());
        for family in Family::ALL {
            for &flows in self.profile.flows {
                self.section(family, flows)?;
            }
        }
        Ok(())
    }

    /// The same packets where events are told of: of those of known flows there are none.
    fn with_events(&mut self) -> Result<()> {
        const HOW: &str = ", events on";
        for family in Family::ALL {
            let programs = family.programs();
            self.open_flows(family, 1)?;
            self.world.set_flows(1, true)?;
            for (hook, prelude, returned) in
                [(Hook::Xdp, programs.prelude, XDP_TX), (Hook::Ingress, programs.tc_prelude, TC_OK)]
            {
                self.world.set_peer(family, Peer::Service, TCP_ACK)?;
                let prelude = self.sample(family, prelude, returned, 1)?;
                let base = Base { family, flows: 1, prelude, lookup: None };
                self.counted(base, hook, Peer::Service, HOW)?;
                self.counted(base, hook, Peer::Nobody, HOW)?;
            }
        }
        Ok(())
    }

    /// Everything about one family and one number of flows.
    fn section(&mut self, family: Family, flows: u32) -> Result<()> {
        let programs = family.programs();
        self.open_flows(family, flows)?;
        self.world.set_flows(flows, true)?;

        self.world.set_peer(family, Peer::Service, TCP_ACK)?;
        let prelude = self.sample(family, programs.prelude, XDP_TX, flows)?;
        let mut base = Base { family, flows, prelude, lookup: None };
        self.push("prelude", family.name(), flows, prelude, 0.0, None, prelude.is_trusted());
        if flows == 1 {
            self.row(base, "parse + XDP_TX", programs.parse, XDP_TX)?;
            // It asks for the way to the backend, as our programs do.
            self.world.set_peer(family, Peer::Backend, TCP_ACK)?;
            self.row(base, "fib_lookup", programs.fib, XDP_TX)?;
            self.world.set_peer(family, Peer::Service, TCP_ACK)?;
        }
        let key = if family == Family::V4 { "16" } else { "40" };
        let name = format!("L(n): LRU lookup, key {key}, + parse + XDP_TX");
        base.lookup = Some(self.row(base, &name, programs.lookup, XDP_TX)?);
        self.counted(base, Hook::Xdp, Peer::Service, "")?;
        self.strangers(base, Hook::Xdp)?;

        self.world.set_peer(family, Peer::Service, TCP_ACK)?;
        base.prelude = self.sample(family, programs.tc_prelude, TC_OK, flows)?;
        let trusted = base.prelude.is_trusted();
        self.push("prelude at tc", family.name(), flows, base.prelude, 0.0, None, trusted);
        self.counted(base, Hook::Ingress, Peer::Service, "")?;
        self.strangers(base, Hook::Ingress)
    }

    /// Fills the floors' table and opens the flows, with all three packets of each handshake. In the order of their
    /// numbers: they are read in another.
    fn open_flows(&mut self, family: Family, flows: u32) -> Result<()> {
        let programs = family.programs();
        self.world.set_flows(flows, false)?;
        self.world.set_peer(family, Peer::Service, TCP_SYN)?;
        self.world.run(family, programs.fill, XDP_TX, flows)?;
        self.world.set_peer(family, Peer::Service, TCP_SYN)?;
        self.world.run(family, programs.xdp, XDP_TX, flows)?;
        self.world.set_replies(family, TCP_SYN | TCP_ACK)?;
        self.world.run(family, programs.xdp, XDP_TX, flows)?;
        self.world.set_peer(family, Peer::Service, TCP_ACK)?;
        self.world.run(family, programs.xdp, XDP_TX, flows)?;
        Ok(())
    }

    /// Packets of no service, as they are, and where it is asked whether they are for a virtual address.
    fn strangers(&mut self, base: Base, hook: Hook) -> Result<()> {
        self.counted(base, hook, Peer::Nobody, "")?;
        self.world.drop_unserved_ports(true)?;
        let counted = self.counted(base, hook, Peer::Nobody, ", unserved ports dropped");
        self.world.drop_unserved_ports(false)?;
        counted
    }

    /// One of our programs. The kernel tells the verdict of a sample's last packet only, so its counters must account
    /// for every single one.
    fn counted(&mut self, base: Base, hook: Hook, peer: Peer, how: &str) -> Result<()> {
        let programs = base.family.programs();
        let (program, place) = match hook {
            Hook::Xdp => (programs.xdp, "Forebay, XDP"),
            _ => (programs.ingress, "Forebay, tcx ingress"),
        };
        let (what, verdict) = match peer {
            Peer::Nobody => ("no service, passed on", Verdict::Pass(PassReason::NoService)),
            _ => ("known flow, DNAT", Verdict::Forward),
        };
        let returned = match (hook, peer) {
            (Hook::Xdp, Peer::Nobody) => XDP_PASS,
            (Hook::Xdp, _) => XDP_TX,
            (_, Peer::Nobody) => TC_NEXT,
            _ => TC_REDIRECT,
        };
        self.world.set_peer(base.family, peer, TCP_ACK)?;
        let counted = |world: &World| -> Result<(u64, u64)> {
            let mut all = 0;
            for verdict in Verdict::all() {
                all += world.count(hook, verdict)?;
            }
            Ok((world.count(hook, verdict)?, all))
        };
        let before = counted(&self.world)?;
        self.row(base, &format!("{place}: {what}{how}"), program, returned)?;
        let after = counted(&self.world)?;
        let (wanted, all) = (after.0 - before.0, after.1 - before.1);
        if wanted != all {
            bail!("{program}: only {wanted} of {all} packets were of the verdict {verdict}");
        }
        Ok(())
    }

    /// Measures a program behind a prelude; returns net nanoseconds.
    fn row(&mut self, base: Base, name: &str, program: &str, verdict: u32) -> Result<f64> {
        let gross = self.sample(base.family, program, verdict, base.flows)?;
        let net = gross.median - base.prelude.median;
        let trusted = gross.is_trusted() && base.prelude.is_trusted();
        let ratio = base.lookup.filter(|&lookup| lookup > 0.0).map(|lookup| net / lookup);
        self.push(name, base.family.name(), base.flows, gross, net, ratio, trusted);
        Ok(net)
    }

    fn sample(&mut self, family: Family, program: &str, verdict: u32, flows: u32) -> Result<Figure> {
        // Every flow once, so that caches and translations are as warm as this many flows let them be.
        let estimate = self.world.run(family, program, verdict, flows.max(WARM_UP))?;
        let repeat = (SAMPLE.as_nanos() as f64 / (estimate + 1.0)).max(1.0) as u32;
        let (world, gate) = (&self.world, &mut self.gate);
        gated(self.profile.packets, || gate.is_quiet(), || world.run(family, program, verdict, repeat))
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of a row, in their order")]
    fn push(
        &mut self,
        name: &str,
        family: &'static str,
        flows: u32,
        gross: Figure,
        net: f64,
        ratio: Option<f64>,
        trusted: bool,
    ) {
        self.rows.push(Row { name: name.to_owned(), family, flows, gross, net, ratio, trusted });
    }
}
