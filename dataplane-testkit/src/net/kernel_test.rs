//! What a kernel test needs of the machine, and how it says that it ran.

use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;

use super::Namespace;

/// Where `1`, a kernel test that can't run fails instead of being skipped.
pub const REQUIRE_KERNEL: &str = "FOREBAY_REQUIRE_KERNEL";

/// The file to which each kernel test that runs appends its name as a line.
pub const KERNEL_TEST_LOG: &str = "FOREBAY_KERNEL_TEST_LOG";

/// Why this process can't make network namespaces.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot make network namespaces: {reason}")]
pub struct MissingPrivilege {
    reason: String,
}

/// Whether this process can make network namespaces and links: it needs CAP_SYS_ADMIN and CAP_NET_ADMIN, and a sandbox
/// must not forbid the calls. The first call tries it; later ones know.
///
/// # Errors
/// [`MissingPrivilege`], with the reason in words.
pub fn capabilities() -> Result<(), MissingPrivilege> {
    static ANSWER: OnceLock<Result<(), MissingPrivilege>> = OnceLock::new();
    ANSWER.get_or_init(probe).clone()
}

fn probe() -> Result<(), MissingPrivilege> {
    let status = fs::read_to_string("/proc/thread-self/status").map_err(|error| MissingPrivilege {
        reason: format!("/proc/thread-self/status: {error}; mount /proc"),
    })?;
    let missing = missing_capabilities(&status);
    if !missing.is_empty() {
        return Err(MissingPrivilege { reason: format!("without {}; run as root", missing.join(" and ")) });
    }
    // Nothing is set in it: a setting that fails is a failure of the test that needs it, never a reason to skip.
    match Namespace::bare("capability probe") {
        Ok(_) => Ok(()),
        Err(error) => Err(MissingPrivilege { reason: error.to_string() }),
    }
}

fn missing_capabilities(status: &str) -> Vec<&'static str> {
    // linux/capability.h
    const NEEDED: [(&str, u32); 2] = [("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21)];
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or(0);
    NEEDED.into_iter().filter(|(_, bit)| effective & (1 << bit) == 0).map(|(name, _)| name).collect()
}

/// Whether the kernel test `name` may run, given what it needs besides namespaces (`requirement`).
///
/// If it may, its name goes to the file named by [`KERNEL_TEST_LOG`]. If not, `SKIPPED: <reason>` is printed.
/// [`require_kernel!`](crate::require_kernel) is this with the caller's name.
///
/// # Panics
/// Where it can't run and [`REQUIRE_KERNEL`] is `1`, and where the log can't be written.
pub fn kernel_test(name: &str, requirement: Result<(), impl Display>) -> bool {
    let ready = match capabilities() {
        Ok(()) => requirement.map_err(|reason| reason.to_string()),
        Err(missing) => Err(missing.to_string()),
    };
    let required = std::env::var_os(REQUIRE_KERNEL).is_some_and(|value| value == "1");
    match ready {
        Ok(()) => {
            if let Some(path) = std::env::var_os(KERNEL_TEST_LOG).filter(|path| !path.is_empty()) {
                // One write to a file opened for appending: tests that run side by side do not mix.
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(&path)
                    .and_then(|mut file| file.write_all(format!("{name}\n").as_bytes()))
                    .unwrap_or_else(|error| panic!("{KERNEL_TEST_LOG}={}: {error}", path.display()));
            }
            true
        }
        Err(reason) if required => panic!("{REQUIRE_KERNEL}=1, but {name} can't run: {reason}"),
        Err(reason) => {
            println!("SKIPPED: {name}: {reason}");
            false
        }
    }
}

/// First line of a kernel test: returns from it where this machine can't run it.
///
/// ```
/// use dataplane_testkit::require_kernel;
///
/// fn veth_is_quick() {
///     require_kernel!();
///     // ...
/// }
///
/// fn needs_more() {
///     let btf = if std::path::Path::new("/sys/kernel/btf/vmlinux").exists() { Ok(()) } else { Err("no BTF") };
///     require_kernel!(btf);
///     // ...
/// }
/// ```
///
/// An argument is a further requirement, `Result<(), impl Display>`. See [`kernel_test`](crate::net::kernel_test).
#[macro_export]
macro_rules! require_kernel {
    () => {
        $crate::require_kernel!(::core::result::Result::<(), &str>::Ok(()))
    };
    ($requirement:expr) => {{
        // The path of a function declared here ends in "::here" after the path of the test.
        fn here() {}
        let path = ::core::any::type_name_of_val(&here);
        if !$crate::net::kernel_test(path.trim_end_matches("::here"), $requirement) {
            return;
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::missing_capabilities;

    #[test]
    fn capability_bits_are_read() {
        assert!(missing_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n").is_empty());
        assert_eq!(missing_capabilities("CapEff:\t0000000000001000\n"), ["CAP_SYS_ADMIN"]);
        assert_eq!(missing_capabilities("CapEff:\t0000000000000000\n"), ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]);
    }
}
