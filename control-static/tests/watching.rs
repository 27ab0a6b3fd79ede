//! A source over real files: what editors, programs and Kubernetes do to them is seen, and mistakes change nothing.

#![allow(clippy::unwrap_used, reason = "tests, and the helpers of tests, may panic")]

mod support;

use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use control_static::{Notice, StaticSource};
use support::{PATIENCE, Running, document};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

#[test]
fn a_file_is_applied_and_its_changes_in_place_too() {
    let folder = folder();
    let path = folder.path().join("services.yaml");
    fs::write(&path, document(&["web"])).unwrap();
    let running = Running::start(&path);
    let first = running.wait_services(&["web"]);
    assert_eq!((first.generation, first.services), (1, 1));
    assert!(first.unwatched.is_none());

    fs::write(&path, document(&["dns", "web"])).unwrap();
    let second = running.wait_services(&["dns", "web"]);
    assert_eq!((second.generation, second.services), (2, 2));
    assert!(second.revision > first.revision);

    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"- {name: ntp, address: 203.0.113.123, port: 123, protocol: udp, backends: []}\n")
        .unwrap();
    drop(file);
    running.wait_services(&["dns", "ntp", "web"]);
    assert_eq!(running.recorder.now().commits, 3);
}

#[test]
fn a_file_that_is_replaced_by_renaming_is_seen_each_time() {
    let folder = folder();
    let path = folder.path().join("services.yaml");
    fs::write(&path, document(&["s0"])).unwrap();
    let running = Running::start(&path);
    running.wait_services(&["s0"]);
    for round in 1..5 {
        let name = format!("s{round}");
        replace(&path, &document(&[&name]));
        running.wait_services(&[&name]);
    }
    // As vim does it: the old file is moved away, a new one is written in its place, the old one is deleted.
    let backup = folder.path().join("services.yaml~");
    fs::rename(&path, &backup).unwrap();
    fs::write(&path, document(&["vim"])).unwrap();
    fs::remove_file(&backup).unwrap();
    running.wait_services(&["vim"]);
    // And in place again, into the file that is there now.
    fs::write(&path, document(&["again"])).unwrap();
    running.wait_services(&["again"]);
}

#[test]
fn a_bad_edit_keeps_the_last_good_state_and_says_so() {
    let folder = folder();
    let path = folder.path().join("services.yaml");
    fs::write(&path, document(&["web"])).unwrap();
    let (sender, notices) = mpsc::channel();
    let source = StaticSource::new(&path)
        .debounced(Duration::from_millis(100), PATIENCE)
        .on_notice(move |notice| sender.send(notice.clone()).unwrap());
    let running = Running::run(source);
    running.wait_services(&["web"]);

    fs::write(&path, document(&["web"]).replace("port: 80", "port: http")).unwrap();
    let rejected = running.wait_rejected("services[0].port: expected a port");
    assert_eq!((rejected.generation, rejected.services), (1, 1));
    assert_eq!(running.services(), ["web"]);

    fs::write(&path, document(&["better"])).unwrap();
    running.wait_services(&["better"]);

    // Back and forth without a change of what serves: nothing is committed.
    fs::write(&path, "services: [").unwrap();
    running.wait_rejected("is not valid YAML");
    fs::write(&path, document(&["better"])).unwrap();
    running.wait_services(&["better"]);
    assert_eq!(running.recorder.now().commits, 2);

    drop(running);
    let told: Vec<_> = notices
        .iter()
        .map(|notice| match notice {
            Notice::Applied { generation, .. } => format!("applied {generation}"),
            Notice::Rejected(_) => "rejected".to_owned(),
            Notice::Restored => "restored".to_owned(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, ["applied 1", "rejected", "applied 2", "rejected", "restored"]);
}

#[test]
fn nothing_is_removed_by_a_file_that_is_empty_or_gone() {
    let folder = folder();
    let path = folder.path().join("services.yaml");
    fs::write(&path, document(&["web"])).unwrap();
    let running = Running::start(&path);
    running.wait_services(&["web"]);

    fs::write(&path, "").unwrap();
    running.wait_rejected("is empty");
    fs::write(&path, "# services:\n").unwrap();
    running.wait("a reading of comments", |standing| standing.readings >= 3);
    running.wait_rejected("is empty");
    fs::remove_file(&path).unwrap();
    running.wait_rejected("cannot be read");
    assert_eq!(running.services(), ["web"]);
    assert_eq!(running.recorder.now().commits, 1);

    fs::write(&path, document(&["new", "web"])).unwrap();
    running.wait_services(&["new", "web"]);
    assert!(!running.recorder.now().confirmed);

    // Said in so many words, it is done.
    fs::write(&path, "services: []\n").unwrap();
    running.wait_services(&[]);
    assert!(running.recorder.now().confirmed);
    fs::write(&path, document(&["web"]) + "removals: confirmed\n").unwrap();
    running.wait_services(&["web"]);
    assert!(running.recorder.now().confirmed);
}

#[test]
fn a_file_that_is_not_there_yet_is_waited_for_with_its_folders() {
    let folder = folder();
    let path = folder.path().join("etc/forebay/services.yaml");
    let running = Running::start(&path);
    let before = running.wait_rejected("cannot be read");
    assert_eq!(before.generation, 0);
    assert!(!running.recorder.now().synced, "nothing stands, so nothing may go");

    fs::create_dir(folder.path().join("etc")).unwrap();
    fs::create_dir(folder.path().join("etc/forebay")).unwrap();
    fs::write(&path, document(&["web"])).unwrap();
    running.wait_services(&["web"]);

    // The folder goes and comes back: another inode by the same name.
    fs::remove_dir_all(folder.path().join("etc")).unwrap();
    running.wait_rejected("cannot be read");
    fs::create_dir_all(folder.path().join("etc/forebay")).unwrap();
    fs::write(&path, document(&["back"])).unwrap();
    running.wait_services(&["back"]);

    // The folder is moved away and another one moved in.
    let other = folder.path().join("other");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("services.yaml"), document(&["moved"])).unwrap();
    fs::rename(folder.path().join("etc/forebay"), folder.path().join("old")).unwrap();
    fs::rename(&other, folder.path().join("etc/forebay")).unwrap();
    running.wait_services(&["moved"]);
    fs::write(&path, document(&["settled"])).unwrap();
    running.wait_services(&["settled"]);
}

#[test]
fn a_folder_is_one_picture_and_files_come_and_go() {
    let folder = folder();
    let file = |name: &str| folder.path().join(name);
    let running = Running::start(folder.path());
    running.wait_rejected("has no *.yaml or *.yml file");

    fs::write(file("b.yaml"), document(&["b"])).unwrap();
    running.wait_services(&["b"]);
    fs::write(file("a.yml"), document(&["a"])).unwrap();
    running.wait_services(&["a", "b"]);
    // What is no document does not count.
    fs::write(file("notes.txt"), "services: [").unwrap();
    fs::write(file(".hidden.yaml"), "services: [").unwrap();
    fs::write(file("b.yaml~"), "services: [").unwrap();
    fs::create_dir(file("folder.yaml")).unwrap();
    replace(&file("c.yaml"), &document(&["c"]));
    running.wait_services(&["a", "b", "c"]);

    // One bad document, and the whole stays as it is.
    fs::write(file("d.yaml"), "services: [{}]").unwrap();
    running.wait_rejected("d.yaml:1:12: services[0]: missing field `name`");
    fs::remove_file(file("a.yml")).unwrap();
    running.wait("a reading without a.yml", |standing| standing.readings > 5);
    assert_eq!(running.services(), ["a", "b", "c"]);
    fs::remove_file(file("d.yaml")).unwrap();
    running.wait_services(&["b", "c"]);
    fs::rename(file("c.yaml"), file("c.off")).unwrap();
    running.wait_services(&["b"]);

    // The last one goes: that is no order.
    fs::remove_file(file("b.yaml")).unwrap();
    running.wait_rejected("has no *.yaml or *.yml file");
    assert_eq!(running.services(), ["b"]);
}

#[test]
fn what_two_files_claim_is_refused_with_both_places() {
    let folder = folder();
    fs::write(folder.path().join("a.yaml"), document(&["web"])).unwrap();
    fs::write(folder.path().join("b.yaml"), document(&["dns", "web"])).unwrap();
    let other_name = document(&["web"]).replace("name: web", "name: other");
    fs::write(folder.path().join("c.yaml"), other_name).unwrap();
    let errors = control_static::load(folder.path()).unwrap_err().to_string();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (a, b, c) = (at("a.yaml"), at("b.yaml"), at("c.yaml"));
    let service =
        format!("{b}:6:9: services[1].name: service `web` stands here a second time, first at {a}:2:9");
    assert!(errors.contains(&service), "{errors}");
    let frontend = format!("{c}:3:12: services[0].address: frontend ");
    assert!(errors.contains(&frontend) && errors.contains(&format!("first at {a}:3:12")), "{errors}");
}

/// A volume as the kubelet makes it of a ConfigMap.
struct Volume(PathBuf);

impl Volume {
    /// Puts new contents beside the old ones and switches one link.
    fn publish(&self, version: &str, files: &[(&str, String)]) {
        let data = self.0.join(format!("..{version}"));
        fs::create_dir(&data).unwrap();
        for (name, text) in files {
            fs::write(data.join(name), text).unwrap();
        }
        let old = fs::read_link(self.0.join("..data")).ok();
        symlink(format!("..{version}"), self.0.join("..data_tmp")).unwrap();
        fs::rename(self.0.join("..data_tmp"), self.0.join("..data")).unwrap();
        for (name, _) in files {
            let link = self.0.join(name);
            if !link.is_symlink() {
                symlink(format!("..data/{name}"), link).unwrap();
            }
        }
        if let Some(old) = old {
            fs::remove_dir_all(self.0.join(old)).unwrap();
        }
    }
}

#[test]
fn a_config_map_that_is_switched_by_a_link_is_seen() {
    for whole_folder in [false, true] {
        let folder = folder();
        let volume = Volume(folder.path().to_owned());
        volume.publish("1", &[("a.yaml", document(&["a1"])), ("b.yaml", document(&["b1"]))]);
        let path = if whole_folder { folder.path().to_owned() } else { folder.path().join("a.yaml") };
        let running = Running::start(&path);
        let names = |round: u32| -> Vec<String> {
            if whole_folder {
                vec![format!("a{round}"), format!("b{round}")]
            } else {
                vec![format!("a{round}")]
            }
        };
        for round in 1..5 {
            let names = names(round);
            running.wait_services(&names.iter().map(String::as_str).collect::<Vec<_>>());
            let (a, b) = (format!("a{}", round + 1), format!("b{}", round + 1));
            let files = [("a.yaml", document(&[&a])), ("b.yaml", document(&[&b]))];
            volume.publish(&(round + 1).to_string(), &files);
        }
        running.wait_services(&names(5).iter().map(String::as_str).collect::<Vec<_>>());
        assert!(running.recorder.now().commits <= 5, "no state of two versions at once was applied");
    }
}

#[test]
fn a_burst_of_edits_is_few_readings_and_ends_in_the_last_state() {
    let folder = folder();
    let path = folder.path().join("services.yaml");
    fs::write(&path, document(&["s"])).unwrap();
    let source =
        StaticSource::new(&path).debounced(Duration::from_millis(200), PATIENCE).rechecked(PATIENCE * 10);
    let running = Running::run(source);
    running.wait_services(&["s"]);
    for round in 0..500 {
        replace(&path, &document(&[&format!("s{round}")]));
    }
    let standing = running.wait_services(&["s499"]);
    assert!(standing.readings <= 50, "{} readings", standing.readings);
}

#[test]
fn what_is_not_heard_is_found_by_looking() {
    let folder = folder();
    let real = folder.path().join("real");
    fs::create_dir(&real).unwrap();
    fs::write(real.join("services.yaml"), document(&["old"])).unwrap();
    let source = StaticSource::new(real.join("services.yaml"))
        .debounced(Duration::from_millis(20), PATIENCE)
        .rechecked(Duration::from_millis(50));
    let running = Running::run(source);
    running.wait_services(&["old"]);
    // The folder is exchanged: looking finds it even if nobody heard of it.
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("services.yaml"), document(&["new"])).unwrap();
    fs::rename(&real, folder.path().join("away")).unwrap();
    fs::rename(&other, &real).unwrap();
    running.wait_services(&["new"]);
    // Looking alone reads nothing.
    let readings = running.status.now().readings;
    assert!(running.status.wait_for(Duration::from_millis(400), |now| now.readings > readings + 1).is_none());
}

#[test]
fn it_stops_promptly_whatever_it_waits_for() {
    let folder = folder();
    let path = folder.path().join("services.yaml");
    for text in [Some(document(&["web"])), Some("services: [".to_owned()), None] {
        if let Some(text) = &text {
            fs::write(&path, text).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        let mut running = Running::start(&path);
        running.wait("a reading", |standing| standing.readings > 0);
        assert!(running.stop() < Duration::from_secs(5));
    }
    // In the middle of a burst that does not end: the file stays open.
    fs::write(&path, document(&["web"])).unwrap();
    let mut running = Running::start(&path);
    running.wait_services(&["web"]);
    let mut open = fs::File::create(&path).unwrap();
    open.write_all(b"services").unwrap();
    assert!(running.stop() < Duration::from_secs(5));
    assert_eq!(running.services(), ["web"], "what was applied goes on to serve");
}

#[test]
fn two_sources_do_not_notice_each_other() {
    let folder = folder();
    let (one, other) = (folder.path().join("one.yaml"), folder.path().join("other.yaml"));
    fs::write(&one, document(&["one"])).unwrap();
    fs::write(&other, "services: [").unwrap();
    let (first, second) = (Running::start(&one), Running::start(&other));
    first.wait_services(&["one"]);
    second.wait_rejected("is not valid YAML");
    fs::write(&other, document(&["other"])).unwrap();
    second.wait_services(&["other"]);
    assert_eq!(first.status.now().readings, 1);
}

#[test]
fn pipes_devices_and_folders_of_them_do_not_hang() {
    let folder = folder();
    let pipe = folder.path().join("pipe.yaml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    for path in [pipe.as_path(), folder.path(), Path::new("/dev/null")] {
        let errors = control_static::load(path).unwrap_err();
        assert!(errors.to_string().contains("is not a regular file"), "{errors}");
    }
    let errors = control_static::load(folder.path().join("nothing")).unwrap_err();
    assert!(errors.to_string().contains("nothing: cannot be read: No such file"), "{errors}");
}

#[test]
fn the_limit_of_size_is_that_of_all_files_together() {
    let folder = folder();
    let half = format!("services: []\n#{}\n", "x".repeat(control_static::MAX_BYTES / 2));
    fs::write(folder.path().join("a.yaml"), &half).unwrap();
    assert!(control_static::load(folder.path()).is_ok());
    fs::write(folder.path().join("b.yaml"), &half).unwrap();
    let errors = control_static::load(folder.path()).unwrap_err();
    assert!(errors.to_string().contains("b.yaml: is larger than 67108864 bytes"), "{errors}");
}

#[test]
fn types_can_be_shared() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<control_static::Picture>();
    shared::<control_static::Errors>();
    shared::<control_static::StaticStatus>();
    shared::<Arc<control_static::Rejected>>();
    fn sent<T: Send + 'static>() {}
    sent::<StaticSource>();
}
