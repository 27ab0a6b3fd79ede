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

    match small().object(with_type_relocation()).open() {
        Err(error @ Error::NoBtf { .. }) => {
            let text = error.to_string();
            assert!(
                text.contains("/sys/kernel/btf/vmlinux") && text.contains("CONFIG_DEBUG_INFO_BTF"),
                "{text}"
            );
        }
        other => panic!("{other:?}"),
    }
}

/// Where the kernel describes its types, that is not what is in the way.
#[test]
fn a_kernel_with_btf_is_not_accused() {
    let btf = std::path::Path::new("/sys/kernel/btf/vmlinux").exists();
    require_kernel!(if btf { Ok(()) } else { Err("no BTF") });
    let result = small().object(with_type_relocation()).open();
    assert!(!matches!(result, Err(Error::NoBtf { .. })), "{result:?}");
}

/// The embedded object, made to ask for the place of a field in one of the kernel's types: its line information gives
/// way to one relocation (`struct btf_ext_header` and `struct bpf_core_relo`, Documentation/bpf/btf.rst).
fn with_type_relocation() -> Vec<u8> {
    let mut object = embedded_object().to_vec();
    // Magic number, version, no flags, and the length of the header: that of BTF itself is 24.
    let magic = [0x9f, 0xeb, 1, 0, 32, 0, 0, 0];
    let header = object.windows(magic.len()).position(|window| window == magic).unwrap();
    let field = |object: &[u8], number: usize| {
        u32::from_le_bytes(object[header + 4 * number..][..4].try_into().unwrap())
    };
    // Fields from 2 on: func_info_off, func_info_len, line_info_off, line_info_len, core_relo_off, core_relo_len.
    let lines = field(&object, 4);
    assert!(field(&object, 5) >= 28 && field(&object, 7) == 0);
    let at = header + 32 + lines as usize;
    let section = u32::from_le_bytes(object[at + 4..][..4].try_into().unwrap());
    // A record has 16 bytes; one in this section: instruction 0, type 1, string 0, kind BPF_CORE_FIELD_BYTE_OFFSET.
    for (place, word) in [16, section, 1, 0, 1, 0, 0].into_iter().enumerate() {
        object[at + 4 * place..][..4].copy_from_slice(&u32::to_le_bytes(word));
    }
    for (number, word) in [(5, 0), (6, lines), (7, 28)] {
        object[header + 4 * number..][..4].copy_from_slice(&u32::to_le_bytes(word));
    }
    object
}

/// The same as on a kernel that is too old: a helper that programs at XDP may not call.
#[test]
fn a_missing_helper_is_named_before_the_verifier_meets_it() {
    require_kernel!();
    let call = |helper: u8| [0x85, 0, 0, 0, helper, 0, 0, 0];
    // enum bpf_func_id: xdp_get_buff_len and redirect_neigh.
    let (there, missing) = (call(188), call(152));
    let mut object = embedded_object().to_vec();
    let place = object.windows(8).position(|window| window == there).unwrap();
    object[place..place + 8].copy_from_slice(&missing);
    match small().object(object).open() {
        Err(error @ Error::MissingFeature { since: "5.10", .. }) => {
            assert!(error.to_string().contains("bpf_redirect_neigh at XDP"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_program_that_the_verifier_refuses_comes_with_its_log() {
    require_kernel!();
    // Each `exit` behind a move into r0 becomes `goto +32767`, which leaves the program. Instructions have 8 bytes, and are
    // aligned to them; the object has no such bytes elsewhere.
    let mut object = embedded_object().to_vec();
    let exit = [0x95, 0, 0, 0, 0, 0, 0, 0];
    let moves = [0xb4, 0xb7, 0xbc, 0xbf];
    let places: Vec<usize> = (0..object.len() - 16)
        .step_by(8)
        .filter(|&at| moves.contains(&object[at]) && object[at + 1] & 15 == 0)
        .filter(|&at| object[at + 8..at + 16] == exit)
        .collect();
    assert!(!places.is_empty(), "the object has no program that ends so");
    for at in places {
        object[at + 8..at + 16].copy_from_slice(&[0x05, 0, 0xff, 0x7f, 0, 0, 0, 0]);
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
