//! What a document says, before it is checked as a whole: the shape of the format.
//!
//! These types are the one definition of the format's fields: `read` fills them, and the JSON schema is derived
//! from them. Their comments are the schema's descriptions.

use std::{net::IpAddr, num::NonZeroU16};

use dataplane_core::model::{
    Affinity, AffinityTimeout, BackendState, Choice, Locality, MaglevSize, Masquerade, Protocol, ServiceName,
    Weight,
};
use schemars::JsonSchema;

use crate::{errors::Position, schema};

/// A value and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located<T> {
    pub(crate) at: Position,
    pub(crate) value: T,
}

/// An item of a list and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item<T> {
    /// Its place in the list, from 0.
    pub(crate) index: usize,
    pub(crate) at: Position,
    pub(crate) value: T,
}

/// Services that are balanced over backends.
#[derive(Debug, JsonSchema)]
#[schemars(title = "Forebay services", deny_unknown_fields)]
pub(crate) struct Document {
    /// The services. An empty list means, on purpose, no service.
    #[schemars(with = "Vec<ServiceEntry>")]
    pub(crate) services: Vec<Item<ServiceEntry>>,
    /// Whether a person stands behind the removal of most of what serves. `guarded`, where nothing is said: it
    /// may be held back until it is confirmed. `confirmed`: it is done at once. Take it out again afterwards.
    #[schemars(with = "schema::RemovalsName", default, extend("default" = "guarded"))]
    pub(crate) removals: Option<Removals>,
}

impl Document {
    pub(crate) const FIELDS: [&str; 2] = ["services", "removals"];
}

/// Whether removals may be held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removals {
    Guarded,
    Confirmed,
}

/// Virtual addresses and ports, and the backends that serve them.
#[derive(Debug, JsonSchema)]
#[schemars(rename = "Service", deny_unknown_fields, transform = schema::one_way_each)]
pub(crate) struct ServiceEntry {
    /// The name, unique in all files together.
    #[schemars(with = "schema::Name")]
    pub(crate) name: Located<ServiceName>,
    /// The virtual address that clients connect to.
    #[schemars(with = "schema::Address", default)]
    pub(crate) address: Option<Located<IpAddr>>,
    /// Several virtual addresses, instead of `address`. Where both families are among them, the backends of
    /// each family serve the addresses of that family.
    #[schemars(with = "schema::AtLeastOne<schema::Address>", default)]
    pub(crate) addresses: Option<Vec<Item<IpAddr>>>,
    /// The port that clients connect to.
    #[schemars(with = "schema::Port", default)]
    pub(crate) port: Option<Located<NonZeroU16>>,
    /// The protocol of `port`: tcp where nothing is said.
    #[schemars(with = "schema::ProtocolName", default, extend("default" = "tcp"))]
    pub(crate) protocol: Option<Located<Protocol>>,
    /// Several ports, instead of `port` and `protocol`. All of them lead to the same backends.
    #[schemars(with = "schema::AtLeastOne<schema::PortForm>", default)]
    pub(crate) ports: Option<Vec<Item<PortEntry>>>,
    /// The backends. With an empty list, clients are refused.
    #[schemars(with = "Vec<schema::BackendForm>")]
    pub(crate) backends: Vec<Item<BackendEntry>>,
    /// How the backend of a new connection is chosen. `random`, where nothing is said: by lot. `maglev`: by a hash of
    /// the connection's addresses and ports in a table that is alike on every host with the same backends.
    #[schemars(with = "schema::ChoiceForm", default, extend("default" = "random"))]
    pub(crate) choice: Option<Located<Choice>>,
    /// Whether connections get an address of this host as their source, so that the backends' replies come back here.
    /// `auto`, where nothing is said: those to remote backends. `always`: those to local ones too. `never`: none, and
    /// backends see the clients' addresses; their replies must come back through this host all the same.
    #[schemars(with = "schema::MasqueradeName", default, extend("default" = "auto"))]
    pub(crate) masquerade: Option<Masquerade>,
    /// Whether clients come to the same backend again. `none`, where nothing is said: each connection is chosen for.
    /// `client-ip`: the connections of one address go to one backend, as long as that takes new ones and until the address
    /// has opened none for three hours, or for the seconds that are given.
    #[schemars(with = "schema::AffinityForm", default, extend("default" = "none"))]
    pub(crate) affinity: Option<Affinity>,
}

impl ServiceEntry {
    pub(crate) const FIELDS: [&str; 10] = [
        "name",
        "address",
        "addresses",
        "port",
        "protocol",
        "ports",
        "backends",
        "choice",
        "masquerade",
        "affinity",
    ];
}

/// A choice with its settings. The short form is its name.
#[derive(Clone, Copy, Debug, JsonSchema)]
#[schemars(rename = "Choice", deny_unknown_fields)]
pub(crate) struct ChoiceEntry {
    /// The number of places in the Maglev table: a prime number that is not smaller than the number of backends, and
    /// 16381 where nothing is said. A hundred for each backend make fine shares; each takes two bytes.
    #[schemars(with = "schema::MaglevPlaces")]
    pub(crate) maglev: MaglevSize,
}

impl ChoiceEntry {
    pub(crate) const FIELDS: [&str; 1] = ["maglev"];
}

/// An affinity with its settings. The short form is its name.
#[derive(Clone, Copy, Debug, JsonSchema)]
#[schemars(rename = "Affinity", deny_unknown_fields)]
pub(crate) struct AffinityEntry {
    /// For how many seconds a client is remembered after it last opened a connection: 1 to 604800, a week.
    #[schemars(rename = "client-ip", with = "schema::AffinitySeconds")]
    pub(crate) client_ip: AffinityTimeout,
}

impl AffinityEntry {
    pub(crate) const FIELDS: [&str; 1] = ["client-ip"];
}

/// A port that clients connect to. The short form is the number alone, for tcp.
#[derive(Clone, Copy, Debug, JsonSchema)]
#[schemars(rename = "Port", deny_unknown_fields)]
pub(crate) struct PortEntry {
    /// The port.
    #[schemars(with = "schema::Port")]
    pub(crate) port: NonZeroU16,
    /// The protocol: tcp where nothing is said.
    #[schemars(with = "schema::ProtocolName", default, extend("default" = "tcp"))]
    pub(crate) protocol: Option<Protocol>,
}

impl PortEntry {
    pub(crate) const FIELDS: [&str; 2] = ["port", "protocol"];
}

/// A host's address and port that connections are sent to. The short form is the two as one text.
#[derive(Clone, Copy, Debug, JsonSchema)]
#[schemars(rename = "Backend", deny_unknown_fields)]
pub(crate) struct BackendEntry {
    /// The host's address.
    #[schemars(with = "schema::Address")]
    pub(crate) address: Located<IpAddr>,
    /// The host's port.
    #[schemars(with = "schema::Port")]
    pub(crate) port: NonZeroU16,
    /// The share of new connections, against the weights of the others: 0 (none) to 256, and 1 where nothing
    /// is said.
    #[schemars(with = "schema::WeightNumber", default, extend("default" = 1))]
    pub(crate) weight: Option<Weight>,
    /// Whether it gets new connections: a draining backend only keeps those that it has. Active where nothing
    /// is said.
    #[schemars(with = "schema::StateName", default, extend("default" = "active"))]
    pub(crate) state: Option<BackendState>,
    /// Where it is: remote, on another host, where nothing is said; or local, on this host.
    #[schemars(with = "schema::LocalityName", default, extend("default" = "remote"))]
    pub(crate) locality: Option<Locality>,
}

impl BackendEntry {
    pub(crate) const FIELDS: [&str; 5] = ["address", "port", "weight", "state", "locality"];
}
