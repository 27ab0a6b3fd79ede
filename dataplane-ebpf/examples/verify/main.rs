//! Loads every program of an object with this kernel's own verifier and prints what it found.
//!
//!     verify OBJECT [CONSTANT=VALUE…]
//!     verify --open OBJECT
//!
//! Each `CONSTANT` is a 32-bit constant of the object that is set before the load. One line for each program:
//!
//!     program forebay_xdp: 1234 instructions, 128 bytes of stack
//!
//! Instructions are those that the verifier walked through (branches count once each time they are visited); stack is
//! the deepest chain of calls. Exits with 1 if a program can't be loaded, after its verifier log. It attaches nothing.
//!
//! With `--open` it opens a dataplane as an embedder does, on the loopback interface, has it drop a packet and tell of that, says what
//! it got there, and detaches:
//!
//!     opened: told dropped udp 192.0.2.2:40000 > 203.0.113.10:80 at ingress of interface 1: no-backend
//!     opened: lo: XDP off (not wanted), clsact (this kernel has no tcx)
//!
//! Linked statically, it runs in a virtual machine that holds nothing else: `cargo xtask kernels`.

mod stack;

use std::{collections::BTreeMap, env, error::Error, fs, process::ExitCode, time::Duration};

use aya::{
    EbpfLoader, VerifierLogLevel,
    programs::{Program, ProgramError},
};
use dataplane_core::{
    event::{Event, EventOptions},
    tables::Capacity,
    wire::PROTOCOL_UDP,
};
use dataplane_ebpf::{EbpfDataplane, Uplink, XdpMode};
use dataplane_testkit::{fill::Filler, frames::Frame};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let Some(object) = arguments.next() else {
        eprintln!("usage: verify OBJECT [CONSTANT=VALUE…]");
        return ExitCode::from(2);
    };
    if object == "--open" {
        return match arguments.next().ok_or("no object named".into()).and_then(|object| open(&object)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        };
    }
    match verify(&object, &arguments.collect::<Vec<_>>()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(refused) => {
            eprintln!("error: {refused} programs refused");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Opens a dataplane on the loopback interface and closes it again.
fn open(object: &str) -> Result<(), Box<dyn Error>> {
    let bytes = fs::read(object).map_err(|error| format!("cannot read {object}: {error}"))?;
    let plane = EbpfDataplane::builder()
        .unpinned()
        .object(bytes)
        .capacity(Capacity::small())
        .events(EventOptions::default())
        .uplink(Uplink::named("lo").xdp(XdpMode::Off))
        .open()?;
    plane.refresh()?;
    println!("opened: told {}", drop_one(&plane)?);
    for attachment in plane.attachments() {
        println!("opened: {attachment}");
    }
    Ok(plane.detach()?)
}

/// Has a packet dropped, for want of a backend, and reads the event of that.
fn drop_one(plane: &EbpfDataplane) -> Result<Event, Box<dyn Error>> {
    let [client, service] = ["192.0.2.2:40000".parse()?, "203.0.113.10:80".parse()?];
    Filler::default().service(&*plane.tables(), service, PROTOCOL_UDP, &[])?;
    let loopback = plane.attachments().first().map_or(1, |attachment| attachment.index);
    let frame = Frame::udp(client, service).link([0; 6], [2, 0, 0, 0, 0, 1]).build();
    plane.run_named("forebay_ingress", &frame, loopback, 1)?;
    let reader = plane.events().ok_or("no events")?;
    Ok(reader.next(Duration::from_secs(5))?.ok_or("a packet was dropped, and nothing told")?)
}

/// Loads every program and prints its line; returns how many were refused.
fn verify(object: &str, settings: &[String]) -> Result<usize, Box<dyn Error>> {
    let bytes = fs::read(object).map_err(|error| format!("cannot read {object}: {error}"))?;
    let calls = stack::calls(&bytes)?;

    let settings =
        settings.iter().map(|setting| parse_setting(setting)).collect::<Result<BTreeMap<_, _>, _>>()?;
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::STATS);
    for (name, value) in &settings {
        loader.override_global(name, value, true);
    }
    let mut ebpf = loader.load(&bytes)?;

    let mut refused = 0;
    let programs: BTreeMap<String, &mut Program> =
        ebpf.programs_mut().map(|(name, program)| (name.to_owned(), program)).collect();
    for (name, program) in programs {
        let result = inspect(program).and_then(|(instructions, depths)| {
            let calls = calls.get(&name).ok_or("not in the object")?;
            Ok((instructions, stack::deepest_chain(calls, &depths)))
        });
        match result {
            Ok((instructions, stack)) => {
                println!("program {name}: {instructions} instructions, {stack} bytes of stack");
            }
            Err(error) => {
                println!("program {name}: refused: {error}");
                refused += 1;
            }
        }
    }
    Ok(refused)
}

fn parse_setting(setting: &str) -> Result<(&str, u32), String> {
    let parsed = setting.split_once('=').and_then(|(name, value)| Some((name, value.parse().ok()?)));
    parsed.ok_or_else(|| format!("{setting:?} is not CONSTANT=VALUE with a number of 32 bits"))
}

/// Loads the program and returns its verified instructions, and the stack depth of each of its functions in bytes, in
/// their order in the program.
fn inspect(program: &mut Program) -> Result<(u32, Vec<u32>), Box<dyn Error>> {
    // aya keeps the verifier's log only where a load fails. Where no descriptor is left, the kernel verifies the program
    // to the end, writes its log, and only then fails, for want of a descriptor to return.
    let log = match without_descriptors(|| load(program))? {
        Err(ProgramError::LoadError { io_error, verifier_log }) if is_descriptor_shortage(&io_error) => {
            verifier_log.to_string()
        }
        Err(error) => return Err(error.into()),
        Ok(()) => return Err("the kernel returned a descriptor beyond the limit".into()),
    };
    load(program)?;
    let info = program.info()?;
    let instructions =
        info.verified_instruction_count().ok_or("this kernel counts no verified instructions (5.16)")?;
    let depths =
        stack::parse_depths(&log).ok_or_else(|| format!("no stack depth in the verifier's log:\n{log}"))?;
    Ok((instructions, depths))
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn without_descriptors<T>(act: impl FnOnce() -> T) -> Result<T, Box<dyn Error>> {
    let usual = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..usual })?;
    let result = act();
    setrlimit(Resource::Nofile, usual)?;
    Ok(result)
}

fn is_descriptor_shortage(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error())
}
