//! One write to one table.

use crate::compile::{BackendRow, FrontendRow, ListRow};

/// One write to one table. Each may be repeated: the second time it changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op {
    /// Writes a backend to a place where nobody stands.
    WriteBackend(BackendRow),
    /// Writes a list where no word points to.
    WriteList(ListRow),
    /// Points a frontend to a list.
    SetWord {
        /// The frontend.
        frontend: FrontendRow,
        /// The list's first line.
        base: u32,
    },
    /// Puts a frontend into the hash.
    InsertFrontend(FrontendRow),
    /// Takes a frontend out of the hash.
    RemoveFrontend(FrontendRow),
    /// Points a frontend nowhere.
    ClearWord(FrontendRow),
}

impl Op {
    /// How many steps there are.
    pub const STEPS: usize = 6;

    /// Which step it belongs to: operations of an earlier step come first, those of several services too.
    pub fn step(&self) -> usize {
        match self {
            Self::WriteBackend(_) => 0,
            Self::WriteList(_) => 1,
            Self::SetWord { .. } => 2,
            Self::InsertFrontend(_) => 3,
            Self::RemoveFrontend(_) => 4,
            Self::ClearWord(_) => 5,
        }
    }
}
