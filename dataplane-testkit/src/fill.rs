//! Tables filled by hand: for tests of packets that shall not depend on the control half.

use std::{
    mem,
    net::{IpAddr, SocketAddr},
};

use dataplane_core::{
    abi::{
        BACKEND_DRAINING, BACKEND_LOCAL, BackendRef, BackendV4, BackendV6, LIST_AFFINITY, SLOT_AFFINITY_WORD,
        SLOT_LINE_WORDS, SLOT_SEED_WORD, ServiceKeyV4, ServiceKeyV6, ServiceRef, ServiceWord, SlotHeader,
    },
    tables::{Store, TableError},
    wire::Be16,
};

/// What one frontend's word points to.
#[derive(Clone, Copy, Debug)]
pub struct FilledService {
    /// Index of the frontend.
    pub index: u32,
    tag: u32,
}

/// Hands out indexes in order and never again, so that two stores filled alike are alike.
#[derive(Clone, Debug)]
pub struct Filler {
    next_frontend: u32,
    next_line: u32,
    next_backend: u32,
    /// What the headers of lists say of how flows are treated: `LIST_*`.
    pub list_flags: u16,
    /// For how many ticks lists with [`LIST_AFFINITY`] have clients remembered.
    pub affinity: u32,
}

impl Default for Filler {
    fn default() -> Self {
        Self { next_frontend: 0, next_line: 1, next_backend: 0, list_flags: 0, affinity: 0 }
    }
}

impl Filler {
    /// Writes a backend, of generation 1.
    ///
    /// # Errors
    /// [`TableError`] where the store refuses.
    pub fn backend(
        &mut self,
        store: &dyn Store,
        address: SocketAddr,
        local: bool,
    ) -> Result<BackendRef, TableError> {
        let reference = BackendRef::new(self.next_backend, 1);
        self.next_backend += 1;
        let (port, flags) = (Be16::new(address.port()), if local { BACKEND_LOCAL } else { 0 });
        match address.ip() {
            IpAddr::V4(ip) => {
                let entry =
                    BackendV4 { generation: 1, port, flags, address: ip.into(), ..BackendV4::default() };
                let words: [u64; 2] = zerocopy::transmute!(entry);
                store.backends_v4().store(reference.index(), &words)?;
            }
            IpAddr::V6(ip) => {
                let entry =
                    BackendV6 { generation: 1, port, flags, address: ip.into(), ..BackendV6::default() };
                let words: [u64; 4] = zerocopy::transmute!(entry);
                store.backends_v6().store(reference.index(), &words)?;
            }
        }
        Ok(reference)
    }

    /// Marks a backend that no list sends new flows.
    ///
    /// # Errors
    /// [`TableError`] where the store refuses.
    pub fn drain_backend(&self, store: &dyn Store, backend: BackendRef, v6: bool) -> Result<(), TableError> {
        let array = if v6 { store.backends_v6() } else { store.backends_v4() };
        let mut first = array.load(backend.index(), 0).unwrap_or(0).to_ne_bytes();
        first[mem::offset_of!(BackendV4, flags)] |= BACKEND_DRAINING;
        array.store(backend.index(), &[u64::from_ne_bytes(first)])
    }

    /// Takes a backend away: whoever holds its generation finds it gone.
    ///
    /// # Errors
    /// [`TableError`] where the store refuses.
    pub fn remove_backend(&self, store: &dyn Store, backend: BackendRef, v6: bool) -> Result<(), TableError> {
        let array = if v6 { store.backends_v6() } else { store.backends_v4() };
        array.store(backend.index(), &[0])
    }

    /// Writes a frontend and its address, with this list of backends, each as often as it stands there.
    ///
    /// # Errors
    /// [`TableError`] where the store refuses.
    pub fn service(
        &mut self,
        store: &dyn Store,
        address: SocketAddr,
        protocol: u8,
        backends: &[BackendRef],
    ) -> Result<FilledService, TableError> {
        let index = self.next_frontend;
        self.next_frontend += 1;
        let port = Be16::new(address.port());
        let tag = match address.ip() {
            IpAddr::V4(ip) => ServiceKeyV4 { address: ip.into(), port, protocol, scope: 0 }.tag(),
            IpAddr::V6(ip) => ServiceKeyV6 { address: ip.into(), port, protocol, scope: 0 }.tag(),
        };
        let service = FilledService { index, tag };
        self.point(store, service, backends)?;
        let reference = ServiceRef::new(index, tag);
        match address.ip() {
            IpAddr::V4(ip) => {
                let key = ServiceKeyV4 { address: ip.into(), port, protocol, scope: 0 };
                store.services_v4().insert(&key, &reference)?;
                let key = ServiceKeyV4 { address: ip.into(), port: Be16(0), protocol: 0, scope: 0 };
                store.services_v4().insert(&key, &ServiceRef::of_address(key.tag()))?;
            }
            IpAddr::V6(ip) => {
                let key = ServiceKeyV6 { address: ip.into(), port, protocol, scope: 0 };
                store.services_v6().insert(&key, &reference)?;
                let key = ServiceKeyV6 { address: ip.into(), port: Be16(0), protocol: 0, scope: 0 };
                store.services_v6().insert(&key, &ServiceRef::of_address(key.tag()))?;
            }
        }
        Ok(service)
    }

    /// Points a frontend to another list of backends.
    ///
    /// # Errors
    /// [`TableError`] where the store refuses.
    pub fn point(
        &mut self,
        store: &dyn Store,
        service: FilledService,
        backends: &[BackendRef],
    ) -> Result<(), TableError> {
        let entries = u32::try_from(backends.len()).unwrap_or(u32::MAX);
        let mut words = self.header(SlotHeader::new(entries, 0, self.list_flags));
        words.extend(backends.iter().map(|backend| backend.0));
        self.point_to_words(store, service, &words)
    }

    /// Points a frontend to a list of backends, each once, with a Maglev table. At each place stands the index of a
    /// backend in the list; nothing asks that they are those that Maglev gives it.
    ///
    /// # Errors
    /// [`TableError`] where the store refuses.
    pub fn point_by_maglev(
        &mut self,
        store: &dyn Store,
        service: FilledService,
        backends: &[BackendRef],
        table: &[u16],
        seed: u64,
    ) -> Result<(), TableError> {
        let entries = u32::try_from(backends.len()).unwrap_or(u32::MAX);
        let places = u16::try_from(table.len()).unwrap_or(u16::MAX);
        let mut words = self.header(SlotHeader::new(entries, places, self.list_flags));
        words[SLOT_SEED_WORD as usize] = seed;
        words.extend(backends.iter().map(|backend| backend.0));
        // Written out, and not by what the tables are packed with: this is what that is held to.
        words.extend(table.chunks(4).map(|indexes| {
            let at = |place: usize| u64::from(indexes.get(place).copied().unwrap_or(0));
            at(0) + at(1) * 0x1_0000 + at(2) * 0x1_0000_0000 + at(3) * 0x1_0000_0000_0000
        }));
        self.point_to_words(store, service, &words)
    }

    fn header(&self, header: SlotHeader) -> Vec<u64> {
        let mut words = vec![header.0, 0, 0, 0];
        if header.flags() & LIST_AFFINITY != 0 {
            words[SLOT_AFFINITY_WORD as usize] = self.affinity.into();
        }
        words
    }

    fn point_to_words(
        &mut self,
        store: &dyn Store,
        service: FilledService,
        words: &[u64],
    ) -> Result<(), TableError> {
        let line = self.next_line;
        self.next_line += u32::try_from(words.len()).unwrap_or(u32::MAX).div_ceil(SLOT_LINE_WORDS);
        store.slots().store(line * SLOT_LINE_WORDS, words)?;
        store.service_words().store(service.index, &[ServiceWord::new(line, service.tag).0])
    }
}
