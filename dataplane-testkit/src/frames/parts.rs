//! Packets in parts: split as a sender does it, and put together as a receiver does.

use super::{Frame, checksum};

/// Splits an untagged frame into frames whose parts have `size` bytes each (a multiple of 8), the last one the rest. IPv6
/// extension headers are split with what follows them.
pub fn split(frame: &Frame, identification: u32, size: usize) -> Vec<Vec<u8>> {
    assert!(size.is_multiple_of(8) && frame.tags.is_empty(), "parts of {size} bytes, {:?}", frame.tags);
    let whole = frame.build();
    let header = if frame.source.is_ipv4() { usize::from(whole[14] & 15) * 4 } else { 40 };
    let (front, payload) = whole.split_at(14 + header);
    let count = payload.chunks(size).count();
    let part = |(number, bytes): (usize, &[u8])| {
        let (at, more) = (number * size / 8, number + 1 < count);
        let mut part = front.to_vec();
        if frame.source.is_ipv4() {
            part[16..18].copy_from_slice(&((header + bytes.len()) as u16).to_be_bytes());
            part[18..20].copy_from_slice(&(identification as u16).to_be_bytes());
            part[20..22].copy_from_slice(&(at as u16 | if more { 0x2000 } else { 0 }).to_be_bytes());
            part[24..26].fill(0);
            let sum = checksum(&[&part[14..]]);
            part[24..26].copy_from_slice(&sum.to_be_bytes());
        } else {
            part[18..20].copy_from_slice(&((8 + bytes.len()) as u16).to_be_bytes());
            part.extend([front[20], 0]);
            part[20] = 44;
            part.extend(((at as u16) << 3 | u16::from(more)).to_be_bytes());
            part.extend(identification.to_be_bytes());
        }
        [&part, bytes].concat()
    };
    payload.chunks(size).enumerate().map(part).collect()
}

/// Puts the parts of one packet together, in whatever order they are: the frame that [`split`] took apart. `None` where they
/// do not make one, say they are of different packets, or a checksum of an IPv4 header is wrong.
pub fn join(parts: &[impl AsRef<[u8]>]) -> Option<Vec<u8>> {
    let mut pieces = Vec::new();
    for part in parts {
        let bytes = part.as_ref();
        let is_v4 = bytes.get(12..14)? == [0x08, 0x00];
        let (header, network) = if is_v4 {
            let header = usize::from(bytes.get(14)? & 15) * 4;
            (14 + header, bytes.get(14..14 + header)?)
        } else {
            (14 + 40, bytes.get(14..14 + 40)?)
        };
        let (identity, field, payload) = if is_v4 {
            if checksum(&[network]) != 0 {
                return None;
            }
            let word = u16::from_be_bytes([network[6], network[7]]);
            let identity = [&network[4..6], &network[9..10], &network[12..20]].concat();
            (identity, (word & 0x1fff) << 3 | word >> 13, bytes.get(header..)?)
        } else {
            let fragment = bytes.get(header..header + 8).filter(|_| network[6] == 44)?;
            let identity = [&fragment[4..8], &network[8..40]].concat();
            (identity, u16::from_be_bytes([fragment[2], fragment[3]]), bytes.get(header + 8..)?)
        };
        pieces.push((usize::from(field & 0xfff8), field & 1 != 0, identity, bytes, payload));
    }
    pieces.sort();
    let mut payload = Vec::new();
    for (number, (at, more, identity, _, bytes)) in pieces.iter().enumerate() {
        if *at != payload.len() || *more == (number + 1 == pieces.len()) || *identity != pieces[0].2 {
            return None;
        }
        payload.extend_from_slice(bytes);
    }
    let first = pieces.first()?.3;
    if first[12..14] == [0x08, 0x00] {
        let header = usize::from(first[14] & 15) * 4;
        let mut front = first[..14 + header].to_vec();
        front[16..18].copy_from_slice(&((header + payload.len()) as u16).to_be_bytes());
        front[20..22].fill(0);
        front[24..26].fill(0);
        let sum = checksum(&[&front[14..]]);
        front[24..26].copy_from_slice(&sum.to_be_bytes());
        return Some([front, payload].concat());
    }
    let mut front = first[..54].to_vec();
    front[18..20].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    front[20] = first[54];
    Some([front, payload].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_split_comes_together() {
        for [source, destination] in
            [["192.0.2.1:1", "203.0.113.10:53"], ["[2001:db8::1]:1", "[2001:db8::2]:53"]]
        {
            let mut frame = Frame::udp(source.parse().unwrap(), destination.parse().unwrap());
            (frame.identification, frame.fragment) = (77, 0);
            frame.payload = (0..100).collect();
            let mut parts = split(&frame, 77, 24);
            assert_eq!(parts.len(), 5);
            parts.reverse();
            assert_eq!(join(&parts).unwrap(), frame.build());
            assert!(join(&parts[1..]).is_none() && join(&parts[..4]).is_none());
            let other = split(&frame, 78, 24);
            assert!(join(&[&parts[..4], &other[..1]].concat()).is_none());
        }
    }
}
