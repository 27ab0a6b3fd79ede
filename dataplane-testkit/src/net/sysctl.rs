//! Kernel settings of one namespace, through `/proc/sys`.

use std::fs;
use std::path::PathBuf;

use super::{Namespace, NetError};

impl Namespace {
    /// Sets a sysctl of this namespace, for example `("net/ipv4/ip_forward", "1")`. Names use slashes, as below
    /// `/proc/sys`.
    ///
    /// # Errors
    /// [`NetError::Proc`] where the kernel has no such setting or refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<(), NetError> {
        self.sysctls(&[(name, value)])
    }

    /// Sets several sysctls in their order, at the cost of one; stops at the first that fails.
    pub fn sysctls(&self, settings: &[(&str, &str)]) -> Result<(), NetError> {
        self.run(|| {
            for (name, value) in settings {
                let path = path(name);
                fs::write(&path, value).map_err(|source| self.proc_error(&path, source))?;
            }
            Ok(())
        })
    }

    /// A sysctl's value, without the line's end.
    pub fn read_sysctl(&self, name: &str) -> Result<String, NetError> {
        let path = path(name);
        let value =
            self.run(|| fs::read_to_string(&path)).map_err(|source| self.proc_error(&path, source))?;
        Ok(value.trim_end().to_owned())
    }

    /// Settings of every new namespace: nothing is sent that a test did not ask for, and addresses work at once.
    pub(super) fn quieten(&self) -> Result<(), NetError> {
        self.sysctls(&[
            // An IPv6 address is usable when it is set. Both `all` and `default` count.
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/default/dad_transmits", "0"),
            ("net/ipv6/conf/default/router_solicitations", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
            // One unsolicited group report instead of two (IPv6 has that setting for the whole machine only); none
            // for the groups of the link itself.
            ("net/ipv4/igmp_qrv", "1"),
            ("net/ipv4/igmp_link_local_mcast_reports", "0"),
            // The strictest of `all` and the interface counts, and `default` may be inherited from the host.
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
        ])
    }

    pub(super) fn proc_error(&self, path: &std::path::Path, source: std::io::Error) -> NetError {
        NetError::Proc { path: path.display().to_string(), namespace: self.label().to_owned(), source }
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}
