//! The pinned tables: compared with what they must be before anybody uses them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya_obj::generated::bpf_map_type;
use dataplane_core::{
    abi::{ABI_VERSION, Setting, map},
    tables::Capacity,
};

use super::{Name, Pins};
use crate::{
    Error, PinFault,
    object::{MAPS, MapSpec},
    sys::bpf::{self, Map, Object},
    tables::KernelTables,
};

/// Tables that are what they must be, by name.
#[derive(Debug)]
pub(crate) struct PinnedMaps {
    folder: PathBuf,
    maps: Vec<(&'static MapSpec, Map)>,
}

impl PinnedMaps {
    /// The name and the path of each.
    pub(crate) fn paths(&self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        self.maps.iter().map(|(spec, _)| (spec.name, self.folder.join(spec.name)))
    }

    /// The path of the table of this name.
    pub(crate) fn path(&self, table: &str) -> PathBuf {
        self.folder.join(table)
    }

    /// Checks that what somebody else opened by these paths is what was compared.
    ///
    /// # Errors
    /// [`Error::Pin`].
    pub(crate) fn are(&self, found: impl Fn(&'static str) -> Option<u32>) -> Result<(), Error> {
        for (spec, map) in &self.maps {
            if found(spec.name) != Some(map.id()) {
                return Err(Error::Pin { path: self.folder.join(spec.name), reason: PinFault::Replaced });
            }
        }
        Ok(())
    }
}

impl Pins {
    /// Opens the pinned tables and compares them with what they must be; `None` where there are none. What is left of
    /// somebody who was killed while pinning is taken away.
    ///
    /// # Errors
    /// [`Error::Pin`], [`Error::PinDirectory`].
    pub(crate) fn maps(&self, capacity: &Capacity) -> Result<Option<PinnedMaps>, Error> {
        self.remove_half_made()?;
        let folder = self.at(Name::Maps);
        if !folder.exists() {
            return Ok(None);
        }
        // The version first: tables of another one may look like anything.
        let spec = MAPS.iter().find(|spec| spec.name == map::CONFIG);
        if let Some(spec) = spec {
            let (path, map) = self.open_map(&folder, spec)?;
            self.check_version(&path, &map)?;
        }
        let mut maps = Vec::with_capacity(MAPS.len());
        for spec in MAPS {
            let (path, map) = self.open_map(&folder, spec)?;
            let wanted = (spec.entries)(capacity);
            compare(&map, spec, wanted).map_err(|reason| self.fault(&path, reason))?;
            maps.push((spec, map));
        }
        Ok(Some(PinnedMaps { folder, maps }))
    }

    fn open_map(&self, folder: &Path, spec: &'static MapSpec) -> Result<(PathBuf, Map), Error> {
        let path = folder.join(spec.name);
        let fd = match bpf::open(&path) {
            Ok(Object::Map(fd)) => fd,
            Ok(Object::Link(_)) => {
                return Err(self.fault(&path, PinFault::NoMap { found: "bpf-link".into() }));
            }
            Ok(Object::Other(found)) => return Err(self.fault(&path, PinFault::NoMap { found })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(self.fault(&path, PinFault::Missing));
            }
            Err(source) => return Err(self.failed("open", &path, source)),
        };
        // Only what it is, is asked here: values of all CPUs are nobody's business yet.
        let map = Map::from_fd(fd, 1).map_err(|source| self.failed("ask about", &path, source))?;
        Ok((path, map))
    }

    /// Reads the layout's version out of a map of configuration, of whatever size.
    fn check_version(&self, path: &Path, map: &Map) -> Result<(), Error> {
        let is_config = map.kind() == bpf_map_type::BPF_MAP_TYPE_ARRAY as u32
            && (map.key_size(), map.value_size()) == (size_of::<u32>(), size_of::<u64>())
            && map.capacity() > Setting::AbiVersion as u32;
        if !is_config {
            return Err(self.fault(path, PinFault::NoMap { found: "a map that is no configuration".into() }));
        }
        let mut word = [0; 8];
        let key = (Setting::AbiVersion as u32).to_ne_bytes();
        map.get(&key, &mut word).map_err(|source| self.failed("read", path, source))?;
        match u64::from_ne_bytes(word) {
            ABI_VERSION => Ok(()),
            pinned => Err(self.fault(path, PinFault::Version { pinned, own: ABI_VERSION })),
        }
    }

    /// Pins all tables, as a whole: they are complete before anybody finds them.
    ///
    /// # Errors
    /// [`Error::PinDirectory`].
    pub(crate) fn keep_maps(&self, tables: &KernelTables) -> Result<(), Error> {
        self.note(Name::New)?;
        let (new, folder) = (self.at(Name::New), self.at(Name::Maps));
        for spec in MAPS {
            let path = new.join(spec.name);
            let fd = tables
                .map_fd(spec.name)
                .ok_or_else(|| Error::Object { reason: format!("it has no map {}", spec.name) })?;
            bpf::pin(fd, &path).map_err(|source| self.failed("pin", &path, source))?;
        }
        fs::rename(&new, &folder).map_err(|source| self.failed("rename", &new, source))
    }

    /// Takes the tables' names away: nobody finds them any more.
    pub(super) fn remove_maps(&self) -> Result<(), Error> {
        self.remove_half_made()?;
        let (new, folder) = (self.at(Name::New), self.at(Name::Maps));
        match fs::rename(&folder, &new) {
            Ok(()) => self.remove_half_made(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(self.failed("rename", &folder, source)),
        }
    }

    fn remove_half_made(&self) -> Result<(), Error> {
        let new = self.at(Name::New);
        if !new.exists() {
            return Ok(());
        }
        for spec in MAPS {
            let path = new.join(spec.name);
            match bpf::open(&path) {
                Ok(Object::Map(_)) => self.unpin(&path)?,
                // Not ours; the folder stays with it.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(self.failed("open", &path, source)),
            }
        }
        self.forget(Name::New)
    }
}

/// Compares a map with what it must be.
fn compare(map: &Map, spec: &MapSpec, wanted: u32) -> Result<(), PinFault> {
    // As much of a name as the kernel keeps.
    let name: String = spec.name.chars().take(15).collect();
    if map.name() != name {
        return Err(PinFault::NoMap { found: format!("a map named {:?}", map.name()) });
    }
    let found = (map.kind(), map.key_size(), map.value_size(), map.flags());
    let right = (spec.kind as u32, spec.key_size, spec.value_size, spec.flags);
    if found != right {
        return Err(PinFault::Layout { found: format!("{found:?}"), wanted: format!("{right:?}") });
    }
    if map.capacity() != wanted {
        return Err(PinFault::Capacity { table: spec.name, pinned: map.capacity(), wanted });
    }
    Ok(())
}
