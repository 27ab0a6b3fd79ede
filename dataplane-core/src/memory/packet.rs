//! A packet in memory, at any hook.

use bytes::{Buf, BufMut, BytesMut};

use crate::{
    pipeline::{
        ApplyError, ErrorTranslation, Headers, Hook, HopLimit, NextHop, Packet, ParseFamily, Quote,
        translate_error_in_place, translate_in_place, translate_network_in_place,
    },
    wire::{Delta, EthernetHeader, Frame, Header, MacAddress, VlanTag, sum_words},
};

/// A frame in memory, at a hook.
#[derive(Clone, Debug)]
pub struct MemoryPacket {
    /// The frame.
    pub bytes: BytesMut,
    pub(super) hook: Hook,
    pub(super) interface: u32,
    /// The interface's own link-layer address.
    pub(super) own: MacAddress,
    pub(super) sent: Option<NextHop>,
}

impl Frame for MemoryPacket {
    fn length(&self) -> u32 {
        self.bytes.as_ref().length()
    }

    fn read<T: Header>(&self, offset: u32) -> Option<T> {
        self.bytes.as_ref().read(offset)
    }

    fn write<T: Header>(&mut self, offset: u32, header: T) -> Option<()> {
        self.bytes.as_mut().write(offset, header)
    }
}

impl Packet for MemoryPacket {
    fn hook(&self) -> Hook {
        self.hook
    }

    fn interface(&self) -> u32 {
        self.interface
    }

    fn is_for_host(&self, destination: MacAddress, own: MacAddress) -> bool {
        match self.hook {
            // XDP knows no more than the table of interfaces; an skb was judged by the driver.
            Hook::Xdp => destination == own,
            Hook::Ingress | Hook::Egress => destination == self.own,
        }
    }

    fn untag(&mut self, tags: u32) -> Result<(), ApplyError> {
        let mut ethernet: EthernetHeader = self.read(0).ok_or(ApplyError)?;
        let behind = EthernetHeader::LENGTH + tags * VlanTag::LENGTH;
        let last: VlanTag =
            self.read(behind.checked_sub(VlanTag::LENGTH).ok_or(ApplyError)?).ok_or(ApplyError)?;
        ethernet.ethertype = last.ethertype;
        self.bytes.advance((tags * VlanTag::LENGTH) as usize);
        self.write(0, ethernet).ok_or(ApplyError)
    }

    fn translate<F: ParseFamily>(
        &mut self,
        headers: &Headers<F>,
        flow: &F::Flow,
        hop_limit: HopLimit,
    ) -> Result<(), ApplyError> {
        translate_in_place(self, headers, flow, hop_limit)
    }

    fn translate_network<F: ParseFamily>(
        &mut self,
        headers: &Headers<F>,
        flow: &F::Flow,
        hop_limit: HopLimit,
    ) -> Result<(), ApplyError> {
        translate_network_in_place(self, headers, flow, hop_limit)
    }

    fn translate_error<F: ParseFamily>(
        &mut self,
        headers: &Headers<F>,
        quote: &Quote,
        translation: &ErrorTranslation<F>,
        hop_limit: HopLimit,
    ) -> Result<(), ApplyError> {
        translate_error_in_place(self, headers, quote, translation, hop_limit)
    }

    fn sum(&self, offset: u32, length: u32) -> Result<Delta, ApplyError> {
        let bytes = self.bytes.get(offset as usize..).and_then(|rest| rest.get(..length as usize));
        Ok(sum_words(bytes.ok_or(ApplyError)?.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            u64::from_ne_bytes(word)
        })))
    }

    fn put<T: Header>(&mut self, offset: u32, value: T) -> Result<(), ApplyError> {
        self.write(offset, value).ok_or(ApplyError)
    }

    fn resize(&mut self, length: u32, front: u32) -> Result<(), ApplyError> {
        let rest = self.bytes.get(..length as usize).ok_or(ApplyError)?;
        let mut bytes = BytesMut::zeroed(front as usize);
        bytes.put_slice(rest);
        self.bytes = bytes;
        Ok(())
    }

    fn send(&mut self, hop: &NextHop) -> Result<(), ApplyError> {
        if self.hook == Hook::Xdp {
            self.write(0, [hop.link.destination, hop.link.source]).ok_or(ApplyError)?;
        }
        self.sent = Some(*hop);
        Ok(())
    }
}

impl MemoryPacket {
    pub(super) fn new(frame: &[u8], hook: Hook, interface: u32, own: MacAddress) -> Self {
        let mut bytes = BytesMut::with_capacity(frame.len());
        bytes.put_slice(frame);
        Self { bytes, hook, interface, own, sent: None }
    }
}
