//! The compiled programs, and what they must look like.
//!
//! The object is committed and embedded, so that building this crate needs no BPF toolchain. `cargo xtask
//! build-programs` makes it anew from `dataplane-ebpf/programs`.

use std::{borrow::Cow, env, fs, path::PathBuf};

use aya::include_bytes_aligned;
use aya_obj::{
    Object, ProgramSection,
    generated::{BPF_F_MMAPABLE, bpf_map_type},
};
use dataplane_core::{
    abi::{
        BackendV4, BackendV6, CONFIG_WORDS, COUNTERS, FlowV4, FlowV6, INTERFACE_PLACES, InterfaceEntry,
        ServiceCounters, ServiceKeyV4, ServiceKeyV6, ServiceRef, TEST_INPUT_WORDS, TupleV4, TupleV6, map,
    },
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
    spec!(hash BPF_MAP_TYPE_HASH, SERVICES_V4, ServiceKeyV4 => ServiceRef, |c| c.frontends),
    spec!(hash BPF_MAP_TYPE_HASH, SERVICES_V6, ServiceKeyV6 => ServiceRef, |c| c.frontends),
    spec!(hash BPF_MAP_TYPE_LRU_HASH, CONNTRACK_V4, TupleV4 => FlowV4, |c| c.conntrack),
    spec!(hash BPF_MAP_TYPE_LRU_HASH, CONNTRACK_V6, TupleV6 => FlowV6, |c| c.conntrack),
    // Both families' frontends have their words and counters in one array each.
    spec!(mapped SERVICE_WORDS, u64, |c| c.frontends.saturating_mul(2)),
    spec!(mapped SLOTS, u64, |c| c.slots),
    spec!(mapped BACKENDS_V4, BackendV4, |c| c.backends),
    spec!(mapped BACKENDS_V6, BackendV6, |c| c.backends),
    spec!(mapped CONFIG, u64, |_| CONFIG_WORDS),
    spec!(mapped INTERFACES, InterfaceEntry, |_| INTERFACE_PLACES),
    spec!(mapped TEST_INPUTS, u64, |_| TEST_INPUT_WORDS),
    spec!(per_cpu COUNTERS, u64, |_| COUNTERS),
    spec!(per_cpu SERVICE_COUNTERS, ServiceCounters, |c| c.frontends.saturating_mul(2)),
];

/// The section that each program must stand in.
fn has_section(program: &str, section: &ProgramSection) -> bool {
    match program {
        XDP => matches!(section, ProgramSection::Xdp { frags: true, .. }),
        INGRESS | EGRESS => matches!(section, ProgramSection::SchedClassifier),
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

/// Checks that an object has the maps and programs that this crate knows, and tells what they need. Further maps are the programs' own business; further programs would never be attached, so that
/// only those are let through that a test asks for.
///
/// # Errors
/// [`Error::Object`] with the first difference.
pub(crate) fn check(bytes: &[u8], further: &[&str]) -> Result<Needs, Error> {
    let refuse = |reason: String| Err(Error::Object { reason });
    let mut object = match Object::parse(bytes) {
        Ok(object) => object,
        Err(error) => return refuse(error.to_string()),
    };
    for spec in MAPS {
        let Some(map) = object.maps.get(spec.name) else {
            return refuse(format!("it has no map {}", spec.name));
        };
        let found = (map.map_type(), map.key_size() as usize, map.value_size() as usize, map.map_flags());
        let wanted = (spec.kind as u32, spec.key_size, spec.value_size, spec.flags);
        if found != wanted {
            return refuse(format!(
                "map {} has (type, key size, value size, flags) {found:?}, not {wanted:?}",
                spec.name
            ));
        }
    }
    let programs: Vec<&str> = [XDP, INGRESS, EGRESS].iter().chain(further).copied().collect();
    for name in &programs {
        if !object.programs.contains_key(*name) {
            return refuse(format!("it has no program {name}"));
        }
    }
    for (name, program) in &object.programs {
        if !further.contains(&name.as_str()) && !has_section(name, &program.section) {
            return refuse(format!("its program {name} stands in section {:?}", program.section));
        }
    }
    let btf = object.has_btf_relocations();
    match helpers::calls(&mut object, &programs) {
        Ok(helpers) => Ok(Needs { btf, helpers }),
        Err(reason) => refuse(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_object_is_what_this_crate_was_built_for() {
        check(EMBEDDED, &[]).unwrap_or_else(|error| panic!("{error}"));
    }

    #[test]
    fn the_committed_object_has_the_default_capacities() {
        let object = Object::parse(EMBEDDED).unwrap();
        for spec in MAPS {
            let entries = object.maps[spec.name].max_entries();
            assert_eq!(entries, (spec.entries)(&Capacity::default()), "{}", spec.name);
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
