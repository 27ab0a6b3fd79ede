//! Netlink messages as bytes: a header, a fixed struct, attributes (linux/netlink.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// In front of each message.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Header {
    pub length: u32,
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub port: u32,
}

/// Marks an attribute that holds attributes.
const NESTED: u16 = 0x8000;
/// The bits of an attribute's type that are its number.
const NUMBER: u16 = 0x3fff;

/// A message that is being written.
#[derive(Debug)]
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A message of a kind, with its fixed struct. Its length is filled in by [`finish`](Self::finish).
    pub(super) fn new<T: IntoBytes + Immutable>(kind: u16, flags: u16, fixed: &T) -> Self {
        let request = u16::try_from(libc::NLM_F_REQUEST).unwrap_or(1);
        let header = Header { length: 0, kind, flags: flags | request, sequence: 0, port: 0 };
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(fixed.as_bytes());
        let mut request = Self { bytes };
        request.align();
        request
    }

    /// Adds an attribute.
    #[must_use]
    pub(super) fn attribute(mut self, number: u16, value: &[u8]) -> Self {
        self.push(number, value);
        self
    }

    /// Adds an attribute that holds a string, ended by a zero.
    #[must_use]
    pub(super) fn text(self, number: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(number, &bytes)
    }

    /// Adds an attribute that holds attributes.
    #[must_use]
    pub(super) fn nest(mut self, number: u16, inner: impl FnOnce(Self) -> Self) -> Self {
        let nested = inner(Self { bytes: Vec::new() });
        self.push(number | NESTED, &nested.bytes);
        self
    }

    /// The bytes, with length and sequence number.
    pub(super) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        if let Ok((header, _)) = Header::mut_from_prefix(&mut self.bytes) {
            header.length = length;
            header.sequence = sequence;
        }
        self.bytes
    }

    fn push(&mut self, number: u16, value: &[u8]) {
        let length = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&number.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The attributes in some bytes; what is cut off ends them.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(read::<u16>(bytes)?);
        let number = read::<u16>(bytes.get(2..)?)? & NUMBER;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((number, value))
    })
}

/// The value of one attribute.
pub(super) fn find(bytes: &[u8], number: u16) -> Option<&[u8]> {
    attributes(bytes).find(|&(found, _)| found == number).map(|(_, value)| value)
}

/// An integer in the host's byte order.
pub(super) fn read<T: FromBytes>(bytes: &[u8]) -> Option<T> {
    T::read_from_prefix(bytes).ok().map(|(value, _)| value)
}

/// A string that may end with a zero.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_laid_out_as_the_kernel_reads_it() {
        let bytes = Request::new(18, 0x300, &[1u8, 2, 3, 4])
            .attribute(3, b"lo\0")
            .nest(18, |inner| inner.text(1, "veth"))
            .finish(7);
        let expected: Vec<u8> = [
            &44u32.to_ne_bytes()[..],
            &18u16.to_ne_bytes(),
            &0x301u16.to_ne_bytes(),
            &7u32.to_ne_bytes(),
            &[0; 4],
            &[1, 2, 3, 4],
            &7u16.to_ne_bytes(),
            &3u16.to_ne_bytes(),
            b"lo\0\0",
            &16u16.to_ne_bytes(),
            &(18u16 | 0x8000).to_ne_bytes(),
            &9u16.to_ne_bytes(),
            &1u16.to_ne_bytes(),
            b"veth\0\0\0\0",
        ]
        .concat();
        assert_eq!(bytes, expected);
        let body = &bytes[20..];
        assert_eq!(find(body, 3).map(text).as_deref(), Some("lo"));
        assert_eq!(find(body, 18).and_then(|inner| find(inner, 1)).map(text).as_deref(), Some("veth"));
        assert_eq!(find(body, 4), None);
    }

    #[test]
    fn cut_off_attributes_end_the_list() {
        let bytes = Request { bytes: Vec::new() }.attribute(1, &[9; 5]).attribute(2, &[8; 4]).bytes;
        for length in 0..bytes.len() {
            assert!(attributes(&bytes[..length]).count() <= 1);
        }
        assert_eq!(attributes(&[0; 64]).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0, 0, 0]).count(), 0);
    }
}
