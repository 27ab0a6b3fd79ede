//! Rows of the tables, and their words.

use std::net::IpAddr;

use super::BackendKey;
use crate::{
    abi::{
        BACKEND_DRAINING, BACKEND_LOCAL, BackendRef, BackendV4, BackendV6, SLOT_HEADER_WORDS,
        SLOT_LINE_WORDS, ServiceKeyV4, ServiceKeyV6, ServiceRef, ServiceWord, SlotHeader,
    },
    model::{Frontend, IpFamily},
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
                let row = BackendV4 { generation, port, flags, address: v4.into(), ..BackendV4::default() };
                let [first, second]: [u64; 2] = zerocopy::transmute!(row);
                ([first, second, 0, 0], 2)
            }
            IpAddr::V6(v6) => {
                let row = BackendV6 { generation, port, flags, address: v6.into(), ..BackendV6::default() };
                (zerocopy::transmute!(row), 4)
            }
        }
    }
}

/// A list in the slot table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRow {
    /// Its first line.
    pub base: u32,
    /// Its entries: each backend as often as its share is.
    pub entries: Box<[BackendRef]>,
}

impl ListRow {
    /// How many lines a list of so many entries takes.
    pub fn lines(entries: u32) -> u32 {
        (entries + SLOT_HEADER_WORDS).div_ceil(SLOT_LINE_WORDS)
    }
}

/// Puts the words of a list behind each other.
pub fn list_words(entries: &[BackendRef], words: &mut Vec<u64>) {
    words.clear();
    words.push(SlotHeader::new(entries.len() as u32, 0).0);
    words.resize(SLOT_HEADER_WORDS as usize, 0);
    words.extend(entries.iter().map(|entry| entry.0));
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

    #[test]
    fn words_are_the_bytes_that_the_pipeline_reads() {
        let key = BackendKey { address: "192.0.2.1".parse().unwrap(), port: 0x1f90, local: true };
        let row = BackendRow { family: IpFamily::V4, index: 3, generation: 0x0102_0304, key, draining: true };
        let (words, width) = row.words();
        let expected = [0x04, 0x03, 0x02, 0x01, 0x1f, 0x90, 3, 0, 192, 0, 2, 1, 0, 0, 0, 0];
        assert_eq!(words[..width].as_bytes(), expected);

        let key = BackendKey { address: "2001:db8::7".parse().unwrap(), port: 80, local: false };
        let (words, width) = BackendRow { family: IpFamily::V6, key, draining: false, ..row }.words();
        assert_eq!(words[..width].as_bytes()[..12], [4, 3, 2, 1, 0, 80, 0, 0, 0x20, 1, 0x0d, 0xb8]);
        assert_eq!(words[..width].as_bytes()[20..], [0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn lists_begin_with_a_header() {
        let mut words = vec![9];
        list_words(&[BackendRef::new(1, 2), BackendRef::new(3, 4)], &mut words);
        assert_eq!(words, [2, 0, 0, 0, 2 << 32 | 1, 4 << 32 | 3]);
        assert_eq!([0, 4, 5, 12, 13].map(ListRow::lines), [1, 1, 2, 2, 3]);
    }
}
