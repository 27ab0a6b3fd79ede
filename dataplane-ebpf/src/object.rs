//! The compiled programs, and what they must look like.
//!
//! The object is committed and embedded, so that building this crate needs no BPF toolchain. `cargo xtask
//! build-programs` makes it anew from `dataplane-ebpf/programs`.

use std::{borrow::Cow, env, fs, path::PathBuf};

use aya::include_bytes_aligned;
use aya_obj::{
    Object, ProgramSection,
    generated::{BPF_F_MMAPABLE, bpf_map_type},
    maps::Map,
};
use dataplane_core::{
    abi::{
        AffinityEntry, AffinityKeyV4, AffinityKeyV6, BackendV4, BackendV6, COLLECTOR_WORDS, CONFIG_WORDS,
        COUNTERS, EventAccount, FlowV4, FlowV6, FragmentKeyV4, FragmentKeyV6, FragmentRecord,
        INTERFACE_PLACES, InterfaceEntry, MasqueradeEntry, SUSPECTS, ServiceCounters, ServiceKeyV4,
        ServiceKeyV6, ServiceRef, SuspectV4, SuspectV6, TEST_INPUT_WORDS, TupleV4, TupleV6, map,
    },
    pipeline::{Hook, Stage},
    tables::Capacity,
};

use crate::{
    Error,
    probe::helpers::{self, Calls},
};

/// The object that is embedded.
pub(crate) static EMBEDDED: &[u8] = include_bytes_aligned!("../object/forebay.bpf.o");

/// A file that is loaded instead of the embedded object where this variable names one, with the feature `testing` only:
/// for tests and CI, which build mutants and other versions.
pub const OBJECT_VARIABLE: &str = "FOREBAY_OBJECT";

/// Program at XDP.
pub(crate) const XDP: &str = "forebay_xdp";
/// Program at tc, packets that come in.
pub(crate) const INGRESS: &str = "forebay_ingress";
/// Program at tc, packets that go out.
pub(crate) const EGRESS: &str = "forebay_egress";
/// The collector's look at an IPv4 entry: run, never attached.
pub(crate) const COLLECT_V4: &str = "forebay_collect_v4";
/// The collector's look at an IPv6 entry: run, never attached.
pub(crate) const COLLECT_V6: &str = "forebay_collect_v6";
/// IPv6 at XDP.
pub(crate) const XDP_V6: &str = "forebay_xdp_v6";
/// IPv6 at tc, packets that come in.
pub(crate) const INGRESS_V6: &str = "forebay_ingress_v6";
/// IPv6 at tc, packets that go out.
pub(crate) const EGRESS_V6: &str = "forebay_egress_v6";
/// Masqueraded IPv4 connections at XDP.
pub(crate) const XDP_NAT_V4: &str = "forebay_xdp_nat_v4";
/// Masqueraded IPv6 connections at XDP.
pub(crate) const XDP_NAT_V6: &str = "forebay_xdp_nat_v6";
/// Masqueraded IPv4 connections at tc.
pub(crate) const INGRESS_NAT_V4: &str = "forebay_in_nat_v4";
/// Masqueraded IPv6 connections at tc.
pub(crate) const INGRESS_NAT_V6: &str = "forebay_in_nat_v6";
/// IPv4 connections to services with affinity at XDP.
pub(crate) const XDP_AFFINITY4: &str = "forebay_xdp_aff4";
/// IPv6 connections to services with affinity at XDP.
pub(crate) const XDP_AFFINITY6: &str = "forebay_xdp_aff6";
/// IPv4 connections to services with affinity at tc.
pub(crate) const INGRESS_AFFINITY4: &str = "forebay_in_aff4";
/// IPv6 connections to services with affinity at tc.
pub(crate) const INGRESS_AFFINITY6: &str = "forebay_in_aff6";
/// ICMP at XDP.
pub(crate) const XDP_ICMP4: &str = "forebay_xdp_icmp4";
/// ICMPv6 at XDP.
pub(crate) const XDP_ICMP6: &str = "forebay_xdp_icmp6";
/// ICMP at tc, packets that come in.
pub(crate) const INGRESS_ICMP4: &str = "forebay_ingress_icmp4";
/// ICMPv6 at tc, packets that come in.
pub(crate) const INGRESS_ICMP6: &str = "forebay_ingress_icmp6";
/// ICMP at tc, packets that go out.
pub(crate) const EGRESS_ICMP4: &str = "forebay_egress_icmp4";
/// ICMPv6 at tc, packets that go out.
pub(crate) const EGRESS_ICMP6: &str = "forebay_egress_icmp6";
/// Answers what is dropped of IPv4, at tc, packets that come in.
pub(crate) const INGRESS_ANSWER4: &str = "forebay_ingress_answer4";
/// Answers what is dropped of IPv6, at tc, packets that come in.
pub(crate) const INGRESS_ANSWER6: &str = "forebay_ingress_answer6";
/// Parts of IPv4 packets at XDP.
pub(crate) const XDP_FRAG4: &str = "forebay_xdp_frag4";
/// Parts of IPv6 packets at XDP.
pub(crate) const XDP_FRAG6: &str = "forebay_xdp_frag6";
/// Parts of IPv4 packets at tc, packets that come in.
pub(crate) const INGRESS_FRAG4: &str = "forebay_ingress_frag4";
/// Parts of IPv6 packets at tc, packets that come in.
pub(crate) const INGRESS_FRAG6: &str = "forebay_ingress_frag6";
/// Parts of IPv4 packets at tc, packets that go out.
pub(crate) const EGRESS_FRAG4: &str = "forebay_egress_frag4";
/// Parts of IPv6 packets at tc, packets that go out.
pub(crate) const EGRESS_FRAG6: &str = "forebay_egress_frag6";
/// Every program that is loaded.
pub(crate) const PROGRAMS: [&str; 30] = [
    XDP_FRAG4,
    XDP_FRAG6,
    INGRESS_FRAG4,
    INGRESS_FRAG6,
    EGRESS_FRAG4,
    EGRESS_FRAG6,
    INGRESS_ANSWER4,
    INGRESS_ANSWER6,
    XDP,
    XDP_V6,
    XDP_NAT_V4,
    XDP_NAT_V6,
    XDP_AFFINITY4,
    XDP_AFFINITY6,
    XDP_ICMP4,
    XDP_ICMP6,
    INGRESS,
    INGRESS_V6,
    INGRESS_NAT_V4,
    INGRESS_NAT_V6,
    INGRESS_AFFINITY4,
    INGRESS_AFFINITY6,
    INGRESS_ICMP4,
    INGRESS_ICMP6,
    EGRESS,
    EGRESS_V6,
    EGRESS_ICMP4,
    EGRESS_ICMP6,
    COLLECT_V4,
    COLLECT_V6,
];

/// A program that another one goes on with by a tail call, and its place. The kernel empties an array of programs with its
/// last descriptor or pin, whoever is attached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StagePlace {
    /// The hook.
    #[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "tests ask"))]
    pub hook: Hook,
    /// The array: one for each hook and each generation of programs.
    pub array: &'static str,
    /// The place in it.
    pub stage: Stage,
    /// Who stands there.
    pub program: &'static str,
}

/// All of them.
pub(crate) const STAGES: &[StagePlace] = &[
    StagePlace { hook: Hook::Xdp, array: "stages_xdp", stage: Stage::V6, program: XDP_V6 },
    StagePlace { hook: Hook::Ingress, array: "stages_ingress", stage: Stage::V6, program: INGRESS_V6 },
    StagePlace { hook: Hook::Xdp, array: "stages_xdp", stage: Stage::MasqueradeV4, program: XDP_NAT_V4 },
    StagePlace { hook: Hook::Xdp, array: "stages_xdp", stage: Stage::MasqueradeV6, program: XDP_NAT_V6 },
    StagePlace {
        hook: Hook::Ingress,
        array: "stages_ingress",
        stage: Stage::MasqueradeV4,
        program: INGRESS_NAT_V4,
    },
    StagePlace {
        hook: Hook::Ingress,
        array: "stages_ingress",
        stage: Stage::MasqueradeV6,
        program: INGRESS_NAT_V6,
    },
    StagePlace { hook: Hook::Xdp, array: "stages_xdp", stage: Stage::AffinityV4, program: XDP_AFFINITY4 },
    StagePlace { hook: Hook::Xdp, array: "stages_xdp", stage: Stage::AffinityV6, program: XDP_AFFINITY6 },
    StagePlace {
        hook: Hook::Ingress,
        array: "stages_ingress",
        stage: Stage::AffinityV4,
        program: INGRESS_AFFINITY4,
    },
    StagePlace {
        hook: Hook::Ingress,
        array: "stages_ingress",
        stage: Stage::AffinityV6,
        program: INGRESS_AFFINITY6,
    },
    // What goes out opens nothing.
    StagePlace { hook: Hook::Egress, array: "stages_egress", stage: Stage::V6, program: EGRESS_V6 },
    StagePlace { hook: Hook::Xdp, array: "stages_xdp", stage: Stage::IcmpV4, program: XDP_ICMP4 },
    StagePlace { hook: Hook::Xdp, array: "stages_xdp", stage: Stage::IcmpV6, program: XDP_ICMP6 },
    StagePlace { hook: Hook::Ingress, array: "stages_ingress", stage: Stage::IcmpV4, program: INGRESS_ICMP4 },
    StagePlace { hook: Hook::Ingress, array: "stages_ingress", stage: Stage::IcmpV6, program: INGRESS_ICMP6 },
    StagePlace { hook: Hook::Egress, array: "stages_egress", stage: Stage::IcmpV4, program: EGRESS_ICMP4 },
    StagePlace { hook: Hook::Egress, array: "stages_egress", stage: Stage::IcmpV6, program: EGRESS_ICMP6 },
    StagePlace {
        hook: Hook::Ingress,
        array: "stages_ingress",
        stage: Stage::AnswerV4,
        program: INGRESS_ANSWER4,
    },
    StagePlace {
        hook: Hook::Ingress,
        array: "stages_ingress",
        stage: Stage::AnswerV6,
        program: INGRESS_ANSWER6,
    },
    StagePlace { hook: Hook::Xdp, array: "stages_xdp", stage: Stage::FragmentV4, program: XDP_FRAG4 },
    StagePlace { hook: Hook::Xdp, array: "stages_xdp", stage: Stage::FragmentV6, program: XDP_FRAG6 },
    StagePlace {
        hook: Hook::Ingress,
        array: "stages_ingress",
        stage: Stage::FragmentV4,
        program: INGRESS_FRAG4,
    },
    StagePlace {
        hook: Hook::Ingress,
        array: "stages_ingress",
        stage: Stage::FragmentV6,
        program: INGRESS_FRAG6,
    },
    StagePlace {
        hook: Hook::Egress,
        array: "stages_egress",
        stage: Stage::FragmentV4,
        program: EGRESS_FRAG4,
    },
    StagePlace {
        hook: Hook::Egress,
        array: "stages_egress",
        stage: Stage::FragmentV6,
        program: EGRESS_FRAG6,
    },
];

/// The constant that has the programs tell of drops and flows.
pub(crate) const TELL_EVENTS: &str = "TELL_EVENTS";
/// The constant that says how many drops each CPU tells of in a second.
pub(crate) const DROP_EVENTS_A_SECOND: &str = "DROP_EVENTS_A_SECOND";

/// The constant that has the programs take time and randomness from a map.
pub(crate) const DETERMINISTIC: &str = "DETERMINISTIC";

/// The bytes of the object.
///
/// # Errors
/// [`Error::ObjectFile`] where [`OBJECT_VARIABLE`] names a file that can't be read.
pub(crate) fn bytes() -> Result<Cow<'static, [u8]>, Error> {
    // In a program that people run, nothing but what was compiled in goes into the kernel.
    let named = if cfg!(feature = "testing") { env::var_os(OBJECT_VARIABLE) } else { None };
    match named.filter(|path| !path.is_empty()) {
        None => Ok(Cow::Borrowed(EMBEDDED)),
        Some(path) => {
            let path = PathBuf::from(path);
            fs::read(&path).map(Cow::Owned).map_err(|source| Error::ObjectFile { path, source })
        }
    }
}

/// A map as the programs and this crate agreed on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MapSpec {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: bpf_map_type,
    /// Bytes of a key.
    pub key_size: usize,
    /// Bytes of a value, on one CPU.
    pub value_size: usize,
    /// `BPF_F_*`.
    pub flags: u32,
    /// How many entries it is given.
    pub entries: fn(&Capacity) -> u32,
}

macro_rules! spec {
    (hash $kind:ident, $name:ident, $key:ty => $value:ty, $entries:expr) => {
        MapSpec {
            name: map::$name,
            kind: bpf_map_type::$kind,
            key_size: size_of::<$key>(),
            value_size: size_of::<$value>(),
            flags: 0,
            entries: $entries,
        }
    };
    (mapped $name:ident, $value:ty, $entries:expr) => {
        MapSpec {
            name: map::$name,
            kind: bpf_map_type::BPF_MAP_TYPE_ARRAY,
            key_size: size_of::<u32>(),
            value_size: size_of::<$value>(),
            flags: BPF_F_MMAPABLE,
            entries: $entries,
        }
    };
    (per_cpu $name:ident, $value:ty, $entries:expr) => {
        MapSpec {
            name: map::$name,
            kind: bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY,
            key_size: size_of::<u32>(),
            value_size: size_of::<$value>(),
            flags: 0,
            entries: $entries,
        }
    };
}

/// Every map that control reads or writes.
pub(crate) const MAPS: &[MapSpec] = &[
    spec!(hash BPF_MAP_TYPE_HASH, SERVICES_V4, ServiceKeyV4 => ServiceRef, |c| c.frontend_entries()),
    spec!(hash BPF_MAP_TYPE_HASH, SERVICES_V6, ServiceKeyV6 => ServiceRef, |c| c.frontend_entries()),
    spec!(hash BPF_MAP_TYPE_LRU_HASH, CONNTRACK_V4, TupleV4 => FlowV4, |c| c.conntrack),
    spec!(hash BPF_MAP_TYPE_LRU_HASH, CONNTRACK_V6, TupleV6 => FlowV6, |c| c.conntrack),
    spec!(hash BPF_MAP_TYPE_LRU_HASH, OPENING_V4, TupleV4 => FlowV4, |c| c.opening),
    spec!(hash BPF_MAP_TYPE_LRU_HASH, OPENING_V6, TupleV6 => FlowV6, |c| c.opening),
    spec!(hash BPF_MAP_TYPE_HASH, NAT_V4, TupleV4 => FlowV4, |c| c.nat),
    spec!(hash BPF_MAP_TYPE_HASH, NAT_V6, TupleV6 => FlowV6, |c| c.nat),
    spec!(hash BPF_MAP_TYPE_LRU_HASH, AFFINITY_V4, AffinityKeyV4 => AffinityEntry, |c| c.affinity),
    spec!(hash BPF_MAP_TYPE_LRU_HASH, AFFINITY_V6, AffinityKeyV6 => AffinityEntry, |c| c.affinity),
    spec!(hash BPF_MAP_TYPE_LRU_HASH, FRAGMENTS_V4, FragmentKeyV4 => FragmentRecord, |c| c.fragments),
    spec!(hash BPF_MAP_TYPE_LRU_HASH, FRAGMENTS_V6, FragmentKeyV6 => FragmentRecord, |c| c.fragments),
    // Both families' frontends have their words and counters in one array each.
    spec!(mapped SERVICE_WORDS, u64, |c| c.frontends.saturating_mul(2)),
    spec!(mapped SLOTS, u64, |c| c.slots),
    spec!(mapped BACKENDS_V4, BackendV4, |c| c.backends),
    spec!(mapped BACKENDS_V6, BackendV6, |c| c.backends),
    spec!(mapped CONFIG, u64, |_| CONFIG_WORDS),
    spec!(mapped INTERFACES, InterfaceEntry, |_| INTERFACE_PLACES),
    spec!(mapped MASQUERADE, MasqueradeEntry, |_| INTERFACE_PLACES),
    spec!(mapped SUSPECTS_V4, SuspectV4, |_| SUSPECTS),
    spec!(mapped SUSPECTS_V6, SuspectV6, |_| SUSPECTS),
    spec!(mapped COLLECTOR, u64, |_| COLLECTOR_WORDS),
    spec!(mapped TEST_INPUTS, u64, |_| TEST_INPUT_WORDS),
    spec!(per_cpu COUNTERS, u64, |_| COUNTERS),
    spec!(per_cpu SERVICE_COUNTERS, ServiceCounters, |c| c.frontends.saturating_mul(2)),
];

/// The maps of events, with their types and the bytes of a value on one CPU. They are no tables: each load of the programs
/// has its own, and they are not pinned.
const EVENT_MAPS: [(&str, bpf_map_type, usize); 2] = [
    (map::EVENTS, bpf_map_type::BPF_MAP_TYPE_RINGBUF, 0),
    (map::EVENT_ACCOUNT, bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY, size_of::<EventAccount>()),
];

/// The section that each program must stand in.
fn has_section(program: &str, section: &ProgramSection) -> bool {
    match program {
        XDP | XDP_V6 | XDP_NAT_V4 | XDP_NAT_V6 | XDP_AFFINITY4 | XDP_AFFINITY6 | XDP_ICMP4 | XDP_ICMP6
        | XDP_FRAG4 | XDP_FRAG6 => {
            matches!(section, ProgramSection::Xdp { frags: true, .. })
        }
        name if PROGRAMS.contains(&name) => matches!(section, ProgramSection::SchedClassifier),
        _ => false,
    }
}

/// What the programs of an object need of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// The kernel's own BTF.
    pub btf: bool,
    /// These helper functions.
    pub helpers: Calls,
}

/// Checks that an object has the maps and programs that this crate knows, and tells what they need. Further maps are the
/// programs' own business; further programs would never be attached, so that only those are let through that a test
/// asks for.
///
/// # Errors
/// [`Error::Object`] with the first difference.
pub(crate) fn check(bytes: &[u8], further: &[&str]) -> Result<Needs, Error> {
    let refuse = |reason: String| Err(Error::Object { reason });
    let mut object = match Object::parse(bytes) {
        Ok(object) => object,
        Err(error) => return refuse(error.to_string()),
    };
    let programs: Vec<&str> = PROGRAMS.iter().chain(further).copied().collect();
    if let Err(reason) = compare(&object, &programs) {
        return refuse(reason);
    }
    let btf = object.has_btf_relocations();
    match helpers::calls(&mut object, &programs) {
        Ok(helpers) => Ok(Needs { btf, helpers }),
        Err(reason) => refuse(reason),
    }
}

/// Compares an object with what this crate knows, and says the first difference.
fn compare(object: &Object, programs: &[&str]) -> Result<(), String> {
    for spec in MAPS {
        let Some(map) = object.maps.get(spec.name) else {
            return Err(format!("it has no map {}", spec.name));
        };
        let found = (map.map_type(), map.key_size() as usize, map.value_size() as usize, map.map_flags());
        let wanted = (spec.kind as u32, spec.key_size, spec.value_size, spec.flags);
        if found != wanted {
            return Err(format!(
                "map {} has (type, key size, value size, flags) {found:?}, not {wanted:?}",
                spec.name
            ));
        }
    }
    for (name, kind, value_size) in EVENT_MAPS {
        let found = object.maps.get(name).map(|map| (map.map_type(), map.value_size() as usize));
        if found != Some((kind as u32, value_size)) {
            return Err(format!("its map {name} has (type, value size) {found:?}"));
        }
    }
    for StagePlace { array, stage, .. } in STAGES {
        let place = *stage as u32;
        let has_place = |map: &Map| {
            map.map_type() == bpf_map_type::BPF_MAP_TYPE_PROG_ARRAY as u32 && map.max_entries() > place
        };
        if !object.maps.get(*array).is_some_and(has_place) {
            return Err(format!("it has no array of programs {array} with a place {place}"));
        }
    }
    for name in programs {
        if !object.programs.contains_key(*name) {
            return Err(format!("it has no program {name}"));
        }
    }
    for (name, program) in &object.programs {
        // Those that a test asks for stand where they like.
        let known = PROGRAMS.contains(&name.as_str());
        if (known || !programs.contains(&name.as_str())) && !has_section(name, &program.section) {
            return Err(format!("its program {name} stands in section {:?}", program.section));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use aya_obj::{
        EbpfSectionKind,
        maps::{LegacyMap, bpf_map_def},
        programs::XdpAttachType,
    };

    use super::*;

    #[test]
    fn the_committed_object_is_what_this_crate_was_built_for() {
        check(EMBEDDED, &[]).unwrap_or_else(|error| panic!("{error}"));
    }

    /// The first map that is not made for the default capacity, with its entries and those that it should have.
    fn other_capacity(object: &Object) -> Option<(&'static str, u32, u32)> {
        MAPS.iter()
            .map(|spec| {
                (spec.name, object.maps[spec.name].max_entries(), (spec.entries)(&Capacity::default()))
            })
            .find(|(_, found, wanted)| found != wanted)
    }

    #[test]
    fn the_committed_object_has_the_default_capacities() {
        let mut object = Object::parse(EMBEDDED).unwrap();
        assert_eq!(other_capacity(&object), None);
        for spec in MAPS {
            let entries = object.maps[spec.name].max_entries();
            object.maps.get_mut(spec.name).unwrap().set_max_entries(entries + 1);
            assert_eq!(other_capacity(&object), Some((spec.name, entries + 1, entries)));
            object.maps.get_mut(spec.name).unwrap().set_max_entries(entries);
        }
    }

    /// Each field of each map's layout is compared.
    #[test]
    fn an_object_with_a_map_of_another_layout_is_refused() {
        let programs = [XDP, INGRESS, EGRESS];
        let changes: [fn(&mut bpf_map_def); 4] = [
            |map| map.map_type += 1,
            |map| map.key_size += 4,
            |map| map.value_size -= 1,
            |map| map.map_flags ^= 1,
        ];
        let object = Object::parse(EMBEDDED).unwrap();
        compare(&object, &programs).unwrap();
        for spec in MAPS {
            for change in changes {
                let mut object = object.clone();
                let map = object.maps.get_mut(spec.name).unwrap();
                // Of the two ways to define a map, this one lets itself be changed.
                let mut def = bpf_map_def {
                    map_type: map.map_type(),
                    key_size: map.key_size(),
                    value_size: map.value_size(),
                    map_flags: map.map_flags(),
                    ..bpf_map_def::default()
                };
                change(&mut def);
                let bpf_map_def { map_type, key_size, value_size, map_flags, .. } = def;
                *map = Map::Legacy(LegacyMap {
                    def,
                    inner_def: None,
                    section_index: 0,
                    section_kind: EbpfSectionKind::Maps,
                    symbol_index: None,
                    data: vec![],
                });
                let reason = compare(&object, &programs).unwrap_err();
                let found = format!("{:?}", (map_type, key_size, value_size, map_flags));
                let wanted = format!("{:?}", (spec.kind as u32, spec.key_size, spec.value_size, spec.flags));
                let name = spec.name;
                assert!(reason.starts_with(&format!("map {name} has ")), "{reason}");
                assert!(reason.ends_with(&format!(" {found}, not {wanted}")), "{name}: {reason}");
            }
            let mut object = object.clone();
            object.maps.remove(spec.name);
            assert_eq!(compare(&object, &programs), Err(format!("it has no map {}", spec.name)));
        }
    }

    #[test]
    fn a_program_in_a_wrong_section_is_refused() {
        for name in PROGRAMS {
            for section in [
                ProgramSection::Xdp { frags: false, attach_type: XdpAttachType::Interface },
                ProgramSection::SocketFilter,
            ] {
                let mut object = Object::parse(EMBEDDED).unwrap();
                object.programs.get_mut(name).unwrap().section = section.clone();
                let reason = compare(&object, &PROGRAMS).unwrap_err();
                assert_eq!(reason, format!("its program {name} stands in section {section:?}"));
            }
        }
    }

    /// The committed object with each occurrence of a name replaced by another of the same length.
    fn renamed(from: &str, to: &str) -> Vec<u8> {
        assert_eq!(from.len(), to.len());
        let mut bytes = EMBEDDED.to_vec();
        let places: Vec<usize> = bytes
            .windows(from.len())
            .enumerate()
            .filter(|(_, window)| *window == from.as_bytes())
            .map(|(place, _)| place)
            .collect();
        assert!(!places.is_empty(), "the object has no {from}");
        for place in places {
            bytes[place..place + to.len()].copy_from_slice(to.as_bytes());
        }
        bytes
    }

    /// A file that was damaged, or is of another version, names what is wrong with it.
    #[test]
    fn an_object_of_another_version_is_refused() {
        for (from, to, said) in [
            ("forebay_xdp", "forebay_xdq", "it has no program forebay_xdp"),
            ("forebay_ingress", "forebay_ingresz", "it has no program forebay_ingress"),
            ("forebay_egress", "forebay_egresz", "it has no program forebay_egress"),
            ("xdp.frags", "xdp\0frags", " stands in section Xdp { frags: false"),
            ("classifier", "xdp\0sifier", " stands in section Xdp {"),
            ("conntrack_v6", "conntrack_v7", "it has no map conntrack_v6"),
            ("stages_egress", "stages_egrezz", "it has no array of programs stages_egress with a place 0"),
        ] {
            match check(&renamed(from, to), &[]) {
                Err(Error::Object { reason }) => assert!(reason.contains(said), "{from}: {reason}"),
                other => panic!("{from}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_programs_may_be_used_beside_those_of_the_kernel() {
        let object = Object::parse(EMBEDDED).unwrap();
        assert_eq!(object.license.to_str(), Ok("Dual MIT/GPL"));
    }

    #[test]
    fn a_further_program_must_be_there() {
        let result = check(EMBEDDED, &["forebay_nowhere"]);
        assert!(
            matches!(&result, Err(Error::Object { reason }) if reason.contains("forebay_nowhere")),
            "{result:?}"
        );
    }

    #[test]
    fn something_else_is_no_object() {
        assert!(matches!(check(b"no ELF file", &[]), Err(Error::Object { .. })));
        assert!(matches!(check(&[], &[]), Err(Error::Object { .. })));
    }
}
