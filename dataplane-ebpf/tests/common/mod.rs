//! A host with one uplink, for tests of the kernel.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

pub mod kernel;

use std::{
    env,
    ffi::OsStr,
    net::UdpSocket,
    process::{Command, Output},
    time::Duration,
};

use dataplane_core::{
    pipeline::{Hook, Verdict},
    tables::{Capacity, Store as _},
};
use dataplane_ebpf::{Builder, EbpfDataplane, Error, Features, KernelTables};
use dataplane_testkit::{
    child,
    net::{Interface, Namespace, veth},
};

/// Small tables, nothing pinned.
pub fn small() -> Builder {
    EbpfDataplane::builder().unpinned().capacity(Capacity::small())
}

pub const XDP: &str = "forebay_xdp";
pub const INGRESS: &str = "forebay_ingress";
pub const EGRESS: &str = "forebay_egress";

/// Kernels before 6.6 have none; the other choices are tested there.
pub fn has_tcx() -> bool {
    Features::probe().unwrap().tcx
}

/// How many packets a hook's program has seen, by its own counters.
pub fn seen(tables: &KernelTables, hook: Hook) -> u64 {
    Verdict::all().map(|verdict| tables.counters().verdict(hook, verdict).unwrap()).sum()
}

/// The kernel's id of a loaded program.
pub fn id(plane: &EbpfDataplane, name: &str) -> u32 {
    plane.programs().unwrap().iter().find(|program| program.name == name).unwrap().id
}

/// A host with an interface `uplink`, and what is at its other end.
pub struct Host {
    pub host: Namespace,
    pub peer: Namespace,
    pub uplink: Interface,
    pub far: Interface,
}

impl Host {
    pub fn new(label: &str) -> Self {
        let host = Namespace::new(format!("{label} host")).unwrap();
        let peer = Namespace::new(format!("{label} peer")).unwrap();
        let (uplink, far) = veth(&host, "uplink", &peer, "far").unwrap();
        Self { host, peer, uplink, far }
    }

    pub fn open(&self, builder: Builder) -> Result<EbpfDataplane, Error> {
        self.host.run(|| builder.open())
    }

    /// Gives both ends an address.
    pub fn address(&self) {
        self.uplink.add_address("192.0.2.1/24".parse().unwrap()).unwrap();
        self.far.add_address("192.0.2.2/24".parse().unwrap()).unwrap();
    }

    /// Sends a datagram from the peer to the host, and one back.
    pub fn ping(&self) {
        let bind = |address: &'static str| {
            move || {
                let socket = UdpSocket::bind(address).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                socket
            }
        };
        let (near, far) = (self.host.run(bind("192.0.2.1:0")), self.peer.run(bind("192.0.2.2:0")));
        far.send_to(b"ping", near.local_addr().unwrap()).unwrap();
        let (_, from) = near.recv_from(&mut [0; 8]).unwrap();
        near.send_to(b"pong", from).unwrap();
        far.recv_from(&mut [0; 8]).unwrap();
    }

    /// Runs a command in the host's namespace and returns what it prints.
    pub fn command(&self, program: &str, arguments: &[&str]) -> String {
        self.host.run(|| run(program, arguments))
    }

    /// Puts a loaded XDP program on the uplink in the old way, by netlink.
    pub fn attach_xdp_by_netlink(&self, program: u32) {
        self.command("bpftool", &["net", "attach", "xdpdrv", "id", &program.to_string(), "dev", "uplink"]);
    }

    /// The id of the XDP program on the uplink, as iproute2 tells it.
    pub fn xdp_program(&self) -> Option<u32> {
        let text = self.command("ip", &["-json", "-details", "link", "show", "dev", "uplink"]);
        let (_, rest) = text.split_once("\"prog\":{\"id\":")?;
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
    }
}

const STAGE: &str = "FOREBAY_TEST_STAGE";

/// Whether this process was started by [`in_child`] for this test.
pub fn is_child(test: &str) -> bool {
    env::var(STAGE).is_ok_and(|stage| stage == test)
}

/// Runs one test of this program anew in a process of its own, behind a command that changes what it may see, if any.
/// Where that takes too long, it is killed and its words are in the panic.
pub fn in_child(test: &str, wrapper: &[&str]) -> Output {
    let this = env::current_exe().unwrap();
    let mut line: Vec<&OsStr> = wrapper.iter().map(OsStr::new).collect();
    line.extend([this.as_os_str(), OsStr::new("--exact"), OsStr::new("--nocapture"), OsStr::new(test)]);
    child::output(Command::new(line[0]).args(&line[1..]).env(STAGE, test), child::LIMIT)
        .unwrap_or_else(|error| panic!("{error}"))
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = child::output(Command::new(program).args(arguments), child::LIMIT)
        .unwrap_or_else(|error| panic!("{program} (from Debian's packages): {error}"));
    assert!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
