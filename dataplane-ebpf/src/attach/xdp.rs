//! XDP: taken where it is free, never from somebody else.

use std::{io, os::fd::BorrowedFd};

use super::{XdpAttachment, XdpOff};
use crate::{
    Error,
    net::{LinkState, Network},
    sys::bpf::{self, Link, LinkPlace},
    uplink::{HookName, XdpMode},
};

/// Attaches a program as `mode` says.
pub(super) fn attach(
    network: &Network,
    mode: XdpMode,
    link: &LinkState,
    program: BorrowedFd<'_>,
) -> Result<(Option<Link>, XdpAttachment), Error> {
    let off = |why| Ok((None, XdpAttachment::Off(why)));
    match mode {
        XdpMode::Off => off(XdpOff::NotWanted),
        XdpMode::Native => {
            let attached = Link::create(program, link.index, LinkPlace::XdpNative);
            Ok((Some(attached.map_err(refusal(network, link, HookName::XdpNative))?), XdpAttachment::Native))
        }
        XdpMode::Generic => {
            let attached = Link::create(program, link.index, LinkPlace::XdpGeneric);
            Ok((
                Some(attached.map_err(refusal(network, link, HookName::XdpGeneric))?),
                XdpAttachment::Generic,
            ))
        }
        XdpMode::Auto => {
            if link.is_veth() {
                return off(XdpOff::Veth);
            }
            if network.xdp_features(link.index).is_some_and(|features| !features.has_native()) {
                return off(XdpOff::NoDriverSupport { driver: network.driver(&link.name) });
            }
            match Link::create(program, link.index, LinkPlace::XdpNative) {
                Ok(attached) => Ok((Some(attached), XdpAttachment::Native)),
                Err(error) if is_taken(&error) => {
                    let (program_id, program_name) = occupant(network, link);
                    off(XdpOff::Taken { program_id, program_name })
                }
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    off(XdpOff::NoDriverSupport { driver: network.driver(&link.name) })
                }
                Err(error) if is_gone(&error) => Err(refusal(network, link, HookName::XdpNative)(error)),
                Err(error) => off(XdpOff::Refused { errno: error.raw_os_error().unwrap_or(0) }),
            }
        }
    }
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
