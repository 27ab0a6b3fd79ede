//! wip
#![forbid(unsafe_code)]
#![allow(missing_docs)]
mod context;
mod convert;
mod document;
mod errors;
mod picture;
mod read;
mod schema;
mod yaml;

pub use errors::{Error, Errors, Place, Position, Problem};
pub use picture::{Picture, parse, parse_bytes};
pub use schema::schema;

/// The most bytes of all documents together: 64 MiB.
pub const MAX_BYTES: usize = 64 << 20;
