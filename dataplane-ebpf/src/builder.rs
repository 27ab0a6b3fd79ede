//! Opening a dataplane.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::{
    EbpfError, EbpfLoader,
    maps::{MapError, ProgramArray},
    programs::{Program, ProgramError},
};
use dataplane_core::{
    abi::{DEFAULT_ANSWERS_A_SECOND, INTERFACE_PLACES, SLOT_LINE_WORDS, map},
    event::EventOptions,
    model::NatPorts,
    pipeline::{AddressSettings, Timeouts},
    tables::Capacity,
};

use crate::{
    EbpfDataplane, Error, PinFault,
    dataplane::{Reserved, program_fd},
    events::EventReader,
    lock::RUN_DIRECTORY,
    net::{LinkState, Network},
    object::{
        self, COLLECT_V4, COLLECT_V6, DETERMINISTIC, DROP_EVENTS_A_SECOND, MAPS, PROGRAMS, STAGES,
        StagePlace, TELL_EVENTS,
    },
    pin::{PinDir, PinnedMaps, Pins},
    port_claim::{ClaimError, PortClaim},
    probe::Features,
    sys::bpf,
    tables::{KernelTables, LoadedMaps, Stranded},
    uplink::Uplink,
};

/// What a dataplane is to be, before it is opened. See [`EbpfDataplane::builder`].
#[derive(Clone, Debug, Default)]
#[must_use = "nothing happens until it is opened"]
pub struct Builder {
    pub(crate) capacity: Capacity,
    pub(crate) timeouts: Timeouts,
    pub(crate) nat_ports: NatPorts,
    pub(crate) answers_a_second: Option<u32>,
    pub(crate) addresses: AddressSettings,
    pub(crate) events: Option<EventOptions>,
    pub(crate) uplinks: Vec<Uplink>,
    pub(crate) run_directory: Option<PathBuf>,
    pub(crate) pins: Option<PinDir>,
    // Set by tests only: see `testing`.
    pub(crate) deterministic: bool,
    pub(crate) object: Option<Vec<u8>>,
    pub(crate) single_operations: bool,
    pub(crate) no_tcx: bool,
    pub(crate) further_programs: Vec<&'static str>,
    pub(crate) further_maps: Vec<(&'static str, u32)>,
}

impl Builder {
    /// Nothing is pinned: the programs and tables go with the dataplane and with the process. So it is unless
    /// [`pins`](Self::pins) says otherwise.
    pub fn unpinned(mut self) -> Self {
        self.pins = None;
        self
    }

    /// Tables and attachments are pinned in this directory: packets are balanced on while nobody runs, and the next
    /// [`open`](Self::open) takes over what is there. Programs are put in the place of those before without a packet
    /// between them; uplinks that are not named any more are taken off, once all others stand. Each uplink stays in its
    /// place among others at tcx, whatever its [`Order`](crate::Order) says now.
    pub fn pins(mut self, directory: PinDir) -> Self {
        self.pins = Some(directory);
        self
    }

    /// How many entries each table has room for; it says what memory that takes.
    pub fn capacity(mut self, capacity: Capacity) -> Self {
        self.capacity = capacity;
        self
    }

    /// How long flows are kept without a packet.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// The ports that source NAT gives out, on each address that it uses: 49152 to 65535 unless set. They are added to
    /// `net.ipv4.ip_local_reserved_ports`, so that the kernel gives none of them to sockets of this host, until the last
    /// dataplane that has them is detached, or the next one is opened after that was killed. What was reserved before stays.
    ///
    /// Where [pinned](Self::pins) tables are taken over, another range than theirs is refused
    /// ([`PinFault::NatPorts`](crate::PinFault::NatPorts)) as long as connections live whose ports it leaves out; a range that
    /// holds all of the old one never is.
    pub fn nat_ports(mut self, ports: NatPorts) -> Self {
        self.nat_ports = ports;
        self
    }

    /// How many packets of our own each CPU sends a second to tell senders of what is dropped: ICMP errors and resets.
    /// 1,000 unless set; 0: none, and whoever it was for waits in vain.
    pub fn answers_a_second(mut self, answers: u32) -> Self {
        self.answers_a_second = Some(answers);
        self
    }

    /// Whether virtual addresses answer echo requests; unless set they do, within [`answers_a_second`](Self::answers_a_second).
    /// Those that are addresses of this host as well, and those that it has no route to, are left to its stack.
    pub fn answer_ping(mut self, answer: bool) -> Self {
        self.addresses.answer_ping = answer;
        self
    }

    /// Whether TCP and UDP to a virtual address are dropped (`no-port`) at ports that no service has there; unless set they are
    /// passed to the stack, as they always are where the address is one of this host as well, or it has no route to it. It
    /// costs packets of no service one lookup more.
    pub fn drop_unserved_ports(mut self, drop: bool) -> Self {
        self.addresses.drop_unserved_ports = drop;
        self
    }

    /// Has the programs tell of dropped packets, and of flows that are opened and closed: [`EbpfDataplane::events`] reads them.
    /// Off unless set, and then the verifier takes it out of the programs. What is told belongs to this load of them: events are
    /// not pinned, and who takes over says anew whether any are wanted. Programs that are left attached tell on, and once
    /// the ring is full only count.
    pub fn events(mut self, options: EventOptions) -> Self {
        self.events = Some(options);
        self
    }

    /// Adds an interface to work on.
    pub fn uplink(mut self, uplink: Uplink) -> Self {
        self.uplinks.push(uplink);
        self
    }

    /// Where locks of places on clsact and of pin directories are kept, and notes of the ports that are reserved for source NAT:
    /// `/run/forebay` unless set. What is in it is to go with the next boot, as it does in `/run`. It is made where it is not there; it must belong to the effective user of this process, nobody else may write to it, and it may not be a
    /// symbolic link. All processes that work on one network namespace should name the same, or they do not see each
    /// other there. Where it can't be used, ports are not reserved ([`Warning::PortsNotReserved`](crate::Warning)), and the rest
    /// works at tcx and XDP without pins, where links tell who lives.
    pub fn run_directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.run_directory = Some(path.into());
        self
    }

    /// Loads the programs, makes the tables and attaches to the uplinks.
    ///
    /// Interfaces are those of the calling thread's network namespace, and stay those when the dataplane is moved to a
    /// thread in another one. On an error nothing of ours is left in the kernel, but for the clsact qdisc, where one
    /// was made; what was pinned before stays as it was, or with the new programs on some uplinks. Cost: some 100 ms, most of it the verifier's and the parsing of the kernel's BTF.
    ///
    /// # Errors
    /// [`Error::NoPrivilege`], [`Error::NoBpf`], [`Error::NoBtf`], [`Error::MissingFeature`]: this process or kernel
    /// can't; [`Error::CapacityZero`], [`Error::CapacityTooSmall`], [`Error::Map`]: tables of this size can't be made; [`Error::InterfaceMissing`],
    /// [`Error::NatPortsTaken`], [`Error::InterfaceTwice`], [`Error::InterfaceNotEthernet`], [`Error::InterfaceSlotTaken`]: these are no uplinks;
    /// [`Error::XdpTaken`], [`Error::FilterTaken`]: another's program is there; [`Error::Lock`],
    /// [`Error::UntrustedLock`]: a place on clsact or the pin directory can't be locked; [`Error::PinsHeld`],
    /// [`Error::UntrustedPins`], [`Error::PinDirectory`]: the pin directory can't be used; [`Error::Pin`]: what is pinned
    /// there does not fit; [`Error::InterfaceVanished`], [`Error::Attach`], [`Error::Load`]: the kernel refused.
    pub fn open(self) -> Result<EbpfDataplane, Error> {
        let mut features = Features::probe()?;
        features.tcx &= !self.no_tcx;
        let bytes = match self.object {
            Some(ref bytes) => bytes.as_slice().into(),
            None => object::bytes()?,
        };
        features.require(&object::check(&bytes, &self.further_programs)?)?;
        check_capacity(&self.capacity)?;
        let network = Arc::new(Network::open()?);
        let uplinks = self.resolve(&network)?;
        let run_directory = self.run_directory.as_deref().unwrap_or(Path::new(RUN_DIRECTORY));
        let Some(directory) = &self.pins else {
            let parts = Parts { network, features, uplinks, run_directory, pins: None };
            return self.start(&bytes, parts, None);
        };
        let pins = Arc::new(Pins::take(directory, run_directory)?);
        let pinned = pins.maps(&self.capacity)?;
        let is_new = pinned.is_none();
        let parts = Parts { network, features, uplinks, run_directory, pins: Some(pins.clone()) };
        let network = parts.network.clone();
        let opened = self.start(&bytes, parts, pinned.as_ref());
        if is_new && opened.is_err() {
            // What was made by this attempt is of no use to the next one.
            if let Err(error) = pins.remove(&network) {
                tracing::warn!(%error, "a pin directory could not be taken away again");
            }
        }
        opened
    }

    /// Loads, and attaches.
    fn start(
        &self,
        bytes: &[u8],
        parts: Parts<'_>,
        pinned: Option<&PinnedMaps>,
    ) -> Result<EbpfDataplane, Error> {
        let mut ebpf = self.load(bytes, pinned)?;
        // The programs name their maps by descriptor until they are loaded.
        for name in PROGRAMS.iter().chain(&self.further_programs) {
            load_program(&mut ebpf, name)?;
        }
        for place in STAGES {
            put_stage(&mut ebpf, place)?;
        }
        let looks = [descriptor(&ebpf, COLLECT_V4)?, descriptor(&ebpf, COLLECT_V6)?];
        let batch = parts.features.batch && !self.single_operations;
        let maps = LoadedMaps::take(&mut ebpf)?;
        if let Some(pinned) = pinned {
            pinned.are(|name| maps.id(name))?;
        }
        let events = self.events.map(|_| EventReader::take(&mut ebpf)).transpose()?;
        let lock = parts.pins.as_ref().map(|pins| pins.lock());
        let tables = KernelTables::new(maps, looks.map(bpf::Program::new), batch, lock)?;
        let answers = self.answers_a_second.unwrap_or(DEFAULT_ANSWERS_A_SECOND);
        self.allow_nat_ports(pinned, tables.stranded_by(self.nat_ports)?)?;
        let reserved = self.reserve_ports(&parts)?;
        self.allow_nat_ports(pinned, tables.replace_nat_ports(self.nat_ports)?)?;
        tables.configure(&self.timeouts, answers, self.addresses)?;
        let mut plane = EbpfDataplane::attach(parts, ebpf, Arc::new(tables), pinned.is_some(), reserved)?;
        plane.events = events;
        Ok(plane)
    }

    /// Refuses a range of ports that would end connections of tables that are taken over.
    fn allow_nat_ports(&self, pinned: Option<&PinnedMaps>, stranded: Option<Stranded>) -> Result<(), Error> {
        let (Some(pinned), Some(stranded)) = (pinned, stranded) else {
            return Ok(());
        };
        let wanted = self.nat_ports.range();
        let reason = PinFault::NatPorts {
            pinned_first: *stranded.range.start(),
            pinned_last: *stranded.range.end(),
            first: *wanted.start(),
            last: *wanted.end(),
            connections: stranded.connections,
        };
        Err(Error::Pin { path: pinned.path(stranded.table), reason })
    }

    /// Keeps the host's sockets off the ports of source NAT, where there is an uplink for it.
    fn reserve_ports(&self, parts: &Parts<'_>) -> Result<Reserved, Error> {
        let Parts { network, uplinks, pins, run_directory, .. } = parts;
        if uplinks.is_empty() {
            return Ok(Reserved::Nothing);
        }
        let range = self.nat_ports.range();
        let noted = pins.as_ref().map(|pins| pins.noted_ports(network)).transpose()?;
        let pinned = pins.as_ref().map(|pins| pins.path()).zip(noted.as_ref());
        let claim = match PortClaim::take(Arc::clone(network), run_directory, range.clone(), pinned) {
            Ok(claim) => claim,
            Err(ClaimError::NoneLeft { local }) => {
                return Err(Error::NatPortsTaken {
                    first: *range.start(),
                    last: *range.end(),
                    local_first: *local.start(),
                    local_last: *local.end(),
                });
            }
            Err(error) => return Ok(Reserved::not(&error)),
        };
        if let Some(pins) = pins {
            pins.note_ports(network, &claim.ours())?;
        }
        Ok(Reserved::Claim(claim))
    }

    /// Finds the uplinks, and refuses those that can't be together.
    fn resolve(&self, network: &Network) -> Result<Vec<(Uplink, LinkState)>, Error> {
        let mut found: Vec<(Uplink, LinkState)> = Vec::new();
        let mut places: HashMap<u32, (String, u32)> = HashMap::new();
        for uplink in &self.uplinks {
            let link = network.link(&uplink.name)?;
            let (interface, index) = (uplink.name.clone(), link.index);
            if !link.is_ethernet() {
                return Err(Error::InterfaceNotEthernet { interface, kind: link.link_type });
            }
            let place = index % INTERFACE_PLACES;
            match places.insert(place, (interface.clone(), index)) {
                None => found.push((uplink.clone(), link)),
                Some((_, other_index)) if other_index == index => {
                    return Err(Error::InterfaceTwice { interface });
                }
                Some((other, other_index)) => {
                    return Err(Error::InterfaceSlotTaken { interface, index, other, other_index });
                }
            }
        }
        Ok(found)
    }

    /// Makes the maps, or opens those that are pinned, and relocates the programs.
    fn load(&self, bytes: &[u8], pinned: Option<&PinnedMaps>) -> Result<aya::Ebpf, Error> {
        let deterministic = u32::from(self.deterministic);
        let mut loader = EbpfLoader::new();
        loader.override_global(DETERMINISTIC, &deterministic, true);
        let tell = u32::from(self.events.is_some());
        loader.override_global(TELL_EVENTS, &tell, true);
        let drops = self.events.unwrap_or_default().drops_a_second();
        loader.override_global(DROP_EVENTS_A_SECOND, &drops, true);
        let ring = self.events.map_or(EventOptions::SMALLEST_RING, |options| options.ring_bytes());
        loader.map_max_entries(map::EVENTS, ring);
        for spec in MAPS {
            loader.map_max_entries(spec.name, (spec.entries)(&self.capacity));
        }
        for (name, path) in pinned.into_iter().flat_map(PinnedMaps::paths) {
            loader.map_pin_path(name, path);
        }
        for (name, entries) in &self.further_maps {
            loader.map_max_entries(name, *entries);
        }
        loader.load(bytes).map_err(|error| self.load_error(error))
    }

    fn load_error(&self, error: EbpfError) -> Error {
        match error {
            EbpfError::MapError(MapError::CreateError { name, io_error }) => {
                if is_denied(&io_error) {
                    return no_privilege(format!("make table {name}"), io_error);
                }
                let spec = MAPS.iter().find(|spec| spec.name == name);
                let capacity = spec.map_or(0, |spec| (spec.entries)(&self.capacity));
                Error::Map { operation: "make", table: name, capacity, source: io_error }
            }
            EbpfError::ParseError(error) => Error::Object { reason: error.to_string() },
            error => Error::Load { program: "object".into(), log: String::new(), source: Box::new(error) },
        }
    }
}

/// What a dataplane is made of, beside its programs and tables.
pub(crate) struct Parts<'a> {
    pub network: Arc<Network>,
    pub features: Features,
    pub uplinks: Vec<(Uplink, LinkState)>,
    pub run_directory: &'a Path,
    pub pins: Option<Arc<Pins>>,
}

fn check_capacity(capacity: &Capacity) -> Result<(), Error> {
    if let Some(spec) = MAPS.iter().find(|spec| (spec.entries)(capacity) == 0) {
        return Err(Error::CapacityZero { table: spec.name });
    }
    // An LRU table keeps some of its entries for each CPU, and the first line of the slots is never given out: with less
    // than this they open, and serve nothing.
    for (table, capacity, minimum) in [
        (map::CONNTRACK_V4, capacity.conntrack, 64),
        (map::OPENING_V4, capacity.opening, 64),
        (map::SLOTS, capacity.slots, 2 * SLOT_LINE_WORDS),
    ] {
        if capacity < minimum {
            return Err(Error::CapacityTooSmall { table, capacity, minimum });
        }
    }
    Ok(())
}

fn load_program(ebpf: &mut aya::Ebpf, name: &'static str) -> Result<(), Error> {
    let result = match ebpf.program_mut(name) {
        Some(Program::Xdp(program)) => program.load(),
        Some(Program::SchedClassifier(program)) => program.load(),
        _ => return Err(Error::Object { reason: format!("it has no program {name}") }),
    };
    result.map_err(|error| match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = tail(&verifier_log.to_string());
            // The verifier, too, says EACCES or EPERM; but then it says why.
            if log.is_empty() && is_denied(&io_error) {
                return no_privilege(format!("load program {name}"), io_error);
            }
            Error::Load { program: name.into(), log, source: Box::new(io_error) }
        }
        error => Error::Load { program: name.into(), log: String::new(), source: Box::new(error) },
    })
}

/// Puts a loaded program where another one goes on with it.
fn put_stage(ebpf: &mut aya::Ebpf, place: &StagePlace) -> Result<(), Error> {
    let StagePlace { array, stage, program, .. } = *place;
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Load {
        program: program.into(),
        log: String::new(),
        source,
    };
    let fd = match ebpf.program(program) {
        Some(Program::Xdp(program)) => program.fd(),
        Some(Program::SchedClassifier(program)) => program.fd(),
        _ => return Err(Error::Object { reason: format!("it has no program {program}") }),
    };
    let fd = fd.map_err(|error| failed(error.into()))?.try_clone().map_err(|error| failed(error.into()))?;
    let map =
        ebpf.map_mut(array).ok_or_else(|| Error::Object { reason: format!("it has no map {array}") })?;
    let mut map = ProgramArray::try_from(map).map_err(|error| failed(error.into()))?;
    map.set(stage as u32, &fd, 0).map_err(|error| failed(error.into()))
}

/// A descriptor of our own of a loaded program.
fn descriptor(ebpf: &aya::Ebpf, name: &'static str) -> Result<OwnedFd, Error> {
    program_fd(ebpf, name)?.try_clone_to_owned().map_err(|source| Error::Load {
        program: name.into(),
        log: String::new(),
        source: Box::new(source),
    })
}

fn is_denied(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
}

fn no_privilege(operation: String, source: std::io::Error) -> Error {
    let missing = "CAP_BPF and CAP_NET_ADMIN in the initial user namespace".into();
    Error::NoPrivilege { operation, missing, source: Some(source) }
}

/// The last lines of a log: the verifier says last what it did not like.
fn tail(log: &str) -> String {
    const LINES: usize = 25;
    let lines: Vec<&str> = log.trim_end().lines().collect();
    lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_without_room_is_named() {
        let error = check_capacity(&Capacity { slots: 0, ..Capacity::default() }).unwrap_err();
        assert!(matches!(error, Error::CapacityZero { table: "slots" }));
        assert!(check_capacity(&Capacity::small()).is_ok());
        for (small, table) in [
            (Capacity { slots: 8, ..Capacity::default() }, "slots"),
            (Capacity { conntrack: 63, ..Capacity::default() }, "conntrack_v4"),
            (Capacity { opening: 63, ..Capacity::default() }, "opening_v4"),
        ] {
            let error = check_capacity(&small).unwrap_err();
            assert!(matches!(error, Error::CapacityTooSmall { table: found, .. } if found == table));
        }
    }

    #[test]
    fn the_end_of_a_log_is_kept() {
        let log: Vec<String> = (0..100).map(|n| format!("line {n}")).collect();
        let tail = tail(&(log.join("\n") + "\n\n"));
        assert!(tail.starts_with("line 75\n") && tail.ends_with("line 99"), "{tail}");
        assert_eq!(super::tail("one"), "one");
        assert_eq!(super::tail(""), "");
    }
}
