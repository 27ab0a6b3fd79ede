//! The status and its server: the names of its fields, what is held back, and requests that are none.
#![allow(clippy::unwrap_used, reason = "a test panics where it cannot go on")]

mod common;

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixDatagram,
    time::Duration,
};

use common::{Daemon, Files, LIMIT, PATIENCE, STATUS, config, with};
use dataplane_testkit::{
    net::{Namespace, http, wait_for},
    require_kernel,
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Every field there is, by its path: what `src/status/shape.rs` is held to.
const FIELDS: &str = include_str!("../src/status/fields.txt");

fn service(name: &str, port: u16, backends: usize) -> String {
    let backends: Vec<_> = (1..=backends).map(|host| format!("198.51.100.{host}:8080")).collect();
    format!("- {{name: {name}, address: 203.0.113.10, port: {port}, backends: {backends:?}}}\n")
}

/// The paths of all fields below a value; those of a list's items are one.
fn fields(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                // Reasons are named in the core, and are not part of the shape.
                let is_reason =
                    ["pass", "leave", "answer", "drop"].iter().any(|action| path.ends_with(action));
                if !is_reason {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    into.insert(path.clone());
                    fields(value, &path, into);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| fields(item, &format!("{path}[]"), into)),
        _ => {}
    }
}

#[test]
fn a_running_daemon_has_the_fields_of_the_list() {
    require_kernel!();
    let host = Namespace::new("host").unwrap();
    let services = |count: u16| {
        let each: String = (1..=count).map(|n| service(&format!("s{n}"), n, 8)).collect();
        format!("services:\n{each}")
    };
    let files = Files::new(&config("lo"), &services(3));
    let daemon = Daemon::start(&host, &files);
    let mut found = BTreeSet::new();
    let mut collect = |status: &Value| fields(status, "", &mut found);
    let status = daemon.status();
    assert_eq!(status["version"], 1);
    collect(&status);
    // Held back, and then wrong, so that those fields have something below them.
    files.serve(&services(1));
    collect(&daemon.wait_for_status("a removal is held back", |status| !status["held_back"].is_null()));
    files.serve("services: 1\n");
    collect(&daemon.wait_for_status("a mistake is told", |status| !status["source"]["rejected"].is_null()));
    let known: BTreeSet<String> = FIELDS.lines().map(str::to_owned).collect();
    let below = [
        "services[].conflicts[].",
        "services[].failure.",
        "uplinks[].others[].",
        "pins.",
        "nat[].",
        "events.",
    ];
    let (unusual, usual): (BTreeSet<_>, BTreeSet<_>) =
        known.into_iter().partition(|field| below.iter().any(|path| field.starts_with(path)));
    assert_eq!(found, usual);
    assert_eq!(unusual.len(), 14, "what no daemon in good order has: {unusual:?}");
    let (ended, said) = daemon.terminate();
    assert!(ended.success(), "{said}");
}

/// By a signal, and by the document itself.
#[test]
fn a_mass_removal_waits_until_it_is_confirmed() {
    require_kernel!();
    let host = Namespace::new("host").unwrap();
    let services = |names: &[&str], more: &str| {
        let each: String = names.iter().zip(1..).map(|(name, port)| service(name, port, 10)).collect();
        format!("services:\n{each}{more}")
    };
    let (all, one) = (services(&["a", "b", "c"], ""), services(&["a"], ""));
    let files = Files::new(&config("lo"), &all);
    let daemon = Daemon::start(&host, &files);
    let names = |status: &Value| -> Vec<String> {
        let services = status["services"].as_array().unwrap().iter();
        services.map(|service| service["name"].as_str().unwrap().to_owned()).collect()
    };
    daemon.signal(Signal::USR1);
    daemon.wait_to_say("SIGUSR1: nothing is held back");

    files.serve(&one);
    let status = daemon.wait_for_status("it is held back", |status| !status["held_back"].is_null());
    assert_eq!(status["held_back"]["services"], 2);
    let how = status["held_back"]["confirm"].as_str().unwrap();
    assert!(how.contains(&format!("kill -USR1 {}", daemon.id())), "{how}");
    assert_eq!(names(&status), ["a", "b", "c"]);
    let b = &status["services"][1];
    assert_eq!((&b["status"], &b["held_back"]["removal"]), (&json!("held-back"), &json!(true)));
    assert_eq!(b["held_back"]["backends"].as_array().unwrap().len(), 10);
    daemon.wait_to_say("the removal is held back for 2 services");
    assert_eq!(daemon.get("/readyz").0, 200);
    daemon.signal(Signal::USR1);
    daemon.wait_to_say("SIGUSR1: what was held back of static is removed now");
    daemon.wait_for_status("it is removed", |status| status["held_back"].is_null() && names(status) == ["a"]);

    files.serve(&all);
    daemon.wait_for_status("all are back", |status| names(status).len() == 3);
    files.serve(&services(&["a"], "removals: confirmed\n"));
    daemon.wait_for_status("it was removed at once", |status| names(status) == ["a"]);
    let (ended, said) = daemon.terminate();
    assert!(ended.success() && !said.contains("held back"), "{said}");
}

#[test]
fn bad_requests_do_no_harm_and_nobody_else_can_ask() {
    require_kernel!();
    let host = Namespace::new("host").unwrap();
    let files = Files::new(&config("lo"), &format!("services:\n{}", service("web", 80, 1)));
    let daemon = Daemon::start(&host, &files);
    let ask = |request: &[u8]| -> String {
        host.run(|| {
            let mut stream = TcpStream::connect(STATUS).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut answer = Vec::new();
            // Where it was cut short, the rest can't be sent, and the answer may be lost.
            drop(stream.write_all(request).and_then(|()| stream.read_to_end(&mut answer)));
            String::from_utf8_lossy(&answer).into_owned()
        })
    };
    for (request, begins) in [
        (&b"\xff\xff\xff\xff\r\n\r\n"[..], "HTTP/1.1 400 "),
        (b"DELETE /status HTTP/1.1\r\n\r\n", "HTTP/1.1 405 "),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", "HTTP/1.1 404 "),
        (b"GET /status%00 HTTP/1.1\r\n\r\n", "HTTP/1.1 404 "),
    ] {
        let answer = ask(request);
        assert!(answer.starts_with(begins), "{request:?}: {answer}");
    }
    ask(&vec![b'x'; 1 << 20]);
    let idle: Vec<_> = (0..100).map(|_| host.run(|| TcpStream::connect(STATUS).unwrap())).collect();
    drop(idle);
    // Until it has seen that they are gone there is no room for more.
    let answers = || host.run(|| http::get(STATUS.parse().unwrap(), "/healthz", PATIENCE)).is_ok();
    wait_for(LIMIT, "it answers again", answers).unwrap();
    daemon.wait_for_status("it serves as before", |status| status["ready"] == true);
    // Only on the loopback.
    host.interface("lo").unwrap().add_address("192.0.2.1/32".parse().unwrap()).unwrap();
    let refused = host.run(|| TcpStream::connect("192.0.2.1:9095")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let (ended, said) = daemon.terminate();
    assert!(ended.success() && !said.contains("panicked"), "{said}");
}

/// systemd's part, played here.
#[test]
fn the_supervisor_is_told() {
    require_kernel!();
    let host = Namespace::new("host").unwrap();
    let files = Files::new(&config("lo"), &format!("services:\n{}", service("web", 80, 1)));
    let path = files.path().join("notify");
    let supervisor = UnixDatagram::bind(&path).unwrap();
    supervisor.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut command = with(&files, &[]);
    command.env("NOTIFY_SOCKET", &path);
    let daemon = Daemon::start_as(&host, command);
    let told = || {
        let mut message = [0; 256];
        let length = supervisor.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    assert_eq!(told(), "READY=1\nSTATUS=1 services");
    assert_eq!(daemon.get("/readyz").0, 200, "who says so is ready");
    assert!(daemon.terminate().0.success());
    assert_eq!(told(), "STOPPING=1");
}
