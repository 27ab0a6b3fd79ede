//! The committed schema is the one that the code gives, and says what the parser does.

#![allow(clippy::unwrap_used, reason = "tests, and the helpers of tests, may panic")]

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

fn committed() -> (std::path::PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema.json");
    let text = fs::read_to_string(&path).unwrap_or_default();
    (path, text)
}

/// With `FOREBAY_UPDATE_SCHEMA=1` it writes the file where that is another, and fails all the same: nobody takes for
/// checked what was just written.
#[test]
fn the_committed_schema_is_current() {
    let current = serde_json::to_string_pretty(&control_static::schema()).unwrap() + "\n";
    let (path, committed) = committed();
    if current == committed {
        return;
    }
    if std::env::var_os("FOREBAY_UPDATE_SCHEMA").is_some() {
        fs::write(path, current).unwrap();
        panic!(
            "schema.json was not what the code gives and was written anew: look at it, and run this again"
        );
    }
    panic!(
        "schema.json is not what the code gives: run `FOREBAY_UPDATE_SCHEMA=1 cargo test -p control-static --test schema`"
    );
}

/// The fields in the schema and those that the parser lists in its errors are the same.
#[test]
fn schema_and_parser_know_the_same_fields() {
    let schema: Value = serde_json::to_value(control_static::schema()).unwrap();
    for (at, object, document) in [
        ("/properties", "", "{x: 1}"),
        ("/$defs/Service/properties", "services[0]", "services: [{x: 1}]"),
        ("/$defs/Port/properties", "services[0].ports[0]", "services: [{ports: [{x: 1}]}]"),
        ("/$defs/Choice/properties", "services[0].choice", "services: [{choice: {x: 1}}]"),
        ("/$defs/Affinity/properties", "services[0].affinity", "services: [{affinity: {x: 1}}]"),
        ("/$defs/Backend/properties", "services[0].backends[0]", "services: [{backends: [{x: 1}]}]"),
    ] {
        let in_schema: BTreeSet<&str> =
            schema.pointer(at).unwrap().as_object().unwrap().keys().map(String::as_str).collect();
        let errors = control_static::parse(document, "x.yaml").unwrap_err();
        let field = if object.is_empty() { "x".to_owned() } else { format!("{object}.x") };
        let error = errors.iter().find(|error| error.field() == field).unwrap();
        let control_static::Problem::UnknownField { expected, .. } = error.problem() else {
            panic!("{error}")
        };
        assert_eq!(expected.iter().copied().collect::<BTreeSet<_>>(), in_schema, "{at}");
    }
}

/// No object of the schema lets unknown fields through, and no field is required that the parser does without.
#[test]
fn schema_is_as_strict_as_the_parser() {
    let schema: Value = serde_json::to_value(control_static::schema()).unwrap();
    for (at, required) in [
        ("", vec!["services"]),
        ("/$defs/Service", vec!["backends", "name"]),
        ("/$defs/Port", vec!["port"]),
        ("/$defs/Choice", vec!["maglev"]),
        ("/$defs/Backend", vec!["address", "port"]),
    ] {
        let object = schema.pointer(at).unwrap();
        assert_eq!(object["additionalProperties"], Value::Bool(false), "{at}");
        let mut found: Vec<&str> =
            object["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, required, "{at}");
    }
    let text = schema.to_string();
    assert!(!text.contains("\"null\""), "no field may be null: {text}");
}
