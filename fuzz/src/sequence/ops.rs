//! What may happen. Pools are small, so that what happens meets what happened before.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use arbitrary::{Arbitrary, Unstructured};
use dataplane_core::{
    model::{
        Affinity, AffinityTimeout, Backend, Choice as Balancing, Frontend, MaglevSize, Masquerade, Protocol,
        Service, Weight,
    },
    pipeline::{AnswerReason, Hook},
};
use dataplane_testkit::frames::{Extension, Frame, Transport, flags};

/// Backends of each family; the last one is on this host.
pub const BACKENDS: usize = 5;
/// Services of each owner; every other one is IPv6, every third chooses by a Maglev table.
pub const SERVICES: usize = 6;
/// Places of those tables.
pub const PLACES: u16 = 13;

/// A choice of one byte: the derived one takes four.
macro_rules! one_byte {
    ($name:ident: $($variant:ident)+) => {
        impl<'a> Arbitrary<'a> for $name {
            fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
                input.choose(&[$(Self::$variant),+]).copied()
            }
        }
    };
}

one_byte!(Choice: Absent Active Heavy Draining Weightless);
one_byte!(Ports: Four ThirtyTwo Forty);
one_byte!(Source: Kept OfThisHost OfThisHostAlways);
one_byte!(Memory: None Seconds Minutes);
one_byte!(At: Xdp Ingress Egress);
one_byte!(Span: Moment Second Closing Minute Minutes Hours);
one_byte!(Flags: Syn SynAck Ack Push Fin Reset);
one_byte!(Odd: Plain LastHop Tagged Options Extensions Big BigToBeSplit Unsummed Fragment);

#[derive(Arbitrary, Clone, Debug)]
pub enum Op {
    Upsert(Wish),
    /// A full picture of one or two services.
    Replace(Wish, Wish),
    Remove(Object),
    Pass(Span),
    Client(Packet),
    /// A backend answers a connection that was seen.
    Answer {
        which: u8,
        flags: Flags,
    },
    /// A packet with a byte changed.
    Bent {
        packet: Packet,
        hook: At,
        at: u8,
        with: u8,
    },
    /// Bytes that follow the operation.
    Raw {
        hook: At,
        length: u8,
    },
}

/// One of two owners, and one of its services.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Object {
    second_owner: bool,
    service: u8,
}

impl Object {
    pub fn owner(self) -> usize {
        usize::from(self.second_owner)
    }

    pub fn service(self) -> usize {
        usize::from(self.service) % SERVICES
    }
}

/// A service as it is wanted.
#[derive(Arbitrary, Clone, Debug)]
pub struct Wish {
    pub object: Object,
    /// A bit for each frontend of the family.
    frontends: u8,
    backends: [Choice; BACKENDS],
    source: Source,
    memory: Memory,
}

/// How many ports source NAT has: few, as many as are looked at for one flow at most, and more.
#[derive(Clone, Copy, Debug)]
pub enum Ports {
    Four,
    ThirtyTwo,
    Forty,
}

impl Ports {
    pub fn count(self) -> u16 {
        match self {
            Self::Four => 4,
            Self::ThirtyTwo => 32,
            Self::Forty => 40,
        }
    }
}

/// Whose address a service's flows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Kept,
    OfThisHost,
    /// Also where the backend is here too.
    OfThisHostAlways,
}

/// For how long a service's clients are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    None,
    Seconds,
    Minutes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Absent,
    Active,
    Heavy,
    Draining,
    Weightless,
}

impl Wish {
    pub fn is_v6(&self) -> bool {
        self.object.service() % 2 == 1
    }

    pub fn is_maglev(&self) -> bool {
        self.object.service() % 3 == 2
    }

    /// The backends that take new connections, with their weights.
    pub fn weights(&self) -> Vec<(SocketAddr, u16)> {
        let weight = |i: usize| if self.backends[i] == Choice::Heavy { HEAVY } else { 1 };
        let selectable = (0..BACKENDS).filter(|&i| self.is_selectable(i));
        selectable.map(|i| (backend(i, self.is_v6()), weight(i))).collect()
    }

    pub fn frontends(&self) -> impl Iterator<Item = Virtual> + '_ {
        // At least one: a service without any is refused by the model.
        let bits = if self.frontends == 0 { 1 } else { self.frontends };
        (0..8).filter(move |i| bits >> i & 1 == 1).map(|bits| Virtual { bits, v6: self.is_v6() })
    }

    pub fn has(&self, backend: usize) -> bool {
        self.backends[backend] != Choice::Absent
    }

    pub fn is_selectable(&self, backend: usize) -> bool {
        matches!(self.backends[backend], Choice::Active | Choice::Heavy)
    }

    /// Whether a new flow to this backend gets an address of this host.
    pub fn masquerades(&self, backend: usize) -> bool {
        match self.source {
            Source::Kept => false,
            Source::OfThisHost => !is_local(backend),
            Source::OfThisHostAlways => true,
        }
    }

    /// For how long a client is remembered, if it is.
    pub fn memory(&self) -> Option<Duration> {
        match self.memory {
            Memory::None => None,
            Memory::Seconds => Some(Duration::from_secs(10)),
            Memory::Minutes => Some(Duration::from_secs(100)),
        }
    }

    /// The service of the model.
    pub fn service(&self) -> Service {
        let frontends = self.frontends().map(|frontend| {
            let (address, protocol) = (frontend.address(), frontend.protocol());
            Frontend::new(address.ip(), address.port(), protocol).expect("a good frontend")
        });
        let weight = |weight| Weight::new(weight).expect("a good weight");
        let backends = (0..BACKENDS).filter_map(|i| {
            let address = backend(i, self.is_v6());
            let backend = Backend::new(address.ip(), address.port()).expect("a good backend");
            let backend = if is_local(i) { backend.local() } else { backend };
            Some(match self.backends[i] {
                Choice::Absent => return None,
                Choice::Active => backend,
                Choice::Heavy => backend.with_weight(weight(HEAVY.into())),
                Choice::Draining => backend.draining(),
                Choice::Weightless => backend.with_weight(weight(0)),
            })
        });
        let name = format!("s{}", self.object.service());
        let balancing = match self.is_maglev() {
            true => Balancing::Maglev(MaglevSize::new(PLACES.into()).expect("a prime number")),
            false => Balancing::Random,
        };
        let service = Service::builder(&name).frontends(frontends).backends(backends);
        let masquerade = match self.source {
            Source::Kept => Masquerade::Never,
            Source::OfThisHost => Masquerade::Auto,
            Source::OfThisHostAlways => Masquerade::Always,
        };
        let affinity = self.memory().map_or(Affinity::None, |memory| Affinity::ClientIp {
            timeout: AffinityTimeout::new(memory.as_secs() as u32).expect("a good time-out"),
        });
        service.choice(balancing).masquerade(masquerade).affinity(affinity).build().expect("a good service")
    }
}

/// The weight of [`Choice::Heavy`].
const HEAVY: u16 = 3;

/// A virtual address, port and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Virtual {
    bits: u8,
    pub v6: bool,
}

impl Virtual {
    pub fn address(self) -> SocketAddr {
        let last = 10 + (self.bits & 1);
        let port = if self.bits & 2 == 0 { 80 } else { 53 };
        let address: IpAddr = if self.v6 {
            Ipv6Addr::new(0x2001, 0xdb8, 0xcafe, 0, 0, 0, 0, last.into()).into()
        } else {
            Ipv4Addr::new(203, 0, 113, last).into()
        };
        SocketAddr::new(address, port)
    }

    pub fn protocol(self) -> Protocol {
        if self.bits & 4 == 0 { Protocol::Tcp } else { Protocol::Udp }
    }
}

/// Address of a backend of a family.
pub fn backend(index: usize, v6: bool) -> SocketAddr {
    let last = index as u8 + 2;
    let address: IpAddr = if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, last.into()).into()
    } else {
        Ipv4Addr::new(198, 51, 100, last).into()
    };
    SocketAddr::new(address, 8080)
}

/// This host's address towards the backends.
pub fn own(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1).into()
    } else {
        Ipv4Addr::new(198, 51, 100, 1).into()
    }
}

pub fn is_local(index: usize) -> bool {
    index + 1 == BACKENDS
}

#[derive(Clone, Copy, Debug)]
pub enum At {
    Xdp,
    Ingress,
    Egress,
}

impl At {
    pub fn hook(self) -> Hook {
        match self {
            Self::Xdp => Hook::Xdp,
            Self::Ingress => Hook::Ingress,
            Self::Egress => Hook::Egress,
        }
    }
}

/// How much time passes.
#[derive(Clone, Copy, Debug)]
pub enum Span {
    Moment,
    Second,
    Closing,
    Minute,
    Minutes,
    Hours,
}

impl Span {
    pub fn time(self) -> Duration {
        match self {
            Self::Moment => Duration::from_millis(130),
            Self::Second => Duration::from_millis(1300),
            Self::Closing => Duration::from_secs(12),
            Self::Minute => Duration::from_secs(70),
            Self::Minutes => Duration::from_secs(200),
            Self::Hours => Duration::from_secs(7 * 3600),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flags {
    Syn,
    SynAck,
    Ack,
    Push,
    Fin,
    Reset,
}

impl Flags {
    pub fn bits(self) -> u8 {
        match self {
            Self::Syn => flags::SYN,
            Self::SynAck => flags::SYN | flags::ACK,
            Self::Ack => flags::ACK,
            Self::Push => flags::PSH | flags::ACK,
            Self::Fin => flags::FIN | flags::ACK,
            Self::Reset => flags::RST,
        }
    }

    /// Whether it shows that its sender goes on: it neither begins nor resets anything.
    pub fn goes_on(self) -> bool {
        !matches!(self, Self::Syn | Self::SynAck | Self::Reset)
    }

    /// Whether it ends something.
    pub fn ends(self) -> bool {
        matches!(self, Self::Fin | Self::Reset)
    }
}

/// What is out of the ordinary with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    Plain,
    LastHop,
    Tagged,
    Options,
    Extensions,
    Big,
    BigToBeSplit,
    Unsummed,
    Fragment,
}

/// A packet of a client.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Packet {
    /// Which address and port, 16 of them.
    client: u8,
    /// Which frontend, and in the highest bit the family.
    frontend: u8,
    pub flags: Flags,
    pub odd: Odd,
    /// Whether XDP sees it first.
    pub xdp: bool,
    /// Upper bits of what is drawn for it.
    pub random: u8,
}

impl Packet {
    pub fn frontend(&self) -> Virtual {
        Virtual { bits: self.frontend & 7, v6: self.frontend & 0x80 != 0 }
    }

    pub fn client(&self) -> SocketAddr {
        let host = 2 + (self.client & 3);
        let address: IpAddr = if self.frontend().v6 {
            Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, host.into()).into()
        } else {
            Ipv4Addr::new(192, 0, 2, host).into()
        };
        SocketAddr::new(address, 40_000 + u16::from(self.client >> 2 & 3))
    }

    /// Whether its sender is told of its end. A reset never is: nobody waits for an answer. A reset as the answer takes
    /// the place of a TCP header right behind a plain IP header, and is not sent where something stands between.
    pub fn is_answered(&self, reason: AnswerReason) -> bool {
        let frontend = self.frontend();
        if frontend.protocol() == Protocol::Udp {
            return true;
        }
        let between = match self.odd {
            Odd::Options => !frontend.v6,
            Odd::Extensions | Odd::Fragment => frontend.v6,
            _ => false,
        };
        self.flags != Flags::Reset && !(reason == AnswerReason::NoBackend && between)
    }

    pub fn frame(&self) -> Frame {
        let (client, frontend) = (self.client(), self.frontend());
        let mut frame = packet(client, frontend.address(), frontend.protocol(), self.flags);
        match self.odd {
            Odd::Plain => {}
            Odd::LastHop => frame.hop_limit = 1,
            Odd::Tagged => frame.tags = vec![(0x8100, 5)],
            Odd::Options => frame.ip_options = 3,
            Odd::Extensions => {
                frame.extensions =
                    vec![Extension::HopByHop(1), Extension::Authentication, Extension::Routing(0)];
            }
            Odd::Big => frame.payload = vec![7; 1600],
            Odd::BigToBeSplit => (frame.payload, frame.fragment) = (vec![7; 1600], 0),
            Odd::Unsummed => {
                if let Transport::Udp { checksum } = &mut frame.transport {
                    *checksum = false;
                }
            }
            Odd::Fragment => (frame.fragment, frame.extensions) = (0x2000, vec![Extension::Fragment(1)]),
        }
        frame
    }
}

/// A packet of either side.
pub fn packet(source: SocketAddr, destination: SocketAddr, protocol: Protocol, flags: Flags) -> Frame {
    match protocol {
        Protocol::Udp => Frame::udp(source, destination),
        _ => Frame::tcp(source, destination, flags.bits()),
    }
}
