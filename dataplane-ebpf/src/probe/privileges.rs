//! What a thread may do (capabilities(7)).

use std::fs;

/// The capabilities that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Privileges {
    /// CAP_SYS_ADMIN, which includes CAP_BPF and CAP_PERFMON.
    pub sys_admin: bool,
    /// CAP_BPF (5.8): maps and programs.
    pub bpf: bool,
    /// CAP_NET_ADMIN: programs of network interfaces.
    pub net_admin: bool,
    /// CAP_PERFMON (5.8): without it the verifier refuses pointer arithmetic that our programs need.
    pub perfmon: bool,
}

impl Privileges {
    /// Those of the calling thread. Where /proc can't be read they count as there, and the kernel decides.
    pub fn of_this_thread() -> Self {
        let all = Self { sys_admin: true, bpf: true, net_admin: true, perfmon: true };
        fs::read_to_string("/proc/thread-self/status")
            .ok()
            .and_then(|status| Self::parse(&status))
            .unwrap_or(all)
    }

    fn parse(status: &str) -> Option<Self> {
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        let effective = u64::from_str_radix(line.trim(), 16).ok()?;
        // linux/capability.h
        let has = |bit: u32| effective >> bit & 1 != 0;
        let sys_admin = has(21);
        Some(Self { sys_admin, bpf: sys_admin || has(39), net_admin: has(12), perfmon: sys_admin || has(38) })
    }

    /// The capabilities that are missing, in words; `None` where none is.
    pub(crate) fn missing(&self) -> Option<String> {
        let needed =
            [("CAP_BPF", self.bpf), ("CAP_NET_ADMIN", self.net_admin), ("CAP_PERFMON", self.perfmon)];
        let missing: Vec<&str> =
            needed.into_iter().filter(|(_, there)| !there).map(|(name, _)| name).collect();
        (!missing.is_empty()).then(|| missing.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_as_the_kernel_writes_them() {
        let parse =
            |bits: &str| Privileges::parse(&format!("Name:\tx\nCapEff:\t{bits}\nCapBnd:\t0\n")).unwrap();
        assert_eq!(
            parse("0000000000000000").missing().as_deref(),
            Some("CAP_BPF and CAP_NET_ADMIN and CAP_PERFMON")
        );
        assert_eq!(parse("0000000000200000").missing().as_deref(), Some("CAP_NET_ADMIN"));
        assert_eq!(parse("000000c000001000").missing(), None);
        assert_eq!(parse("0000008000001000").missing().as_deref(), Some("CAP_PERFMON"));
        assert_eq!(Privileges::parse("CapInh:\t0\n"), None);
    }
}
