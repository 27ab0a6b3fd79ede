//! The kernel's own counters of a namespace, typed: what a test holds a dataplane's counters against.
//!
//! They count since the namespace was made. Take them twice and subtract. With segmentation offloads on, a packet of the
//! stack and of a veth may be up to 64 KiB long.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::{Interface, Namespace, NetError};

/// `/proc/net/snmp`, `/proc/net/snmp6` and `/proc/net/netstat` at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// IPv4.
    pub ip: IpStatistics,
    /// IPv6.
    pub ip6: IpStatistics,
    /// ICMP for IPv4.
    pub icmp: IcmpStatistics,
    /// ICMP for IPv6, neighbour discovery included.
    pub icmp6: Icmp6Statistics,
    /// TCP over both families.
    pub tcp: TcpStatistics,
    /// TCP over both families, what its MIB does not have.
    pub tcp_more: TcpMoreStatistics,
    /// UDP over IPv4.
    pub udp: UdpStatistics,
    /// UDP over IPv6.
    pub udp6: UdpStatistics,
    raw: HashMap<String, u64>,
}

impl Statistics {
    /// Any counter by the kernel's name: `Tcp.CurrEstab` of `snmp`, `TcpExt.TCPSynRetrans` of `netstat`, `Ip6OutMcastPkts` of
    /// `snmp6`.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.raw.get(name).copied()
    }

    /// Every TCP segment that left, however often it was sent: of a host that only opens connections or only accepts them.
    /// Where nothing is lost, and neither GRO nor TSO is at work, the other side receives as many.
    pub fn tcp_segments_sent(&self) -> u64 {
        // A SYN-ACK that is sent again is counted as sent, and as sent again.
        let twice = if self.tcp.active_opens == 0 { self.tcp_more.syn_retransmits } else { 0 };
        self.tcp.out_segments + self.tcp.retransmitted_segments - twice
    }

    fn new(raw: HashMap<String, u64>) -> Result<Self, String> {
        Ok(Self {
            ip: IpStatistics::new(&raw, "Ip.")?,
            ip6: IpStatistics::new(&raw, "Ip6")?,
            icmp: IcmpStatistics::new(&raw, "Icmp.")?,
            icmp6: Icmp6Statistics::new(&raw, "Icmp6")?,
            tcp: TcpStatistics::new(&raw, "Tcp.")?,
            tcp_more: TcpMoreStatistics::new(&raw, "TcpExt.")?,
            udp: UdpStatistics::new(&raw, "Udp.")?,
            udp6: UdpStatistics::new(&raw, "Udp6")?,
            raw,
        })
    }
}

/// Declares a group of counters: the field, and the kernel's name without its prefix.
macro_rules! counters {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $kernel:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $name {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl $name {
            fn new(raw: &HashMap<String, u64>, prefix: &str) -> Result<Self, String> {
                let value = |name: &str| {
                    let name = format!("{prefix}{name}");
                    raw.get(&name).copied().ok_or_else(|| format!("no counter {name} in it"))
                };
                Ok(Self { $($field: value($kernel)?,)* })
            }

            /// How much each counter has grown since an earlier look.
            pub fn since(&self, earlier: &Self) -> Self {
                Self { $($field: self.$field.wrapping_sub(earlier.$field),)* }
            }
        }
    };
}

counters! {
    /// Packets of one IP family.
    IpStatistics {
        /// Taken from a link, wrong ones too.
        in_receives: "InReceives",
        /// Given to a protocol or a socket of this namespace.
        in_delivers: "InDelivers",
        /// Sent by this namespace itself, ICMP included, forwarded ones not.
        out_requests: "OutRequests",
        /// Forwarded by the stack. What a BPF program redirects is not counted.
        forwarded: "ForwDatagrams",
        /// Received and dropped, for want of memory or by a filter.
        in_discards: "InDiscards",
        /// Dropped before a link took them.
        out_discards: "OutDiscards",
        /// Dropped for want of a route.
        out_no_routes: "OutNoRoutes",
        /// Dropped for a bad header.
        in_header_errors: "InHdrErrors",
        /// Dropped for an address that is not ours and not to be forwarded.
        in_address_errors: "InAddrErrors",
        /// Put together from fragments.
        reassembled: "ReasmOKs",
        /// Given up for a missing fragment.
        reassembly_failures: "ReasmFails",
        /// Fragments made.
        fragments_created: "FragCreates",
    }
}

counters! {
    /// ICMP messages over IPv4.
    IcmpStatistics {
        /// Received.
        in_messages: "InMsgs",
        /// Received and dropped as wrong.
        in_errors: "InErrors",
        /// Received: destination unreachable, fragmentation needed included.
        in_destination_unreachable: "InDestUnreachs",
        /// Received: time exceeded.
        in_time_exceeded: "InTimeExcds",
        /// Sent.
        out_messages: "OutMsgs",
        /// Sent: destination unreachable, fragmentation needed included.
        out_destination_unreachable: "OutDestUnreachs",
        /// Sent: time exceeded.
        out_time_exceeded: "OutTimeExcds",
    }
}

counters! {
    /// ICMP messages over IPv6.
    Icmp6Statistics {
        /// Received.
        in_messages: "InMsgs",
        /// Received and dropped as wrong.
        in_errors: "InErrors",
        /// Received: destination unreachable.
        in_destination_unreachable: "InDestUnreachs",
        /// Received: packet too big.
        in_packet_too_big: "InPktTooBigs",
        /// Received: time exceeded.
        in_time_exceeded: "InTimeExcds",
        /// Sent.
        out_messages: "OutMsgs",
        /// Sent: destination unreachable.
        out_destination_unreachable: "OutDestUnreachs",
        /// Sent: packet too big.
        out_packet_too_big: "OutPktTooBigs",
        /// Sent: time exceeded.
        out_time_exceeded: "OutTimeExcds",
        /// Sent: who owns this address?
        out_neighbour_solicits: "OutNeighborSolicits",
        /// Sent: I own this address.
        out_neighbour_advertisements: "OutNeighborAdvertisements",
        /// Sent: is there a router?
        out_router_solicits: "OutRouterSolicits",
        /// Sent: group reports.
        out_mld2_reports: "OutMLDv2Reports",
    }
}

counters! {
    /// TCP, both families together: the kernel keeps it so.
    TcpStatistics {
        /// Connections begun here.
        active_opens: "ActiveOpens",
        /// Connections accepted here.
        passive_opens: "PassiveOpens",
        /// Connections that failed before they stood.
        attempt_fails: "AttemptFails",
        /// Connections that stood and were reset.
        established_resets: "EstabResets",
        /// Connections that stand now: not a counter.
        currently_established: "CurrEstab",
        /// Segments received.
        in_segments: "InSegs",
        /// Segments sent, without those that only say again what was said; but a SYN-ACK counts each time.
        out_segments: "OutSegs",
        /// Segments sent again: since one was lost, or since whoever should have answered was slow.
        retransmitted_segments: "RetransSegs",
        /// Segments received and dropped as wrong.
        in_errors: "InErrs",
        /// Segments received with a wrong checksum.
        in_checksum_errors: "InCsumErrors",
        /// Resets sent.
        out_resets: "OutRsts",
    }
}

counters! {
    /// TCP, both families together, beyond its MIB.
    TcpMoreStatistics {
        /// SYNs and SYN-ACKs sent again.
        syn_retransmits: "TCPSynRetrans",
    }
}

counters! {
    /// UDP of one family.
    UdpStatistics {
        /// Datagrams given to a socket.
        in_datagrams: "InDatagrams",
        /// Datagrams to a port where nobody listens.
        no_ports: "NoPorts",
        /// Datagrams received and dropped as wrong or for want of room.
        in_errors: "InErrors",
        /// Datagrams with a wrong checksum.
        in_checksum_errors: "InCsumErrors",
        /// Datagrams dropped since the socket's buffer was full.
        receive_buffer_errors: "RcvbufErrors",
        /// Datagrams sent.
        out_datagrams: "OutDatagrams",
    }
}

counters! {
    /// `/proc/net/dev` of one interface.
    InterfaceCounters {
        /// Bytes received, Ethernet headers included.
        rx_bytes: "rx_bytes",
        /// Frames received.
        rx_packets: "rx_packets",
        /// Frames received with an error.
        rx_errors: "rx_errors",
        /// Frames received and dropped by the driver, by XDP too.
        rx_dropped: "rx_dropped",
        /// Bytes sent, Ethernet headers included.
        tx_bytes: "tx_bytes",
        /// Frames sent.
        tx_packets: "tx_packets",
        /// Frames that could not be sent.
        tx_errors: "tx_errors",
        /// Frames dropped instead of sent; a veth counts here what the other end did not take.
        tx_dropped: "tx_dropped",
    }
}

impl Namespace {
    /// The protocol counters of this namespace.
    ///
    /// # Errors
    /// [`NetError::Proc`] and [`NetError::UnknownFormat`].
    pub fn statistics(&self) -> Result<Statistics, NetError> {
        let (snmp, snmp6) = (self.read_proc(SNMP)?, self.read_proc(SNMP6)?);
        let unknown = |detail| self.unknown_format(SNMP, detail);
        let mut raw = parse_snmp(&snmp).map_err(unknown)?;
        raw.extend(
            parse_snmp(&self.read_proc(NETSTAT)?).map_err(|detail| self.unknown_format(NETSTAT, detail))?,
        );
        raw.extend(parse_snmp6(&snmp6).map_err(|detail| self.unknown_format(SNMP6, detail))?);
        Statistics::new(raw).map_err(unknown)
    }

    fn read_proc(&self, path: &str) -> Result<String, NetError> {
        self.run(|| fs::read_to_string(path)).map_err(|source| self.proc_error(Path::new(path), source))
    }

    fn unknown_format(&self, path: &str, detail: String) -> NetError {
        NetError::UnknownFormat { path: path.to_owned(), namespace: self.label().to_owned(), detail }
    }
}

impl Interface {
    /// Frames and bytes through this interface since it was made.
    ///
    /// # Errors
    /// [`NetError::NoSuchInterface`], [`NetError::Proc`] and [`NetError::UnknownFormat`].
    pub fn counters(&self) -> Result<InterfaceCounters, NetError> {
        let text = self.namespace().read_proc(DEV)?;
        let numbers = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.trim() == self.name())
            .map(|(_, numbers)| numbers)
            .ok_or_else(|| self.namespace().no_such_interface(self.name()))?;
        parse_dev(numbers)
            .and_then(|raw| InterfaceCounters::new(&raw, ""))
            .map_err(|detail| self.namespace().unknown_format(DEV, detail))
    }
}

const SNMP: &str = "/proc/thread-self/net/snmp";
const NETSTAT: &str = "/proc/thread-self/net/netstat";
const SNMP6: &str = "/proc/thread-self/net/snmp6";
const DEV: &str = "/proc/thread-self/net/dev";

/// Pairs of lines, names and then values: `Ip: Forwarding DefaultTTL` and `Ip: 1 64`.
fn parse_snmp(text: &str) -> Result<HashMap<String, u64>, String> {
    let mut raw = HashMap::new();
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let (group, names) = names.split_once(':').ok_or_else(|| format!("no group in line {names:?}"))?;
        let (same, values) = values.split_once(':').ok_or_else(|| format!("no group in line {values:?}"))?;
        if group != same {
            return Err(format!("names of group {group}, values of group {same}"));
        }
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            raw.insert(format!("{group}.{name}"), number(value)?);
        }
    }
    Ok(raw)
}

/// Lines of a name and a value: `Ip6OutRequests 12`.
fn parse_snmp6(text: &str) -> Result<HashMap<String, u64>, String> {
    let mut raw = HashMap::new();
    for line in text.lines() {
        let (name, value) =
            line.split_once(char::is_whitespace).ok_or_else(|| format!("one word: {line:?}"))?;
        raw.insert(name.to_owned(), number(value.trim())?);
    }
    // The one counter whose two families differ in their name.
    if let Some(forwarded) = raw.get("Ip6OutForwDatagrams").copied() {
        raw.insert("Ip6ForwDatagrams".to_owned(), forwarded);
    }
    Ok(raw)
}

/// The numbers after an interface's name, in the order of the header of `/proc/net/dev`.
fn parse_dev(numbers: &str) -> Result<HashMap<String, u64>, String> {
    const COLUMNS: [&str; 12] = [
        "rx_bytes",
        "rx_packets",
        "rx_errors",
        "rx_dropped",
        "rx_fifo",
        "rx_frame",
        "rx_compressed",
        "rx_multicast",
        "tx_bytes",
        "tx_packets",
        "tx_errors",
        "tx_dropped",
    ];
    COLUMNS
        .iter()
        .zip(numbers.split_whitespace())
        .map(|(name, value)| Ok(((*name).to_owned(), number(value)?)))
        .collect()
}

fn number(text: &str) -> Result<u64, String> {
    // One of them, Tcp.MaxConn, is -1 where there is no limit.
    text.parse::<u64>()
        .or_else(|_| text.parse::<i64>().map(i64::cast_unsigned))
        .map_err(|_| format!("no number: {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snmp_pairs_names_with_values() {
        let raw = parse_snmp("Ip: Forwarding OutRequests\nIp: 1 42\nTcp: MaxConn RetransSegs\nTcp: -1 7\n")
            .unwrap();
        assert_eq!(raw["Ip.OutRequests"], 42);
        assert_eq!(raw["Tcp.RetransSegs"], 7);
        assert_eq!(raw["Tcp.MaxConn"], u64::MAX);
    }

    #[test]
    fn snmp_refuses_values_of_another_group() {
        let error = parse_snmp("Ip: A\nTcp: 1\n").unwrap_err();
        assert!(error.contains("Ip") && error.contains("Tcp"), "{error}");
    }

    #[test]
    fn snmp6_knows_the_odd_name_of_forwarded() {
        let raw = parse_snmp6("Ip6OutForwDatagrams                 \t9\nIp6OutRequests 3\n").unwrap();
        assert_eq!((raw["Ip6ForwDatagrams"], raw["Ip6OutRequests"]), (9, 3));
    }

    #[test]
    fn a_dev_line_has_receive_then_send() {
        let raw = parse_dev(" 100 2 0 1 0 0 0 0 300 4 0 5 0 0 0 0").unwrap();
        let counters = InterfaceCounters::new(&raw, "").unwrap();
        assert_eq!((counters.rx_bytes, counters.rx_packets, counters.rx_dropped), (100, 2, 1));
        assert_eq!((counters.tx_bytes, counters.tx_packets, counters.tx_dropped), (300, 4, 5));
    }
}
