//! The kernel's helper functions, as safe ones: each takes only what it cannot be misused with.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM,
        bpf_fib_lookup as FibParameters, bpf_redir_neigh, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2, xdp_md,
    },
    helpers::generated,
};
use dataplane_core::{
    abi::{TupleV4, TupleV6},
    pipeline::{ApplyError, NextHop, Route, RouteQuery, Steps},
    tables::{Family, V4, V6},
    wire::{Delta, MacAddress, PROTOCOL_TCP, sum_words},
};
use zerocopy::{Immutable, IntoBytes};

use crate::frame::Bytes;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The clock of the last timer tick: a few milliseconds old at most, at the price of two loads (Linux 5.11).
#[inline(always)]
pub fn coarse_nanoseconds() -> u64 {
    // SAFETY: no arguments.
    unsafe { generated::bpf_ktime_get_coarse_ns() }
}

#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: no arguments.
    unsafe { generated::bpf_get_prandom_u32() }
}

/// `bpf_loop` (Linux 5.17).
#[inline(always)]
pub fn repeat<S: Steps>(times: u32, steps: &mut S) {
    /// What the kernel calls: 1 ends the loop.
    extern "C" fn step<S: Steps>(index: u32, steps: *mut S) -> i64 {
        // SAFETY: the pointer that is handed to the kernel below, which hands it on here before `repeat` returns.
        i64::from(unsafe { &mut *steps }.step(index))
    }
    let callback: extern "C" fn(u32, *mut S) -> i64 = step::<S>;
    // SAFETY: a function of this object, and the pointer that it takes.
    unsafe {
        generated::bpf_loop(times, callback as *mut c_void, core::ptr::from_mut(steps).cast(), 0);
    }
}

/// Where the parameters of a route lookup stand: 64 bytes that the stack has not.
#[repr(transparent)]
pub struct RouteRoom(FibParameters);

impl RouteRoom {
    #[inline(always)]
    fn ask<F: Family>(&mut self, family: u8, query: &RouteQuery<F>) -> &mut FibParameters {
        // SAFETY: integers and unions of integers only; zero is a value of each.
        self.0 = unsafe { core::mem::zeroed() };
        self.0.family = family;
        self.0.l4_protocol = query.protocol;
        self.0.__bindgen_anon_1.tot_len = if query.length > 0xffff { 0xffff } else { query.length as u16 };
        self.0.sport = query.source_port.0;
        self.0.dport = query.destination_port.0;
        self.0.ifindex = query.interface;
        &mut self.0
    }

    #[inline(always)]
    pub fn route_v4(&mut self, context: *mut c_void, query: &RouteQuery<V4>, hop: &mut NextHop) -> Route {
        let parameters = self.ask(AF_INET, query);
        parameters.__bindgen_anon_2.tos = query.traffic_class;
        parameters.__bindgen_anon_3.ipv4_src = query.source.0;
        parameters.__bindgen_anon_4.ipv4_dst = query.destination.0;
        fib_lookup(context, parameters, hop)
    }

    #[inline(always)]
    pub fn route_v6(&mut self, context: *mut c_void, query: &RouteQuery<V6>, hop: &mut NextHop) -> Route {
        let parameters = self.ask(AF_INET6, query);
        parameters.__bindgen_anon_2.flowinfo = (u32::from(query.traffic_class) << 20).to_be();
        parameters.__bindgen_anon_3.ipv6_src = query.source.0;
        parameters.__bindgen_anon_4.ipv6_dst = query.destination.0;
        fib_lookup(context, parameters, hop)
    }
}

/// `BPF_F_CURRENT_NETNS`: in the packet's own network namespace.
const CURRENT_NETNS: u64 = u64::MAX;

/// Whether a socket of this host would get the packets of a tuple: `bpf_skc_lookup_tcp`, `bpf_sk_lookup_udp`.
#[inline(always)]
fn is_bound(context: *mut c_void, tuple: &mut bpf_sock_tuple, length: u32, protocol: u8) -> bool {
    // SAFETY: the context is this program's, and the tuple at least as long as is said; a socket that was found is given
    // back at once and not looked at.
    unsafe {
        let socket: *mut c_void = if protocol == PROTOCOL_TCP {
            generated::bpf_skc_lookup_tcp(context, tuple, length, CURRENT_NETNS, 0).cast()
        } else {
            generated::bpf_sk_lookup_udp(context, tuple, length, CURRENT_NETNS, 0).cast()
        };
        if socket.is_null() {
            return false;
        }
        generated::bpf_sk_release(socket);
        true
    }
}

#[inline(always)]
pub fn is_bound_v4(context: *mut c_void, tuple: &TupleV4) -> bool {
    let mut asked = bpf_sock_tuple {
        __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 {
            ipv4: bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
                saddr: tuple.source.0,
                daddr: tuple.destination.0,
                sport: tuple.source_port.0,
                dport: tuple.destination_port.0,
            },
        },
    };
    let length = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>() as u32;
    is_bound(context, &mut asked, length, tuple.protocol)
}

#[inline(always)]
pub fn is_bound_v6(context: *mut c_void, tuple: &TupleV6) -> bool {
    let mut asked = bpf_sock_tuple {
        __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 {
            ipv6: bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
                saddr: tuple.source.0,
                daddr: tuple.destination.0,
                sport: tuple.source_port.0,
                dport: tuple.destination_port.0,
            },
        },
    };
    let length = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>() as u32;
    is_bound(context, &mut asked, length, tuple.protocol)
}

/// `bpf_fib_lookup`; its answers are in `include/uapi/linux/bpf.h`, `BPF_FIB_LKUP_RET_*`.
#[inline(always)]
fn fib_lookup(context: *mut c_void, parameters: &mut FibParameters, hop: &mut NextHop) -> Route {
    // SAFETY: the context is this program's, the parameters are of the size that is said.
    let query_interface = parameters.ifindex;
    let answer =
        unsafe { generated::bpf_fib_lookup(context, parameters, size_of::<FibParameters>() as i32, 0) };
    match answer {
        0 => {
            write_hop(parameters, true, hop);
            Route::Forward
        }
        1..=3 => Route::Unreachable,
        5 => Route::ForwardingOff,
        7 => {
            write_hop(parameters, false, hop);
            Route::Forward
        }
        8 => {
            // SAFETY: integers behind a union: any bytes are valid. The kernel has put the MTU where the length was.
            hop.mtu = unsafe { parameters.__bindgen_anon_1.mtu_result }.into();
            // Where it would leave is told only of what is not too long.
            parameters.__bindgen_anon_1.tot_len = 0;
            parameters.ifindex = query_interface;
            // SAFETY: as above.
            unsafe { generated::bpf_fib_lookup(context, parameters, size_of::<FibParameters>() as i32, 0) };
            write_hop(parameters, false, hop);
            Route::TooBig
        }
        // No route, or one with an encapsulation: whatever it is, the stack knows how.
        _ => Route::Stack,
    }
}

#[inline(always)]
fn write_hop(parameters: &FibParameters, resolved: bool, hop: &mut NextHop) {
    hop.interface = parameters.ifindex;
    hop.gateway.v6 = parameters.family != AF_INET;
    // SAFETY: integers behind a union: any bytes are valid. An IPv4 gateway is in the first word.
    hop.gateway.address = unsafe { parameters.__bindgen_anon_4.ipv6_dst };
    hop.resolved = resolved;
    hop.link.destination = MacAddress::new(parameters.dmac);
    hop.link.source = MacAddress::new(parameters.smac);
}

/// `bpf_redirect`: what an XDP program returns to send a frame through another interface.
#[inline(always)]
pub fn redirect(interface: u32) -> u32 {
    // SAFETY: scalars only.
    unsafe { generated::bpf_redirect(interface, 0) as u32 }
}

/// `bpf_redirect_neigh`: what a classifier returns to send a packet to a neighbour, which the kernel resolves first.
#[inline(always)]
pub fn redirect_neighbor(hop: &NextHop) -> i32 {
    // SAFETY: integers and a union of integers; zero is a value of each.
    let mut parameters: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    parameters.nh_family = if hop.gateway.v6 { AF_INET6 } else { AF_INET }.into();
    parameters.__bindgen_anon_1.ipv6_nh = hop.gateway.address;
    // SAFETY: the parameters are of the size that is said.
    unsafe {
        generated::bpf_redirect_neigh(
            hop.interface,
            &raw mut parameters,
            size_of::<bpf_redir_neigh>() as i32,
            0,
        ) as i32
    }
}

/// Reads a packet pointer out of a context: a field of 32 bits that the verifier makes a pointer of 64.
///
/// By plain code, the compiler believes that the value has 32 bits, and may copy it as such; what comes out is no
/// pointer any more. `pure` and `readonly` let it keep the value until something may have changed the packet.
macro_rules! packet_pointer {
    ($context:expr, $structure:ty, $field:ident) => {{
        let pointer: u64;
        // SAFETY: loads a field of the program's context, which is valid for this run.
        unsafe {
            core::arch::asm!(
                "{pointer} = *(u32 *)({context} + {offset})",
                pointer = out(reg) pointer,
                context = in(reg) $context,
                offset = const core::mem::offset_of!($structure, $field),
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        pointer as usize
    }};
}

/// A frame in a network card's ring.
#[derive(Clone, Copy)]
pub struct Xdp(pub *mut xdp_md);

impl Xdp {
    #[inline(always)]
    pub fn bytes(self) -> Bytes {
        Bytes { data: packet_pointer!(self.0, xdp_md, data), end: packet_pointer!(self.0, xdp_md, data_end) }
    }

    #[inline(always)]
    pub fn interface(self) -> u32 {
        // SAFETY: the program's context, valid for this run.
        unsafe { (*self.0).ingress_ifindex }
    }

    /// Length of the frame with its fragments (Linux 5.18).
    #[inline(always)]
    pub fn length(self) -> u32 {
        // SAFETY: as in `bytes`.
        unsafe { generated::bpf_xdp_get_buff_len(self.0) as u32 }
    }
}

/// A socket buffer.
#[derive(Clone, Copy)]
pub struct Skb(pub *mut __sk_buff);

macro_rules! skb_fields {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        impl Skb {
            $($(#[$doc])*
            #[inline(always)]
            pub fn $name(self) -> u32 {
                // SAFETY: the program's context, valid for this run.
                unsafe { (*self.0).$name }
            })+
        }
    };
}

skb_fields! {
    /// Length of the packet from the link-layer header on.
    len,
    /// Whom the driver took it to be for.
    pkt_type,
    /// Whether it carries an 802.1Q tag beside its bytes.
    vlan_present,
    /// The interface.
    ifindex,
    /// Bytes of payload in each segment; 0: it will not be split.
    gso_size,
}

/// Where bytes of a packet stand while they are summed up.
#[repr(transparent)]
pub struct SumRoom([u64; Self::WORDS]);

impl SumRoom {
    const BYTES: u32 = 2048;
    const WORDS: usize = Self::BYTES as usize / 8;
}

/// A number below [`SumRoom::BYTES`], with a bound that every verifier sees: see [`Bytes`].
#[inline(always)]
fn bounded(number: u32) -> u32 {
    let mut number = number as u64;
    // SAFETY: an operation on one register.
    unsafe {
        core::arch::asm!(
            "{number} &= {mask}",
            number = inout(reg) number,
            mask = const SumRoom::BYTES - 1,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    number as u32
}

fn done(code: i64) -> Result<(), ApplyError> {
    if code == 0 { Ok(()) } else { Err(ApplyError) }
}

impl Skb {
    #[inline(always)]
    pub fn bytes(self) -> Bytes {
        Bytes {
            data: packet_pointer!(self.0, __sk_buff, data),
            end: packet_pointer!(self.0, __sk_buff, data_end),
        }
    }

    /// Makes the first `length` bytes linear.
    #[inline(always)]
    pub fn pull(self, length: u32) -> Result<(), ApplyError> {
        // SAFETY: as in `bytes`; pointers into the packet are made anew for each access.
        done(unsafe { generated::bpf_skb_pull_data(self.0, length) })
    }

    /// Writes bytes that a checksum within the packet balances.
    #[inline(always)]
    pub fn store<T: IntoBytes + Immutable>(self, offset: u32, value: &T) -> Result<(), ApplyError> {
        self.store_flags(offset, value, 0)
    }

    /// Writes bytes that no checksum within the packet balances, and mends the sum that the network card made.
    #[inline(always)]
    pub fn store_unbalanced<T: IntoBytes + Immutable>(
        self,
        offset: u32,
        value: &T,
    ) -> Result<(), ApplyError> {
        self.store_flags(offset, value, BPF_F_RECOMPUTE_CSUM.into())
    }

    #[inline(always)]
    fn store_flags<T: IntoBytes + Immutable>(
        self,
        offset: u32,
        value: &T,
        flags: u64,
    ) -> Result<(), ApplyError> {
        let bytes: *const T = value;
        // SAFETY: the value is as long as is said; the kernel checks the offset.
        done(unsafe {
            generated::bpf_skb_store_bytes(self.0, offset, bytes.cast(), size_of::<T>() as u32, flags)
        })
    }

    /// Adds a delta to the checksum of an IPv4 header.
    #[inline(always)]
    pub fn mend_network(self, offset: u32, delta: u16) -> Result<(), ApplyError> {
        // SAFETY: scalars only; the kernel checks the offset.
        done(unsafe { generated::bpf_l3_csum_replace(self.0, offset, 0, delta.into(), 0) })
    }

    /// Adds the delta of addresses, which are in the pseudo header, to a transport checksum.
    #[inline(always)]
    pub fn mend_transport_addresses(self, offset: u32, delta: u16, udp: bool) -> Result<(), ApplyError> {
        self.mend_transport(offset, delta, udp, BPF_F_PSEUDO_HDR.into())
    }

    /// Adds the delta of ports to a transport checksum.
    #[inline(always)]
    pub fn mend_transport_ports(self, offset: u32, delta: u16, udp: bool) -> Result<(), ApplyError> {
        self.mend_transport(offset, delta, udp, 0)
    }

    #[inline(always)]
    fn mend_transport(self, offset: u32, delta: u16, udp: bool, flags: u64) -> Result<(), ApplyError> {
        let flags = if udp { flags | u64::from(BPF_F_MARK_MANGLED_0) } else { flags };
        // SAFETY: scalars only; the kernel checks the offset.
        done(unsafe { generated::bpf_l4_csum_replace(self.0, offset, 0, delta.into(), flags) })
    }

    /// The sum of `length` bytes at `offset`, put into the room on their way.
    #[inline(always)]
    pub fn sum(self, offset: u32, length: u32, room: &mut SumRoom) -> Result<Delta, ApplyError> {
        if length == 0 || length > SumRoom::BYTES {
            return Err(ApplyError);
        }
        room.0 = [0; SumRoom::WORDS];
        // From 1 to the room's size, as every verifier sees.
        let length = u64::from(bounded(length - 1)) + 1;
        // SAFETY: the room is as long as the length may be; the kernel checks the offset.
        done(unsafe {
            generated::bpf_skb_load_bytes(self.0.cast(), offset, room.0.as_mut_ptr().cast(), length as u32)
        })?;
        Ok(sum_words(room.0.iter().copied()))
    }

    /// Cuts the packet to so many bytes; it is not split after that.
    #[inline(always)]
    pub fn truncate(self, length: u32) -> Result<(), ApplyError> {
        // SAFETY: as in `bytes`.
        done(unsafe { generated::bpf_skb_change_tail(self.0, length, 0) })
    }

    /// Makes room for so many bytes before the packet.
    #[inline(always)]
    pub fn grow(self, front: u32) -> Result<(), ApplyError> {
        // SAFETY: as in `bytes`.
        done(unsafe { generated::bpf_skb_change_head(self.0, front, 0) })
    }

    /// Takes off the outermost 802.1Q tag.
    #[inline(always)]
    pub fn pop_tag(self) -> Result<(), ApplyError> {
        // SAFETY: as in `bytes`.
        done(unsafe { generated::bpf_skb_vlan_pop(self.0) })
    }
}
