//! Values that may change while programs run: one word each.

/// How many words the configuration has room for.
pub const CONFIG_WORDS: u32 = 64;

/// How many packets of our own each CPU sends a second where nothing else is said.
pub const DEFAULT_ANSWERS_A_SECOND: u32 = 1_000;

/// In [`Setting::Addresses`]: echo requests are answered.
pub const ADDRESSES_ANSWER_PING: u32 = 1;
/// In [`Setting::Addresses`]: packets to ports that no service has are dropped.
pub const ADDRESSES_DROP_UNSERVED: u32 = 2;

/// A value in the configuration, and its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum Setting {
    /// [`ABI_VERSION`](super::ABI_VERSION) of who made the tables.
    AbiVersion = 0,
    /// How long an unanswered or not yet confirmed TCP connection is kept, in ticks.
    TcpOpening = 1,
    /// How long an established TCP connection is kept without a packet, in ticks.
    TcpEstablished = 2,
    /// How long a TCP connection is kept that both sides closed or one reset, in ticks.
    TcpClosing = 3,
    /// How long an unanswered UDP flow is kept, in ticks.
    Udp = 4,
    /// How long a UDP flow with traffic both ways is kept without a packet, in ticks.
    UdpStream = 5,
    /// The ports that source NAT gives out: the first in the lower 16 bits, how many in the bits above. 0: none.
    NatPorts = 6,
    /// How many packets of our own each CPU sends a second, to answer what is dropped.
    AnswersASecond = 7,
    /// What becomes of packets to virtual addresses that are of no service: [`ADDRESSES_ANSWER_PING`] and
    /// [`ADDRESSES_DROP_UNSERVED`].
    Addresses = 8,
    /// What the hash begins with by which services with random choice pick a backend: 64 random bits that nobody outside
    /// knows. 0: not set yet.
    ChoiceSeed = 9,
}

/// How many words the inputs for tests have.
pub const TEST_INPUT_WORDS: u32 = 8;

/// What programs loaded for a test read instead of the clock and the random numbers, and where they say what they did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum TestInput {
    /// The time, in nanoseconds.
    Now = 0,
    /// The random number, in the lower 32 bits.
    Random = 1,
    /// Written by the program: the verdict's number and 1 << 32.
    Verdict = 2,
    /// Written by the program: the interface that the packet leaves through, or 0.
    Egress = 3,
    /// Written by the program: the first two words of the next hop's address, if it was forwarded.
    GatewayHigh = 4,
    /// Written by the program: the other two words.
    GatewayLow = 5,
}
