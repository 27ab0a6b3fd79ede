//! Every byte arrives, in its place, in both directions.

use dataplane_core::pipeline::{Hook, Verdict};
use dataplane_testkit::{net::http, require_kernel};

use crate::world::{Front, Hooks, PATIENCE, Sent, World, assert_checksums};

/// 64 MiB.
const LONG: u64 = 64 << 20;

fn check(hooks: Hooks) -> World {
    let world = World::new(hooks);
    world.balance_all();
    let before = Sent::by(&world.net);
    for front in Front::TCP {
        let address = front.virtual_address();
        for length in [1, LONG] {
            world.net.client.run(|| {
                let down = http::download(address, length, 2 * PATIENCE).unwrap();
                let up = http::upload(address, length, 2 * PATIENCE).unwrap();
                assert_eq!((down.bytes, up.bytes), (length, length), "{}", front.name());
            });
        }
        let counted = world.counters(front);
        assert!(counted.bytes > LONG && counted.reply_bytes > LONG, "{counted:?}");
        // With what headers take, one in ten more at the very most.
        assert!(counted.bytes < LONG / 10 * 11 && counted.reply_bytes < LONG / 10 * 11, "{counted:?}");
    }
    world.account(&before);
    assert_checksums(&world.net.client);
    for backend in &world.net.backends {
        assert_checksums(&backend.namespace);
    }
    world
}

#[test]
fn tcx_carries_large_segments_with_unfinished_checksums() {
    require_kernel!();
    let world = check(Hooks::Tcx);
    // Else it was not what this test is about: in segments of 1500 bytes it would be 46,000 packets each way.
    let packets = world.counters(Front::TCP_V4).packets;
    assert!(packets < 30_000, "{packets}");
}

#[test]
fn xdp_carries_finished_segments() {
    let sends = Hooks::Xdp.xdp_redirects();
    require_kernel!(if sends {
        Ok(())
    } else {
        Err("before Linux 6.3 XDP leaves what it would redirect to tc")
    });
    let world = check(Hooks::Xdp);
    assert!(world.count(Hook::Xdp, Verdict::Forward) > 180_000);
    assert!(world.count(Hook::Ingress, Verdict::Forward) < 24);
}
