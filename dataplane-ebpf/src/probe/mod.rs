//! What this kernel, this process and this host can do. Kernel features are tried, not guessed from its version:
//! distributions take features back to old versions, and sandboxes take them away from new ones.

pub(crate) mod helpers;
mod host;
mod privileges;
mod warning;

use std::{fs, io, path::Path};

use aya_obj::generated::{BPF_F_MMAPABLE, bpf_map_type};

pub(crate) use self::host::check_interface;
pub use self::{
    privileges::Privileges,
    warning::{PeerChecksums, Warning},
};
use crate::{
    Error,
    object::Needs,
    sys::bpf::{self, Map},
};

/// Where the kernel describes its types.
pub(crate) const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// What this kernel and this process can do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Features {
    /// The kernel's release, as `uname -r` prints it.
    pub release: String,
    /// What this thread may do.
    pub privileges: Privileges,
    /// Whether the kernel describes its own types (`CONFIG_DEBUG_INFO_BTF`).
    pub btf: bool,
    /// Whether several entries of a hash table can be written, removed and listed in one system call (5.6).
    pub batch: bool,
    /// Whether arrays can be mapped into memory (5.5). Nothing works without.
    pub mmapable: bool,
    /// Whether programs at tc can be attached by links, in an order (6.6).
    pub tcx: bool,
}

impl Features {
    /// Asks the kernel. Cost: a handful of system calls, and two maps of one entry that are gone at the end.
    ///
    /// # Errors
    /// [`Error::NoBpf`] where there is no bpf(2), [`Error::NoPrivilege`] where this thread may not use it.
    pub fn probe() -> Result<Self, Error> {
        let privileges = Privileges::of_this_thread();
        if let Some(missing) = privileges.missing() {
            return Err(Error::NoPrivilege {
                operation: "use BPF on network interfaces".into(),
                missing,
                source: None,
            });
        }
        Ok(Self {
            release: release(),
            privileges,
            btf: Path::new(KERNEL_BTF).exists(),
            batch: has_batch()?,
            mmapable: has_mmapable()?,
            // The loopback interface has index 1 in every network namespace.
            tcx: bpf::tcx_programs(1, true).is_ok(),
        })
    }

    /// What is missing, but can be done without.
    pub(crate) fn warnings(&self) -> Vec<Warning> {
        (!self.batch).then_some(Warning::NoBatch).into_iter().collect()
    }

    /// Refuses a kernel on which nothing would work. Cost: one program of two instructions is loaded for each helper
    /// that the programs call.
    pub(crate) fn require(&self, needs: &Needs) -> Result<(), Error> {
        if !self.mmapable {
            return Err(Error::MissingFeature {
                feature: "arrays that can be mapped into memory".into(),
                since: "5.5",
                release: self.release.clone(),
            });
        }
        if needs.btf && !self.btf {
            return Err(Error::NoBtf { path: KERNEL_BTF });
        }
        helpers::require(&needs.helpers, &self.release, helpers::ask)
    }
}

fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| String::from("unknown"), |text| text.trim().to_owned())
}

fn has_batch() -> Result<bool, Error> {
    let map = Map::create(c"forebay_probe", bpf_map_type::BPF_MAP_TYPE_HASH, (4, 8), 1, 0, None)
        .map_err(refused)?;
    match map.put_batch(&[0; 4], &[0; 8]) {
        Ok(()) => Ok(true),
        Err(stop) if bpf::lacks_batch(&stop.error) => Ok(false),
        Err(stop) => Err(refused(stop.error)),
    }
}

fn has_mmapable() -> Result<bool, Error> {
    let flags = BPF_F_MMAPABLE;
    match Map::create(c"forebay_probe", bpf_map_type::BPF_MAP_TYPE_ARRAY, (4, 8), 1, flags, None) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(refused(error)),
    }
}

/// Why the kernel refused the simplest of maps.
fn refused(source: io::Error) -> Error {
    match source.raw_os_error() {
        Some(libc::ENOSYS) => Error::NoBpf { source },
        // The capabilities are there, but not in the initial user namespace, or a sandbox forbids bpf(2).
        Some(libc::EPERM | libc::EACCES) => Error::NoPrivilege {
            operation: "make a BPF map".into(),
            missing: "CAP_BPF in the initial user namespace (a container or a sandbox may forbid bpf(2))"
                .into(),
            source: Some(source),
        },
        _ => Error::Map { operation: "make", table: "forebay_probe".into(), capacity: 1, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features() -> Features {
        Features {
            release: "5.4.0".into(),
            privileges: Privileges::default(),
            btf: false,
            batch: false,
            mmapable: true,
            tcx: false,
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = Features { mmapable: false, ..features() }.require(&Needs::default()).unwrap_err();
        assert!(error.to_string().contains("5.5") && error.to_string().contains("5.4.0"), "{error}");
        let needs_btf = Needs { btf: true, ..Needs::default() };
        assert!(matches!(features().require(&needs_btf), Err(Error::NoBtf { .. })));
        assert!(features().require(&Needs::default()).is_ok());
        assert!(Features { btf: true, ..features() }.require(&needs_btf).is_ok());
    }

    #[test]
    fn refusals_are_told_apart() {
        let of = |errno| refused(io::Error::from_raw_os_error(errno));
        assert!(matches!(of(libc::ENOSYS), Error::NoBpf { .. }));
        assert!(matches!(of(libc::EPERM), Error::NoPrivilege { .. }));
        assert!(matches!(of(libc::ENOMEM), Error::Map { .. }));
        assert_eq!(of(libc::ENOMEM).errno(), Some(libc::ENOMEM));
    }
}
