//! Why bytes are no event.

use crate::abi::ABI_VERSION;

/// Why bytes are no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// They are fewer than the head of a record has.
    #[error("an event record of {length} bytes has no whole head")]
    NoHead {
        /// How many there are.
        length: usize,
    },

    /// The record is of another version: programs and reader are not of one build.
    #[error(
        "an event record of layout {version}, and this reads layout {ABI_VERSION}: load programs of the same build"
    )]
    Version {
        /// What it says.
        version: u16,
    },

    /// There is no such kind of event.
    #[error("an event record of kind {kind}, which there is not")]
    Kind {
        /// What it says.
        kind: u8,
    },

    /// There is no such address family.
    #[error("an event record of address family {family}, which is neither 4 nor 6")]
    Family {
        /// What it says.
        family: u8,
    },

    /// It is longer or shorter than records of its kind.
    #[error("an event record of {length} bytes, where its kind has {wanted}")]
    Length {
        /// How many bytes there are.
        length: usize,
        /// How many there should be.
        wanted: usize,
    },

    /// There is no such hook, or none where there should be one, or one where there should be none.
    #[error("an event record of hook {hook}, which its kind can't have")]
    Hook {
        /// What it says.
        hook: u8,
    },

    /// There is no such reason for events of this kind.
    #[error("an event record with reason {reason}, which its kind can't have")]
    Reason {
        /// What it says.
        reason: u8,
    },

    /// Flows are of TCP or UDP.
    #[error("an event record of a flow of protocol {protocol}, which is neither TCP nor UDP")]
    Protocol {
        /// What it says.
        protocol: u8,
    },

    /// A flag that there is not, or that its kind can't have.
    #[error("an event record with flags {flags:#x}, which its kind can't have")]
    Flags {
        /// What it says.
        flags: u8,
    },

    /// A field says something that its kind does not have, or a byte that means nothing is not 0.
    #[error("an event record with something in field {field}, where its kind has nothing")]
    NotZero {
        /// The field.
        field: &'static str,
    },
}
