//! Agreement: the same frames through the kernel's programs and through the simulator, on the same tables, routes and
//! neighbours, give the same verdict, the same bytes and the same table changes.
//!
//! Neither is the oracle of the other alone: what the kernel does with routes, neighbours and checksums is the
//! kernel's own, and what the simulator does is plain Rust. A difference prints a line that begins with
//! `DISAGREEMENT`, the seed and the frame.

#![allow(clippy::unwrap_used)] // Helpers of tests may, as tests may.

mod compare;
mod events;
mod occur;
mod traffic;
mod world;

use std::time::Duration;

use dataplane_core::{
    abi::TestInput,
    pipeline::{Hook, Verdict},
};
use dataplane_testkit::{frames::Rng, require_kernel};

use events::Told;
use occur::{Carried, Family, Seen};
use traffic::Traffic;
use world::World;

/// The issue asks for 100,000 at least.
const FRAMES: usize = 200_000;

/// And so many whose events are compared.
const FRAMES_TOLD: usize = 40_000;

#[test]
fn kernel_and_simulator_agree() {
    require_kernel!();
    agree(FRAMES, false);
}

/// With events switched on, which makes other programs of them; and beside the packets the collectors.
#[test]
fn kernel_and_simulator_tell_the_same() {
    require_kernel!();
    agree(FRAMES_TOLD, true);
}

fn agree(frames: usize, tells: bool) {
    let seed = std::env::var("FOREBAY_SEED")
        .map_or(20_261_121, |seed| seed.parse().expect("FOREBAY_SEED is a number"));
    println!("agreement: seed {seed} (set FOREBAY_SEED for another), {frames} frames");
    let mut world = World::new(tells.then(events::all_of_them));
    let mut told = Told::default();
    let mut rng = Rng::new(seed);
    let mut traffic = Traffic::new(&world);
    let mut now = Duration::from_secs(1000);
    let mut seen = Seen::default();
    let mut ours = 0;
    for number in 0..frames {
        now += step(&mut rng);
        if number % 400 == 399 {
            world.change(&mut rng);
        }
        let (hook, interface, frame) = traffic.next(&world, &mut rng);
        let random = rng.draw() as u32;
        let (family, carried) = (Family::of(&frame), Carried::of(&frame));
        let verdict = one(
            &mut world,
            &mut traffic,
            &mut told,
            Case { seed, number, hook, interface, frame, random, now },
        );
        seen.note(hook, family, carried, verdict);
        ours += usize::from(!matches!(verdict, Verdict::Pass(_)));
        if number % 10_000 == 9_999 {
            compare::tables(&world, &format!("seed {seed}, after frame {number}"));
        }
        if tells && number % 4_000 == 3_999 {
            now += Duration::from_secs(1);
            events::collect(&mut world, now, &mut rng);
            if let Some(difference) = told.compare(&world) {
                println!("DISAGREEMENT about what is collected after frame {number} of seed {seed}");
                panic!("{difference}");
            }
        }
    }
    if tells {
        return told.is_everything();
    }
    let share = ours * 100 / frames;
    println!("agreement: {share} % of the frames hit a service or a flow");
    assert!(share >= 30, "only {share} % of the frames were ours");
    seen.is_what_can_occur();
}

/// Mostly milliseconds; now and then long enough for flows to run out.
fn step(rng: &mut Rng) -> Duration {
    match rng.below(10_000) {
        0 => Duration::from_secs(7 * 3600),
        1..=4 => Duration::from_secs(61),
        5..=20 => Duration::from_secs(11),
        _ => Duration::from_millis(rng.below(40) as u64),
    }
}

struct Case {
    seed: u64,
    number: usize,
    hook: Hook,
    interface: u32,
    frame: Vec<u8>,
    random: u32,
    now: Duration,
}

/// Runs one frame through both and compares.
fn one(world: &mut World, traffic: &mut Traffic, told: &mut Told, case: Case) -> Verdict {
    world.simulator.set_time(case.now);
    world.simulator.set_random(Some(case.random));
    let expected = world.simulator.run(case.hook, case.interface, &case.frame);

    let kernel = &world.kernel;
    kernel.set(TestInput::Now, case.now.as_nanos() as u64).unwrap();
    kernel.set(TestInput::Random, case.random.into()).unwrap();
    for output in [TestInput::Verdict, TestInput::Egress, TestInput::GatewayHigh, TestInput::GatewayLow] {
        kernel.set(output, 0).unwrap();
    }
    let outcome = world.host.run(|| kernel.run(case.hook, &case.frame, case.interface)).unwrap();

    let mut differences = compare::outcomes(&case, kernel, &expected, &outcome);
    differences.extend(told.compare(world));
    if !differences.is_empty() {
        println!(
            "DISAGREEMENT at frame {} of seed {}, hook {}, interface {}",
            case.number,
            case.seed,
            case.hook.name(),
            case.interface
        );
        for difference in differences {
            println!("  {difference}");
        }
        println!("  frame     {}", compare::hex(&case.frame));
        println!("  simulator {}", compare::hex(&expected.frame));
        println!("  kernel    {}", compare::hex(&outcome.frame));
        panic!("kernel and simulator disagree");
    }
    traffic.note(&case.frame, case.interface, &expected);
    expected.verdict
}
