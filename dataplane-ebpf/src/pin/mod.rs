//! Pins: what stays in the kernel while nobody runs, and how the next run takes it over.
//!
//! ```text
//! /sys/fs/bpf/forebay/edge/
//!     maps/                        every table; complete wherever it is there
//!     stages_<generation>/         the arrays by which this generation's programs go on with each other
//!     new/                         tables of somebody who was killed while pinning them: taken away
//!     xdp_native_<namespace>_<interface>     a link, by the inode of its network namespace and the interface's index
//!     xdp_generic_… tcx_ingress_… tcx_egress_…
//!     clsact_<priority>_…          an empty folder: filters of ours are on that qdisc, which can't be pinned
//!     qdisc_…                      an empty folder: the clsact qdisc there was made by us
//!     ports_<first>_<last>_<namespace>       an empty folder: these ports were reserved by us
//!     made_<n>                     an empty folder: the last n folders of the path were made by us
//! ```
//!
//! Regular files can't be in a bpffs; so that a name is a record, and making or removing it is one step.

mod directory;
mod maps;
mod name;
mod stages;

use std::{
    fs, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use self::directory::PinDir;
pub(crate) use self::{
    directory::PinLock,
    maps::PinnedMaps,
    name::{LinkName, Name, Place},
};
use crate::{
    Error, PinFault,
    net::{Network, Ports},
    port_claim,
    sys::bpf::{self, Link, Object},
};

/// Whether a pin directory, whoever has it, notes ports that are reserved in the network namespace of this inode.
pub(crate) fn notes_ports_in(directory: &Path, inode: u64) -> bool {
    let names = fs::read_dir(directory).into_iter().flatten().flatten();
    names
        .filter_map(|entry| Name::parse(&entry.file_name().to_string_lossy()))
        .any(|name| matches!(name, Name::Ports { namespace, .. } if namespace == inode))
}

/// A pin directory that is ours, as long as this is held.
#[derive(Debug)]
pub(crate) struct Pins {
    path: PathBuf,
    run_directory: PathBuf,
    lock: Arc<PinLock>,
}

impl Pins {
    /// Makes the directory where it is not there, and locks it.
    ///
    /// # Errors
    /// [`Error::PinsNotOnBpffs`], [`Error::UntrustedPins`], [`Error::PinDirectory`], [`Error::PinsHeld`],
    /// [`Error::Lock`], [`Error::UntrustedLock`].
    pub(crate) fn take(directory: &PinDir, run_directory: &Path) -> Result<Self, Error> {
        let lock = PinLock::take(directory, run_directory)?;
        let (path, run_directory) = (directory.path().to_owned(), run_directory.to_owned());
        Ok(Self { path, run_directory, lock: Arc::new(lock) })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What keeps everybody else out, for those that may outlive this.
    pub(crate) fn lock(&self) -> Arc<PinLock> {
        Arc::clone(&self.lock)
    }

    fn at(&self, name: Name) -> PathBuf {
        self.path.join(name.to_string())
    }

    /// What is in the directory; what has no name of ours is somebody else's.
    fn names(&self) -> Result<Vec<Name>, Error> {
        let failed = |source| self.failed("read", &self.path, source);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            match Name::parse(&name.to_string_lossy()) {
                Some(name) => names.push(name),
                None => {
                    tracing::warn!(name = %name.display(), "a stranger in the pin directory is left alone")
                }
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn failed(&self, operation: &'static str, path: &Path, source: io::Error) -> Error {
        Error::PinDirectory { operation, path: path.to_owned(), source }
    }

    fn fault(&self, path: &Path, reason: PinFault) -> Error {
        Error::Pin { path: path.to_owned(), reason }
    }

    /// Opens a pinned link; `None` where there is none, or where its interface is gone and it leads nowhere: then its pin is
    /// taken away.
    ///
    /// # Errors
    /// [`Error::Pin`] where something else has its name, [`Error::PinDirectory`].
    pub(crate) fn link(&self, name: LinkName) -> Result<Option<Link>, Error> {
        let path = self.at(Name::Link(name));
        let link = match self.open_link(name)? {
            Some(link) => link,
            None => return Ok(None),
        };
        let failed = |source| self.failed("ask about", &path, source);
        match link.interface().map_err(failed)? {
            Some(index) if index == name.place.interface => Ok(Some(link)),
            _ => {
                self.unpin(&path)?;
                Ok(None)
            }
        }
    }

    fn open_link(&self, name: LinkName) -> Result<Option<Link>, Error> {
        let path = self.at(Name::Link(name));
        let link = match bpf::open(&path) {
            Ok(Object::Link(fd)) => Link::of_pin(fd),
            Ok(Object::Map(_)) => return Err(self.fault(&path, PinFault::NoLink { found: "bpf-map".into() })),
            Ok(Object::Other(found)) => return Err(self.fault(&path, PinFault::NoLink { found })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.failed("open", &path, source)),
        };
        let kind = link.kind().map_err(|source| self.failed("ask about", &path, source))?;
        if kind != name.kind() {
            let found = format!("a link of another kind ({kind:?})");
            return Err(self.fault(&path, PinFault::NoLink { found }));
        }
        Ok(Some(link))
    }

    /// Gives a link its name here.
    ///
    /// # Errors
    /// [`Error::PinDirectory`].
    pub(crate) fn keep_link(&self, name: LinkName, link: &mut Link) -> Result<(), Error> {
        let path = self.at(Name::Link(name));
        link.pin(&path).map_err(|source| self.failed("pin", &path, source))
    }

    /// Takes off what a pinned link holds, and its name.
    ///
    /// # Errors
    /// [`Error::Pin`], [`Error::PinDirectory`].
    pub(crate) fn remove_link(&self, name: LinkName) -> Result<(), Error> {
        let Some(link) = self.open_link(name)? else {
            return Ok(());
        };
        let path = self.at(Name::Link(name));
        link.detach().map_err(|source| self.failed("detach", &path, source))?;
        self.unpin(&path)
    }

    fn unpin(&self, path: &Path) -> Result<(), Error> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("remove", path, error)),
            _ => Ok(()),
        }
    }

    /// Notes something by a name of its own; tells whether it was noted already.
    ///
    /// # Errors
    /// [`Error::PinDirectory`].
    pub(crate) fn note(&self, name: Name) -> Result<bool, Error> {
        let path = self.at(name);
        match fs::create_dir(&path) {
            Ok(()) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(true),
            Err(source) => Err(self.failed("make", &path, source)),
        }
    }

    fn forget(&self, name: Name) -> Result<(), Error> {
        let path = self.at(name);
        fs::remove_dir(&path).map_err(|source| self.failed("remove", &path, source))
    }

    /// Takes off what is attached and is not among `used`. All of it is tried.
    ///
    /// # Errors
    /// The first: [`Error::Pin`], [`Error::PinDirectory`], [`Error::Netlink`].
    pub(crate) fn sweep(&self, network: &Network, used: &[Name]) -> Result<(), Error> {
        let mut outcome = Ok(());
        for name in self.names()?.into_iter().filter(|name| !used.contains(name)) {
            outcome = outcome.and(match name {
                Name::Link(link) => self.remove_link(link),
                Name::Clsact { priority, place } => self.remove_filters(network, priority, place),
                Name::Qdisc(place) => {
                    // It may serve filters of another priority of ours yet.
                    let in_use = used.iter().any(|used| used.is_filter_at(place));
                    if in_use { Ok(()) } else { self.remove_qdisc(network, place) }
                }
                Name::Stages(generation) => self.remove_stages(generation),
                // Those that are in use are known by their range: see `note_ports`.
                Name::Ports { .. } if !used.is_empty() => Ok(()),
                Name::Ports { first, last, namespace } => self.give_back(network, first..=last, namespace),
                Name::Maps | Name::New | Name::Made(_) => Ok(()),
            });
        }
        outcome
    }

    /// The ports that are noted to be reserved by us in this network namespace.
    ///
    /// # Errors
    /// [`Error::PinDirectory`].
    pub(crate) fn noted_ports(&self, network: &Network) -> Result<Ports, Error> {
        let own = network.namespace().unwrap_or(0);
        let mut ports = Ports::of(|_| false);
        for name in self.names()? {
            if let Name::Ports { first, last, namespace } = name
                && namespace == own
            {
                ports.add(first..=last);
            }
        }
        Ok(ports)
    }

    /// Notes which ports are reserved by us, in place of those that were before.
    ///
    /// # Errors
    /// [`Error::PinDirectory`].
    pub(crate) fn note_ports(&self, network: &Network, ports: &[RangeInclusive<u16>]) -> Result<(), Error> {
        let namespace = network.namespace().unwrap_or(0);
        let name = |range: &RangeInclusive<u16>| Name::Ports {
            first: *range.start(),
            last: *range.end(),
            namespace,
        };
        let noted: Vec<Name> = ports.iter().map(name).collect();
        for &name in &noted {
            self.note(name)?;
        }
        // Settings of another network namespace are its own run's, or went with it.
        for name in self.names()? {
            if matches!(name, Name::Ports { .. }) && !noted.contains(&name) {
                self.forget(name)?;
            }
        }
        Ok(())
    }

    fn give_back(&self, network: &Network, ports: RangeInclusive<u16>, namespace: u64) -> Result<(), Error> {
        let name = Name::Ports { first: *ports.start(), last: *ports.end(), namespace };
        // A setting of a network namespace that is gone went with it.
        if network.namespace().unwrap_or(0) == namespace {
            let ports = Ports::of(|port| ports.contains(&port));
            port_claim::give_back(network, &self.run_directory, &ports, &self.path)?;
        }
        self.forget(name)
    }

    fn remove_filters(&self, network: &Network, priority: u16, place: Place) -> Result<(), Error> {
        let name = Name::Clsact { priority, place };
        self.require_namespace(network, name, place)?;
        crate::attach::remove_filters(network, place.interface, priority)?;
        self.forget(name)
    }

    fn remove_qdisc(&self, network: &Network, place: Place) -> Result<(), Error> {
        let name = Name::Qdisc(place);
        self.require_namespace(network, name, place)?;
        let path = self.at(name);
        network
            .remove_unused_qdisc(place.interface)
            .map_err(|source| self.failed("remove what is noted by", &path, source))?;
        self.forget(name)
    }

    /// What is on clsact can be reached from its own network namespace only.
    fn require_namespace(&self, network: &Network, name: Name, place: Place) -> Result<(), Error> {
        if network.namespace().unwrap_or(0) == place.namespace {
            return Ok(());
        }
        Err(self.fault(&self.at(name), PinFault::OtherNamespace { namespace: place.namespace }))
    }

    /// Takes off and takes away all that is ours, whatever its layout. What is not, stays, and the directory with it.
    ///
    /// # Errors
    /// The first: as [`sweep`](Self::sweep).
    pub(crate) fn remove(&self, network: &Network) -> Result<(), Error> {
        let outcome = self.sweep(network, &[]).and(self.remove_maps());
        let made = self.names()?.into_iter().find_map(|name| match name {
            Name::Made(made) => Some(made),
            _ => None,
        });
        let Some(made) = made else { return outcome };
        outcome?;
        // A stranger's pin keeps the folder, and so the note of who made it.
        if fs::read_dir(&self.path).map_err(|source| self.failed("read", &self.path, source))?.count() > 1 {
            let source = io::Error::from_raw_os_error(libc::ENOTEMPTY);
            return Err(self.failed("remove", &self.path, source));
        }
        self.forget(Name::Made(made))?;
        for path in self.path.ancestors().take(made as usize) {
            match fs::remove_dir(path) {
                Ok(()) => {}
                // Others have come to use a folder above ours.
                Err(error) if error.raw_os_error() == Some(libc::ENOTEMPTY) && path != self.path => break,
                Err(source) => return Err(self.failed("remove", path, source)),
            }
        }
        Ok(())
    }
}
