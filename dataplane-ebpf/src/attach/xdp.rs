//! XDP: taken where it is free, never from somebody else.

use std::io;

use super::{Means, XdpAttachment, XdpOff};
use crate::{
    Error,
    net::{LinkState, Network},
    sys::bpf::{self, Link, LinkPlace},
    uplink::{HookName, XdpMode},
};

/// Attaches a program as `mode` says.
pub(super) fn attach(
    means: Means<'_>,
    mode: XdpMode,
    link: &LinkState,
) -> Result<(Option<Link>, XdpAttachment), Error> {
    let network = means.network;
    let off = |why| Ok((None, XdpAttachment::Off(why)));
    match mode {
        XdpMode::Off => off(XdpOff::NotWanted),
        XdpMode::Native => {
            let (attached, what) = attach_in(means, link, Way::NATIVE)?;
            Ok((Some(attached.map_err(refusal(network, link, HookName::XdpNative))?), what))
        }
        XdpMode::Generic => {
            let (attached, what) = attach_in(means, link, Way::GENERIC)?;
            Ok((Some(attached.map_err(refusal(network, link, HookName::XdpGeneric))?), what))
        }
        XdpMode::Auto => {
            if link.is_veth() {
                return off(XdpOff::Veth);
            }
            if network.xdp_features(link.index).is_some_and(|features| !features.has_native()) {
                return off(XdpOff::NoDriverSupport { driver: network.driver(&link.name) });
            }
            match attach_in(means, link, Way::NATIVE)? {
                (Ok(attached), what) => Ok((Some(attached), what)),
                (Err(error), _) if is_taken(&error) => {
                    let (program_id, program_name) = occupant(network, link);
                    off(XdpOff::Taken { program_id, program_name })
                }
                (Err(error), _) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    off(XdpOff::NoDriverSupport { driver: network.driver(&link.name) })
                }
                (Err(error), _) if is_gone(&error) => Err(refusal(network, link, HookName::XdpNative)(error)),
                (Err(error), _) => off(XdpOff::Refused { errno: error.raw_os_error().unwrap_or(0) }),
            }
        }
    }
}

/// In the driver, or in the stack.
struct Way {
    hook: HookName,
    place: LinkPlace,
    /// The other one, which an interface can't have at the same time.
    other: HookName,
    what: XdpAttachment,
}

impl Way {
    const NATIVE: Self = Self {
        hook: HookName::XdpNative,
        place: LinkPlace::XdpNative,
        other: HookName::XdpGeneric,
        what: XdpAttachment::Native,
    };
    const GENERIC: Self = Self {
        hook: HookName::XdpGeneric,
        place: LinkPlace::XdpGeneric,
        other: HookName::XdpNative,
        what: XdpAttachment::Generic,
    };
}

/// Our pinned link with the program in it, or a new one; what the kernel says to that.
fn attach_in(
    means: Means<'_>,
    link: &LinkState,
    way: Way,
) -> Result<(io::Result<Link>, XdpAttachment), Error> {
    let program = means.programs.xdp;
    if let Some(pinned) = means.pinned(way.hook, link, program)? {
        return Ok((Ok(pinned), way.what));
    }
    // tc does meanwhile what XDP did.
    means.take_off(way.other, link)?;
    Ok((Link::create(program, link.index, way.place), way.what))
}

fn refusal(network: &Network, link: &LinkState, hook: HookName) -> impl FnOnce(io::Error) -> Error {
    move |source| {
        let interface = link.name.clone();
        if is_gone(&source) {
            Error::InterfaceVanished { interface, index: link.index }
        } else if is_taken(&source) {
            let (program_id, program_name) = occupant(network, link);
            Error::XdpTaken { interface, program_id, program_name, source }
        } else {
            Error::Attach { interface, hook, source }
        }
    }
}

/// EBUSY: a link or another program is there; EEXIST: one is there in the other mode (dev_xdp_attach in net/core/dev.c).
fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENODEV)
}

/// Who is on an interface now.
fn occupant(network: &Network, link: &LinkState) -> (Option<u32>, Option<String>) {
    let state = network.link_by_index(link.index).ok().flatten();
    let id = state.and_then(|state| state.xdp).and_then(|xdp| xdp.program);
    (id, id.and_then(bpf::program_name))
}
