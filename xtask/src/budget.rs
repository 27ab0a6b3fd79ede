//! What the verifier may find, on every kernel: the design's budget for a program.

/// Instructions that the verifier walks through. The kernel's own limit is a million.
pub const INSTRUCTIONS: u32 = 100_000;

/// Bytes of stack of the deepest chain of calls. The kernel's own limit is 512.
pub const STACK: u32 = 384;

/// A way to load the object: the constants that are set before the load.
pub struct Variant {
    /// What it stands for, for people.
    pub name: &'static str,
    /// `CONSTANT=VALUE`, 32 bits each.
    pub constants: &'static [&'static str],
}

/// Loads that are held against the budget. The verifier removes what a constant switches off, so the load with
/// everything on belongs here.
pub const VARIANTS: &[Variant] = &[
    Variant { name: "as committed", constants: &[] },
    Variant { name: "with events", constants: &["TELL_EVENTS=1"] },
];

/// What the verifier found in one program.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    pub program: String,
    pub instructions: u32,
    pub stack: u32,
}

impl Finding {
    /// Reads a line of `dataplane-ebpf/examples/verify`.
    pub fn parse(line: &str) -> Option<Self> {
        let (program, rest) = line.trim().strip_prefix("program ")?.split_once(": ")?;
        let (instructions, rest) = rest.split_once(" instructions, ")?;
        let stack = rest.strip_suffix(" bytes of stack")?;
        Some(Self {
            program: program.into(),
            instructions: instructions.parse().ok()?,
            stack: stack.parse().ok()?,
        })
    }

    /// Whether it stays under the budget.
    pub fn fits(&self) -> bool {
        self.instructions <= INSTRUCTIONS && self.stack <= STACK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_verify_prints() {
        let finding = Finding::parse("program forebay_xdp: 1234 instructions, 96 bytes of stack\r\n");
        assert_eq!(finding, Some(Finding { program: "forebay_xdp".into(), instructions: 1234, stack: 96 }));
        assert_eq!(Finding::parse("program forebay_xdp: refused: no"), None);
    }

    #[test]
    fn the_budget_is_a_limit_not_beyond() {
        let finding = |instructions, stack| Finding { program: String::new(), instructions, stack };
        assert!(finding(100_000, 384).fits());
        assert!(!finding(100_001, 0).fits() && !finding(0, 416).fits());
    }
}
