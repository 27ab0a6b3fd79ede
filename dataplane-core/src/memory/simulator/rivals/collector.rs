//! The collector's looks, and packets between two steps of one: of those who claim an entry whose time is over, one gets it.

use super::{
    Contended, Host, ONE, OTHER, SERVICE, Step, TCP_ACK, TCP_FIN, TCP_SYN, before, choices, half_open,
};
use crate::{
    abi::{FlowV4, Setting, TupleV4},
    model::{Affinity, Masquerade},
    pipeline::{DropReason, Environment, Fate, Hook, Revoked, Tick, Verdict, collect},
    tables::{Lookup, Moment, Place, ScanPosition, Store, Suspect, Tuple, V4},
};

/// Which entry of a connection the collector looks at: its client's, or that which lends it a port.
const PLACES: [Place; 3] = [Place::Opening, Place::Conntrack, Place::Nat];

/// A connection whose time is over, and one of its entries.
struct Story {
    host: Host,
    place: Place,
    tuple: TupleV4,
    backend: [u8; 4],
    /// How many ticks it has lived for when its time is over.
    over: u32,
}

impl Story {
    fn new(place: Place) -> Self {
        let masquerade = if place == Place::Nat { Masquerade::Always } else { Masquerade::Never };
        let host = Host::of(masquerade, Affinity::None);
        let backend = if place == Place::Conntrack {
            let backend = half_open(&host);
            assert_eq!(host.sends(ONE, TCP_ACK), backend);
            backend
        } else {
            host.sends(ONE, TCP_SYN)
        };
        let tuple = if place == Place::Nat { host.reservations()[0].0 } else { host.tuple() };
        let (timeout, margin) = match place {
            Place::Conntrack => (Setting::TcpEstablished, 0),
            Place::Opening => (Setting::TcpOpening, 0),
            // A port is kept longer than its flow, by two refreshes.
            Place::Nat => (Setting::TcpOpening, 2 * Tick::REFRESH),
        };
        let over = host.environment(ONE).setting(timeout) + margin + 1;
        let story = Self { host, place, tuple, backend, over };
        story.set_time(over);
        assert_eq!(story.look(&|_| {}), Fate::Condemned);
        story
    }

    fn set_time(&self, ticks: u32) {
        self.host.tables().set_time(u64::from(ticks) << 27);
    }

    /// To the entry of the replies.
    fn turn_to_replies(&mut self) {
        self.tuple = self.tuple.answering(&self.host.entry());
        assert_eq!(self.look(&|_| {}), Fate::Condemned);
    }

    /// The collector goes round, undisturbed.
    fn sweep(&self) {
        let tables = self.host.tables();
        for table in [tables.half_open_v4(), tables.flows_v4(), tables.reservations_v4()] {
            let (mut position, mut entries) = (Some(ScanPosition::default()), Vec::new());
            while let Some(from) = position {
                position = table.scan(from, &mut entries).unwrap();
            }
            let suspect = |(tuple, _)| Suspect { tuple, revoked: Revoked::default() };
            let suspects: Vec<Suspect<TupleV4>> = entries.into_iter().map(suspect).collect();
            for _ in 0..2 {
                table.collect(&suspects, &Moment::of(tables), &mut Vec::new()).unwrap();
            }
        }
    }

    /// A look while another CPU acts. What is removed goes by its key, as in the kernel.
    fn look(&self, rival: &dyn Fn(Step)) -> Fate {
        let env = self.host.environment(ONE);
        let Some(inner) = Lookup::<V4>::flow(&env, self.place, &self.tuple) else { return Fate::Gone };
        let (entry, mut flow) = (Contended::<V4> { inner, rival }, FlowV4::default());
        let (now, setting) = (env.now(), |which| env.setting(which));
        let fate = collect(&entry, &self.tuple, &Revoked::default(), &mut flow, now, setting, &env);
        if fate == Fate::Removed {
            Lookup::<V4>::remove_flow(&env, self.place, &self.tuple);
        }
        fate
    }

    fn stands(&self) -> bool {
        Lookup::<V4>::flow(&self.host.environment(ONE), self.place, &self.tuple).is_some()
    }

    /// An answer, to the address and port that the backend knows the client by.
    fn answers(&self, flags: u8) -> Option<[u8; 4]> {
        if self.place == Place::Nat {
            let port = self.tuple.destination_port.get();
            return self.host.answers_at(self.backend, port, flags);
        }
        self.host.answers(self.backend, flags)
    }
}

#[test]
fn what_nobody_asks_for_is_removed_by_the_second_look() {
    for place in PLACES {
        let story = Story::new(place);
        assert!(story.stands(), "{place:?}");
        assert_eq!(story.look(&|_| {}), Fate::Removed, "{place:?}");
        assert!(!story.stands(), "{place:?}");
    }
}

/// The packet finds the flow over as the collector does, between the collector's reading and its claim: the new flow,
/// to the same backend or another one, is not taken for the old one.
#[test]
fn what_a_packet_opened_anew_is_not_removed_for_what_was_before() {
    for (choice, expected) in [ONE, OTHER].into_iter().zip(choices()) {
        for (place, replies) in PLACES.into_iter().flat_map(|place| [(place, false), (place, true)]) {
            let mut story = Story::new(place);
            if replies && place != Place::Nat {
                story.turn_to_replies();
            }
            let what = format!("{place:?}, replies {replies}, choice {choice}");
            let rival = before(Step::Exchange, 1, || assert_eq!(story.host.sends(choice, TCP_SYN), expected));
            assert_eq!(story.look(&rival), Fate::Lives, "{what}");
            assert_eq!(story.host.sends(ONE, TCP_SYN), expected, "{what}");
            let reserved = u32::from(place == Place::Nat);
            assert_eq!((story.host.entries(), story.host.reserved()), (2 - reserved, reserved), "{what}");
            // It is young.
            assert!(matches!(story.look(&|_| {}), Fate::Lives | Fate::Gone), "{what}");
        }
    }
}

/// The packet is of a CPU whose clock is a tick behind, and finds the flow alive: what it shows changes the state, and
/// the claim fails.
#[test]
fn a_flow_that_a_packet_went_on_with_is_not_removed() {
    let [_, other] = choices();
    for place in PLACES {
        let story = Story::new(place);
        let rival = before(Step::Exchange, 1, || {
            story.set_time(story.over - 1);
            if place == Place::Conntrack {
                assert_eq!(story.host.sends(OTHER, TCP_FIN | TCP_ACK), story.backend);
            } else {
                assert_eq!(story.answers(TCP_SYN | TCP_ACK), Some(SERVICE));
            }
            story.set_time(story.over);
        });
        assert_eq!(story.look(&rival), Fate::Lives, "{place:?}");
        for _ in 0..2 {
            assert_eq!(story.look(&|_| {}), Fate::Lives, "{place:?}");
        }
        assert_eq!(story.answers(TCP_ACK), Some(SERVICE), "{place:?}");
        assert_eq!(story.host.sends(OTHER, TCP_ACK), story.backend, "{place:?}");
        assert_ne!(story.backend, other);
    }
}

/// The other way round: the collector's second look comes between two steps of a packet that finds the flow over.
#[test]
fn a_packet_whose_flow_is_removed_under_it_leaves_nothing_half_done() {
    for place in PLACES {
        let mut fates = Vec::new();
        for step in [Step::Look, Step::Exchange, Step::Remove, Step::Insert] {
            for at in 1.. {
                let story = Story::new(place);
                let fate = std::cell::Cell::new(None);
                let rival = before(step, at, || fate.set(Some(story.look(&|_| {}))));
                let host = &story.host;
                let (verdict, _) = host.disturbed(OTHER, host.packet(Hook::Ingress, TCP_SYN), &rival);
                let Some(fate) = fate.get() else { break };
                fates.push(fate);
                let what = format!("{place:?}, {step:?} {at}: {fate:?}");
                let contended = Verdict::Drop(DropReason::Contended);
                assert!(
                    verdict == Verdict::Forward || (place == Place::Nat && verdict == contended),
                    "{what}: {verdict}"
                );
                let backend = host.sends(OTHER, TCP_SYN);
                assert_eq!(host.sends(ONE, TCP_SYN), backend, "{what}");
                // The other half of the old flow may be there still: the collector comes to it, too.
                story.sweep();
                let reserved = u32::from(place == Place::Nat);
                assert_eq!((host.entries(), host.reserved()), (2 - reserved, reserved), "{what}");
            }
        }
        assert!(fates.contains(&Fate::Removed), "{place:?}: the collector is never first");
        assert!(fates.iter().any(|&fate| fate != Fate::Removed), "{place:?}: it is always first");
    }
}
