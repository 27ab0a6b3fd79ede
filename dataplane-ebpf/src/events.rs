//! Events of drops and flows, read from the ring that the programs write to.

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use dataplane_core::{
    abi::{EventAccount, map},
    event::{Event, EventLosses},
};
use parking_lot::Mutex;
use zerocopy::{FromBytes, IntoBytes};

use crate::{
    Error,
    sys::{bpf::Map, clock, poll},
    tables::cpus,
};

/// Nobody waits for longer in one go: a notification that went astray costs this much time and no more.
const GLANCE: Duration = Duration::from_millis(250);

/// Reads the events of a dataplane: see [`Builder::events`](crate::Builder::events).
///
/// Clones read the same ring, and each event goes to one of them. It outlives the dataplane: what is in the ring by then can be read,
/// and nothing comes after it.
#[derive(Clone)]
pub struct EventReader(Arc<Ring>);

struct Ring {
    records: Mutex<RingBuf<MapData>>,
    /// The ring's own descriptor, to wait for it while others read.
    descriptor: OwnedFd,
    account: Map,
}

impl EventReader {
    /// Takes both maps out of a loaded object.
    ///
    /// # Errors
    /// [`Error::Object`] where they are not there, [`Error::TableDescriptor`] where they can't be used,
    /// [`Error::Cpus`].
    pub(crate) fn take(ebpf: &mut aya::Ebpf) -> Result<Self, Error> {
        let missing =
            |name: &str| Error::Object { reason: format!("map {name} is missing or of another type") };
        let failed =
            |name: &str, source| Error::TableDescriptor { operation: "open", table: name.to_owned(), source };
        let ring = ebpf.take_map(map::EVENTS).ok_or_else(|| missing(map::EVENTS))?;
        let records =
            RingBuf::try_from(ring).map_err(|error| failed(map::EVENTS, io::Error::other(error)))?;
        let descriptor = records.as_fd().try_clone_to_owned().map_err(|error| failed(map::EVENTS, error))?;
        let Some(aya::maps::Map::PerCpuArray(account)) = ebpf.take_map(map::EVENT_ACCOUNT) else {
            return Err(missing(map::EVENT_ACCOUNT));
        };
        let cpus = cpus()?;
        let account = account.fd().as_fd().try_clone_to_owned().and_then(|fd| Map::from_fd(fd, cpus));
        let account = account.map_err(|error| failed(map::EVENT_ACCOUNT, error))?;
        Ok(Self(Arc::new(Ring { records: Mutex::new(records), descriptor, account })))
    }

    /// The next event; `None` where none comes within `timeout`. With a time-out of 0 it does not wait.
    ///
    /// # Errors
    /// [`Error::Event`] for a record that can't be read: the next call goes on behind it. [`Error::Events`] where the kernel
    /// refuses to wait.
    pub fn next(&self, timeout: Duration) -> Result<Option<Event>, Error> {
        let begun = Instant::now();
        loop {
            if let Some(record) = self.0.records.lock().next() {
                return Event::parse(&record).map(Some).map_err(|source| Error::Event { source });
            }
            let left = timeout.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            poll::readable(self.0.descriptor.as_fd(), left.min(GLANCE))
                .map_err(|source| Error::Events { operation: "wait for events", source })?;
        }
    }

    /// What was not told since the programs were loaded.
    ///
    /// # Errors
    /// [`Error::Events`] where the kernel refuses.
    pub fn losses(&self) -> Result<EventLosses, Error> {
        let account = &self.0.account;
        let mut values = vec![0; account.user_value_size()];
        account
            .get(0u32.as_bytes(), &mut values)
            .map_err(|source| Error::Events { operation: "read how many events were lost", source })?;
        let of_cpus = values.chunks_exact(size_of::<EventAccount>());
        let of_cpus = of_cpus.filter_map(|value| EventAccount::read_from_bytes(value).ok());
        let sums = of_cpus.fold((0u64, 0u64), |(lost, withheld), cpu| {
            (lost.wrapping_add(cpu.lost), withheld.wrapping_add(cpu.withheld))
        });
        Ok(EventLosses::new(sums.0, sums.1))
    }

    /// How long ago an event was.
    pub fn age(&self, event: &Event) -> Duration {
        Duration::from_nanos(clock::coarse_nanoseconds()).saturating_sub(event.time())
    }
}

impl AsFd for EventReader {
    /// What becomes readable with an event, for an event loop of the embedder's own.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.descriptor.as_fd()
    }
}

impl fmt::Debug for EventReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventReader").field("losses", &self.losses()).finish_non_exhaustive()
    }
}
