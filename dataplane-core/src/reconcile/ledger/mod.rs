//! What may stand in the tables, and what is free there.

mod addresses;
mod departure;
mod found;
mod reserved;

use hashbrown::HashMap;

pub(crate) use self::departure::Departure;
pub(super) use self::found::NOBODY;
use self::{addresses::Addresses, found::Found, reserved::Reserved};
use super::{Footprint, FrontendFootprint, Presence, Word, limbo::Release, unheld::Unheld};
use crate::{
    abi::{BackendRef, SLOT_LINE_WORDS, map},
    compile::{
        BackendRow, Backends, FrontendRow, Indexes, Lines, ListKind, ListRow, Loss, Rows, Share, shares,
    },
    model::{Affinity, Choice, Frontend, IpFamily, Masquerade, Service},
    slab::Slab,
    state::{Refusal, ServiceId, Traffic},
};

/// How much of the tables is taken, by what serves and by what waits for a grace period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Frontends that stand in the hash tables, or may.
    pub frontends: u32,
    /// Indexes of frontends.
    pub frontend_indexes: u32,
    /// Lists of backends.
    pub lists: u32,
    /// Lines of the slot table.
    pub lines: u32,
    /// Holes between them, and the free room behind them.
    pub holes: u32,
    /// IPv4 backends.
    pub backends_v4: u32,
    /// IPv6 backends.
    pub backends_v6: u32,
    /// Things that wait for a grace period or for their release.
    pub limbo: u32,
    /// Frontends that stood in the tables when the controller began, and that no service has named yet.
    pub unclaimed: u32,
}

/// What may stand in the tables. Every write is noted before it is tried and again when it succeeded.
#[derive(Debug)]
pub(super) struct Ledger {
    /// What Maglev tables are made with.
    seed: u64,
    backends_v4: Backends,
    backends_v6: Backends,
    lines: Lines,
    indexes: Indexes,
    frontends: HashMap<Frontend, Standing>,
    pub addresses: Addresses,
    listed_v4: Room,
    listed_v6: Room,
    lists: Slab<List>,
    /// The current list of each service.
    services: Vec<Option<u32>>,
    batch: u64,
    pub unheld: Unheld,
    /// Backends that stand and that services name which wait for room: they are held for them.
    reserved: HashMap<ServiceId, Reserved>,
    /// What lost its last holder since this was last taken.
    pub unlinked: Vec<Release>,
    /// Scratch.
    held: Vec<Held>,
    found: Found,
}

/// Entries of a hash table.
#[derive(Debug)]
struct Room {
    table: &'static str,
    taken: u32,
    capacity: u32,
}

/// A frontend that may stand in the tables.
#[derive(Debug)]
struct Standing {
    index: u32,
    /// The service that was last to have it.
    holder: ServiceId,
    /// When that was.
    batch: u64,
    listed: Presence,
    word: Pointer,
}

/// The lists that a word may point to. Each counts it as one user.
#[derive(Debug, Default)]
enum Pointer {
    #[default]
    Clear,
    Sure(u32),
    Unsure(Vec<u32>),
}

/// A list in the slot table.
#[derive(Debug)]
struct List {
    family: IpFamily,
    choice: Choice,
    masquerade: Masquerade,
    affinity: Affinity,
    base: u32,
    lines: u32,
    /// Words that may point to it, and the service whose current list it is.
    users: u32,
    written: bool,
    /// By rising index. Those that stand in the list no times, too.
    held: Box<[Held]>,
}

impl List {
    /// Whether it holds the backend of this place.
    fn holds(&self, backend: u32) -> bool {
        self.held.binary_search_by_key(&backend, |held| held.index).is_ok()
    }
}

/// A backend that a list holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    index: u32,
    times: u16,
}

impl Held {
    /// Whether the list sends it new flows.
    fn is_selected(self) -> bool {
        self.times > 0
    }
}

impl Ledger {
    pub fn usage(&self) -> Usage {
        Usage {
            frontends: self.frontends.len() as u32,
            frontend_indexes: self.indexes.taken(),
            lists: self.lists.len() as u32,
            lines: self.lines.capacity() - self.lines.free(),
            holes: self.lines.holes() as u32,
            backends_v4: self.backends_v4.taken(),
            backends_v6: self.backends_v6.taken(),
            limbo: 0,
            unclaimed: self.unclaimed(),
        }
    }

    /// Finds room for a service as it is to be, and tells what it is to be in the tables and what may stand there.
    /// `gone` are frontends that nobody is to have.
    ///
    /// # Errors
    /// [`Refusal`]: there is no room, and nothing has changed, but that backends which stand are held for it: see
    /// [`Self::give_up`].
    pub fn prepare(
        &mut self,
        id: ServiceId,
        service: Option<&Service>,
        frontends: &[Frontend],
        gone: &[Frontend],
    ) -> Result<(Rows, Footprint), Refusal> {
        for frontend in gone {
            // An index was kept for it, and nothing was written.
            self.forget_if_gone(frontend);
        }
        let reserved = self.reserved.remove(&id);
        let service = service.filter(|_| !frontends.is_empty());
        let prepared = match service {
            Some(service) => self.stand_all(id, service, frontends, gone),
            None => {
                self.set_current(id, None);
                Ok((Rows::default(), self.footprint(None, &[], gone)))
            }
        };
        if let (Err(_), Some(service)) = (&prepared, service) {
            self.reserve(id, service);
        }
        self.let_reserved_go(reserved);
        prepared
    }

    fn stand_all(
        &mut self,
        id: ServiceId,
        service: &Service,
        frontends: &[Frontend],
        gone: &[Frontend],
    ) -> Result<(Rows, Footprint), Refusal> {
        self.check_frontends(service.family(), frontends)?;
        let list = self.find_list(id, service, frontends)?;
        let mut rows = Vec::with_capacity(frontends.len());
        for frontend in frontends {
            // There is room: it was checked before anything was changed.
            rows.extend(self.stand(id, frontend).map(|index| FrontendRow { frontend: *frontend, index }));
        }
        let footprint = self.footprint(Some(list), &rows, gone);
        Ok((self.rows(list, rows), footprint))
    }

    /// Several services are prepared together, and their plans are carried out together.
    pub fn begin_batch(&mut self) {
        self.batch += 1;
    }

    /// What may stand of frontends that nobody can have, because who won them was refused. Those that another service of
    /// this batch is about to have are none of them.
    pub fn orphans(&mut self, refused: ServiceId, frontends: &[Frontend]) -> Footprint {
        let of_others: Vec<Frontend> = frontends
            .iter()
            .filter(|frontend| {
                let standing = self.frontends.get(*frontend);
                standing.is_some_and(|found| {
                    // What was found may be its own.
                    !Self::is_nobodys(found) && found.holder != refused && found.batch != self.batch
                })
            })
            .copied()
            .collect();
        for frontend in &of_others {
            self.forget_if_gone(frontend);
        }
        self.footprint(None, &[], &of_others)
    }

    fn check_frontends(&self, family: IpFamily, frontends: &[Frontend]) -> Result<(), Refusal> {
        let new = frontends.iter().filter(|frontend| !self.frontends.contains_key(*frontend)).count() as u32;
        let room = match family {
            IpFamily::V4 => &self.listed_v4,
            IpFamily::V6 => &self.listed_v6,
        };
        let free = room.capacity.saturating_sub(room.taken);
        if new > free {
            return Err(Refusal::NoRoom { table: room.table, needed: new, free, capacity: room.capacity });
        }
        let free = self.indexes.free();
        if new > free {
            let capacity = self.indexes.capacity();
            return Err(Refusal::NoRoom { table: map::SERVICE_WORDS, needed: new, free, capacity });
        }
        Ok(())
    }

    /// The list of a service as it is to be: the current one where its entries are the same, else a new one.
    fn find_list(
        &mut self,
        id: ServiceId,
        service: &Service,
        frontends: &[Frontend],
    ) -> Result<u32, Refusal> {
        let family = service.family();
        let mut held = std::mem::take(&mut self.held);
        held.clear();
        let found = self.hold_all(family, service, &mut held).and_then(|()| {
            let current = self.services.get(id.0 as usize).copied().flatten();
            let current = current.filter(|&list| self.has_entries(list, service, &held));
            match current {
                Some(list) => {
                    self.rehold(list, &held, frontends);
                    Ok(list)
                }
                None => match self.claim_list(id, service, &held, frontends) {
                    Some(list) => Ok(list),
                    None => self.new_list(id, service, &held),
                },
            }
        });
        if found.is_err() {
            for held in held.drain(..) {
                self.undo_hold(family, held.index, held.is_selected());
            }
        }
        self.held = held;
        found
    }

    fn hold_all(&mut self, family: IpFamily, service: &Service, held: &mut Vec<Held>) -> Result<(), Refusal> {
        let pool = self.backends(family);
        for share in shares(service) {
            held.push(Held { index: pool.hold(share.backend, share.times > 0)?, times: share.times });
        }
        held.sort_unstable_by_key(|held| held.index);
        Ok(())
    }

    /// Counts a holder less that was counted a moment ago. Nobody wrote a backend yet that only this attempt held.
    fn undo_hold(&mut self, family: IpFamily, index: u32, selected: bool) {
        let stood = self.unheld.contains(family, index);
        let pool = self.backends(family);
        if pool.let_go(index, selected) == Loss::LastHolder && !stood && pool.retire(index) {
            pool.give_back(index);
        }
    }

    /// A backend that nobody holds or can name soon, and that has no place any more: its generation must be cleared.
    pub fn next_unheld(&mut self, traffic: Traffic) -> Option<(IpFamily, u32)> {
        loop {
            let (family, index) = self.unheld.next(traffic)?;
            if self.backends(family).retire(index) {
                return Some((family, index));
            }
        }
    }

    /// Whether a list has these entries, chosen from in this service's way.
    fn has_entries(&self, list: u32, service: &Service, held: &[Held]) -> bool {
        self.lists.get(list).is_some_and(|list| {
            let entries =
                |held: &'_ [Held]| held.iter().filter(|held| held.is_selected()).copied().collect::<Vec<_>>();
            (list.family, list.choice, list.masquerade, list.affinity)
                == (service.family(), service.choice(), service.masquerade(), service.affinity())
                && (&*list.held == held || entries(&list.held) == entries(held))
        })
    }

    /// Lets a list of these frontends hold other backends that take no new flows.
    fn rehold(&mut self, list: u32, held: &[Held], frontends: &[Frontend]) {
        let Some(list) = self.lists.get_mut(list) else {
            return;
        };
        let family = list.family;
        let old = if &*list.held == held {
            held.to_vec()
        } else {
            std::mem::replace(&mut list.held, held.into()).into_vec()
        };
        for old in old {
            if held.binary_search_by_key(&old.index, |held| held.index).is_ok() {
                // It was held once more a moment ago, in the same way.
                self.backends(family).let_go(old.index, old.is_selected());
            } else {
                // Only what took no new flows can be missing: the entries are the same.
                for frontend in frontends {
                    self.departs(family, old.index, frontend);
                }
                self.unlinked.push(Release::Holder(family, old.index));
            }
        }
    }

    fn new_list(&mut self, id: ServiceId, service: &Service, held: &[Held]) -> Result<u32, Refusal> {
        let (family, choice) = (service.family(), service.choice());
        let selected = held.iter().filter(|held| held.is_selected()).count() as u32;
        let lines = ListRow::lines(choice, selected, held.iter().map(|held| u32::from(held.times)).sum());
        let Some(base) = self.lines.take(lines) else {
            let words = |lines: u32| lines.saturating_mul(SLOT_LINE_WORDS);
            return Err(Refusal::NoRoom {
                table: map::SLOTS,
                needed: words(lines),
                free: words(self.lines.free()),
                capacity: words(self.lines.capacity()),
            });
        };
        let (masquerade, affinity) = (service.masquerade(), service.affinity());
        let list = List {
            family,
            choice,
            masquerade,
            affinity,
            base,
            lines,
            users: 0,
            written: false,
            held: held.into(),
        };
        let list = self.lists.insert(list);
        self.set_current(id, Some(list));
        Ok(list)
    }

    /// The index of a frontend that is to stand; a new one where it does not stand yet.
    fn stand(&mut self, id: ServiceId, frontend: &Frontend) -> Option<u32> {
        if let Some(standing) = self.frontends.get_mut(frontend) {
            standing.holder = id;
            standing.batch = self.batch;
            return Some(standing.index);
        }
        let index = self.indexes.take()?;
        self.room(frontend).taken += 1;
        let (listed, word) = (Presence::Absent, Pointer::Clear);
        let standing = Standing { index, holder: id, batch: self.batch, listed, word };
        self.frontends.insert(*frontend, standing);
        Some(index)
    }

    fn rows(&self, list: u32, frontends: Vec<FrontendRow>) -> Rows {
        let Some(list) = self.lists.get(list) else {
            return Rows::default();
        };
        let pool = self.backends_of(list.family);
        let backends: Vec<BackendRow> = list.held.iter().map(|held| pool.row(held.index)).collect();
        let list = self.list_row(list, &backends);
        Rows { backends, list: Some(list), frontends }
    }

    /// The row of a list whose backends have these rows.
    fn list_row(&self, list: &List, backends: &[BackendRow]) -> ListRow {
        let held = || backends.iter().zip(&list.held);
        let (masquerade, affinity) = (list.masquerade, list.affinity);
        match list.choice {
            Choice::Random => {
                let times: usize = list.held.iter().map(|held| usize::from(held.times)).sum();
                let mut entries: Vec<BackendRef> = Vec::with_capacity(times);
                for (row, held) in held() {
                    entries.extend(std::iter::repeat_n(row.reference(), held.times.into()));
                }
                ListRow {
                    base: list.base,
                    entries: entries.into(),
                    kind: ListKind::Random,
                    masquerade,
                    affinity,
                }
            }
            Choice::Maglev(size) => {
                let selected = || held().filter(|(_, held)| held.is_selected());
                let shares = selected().map(|(row, held)| Share { backend: row.key, times: held.times });
                let kind = ListKind::Maglev { size, seed: self.seed, shares: shares.collect() };
                ListRow {
                    base: list.base,
                    entries: selected().map(|(row, _)| row.reference()).collect(),
                    kind,
                    masquerade,
                    affinity,
                }
            }
        }
    }

    fn footprint(&self, list: Option<u32>, rows: &[FrontendRow], gone: &[Frontend]) -> Footprint {
        let list = list.and_then(|list| self.lists.get(list));
        let mut backends = Vec::new();
        if let Some(list) = list {
            let pool = self.backends_of(list.family);
            backends.extend(list.held.iter().map(|held| held.index).filter(|&index| pool.is_written(index)));
        }
        let mut frontends: Vec<FrontendFootprint> = Vec::with_capacity(rows.len() + gone.len());
        for frontend in rows.iter().map(|row| &row.frontend).chain(gone) {
            let Some(standing) = self.frontends.get(frontend) else {
                continue;
            };
            let word = match &standing.word {
                Pointer::Clear => Word::Clear,
                Pointer::Sure(list) => {
                    self.lists.get(*list).map_or(Word::Unsure, |list| Word::List(list.base))
                }
                Pointer::Unsure(_) => Word::Unsure,
            };
            let row = FrontendRow { frontend: *frontend, index: standing.index };
            frontends.push(FrontendFootprint { row, listed: standing.listed, word });
        }
        frontends.sort_unstable_by_key(|found| found.row.index);
        let list = list.filter(|list| list.written).map(|list| list.base);
        Footprint { backends, list, frontends }
    }

    /// Makes a list the current one of a service.
    fn set_current(&mut self, id: ServiceId, list: Option<u32>) {
        let place = id.0 as usize;
        if self.services.len() <= place {
            if list.is_none() {
                return;
            }
            self.services.resize(place + 1, None);
        }
        let old = std::mem::replace(&mut self.services[place], list);
        if let Some(list) = list {
            self.use_list(list);
        }
        if let Some(old) = old {
            self.leave_list(old);
        }
    }

    fn use_list(&mut self, list: u32) {
        if let Some(list) = self.lists.get_mut(list) {
            list.users += 1;
        }
    }

    fn leave_list(&mut self, id: u32) {
        if let Some(list) = self.lists.get_mut(id) {
            list.users -= 1;
            if list.users == 0 {
                self.unlinked.push(Release::List(id));
            }
        }
    }

    /// The row of a backend as it is to be now, unless it surely stands so in the table. It is about to be written.
    pub fn write_backend(&mut self, family: IpFamily, index: u32) -> Option<BackendRow> {
        let pool = self.backends(family);
        if pool.is_written(index) {
            return None;
        }
        pool.may_be_written(index);
        Some(pool.row(index))
    }

    pub fn backend_was_written(&mut self, row: &BackendRow) {
        self.backends(row.family).was_written(row);
    }

    /// Whether somebody holds this backend.
    pub fn is_held(&self, family: IpFamily, index: u32) -> bool {
        self.backends_of(family).holders(index) > 0
    }

    pub fn list_was_written(&mut self, id: ServiceId) {
        if let Some(list) = self.current(id).and_then(|list| self.lists.get_mut(list)) {
            list.written = true;
        }
    }

    /// The frontend's word is about to be pointed to the current list of a service.
    pub fn word_may_be_set(&mut self, frontend: &Frontend, id: ServiceId) {
        let Some(list) = self.current(id) else {
            return;
        };
        let Some(standing) = self.frontends.get_mut(frontend) else {
            return;
        };
        let mut lists = match std::mem::take(&mut standing.word) {
            Pointer::Clear => Vec::new(),
            Pointer::Sure(list) => vec![list],
            Pointer::Unsure(lists) => lists,
        };
        let new = !lists.contains(&list);
        if new {
            lists.push(list);
        }
        standing.word = Pointer::Unsure(lists);
        if new {
            self.use_list(list);
        }
    }

    pub fn word_was_set(&mut self, frontend: &Frontend, id: ServiceId) {
        let current = self.current(id);
        self.set_pointer(frontend, current.map_or(Pointer::Clear, Pointer::Sure), current);
    }

    pub fn word_may_be_cleared(&mut self, frontend: &Frontend) {
        if let Some(standing) = self.frontends.get_mut(frontend)
            && let Pointer::Sure(list) = standing.word
        {
            standing.word = Pointer::Unsure(vec![list]);
        }
    }

    pub fn word_was_cleared(&mut self, frontend: &Frontend) {
        self.set_pointer(frontend, Pointer::Clear, None);
        self.forget_if_gone(frontend);
    }

    fn set_pointer(&mut self, frontend: &Frontend, pointer: Pointer, keeps: Option<u32>) {
        let Some(standing) = self.frontends.get_mut(frontend) else {
            return;
        };
        let left = match std::mem::replace(&mut standing.word, pointer) {
            Pointer::Clear => vec![],
            Pointer::Sure(old) => vec![old],
            Pointer::Unsure(lists) => lists,
        };
        for old in left.into_iter().filter(|&old| Some(old) != keeps) {
            if let Some(new) = keeps {
                self.note_departures(frontend, old, new);
            }
            self.leave_list(old);
        }
    }

    pub fn listing_is(&mut self, frontend: &Frontend, listed: Presence) {
        if let Some(standing) = self.frontends.get_mut(frontend) {
            let old = std::mem::replace(&mut standing.listed, listed);
            match (old, listed) {
                (Presence::Absent, Presence::Absent) => {}
                (Presence::Absent, _) => self.addresses.gain(frontend),
                (_, Presence::Absent) => self.addresses.lose(frontend),
                _ => {}
            }
        }
        if listed == Presence::Absent {
            self.forget_if_gone(frontend);
        }
    }

    fn forget_if_gone(&mut self, frontend: &Frontend) {
        if let Some(standing) = self.frontends.get(frontend)
            && standing.listed == Presence::Absent
            && matches!(standing.word, Pointer::Clear)
        {
            self.unlinked.push(Release::FrontendIndex(standing.index));
            self.frontends.remove(frontend);
            self.room(frontend).taken -= 1;
        }
    }

    /// Frees a list after its grace period; what it held it holds no more. Returns how many that were.
    pub fn free_list(&mut self, list: u32, mut lost: impl FnMut(Release)) -> usize {
        let Some(List { family, base, lines, held, .. }) = self.lists.remove(list) else {
            return 0;
        };
        self.forget_found_list(list);
        self.lines.give_back(base, lines);
        for held in &held {
            if let Some(release) = self.let_go(family, held.index, held.is_selected()) {
                lost(release);
            }
        }
        held.len()
    }

    /// Counts one holder of a backend less, who `selected` it for new flows or did not; tells what is to be done where
    /// it was the last one that did.
    pub fn let_go(&mut self, family: IpFamily, index: u32, selected: bool) -> Option<Release> {
        let pool = self.backends(family);
        match pool.let_go(index, selected) {
            Loss::Holder => None,
            Loss::LastSelector => Some(Release::Selection(family, index)),
            Loss::LastHolder => {
                self.unheld.add(family, index);
                None
            }
        }
    }

    pub fn free_frontend_index(&mut self, index: u32) {
        self.indexes.give_back(index);
    }

    pub fn free_backend_index(&mut self, family: IpFamily, index: u32) {
        self.backends(family).give_back(index);
    }

    fn current(&self, id: ServiceId) -> Option<u32> {
        self.services.get(id.0 as usize).copied().flatten()
    }

    fn backends(&mut self, family: IpFamily) -> &mut Backends {
        match family {
            IpFamily::V4 => &mut self.backends_v4,
            IpFamily::V6 => &mut self.backends_v6,
        }
    }

    fn backends_of(&self, family: IpFamily) -> &Backends {
        match family {
            IpFamily::V4 => &self.backends_v4,
            IpFamily::V6 => &self.backends_v6,
        }
    }

    fn room(&mut self, frontend: &Frontend) -> &mut Room {
        match frontend.family() {
            IpFamily::V4 => &mut self.listed_v4,
            IpFamily::V6 => &mut self.listed_v6,
        }
    }
}
