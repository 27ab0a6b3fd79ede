//! The transport header, as far as the decision needs it.

use super::{PassReason, Verdict};
use crate::wire::{Be16, Frame, IcmpHeader, PROTOCOL_TCP, PROTOCOL_UDP, TcpHeader, UdpHeader};

const fn pass(reason: PassReason) -> Verdict {
    Verdict::Pass(reason)
}

/// What the decision needs of a transport header.
pub(super) struct Transport {
    /// From which port.
    pub source_port: Be16,
    /// To which port.
    pub destination_port: Be16,
    /// Its length in bytes.
    pub header_length: u32,
    /// Flags of TCP.
    pub tcp_flags: u8,
    /// Whether its own lengths fit the packet.
    pub consistent: bool,
}

/// What a later part of a packet has of one; and it is not tiny.
pub(super) const NO_TRANSPORT: (Transport, bool) = (
    Transport {
        source_port: Be16(0),
        destination_port: Be16(0),
        header_length: 0,
        tcp_flags: 0,
        consistent: true,
    },
    false,
);

impl Transport {
    /// Reads the header at `at` of the first part of a packet, which ends at `end`; tells whether it is cut short. The packet's
    /// own end is not known.
    #[inline(always)]
    pub fn parse_first<P: Frame + ?Sized>(
        frame: &P,
        protocol: u8,
        at: u32,
        end: u32,
    ) -> Result<(Self, bool), Verdict> {
        const MALFORMED: Verdict = pass(PassReason::Malformed);
        if protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP {
            return Err(pass(PassReason::Protocol));
        }
        // As long as any part that others follow, and as all of UDP's.
        if at.wrapping_add(UdpHeader::LENGTH) > end {
            return Err(MALFORMED);
        }
        let udp: UdpHeader = frame.read(at).ok_or(MALFORMED)?;
        let UdpHeader { source_port, destination_port, length, .. } = udp;
        let mut transport = Self {
            source_port,
            destination_port,
            header_length: UdpHeader::LENGTH,
            tcp_flags: 0,
            consistent: u32::from(length.get()) >= UdpHeader::LENGTH,
        };
        if protocol == PROTOCOL_UDP {
            return Ok((transport, false));
        }
        transport.consistent = false;
        if at.wrapping_add(TcpHeader::LENGTH) > end {
            return Ok((transport, true));
        }
        let tcp: TcpHeader = frame.read(at).ok_or(MALFORMED)?;
        let header_length = tcp.header_length();
        let tiny = at.wrapping_add(header_length) > end;
        transport.header_length = header_length;
        transport.tcp_flags = tcp.flags;
        transport.consistent = header_length >= TcpHeader::LENGTH && !tiny;
        Ok((transport, tiny))
    }

    /// Reads the header at `at` of a packet that ends at `end`. `icmp` is the family's ICMP.
    #[inline(always)]
    pub fn parse<P: Frame + ?Sized>(
        frame: &P,
        protocol: u8,
        at: u32,
        end: u32,
        icmp: u8,
    ) -> Result<Self, Verdict> {
        const MALFORMED: Verdict = pass(PassReason::Malformed);
        match protocol {
            PROTOCOL_TCP => {
                if at.wrapping_add(TcpHeader::LENGTH) > end {
                    return Err(MALFORMED);
                }
                let tcp: TcpHeader = frame.read(at).ok_or(MALFORMED)?;
                let header_length = tcp.header_length();
                Ok(Self {
                    source_port: tcp.source_port,
                    destination_port: tcp.destination_port,
                    header_length,
                    tcp_flags: tcp.flags,
                    consistent: header_length >= TcpHeader::LENGTH && at.wrapping_add(header_length) <= end,
                })
            }
            PROTOCOL_UDP => {
                if at.wrapping_add(UdpHeader::LENGTH) > end {
                    return Err(MALFORMED);
                }
                let udp: UdpHeader = frame.read(at).ok_or(MALFORMED)?;
                let length = u32::from(udp.length.get());
                Ok(Self {
                    source_port: udp.source_port,
                    destination_port: udp.destination_port,
                    header_length: UdpHeader::LENGTH,
                    tcp_flags: 0,
                    consistent: length >= UdpHeader::LENGTH && at.wrapping_add(length) <= end,
                })
            }
            _ if protocol == icmp => {
                if at.wrapping_add(IcmpHeader::LENGTH) > end {
                    return Err(MALFORMED);
                }
                Ok(Self {
                    source_port: Be16(0),
                    destination_port: Be16(0),
                    header_length: IcmpHeader::LENGTH,
                    tcp_flags: 0,
                    consistent: true,
                })
            }
            _ => Err(pass(PassReason::Protocol)),
        }
    }
}
