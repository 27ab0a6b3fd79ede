//! The systemd unit, held against the daemon's command line and the page that says how to install it.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use common::{Files, command, config, end_of};

const UNIT: &str = include_str!("../systemd/forebay-lb.service");
const PAGE: &str = include_str!("../../../docs/bare-metal.md");

/// The values of a setting.
fn values(setting: &str) -> Vec<&'static str> {
    UNIT.lines().filter_map(|line| line.strip_prefix(setting)?.strip_prefix('=')).collect()
}

#[test]
fn the_command_lines_are_the_daemons_and_the_paths_are_the_pages() {
    let files = Files::new(&config("eth0"), "services: []\n");
    let lines = [values("ExecStartPre"), values("ExecStart")].concat();
    assert_eq!(lines.len(), 2);
    for line in lines {
        let (program, arguments) = line.split_once(' ').unwrap();
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let (flags, [option, file]) = arguments.split_at(arguments.len() - 2) else { panic!("{line}") };
        assert_eq!(*option, "--config");
        // With --check whatever else is asked for is not done.
        let mut command = command(flags);
        command.args(["--pins", "/sys/fs/bpf/forebay"]).arg("--config").arg(files.config());
        if !flags.contains(&"--check") {
            command.arg("--check");
        }
        let (code, said) = end_of(command);
        assert_eq!(code, 0, "{line}: {said}");
        assert!(PAGE.contains(&format!(" {program}\n")) && PAGE.contains(&format!("`{file}`")), "{line}");
    }
}

#[test]
fn it_is_not_tried_again_where_that_would_not_help() {
    let codes: Vec<&str> = values("RestartPreventExitStatus").concat().leak().split(' ').collect();
    for code in codes {
        assert!(PAGE.contains(&format!("| {code} | ")), "{code} is no exit code of the page");
    }
}

/// systemd makes /sys and /proc/sys read-only for some settings, whatever else says that a part of them is not
/// (systemd.exec(5)).
#[test]
fn tables_can_be_pinned_and_ports_reserved() {
    for setting in [
        "ProtectKernelTunables",
        "ReadOnlyPaths",
        "InaccessiblePaths",
        "ProtectProc",
        "ProcSubset",
        "PrivateBPF",
    ] {
        assert_eq!(values(setting), [""; 0], "{setting}");
    }
    let bounds = values("CapabilityBoundingSet").concat();
    for capability in ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"] {
        assert!(bounds.contains(capability), "{capability}");
    }
    assert!(values("SystemCallFilter").concat().split(' ').any(|call| call == "bpf"));
    let families = values("RestrictAddressFamilies").concat();
    assert!(["AF_INET", "AF_INET6", "AF_NETLINK", "AF_UNIX"].iter().all(|family| families.contains(family)));
}
