//! Rows of the tables, and their words.

use std::net::IpAddr;

use super::{BackendKey, Share, maglev_table};
use crate::{
    abi::{
        BACKEND_DRAINING, BACKEND_LOCAL, BackendRef, BackendV4, BackendV6, LIST_AFFINITY, LIST_MASQUERADE,
        LIST_MASQUERADE_LOCAL, SLOT_AFFINITY_WORD, SLOT_HEADER_WORDS, SLOT_LINE_WORDS, SLOT_SEED_WORD,
        ServiceKeyV4, ServiceKeyV6, ServiceRef, ServiceWord, SlotHeader,
    },
    model::{Affinity, Choice, Frontend, IpFamily, MaglevSize, Masquerade, Protocol},
    pipeline::Tick,
    tables::{Family, V4, V6},
    wire::Be16,
};

/// What a service is to be in the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Its backends, by rising index.
    pub backends: Vec<BackendRow>,
    /// Its list; `None` where it has no frontend to serve.
    pub list: Option<ListRow>,
    /// Its frontends.
    pub frontends: Vec<FrontendRow>,
}

/// A backend in the array of its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendRow {
    /// Which array.
    pub family: IpFamily,
    /// Where.
    pub index: u32,
    /// Never 0.
    pub generation: u32,
    /// What.
    pub key: BackendKey,
    /// Whether no list sends it new flows.
    pub draining: bool,
}

impl BackendRow {
    /// How slots and flows name it.
    pub fn reference(&self) -> BackendRef {
        BackendRef::new(self.index, self.generation)
    }

    /// Its words; IPv4 uses the first two.
    pub fn words(&self) -> ([u64; 4], usize) {
        let BackendKey { address, port, local } = self.key;
        let (generation, port) = (self.generation, Be16::new(port));
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let flags = flag(local, BACKEND_LOCAL) | flag(self.draining, BACKEND_DRAINING);
        match address {
            IpAddr::V4(v4) => {
                let (address, last_generation) = (v4.into(), generation);
                let row = BackendV4 { generation, port, flags, reserved: 0, address, last_generation };
                let [first, second]: [u64; 2] = zerocopy::transmute!(row);
                ([first, second, 0, 0], 2)
            }
            IpAddr::V6(v6) => {
                let (address, last_generation) = (v6.into(), generation);
                let (reserved, reserved_too) = (0, 0);
                let row =
                    BackendV6 { generation, port, flags, reserved, address, last_generation, reserved_too };
                (zerocopy::transmute!(row), 4)
            }
        }
    }
}

/// What a place in an array of backends holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FoundBackend {
    /// Who stands there; 0: nobody.
    pub generation: u32,
    /// Who stood there last.
    pub last_generation: u32,
    /// What.
    pub key: BackendKey,
    /// Whether its row says that it drains; `None` where the row is not as [`BackendRow::words`] has it.
    pub draining: Option<bool>,
}

impl FoundBackend {
    /// Reads the words of a place; IPv4 has two.
    pub fn read(family: IpFamily, index: u32, words: [u64; 4]) -> Self {
        let [first, second, ..] = words;
        let (row, last_generation): (BackendV6, u32) = match family {
            IpFamily::V4 => {
                let row: BackendV4 = zerocopy::transmute!([first, second]);
                let BackendV4 { generation, port, flags, reserved, .. } = row;
                let front = BackendV6 { generation, port, flags, reserved, ..BackendV6::default() };
                let address = IpAddr::V4(row.address.into());
                return Self::of(family, index, words, front, address, row.last_generation);
            }
            IpFamily::V6 => {
                let row: BackendV6 = zerocopy::transmute!(words);
                (row, row.last_generation)
            }
        };
        Self::of(family, index, words, row, IpAddr::V6(row.address.into()), last_generation)
    }

    fn of(
        family: IpFamily,
        index: u32,
        words: [u64; 4],
        row: BackendV6,
        address: IpAddr,
        last_generation: u32,
    ) -> Self {
        let (generation, flags) = (row.generation, row.flags);
        let key = BackendKey { address, port: row.port.get(), local: flags & BACKEND_LOCAL != 0 };
        let draining = flags & BACKEND_DRAINING != 0;
        let (ours, width) = BackendRow { family, index, generation, key, draining }.words();
        let is_ours = generation != 0 && ours[..width] == words[..width];
        Self { generation, last_generation, key, draining: is_ours.then_some(draining) }
    }
}

/// A list in the slot table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRow {
    /// Its first line.
    pub base: u32,
    /// Its entries, by rising index.
    pub entries: Box<[BackendRef]>,
    /// How one of them is chosen.
    pub kind: ListKind,
    /// Whose packets get an address of this host as their source.
    pub masquerade: Masquerade,
    /// Whether clients come to the same backend again.
    pub affinity: Affinity,
}

/// How an entry of a list is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// At random; each backend stands in the list as often as its share is.
    Random,
    /// By a Maglev table of the entries, each of which is another backend.
    Maglev {
        /// How many places the table has.
        size: MaglevSize,
        /// What permutations and hashes are made with.
        seed: u64,
        /// The backends, in the order of the entries.
        shares: Box<[Share]>,
    },
}

impl ListRow {
    /// How many lines a list takes for a choice among so many backends, whose shares add up to so many times.
    pub fn lines(choice: Choice, backends: u32, times: u32) -> u32 {
        let words = match choice {
            Choice::Random => times,
            // Without a backend there is no table.
            Choice::Maglev(_) if backends == 0 => 0,
            Choice::Maglev(size) => backends + SlotHeader::new(backends, size.get(), 0).table_words(),
        };
        (words + SLOT_HEADER_WORDS).div_ceil(SLOT_LINE_WORDS)
    }

    /// What the header says of how flows are treated.
    fn flags(&self) -> u16 {
        let masquerade = match self.masquerade {
            Masquerade::Auto => LIST_MASQUERADE,
            Masquerade::Always => LIST_MASQUERADE | LIST_MASQUERADE_LOCAL,
            Masquerade::Never => 0,
        };
        match self.affinity {
            Affinity::None => masquerade,
            Affinity::ClientIp { .. } => masquerade | LIST_AFFINITY,
        }
    }
}

/// The word of a list's header that says how long clients are remembered.
fn affinity_word(affinity: Affinity) -> u64 {
    match affinity {
        Affinity::None => 0,
        Affinity::ClientIp { timeout } => {
            Tick::ticks_of_milliseconds(u64::from(timeout.seconds()) * 1000).into()
        }
    }
}

/// Puts the words of a list behind each other. Makes its Maglev table, if it has one: cost as [`maglev_table`].
pub fn list_words(list: &ListRow, words: &mut Vec<u64>) {
    let (table, seed) = match &list.kind {
        ListKind::Random => (Vec::new(), 0),
        ListKind::Maglev { size, seed, shares } => (maglev_table(*size, *seed, shares), *seed),
    };
    let seed = if table.is_empty() { 0 } else { seed };
    words.clear();
    // A table has at most 65,521 places.
    words.push(SlotHeader::new(list.entries.len() as u32, table.len() as u16, list.flags()).0);
    words.resize(SLOT_HEADER_WORDS as usize, 0);
    words[SLOT_SEED_WORD as usize] = seed;
    words[SLOT_AFFINITY_WORD as usize] = affinity_word(list.affinity);
    words.extend(list.entries.iter().map(|entry| entry.0));
    words.extend(SlotHeader::pack(&table));
}

/// A frontend: its key in the hash, and its place among the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontendRow {
    /// The frontend.
    pub frontend: Frontend,
    /// Index of its word and its counters.
    pub index: u32,
}

impl FrontendRow {
    /// Its key.
    pub fn key(&self) -> ServiceKey {
        ServiceKey::from(&self.frontend)
    }

    /// What the hash holds for it.
    pub fn reference(&self) -> ServiceRef {
        ServiceRef::new(self.index, self.key().tag())
    }

    /// Its word when it points to a list.
    pub fn word(&self, base: u32) -> ServiceWord {
        ServiceWord::new(base, self.key().tag())
    }
}

/// A frontend's key, of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceKey {
    /// IPv4.
    V4(ServiceKeyV4),
    /// IPv6.
    V6(ServiceKeyV6),
}

impl ServiceKey {
    /// The tag of the key.
    pub fn tag(&self) -> u32 {
        match self {
            Self::V4(key) => key.tag(),
            Self::V6(key) => key.tag(),
        }
    }
}

impl ServiceKey {
    /// The frontend of this key; `None` where no frontend has it.
    pub(crate) fn frontend(&self) -> Option<Frontend> {
        let (address, port, protocol) = match *self {
            Self::V4(key) => (IpAddr::V4(key.address.into()), key.port, key.protocol),
            Self::V6(key) => (IpAddr::V6(key.address.into()), key.port, key.protocol),
        };
        let protocol = [Protocol::Tcp, Protocol::Udp].into_iter().find(|one| one.number() == protocol)?;
        let frontend = Frontend::new(address, port.get(), protocol).ok()?;
        // What else is in a key, a frontend's has in one way only.
        (Self::from(&frontend) == *self).then_some(frontend)
    }
}

impl ServiceKey {
    /// Under which a virtual address itself stands in the table of frontends.
    pub fn of_address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::V4(V4::service_key(v4.into(), Be16(0), 0)),
            IpAddr::V6(v6) => Self::V6(V6::service_key(v6.into(), Be16(0), 0)),
        }
    }

    /// The virtual address that this is the key of; `None` where it is a frontend's.
    pub fn address(&self) -> Option<IpAddr> {
        let address = match *self {
            Self::V4(key) => IpAddr::V4(key.address.into()),
            Self::V6(key) => IpAddr::V6(key.address.into()),
        };
        (Self::of_address(address) == *self).then_some(address)
    }
}

impl From<&Frontend> for ServiceKey {
    fn from(frontend: &Frontend) -> Self {
        let port = Be16::new(frontend.port().get());
        let protocol = frontend.protocol().number();
        match frontend.address() {
            IpAddr::V4(v4) => Self::V4(V4::service_key(v4.into(), port, protocol)),
            IpAddr::V6(v6) => Self::V6(V6::service_key(v6.into(), port, protocol)),
        }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;
    use crate::model::AffinityTimeout;

    #[test]
    fn words_are_the_bytes_that_the_pipeline_reads() {
        let key = BackendKey { address: "192.0.2.1".parse().unwrap(), port: 0x1f90, local: true };
        let row = BackendRow { family: IpFamily::V4, index: 3, generation: 0x0102_0304, key, draining: true };
        let (words, width) = row.words();
        let expected = [0x04, 0x03, 0x02, 0x01, 0x1f, 0x90, 3, 0, 192, 0, 2, 1, 0x04, 0x03, 0x02, 0x01];
        assert_eq!(words[..width].as_bytes(), expected);

        let key = BackendKey { address: "2001:db8::7".parse().unwrap(), port: 80, local: false };
        let (words, width) = BackendRow { family: IpFamily::V6, key, draining: false, ..row }.words();
        assert_eq!(words[..width].as_bytes()[..12], [4, 3, 2, 1, 0, 80, 0, 0, 0x20, 1, 0x0d, 0xb8]);
        assert_eq!(words[..width].as_bytes()[20..], [0, 0, 0, 7, 0x04, 0x03, 0x02, 0x01, 0, 0, 0, 0]);
    }

    #[test]
    fn lists_begin_with_a_header() {
        let mut words = vec![9];
        let entries = [BackendRef::new(1, 2), BackendRef::new(3, 4)];
        let row = |masquerade| ListRow {
            base: 1,
            entries: entries.into(),
            kind: ListKind::Random,
            masquerade,
            affinity: Affinity::None,
        };
        list_words(&row(Masquerade::Never), &mut words);
        assert_eq!(words, [2, 0, 0, 0, 2 << 32 | 1, 4 << 32 | 3]);
        for (masquerade, flags) in [(Masquerade::Auto, 1), (Masquerade::Always, 3)] {
            list_words(&row(masquerade), &mut words);
            assert_eq!(words[..4], [flags << 48 | 2, 0, 0, 0]);
        }
        let timeout = AffinityTimeout::new(604_800).unwrap();
        let remembers = ListRow { affinity: Affinity::ClientIp { timeout }, ..row(Masquerade::Always) };
        list_words(&remembers, &mut words);
        // 604,800 s are 4,506,111.1 times 2^27 ns.
        assert_eq!(words, [7 << 48 | 2, 0, 4_506_112, 0, 2 << 32 | 1, 4 << 32 | 3]);
        assert_eq!([0, 4, 5, 12, 13].map(|times| ListRow::lines(Choice::Random, 1, times)), [1, 1, 2, 2, 3]);
    }

    #[test]
    fn a_maglev_table_is_packed_behind_the_entries() {
        let entries = [BackendRef::new(8, 2), BackendRef::new(9, 4)];
        let size = MaglevSize::new(11).unwrap();
        let share = |port| Share {
            backend: BackendKey { address: "192.0.2.1".parse().unwrap(), port, local: false },
            times: 1,
        };
        let shares = [share(1), share(2)];
        let table = maglev_table(size, 5, &shares);
        let row = |shares: &[Share], entries: &[BackendRef]| ListRow {
            base: 1,
            entries: entries.into(),
            kind: ListKind::Maglev { size, seed: 5, shares: shares.into() },
            masquerade: Masquerade::Never,
            affinity: Affinity::None,
        };
        let mut words = Vec::new();
        list_words(&row(&shares, &entries), &mut words);
        assert_eq!(words[..6], [11 << 32 | 2, 5, 0, 0, 2 << 32 | 8, 4 << 32 | 9]);
        // Byte by byte: the first place first.
        let bytes: Vec<u8> = words[6..].iter().flat_map(|word| word.to_le_bytes()).collect();
        let expected: Vec<u8> = table.iter().flat_map(|index| index.to_le_bytes()).chain([0, 0]).collect();
        assert_eq!(bytes, expected);
        for (place, &index) in table.iter().enumerate() {
            let place = place as u32;
            let word = words[6 + SlotHeader::word_of(place) as usize];
            assert_eq!(SlotHeader::index_in(word, place), u32::from(index));
        }

        // 4 words of header, 2 entries and 3 words of table are two lines; without a backend one is enough.
        let choice = Choice::Maglev(size);
        assert_eq!([2, 1, 0].map(|backends| ListRow::lines(choice, backends, 9)), [2, 1, 1]);
        assert_eq!(ListRow::lines(Choice::Maglev(MaglevSize::default()), 4, 4), 513);
        list_words(&row(&[], &[]), &mut words);
        assert_eq!(words, [0, 0, 0, 0]);
    }
}
