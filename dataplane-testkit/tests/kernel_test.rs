//! How a kernel test runs, is skipped or fails: seen from outside, on this binary started again.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::process::{Command, Output};
use std::{env, fs};

use dataplane_testkit::net::{KERNEL_TEST_LOG, REQUIRE_KERNEL, capabilities};
use dataplane_testkit::{child, require_kernel};

/// Set in the process that is looked at.
const SUBJECT: &str = "FOREBAY_TESTKIT_SUBJECT";

/// The test that is looked at: asks for something that is missing, or not, as it is told.
#[test]
fn subject() {
    let Ok(told) = env::var(SUBJECT) else { return };
    require_kernel!(if told == "missing" { Err("no such feature") } else { Ok(()) });
    println!("the body ran");
}

fn subject_told(told: &str, required: &str, log: &str) -> (Output, String) {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "subject", "--nocapture"])
        .env(SUBJECT, told)
        .env(REQUIRE_KERNEL, required)
        .env(KERNEL_TEST_LOG, log);
    let output = child::output(&mut command, child::LIMIT).unwrap_or_else(|error| panic!("{error}"));
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output, text)
}

#[test]
fn a_missing_requirement_skips_or_fails() {
    let (output, text) = subject_told("missing", "0", "");
    assert!(output.status.success() && text.contains("SKIPPED: kernel_test::subject: "), "{text}");
    assert!(!text.contains("the body ran"), "{text}");
    let (output, text) = subject_told("missing", "1", "");
    assert!(!output.status.success() && text.contains("kernel_test::subject can't run: "), "{text}");
}

#[test]
fn a_test_that_runs_is_logged() {
    require_kernel!();
    let log = env::temp_dir().join(format!("forebay-kernel-test-log-{}", std::process::id()));
    for _ in 0..2 {
        let (output, text) = subject_told("nothing is missing", "1", log.to_str().unwrap());
        assert!(output.status.success() && text.contains("the body ran"), "{text}");
    }
    let (_, text) = subject_told("missing", "0", log.to_str().unwrap());
    assert!(text.contains("SKIPPED: kernel_test::subject: no such feature"), "{text}");
    assert_eq!(fs::read_to_string(&log).unwrap(), "kernel_test::subject\nkernel_test::subject\n");
    fs::remove_file(&log).unwrap();
}

#[test]
fn a_missing_privilege_says_what_to_do() {
    if let Err(missing) = capabilities() {
        let text = missing.to_string();
        assert!(text.starts_with("cannot make network namespaces: "), "{text}");
    }
}
