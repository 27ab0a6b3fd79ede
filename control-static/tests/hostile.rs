//! Documents made to cost more than they weigh: each is refused, in time and memory in proportion to its size.

#![allow(clippy::unwrap_used, reason = "tests, and the helpers of tests, may panic")]

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use control_static::{MAX_BYTES, Problem, parse};

/// Far more than any of these takes (milliseconds), far less than what is quadratic in a megabyte takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn refused(what: &str, document: &str) -> Problem {
    let begun = Instant::now();
    let errors = match parse(document, "hostile.yaml") {
        Ok(picture) => panic!("{what}: was taken for {} services", picture.services().len()),
        Err(errors) => errors,
    };
    assert!(begun.elapsed() < PATIENCE, "{what} took {:?}", begun.elapsed());
    let text = errors.to_string();
    assert!(text.len() < 100_000, "{what}: {} bytes of errors", text.len());
    errors.iter().next().unwrap().problem().clone()
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
    let deep = |unit: &str, count| unit.repeat(count);
    for (what, document) in [
        ("brackets", deep("[", 1 << 20)),
        ("braces", deep("{", 1 << 20)),
        ("mappings in lists", deep("[{a: ", 1 << 18)),
        ("dashes", deep("- ", 1 << 20)),
        ("questions", deep("? ", 1 << 20)),
        ("pairs", deep("[{", 1 << 19)),
        ("brackets under services", format!("services: {}", deep("[", 1 << 20))),
    ] {
        assert!(
            matches!(
                refused(what, &document),
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
    const SIZE: usize = 1 << 20;
    for (what, document) in [
        ("spaces", " ".repeat(SIZE)),
        ("line ends", "\n".repeat(SIZE)),
        ("comments", "#\n".repeat(SIZE / 2)),
        ("one long comment", format!("#{}", "x".repeat(SIZE))),
        ("one long word", "x".repeat(SIZE)),
        ("one long quoted text", format!("\"{}\"", "\\n".repeat(SIZE / 2))),
        ("an unclosed quote", format!("\"{}", "x ".repeat(SIZE / 2))),
        ("a block text", format!("services: |\n{}", "  x\n".repeat(SIZE / 4))),
        ("a folded text", format!("services: >\n{}", "  x\n\n".repeat(SIZE / 5))),
        ("a plain text of many lines", format!("services:\n{}", "  x\n".repeat(SIZE / 4))),
        ("one long key", format!("{}: 1", "k".repeat(SIZE))),
        ("one long name", format!("services: [{{name: {}}}]", "n".repeat(SIZE))),
        ("unknown fields", (0..SIZE / 8).map(|n| format!("{n}: 1\n")).collect()),
        ("commas", format!("services: [{}", ",".repeat(SIZE))),
        ("words", format!("services: [{}]", "x,".repeat(SIZE / 2))),
        ("wrong backends", format!("services: [{{backends: [{}]}}]", "x,".repeat(SIZE / 2))),
        ("colons", ":".repeat(SIZE)),
        ("colons and spaces", ": ".repeat(SIZE / 2)),
        ("questions in brackets", format!("[{}", "?,".repeat(SIZE / 2))),
        ("tags", "!a ".repeat(SIZE / 3)),
        ("anchors", "&a ".repeat(SIZE / 3)),
        ("documents", "---\n".repeat(SIZE / 4)),
        ("ends of documents", "...\n".repeat(SIZE / 4)),
        ("directives", "%A b\n".repeat(SIZE / 5)),
        ("a huge number", format!("services: [{{port: {}}}]", "9".repeat(SIZE))),
        ("carriage returns", "\r".repeat(SIZE)),
    ] {
        refused(what, &document);
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
    let backends = "{address: 2001:db8::1, port: 80},".repeat(30_000);
    let service = format!(
        "services: [{{name: web, addresses: [{addresses}], ports: [{ports}], backends: [{backends}]}}]"
    );
    refused("backends without an address", &service);
    let backends: String =
        (0..30_000).map(|n| format!("{{address: 2001:db8::{n:x}, port: 80}},", n = n + 1)).collect();
    let service = format!(
        "services: [{{name: web, addresses: [{addresses}], ports: [{ports}], backends: [{backends}]}}]"
    );
    assert!(matches!(refused("other backends", &service), Problem::NoAddressOfFamily { .. }));
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
