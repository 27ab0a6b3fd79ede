//! An interface that went and came back, where what is attached is pinned.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use common::{Host, XDP, id};
use dataplane_core::tables::Capacity;
use dataplane_ebpf::{EbpfDataplane, PinDir, Uplink, XdpMode};
use dataplane_testkit::{net::veth, pins::PinFolder, require_kernel};

#[test]
fn what_came_back_is_pinned_in_place_of_what_went() {
    require_kernel!();
    let (host, folder) = (Host::new("back pinned"), PinFolder::new("back"));
    let open = || {
        let builder =
            EbpfDataplane::builder().pins(PinDir::new(folder.edge()).unwrap()).capacity(Capacity::small());
        host.open(builder.uplink(Uplink::named("uplink").xdp(XdpMode::Native))).unwrap()
    };
    // The arrays of tail calls are each run's own.
    let links = || -> Vec<String> {
        let names = folder.names("edge").into_iter();
        names
            .filter(|name| name.starts_with("xdp") || name.starts_with("tcx") || name.starts_with("clsact"))
            .collect()
    };
    let plane = open();
    let before = links();
    host.uplink.delete().unwrap();
    host.host.run(|| plane.refresh()).unwrap_err();
    let (_uplink, _far) = veth(&host.host, "uplink", &host.peer, "far").unwrap();
    host.host.run(|| plane.refresh()).unwrap();
    let after = links();
    assert!(before.len() >= 2 && after.len() == before.len(), "{before:?} {after:?}");
    assert_ne!(after, before);
    let program = id(&plane, XDP);
    // It stays without anybody, and whoever comes next finds it.
    plane.leave_attached().unwrap();
    assert_eq!(host.xdp_program(), Some(program));
    let plane = open();
    assert!(plane.is_adopted());
    assert_eq!(links(), after);
    plane.detach().unwrap();
    assert_eq!(folder.names("."), [""; 0]);
    assert_eq!(host.xdp_program(), None);
}
