//! From the model to rows: what stands where in the tables, and in which words.
//!
//! The functions are pure: [`shares`], [`maglev_table`], [`list_words`], the rows' words. What they need to be given are places: of
//! lists in the slot table ([`Lines`]), of backends and of frontends. The allocators are plain values that know nothing
//! of tables.

mod backends;
mod indexes;
mod lines;
mod maglev;
mod rows;
mod shares;

pub(crate) use backends::{Backends, Loss};
pub(crate) use indexes::Indexes;
pub use lines::Lines;
pub use maglev::maglev_table;
pub(crate) use rows::FoundBackend;
pub use rows::{BackendRow, FrontendRow, ListKind, ListRow, Rows, ServiceKey, list_words};
pub use shares::{BackendKey, Share, shares};
