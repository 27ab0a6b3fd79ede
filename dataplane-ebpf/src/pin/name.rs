//! The names in a pin directory. A bpffs keeps names with a dot for itself.

use std::fmt;

use crate::{sys::bpf::LinkKind, uplink::HookName};

/// An interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The inode of its network namespace.
    pub namespace: u64,
    /// Its index.
    pub interface: u32,
}

/// Which hooks have links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum LinkHook {
    // XDP leaves packets to tc: it is taken off first.
    XdpNative,
    XdpGeneric,
    TcxIngress,
    TcxEgress,
}

/// The name of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkName {
    hook: LinkHook,
    pub place: Place,
}

impl LinkName {
    /// The name of the link at a hook; `None` at hooks that have none.
    pub(crate) fn new(hook: HookName, place: Place) -> Option<Self> {
        let hook = match hook {
            HookName::XdpNative => LinkHook::XdpNative,
            HookName::XdpGeneric => LinkHook::XdpGeneric,
            HookName::TcxIngress => LinkHook::TcxIngress,
            HookName::TcxEgress => LinkHook::TcxEgress,
            HookName::ClsactIngress | HookName::ClsactEgress => return None,
        };
        Some(Self { hook, place })
    }

    /// What the kernel must say of the link.
    pub(crate) fn kind(self) -> LinkKind {
        match self.hook {
            LinkHook::XdpNative | LinkHook::XdpGeneric => LinkKind::Xdp,
            LinkHook::TcxIngress => LinkKind::TcxIngress,
            LinkHook::TcxEgress => LinkKind::TcxEgress,
        }
    }
}

/// A name in a pin directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    /// A link.
    Link(LinkName),
    /// Filters of ours on clsact.
    Clsact {
        /// Their priority.
        priority: u16,
        /// Where.
        place: Place,
    },
    /// A clsact qdisc of ours.
    Qdisc(Place),
    /// Ports that the host gives to nobody by our doing.
    Ports {
        /// The first.
        first: u16,
        /// The last.
        last: u16,
        /// The inode of the network namespace.
        namespace: u64,
    },
    /// The folder of a generation's arrays of programs. After links and filters: it is taken away when nothing leads to it.
    Stages(u32),
    /// The folder of the tables.
    Maps,
    /// The folder of tables that are not all there.
    New,
    /// How many folders at the end of the path are ours.
    Made(u16),
}

impl Name {
    /// Reads a name; `None` where it is none of ours.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let name = Self::parse_loosely(text)?;
        // Numbers have several spellings, names have one.
        (name.to_string() == text).then_some(name)
    }

    fn parse_loosely(text: &str) -> Option<Self> {
        match text {
            "maps" => return Some(Self::Maps),
            "new" => return Some(Self::New),
            _ => {}
        }
        let place = |text: &str| {
            let (namespace, interface) = text.split_once('_')?;
            Some(Place { namespace: namespace.parse().ok()?, interface: interface.parse().ok()? })
        };
        if let Some(generation) = text.strip_prefix("stages_") {
            return generation.parse().ok().map(Self::Stages);
        }
        if let Some(made) = text.strip_prefix("made_") {
            return made.parse().ok().map(Self::Made);
        }
        if let Some(rest) = text.strip_prefix("qdisc_") {
            return place(rest).map(Self::Qdisc);
        }
        if let Some(rest) = text.strip_prefix("ports_") {
            let (first, rest) = rest.split_once('_')?;
            let (last, namespace) = rest.split_once('_')?;
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            return Some(Self::Ports { first, last, namespace: namespace.parse().ok()? });
        }
        if let Some(rest) = text.strip_prefix("clsact_") {
            let (priority, rest) = rest.split_once('_')?;
            return Some(Self::Clsact { priority: priority.parse().ok()?, place: place(rest)? });
        }
        let hooks = [LinkHook::XdpNative, LinkHook::XdpGeneric, LinkHook::TcxIngress, LinkHook::TcxEgress];
        hooks.into_iter().find_map(|hook| {
            let rest = text.strip_prefix(hook.prefix())?.strip_prefix('_')?;
            Some(Self::Link(LinkName { hook, place: place(rest)? }))
        })
    }

    /// Whether it notes filters on this interface's clsact.
    pub(crate) fn is_filter_at(self, place: Place) -> bool {
        matches!(self, Self::Clsact { place: found, .. } if found == place)
    }
}

impl LinkHook {
    fn prefix(self) -> &'static str {
        match self {
            Self::XdpNative => "xdp_native",
            Self::XdpGeneric => "xdp_generic",
            Self::TcxIngress => "tcx_ingress",
            Self::TcxEgress => "tcx_egress",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.namespace, self.interface)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(LinkName { hook, place }) => write!(f, "{}_{place}", hook.prefix()),
            Self::Clsact { priority, place } => write!(f, "clsact_{priority}_{place}"),
            Self::Qdisc(place) => write!(f, "qdisc_{place}"),
            Self::Ports { first, last, namespace } => write!(f, "ports_{first}_{last}_{namespace}"),
            Self::Stages(generation) => write!(f, "stages_{generation}"),
            Self::Maps => f.write_str("maps"),
            Self::New => f.write_str("new"),
            Self::Made(made) => write!(f, "made_{made}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_read_as_it_was_written() {
        let place = Place { namespace: 4_026_531_840, interface: 7 };
        let hooks = [HookName::XdpNative, HookName::XdpGeneric, HookName::TcxIngress, HookName::TcxEgress];
        let links = hooks.map(|hook| Name::Link(LinkName::new(hook, place).unwrap()));
        let others = [
            Name::Clsact { priority: 1, place },
            Name::Clsact { priority: u16::MAX, place },
            Name::Qdisc(place),
            Name::Stages(4),
            Name::Maps,
            Name::New,
            Name::Made(3),
        ];
        for name in links.into_iter().chain(others) {
            assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
        assert_eq!(
            Name::Link(LinkName::new(hooks[2], place).unwrap()).to_string(),
            "tcx_ingress_4026531840_7"
        );
        assert_eq!(LinkName::new(HookName::ClsactIngress, place), None);
    }

    #[test]
    fn other_names_are_not_ours() {
        for text in [
            "",
            "map",
            "maps2",
            "xdp_native",
            "xdp_native_1",
            "xdp_native_1_x",
            "xdp_native_1_2_3",
            "xdp_native_01_2",
            "xdp_native_+1_2",
            "tcx_ingress_1_4294967296",
            "clsact_1_2",
            "clsact_65536_1_2",
            "qdisc_1",
            "made_",
            "stages_xdp",
            "made_-1",
            "services_v4",
        ] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
    }
}
