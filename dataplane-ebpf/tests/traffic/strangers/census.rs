//! A program of somebody else's: it counts packets by what they are, and hands each on.

use std::{collections::BTreeMap, fmt, io, os::fd::AsRawFd as _, path::Path};

use aya::maps::{HashMap, Map, MapData};
use aya_obj::generated::{bpf_insn, bpf_prog_type};

use crate::bpf::{self, instruction};

/// What a packet is, as far as the program tells packets apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// The number of the protocol above Ethernet.
    pub ethertype: u16,
    /// That of the one above IP, without looking past extension headers; 0: not IP.
    pub protocol: u8,
    /// The destination port; 0: neither TCP nor UDP.
    pub port: u16,
}

impl Kind {
    /// As it stands in the map's keys: ethertype, protocol, a 0 byte, port, all in the network's order, and two 0 bytes.
    fn of(key: u64) -> Self {
        let [a, b, protocol, _, c, d, _, _] = key.to_ne_bytes();
        Self { ethertype: u16::from_be_bytes([a, b]), protocol, port: u16::from_be_bytes([c, d]) }
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}/{}/{}", self.ethertype, self.protocol, self.port)
    }
}

/// How many packets of each kind were there.
pub type Census = BTreeMap<Kind, u64>;

/// Such a program, loaded and pinned, and its counters.
pub struct CensusProgram {
    map: HashMap<MapData, u64, u64>,
}

impl CensusProgram {
    /// Loads one for tc or, where `xdp`, for XDP, and pins it at `path`.
    pub fn load(xdp: bool, path: &Path) -> io::Result<Self> {
        let map = bpf::hash_map(size_of::<u64>() as u32, size_of::<u64>() as u32, KINDS)?;
        let kind =
            if xdp { bpf_prog_type::BPF_PROG_TYPE_XDP } else { bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS };
        let program = bpf::load(kind, &instructions(xdp, map.as_raw_fd()))?;
        bpf::pin(program, path)?;
        let map = MapData::from_fd(map).map_err(io::Error::other)?;
        Ok(Self { map: HashMap::try_from(Map::HashMap(map)).map_err(io::Error::other)? })
    }

    /// What was counted until now.
    pub fn census(&self) -> Census {
        self.map.iter().map(|entry| entry.map(|(key, count)| (Kind::of(key), count)).unwrap()).collect()
    }
}

/// More kinds than a test's packets have.
const KINDS: u32 = 4096;
/// `TCX_NEXT` and `TC_ACT_UNSPEC`, and `XDP_PASS`: whoever comes next decides.
const TC_NEXT: i32 = -1;
const XDP_PASS: i32 = 2;
/// Of an update: only if there is none. `BPF_NOEXIST`
const IF_ABSENT: i32 = 1;
const LOOKUP: i32 = 1;
const UPDATE: i32 = 2;

fn instructions(xdp: bool, map: i32) -> Vec<bpf_insn> {
    // Where a packet's bytes begin and end, in `struct xdp_md` and in `struct __sk_buff`.
    let (data, end, verdict) = if xdp { (0, 4, XDP_PASS) } else { (76, 80, TC_NEXT) };
    let [ipv4, ipv6] = [0x0800u16, 0x86dd].map(|ethertype| i32::from(ethertype.to_be()));
    let mut code = Assembler::default();
    code.op(0x61, 2, 1, data, 0); // r2 = the packet
    code.op(0x61, 3, 1, end, 0); // r3 = its end
    code.op(0x7a, 10, 0, -8, 0); // the key, on the stack: 0
    code.within(14);
    code.op(0x69, 5, 2, 12, 0); // r5 = *(u16 *)(r2 + 12)
    code.op(0x6b, 10, 5, -8, 0); // key.ethertype = r5
    code.jump(0x55, 5, ipv4, "not IPv4");
    code.transport(23, 34);
    code.label("not IPv4");
    code.jump(0x55, 5, ipv6, "count");
    code.transport(20, 54);
    code.label("count");
    code.lookup(map);
    code.jump(0x55, 0, 0, "add");
    code.op(0x7a, 10, 0, -16, 0); // a count of 0
    code.arguments(map);
    code.op(0xbf, 3, 10, 0, 0); // r3 = r10
    code.op(0x07, 3, 0, 0, -16);
    code.op(0xb7, 4, 0, 0, IF_ABSENT);
    code.op(0x85, 0, 0, 0, UPDATE);
    code.lookup(map);
    code.jump(0x15, 0, 0, "end");
    code.label("add");
    code.op(0xb7, 1, 0, 0, 1); // r1 = 1
    code.op(0xdb, 0, 1, 0, 0); // lock *(u64 *)r0 += r1
    code.label("end");
    code.op(0xb7, 0, 0, 0, verdict);
    code.op(0x95, 0, 0, 0, 0); // exit
    code.finish()
}

/// Instructions, and jumps to places that are named.
#[derive(Default)]
struct Assembler {
    code: Vec<bpf_insn>,
    jumps: Vec<(usize, &'static str)>,
    labels: BTreeMap<&'static str, usize>,
}

impl Assembler {
    fn op(&mut self, code: u8, destination: u8, source: u8, off: i16, imm: i32) {
        self.code.push(instruction(code, destination, source, off, imm));
    }

    fn jump(&mut self, code: u8, register: u8, imm: i32, to: &'static str) {
        self.jumps.push((self.code.len(), to));
        self.op(code, register, 0, 0, imm);
    }

    fn label(&mut self, name: &'static str) {
        self.labels.insert(name, self.code.len());
    }

    /// Goes on where the packet has so many bytes, and else counts what is known of it.
    fn within(&mut self, bytes: i32) {
        self.op(0xbf, 4, 2, 0, 0); // r4 = r2
        self.op(0x07, 4, 0, 0, bytes); // r4 += bytes
        self.jumps.push((self.code.len(), "count"));
        self.op(0x2d, 4, 3, 0, 0); // if r4 > r3 goto count
    }

    /// Notes the protocol, which stands at `protocol`, and of TCP and UDP the destination port; their header is at `l4`.
    fn transport(&mut self, protocol: i16, l4: i16) {
        let ports = if l4 == 34 { "IPv4 ports" } else { "IPv6 ports" };
        self.within(i32::from(l4) + 4);
        self.op(0x71, 0, 2, protocol, 0); // r0 = *(u8 *)(r2 + protocol)
        self.op(0x73, 10, 0, -6, 0); // key.protocol = r0
        self.jump(0x15, 0, 6, ports);
        self.jump(0x55, 0, 17, "count");
        self.label(ports);
        self.op(0x69, 0, 2, l4 + 2, 0); // r0 = *(u16 *)(r2 + l4 + 2)
        self.op(0x6b, 10, 0, -4, 0); // key.port = r0
        self.jump(0x05, 0, 0, "count");
    }

    /// r1 = the map, r2 = the key's address.
    fn arguments(&mut self, map: i32) {
        self.op(0x18, 1, 1, 0, map);
        self.op(0, 0, 0, 0, 0);
        self.op(0xbf, 2, 10, 0, 0);
        self.op(0x07, 2, 0, 0, -8);
    }

    /// r0 = the count's address.
    fn lookup(&mut self, map: i32) {
        self.arguments(map);
        self.op(0x85, 0, 0, 0, LOOKUP);
    }

    fn finish(mut self) -> Vec<bpf_insn> {
        for (at, to) in self.jumps {
            self.code[at].off = (self.labels[to] - at - 1) as i16;
        }
        self.code
    }
}
