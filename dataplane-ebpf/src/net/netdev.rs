//! What a driver's XDP can do (generic netlink, family `netdev`, linux/netdev.h; kernel 6.3).

use std::io;

use super::{
    message::{Request, find, read},
    socket::Netlink,
};

const ACK: u16 = 4;
const CONTROLLER: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

const GENERIC_HEADER: usize = 4;

/// Bits `NETDEV_XDP_ACT_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct XdpFeatures(pub u64);

impl XdpFeatures {
    /// Programs run in the driver.
    pub(crate) fn has_native(self) -> bool {
        self.0 & 1 != 0
    }

    /// Frames that XDP sends from another interface are taken, as things stand now. `fragments`: also those that lie in
    /// several buffers, as jumbo frames do: without `NDO_XMIT_SG` the kernel refuses them when they are on their way already
    /// (`__xdp_enqueue` and `xdp_ok_fwd_dev`), which nothing of ours counts.
    pub(crate) fn takes_frames(self, fragments: bool) -> bool {
        const NDO_XMIT: u64 = 4;
        const NDO_XMIT_SG: u64 = 64;
        let wanted = if fragments { NDO_XMIT | NDO_XMIT_SG } else { NDO_XMIT };
        self.0 & wanted == wanted
    }
}

/// The features of an interface's driver.
///
/// # Errors
/// The kernel's; ENOENT before 6.3.
pub(super) fn xdp_features(netlink: &Netlink, index: u32) -> io::Result<XdpFeatures> {
    let family = family(netlink, "netdev")?;
    let request = Request::new(family, ACK, &[NETDEV_CMD_DEV_GET, 1, 0, 0]);
    let bodies = netlink.ask(request.attribute(NETDEV_A_DEV_IFINDEX, &index.to_ne_bytes()))?;
    value(&bodies, NETDEV_A_DEV_XDP_FEATURES).map(XdpFeatures)
}

/// The number of a family.
fn family(netlink: &Netlink, name: &str) -> io::Result<u16> {
    let request = Request::new(CONTROLLER, ACK, &[CTRL_CMD_GETFAMILY, 1, 0, 0]);
    value(&netlink.ask(request.text(CTRL_ATTR_FAMILY_NAME, name))?, CTRL_ATTR_FAMILY_ID)
}

fn value<T: zerocopy::FromBytes>(bodies: &[Vec<u8>], attribute: u16) -> io::Result<T> {
    bodies
        .first()
        .and_then(|body| body.get(GENERIC_HEADER..))
        .and_then(|attributes| find(attributes, attribute))
        .and_then(read)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EBADMSG))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As drivers of Linux 6.18 set them.
    #[test]
    fn what_takes_frames_may_not_take_fragments() {
        // Basic, redirect, xmit; then with rx-sg and xmit-sg.
        for (features, whole, fragments) in [
            (0, false, false),
            (0b000_0011, false, false),
            (0b000_0111, true, false), // tun
            (0b010_0111, true, false),
            (0b110_0111, true, true), // veth
            (0b100_0011, false, false),
        ] {
            let features = XdpFeatures(features);
            let found = (features.takes_frames(false), features.takes_frames(true));
            assert_eq!(found, (whole, fragments), "{features:?}");
        }
    }
}
