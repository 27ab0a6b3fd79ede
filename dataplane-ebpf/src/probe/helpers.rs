//! Which helper functions the programs call, and which of them this kernel lacks.
//!
//! The verifier refuses an unknown helper with a log of numbers. Asked before the load, the answer is a name and the
//! kernel that brings it. What is asked for is read from the object itself, so it is never out of date.

use std::{
    collections::{BTreeSet, HashSet},
    io,
};

use aya::{
    programs::{ProgramError, ProgramType},
    sys::{BpfHelper, is_helper_supported},
};
use aya_obj::{
    Object,
    generated::{BPF_CALL, BPF_JMP, bpf_insn},
};

use super::refused;
use crate::Error;

/// Where a program runs: which helpers there are depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// At XDP.
    Xdp,
    /// At tc.
    Tc,
}

/// The helpers that programs call, each with the kind of the program that calls it: its number in `enum bpf_func_id`.
pub(crate) type Calls = BTreeSet<(Kind, u32)>;

/// A helper that we know by name.
#[derive(Debug)]
struct Known {
    helper: BpfHelper,
    name: &'static str,
    /// The first kernel that has it for programs of both kinds.
    since: &'static str,
}

/// The helpers that our programs call, oldest first.
#[rustfmt::skip]
const KNOWN: &[Known] = &[
    Known { helper: BpfHelper::BPF_FUNC_map_lookup_elem, name: "bpf_map_lookup_elem", since: "3.19" },
    Known { helper: BpfHelper::BPF_FUNC_map_update_elem, name: "bpf_map_update_elem", since: "3.19" },
    Known { helper: BpfHelper::BPF_FUNC_map_delete_elem, name: "bpf_map_delete_elem", since: "3.19" },
    Known { helper: BpfHelper::BPF_FUNC_get_prandom_u32, name: "bpf_get_prandom_u32", since: "4.1" },
    Known { helper: BpfHelper::BPF_FUNC_skb_store_bytes, name: "bpf_skb_store_bytes", since: "4.1" },
    Known { helper: BpfHelper::BPF_FUNC_l3_csum_replace, name: "bpf_l3_csum_replace", since: "4.1" },
    Known { helper: BpfHelper::BPF_FUNC_l4_csum_replace, name: "bpf_l4_csum_replace", since: "4.1" },
    Known { helper: BpfHelper::BPF_FUNC_tail_call, name: "bpf_tail_call", since: "4.2" },
    Known { helper: BpfHelper::BPF_FUNC_skb_vlan_pop, name: "bpf_skb_vlan_pop", since: "4.3" },
    Known { helper: BpfHelper::BPF_FUNC_skb_load_bytes, name: "bpf_skb_load_bytes", since: "4.5" },
    Known { helper: BpfHelper::BPF_FUNC_skb_change_tail, name: "bpf_skb_change_tail", since: "4.9" },
    Known { helper: BpfHelper::BPF_FUNC_skb_pull_data, name: "bpf_skb_pull_data", since: "4.9" },
    Known { helper: BpfHelper::BPF_FUNC_skb_change_head, name: "bpf_skb_change_head", since: "4.10" },
    Known { helper: BpfHelper::BPF_FUNC_redirect, name: "bpf_redirect", since: "4.14" },
    Known { helper: BpfHelper::BPF_FUNC_fib_lookup, name: "bpf_fib_lookup", since: "4.18" },
    Known { helper: BpfHelper::BPF_FUNC_sk_lookup_udp, name: "bpf_sk_lookup_udp", since: "4.20" },
    Known { helper: BpfHelper::BPF_FUNC_sk_release, name: "bpf_sk_release", since: "4.20" },
    Known { helper: BpfHelper::BPF_FUNC_skc_lookup_tcp, name: "bpf_skc_lookup_tcp", since: "5.2" },
    Known { helper: BpfHelper::BPF_FUNC_ringbuf_reserve, name: "bpf_ringbuf_reserve", since: "5.8" },
    Known { helper: BpfHelper::BPF_FUNC_ringbuf_submit, name: "bpf_ringbuf_submit", since: "5.8" },
    Known { helper: BpfHelper::BPF_FUNC_redirect_neigh, name: "bpf_redirect_neigh", since: "5.10" },
    Known { helper: BpfHelper::BPF_FUNC_ktime_get_coarse_ns, name: "bpf_ktime_get_coarse_ns", since: "5.11" },
    Known { helper: BpfHelper::BPF_FUNC_loop, name: "bpf_loop", since: "5.17" },
    Known { helper: BpfHelper::BPF_FUNC_xdp_get_buff_len, name: "bpf_xdp_get_buff_len", since: "5.18" },
];

/// The helpers that these programs of an object call, in functions of their own and in shared ones.
///
/// # Errors
/// What is wrong with the object, in words.
pub(crate) fn calls(object: &mut Object, programs: &[&str]) -> Result<Calls, String> {
    // Joins each program and the functions that it calls, as the loader does.
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&sections).map_err(|error| error.to_string())?;
    let mut calls = Calls::new();
    for name in programs {
        let Some(program) = object.programs.get(*name) else { continue };
        let kind = match program.section {
            aya_obj::ProgramSection::Xdp { .. } => Kind::Xdp,
            _ => Kind::Tc,
        };
        let instructions =
            object.functions.get(&program.function_key()).map(|code| code.instructions.as_slice());
        calls.extend(instructions.unwrap_or_default().iter().filter_map(helper).map(|number| (kind, number)));
    }
    Ok(calls)
}

/// The helper that an instruction calls. Calls of functions and of kfuncs have another source "register".
fn helper(instruction: &bpf_insn) -> Option<u32> {
    let call = u32::from(instruction.code) == BPF_JMP | BPF_CALL && instruction.src_reg() == 0;
    call.then(|| instruction.imm.unsigned_abs())
}

/// Asks this kernel whether programs of a kind may call a helper.
///
/// # Errors
/// [`Error::NoPrivilege`] and the like, where it does not answer.
pub(crate) fn ask(kind: Kind, helper: BpfHelper) -> Result<bool, Error> {
    let program = match kind {
        Kind::Xdp => ProgramType::Xdp,
        Kind::Tc => ProgramType::SchedClassifier,
    };
    is_helper_supported(program, helper).map_err(|error| match error {
        ProgramError::SyscallError(error) => refused(error.io_error),
        error => refused(io::Error::other(error)),
    })
}

/// Refuses a kernel that lacks one of the helpers. Of those that we don't know by name nothing is asked: they are of
/// programs that tests add, and the verifier will tell.
///
/// # Errors
/// [`Error::MissingFeature`] with all that are missing and the kernel that brings the last of them; what `supported`
/// fails with.
pub(crate) fn require(
    calls: &Calls,
    release: &str,
    mut supported: impl FnMut(Kind, BpfHelper) -> Result<bool, Error>,
) -> Result<(), Error> {
    let mut missing = Vec::new();
    let mut since = None;
    for known in KNOWN {
        for &(kind, _) in calls.iter().filter(|(_, number)| *number == known.helper as u32) {
            if !supported(kind, known.helper)? {
                let at = match kind {
                    Kind::Xdp => "XDP",
                    Kind::Tc => "tc",
                };
                missing.push(format!("{} at {at}", known.name));
                since = Some(known.since);
            }
        }
    }
    let Some(since) = since else { return Ok(()) };
    let feature = format!("helper function {}", missing.join(", "));
    Err(Error::MissingFeature { feature, since, release: release.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{EGRESS, EMBEDDED, INGRESS, XDP};

    fn embedded() -> Calls {
        calls(&mut Object::parse(EMBEDDED).unwrap(), &[XDP, INGRESS, EGRESS]).unwrap()
    }

    /// A kernel's version as a number that can be compared.
    fn number(version: &str) -> (u32, u32) {
        let (major, minor) = version.split_once('.').unwrap();
        (major.parse().unwrap(), minor.parse().unwrap())
    }

    fn on(kernel: &str) -> Result<(), Error> {
        require(&embedded(), kernel, |_, helper| {
            let known = KNOWN.iter().find(|known| known.helper == helper).unwrap();
            Ok(number(known.since) <= number(kernel))
        })
    }

    /// Without this, a helper that the programs come to use would be refused by the verifier's log again.
    #[test]
    fn every_helper_of_the_embedded_programs_is_known_by_name() {
        let calls = embedded();
        assert!(calls.iter().any(|(kind, _)| *kind == Kind::Xdp));
        for (kind, helper) in calls {
            assert!(
                KNOWN.iter().any(|known| known.helper as u32 == helper),
                "add helper {helper}, called at {kind:?}, to KNOWN"
            );
        }
    }

    #[test]
    fn the_oldest_come_first() {
        assert!(KNOWN.is_sorted_by_key(|known| number(known.since)));
    }

    /// The version in each message is that of the kernel which first has everything: 5.18.
    #[test]
    fn an_old_kernel_is_told_what_it_lacks() {
        for (kernel, lacking, having) in [
            ("5.15", &["bpf_xdp_get_buff_len at XDP"][..], "bpf_redirect_neigh"),
            ("5.10", &["bpf_xdp_get_buff_len at XDP", "bpf_ktime_get_coarse_ns at tc"], "bpf_redirect_neigh"),
            ("5.9", &["bpf_redirect_neigh at tc", "bpf_ktime_get_coarse_ns at XDP"], "bpf_fib_lookup"),
        ] {
            let error = on(kernel).unwrap_err();
            assert!(matches!(error, Error::MissingFeature { since: "5.18", .. }), "{error:?}");
            let text = error.to_string();
            assert!(lacking.iter().all(|name| text.contains(name)) && !text.contains(having), "{text}");
            assert!(text.contains(kernel) && text.contains("5.18"), "{text}");
        }
        assert!(on("5.18").is_ok());
        assert!(on("6.18").is_ok());
    }

    #[test]
    fn a_kernel_that_does_not_answer_is_another_error() {
        let result =
            require(&embedded(), "6.1", |_, _| Err(refused(io::Error::from_raw_os_error(libc::EPERM))));
        assert!(matches!(result, Err(Error::NoPrivilege { .. })), "{result:?}");
    }
}
