//! A packet at a hook: a frame, where it arrived, and the ways it can leave.

use super::{ErrorTranslation, Headers, Hook, NextHop, ParseFamily, Quote};
use crate::wire::{Delta, Frame, Header, MacAddress};

/// Whether a translated packet counts as forwarded by this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopLimit {
    /// It stays on this host, or its stack forwards it and takes the hop.
    Keep,
    /// This host forwards it past its stack.
    Decrement,
}

/// The kernel refused to change or to send a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyError;

/// A packet at a hook. What differs from hook to hook is here: how a packet is changed and how it is sent.
pub trait Packet: Frame {
    /// The hook.
    fn hook(&self) -> Hook;

    /// Index of the interface where it arrived or where it leaves.
    fn interface(&self) -> u32;

    /// Whether the frame was meant for this host: `destination` is where it was sent to, `own` the link-layer address
    /// of the interface.
    #[inline(always)]
    fn is_for_host(&self, destination: MacAddress, own: MacAddress) -> bool {
        destination == own
    }

    /// Whether it carries an 802.1Q tag beside its bytes, where the network card or the kernel put it.
    #[inline(always)]
    fn has_tag_beside(&self) -> bool {
        false
    }

    /// Takes all 802.1Q tags off: `tags` of them stand in its bytes.
    ///
    /// # Errors
    /// [`ApplyError`] where the kernel refuses; the packet must be dropped.
    fn untag(&mut self, tags: u32) -> Result<(), ApplyError>;

    /// Writes the new tuple of `flow` into the headers, takes a hop where asked, and mends the checksums.
    ///
    /// # Errors
    /// [`ApplyError`] where the kernel refuses; the packet may be half changed and must be dropped.
    fn translate<F: ParseFamily>(
        &mut self,
        headers: &Headers<F>,
        flow: &F::Flow,
        hop_limit: HopLimit,
    ) -> Result<(), ApplyError>;

    /// Writes the new addresses of `flow` into the headers of a later part of a packet, takes a hop where asked, and mends the
    /// IP header's checksum.
    ///
    /// # Errors
    /// As [`translate`](Self::translate).
    fn translate_network<F: ParseFamily>(
        &mut self,
        headers: &Headers<F>,
        flow: &F::Flow,
        hop_limit: HopLimit,
    ) -> Result<(), ApplyError>;

    /// Writes what becomes of an ICMP error and of the packet that it quotes, takes a hop where asked, and mends the
    /// checksums.
    ///
    /// # Errors
    /// As [`translate`](Self::translate).
    fn translate_error<F: ParseFamily>(
        &mut self,
        headers: &Headers<F>,
        quote: &Quote,
        translation: &ErrorTranslation<F>,
        hop_limit: HopLimit,
    ) -> Result<(), ApplyError>;

    /// The sum of `length` bytes at `offset`.
    ///
    /// # Errors
    /// [`ApplyError`] where they are not all there, or too many.
    fn sum(&self, offset: u32, length: u32) -> Result<Delta, ApplyError>;

    /// Writes bytes that no checksum within the packet need balance.
    ///
    /// # Errors
    /// As [`translate`](Self::translate).
    fn put<T: Header>(&mut self, offset: u32, value: T) -> Result<(), ApplyError>;

    /// Cuts the frame to `length` bytes, and makes room for `front` bytes before it. It is one packet after that, whatever
    /// it was before.
    ///
    /// # Errors
    /// As [`translate`](Self::translate).
    fn resize(&mut self, length: u32, front: u32) -> Result<(), ApplyError>;

    /// Sends the packet to the next hop, once the program has ended.
    ///
    /// # Errors
    /// [`ApplyError`] where the kernel refuses; the packet must be dropped.
    fn send(&mut self, hop: &NextHop) -> Result<(), ApplyError>;
}
