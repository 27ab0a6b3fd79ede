//! Operations on a controller and a host, against a model of who serves whom.
//!
//! [`ops`] is what may happen, [`desired`] what sources have said and who therefore serves what, [`flows`] what was seen
//! of connections, [`ports`] of those of them that got a port of this host, [`clients`] what is remembered of clients, and
//! [`world`] does and checks it all. The model knows nothing of tables, rows or entries.

mod clients;
mod desired;
mod flows;
mod ops;
mod ports;
mod world;

use arbitrary::{Arbitrary, Unstructured};

use ops::{Op, Ports};
use world::World;

/// More operations than this are not carried out.
const MOST: usize = 128;

/// Carries out the operations that the bytes stand for; they end where the bytes do. The first byte says how many ports source
/// NAT has.
///
/// With `FOREBAY_TRACE` in the environment, each is printed first.
///
/// # Panics
/// Where something does not hold.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let ports = Ports::arbitrary(&mut input).unwrap_or(Ports::Four);
    let mut world = World::new(ports);
    let trace = std::env::var_os("FOREBAY_TRACE").is_some();
    if trace {
        eprintln!("{ports:?}");
    }
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        let Ok(op) = Op::arbitrary(&mut input) else {
            break;
        };
        if trace {
            eprintln!("{op:?}");
        }
        match op {
            Op::Upsert(wish) => world.upsert(&[wish], false),
            Op::Replace(first, second) => world.upsert(&[first, second], true),
            Op::Remove(object) => world.remove(object),
            Op::Pass(span) => world.pass(span),
            Op::Client(packet) => world.client(&packet),
            Op::Answer { which, flags } => world.answer(which, flags),
            Op::Bent { packet, hook, at, with } => world.bent(&packet, hook, at, with),
            Op::Raw { hook, length } => {
                let length = usize::from(length).min(input.len());
                let bytes = input.bytes(length).expect("so many are left");
                world.raw(hook, bytes);
            }
        }
        world.check();
    }
    world.end();
}
