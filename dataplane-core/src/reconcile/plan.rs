//! From what may stand in the tables to what is to stand there.

use super::Op;
use crate::compile::{FrontendRow, Rows};

/// What may stand in the tables of a service. What is not mentioned does not stand there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Indexes of backends that surely stand as the rows want them, rising.
    pub backends: Vec<u32>,
    /// First line of a list that surely stands.
    pub list: Option<u32>,
    /// Frontends that the service has or had, by rising index.
    pub frontends: Vec<FrontendFootprint>,
}

/// What may stand in the tables of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontendFootprint {
    /// The frontend.
    pub row: FrontendRow,
    /// Whether the hash has it.
    pub listed: Presence,
    /// Where its word points to.
    pub word: Word,
}

/// Whether something stands in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It does not.
    Absent,
    /// A write failed that may have happened.
    Unsure,
    /// It does.
    Present,
}

/// Where a frontend's word points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Nowhere.
    Clear,
    /// A write failed that may have happened.
    Unsure,
    /// To the list that begins at this line.
    List(u32),
}

/// The operations that lead from `footprint` to `rows`, in their order. Where nothing differs there are none.
pub fn plan(rows: Rows, footprint: &Footprint) -> Vec<Op> {
    let Rows { backends, list, frontends } = rows;
    let mut ops = Vec::with_capacity(backends.len() - footprint.backends.len().min(backends.len()) + 3);
    let missing = backends.into_iter().filter(|row| footprint.backends.binary_search(&row.index).is_err());
    ops.extend(missing.map(Op::WriteBackend));

    let base = list.as_ref().map(|list| list.base);
    if let Some(list) = list
        && footprint.list != base
    {
        ops.push(Op::WriteList(list));
    }
    let standing = |row: &FrontendRow| {
        let place = footprint.frontends.binary_search_by_key(&row.index, |standing| standing.row.index);
        place.ok().map(|place| &footprint.frontends[place])
    };
    if let Some(base) = base {
        let wrong =
            frontends.iter().filter(|row| standing(row).is_none_or(|found| found.word != Word::List(base)));
        ops.extend(wrong.map(|&frontend| Op::SetWord { frontend, base }));
        let unlisted = frontends
            .iter()
            .filter(|row| standing(row).is_none_or(|found| found.listed != Presence::Present));
        ops.extend(unlisted.map(|&row| Op::InsertFrontend(row)));
    }

    // Both are small but for the frontends of a service that has thousands: sorted, they are compared in one pass.
    let mut wanted: Vec<u32> = match base {
        Some(_) => frontends.iter().map(|row| row.index).collect(),
        None => Vec::new(),
    };
    wanted.sort_unstable();
    let surplus = footprint.frontends.iter().filter(|found| wanted.binary_search(&found.row.index).is_err());
    let surplus: Vec<&FrontendFootprint> = surplus.collect();
    let listed = surplus.iter().filter(|found| found.listed != Presence::Absent);
    ops.extend(listed.map(|found| Op::RemoveFrontend(found.row)));
    let pointing = surplus.iter().filter(|found| found.word != Word::Clear);
    ops.extend(pointing.map(|found| Op::ClearWord(found.row)));
    ops
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        abi::BackendRef,
        compile::{BackendKey, BackendRow, ListKind, ListRow},
        model::{Affinity, Frontend, IpFamily, Masquerade, Protocol},
    };

    fn frontend(index: u32) -> FrontendRow {
        let address = "203.0.113.1".parse().unwrap();
        FrontendRow { frontend: Frontend::new(address, 80 + index as u16, Protocol::Tcp).unwrap(), index }
    }

    fn backend(index: u32) -> BackendRow {
        let key = BackendKey { address: "192.0.2.1".parse().unwrap(), port: 80 + index as u16, local: false };
        BackendRow { family: IpFamily::V4, index, generation: 1, key, draining: false }
    }

    fn rows(base: u32, backends: &[u32], frontends: &[u32]) -> Rows {
        Rows {
            backends: backends.iter().copied().map(backend).collect(),
            list: Some(ListRow {
                base,
                entries: backends.iter().map(|&b| BackendRef::new(b, 1)).collect(),
                kind: ListKind::Random,
                masquerade: Masquerade::Never,
                affinity: Affinity::None,
            }),
            frontends: frontends.iter().copied().map(frontend).collect(),
        }
    }

    fn found(index: u32, listed: Presence, word: Word) -> FrontendFootprint {
        FrontendFootprint { row: frontend(index), listed, word }
    }

    #[test]
    fn what_is_pointed_to_is_written_before_what_points_to_it() {
        let rows = rows(7, &[1, 2], &[4]);
        let list = rows.list.clone().unwrap();
        let expected = [
            Op::WriteBackend(backend(1)),
            Op::WriteBackend(backend(2)),
            Op::WriteList(list),
            Op::SetWord { frontend: frontend(4), base: 7 },
            Op::InsertFrontend(frontend(4)),
        ];
        assert_eq!(plan(rows, &Footprint::default()), expected);
    }

    #[test]
    fn nothing_is_written_where_nothing_differs() {
        let footprint = Footprint {
            backends: vec![1, 2],
            list: Some(7),
            frontends: vec![found(4, Presence::Present, Word::List(7))],
        };
        assert_eq!(plan(rows(7, &[1, 2], &[4]), &footprint), []);
    }

    #[test]
    fn a_change_switches_words_and_removes_what_is_surplus_last() {
        let footprint = Footprint {
            backends: vec![1],
            list: None,
            frontends: vec![
                found(4, Presence::Present, Word::List(3)),
                found(5, Presence::Present, Word::List(3)),
                found(6, Presence::Absent, Word::Unsure),
            ],
        };
        let ops = plan(rows(7, &[1], &[4]), &footprint);
        let expected = [
            Op::WriteList(rows(7, &[1], &[]).list.unwrap()),
            Op::SetWord { frontend: frontend(4), base: 7 },
            Op::RemoveFrontend(frontend(5)),
            Op::ClearWord(frontend(5)),
            Op::ClearWord(frontend(6)),
        ];
        assert_eq!(ops, expected);
        assert!(ops.is_sorted_by_key(Op::step));
    }

    #[test]
    fn what_is_unsure_is_written_again() {
        let footprint = Footprint {
            backends: vec![1],
            list: Some(7),
            frontends: vec![found(4, Presence::Unsure, Word::Unsure)],
        };
        let expected = [Op::SetWord { frontend: frontend(4), base: 7 }, Op::InsertFrontend(frontend(4))];
        assert_eq!(plan(rows(7, &[1], &[4]), &footprint), expected);
    }
}
