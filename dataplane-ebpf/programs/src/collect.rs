//! The collector's look at one entry, as a program: the only way in which the end of an entry is safe against packets.

use dataplane_core::{
    abi::CollectorWord,
    pipeline::{Fate, Revoked, Tick, collect},
    tables::{Place, V4, V6},
};

use crate::{events::Ring, maps};

macro_rules! look {
    ($name:ident, $family:ty, $maps:ident) => {
        /// Looks at the next suspect of this family, and notes its fate. It is run once for each.
        #[inline(always)]
        pub fn $name() {
            let Some(next) = maps::take_collector_word(CollectorWord::Next) else {
                return;
            };
            let Some(suspect) = maps::$maps::suspect(next) else {
                return;
            };
            let now = Tick(maps::collector_word(CollectorWord::Now) as u32);
            let revoked = Revoked { frontend: suspect.frontend, backend: suspect.backend };
            let setting = |setting| maps::setting(setting as u32).unwrap_or(0) as u32;
            let mut fate = Fate::Gone;
            let place = Place::from_number(suspect.place);
            if let Some(entry) = maps::$maps::flow(place, &suspect.tuple) {
                let mut flow = Default::default();
                fate =
                    collect::<$family, _>(&entry, &suspect.tuple, &revoked, &mut flow, now, setting, &Ring);
                if matches!(fate, Fate::Removed) {
                    maps::$maps::remove_flow(place, &suspect.tuple);
                }
            }
            maps::$maps::set_fate(next, fate);
        }
    };
}

look!(look_v4, V4, v4);
look!(look_v6, V6, v6);
