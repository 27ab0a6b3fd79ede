//! What all documents together ask for.

use std::{
    collections::{HashMap, hash_map::Entry},
    path,
    sync::Arc,
};

use dataplane_core::model::{Frontend, Service, ServiceName};

use crate::{
    context::{Context, Path},
    convert::{self, Claim},
    errors::{Errors, Place, Position, Problem, Report},
    read, yaml,
};

/// Everything that a document, or a folder of them, asks for: the services, and where each was named.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Picture {
    services: Vec<Service>,
    places: Vec<Place>,
    removals_confirmed: bool,
}

impl Picture {
    /// The services, in the order of the files' names and of each file's lines.
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// The services, to be given away.
    pub fn into_services(self) -> Vec<Service> {
        self.services
    }

    /// Whether the documents themselves confirm the removal of whatever serves and is not in the picture: one
    /// says `removals: confirmed`, or all of them together say `services: []`.
    pub fn confirms_removals(&self) -> bool {
        self.removals_confirmed || self.services.is_empty()
    }

    /// Where each service is named, in the order of [`Picture::services`].
    pub fn places(&self) -> impl Iterator<Item = (&ServiceName, &Place)> {
        self.services.iter().map(Service::name).zip(&self.places)
    }
}

/// Reads one document. The file's name is only shown in errors.
///
/// Takes time and memory in proportion to the text, under fixed limits ([`MAX_BYTES`](crate::MAX_BYTES) and those
/// of nesting and number).
///
/// # Errors
/// [`Errors`] has all that could be found in one pass.
pub fn parse(text: &str, file: impl AsRef<path::Path>) -> Result<Picture, Errors> {
    parse_bytes(text.as_bytes(), file)
}

/// Reads one document from bytes that need not be text. Else as [`parse`].
///
/// # Errors
/// [`Errors`] has all that could be found in one pass.
pub fn parse_bytes(bytes: &[u8], file: impl AsRef<path::Path>) -> Result<Picture, Errors> {
    let mut gathering = Gathering::default();
    gathering.read(bytes, &Arc::from(file.as_ref()));
    gathering.finish()
}

/// A picture in the making, from one document after another.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    picture: Picture,
    names: HashMap<ServiceName, Place>,
    frontends: HashMap<Frontend, Place>,
    /// How many frontends were asked for.
    asked: usize,
    pub(crate) report: Report,
}

impl Gathering {
    /// Frontends of all documents together.
    pub(crate) const MAX_FRONTENDS: usize = 1 << 20;

    /// Adds what a document says.
    pub(crate) fn read(&mut self, bytes: &[u8], file: &Arc<path::Path>) {
        let mut report = std::mem::take(&mut self.report);
        let mut context = Context { file, report: &mut report };
        if let Some(document) = text(bytes, &mut context)
            .and_then(|text| yaml::read(text, &mut context))
            .and_then(|root| read::document(&root, &mut context))
        {
            convert::document(&document, self, &mut context);
        }
        self.report = report;
    }

    pub(crate) fn confirm_removals(&mut self) {
        self.picture.removals_confirmed = true;
    }

    /// Whether so many more frontends may be asked for. What is asked for in vain counts too: it costs as much.
    pub(crate) fn make_room(&mut self, frontends: usize) -> bool {
        self.asked = self.asked.saturating_add(frontends);
        self.asked <= Self::MAX_FRONTENDS
    }

    /// Adds a service, unless its name or a frontend is taken: that is reported with both places.
    pub(crate) fn add(
        &mut self,
        service: Service,
        name_at: Position,
        claims: &[Claim<'_>],
        at: Path<'_>,
        context: &mut Context<'_>,
    ) {
        let place = context.place(name_at);
        let mut free = true;
        match self.names.entry(service.name().clone()) {
            Entry::Vacant(entry) => {
                entry.insert(place.clone());
            }
            Entry::Occupied(entry) => {
                let what = format!("service `{}`", service.name());
                let first = entry.get().clone();
                let hint = ": names are unique in all files together";
                context.report(name_at, at.field("name"), Problem::Duplicate { what, first, hint });
                free = false;
            }
        }
        for Claim { frontend, at: position, field } in claims {
            match self.frontends.entry(*frontend) {
                Entry::Vacant(entry) => {
                    entry.insert(context.place(*position));
                }
                Entry::Occupied(entry) => {
                    let what = format!("frontend {frontend}");
                    let first = entry.get().clone();
                    let hint = ": one service serves it";
                    context.report(*position, *field, Problem::Duplicate { what, first, hint });
                    free = false;
                }
            }
        }
        if free {
            self.picture.services.push(service);
            self.picture.places.push(place);
        }
    }

    /// The picture, if nothing was wrong.
    pub(crate) fn finish(self) -> Result<Picture, Errors> {
        self.report.finish(self.picture)
    }
}

/// The bytes as text.
pub(crate) fn text<'b>(bytes: &'b [u8], context: &mut Context<'_>) -> Option<&'b str> {
    if bytes.len() > crate::MAX_BYTES {
        let problem = Problem::TooLarge { limit: crate::MAX_BYTES };
        return context.refuse(Position::START, Path::ROOT, problem);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => {
            let offset = error.valid_up_to();
            let byte = bytes.get(offset).copied().unwrap_or_default();
            context.refuse(yaml::position_of(bytes, offset), Path::ROOT, Problem::NotUtf8 { byte })
        }
    }
}
