//! The format as a JSON schema, for editors and validators.
//!
//! It says all that a schema can say. What only a reader of the whole can tell (a name claimed twice, families
//! that do not match) is left to [`parse`](crate::parse).

use std::borrow::Cow;

use dataplane_core::model::{AffinityTimeout, MaglevSize, ServiceName, Weight};
use schemars::{
    JsonSchema, Schema, SchemaGenerator, json_schema,
    transform::{RecursiveTransform, Transform},
};

use crate::document::{AffinityEntry, BackendEntry, ChoiceEntry, Document, PortEntry};

/// The JSON schema (draft 2020-12) of a document.
///
/// The repository has it as a file too, `control-static/schema.json`: an editor with a YAML language server
/// checks and completes a document that begins with `# yaml-language-server: $schema=schema.json`.
pub fn schema() -> Schema {
    let mut schema = schemars::schema_for!(Document);
    RecursiveTransform(one_line_descriptions).transform(&mut schema);
    schema
}

/// Comments are wrapped in the source; what an editor shows is not.
fn one_line_descriptions(schema: &mut Schema) {
    let Some(one_line) = schema.get("description").and_then(|text| Some(text.as_str()?.replace('\n', " ")))
    else {
        return;
    };
    schema.insert("description".to_owned(), one_line.into());
}

/// Gives a type that stands for a value in the schema, and is written inline.
macro_rules! value {
    ($(#[$meta:meta])* $name:ident, $schema:tt) => {
        $(#[$meta])*
        pub(crate) struct $name;

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

value!(
    /// Whether removals may be held back.
    RemovalsName,
    { "enum": ["guarded", "confirmed"] }
);
value!(
    /// A service's name.
    Name,
    {
        "type": "string",
        "minLength": 1,
        "maxLength": ServiceName::MAX_LENGTH,
        "pattern": "^[A-Za-z0-9][A-Za-z0-9._/:-]*$",
    }
);
value!(
    /// An address of one host.
    Address,
    { "type": "string", "anyOf": [{ "format": "ipv4" }, { "format": "ipv6" }] }
);
value!(
    /// A port of a service or a backend.
    Port,
    { "type": "integer", "minimum": 1, "maximum": u16::MAX }
);
value!(
    /// A protocol.
    ProtocolName,
    { "enum": ["tcp", "udp"] }
);
value!(
    /// A backend's weight.
    WeightNumber,
    { "type": "integer", "minimum": 0, "maximum": Weight::MAX.get() }
);
value!(
    /// Whether a backend gets new connections.
    StateName,
    { "enum": ["active", "draining"] }
);
value!(
    /// Where a backend is.
    LocalityName,
    { "enum": ["remote", "local"] }
);
value!(
    /// Whose packets get an address of this host as their source.
    MasqueradeName,
    { "enum": ["auto", "always", "never"] }
);
value!(
    /// Whether clients come to the same backend again.
    AffinityName,
    { "enum": ["none", "client-ip"] }
);
value!(
    /// How long a client is remembered.
    AffinitySeconds,
    { "type": "integer", "minimum": 1, "maximum": AffinityTimeout::MAX.seconds() }
);
value!(
    /// How a backend is chosen.
    ChoiceName,
    { "enum": ["random", "maglev"] }
);
value!(
    /// The size of a Maglev table. That it must be prime is left to the parser.
    MaglevPlaces,
    { "type": "integer", "minimum": 2, "maximum": MaglevSize::MAX.get() }
);
value!(
    /// A backend's short form.
    BackendText,
    {
        "description": "192.0.2.11:8080, or for IPv6 \"[2001:db8::1]:8080\" in quotes",
        "type": "string",
        "pattern": "^([0-9.]+|\\[[0-9A-Fa-f:.]+\\]):[1-9][0-9]{0,4}$",
    }
);

/// A list that is not empty.
pub(crate) struct AtLeastOne<T>(std::marker::PhantomData<T>);

impl<T: JsonSchema> JsonSchema for AtLeastOne<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("AtLeastOne{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "minItems": 1, "items": generator.subschema_for::<T>() })
    }
}

/// A value in its short form or its long one.
pub(crate) struct Form<Short, Long>(std::marker::PhantomData<(Short, Long)>);

/// A backend as text or as a mapping.
pub(crate) type BackendForm = Form<BackendText, BackendEntry>;

/// A port as a number or as a mapping.
pub(crate) type PortForm = Form<Port, PortEntry>;

/// A choice as a name or as a mapping.
pub(crate) type ChoiceForm = Form<ChoiceName, ChoiceEntry>;

/// An affinity as a name or as a mapping.
pub(crate) type AffinityForm = Form<AffinityName, AffinityEntry>;

impl<Short: JsonSchema, Long: JsonSchema> JsonSchema for Form<Short, Long> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}Or{}", Short::schema_name(), Long::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [generator.subschema_for::<Short>(), generator.subschema_for::<Long>()],
        })
    }
}

/// Adds to a service's schema which of its fields exclude each other.
pub(crate) fn one_way_each(service: &mut Schema) {
    let rules = json_schema!({
        "allOf": [
            { "oneOf": [{ "required": ["address"] }, { "required": ["addresses"] }] },
            { "oneOf": [{ "required": ["port"] }, { "required": ["ports"] }] },
            { "not": { "required": ["ports", "protocol"] } },
        ],
    });
    if let Some(all_of) = rules.get("allOf") {
        service.insert("allOf".to_owned(), all_of.clone());
    }
}
