//! What this machine can do.

use std::{env, fs, os::unix::fs::MetadataExt as _, path::Path, process::Command};

use crate::{process, repo};

/// Whether this process may do everything.
pub fn is_root() -> bool {
    // /proc/self belongs to the effective user of the process.
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// With `FOREBAY_REQUIRE_KERNEL=1`, what this machine can't run is a failure.
pub fn kernel_is_required() -> bool {
    env::var_os("FOREBAY_REQUIRE_KERNEL").is_some_and(|value| value == "1")
}

/// Whether tests can load programs and make network namespaces; else why not.
pub fn can_run_kernel_tests() -> Result<(), String> {
    // Numbers of linux/capability.h.
    for (bit, name) in [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN"), (39, "CAP_BPF")] {
        if effective_capabilities() >> bit & 1 == 0 {
            return Err(format!("{name} is missing: run it as root"));
        }
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err("this kernel has no BTF (CONFIG_DEBUG_INFO_BTF)".into());
    }
    if process::output(Command::new("unshare").args(["--net", "true"])).is_err() {
        return Err("network namespaces can't be made here".into());
    }
    Ok(())
}

/// Whether other kernels can be booted; else why not.
pub fn can_boot_kernels() -> Result<(), String> {
    for (program, package) in [
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("apt-get", "apt, on Debian: the kernels are Debian's"),
        ("dpkg-deb", "dpkg"),
        ("xz", "xz-utils"),
    ] {
        if repo::find_program(program).is_none() {
            return Err(format!("{program} is missing (package {package})"));
        }
    }
    Ok(())
}

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
}
