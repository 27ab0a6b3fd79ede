//! A packet at XDP.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use dataplane_core::{
    pipeline::{
        Action, ApplyError, ErrorTranslation, Headers, Hook, HopLimit, NextHop, Packet, ParseFamily, Quote,
        Stage, Step, begin, resume, translate_error_in_place, translate_in_place, translate_network_in_place,
    },
    wire::{Delta, Frame, Header},
};

use crate::{
    environment::{self, Kernel},
    helpers::{self, Xdp},
    maps,
};

struct XdpPacket {
    xdp: Xdp,
    action: u32,
}

/// The program that is attached.
#[inline(always)]
pub fn run(context: *mut xdp_md) -> u32 {
    run_stage(context, None)
}

/// A program that it goes on with.
#[inline(always)]
pub fn go_on(context: *mut xdp_md, stage: Stage) -> u32 {
    run_stage(context, Some(stage))
}

#[inline(always)]
fn run_stage(context: *mut xdp_md, stage: Option<Stage>) -> u32 {
    let Some((work, route)) = maps::room(Hook::Xdp) else {
        return xdp_action::XDP_ABORTED;
    };
    let kernel = Kernel::new(context.cast(), route);
    let mut packet = XdpPacket { xdp: Xdp(context), action: xdp_action::XDP_ABORTED };
    let step = match stage {
        None => begin(&mut packet, &kernel, work),
        Some(stage) => resume(stage, &mut packet, &kernel, work),
    };
    let verdict = match step {
        Step::Done(verdict) => verdict,
        Step::Next(stage) => {
            maps::go_on_at_xdp(context, stage);
            environment::absent(Hook::Xdp, stage)
        }
    };
    environment::report(verdict);
    match verdict.action() {
        Action::Pass | Action::Leave | Action::Deliver => xdp_action::XDP_PASS,
        Action::Forward | Action::Answer => packet.action,
        Action::Drop => xdp_action::XDP_DROP,
    }
}

impl Frame for XdpPacket {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.xdp.length()
    }

    #[inline(always)]
    fn read<T: Header>(&self, offset: u32) -> Option<T> {
        self.xdp.bytes().read(offset)
    }

    #[inline(always)]
    fn write<T: Header>(&mut self, offset: u32, header: T) -> Option<()> {
        self.xdp.bytes().write(offset, header)
    }
}

impl Packet for XdpPacket {
    #[inline(always)]
    fn hook(&self) -> Hook {
        Hook::Xdp
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        self.xdp.interface()
    }

    #[inline(always)]
    fn untag(&mut self, _tags: u32) -> Result<(), ApplyError> {
        // What carries a tag is left to tcx.
        Err(ApplyError)
    }

    #[inline(always)]
    fn translate<F: ParseFamily>(
        &mut self,
        headers: &Headers<F>,
        flow: &F::Flow,
        hop_limit: HopLimit,
    ) -> Result<(), ApplyError> {
        translate_in_place(self, headers, flow, hop_limit)
    }

    #[inline(always)]
    fn translate_network<F: ParseFamily>(
        &mut self,
        headers: &Headers<F>,
        flow: &F::Flow,
        hop_limit: HopLimit,
    ) -> Result<(), ApplyError> {
        translate_network_in_place(self, headers, flow, hop_limit)
    }

    #[inline(always)]
    fn translate_error<F: ParseFamily>(
        &mut self,
        headers: &Headers<F>,
        quote: &Quote,
        translation: &ErrorTranslation<F>,
        hop_limit: HopLimit,
    ) -> Result<(), ApplyError> {
        translate_error_in_place(self, headers, quote, translation, hop_limit)
    }

    // What is answered is left to tcx.

    #[inline(always)]
    fn sum(&self, _offset: u32, _length: u32) -> Result<Delta, ApplyError> {
        Err(ApplyError)
    }

    #[inline(always)]
    fn put<T: Header>(&mut self, _offset: u32, _value: T) -> Result<(), ApplyError> {
        Err(ApplyError)
    }

    #[inline(always)]
    fn resize(&mut self, _length: u32, _front: u32) -> Result<(), ApplyError> {
        Err(ApplyError)
    }

    #[inline(always)]
    fn send(&mut self, hop: &NextHop) -> Result<(), ApplyError> {
        environment::report_hop(hop);
        self.write(0, [hop.link.destination, hop.link.source]).ok_or(ApplyError)?;
        self.action = if hop.interface == self.interface() {
            xdp_action::XDP_TX
        } else {
            helpers::redirect(hop.interface)
        };
        Ok(())
    }
}
