//! The collector's view of conntrack and reservations in memory.

use std::sync::Arc;

use super::{clock_table::ClockTable, environment::MemoryEntry, events::MemoryEvents};
use crate::{
    abi::{FlowV4, FlowV6, TupleV4, TupleV6},
    pipeline::{Fate, collect},
    tables::{FlowTable, Moment, ScanPosition, Suspect, TableError, V4, V6},
};

/// A table of flows, and who is told when they end.
#[derive(Debug)]
pub(super) struct MemoryFlows<K, V> {
    pub(super) table: Arc<ClockTable<K, V>>,
    pub(super) events: Arc<MemoryEvents>,
}

/// Places that a scan looks at.
const SLICE: usize = 512;

/// There are 64 shards at most.
const PLACE_BITS: u32 = 25;
const PLACE_MASK: u32 = (1 << PLACE_BITS) - 1;

macro_rules! flow_table {
    ($family:ty, $tuple:ty, $flow:ty) => {
        impl FlowTable<$tuple, $flow> for MemoryFlows<$tuple, $flow> {
            fn scan(
                &self,
                from: ScanPosition,
                into: &mut Vec<($tuple, $flow)>,
            ) -> Result<Option<ScanPosition>, TableError> {
                // The shard in the upper bits, the place in its ring in the others.
                let place = ((from.0 >> PLACE_BITS) as usize, (from.0 & PLACE_MASK) as usize);
                let Some((entries, (shard, place))) = self.table.part(place, SLICE) else {
                    return Ok(None);
                };
                into.extend(entries);
                Ok(Some(ScanPosition((shard as u32) << PLACE_BITS | place as u32)))
            }

            fn collect(
                &self,
                suspects: &[Suspect<$tuple>],
                at: &Moment,
                fates: &mut Vec<Fate>,
            ) -> Result<(), TableError> {
                fates.extend(suspects.iter().map(|Suspect { tuple, revoked }| {
                    let Some(entry) = self.table.look_at(tuple).map(MemoryEntry) else {
                        return Fate::Gone;
                    };
                    let setting = |setting| at.setting(setting);
                    let mut flow = <$flow>::default();
                    let fate = collect::<$family, _>(
                        &entry,
                        tuple,
                        revoked,
                        &mut flow,
                        at.now,
                        setting,
                        &*self.events,
                    );
                    if fate == Fate::Removed {
                        self.table.take_this(tuple, &entry.0);
                    }
                    fate
                }));
                Ok(())
            }
        }
    };
}

flow_table!(V4, TupleV4, FlowV4);
flow_table!(V6, TupleV6, FlowV6);
