//! Verifies every program on this kernel and on Debian's, holds what the verifier finds under the budget, and sends real
//! traffic through the programs on Debian's kernels: `cargo xtask kernels`.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    budget::{self, Finding, VARIANTS, Variant},
    check_programs::OBJECT_VARIABLE,
    debian_kernel::{KERNELS, Kernel},
    guest::Guest,
    machine, process, repo,
};

/// The kernel tests that run on Debian's kernels too, of the test program `traffic`: real sockets, TCP and UDP, IPv4 and
/// IPv6. What those at tcx say holds for clsact where the kernel has no tcx.
const GUEST_TESTS: &[&str] = &[
    "affinity::xdp_brings_a_client_to_its_backend",
    "answers::tcx_tells_of_narrow_links",
    "balance::clsact_balances_with_every_offload_on",
    "balance::tcx_balances_with_every_offload_on",
    "balance::xdp_balances_and_leaves_nothing_to_tcx",
    "errors::xdp_tells_a_client_of_a_closed_port",
    "fragments::tcx_carries_masqueraded_datagrams_in_parts",
    "fragments::xdp_carries_datagrams_in_parts",
    "local::backends_that_turn_out_to_be_local_are_answered_for",
    "neighbour::tcx_waits_for_a_cold_neighbour",
    "neighbour::xdp_leaves_a_cold_neighbour_to_tcx",
    "one_arm::tcx_sends_back_where_it_came_from",
    "one_arm::xdp_sends_back_where_it_came_from",
    "others::tcx_refuses_what_no_backend_serves",
    "torn::a_service_gets_its_own_backends_while_thousands_are_swapped",
    "transfer::tcx_carries_large_segments_with_unfinished_checksums",
    "upgrade::tcx_connections_live_through_upgrades",
];

/// What those tests need of a kernel that has it as modules.
const GUEST_MODULES: &[&str] = &["veth", "bridge", "sch_ingress", "cls_bpf"];

#[derive(clap::Args)]
pub struct Arguments {
    /// Another object than the committed one
    #[arg(long, env = "FOREBAY_OBJECT")]
    object: Option<PathBuf>,
    /// Only this kernel: `here`, `6.1` or `6.12`
    #[arg(long)]
    only: Option<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let object = arguments.object.clone().unwrap_or_else(repo::object);
    let wanted = |name: &str| arguments.only.as_deref().is_none_or(|only| only == name);
    let mut report = Report::default();
    let verify = static_executables(&["build", "--package", "dataplane-ebpf", "--example", "verify"])?;
    let verify = verify.first().context("cargo built no program `verify`")?;

    if wanted("here") {
        match machine::can_run_kernel_tests() {
            Ok(()) => report.add("here", || verify_here(verify, &object)),
            Err(reason) if machine::kernel_is_required() => report.fail("here", &reason),
            Err(reason) => println!("not verified on this kernel: {reason}"),
        }
    }
    let traffic =
        static_executables(&["test", "--no-run", "--package", "dataplane-ebpf", "--test", "traffic"])?;
    let traffic = traffic.first().context("cargo built no test program `traffic`")?;
    for (name, package) in KERNELS {
        if wanted(name) {
            report.add(name, || run_in_guest(package, verify, traffic, &object));
        }
    }
    report.close()
}

/// What was found, and what went wrong.
#[derive(Default)]
struct Report {
    kernels: usize,
    failures: Vec<String>,
}

impl Report {
    fn add(&mut self, kernel: &str, verify: impl FnOnce() -> Result<Vec<String>>) {
        let lines = match verify() {
            Ok(lines) => lines,
            Err(error) => return self.fail(kernel, &format!("{error:#}")),
        };
        self.kernels += 1;
        let mut programs = 0;
        for line in lines {
            if let Some(finding) = Finding::parse(&line) {
                programs += 1;
                let Finding { program, instructions, stack } = &finding;
                println!(
                    "{kernel:>6}  {program:<28} {instructions:>7} instructions {stack:>4} bytes of stack"
                );
                if !finding.fits() {
                    self.fail(kernel, &format!("{program} is over the budget"));
                }
            } else if ["variant ", "kernel ", "opened: ", "test "].iter().any(|word| line.starts_with(word)) {
                println!("{kernel:>6}  {line}");
            }
        }
        if programs == 0 {
            self.fail(kernel, "the object has no programs");
        }
    }

    fn fail(&mut self, kernel: &str, reason: &str) {
        println!("{kernel:>6}  FAILED: {reason}");
        self.failures.push(format!("{kernel}: {}", reason.lines().next().unwrap_or_default()));
    }

    fn close(self) -> Result<()> {
        println!(
            "budget: {} instructions, {} bytes of stack; {} kernels verified",
            budget::INSTRUCTIONS,
            budget::STACK,
            self.kernels
        );
        if !self.failures.is_empty() {
            bail!("{}", self.failures.join("; "));
        }
        Ok(())
    }
}

fn verify_here(verify: &Path, object: &Path) -> Result<Vec<String>> {
    let mut lines = vec![format!("kernel {}", process::output(Command::new("uname").arg("-r"))?)];
    for Variant { name, constants } in VARIANTS {
        lines.push(format!("variant {name}"));
        let output = process::output(Command::new(verify).arg(object).args(*constants))?;
        lines.extend(output.lines().map(str::to_owned));
    }
    Ok(lines)
}

/// Verifies the programs of the object on Debian's kernel, and runs [`GUEST_TESTS`] with them.
fn run_in_guest(package: &str, verify: &Path, traffic: &Path, object: &Path) -> Result<Vec<String>> {
    let kernel = Kernel::fetch(package)?;
    let mut commands = vec!["echo kernel $(uname -r)".to_owned()];
    for Variant { name, constants } in VARIANTS {
        commands.push(format!("echo 'variant {name}'"));
        commands.push(format!("/verify /object {}", constants.join(" ")));
    }
    // The host half, too, must know its way on this kernel. It may have the guest's interface, and not the host's.
    commands.push("/verify --open /object".to_owned());
    // A test that skips itself must not pass for one that ran.
    // Each upgrade has the verifier go through all programs, which takes its time where a CPU is emulated.
    commands
        .push(format!("export FOREBAY_REQUIRE_KERNEL=1 FOREBAY_TEST_UPGRADES=3 {OBJECT_VARIABLE}=/object"));
    commands.push(format!("/traffic --test-threads=1 --exact {}", GUEST_TESTS.join(" ")));
    let lines = Guest {
        kernel: &kernel,
        files: &[
            (verify.to_path_buf(), "verify"),
            (traffic.to_path_buf(), "traffic"),
            (object.to_path_buf(), "object"),
        ],
        modules: GUEST_MODULES,
        commands: &commands,
        // Some two minutes on a quiet machine.
        time_limit: Duration::from_secs(1200),
    }
    .run()?;
    for test in GUEST_TESTS {
        // A name that no test has any more would be filtered out in silence.
        let passed = format!("test {test} ... ok");
        if !lines.contains(&passed) {
            bail!("the guest did not run {test}:\n{}", lines.join("\n"));
        }
    }
    Ok(lines)
}

/// Runs cargo with these arguments (`build …`, `test --no-run …`) and returns the programs that it built, linked
/// statically, so that they run in a guest that has no libraries.
pub fn static_executables(arguments: &[&str]) -> Result<Vec<PathBuf>> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let mut cargo = process::cargo();
    cargo.args(arguments).args(["--release", "--quiet", "--target", TARGET]);
    // With --target, the flags don't reach build scripts and procedural macros, which can't be static.
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static").env_remove(OBJECT_VARIABLE);
    let messages = process::output(cargo.arg("--message-format=json"))?;
    // One JSON object a line; the value of this key is a path or null.
    let executables =
        messages.lines().filter_map(|line| line.split_once("\"executable\":\"")?.1.split_once('"'));
    Ok(executables.map(|(path, _)| PathBuf::from(path)).collect())
}
