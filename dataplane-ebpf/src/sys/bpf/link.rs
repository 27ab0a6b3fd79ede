//! Links: programs attached to interfaces, by descriptor or by pin.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use aya_obj::generated::{
    BPF_F_AFTER, BPF_F_BEFORE, XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE, bpf_attach_type, bpf_cmd,
    bpf_link_info, bpf_link_type,
};

use super::{attributes, bpf, bpf_fd, descriptor, object_info};

/// Where a program is attached to an interface by a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkPlace {
    /// XDP in the driver.
    XdpNative,
    /// XDP in the stack.
    XdpGeneric,
    /// tcx, packets that come in; in front of all others or behind them.
    TcxIngress { first: bool },
    /// tcx, packets that go out.
    TcxEgress { first: bool },
}

impl LinkPlace {
    fn attach_type(self) -> bpf_attach_type {
        match self {
            Self::XdpNative | Self::XdpGeneric => bpf_attach_type::BPF_XDP,
            Self::TcxIngress { .. } => bpf_attach_type::BPF_TCX_INGRESS,
            Self::TcxEgress { .. } => bpf_attach_type::BPF_TCX_EGRESS,
        }
    }
}

/// What the kernel tells of where a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkKind {
    /// XDP, in the driver or in the stack.
    Xdp,
    /// tcx, packets that come in.
    TcxIngress,
    /// tcx, packets that go out.
    TcxEgress,
    /// Something that this crate never makes.
    Other,
}

/// A program's link to an interface. The program stays attached until this is dropped, or the process ends; with a pin,
/// until the pin goes or somebody says [`detach`](Self::detach).
#[derive(Debug)]
pub(crate) struct Link {
    fd: OwnedFd,
    pinned: bool,
}

impl Link {
    /// Attaches a program to the interface of this index in the calling thread's network namespace. What is there
    /// already stays there.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn create(program: BorrowedFd<'_>, interface: u32, place: LinkPlace) -> io::Result<Self> {
        let order = |first| if first { BPF_F_BEFORE } else { BPF_F_AFTER };
        let flags = match place {
            LinkPlace::XdpNative => XDP_FLAGS_DRV_MODE,
            LinkPlace::XdpGeneric => XDP_FLAGS_SKB_MODE,
            LinkPlace::TcxIngress { first } | LinkPlace::TcxEgress { first } => order(first),
        };
        let mut attributes = attributes();
        attributes.link_create.__bindgen_anon_1.prog_fd = descriptor(program);
        attributes.link_create.__bindgen_anon_2.target_ifindex = interface;
        attributes.link_create.attach_type = place.attach_type() as u32;
        attributes.link_create.flags = flags;
        // SAFETY: no pointer in the attributes of this command, which returns a new descriptor.
        let fd = unsafe { bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attributes) }?;
        Ok(Self { fd, pinned: false })
    }

    /// A link that was opened by its pin.
    pub(crate) fn of_pin(fd: OwnedFd) -> Self {
        Self { fd, pinned: true }
    }

    /// Pins it: it outlives this process.
    ///
    /// # Errors
    /// The kernel's; EEXIST where something has that name.
    pub(crate) fn pin(&mut self, path: &Path) -> io::Result<()> {
        super::pin(self.fd.as_fd(), path)?;
        self.pinned = true;
        Ok(())
    }

    /// Whether it is pinned.
    pub(crate) fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// Puts another program in the place of the one that runs, between two packets.
    ///
    /// # Errors
    /// The kernel's; ENOLINK where the interface is gone.
    pub(crate) fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut attributes = attributes();
        attributes.link_update.link_fd = descriptor(self.fd.as_fd());
        attributes.link_update.__bindgen_anon_1.new_prog_fd = descriptor(program);
        // SAFETY: no pointer in the attributes of this command.
        unsafe { bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attributes) }.map(drop)
    }

    /// The interface that the program is attached to; `None` once that is gone.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn interface(&self) -> io::Result<Option<u32>> {
        let info: bpf_link_info = object_info(self.fd.as_fd())?;
        // SAFETY: links of XDP and of tcx both begin with the interface's index, and the union is integers.
        let index = unsafe { info.__bindgen_anon_1.xdp.ifindex };
        Ok((index != 0).then_some(index))
    }

    /// Where it is attached.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn kind(&self) -> io::Result<LinkKind> {
        let info: bpf_link_info = object_info(self.fd.as_fd())?;
        if info.type_ == bpf_link_type::BPF_LINK_TYPE_XDP as u32 {
            return Ok(LinkKind::Xdp);
        }
        if info.type_ != bpf_link_type::BPF_LINK_TYPE_TCX as u32 {
            return Ok(LinkKind::Other);
        }
        // SAFETY: the kernel says that it is a link of tcx, and the union is integers.
        let attach_type = unsafe { info.__bindgen_anon_1.tcx.attach_type };
        Ok(match attach_type {
            kind if kind == bpf_attach_type::BPF_TCX_INGRESS as u32 => LinkKind::TcxIngress,
            kind if kind == bpf_attach_type::BPF_TCX_EGRESS as u32 => LinkKind::TcxEgress,
            _ => LinkKind::Other,
        })
    }

    /// Takes the program off, pinned or not. The pin of one that is pinned stays, of a link that leads nowhere.
    ///
    /// # Errors
    /// The kernel's. That it is off already is no error.
    pub(crate) fn detach(&self) -> io::Result<()> {
        let mut attributes = attributes();
        attributes.link_detach.link_fd = descriptor(self.fd.as_fd());
        // SAFETY: no pointer in the attributes of this command.
        unsafe { bpf(bpf_cmd::BPF_LINK_DETACH, &mut attributes) }.map(drop)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.pinned {
            return;
        }
        // By command and not by closing alone: between fork and exec a child of this process has the descriptor, too, and
        // would keep the program attached. Before 5.9 there is no such command, and where the interface is gone there is
        // nothing to do.
        if let Err(error) = self.detach() {
            tracing::trace!(%error, "a link is detached by closing it");
        }
    }
}

#[cfg(test)]
mod tests {
    use aya::programs::Program;
    use dataplane_core::tables::Capacity;
    use dataplane_testkit::{net::Namespace, require_kernel};

    use super::{
        super::{program_id, tcx_programs},
        *,
    };
    use crate::{EbpfDataplane, object::INGRESS};

    /// As in a child between fork and exec.
    #[test]
    fn a_dropped_link_is_detached_though_somebody_has_its_descriptor() {
        require_kernel!(tcx_programs(1, true).map(|_| ()));
        let host = Namespace::new("link").unwrap();
        let builder = EbpfDataplane::builder().unpinned().capacity(Capacity::small());
        let plane = host.run(|| builder.open()).unwrap();
        let Some(Program::SchedClassifier(program)) = plane.ebpf.program(INGRESS) else {
            panic!("{INGRESS}")
        };
        let program = program.fd().unwrap().as_fd();
        host.run(|| {
            let link = Link::create(program, 1, LinkPlace::TcxIngress { first: true }).unwrap();
            let _inherited = link.fd.try_clone().unwrap();
            assert_eq!(tcx_programs(1, true).unwrap(), [program_id(program).unwrap()]);
            drop(link);
            assert_eq!(tcx_programs(1, true).unwrap(), [0; 0]);
        });
    }
}
