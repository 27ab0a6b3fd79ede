//! What was seen of a connection: the part of conntrack that changes.

use super::{Direction, Tick};
use crate::{
    abi::{Setting, StateWord},
    tables::{Family, Flow},
    wire::{PROTOCOL_TCP, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN},
};

/// Bits of a flow's [`StateWord`]: what packets of either direction have shown. Both entries of a connection carry
/// the same bits.
///
/// This is less than a TCP state machine (RFC 9293, 3.3.2), and enough to choose a time-out: sequence numbers are the
/// end points' business.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen(pub u32);

impl Seen {
    /// The backend answered.
    pub const REPLIED: u32 = 1;
    /// The client went on after the answer, and not by a reset, which is what a host says to an answer that it did not ask for:
    /// it is no forged source, unless that sent a forged ACK after its SYN: numbers are not looked at. From then on the entries
    /// stand in [`Place::Conntrack`](crate::tables::Place::Conntrack).
    pub const CONFIRMED: u32 = 2;
    /// The client sent a FIN.
    pub const CLIENT_FIN: u32 = 4;
    /// The backend sent a FIN.
    pub const BACKEND_FIN: u32 = 8;
    /// Either side sent a RST, and nobody went on since.
    pub const RESET: u32 = 16;
    /// Which of the flows of its tuple this is: 16 bits at random. An entry carries them at both ends, so that a reader
    /// notices where the kernel put one flow in the place of another of the same tuple.
    const INCARNATION: u32 = 0xffff << Self::INCARNATION_SHIFT;
    const INCARNATION_SHIFT: u32 = 8;
    /// The collector found the flow over, or the entry dying; the next time it removes the entry. Packets need not know.
    pub const CONDEMNED: u32 = 1 << 29;
    /// The entry is being replaced; whoever set this bit does it, or else the collector.
    pub const DYING: u32 = 1 << 30;

    /// What is known after one more packet.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, direction: Direction, protocol: u8, tcp_flags: u8) -> Self {
        let mut bits = self.0;
        match direction {
            Direction::Original => {
                if bits & Self::REPLIED != 0 && tcp_flags & (TCP_SYN | TCP_RST) == 0 {
                    bits |= Self::CONFIRMED;
                }
            }
            Direction::Reply => bits |= Self::REPLIED,
        }
        if protocol == PROTOCOL_TCP {
            if tcp_flags & TCP_RST != 0 {
                bits |= Self::RESET;
            } else if tcp_flags & TCP_SYN == 0 {
                // Somebody goes on: the reset was refused, or forged (RFC 5961, 3).
                bits &= !Self::RESET;
            }
            if tcp_flags & TCP_FIN != 0 {
                bits |= match direction {
                    Direction::Original => Self::CLIENT_FIN,
                    Direction::Reply => Self::BACKEND_FIN,
                };
            }
        }
        Self(bits)
    }

    /// Whether the connection is over: a SYN may open another one with the same tuple.
    #[inline(always)]
    pub const fn is_closed(self) -> bool {
        let both = Self::CLIENT_FIN | Self::BACKEND_FIN;
        self.0 & Self::RESET != 0 || self.0 & both == both
    }

    /// Whether the client went on after the backend's answer.
    #[inline(always)]
    pub const fn is_confirmed(self) -> bool {
        self.0 & Self::CONFIRMED != 0
    }

    /// Whether the entry is being replaced.
    #[inline(always)]
    pub const fn is_dying(self) -> bool {
        self.0 & Self::DYING != 0
    }

    /// What packets have shown, without what the collector noted.
    #[inline(always)]
    #[must_use]
    pub const fn of_packets(self) -> Self {
        Self(self.0 & !Self::CONDEMNED)
    }

    /// Nothing seen yet, of a flow to be told from others of its tuple by the lower 16 bits of this number.
    #[inline(always)]
    pub const fn of_incarnation(number: u32) -> Self {
        Self(number << Self::INCARNATION_SHIFT & Self::INCARNATION)
    }

    /// Which of the flows of its tuple this is.
    #[inline(always)]
    pub const fn incarnation(self) -> u32 {
        (self.0 & Self::INCARNATION) >> Self::INCARNATION_SHIFT
    }

    /// Without its incarnation.
    #[inline(always)]
    #[must_use]
    pub const fn of_any_incarnation(self) -> Self {
        Self(self.0 & !Self::INCARNATION)
    }

    /// Whether the collector found the flow over.
    #[inline(always)]
    pub const fn is_condemned(self) -> bool {
        self.0 & Self::CONDEMNED != 0
    }

    /// Which time-out holds.
    #[inline(always)]
    pub const fn timeout(self, protocol: u8) -> Setting {
        let confirmed = self.is_confirmed();
        if protocol != PROTOCOL_TCP {
            if confirmed { Setting::UdpStream } else { Setting::Udp }
        } else if self.is_closed() {
            Setting::TcpClosing
        } else if confirmed {
            Setting::TcpEstablished
        } else {
            Setting::TcpOpening
        }
    }

    /// The bits as a word, with the tag of the entry's key.
    #[inline(always)]
    pub const fn word(self, tag: u32) -> StateWord {
        StateWord::new(self.0, tag)
    }
}

impl From<StateWord> for Seen {
    #[inline(always)]
    fn from(word: StateWord) -> Self {
        Self(word.seen())
    }
}

/// Whether a packet asks for a new connection.
#[inline(always)]
pub(super) const fn is_opening(protocol: u8, tcp_flags: u8) -> bool {
    protocol == PROTOCOL_TCP && tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN
}

/// Whether a packet answers or ends a connection, and so can't be the first of one.
#[inline(always)]
pub(super) const fn is_of_another(protocol: u8, tcp_flags: u8) -> bool {
    let answers = tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN | TCP_ACK;
    protocol == PROTOCOL_TCP && (answers || tcp_flags & TCP_RST != 0)
}

/// So much longer than its flow lasts the reservation of its port, in ticks: who finds the flow alive may rely on the port.
/// Longer than the pause between two refreshes, which touch both, and than a packet is on its way.
const RESERVATION_MARGIN: u32 = 2 * Tick::REFRESH;

/// Whether an entry in this state, last seen then, has outlived its time-out.
#[inline(always)]
pub(super) fn is_expired(
    seen: Seen,
    protocol: u8,
    last_seen: Tick,
    now: Tick,
    is_reservation: bool,
    setting: impl FnOnce(Setting) -> u32,
) -> bool {
    let margin = if is_reservation { RESERVATION_MARGIN } else { 0 };
    now.since(last_seen) > setting(seen.timeout(protocol)).saturating_add(margin)
}

/// As [`is_expired`], of a flow that was copied.
#[inline(always)]
pub(super) fn is_over<F: Family>(
    flow: &F::Flow,
    protocol: u8,
    now: Tick,
    setting: impl FnOnce(Setting) -> u32,
) -> bool {
    let seen = Seen::from(flow.state());
    is_expired(seen, protocol, flow.last_seen(), now, flow.is_reservation(), setting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::PROTOCOL_UDP;

    /// RFC 9293, figure 6 and 12: a connection opens with three packets and closes with four.
    #[test]
    fn a_tcp_connection_lives_and_ends() {
        let packets = [
            (Direction::Original, TCP_SYN, Setting::TcpOpening),
            (Direction::Reply, TCP_SYN | TCP_ACK, Setting::TcpOpening),
            (Direction::Original, TCP_SYN, Setting::TcpOpening), // a retransmission confirms nothing
            (Direction::Original, TCP_ACK, Setting::TcpEstablished),
            (Direction::Original, TCP_FIN | TCP_ACK, Setting::TcpEstablished),
            (Direction::Reply, TCP_ACK, Setting::TcpEstablished), // half closed: data may come for hours
            (Direction::Reply, TCP_FIN | TCP_ACK, Setting::TcpClosing),
            (Direction::Original, TCP_ACK, Setting::TcpClosing),
        ];
        let mut seen = Seen::default();
        for (step, (direction, flags, timeout)) in packets.into_iter().enumerate() {
            seen = seen.after(direction, PROTOCOL_TCP, flags);
            assert_eq!(seen.timeout(PROTOCOL_TCP), timeout, "after packet {step}");
        }
        assert!(seen.is_closed());
    }

    #[test]
    fn a_reset_is_forgotten_once_anybody_goes_on() {
        for direction in [Direction::Original, Direction::Reply] {
            let reset = Seen(Seen::REPLIED | Seen::CONFIRMED).after(direction, PROTOCOL_TCP, TCP_RST);
            assert!(reset.after(direction, PROTOCOL_TCP, TCP_SYN).is_closed());
            assert!(reset.after(direction, PROTOCOL_TCP, TCP_SYN | TCP_ACK).is_closed());
            let goes_on = reset.after(direction, PROTOCOL_TCP, TCP_ACK);
            assert_eq!(
                (goes_on.is_closed(), goes_on.timeout(PROTOCOL_TCP)),
                (false, Setting::TcpEstablished)
            );
        }
    }

    #[test]
    fn a_reset_of_either_side_closes() {
        for direction in [Direction::Original, Direction::Reply] {
            assert!(Seen::default().after(direction, PROTOCOL_TCP, TCP_RST).is_closed());
        }
    }

    #[test]
    fn udp_becomes_a_stream_once_both_have_spoken() {
        let once = Seen::default().after(Direction::Original, PROTOCOL_UDP, 0);
        assert_eq!(once.timeout(PROTOCOL_UDP), Setting::Udp);
        let answered = once.after(Direction::Reply, PROTOCOL_UDP, 0);
        assert_eq!(answered.timeout(PROTOCOL_UDP), Setting::Udp);
        let stream = answered.after(Direction::Original, PROTOCOL_UDP, 0);
        assert_eq!(stream.timeout(PROTOCOL_UDP), Setting::UdpStream);
        assert!(!stream.is_closed());
    }
}
