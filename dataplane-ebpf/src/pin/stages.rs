//! Arrays of programs. The kernel empties one with its last descriptor or pin, whoever runs the programs that use it: so
//! those of programs that stay attached are pinned, a folder for each generation.

use std::{fs, io, os::fd::AsFd as _};

use aya::maps::Map;

use super::{Name, Pins};
use crate::{
    Error,
    object::STAGES,
    sys::bpf::{self, Object},
};

impl Pins {
    /// Pins the arrays of programs that are about to be attached; what they are called.
    ///
    /// # Errors
    /// [`Error::PinDirectory`], [`Error::Object`].
    pub(crate) fn keep_stages(&self, ebpf: &aya::Ebpf) -> Result<Name, Error> {
        let last = self.names()?.into_iter().filter_map(|name| match name {
            Name::Stages(generation) => Some(generation),
            _ => None,
        });
        let name = Name::Stages(last.max().unwrap_or(0).wrapping_add(1));
        self.note(name)?;
        for place in STAGES {
            let array = place.array;
            let Some(Map::ProgramArray(map)) = ebpf.map(array) else {
                return Err(Error::Object { reason: format!("it has no array of programs {array}") });
            };
            let path = self.at(name).join(array);
            match bpf::pin(map.fd().as_fd(), &path) {
                // Several stages stand in one array.
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(self.failed("pin", &path, error));
                }
                _ => {}
            }
        }
        Ok(name)
    }

    /// Takes the arrays of a generation away. No packet may be in its programs any more.
    pub(super) fn remove_stages(&self, generation: u32) -> Result<(), Error> {
        let folder = self.at(Name::Stages(generation));
        let failed = |source| self.failed("read", &folder, source);
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            // What is not ours stays, and the folder with it.
            if let Ok(Object::Map(_)) = bpf::open(&path) {
                self.unpin(&path)?;
            }
        }
        self.forget(Name::Stages(generation))
    }
}
