//! Packets that race for a port of the host's: it is lent once, and none is lent to nobody.

use std::cell::Cell;

use super::{CLIENT, Host, ONE, OTHER, OWN, SERVICE, Step, TCP_SYN, before, destination};
use crate::{
    memory::MemoryPacket,
    model::{Affinity, Masquerade, NatPorts},
    pipeline::{DropReason, Hook, Verdict},
};

const FIRST: u16 = 50_000;
const STEPS: [Step; 4] = [Step::Look, Step::Insert, Step::Exchange, Step::Remove];

/// A host with so many ports to lend.
fn host(ports: u16) -> Host {
    let host = Host::of(Masquerade::Always, Affinity::None);
    host.tables().set_nat_ports(NatPorts::new(FIRST..=FIRST + ports - 1).unwrap());
    host
}

/// From which port of the host's a packet goes to its backend.
fn port(packet: &MemoryPacket) -> u16 {
    assert_eq!(packet.bytes[26..30], OWN);
    u16::from_be_bytes([packet.bytes[34], packet.bytes[35]])
}

/// Runs a story once for each step of a packet at which another CPU can act, and tells how many there were. The story
/// tells whether its rival came.
fn at_each_step(story: impl Fn(Step, u32) -> bool) -> u32 {
    let count = |step: Step| (1..).take_while(|&at| story(step, at)).count();
    STEPS.map(count).iter().sum::<usize>() as u32
}

/// Another flow's packet looks for a port, and begins at the same one.
#[test]
fn of_two_flows_that_want_one_port_each_gets_its_own() {
    let lost = Cell::new(0);
    let steps = at_each_step(|step, at| {
        let (host, theirs) = (host(4), Cell::new(None));
        let rival = before(step, at, || {
            let (verdict, packet) = host.tries_from(40_001, ONE);
            assert_eq!(verdict, Verdict::Forward);
            theirs.set(Some((port(&packet), destination(&packet))));
        });
        let (verdict, packet) = host.disturbed(ONE, host.packet(Hook::Ingress, TCP_SYN), &rival);
        let Some((theirs, backend)) = theirs.get() else { return false };
        let ours = port(&packet);
        assert_eq!((verdict, destination(&packet)), (Verdict::Forward, backend), "{step:?} {at}");
        let mut ports = [ours, theirs];
        ports.sort_unstable();
        assert_eq!(ports, [FIRST, FIRST + 1], "{step:?} {at}");
        lost.set(lost.get() + u32::from(ours != FIRST));
        // Each has an entry of its client's, and what is answered to a port comes to its own.
        assert_eq!((host.entries(), host.reserved()), (2, 2), "{step:?} {at}");
        for (port, client) in [(ours, 40_000), (theirs, 40_001)] {
            let answer = host.answer_at(backend, port, TCP_SYN);
            let (verdict, packet) = host.disturbed(ONE, answer, &|_| {});
            assert_eq!((verdict, destination(&packet)), (Verdict::Forward, CLIENT), "{step:?} {at}");
            assert_eq!(packet.bytes[26..30], SERVICE);
            assert_eq!(packet.bytes[36..38], u16::to_be_bytes(client), "{step:?} {at}");
        }
        true
    });
    assert!(steps > 4 && lost.get() > 0, "{} of {steps} times the other was faster", lost.get());
}

/// One port, and nobody has it yet: who is slower is dropped by name, or takes it from who was faster.
#[test]
fn of_two_flows_that_want_the_only_port_one_gets_it() {
    let won = Cell::new([0; 2]);
    at_each_step(|step, at| {
        let (host, theirs) = (host(1), Cell::new(None));
        let rival = before(step, at, || theirs.set(Some(host.tries_from(40_001, ONE).0)));
        let (ours, _) = host.disturbed(ONE, host.packet(Hook::Ingress, TCP_SYN), &rival);
        let Some(theirs) = theirs.get() else { return false };
        assert_one_won(&host, ours, theirs, &won, &format!("{step:?} {at}"));
        true
    });
    assert!(won.get().iter().all(|&times| times > 0), "{:?}", won.get());
}

/// One port, and who has it was never answered: both find that it can be taken.
#[test]
fn of_two_flows_that_take_a_port_from_a_third_one_gets_it() {
    let won = Cell::new([0; 2]);
    at_each_step(|step, at| {
        let (host, theirs) = (host(1), Cell::new(None));
        assert_eq!(host.tries_from(40_002, ONE).0, Verdict::Forward);
        host.tables().set_time(5_000_000_000);
        let rival = before(step, at, || theirs.set(Some(host.tries_from(40_001, ONE).0)));
        let (ours, _) = host.disturbed(ONE, host.packet(Hook::Ingress, TCP_SYN), &rival);
        let Some(theirs) = theirs.get() else { return false };
        assert_one_won(&host, ours, theirs, &won, &format!("{step:?} {at}"));
        true
    });
    assert!(won.get().iter().all(|&times| times > 0), "{:?}", won.get());
}

/// Exactly one has the port, and was sent on; of the other there is no trace. It was dropped by name, or lost the port while
/// nobody had confirmed it.
fn assert_one_won(host: &Host, ours: Verdict, theirs: Verdict, won: &Cell<[u32; 2]>, what: &str) {
    assert_eq!((host.entries(), host.reserved()), (1, 1), "{what}: {ours}, {theirs}");
    let (_, reservation) = host.reservations()[0];
    let [mut we, mut they] = won.get();
    let (winner, loser) = match reservation.destination_port.get() {
        40_000 => {
            we += 1;
            (ours, theirs)
        }
        40_001 => {
            they += 1;
            (theirs, ours)
        }
        other => panic!("{what}: {other} has it"),
    };
    won.set([we, they]);
    assert_eq!(winner, Verdict::Forward, "{what}");
    let lost =
        matches!(loser, Verdict::Forward | Verdict::Drop(DropReason::NatExhausted | DropReason::Contended));
    assert!(lost, "{what}: {loser}");
}

/// The same flow's next packet, which would choose the same backend or the other: whoever loses goes by the winner's
/// entry, from the winner's port.
#[test]
fn of_two_packets_of_one_flow_both_go_by_the_winners_port() {
    for choice in [ONE, OTHER] {
        let steps = at_each_step(|step, at| {
            let (host, theirs) = (host(4), Cell::new(None));
            let rival = before(step, at, || {
                let (verdict, packet) = host.tries_from(40_000, choice);
                assert_eq!(verdict, Verdict::Forward);
                theirs.set(Some((port(&packet), destination(&packet))));
            });
            let (verdict, packet) = host.disturbed(ONE, host.packet(Hook::Ingress, TCP_SYN), &rival);
            let Some(theirs) = theirs.get() else { return false };
            let ours = (port(&packet), destination(&packet));
            assert_eq!((verdict, ours), (Verdict::Forward, theirs), "{step:?} {at}");
            assert_eq!((host.entries(), host.reserved(), host.flows()), (1, 1, 1), "{step:?} {at}");
            let (_, next) = host.tries_from(40_000, ONE);
            assert_eq!((port(&next), destination(&next)), theirs, "{step:?} {at}");
            assert_eq!(host.answers_at(theirs.1, theirs.0, TCP_SYN), Some(SERVICE), "{step:?} {at}");
            true
        });
        assert!(steps > 4, "{steps}");
    }
}
