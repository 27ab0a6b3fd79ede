//! Frames for tests, byte by byte, without the headers of `dataplane-core`: an oracle must not share the code that it
//! judges.
//!
//! ```
//! use dataplane_testkit::frames::{Dissected, Frame, flags};
//!
//! let syn = Frame::tcp("192.0.2.1:1234".parse()?, "203.0.113.10:80".parse()?, flags::SYN).build();
//! let seen = Dissected::of(&syn).ok_or("no IP packet")?;
//! assert!(seen.checksums_hold());
//! assert_eq!(seen.destination.port(), 80);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod build;
mod dissect;
mod parts;
mod random;

pub use build::{Extension, Frame, Transport, flags};
pub use dissect::{Dissected, icmp_checksums_hold};
pub use parts::{join, split};
pub use random::Rng;

/// The checksum of RFC 1071 over several pieces, by the book: big-endian words, one after the other.
pub(crate) fn checksum(pieces: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = pieces.concat();
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        if sum > 0xffff {
            sum -= 0xffff;
        }
    }
    !(sum as u16)
}
