//! The stack of a program's deepest chain of calls.
//!
//! The verifier logs the depth of each function on its own; who calls whom stands in the instructions.

use std::collections::{BTreeSet, HashMap, HashSet};

use aya_obj::{Object, generated::bpf_insn};

/// What the kernel rounds each function's frame up to (without JIT; with it, newer kernels round to 16).
const FRAME_ALIGNMENT: u32 = 32;

/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// `BPF_LD | BPF_IMM | BPF_DW`: takes two places, and may load a function's address for a callback.
const LOAD_IMMEDIATE_64: u8 = 0x18;
/// Source register of a call to a function of the same program.
const PSEUDO_CALL: u8 = 1;
/// Source register of a load of a function's address.
const PSEUDO_FUNC: u8 = 4;

/// For each function of a program, in their order: the functions that it calls. The first one is the entry.
pub type Calls = Vec<BTreeSet<usize>>;

/// Reads the calls of every program of an object.
pub fn calls(object: &[u8]) -> Result<HashMap<String, Calls>, Box<dyn std::error::Error>> {
    let mut object = Object::parse(object)?;
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&sections)?;
    let programs = object.programs.iter().filter_map(|(name, program)| {
        let function = object.functions.get(&program.function_key())?;
        Some((name.clone(), call_graph(&function.instructions)))
    });
    Ok(programs.collect())
}

fn call_graph(instructions: &[bpf_insn]) -> Calls {
    let calls: Vec<(usize, usize)> = instructions
        .iter()
        .enumerate()
        .filter(|(_, instruction)| {
            let kind = (instruction.code, instruction.src_reg());
            kind == (CALL, PSEUDO_CALL) || kind == (LOAD_IMMEDIATE_64, PSEUDO_FUNC)
        })
        .filter_map(|(at, call)| {
            // Relative to the next instruction, counted in places of 8 bytes.
            let target = at.checked_add_signed(isize::try_from(call.imm).ok()?)? + 1;
            Some((at, target))
        })
        .collect();
    let starts: Vec<usize> =
        calls.iter().map(|(_, target)| *target).chain([0]).collect::<BTreeSet<_>>().into_iter().collect();
    let function_at = |place: usize| starts.partition_point(|start| *start <= place) - 1;
    let mut graph = vec![BTreeSet::new(); starts.len()];
    for (at, target) in calls {
        graph[function_at(at)].insert(function_at(target));
    }
    graph
}

/// The depths in the verifier's line `stack depth 64+0+128`, one for each function.
pub fn parse_depths(log: &str) -> Option<Vec<u32>> {
    let line = log.lines().find_map(|line| line.strip_prefix("stack depth "))?;
    line.split_whitespace().next()?.split('+').map(|depth| depth.parse().ok()).collect()
}

/// Bytes of stack of the deepest chain of calls. Where the verifier has removed functions, so that depths can't be told
/// apart, it is the sum of all: never less than the truth.
pub fn deepest_chain(calls: &Calls, depths: &[u32]) -> u32 {
    let frames: Vec<u32> =
        depths.iter().map(|depth| (*depth).max(1).next_multiple_of(FRAME_ALIGNMENT)).collect();
    if calls.len() == frames.len() { chain_from(0, calls, &frames) } else { frames.iter().sum() }
}

/// The verifier refuses recursion, so this ends.
fn chain_from(function: usize, calls: &Calls, frames: &[u32]) -> u32 {
    let deepest_callee = calls[function].iter().map(|callee| chain_from(*callee, calls, frames)).max();
    frames[function] + deepest_callee.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u8, source: u8, imm: i32) -> bpf_insn {
        let registers = bpf_insn::new_bitfield_1(0, source);
        bpf_insn { code, _bitfield_align_1: [], _bitfield_1: registers, off: 0, imm }
    }

    #[test]
    fn chain_follows_calls_and_takes_the_deepest() {
        let exit = instruction(0x95, 0, 0);
        // 0: entry calls 3 and 5; 3: calls 5; 5: a leaf.
        let program = [
            instruction(CALL, PSEUDO_CALL, 2),
            instruction(CALL, PSEUDO_CALL, 3),
            exit,
            instruction(CALL, PSEUDO_CALL, 1),
            exit,
            exit,
        ];
        let graph = call_graph(&program);
        assert_eq!(graph, [BTreeSet::from([1, 2]), BTreeSet::from([2]), BTreeSet::new()]);
        assert_eq!(deepest_chain(&graph, &[64, 1, 100]), 64 + 32 + 128);
        assert_eq!(deepest_chain(&graph, &[64, 0]), 96, "a removed function: the sum of what is left");
    }

    #[test]
    fn calls_of_helpers_are_no_functions() {
        let program = [instruction(CALL, 0, 5), instruction(0x95, 0, 0)];
        assert_eq!(call_graph(&program), [BTreeSet::new()]);
    }

    #[test]
    fn depths_are_read_from_the_log() {
        let log = "verification time 51 usec\nstack depth 64+0+128\nprocessed 5 insns (limit 1000000)\n";
        assert_eq!(parse_depths(log), Some(vec![64, 0, 128]));
        assert_eq!(parse_depths("processed 5 insns"), None);
    }
}
