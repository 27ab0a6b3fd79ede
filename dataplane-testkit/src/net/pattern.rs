//! Bytes whose place in a stream can be told from their value: lost, doubled and moved pieces all show.

/// Fills a piece of the stream that begins at `offset`.
pub(super) fn fill(offset: u64, piece: &mut [u8]) {
    let mut at = offset;
    let mut rest = piece;
    while !rest.is_empty() {
        let within = (at % WORD) as usize;
        let word = word(at / WORD);
        let length = rest.len().min(word.len() - within);
        let (now, later) = rest.split_at_mut(length);
        now.copy_from_slice(&word[within..within + length]);
        at += length as u64;
        rest = later;
    }
}

/// Checks a stream against the pattern as its pieces arrive.
#[derive(Debug, Clone, Default)]
pub(super) struct Verifier {
    offset: u64,
    first_difference: Option<u64>,
}

impl Verifier {
    pub(super) fn check(&mut self, piece: &[u8]) {
        let mut expected = [0; 4096];
        for chunk in piece.chunks(expected.len()) {
            let expected = &mut expected[..chunk.len()];
            fill(self.offset, expected);
            if self.first_difference.is_none() && expected != chunk {
                let place = expected.iter().zip(chunk).take_while(|(a, b)| a == b).count();
                self.first_difference = Some(self.offset + place as u64);
            }
            self.offset += chunk.len() as u64;
        }
    }

    /// Bytes seen.
    pub(super) fn length(&self) -> u64 {
        self.offset
    }

    /// The offset of the first byte that is not the pattern's.
    pub(super) fn first_difference(&self) -> Option<u64> {
        self.first_difference
    }
}

const WORD: u64 = 8;

/// The finaliser of SplitMix64: every word of a stream differs from every other, cheaply.
fn word(index: u64) -> [u8; 8] {
    let mut x = index.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        fill(0, &mut bytes);
        bytes
    }

    #[test]
    fn pieces_join_to_the_whole() {
        let whole = stream(1000);
        for size in [1, 3, 7, 8, 9, 64, 999] {
            let mut pieces = vec![0; 1000];
            for (index, piece) in pieces.chunks_mut(size).enumerate() {
                fill((index * size) as u64, piece);
            }
            assert_eq!(pieces, whole, "pieces of {size}");
        }
    }

    #[test]
    fn the_pattern_passes_in_pieces_of_any_size() {
        let mut verifier = Verifier::default();
        let whole = stream(20_000);
        for piece in whole.chunks(4999) {
            verifier.check(piece);
        }
        assert_eq!((verifier.length(), verifier.first_difference()), (20_000, None));
    }

    #[test]
    fn a_changed_lost_or_doubled_byte_is_found_where_it_is() {
        for place in [0, 1, 4095, 4096, 9000] {
            let mut changed = stream(10_000);
            changed[place] ^= 1;
            let mut lost = stream(10_000);
            lost.remove(place);
            let mut doubled = stream(10_000);
            doubled.splice(place..place, [0xaa; 4096]);
            for (what, bytes) in [("changed", changed), ("lost", lost), ("doubled", doubled)] {
                let mut verifier = Verifier::default();
                verifier.check(&bytes);
                let found = verifier.first_difference().unwrap();
                // A lost byte may equal its follower; then the difference shows a little later.
                assert!(
                    found >= place as u64 && found < place as u64 + 4,
                    "{what} at {place}, found at {found}"
                );
            }
        }
    }
}
