//! What can go wrong between the kernel and us.

use std::{io, path::PathBuf};

use dataplane_core::{abi::INTERFACE_PLACES, event::EventError, tables::TableError};

use crate::{lock::Holder, uplink::HookName};

/// Why the kernel does not do what it was asked for: the operation, what it was about, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This process may not do that.
    #[error(
        "cannot {operation} without {missing}: run as root, or grant it (setcap, or the container's capabilities)"
    )]
    NoPrivilege {
        /// What was being done.
        operation: String,
        /// The capabilities that are missing.
        missing: String,
        /// The kernel's refusal, where it came to that.
        source: Option<io::Error>,
    },

    /// The kernel has no BPF.
    #[error(
        "this kernel has no bpf(2): it needs CONFIG_BPF_SYSCALL; dataplane_core::memory works without it"
    )]
    NoBpf {
        /// The refusal.
        source: io::Error,
    },

    /// The kernel does not describe its types.
    #[error("{path} is not there, and the programs need it: the kernel needs CONFIG_DEBUG_INFO_BTF")]
    NoBtf {
        /// Where it is looked for.
        path: &'static str,
    },

    /// The kernel lacks something that nothing can stand in for.
    #[error("this kernel ({release}) has no {feature}, which came with {since}")]
    MissingFeature {
        /// What is missing.
        feature: String,
        /// The first kernel that has it.
        since: &'static str,
        /// The kernel's release.
        release: String,
    },

    /// The file named by `FOREBAY_OBJECT` can't be read.
    #[error("cannot read {path}, which FOREBAY_OBJECT names")]
    ObjectFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// The object with the programs is not what this crate was built for.
    #[error(
        "the object with the programs does not fit this crate: {reason}; rebuild it with cargo xtask build-programs"
    )]
    Object {
        /// What is wrong with it.
        reason: String,
    },

    /// A table was to have no entries.
    #[error("table {table} must have room for one entry at least: raise Capacity")]
    CapacityZero {
        /// The table.
        table: &'static str,
    },

    /// A table was to have too few entries to work.
    #[error("table {table} was to have room for {capacity}, and needs {minimum} at least: raise Capacity")]
    CapacityTooSmall {
        /// The table.
        table: &'static str,
        /// What was asked for.
        capacity: u32,
        /// The least.
        minimum: u32,
    },

    /// A table can't be made or mapped.
    #[error(
        "cannot {operation} table {table} of {capacity} entries: is there memory for it, and does the kernel allow tables \
         of this size (it says \"Argument list too long\" where not)? See Capacity"
    )]
    Map {
        /// What was being done.
        operation: &'static str,
        /// The table.
        table: String,
        /// How many entries it has.
        capacity: u32,
        /// The refusal.
        source: io::Error,
    },

    /// A table was made, and the kernel does not tell what it made or lends no descriptor of it.
    #[error(
        "cannot {operation} table {table}, which stands: does something restrict bpf(2) for this process (seccomp, LSM), or \
         has it no descriptors left (`ulimit -n`)?"
    )]
    TableDescriptor {
        /// What was being done.
        operation: &'static str,
        /// The table.
        table: String,
        /// The refusal.
        source: io::Error,
    },

    /// How many CPUs there can be is not known, and values of each of them can't be read without.
    #[error("cannot read {path}, which says how many CPUs there can be: sysfs must be mounted and readable")]
    Cpus {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },

    /// An operation on a table that stands failed.
    #[error("cannot set the tables up")]
    Table(#[from] TableError),

    /// The kernel refused the object or one of its programs.
    #[error("the kernel refused program {program}{}", tail(log))]
    Load {
        /// The program, or `object` where it failed before the programs.
        program: String,
        /// The last lines of the verifier's log.
        log: String,
        /// The refusal.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// The kernel does not tell about programs that it has loaded.
    #[error(
        "cannot ask about our programs, which are loaded: does something restrict bpf(2) for this process (seccomp, LSM)?"
    )]
    ProgramInfo {
        /// The refusal.
        source: io::Error,
    },

    /// There is no such interface in this network namespace.
    #[error("there is no interface {interface} in this network namespace: see `ip link`")]
    InterfaceMissing {
        /// The interface.
        interface: String,
    },

    /// An interface that we were attached to is gone.
    #[error(
        "interface {interface} (index {index}) is gone, and our programs with it: the next refresh() after it is back \
         attaches to it again"
    )]
    InterfaceVanished {
        /// The interface.
        interface: String,
        /// Its index.
        index: u32,
    },

    /// The frames of the interface have no Ethernet header.
    #[error(
        "interface {interface} is no Ethernet interface (link type {kind}), and its frames can't be parsed"
    )]
    InterfaceNotEthernet {
        /// The interface.
        interface: String,
        /// Its `ARPHRD_*` number.
        kind: u16,
    },

    /// An interface was named twice.
    #[error("interface {interface} is named twice among the uplinks")]
    InterfaceTwice {
        /// The interface.
        interface: String,
    },

    /// Two interfaces share a place in the table of interfaces.
    #[error(
        "interfaces {interface} and {other} cannot both be uplinks: their indexes {index} and {other_index} share a place \
         among {INTERFACE_PLACES}; make one of them anew (`ip link add … index`)"
    )]
    InterfaceSlotTaken {
        /// The interface.
        interface: String,
        /// Its index.
        index: u32,
        /// Who stands there.
        other: String,
        /// Its index.
        other_index: u32,
    },

    /// The host could give its own sockets no port any more.
    #[error(
        "source NAT is to have ports {first} to {last}, and the host gives its own sockets none but {local_first} to \
         {local_last}, which would all be reserved: name fewer by Builder::nat_ports, or widen \
         net.ipv4.ip_local_port_range"
    )]
    NatPortsTaken {
        /// The first port of source NAT.
        first: u16,
        /// The last one.
        last: u16,
        /// The first port that the host gives out.
        local_first: u16,
        /// The last one.
        local_last: u16,
    },

    /// Another's XDP program is on the interface.
    #[error(
        "interface {interface} has an XDP program already ({}): detach it, or use XdpMode::Auto or XdpMode::Off",
        program(*program_id, program_name.as_deref())
    )]
    XdpTaken {
        /// The interface.
        interface: String,
        /// The program's id, where the kernel tells it.
        program_id: Option<u32>,
        /// The program's name, where the kernel tells it.
        program_name: Option<String>,
        /// The refusal.
        source: io::Error,
    },

    /// Another's filter stands where ours belongs.
    #[error(
        "interface {interface} has a filter at {hook}, priority {priority}, handle {handle}, that is not ours ({owner}): \
         remove it with `tc filter del`, or choose the other Order"
    )]
    FilterTaken {
        /// The interface.
        interface: String,
        /// The hook.
        hook: HookName,
        /// The priority.
        priority: u16,
        /// The handle.
        handle: u32,
        /// What is known of it.
        owner: String,
    },

    /// A program of ours no longer stands where it was attached, though the interface is there.
    #[error(
        "our program is no longer at {hook} of interface {interface}: somebody took it off or put another in its place; \
         open the dataplane again once that one is gone"
    )]
    Displaced {
        /// The interface.
        interface: String,
        /// The hook.
        hook: HookName,
    },

    /// Pins belong into a bpffs.
    #[error(
        "{path} is no absolute path into a bpffs, where programs and tables are pinned: name a directory below one, \
         such as /sys/fs/bpf (`mount -t bpf none /sys/fs/bpf` where nothing is mounted there)"
    )]
    PinsNotOnBpffs {
        /// The path.
        path: PathBuf,
    },

    /// Somebody else may have a hand in the pin directory.
    #[error("{path} is not to be trusted with pins: {reason}; name another directory, or mend this one")]
    UntrustedPins {
        /// The directory, or one above it.
        path: PathBuf,
        /// What is wrong with it.
        reason: Distrust,
    },

    /// Another dataplane has the pin directory.
    #[error(
        "pin directory {path} is in use by another dataplane ({}): stop that one first, or name another directory",
        holder(*process, command.as_deref())
    )]
    PinsHeld {
        /// The directory.
        path: PathBuf,
        /// The process that has it, where it is known.
        process: Option<u32>,
        /// The file that it runs, where it is known.
        command: Option<String>,
    },

    /// Something about the pin directory failed.
    #[error("cannot {operation} {path}, which belongs to the pins{}", pin_advice(source))]
    PinDirectory {
        /// What was being done.
        operation: &'static str,
        /// The directory, or something in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// What is pinned is not what this dataplane would have pinned there. Nothing was changed.
    #[error("{path} can't be taken over: {reason}")]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What is wrong with it.
        reason: PinFault,
    },

    /// What is not pinned can't be left attached.
    #[error(
        "nothing of this dataplane is pinned, so that nothing can be left attached: open it with Builder::pins"
    )]
    NotPinned,

    /// A place on clsact or a pin directory can't be locked.
    #[error(
        "cannot lock {path}, by which dataplanes see each other: this process must be able to write to its \
         folder; see Builder::run_directory"
    )]
    Lock {
        /// The file, or the folder that is meant to hold it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// Nothing can be locked where somebody else may have a hand in it.
    #[error(
        "{path}, by which dataplanes see each other, is not to be trusted: {reason}; name another folder by \
         Builder::run_directory, or remove it"
    )]
    UntrustedLock {
        /// The file, or the folder that is meant to hold it.
        path: PathBuf,
        /// What is wrong with it.
        reason: Distrust,
    },

    /// A program can't be attached.
    #[error("cannot attach to {hook} of interface {interface}{}", advice(*hook, source))]
    Attach {
        /// The interface.
        interface: String,
        /// The hook.
        hook: HookName,
        /// The refusal.
        source: io::Error,
    },

    /// A program can't be taken off again.
    #[error("cannot detach from {hook} of interface {interface}")]
    Detach {
        /// The interface.
        interface: String,
        /// The hook.
        hook: HookName,
        /// The refusal.
        source: io::Error,
    },

    /// The ports of source NAT stay reserved, though nobody gives them out any more.
    #[error(
        "cannot give the ports of source NAT back to the host: take them out of net.ipv4.ip_local_reserved_ports \
         (`sysctl`), or its own sockets are given none of them"
    )]
    PortsStayReserved {
        /// The refusal.
        source: io::Error,
    },

    /// The kernel does not answer about interfaces.
    #[error("cannot {operation}")]
    Netlink {
        /// What was being done.
        operation: String,
        /// The refusal.
        source: io::Error,
    },

    /// Events can't be had from the kernel.
    #[error("cannot {operation}")]
    Events {
        /// What was being done.
        operation: &'static str,
        /// The refusal.
        source: io::Error,
    },

    /// What the programs told can't be read.
    #[error("the programs told of something that is no event")]
    Event {
        /// What is wrong with it.
        source: EventError,
    },

    /// A test run of a program failed.
    #[error("cannot run program {program} on a frame of {length} bytes")]
    TestRun {
        /// The program.
        program: String,
        /// The frame's length.
        length: usize,
        /// The refusal.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What is wrong with something that is pinned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PinFault {
    /// It is not there, though others of its kind are.
    #[error("it is not there, though the other tables are: somebody removed it; {REMOVE}")]
    Missing,

    /// Something else has its name.
    #[error("it is {found}, not a table of ours: remove it, or name another directory")]
    NoMap {
        /// What it is.
        found: String,
    },

    /// Something else has the name of a link.
    #[error("it is {found}, not a link of ours: remove it, or name another directory")]
    NoLink {
        /// What it is.
        found: String,
    },

    /// The tables are of another version.
    #[error(
        "the tables have layout {pinned}, and this version has layout {own}: run the version that made them, or {REMOVE}"
    )]
    Version {
        /// The layout of what is pinned.
        pinned: u64,
        /// The layout that this version knows.
        own: u64,
    },

    /// It says that it has the right version, and looks otherwise.
    #[error("it has (type, key size, value size, flags) {found}, not {wanted}: {REMOVE}")]
    Layout {
        /// What it has.
        found: String,
        /// What it must have.
        wanted: String,
    },

    /// It has room for more or fewer entries than are wanted.
    #[error(
        "table {table} was made for {pinned} entries, and {wanted} are wanted: open it with the capacity that it has, or \
         {REMOVE}"
    )]
    Capacity {
        /// The table.
        table: &'static str,
        /// How many it has room for.
        pinned: u32,
        /// How many are wanted.
        wanted: u32,
    },

    /// Connections have ports of source NAT that are none of those wanted: they would end.
    #[error(
        "{connections} connections have ports of source NAT from {pinned_first} to {pinned_last} that {first} to {last} \
         would leave out: name a range that holds both, or the old one until those have ended, or {REMOVE}"
    )]
    NatPorts {
        /// The first port of the range that is in use.
        pinned_first: u16,
        /// The last one.
        pinned_last: u16,
        /// The first port of the range that is wanted.
        first: u16,
        /// The last one.
        last: u16,
        /// How many connections have a port outside of it.
        connections: usize,
    },

    /// Somebody replaced it while it was being taken over.
    #[error("somebody put something else in its place just now: find out who writes to the pin directory")]
    Replaced,

    /// It can be taken off only from another network namespace.
    #[error(
        "it stands for filters in another network namespace (inode {namespace}), and can be taken off only there: run \
         there, or remove it with `rmdir` once that namespace is gone"
    )]
    OtherNamespace {
        /// The inode of that network namespace.
        namespace: u64,
    },
}

/// How to begin anew.
const REMOVE: &str = "take everything off by PinDir::remove and begin anew, which ends the connections";

/// What is wrong with a lock or a pin directory, or with a folder that is meant to hold one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Distrust {
    /// It is no folder, or a symbolic link to one.
    #[error("it is no folder of its own (a symbolic link is none)")]
    NoFolder,

    /// The folder is another user's.
    #[error("the folder belongs to user {owner}, and this process is user {own}")]
    Owner {
        /// Whose it is.
        owner: u32,
        /// The effective user of this process.
        own: u32,
    },

    /// Others may write to the folder.
    #[error("others may write to the folder (mode {mode:o}): `chmod go-w`")]
    Writable {
        /// Its permissions.
        mode: u32,
    },

    /// The lock is a symbolic link, or something else that is no regular file.
    #[error("it is no regular file")]
    NoFile,
}

impl Error {
    /// The error number of the system call that failed, where one did.
    pub fn errno(&self) -> Option<i32> {
        let mut error: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(self);
        while let Some(source) = error {
            if let Some(errno) = source.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
                return Some(errno);
            }
            error = source.source();
        }
        None
    }
}

fn tail(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!("; the verifier's last words:\n{log}") }
}

fn program(id: Option<u32>, name: Option<&str>) -> String {
    match (id, name) {
        (Some(id), Some(name)) => format!("{name}, id {id}"),
        (Some(id), None) => format!("id {id}"),
        (None, _) => String::from("its id is not known"),
    }
}

fn holder(process: Option<u32>, command: Option<&str>) -> String {
    Holder { process, command: command.map(String::from) }.to_string()
}

/// What a bpffs may be in the way with.
fn pin_advice(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EROFS) => {
            ": it is mounted read-only for this process; under systemd ProtectKernelTunables= does that to all of /sys: \
             leave it off, or add the bpffs to ReadWritePaths="
        }
        Some(libc::EACCES | libc::EPERM) => {
            ": this process may not; pins need the right to write to the directory and CAP_BPF, and folders above it must \
             be open to its user"
        }
        _ => "",
    }
}

fn advice(hook: HookName, source: &io::Error) -> &'static str {
    match (hook, source.raw_os_error()) {
        (HookName::XdpNative, Some(libc::EOPNOTSUPP)) => {
            ": its driver has no XDP; use XdpMode::Auto or XdpMode::Generic"
        }
        (HookName::XdpNative, Some(libc::EINVAL | libc::ERANGE)) => {
            ": its driver refuses XDP as it is set up (MTU, queues, LRO); `dmesg` may say more"
        }
        (HookName::TcxIngress | HookName::TcxEgress, Some(libc::EINVAL)) => {
            ": this kernel has no tcx (6.6); use TcMode::Auto or TcMode::Clsact"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_directory_that_is_read_only_says_what_to_do() {
        let text = |errno| {
            let source = io::Error::from_raw_os_error(errno);
            let path = "/sys/fs/bpf/forebay".into();
            Error::PinDirectory { operation: "make", path, source }.to_string()
        };
        assert!(text(libc::EROFS).contains("ProtectKernelTunables="), "{}", text(libc::EROFS));
        assert!(text(libc::EACCES).contains("CAP_BPF"), "{}", text(libc::EACCES));
        assert_eq!(text(libc::EIO), "cannot make /sys/fs/bpf/forebay, which belongs to the pins");
    }
}
