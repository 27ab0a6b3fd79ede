//! Verifies every program on this kernel and on Debian's, and holds what the verifier finds under the budget:
//! `cargo xtask kernels`.

use std::{
    env,
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
    for (name, package) in KERNELS {
        if wanted(name) {
            report.add(name, || verify_in_guest(package, verify, &object));
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
            } else if ["variant ", "kernel ", "opened: "].iter().any(|word| line.starts_with(word)) {
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

fn verify_in_guest(package: &str, verify: &Path, object: &Path) -> Result<Vec<String>> {
    let kernel = Kernel::fetch(package)?;
    let mut commands = vec!["echo kernel $(uname -r)".to_owned()];
    for Variant { name, constants } in VARIANTS {
        commands.push(format!("echo 'variant {name}'"));
        commands.push(format!("/verify /object {}", constants.join(" ")));
    }
    // The host half, too, must know its way on this kernel. It may have the guest's interface, and not the host's.
    commands.push("/verify --open /object".to_owned());
    Guest {
        kernel: &kernel,
        files: &[(verify.to_path_buf(), "verify"), (object.to_path_buf(), "object")],
        modules: &["sch_ingress", "cls_bpf"],
        commands: &commands,
        time_limit: Duration::from_secs(180),
    }
    .run()
}

/// Runs cargo with these arguments (`build …`, `test --no-run …`) and returns the programs that it built, linked
/// statically, so that they run in a guest that has no libraries.
pub fn static_executables(arguments: &[&str]) -> Result<Vec<PathBuf>> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repo::root()).args(arguments).args(["--release", "--quiet", "--target", TARGET]);
    // With --target, the flags don't reach build scripts and procedural macros, which can't be static.
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static").env_remove(OBJECT_VARIABLE);
    let messages = process::output(cargo.arg("--message-format=json"))?;
    // One JSON object a line; the value of this key is a path or null.
    let executables =
        messages.lines().filter_map(|line| line.split_once("\"executable\":\"")?.1.split_once('"'));
    Ok(executables.map(|(path, _)| PathBuf::from(path)).collect())
}
