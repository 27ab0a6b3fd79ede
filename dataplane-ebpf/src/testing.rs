//! The kernel's programs on frames that a test hands them, with a clock and random numbers of its own.
//!
//! For the agreement test, benches and tests of the verifier; feature `testing`.

use std::{
    mem::offset_of,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use aya::{
    TestRun, TestRunOptions,
    maps::{MapError, ProgramArray},
    programs::Program,
};
use dataplane_core::{
    abi::TestInput,
    pipeline::Hook,
    tables::{TableError, WordArray},
};
use zerocopy::{Immutable, IntoBytes};

use crate::{
    Builder, EbpfDataplane, Error,
    object::{EGRESS, INGRESS, STAGES, XDP},
};

/// Room for what a program puts in front of a frame.
const HEADROOM: usize = 256;

/// A dataplane whose programs take time and randomness from [`TestInput`]s.
///
/// It need have no uplinks: interfaces are named for each run. The kernel looks for them, their routes and their
/// neighbours in the network namespace of the thread that runs the program.
#[derive(Debug)]
pub struct TestDataplane {
    plane: EbpfDataplane,
}

impl Builder {
    /// Writes, removes and lists entries one by one, as on a kernel without batch commands.
    pub fn without_batches(mut self) -> Self {
        self.single_operations = true;
        self
    }

    /// Attaches as on a kernel without tcx (before 6.6).
    pub fn without_tcx(mut self) -> Self {
        self.no_tcx = true;
        self
    }

    /// Loads this object instead of the embedded one.
    pub fn object(mut self, bytes: Vec<u8>) -> Self {
        self.object = Some(bytes);
        self
    }

    /// Loads these programs of the object too. They share its maps and are attached nowhere: [`EbpfDataplane::run_named`]
    /// runs them.
    pub fn further_programs(mut self, names: &[&'static str]) -> Self {
        self.further_programs.extend(names);
        self
    }

    /// Gives one of the object's further maps room for so many entries.
    pub fn further_map(mut self, name: &'static str, entries: u32) -> Self {
        self.further_maps.push((name, entries));
        self
    }
}

/// The bytes of the embedded object.
pub fn embedded_object() -> &'static [u8] {
    crate::object::EMBEDDED
}

/// What a program did with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What it returned, an `XDP_*` or `TC_ACT_*`.
    pub returned: u32,
    /// The frame as it left it.
    pub frame: Vec<u8>,
    /// Mean time of one run, as the kernel measured it.
    pub duration: Duration,
}

impl TestDataplane {
    /// Opens a dataplane with the constant set that makes its programs deterministic.
    ///
    /// # Errors
    /// As [`Builder::open`].
    pub fn open(mut builder: Builder) -> Result<Self, Error> {
        builder.deterministic = true;
        Ok(Self { plane: builder.open()? })
    }

    /// The dataplane.
    pub fn plane(&self) -> &EbpfDataplane {
        &self.plane
    }

    /// Sets what the programs read, or clears what they write.
    ///
    /// # Errors
    /// [`TableError`] where there is no such word; that is, never with the object that this crate carries.
    pub fn set(&self, input: TestInput, word: u64) -> Result<(), TableError> {
        self.plane.tables().test_inputs().store(input as u32, &[word])
    }

    /// What the programs read, or wrote.
    pub fn get(&self, input: TestInput) -> u64 {
        self.plane.tables().test_inputs().load(input as u32, 0).unwrap_or(0)
    }

    /// Tells the programs of an interface, as if it were an uplink.
    ///
    /// # Errors
    /// [`TableError`] where there is no place for it.
    pub fn set_interface(&self, entry: &dataplane_core::abi::InterfaceEntry) -> Result<(), TableError> {
        self.plane.tables().set_interface(entry)
    }

    /// Tells the programs of the addresses that flows get which leave through an interface.
    ///
    /// # Errors
    /// [`TableError`] where there is no place for it.
    pub fn set_masquerade(&self, entry: &dataplane_core::abi::MasqueradeEntry) -> Result<(), TableError> {
        self.plane.tables().set_masquerade(entry)
    }

    /// Takes the later stages of a hook out of their places.
    ///
    /// # Errors
    /// [`Error::Object`], [`Error::Load`]: never with the object that this crate carries.
    pub fn remove_stages(&mut self, hook: Hook) -> Result<(), Error> {
        for place in STAGES.iter().filter(|place| place.hook == hook) {
            let missing = || Error::Object { reason: format!("it has no map {}", place.array) };
            let map = self.plane.ebpf.map_mut(place.array).ok_or_else(missing)?;
            let cleared =
                ProgramArray::try_from(map).and_then(|mut map| map.clear_index(&(place.stage as u32)));
            match cleared {
                Ok(()) => {}
                // It is taken out already.
                Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {
                }
                Err(error) => {
                    let (program, log) = (place.program.into(), String::new());
                    return Err(Error::Load { program, log, source: error.into() });
                }
            }
        }
        Ok(())
    }

    /// Runs a program once, on a frame that arrives at (or leaves by) the interface of this index.
    ///
    /// # Errors
    /// [`Error::TestRun`]. The kernel wants 14 bytes at least, and an interface that is there.
    pub fn run(&self, hook: Hook, frame: &[u8], interface: u32) -> Result<Outcome, Error> {
        self.plane.run(hook, frame, interface, 1)
    }

    /// Runs a program `repeat` times in a row. The frame is not restored in between, so it should be one that the
    /// program leaves alone, or the time is that of a frame which was changed already.
    ///
    /// # Errors
    /// [`Error::TestRun`].
    pub fn repeat(&self, hook: Hook, frame: &[u8], interface: u32, repeat: u32) -> Result<Outcome, Error> {
        self.plane.run(hook, frame, interface, repeat)
    }
}

impl EbpfDataplane {
    /// Runs a program as [`TestDataplane::repeat`] does, with the kernel's clock and random numbers where the dataplane
    /// was not opened by [`TestDataplane::open`].
    ///
    /// # Errors
    /// [`Error::TestRun`].
    pub fn run(&self, hook: Hook, frame: &[u8], interface: u32, repeat: u32) -> Result<Outcome, Error> {
        let name = match hook {
            Hook::Xdp => XDP,
            Hook::Ingress => INGRESS,
            Hook::Egress => EGRESS,
        };
        self.run_named(name, frame, interface, repeat)
    }

    /// Runs the program of this name, one of the three or one of [`Builder::further_programs`], as [`run`](Self::run)
    /// does. At tc the frame arrives.
    ///
    /// # Errors
    /// [`Error::TestRun`], and [`Error::Object`] where it was not loaded.
    pub fn run_named(&self, name: &str, frame: &[u8], interface: u32, repeat: u32) -> Result<Outcome, Error> {
        self.run_segmented(name, frame, interface, repeat, 0)
    }

    /// Runs a program as [`run_named`](Self::run_named) does, at tc on a packet which the kernel will split into segments
    /// of `gso_size` bytes of payload each; 0 for one that it will not.
    ///
    /// # Errors
    /// As [`run_named`](Self::run_named).
    pub fn run_segmented(
        &self,
        name: &str,
        frame: &[u8],
        interface: u32,
        repeat: u32,
        gso_size: u32,
    ) -> Result<Outcome, Error> {
        let mut out = vec![0; frame.len().saturating_add(HEADROOM)];
        let xdp = XdpMetadata {
            data_end: u32::try_from(frame.len()).unwrap_or(u32::MAX),
            ingress_ifindex: interface,
            ..XdpMetadata::default()
        };
        let skb = SocketBuffer {
            ingress_ifindex: if name == EGRESS { 0 } else { interface },
            ifindex: interface,
            gso_size,
            ..SocketBuffer::default()
        };
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.repeat = repeat;
        let result = match self.ebpf.program(name) {
            Some(Program::Xdp(program)) => {
                options.ctx_in = Some(xdp.as_bytes());
                program.test_run(options)
            }
            Some(Program::SchedClassifier(program)) => {
                options.ctx_in = Some(skb.as_bytes());
                program.test_run(options)
            }
            _ => return Err(Error::Object { reason: format!("it has no program {name}") }),
        };
        let result = result.map_err(|error| Error::TestRun {
            program: name.into(),
            length: frame.len(),
            source: Box::new(error),
        })?;
        out.truncate(result.data_size_out as usize);
        Ok(Outcome { returned: result.return_value, frame: out, duration: result.duration })
    }

    /// How many instructions the verifier walked through in the program of this name; `None` where it was not loaded, or
    /// the kernel does not tell.
    pub fn verified_instructions(&self, name: &str) -> Option<u32> {
        let info = match self.ebpf.program(name)? {
            Program::Xdp(program) => program.info(),
            Program::SchedClassifier(program) => program.info(),
            _ => return None,
        };
        info.ok()?.verified_instruction_count()
    }

    /// A map of the object that is its programs' own business, as [`KernelTables::map_fd`](crate::KernelTables::map_fd)
    /// gives the others.
    pub fn further_map_fd(&self, name: &str) -> Option<BorrowedFd<'_>> {
        use aya::maps::Map::{Array, LruHashMap};
        match self.ebpf.map(name)? {
            Array(map) | LruHashMap(map) => Some(map.fd().as_fd()),
            _ => None,
        }
    }
}

/// `struct xdp_md` (linux/bpf.h).
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct XdpMetadata {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// `struct __sk_buff` (linux/bpf.h); what a test run must leave 0 has no name here.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct SocketBuffer {
    before: [u32; 9],
    ingress_ifindex: u32,
    ifindex: u32,
    between: [u32; 33],
    gso_size: u32,
    after: [u32; 3],
}

impl Default for SocketBuffer {
    fn default() -> Self {
        Self { before: [0; 9], ingress_ifindex: 0, ifindex: 0, between: [0; 33], gso_size: 0, after: [0; 3] }
    }
}

const _: () = assert!(size_of::<XdpMetadata>() == 24 && size_of::<SocketBuffer>() == 192);
const _: () = assert!(offset_of!(SocketBuffer, gso_size) == 176);
