//! Opening and closing: which hooks are got and why, and how everything that can be in the way is named.

use std::sync::Arc;

use dataplane_core::tables::{Capacity, Store};
use dataplane_ebpf::{
    Builder, EbpfDataplane, Error, KernelTables, Order, PeerChecksums, TcAttachment, TcMode, Uplink, Warning,
    XdpAttachment, XdpMode, XdpOff,
};
use dataplane_testkit::{
    net::{Interface, Namespace, Offload, veth},
    require_kernel,
};

fn small() -> Builder {
    EbpfDataplane::builder().unpinned().capacity(Capacity::small())
}

/// A host with one uplink, and what is at its other end.
struct Host {
    host: Namespace,
    uplink: Interface,
    far: Interface,
}

impl Host {
    fn new(label: &str) -> Self {
        let host = Namespace::new(format!("{label} host")).unwrap();
        let peer = Namespace::new(format!("{label} peer")).unwrap();
        let (uplink, far) = veth(&host, "uplink", &peer, "far").unwrap();
        Self { host, uplink, far }
    }

    fn open(&self, builder: Builder) -> Result<EbpfDataplane, Error> {
        self.host.run(|| builder.open())
    }
}

#[test]
fn handles_can_go_anywhere() {
    fn anywhere<T: Send + Sync + 'static>() {}
    anywhere::<EbpfDataplane>();
    anywhere::<KernelTables>();
    anywhere::<Error>();
    anywhere::<Builder>();
    let _: fn(Arc<KernelTables>) -> Arc<dyn Store> = |tables| tables;
}

#[test]
fn automatic_choice_on_a_veth_is_tcx_and_says_why() {
    require_kernel!();
    let host = Host::new("auto");
    let plane = host.open(small().uplink(Uplink::named("uplink"))).unwrap();
    let attachment = plane.attachments().remove(0);
    assert_eq!((attachment.interface.as_str(), attachment.index), ("uplink", host.uplink.index()));
    assert_eq!(attachment.xdp, XdpAttachment::Off(XdpOff::Veth));
    assert!(attachment.to_string().contains("veth"), "{attachment}");
    assert_eq!(attachment.tc, TcAttachment::Tcx);
    plane.detach().unwrap();
}
