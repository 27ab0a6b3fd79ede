//! Processes and kernels that can't: each has a typed error.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use common::{in_child, is_child, small};
use dataplane_ebpf::{Error, Features, Uplink, testing::embedded_object};
use dataplane_testkit::require_kernel;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// Runs a closure on a thread that has given up some capabilities.
fn without<T: Send>(dropped: CapabilitySet, closure: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let CapabilitySets { effective, permitted, inheritable } = capabilities(None).unwrap();
            let left = CapabilitySets {
                effective: effective - dropped,
                permitted: permitted - dropped,
                inheritable: inheritable - dropped,
            };
            set_capabilities(None, left).unwrap();
            closure()
        });
        thread.join().unwrap()
    })
}

#[test]
fn missing_capabilities_are_named() {
    require_kernel!();
    let cases = [
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
        (CapabilitySet::SYS_ADMIN | CapabilitySet::BPF, "CAP_BPF"),
        (CapabilitySet::SYS_ADMIN | CapabilitySet::PERFMON, "CAP_PERFMON"),
        (CapabilitySet::all(), "CAP_BPF and CAP_NET_ADMIN and CAP_PERFMON"),
    ];
    for (dropped, named) in cases {
        match without(dropped, || small().uplink(Uplink::named("lo")).open()) {
            Err(error @ Error::NoPrivilege { .. }) => {
                let text = error.to_string();
                assert!(text.contains(&format!("without {named}:")) && text.contains("root"), "{text}");
                assert!(matches!(error, Error::NoPrivilege { source: None, .. }));
            }
            other => panic!("{dropped:?}: {other:?}"),
        }
    }
}

/// CAP_SYS_ADMIN is not needed where CAP_BPF is there.
#[test]
fn the_newer_capabilities_are_enough() {
    require_kernel!();
    without(CapabilitySet::SYS_ADMIN, || small().open().unwrap().detach().unwrap());
    let features = without(CapabilitySet::SYS_ADMIN, || Features::probe().unwrap());
    assert!(features.privileges.bpf && features.privileges.perfmon && !features.privileges.sys_admin);
}

/// Runs one test of this file anew, behind a command that changes what its process may see; it must pass.
fn passes_in_child(test: &str, wrapper: &[&str]) {
    let output = in_child(test, wrapper);
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Root of a user namespace has every capability there, but not here.
#[test]
fn a_user_namespace_is_no_privilege() {
    const NAME: &str = "a_user_namespace_is_no_privilege";
    if !is_child(NAME) {
        require_kernel!();
        return passes_in_child(NAME, &["unshare", "--user", "--map-root-user", "--net"]);
    }
    match small().open() {
        Err(error @ Error::NoPrivilege { .. }) => {
            assert_eq!(error.errno(), Some(libc::EPERM));
            assert!(error.to_string().contains("user namespace"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

/// The committed programs need no description of the kernel's types; where there is none, they load all the same.
#[test]
fn a_kernel_without_btf_is_noticed() {
    const NAME: &str = "a_kernel_without_btf_is_noticed";
    if !is_child(NAME) {
        require_kernel!();
        let hide = "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"";
        return passes_in_child(NAME, &["unshare", "--mount", "--net", "sh", "-c", hide, "sh"]);
    }
    assert!(!Features::probe().unwrap().btf);
    let plane = small().open().unwrap();
    assert!(!plane.features().btf);
    plane.detach().unwrap();
}

#[test]
fn a_program_that_the_verifier_refuses_comes_with_its_log() {
    require_kernel!();
    // The XDP program is a call and `exit`. An exit that returns nothing known is refused.
    let mut object = embedded_object().to_vec();
    let exit = [0x95, 0, 0, 0, 0, 0, 0, 0];
    let call_and_exit = [&[0x85, 0x10, 0, 0, 0xff, 0xff, 0xff, 0xff][..], &exit].concat();
    let places: Vec<usize> = object
        .windows(call_and_exit.len())
        .enumerate()
        .filter(|(_, window)| *window == call_and_exit)
        .map(|(place, _)| place)
        .collect();
    assert!(!places.is_empty(), "the object has no program that is a call and an exit");
    for place in places {
        // `goto +32767` leaves the program.
        object[place + 8..place + 16].copy_from_slice(&[0x05, 0, 0xff, 0x7f, 0, 0, 0, 0]);
    }
    match small().object(object).open() {
        Err(error @ Error::Load { .. }) => {
            let Error::Load { program, log, .. } = &error else { unreachable!() };
            assert!(program.starts_with("forebay_"), "{program}");
            assert!(log.contains("jump out of range"), "{log}");
            assert!(error.to_string().contains("jump out of range"));
            assert_eq!(error.errno(), Some(libc::EINVAL));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn another_object_is_refused_before_anything_is_loaded() {
    require_kernel!();
    let result = small().object(b"\x7fELF and nothing else".to_vec()).open();
    assert!(matches!(result, Err(Error::Object { .. })), "{result:?}");
}
