//! Packets that arrive in parts. Only the first part has ports: it is handled as any packet is, and what it says is noted,
//! so that the later ones find its flow, on any CPU. They are translated, and open nothing.

use super::{Environment, Headers, ParseFamily, PassReason, Tick, Verdict};
use crate::{
    abi::FragmentRecord,
    tables::{Family, Lookup, Tuple},
    wire::{PROTOCOL_TCP, TcpHeader},
};

/// Which part of which packet a fragment is.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Part<F: Family> {
    /// Which packet.
    pub key: F::FragmentKey,
    /// Where in it this part stands, in bytes; 0 is the first.
    pub offset: u32,
    /// Whether this is a first part that lacks a part of its transport header.
    pub tiny: bool,
}

impl<F: Family> Part<F> {
    /// Whether it is not the first: it has no transport header.
    #[inline(always)]
    pub(super) fn is_later(&self) -> bool {
        self.offset != 0
    }
}

/// Notes what a first part says.
#[inline(always)]
pub(super) fn note<F, E>(part: &Part<F>, headers: &Headers<F>, env: &E, now: Tick)
where
    F: ParseFamily,
    E: Environment + Lookup<F>,
{
    let tag = F::fragment_tag(&part.key);
    let tuple = &headers.tuple;
    let record = FragmentRecord {
        tag,
        source_port: tuple.source_port(),
        destination_port: tuple.destination_port(),
        seen: now.0,
        protocol: tuple.protocol(),
        reserved: [0; 7],
        tail_tag: tag,
    };
    Lookup::<F>::note_fragment(env, &part.key, &record);
}

/// Notes a first part that is not ours where one stands that was: its sender counts its packets anew, and the later parts
/// are of this one.
#[inline(always)]
pub(super) fn supersede<F, E>(part: &Part<F>, headers: &Headers<F>, env: &E, now: Tick)
where
    F: ParseFamily,
    E: Environment + Lookup<F>,
{
    if Lookup::<F>::fragment(env, &part.key).is_some() {
        note(part, headers, env, now);
    }
}

/// Completes the tuple of a later part by what the first one said.
///
/// # Errors
/// The verdict where that is not known, or the part would write over a TCP header (RFC 1858, 3.2; RFC 3128).
#[inline(always)]
pub(super) fn complete<F, E>(
    part: &Part<F>,
    headers: &mut Headers<F>,
    env: &E,
    now: Tick,
) -> Result<(), Verdict>
where
    F: ParseFamily,
    E: Environment + Lookup<F>,
{
    const UNKNOWN: Verdict = Verdict::Pass(PassReason::Fragment);
    let record = Lookup::<F>::fragment(env, &part.key).ok_or(UNKNOWN)?;
    let tag = F::fragment_tag(&part.key);
    let is_its = record.tag == tag && record.tail_tag == tag;
    if !is_its || now.since(Tick(record.seen)) > F::REASSEMBLY_TICKS {
        return Err(UNKNOWN);
    }
    if record.protocol == PROTOCOL_TCP && part.offset < TcpHeader::LENGTH {
        return Err(UNKNOWN);
    }
    let tuple = &headers.tuple;
    headers.tuple = F::Tuple::new(
        tuple.source(),
        tuple.destination(),
        record.source_port,
        record.destination_port,
        record.protocol,
    )
    .in_zone(tuple.zone());
    Ok(())
}
