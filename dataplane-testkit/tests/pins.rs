//! A folder for pins goes with its test, and those of tests that were killed with the next one.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

use std::{fs, process::Command};

use dataplane_testkit::{pins::PinFolder, require_kernel};

#[test]
fn a_folder_goes_with_its_test_or_with_a_later_one() {
    require_kernel!();
    let folder = PinFolder::new("first");
    let (root, edge) = (folder.root().to_owned(), folder.edge());
    assert_eq!((edge.parent(), edge.exists()), (Some(root.as_path()), false));
    for name in ["edge", "edge/b", "edge/a"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    assert_eq!(folder.names("edge"), ["a", "b"]);
    assert_eq!(folder.names("nowhere"), [""; 0]);

    // A process that is no more, and whose number nobody has.
    let mut child = Command::new("true").spawn().unwrap();
    let process = child.id();
    child.wait().unwrap();
    let left = root.with_file_name(format!("forebay-test-{process}-left"));
    fs::create_dir_all(left.join("edge")).unwrap();
    let second = PinFolder::new("second");
    assert!(!left.exists(), "what was left is swept away");
    assert!(root.exists() && second.root().exists(), "and nothing of a test that runs");
    drop((folder, second));
    assert!(!root.exists());
}
