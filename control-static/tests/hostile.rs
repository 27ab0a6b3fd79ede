//! Documents made to cost more than they weigh: each is refused, in time and memory in proportion to its size.

#![allow(clippy::unwrap_used, reason = "tests, and the helpers of tests, may panic")]

use std::{fs, path::Path, time::Duration};

use control_static::{MAX_BYTES, Problem, parse};
use rustix::time::{ClockId, clock_gettime};

/// A document of some size.
type Document = fn(usize) -> String;

/// What this thread has computed, whatever else the machine does meanwhile.
fn computed() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
}

fn refused(what: &str, document: &str) -> Problem {
    let errors = match parse(document, "hostile.yaml") {
        Ok(picture) => panic!("{what}: was taken for {} services", picture.services().len()),
        Err(errors) => errors,
    };
    let text = errors.to_string();
    assert!(text.len() < 100_000, "{what}: {} bytes of errors", text.len());
    errors.iter().next().unwrap().problem().clone()
}

/// Refuses a document of this size, for no more than its size over a smaller one's. What is quadratic costs 256 times
/// as much at 16 times the size, and what is linear 16 times.
fn refused_in_proportion(what: &str, size: usize, document: impl Fn(usize) -> String) -> Problem {
    const TIMES: u32 = 16;
    /// What caches and the allocator make of it, and of what is over too soon to be measured.
    const SLACK: (u32, Duration) = (4, Duration::from_millis(50));
    let cost = |size| {
        let document = document(size);
        let before = computed();
        let problem = refused(what, &document);
        (computed() - before, problem)
    };
    let (small, _) = cost(size / TIMES as usize);
    let (large, problem) = cost(size);
    let most = small * TIMES * SLACK.0 + SLACK.1;
    assert!(large <= most, "{what}: {large:?} for {TIMES} times what takes {small:?}");
    problem
}

#[test]
fn aliases_cannot_multiply() {
    let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x]\n");
    for (this, last) in ('b'..='z').zip('a'..) {
        let aliases = vec![format!("*{last}"); 9].join(", ");
        bomb += &format!("{this}: &{this} [{aliases}]\n");
    }
    assert!(matches!(refused("an alias bomb", &bomb), Problem::Unsupported { .. }));
    assert!(matches!(refused("an endless alias", "&a [*a]"), Problem::Unsupported { .. }));
    assert!(matches!(refused("an alias of nothing", "[*a]"), Problem::Unsupported { .. }));
}

#[test]
fn nesting_is_bounded() {
    let nested: [(&str, usize, Document); 7] = [
        ("brackets", 1 << 20, |size| "[".repeat(size)),
        ("braces", 1 << 20, |size| "{".repeat(size)),
        ("mappings in lists", 1 << 18, |size| "[{a: ".repeat(size)),
        ("dashes", 1 << 20, |size| "- ".repeat(size)),
        ("questions", 1 << 20, |size| "? ".repeat(size)),
        ("pairs", 1 << 19, |size| "[{".repeat(size)),
        ("brackets under services", 1 << 20, |size| format!("services: {}", "[".repeat(size))),
    ];
    for (what, size, document) in nested {
        assert!(
            matches!(
                refused_in_proportion(what, size, document),
                Problem::TooDeep { .. } | Problem::Unsupported { .. } | Problem::Syntax { .. }
            ),
            "{what}"
        );
    }
    let steps: String = (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert!(matches!(refused("steps", &steps), Problem::TooDeep { .. }));
}

#[test]
fn long_things_cost_what_they_weigh() {
    let long: [(&str, Document); 26] = [
        ("spaces", |size| " ".repeat(size)),
        ("line ends", |size| "\n".repeat(size)),
        ("comments", |size| "#\n".repeat(size / 2)),
        ("one long comment", |size| format!("#{}", "x".repeat(size))),
        ("one long word", |size| "x".repeat(size)),
        ("one long quoted text", |size| format!("\"{}\"", "\\n".repeat(size / 2))),
        ("an unclosed quote", |size| format!("\"{}", "x ".repeat(size / 2))),
        ("a block text", |size| format!("services: |\n{}", "  x\n".repeat(size / 4))),
        ("a folded text", |size| format!("services: >\n{}", "  x\n\n".repeat(size / 5))),
        ("a plain text of many lines", |size| format!("services:\n{}", "  x\n".repeat(size / 4))),
        ("one long key", |size| format!("{}: 1", "k".repeat(size))),
        ("one long name", |size| format!("services: [{{name: {}}}]", "n".repeat(size))),
        ("unknown fields", |size| (0..size / 8).map(|n| format!("{n}: 1\n")).collect()),
        ("commas", |size| format!("services: [{}", ",".repeat(size))),
        ("words", |size| format!("services: [{}]", "x,".repeat(size / 2))),
        ("wrong backends", |size| format!("services: [{{backends: [{}]}}]", "x,".repeat(size / 2))),
        ("colons", |size| ":".repeat(size)),
        ("colons and spaces", |size| ": ".repeat(size / 2)),
        ("questions in brackets", |size| format!("[{}", "?,".repeat(size / 2))),
        ("tags", |size| "!a ".repeat(size / 3)),
        ("anchors", |size| "&a ".repeat(size / 3)),
        ("documents", |size| "---\n".repeat(size / 4)),
        ("ends of documents", |size| "...\n".repeat(size / 4)),
        ("directives", |size| "%A b\n".repeat(size / 5)),
        ("a huge number", |size| format!("services: [{{port: {}}}]", "9".repeat(size))),
        ("carriage returns", |size| "\r".repeat(size)),
    ];
    for (what, document) in long {
        refused_in_proportion(what, 1 << 20, document);
    }
}

/// Lists of addresses times lists of ports are few bytes for many frontends, and more so if they are the same again.
#[test]
fn products_are_bounded() {
    let addresses: Vec<_> = (0..1000).map(|n| format!("10.0.{}.{}", n / 250, n % 250 + 1)).collect();
    let ports: Vec<_> = (1..=1000).map(|port: u32| port.to_string()).collect();
    let (addresses, ports) = (addresses.join(","), ports.join(","));
    let service = format!(
        "- {{name: web, addresses: [{addresses}], ports: [{ports}], backends: ['[2001:db8::1]:80']}}\n"
    );
    let errors = parse(&format!("services:\n{}", service.repeat(200)), "hostile.yaml").unwrap_err();
    let too_many =
        errors.iter().filter(|error| matches!(error.problem(), Problem::TooManyFrontends { .. })).count();
    assert!(too_many > 90, "{errors}");
    // Many backends that match none of many frontends.
    let service = |backends: String| {
        format!(
            "services: [{{name: web, addresses: [{addresses}], ports: [{ports}], backends: [{backends}]}}]"
        )
    };
    refused_in_proportion("backends without an address", 30_000, |backends| {
        service("{address: 2001:db8::1, port: 80},".repeat(backends))
    });
    let problem = refused_in_proportion("other backends", 30_000, |backends| {
        service((1..=backends).map(|n| format!("{{address: 2001:db8::{n:x}, port: 80}},")).collect())
    });
    assert!(matches!(problem, Problem::NoAddressOfFamily { .. }));
}

#[test]
fn size_and_number_are_bounded() {
    let large = format!("services: []\n#{}", "x".repeat(MAX_BYTES));
    assert!(matches!(refused("a large file", &large), Problem::TooLarge { .. }));
    let many = format!("services: [{}]", "1,".repeat((1 << 22) + 1));
    assert!(matches!(refused("many values", &many), Problem::TooManyValues { .. }));
}

/// The seeds of the fuzz target are what their names say, so that they keep leading the fuzzer to both ends.
#[test]
fn seeds_are_what_their_names_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/yaml");
    let mut seeds = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let result = control_static::parse_bytes(&fs::read(&path).unwrap(), &name);
        match name.split('-').next() {
            Some("good") => assert!(result.is_ok(), "{}", result.unwrap_err()),
            Some("bad") => assert!(result.is_err(), "{name} was taken for {result:?}"),
            // What a fuzzer has added.
            _ => continue,
        }
        seeds += 1;
    }
    assert!(seeds >= 20, "{seeds}");
}
