//! What can be wrong with a document, and where.

use std::{fmt, io, path::Path, sync::Arc};

use dataplane_core::model::{IpFamily, ModelError};

/// A point in a text. Lines and columns count from 1; columns count characters, not bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Position {
    /// The line, from 1.
    pub line: u32,
    /// The character in the line, from 1.
    pub column: u32,
}

impl Position {
    pub(crate) const START: Self = Self { line: 1, column: 1 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A file, and where known a point in it. Shown as `web.yaml:4:9`, which editors can jump to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    file: Arc<Path>,
    position: Option<Position>,
}

impl Place {
    pub(crate) fn new(file: &Arc<Path>, position: Option<Position>) -> Self {
        Self { file: Arc::clone(file), position }
    }

    /// The file, as it was named to [`parse`](crate::parse) or [`load`](crate::load).
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The point in the file; none where the file as a whole is meant.
    pub fn position(&self) -> Option<Position> {
        self.position
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        match self.position {
            Some(position) => write!(f, ":{position}"),
            None => Ok(()),
        }
    }
}

/// One thing that is wrong: where, in which field, and what was expected there.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{place}: {}{}{problem}", .field, if .field.is_empty() { "" } else { ": " })]
pub struct Error {
    place: Place,
    field: String,
    problem: Problem,
}

impl Error {
    pub(crate) fn new(place: Place, field: String, problem: Problem) -> Self {
        Self { place, field, problem }
    }

    /// The file, line and column.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The field's path from the top of the document, such as `services[0].backends[2].weight`. Empty where
    /// the document as a whole is meant.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

/// What is wrong at a place.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The file or folder cannot be read.
    #[error("cannot be read: {error}")]
    Unreadable {
        /// What the system said.
        error: Arc<io::Error>,
    },
    /// The path is a pipe, a socket, a device: reading it could wait for ever.
    #[error("is not a regular file: expected a file, or a folder with *.yaml or *.yml files")]
    NotAFile,
    /// The file was written to while it was read, again and again.
    #[error("was changed while it was read: replace it by renaming a complete file over it")]
    Unsettled,
    /// The folder has no document. It is not taken for an order to remove everything.
    #[error(
        "has no *.yaml or *.yml file: to remove every service on purpose keep a file with `services: []`"
    )]
    NoFiles,
    /// The file, or all files of the folder together, are larger than can be meant.
    #[error("is larger than {limit} bytes, the most for all files together")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The text is not UTF-8.
    #[error("expected UTF-8 text, found the byte {byte:#04x}")]
    NotUtf8 {
        /// The first byte that does not belong there.
        byte: u8,
    },
    /// The text begins with a byte-order mark.
    #[error("begins with a byte-order mark: save it as UTF-8 without one")]
    ByteOrderMark,
    /// The text has a NUL.
    #[error("has a NUL character: expected text")]
    Nul,
    /// The text has no content. It is not taken for an order to remove everything.
    #[error("is empty: to remove every service on purpose write `services: []`")]
    Empty,
    /// The text is not YAML.
    #[error("is not valid YAML: {message}{}{hint}", if hint.is_empty() { "" } else { "; " })]
    Syntax {
        /// What the YAML parser said.
        message: String,
        /// What is probably meant, or nothing.
        hint: &'static str,
    },
    /// A part of YAML that documents do not have, because it hides what they say.
    #[error("{what} not allowed here: {instead}")]
    Unsupported {
        /// The part of YAML.
        what: &'static str,
        /// What to write instead.
        instead: &'static str,
    },
    /// Lists and mappings inside one another, deeper than any document needs.
    #[error("is nested deeper than {most} levels")]
    TooDeep {
        /// The limit.
        most: usize,
    },
    /// More values than any document needs.
    #[error("has more than {most} values")]
    TooManyValues {
        /// The limit.
        most: usize,
    },
    /// The field is not known. It is refused, since it may be a known one misspelt.
    #[error("unknown field `{name}`: {}expected one of {}", Meant(name, expected), Names(expected))]
    UnknownField {
        /// The field.
        name: String,
        /// The fields that are known here.
        expected: &'static [&'static str],
    },
    /// The value is none of those that are known here. It may be one of them misspelt.
    #[error("unknown value `{}`: {}expected one of {}", .name.escape_debug(), Meant(name, expected), Names(expected))]
    UnknownValue {
        /// The value.
        name: String,
        /// The values that are known here.
        expected: &'static [&'static str],
    },
    /// A field stands twice in one mapping.
    #[error("field `{name}` stands here twice, first at line {}", first.line)]
    DuplicateField {
        /// The field.
        name: String,
        /// Where it stands first.
        first: Position,
    },
    /// A field is missing.
    #[error("missing field `{name}`: {expected}")]
    MissingField {
        /// The field.
        name: &'static str,
        /// What to write.
        expected: &'static str,
    },
    /// Two fields that say the same thing in two ways.
    #[error("`{one}` and `{other}` exclude each other: {instead}")]
    ExclusiveFields {
        /// One field.
        one: &'static str,
        /// The other.
        other: &'static str,
        /// What to write instead.
        instead: &'static str,
    },
    /// The value is not what belongs here.
    #[error("expected {expected}, found {found}")]
    Expected {
        /// What belongs here.
        expected: &'static str,
        /// What stands here.
        found: String,
    },
    /// What may stand only once stands a second time.
    #[error("{what} stands here a second time, first at {first}{hint}")]
    Duplicate {
        /// What it is, such as `backend 192.0.2.11:8080`.
        what: String,
        /// Where it stands first.
        first: Place,
        /// What to do instead, or nothing.
        hint: &'static str,
    },
    /// A backend of a family of which the service has no address.
    #[error("this backend is {family}, but the service has no {family} address")]
    NoAddressOfFamily {
        /// The family of the backend.
        family: IpFamily,
    },
    /// An address of a family of which the service has no backend, though it has others.
    #[error(
        "this address is {family}, but all backends of the service are of the other family: \
         give it {family} backends too"
    )]
    NoBackendOfFamily {
        /// The family of the address.
        family: IpFamily,
    },
    /// More frontends than a dataplane has, most often by lists of addresses times lists of ports.
    #[error("has more than {most} frontends, each address and port counted")]
    TooManyFrontends {
        /// The limit, for all files together.
        most: usize,
    },
    /// The model refuses the value.
    #[error(transparent)]
    Model(ModelError),
}

/// Everything that was found wrong with a document or a folder of them: at least one thing.
///
/// Shown one a line, in the order of files and lines.
#[derive(Clone, Debug)]
pub struct Errors {
    errors: Vec<Error>,
    omitted: usize,
}

impl Errors {
    /// How many errors are kept. The others are only counted.
    pub const MOST: usize = 100;

    /// The errors, at most [`Errors::MOST`], in the order of files and lines.
    pub fn iter(&self) -> impl Iterator<Item = &Error> {
        self.errors.iter()
    }

    /// How many more errors there were.
    pub fn omitted(&self) -> usize {
        self.omitted
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        match self.omitted {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Errors {}

impl From<Error> for Errors {
    fn from(error: Error) -> Self {
        Self { errors: vec![error], omitted: 0 }
    }
}

/// Collects what is wrong while reading goes on.
#[derive(Debug, Default)]
pub(crate) struct Report {
    errors: Vec<Error>,
    omitted: usize,
}

impl Report {
    pub(crate) fn push(&mut self, error: Error) {
        if self.is_full() {
            self.omit();
        } else {
            self.errors.push(error);
        }
    }

    /// Whether further errors are only counted.
    pub(crate) fn is_full(&self) -> bool {
        self.errors.len() >= Errors::MOST
    }

    /// Counts an error.
    pub(crate) fn omit(&mut self) {
        self.omitted = self.omitted.saturating_add(1);
    }

    /// The value, or what was wrong with it.
    pub(crate) fn finish<T>(mut self, value: T) -> Result<T, Errors> {
        if self.errors.is_empty() {
            return Ok(value);
        }
        // A stable sort: a document's errors come by line, and files stay in the order they were read.
        let mut files: Vec<Arc<Path>> = Vec::new();
        for error in &self.errors {
            if !files.contains(&error.place.file) {
                files.push(Arc::clone(&error.place.file));
            }
        }
        self.errors.sort_by_key(|error| {
            let file = files.iter().position(|file| *file == error.place.file);
            (file, error.place.position)
        });
        Err(Errors { errors: self.errors, omitted: self.omitted })
    }
}

/// Shows the name that was probably meant, as a question, or nothing.
struct Meant<'a>(&'a str, &'a [&'a str]);

impl fmt::Display for Meant<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name, names) = self;
        let name: Vec<char> = name.chars().flat_map(char::to_lowercase).collect();
        let edits = names.iter().map(|known| (edits(&name, &known.chars().collect::<Vec<_>>(), 2), known));
        // Of few letters, half may not be wrong.
        match edits.min().filter(|(edits, known)| *edits <= 2 && edits * 2 < known.len()) {
            Some((_, known)) => write!(f, "did you mean `{known}`? "),
            None => Ok(()),
        }
    }
}

/// How many letters to change, add, leave out or swap with the next make one word of the other; more than `most` are
/// not told apart, so that this ends soon.
fn edits(one: &[char], other: &[char], most: usize) -> usize {
    match (one, other) {
        _ if one.len().abs_diff(other.len()) > most => most + 1,
        ([], rest) | (rest, []) => rest.len(),
        ([a, one @ ..], [b, other @ ..]) if a == b => edits(one, other, most),
        _ if most == 0 => 1,
        ([a, after_a @ ..], [b, after_b @ ..]) => {
            let swapped = match (after_a, after_b) {
                ([c, rest @ ..], [d, rest_too @ ..]) if (a, c) == (d, b) => edits(rest, rest_too, most - 1),
                _ => most,
            };
            let left_out = edits(after_a, other, most - 1);
            let added = edits(one, after_b, most - 1);
            let changed = edits(after_a, after_b, most - 1);
            1 + swapped.min(left_out).min(added).min(changed)
        }
    }
}

/// Shows names as `a`, `b`, `c`.
struct Names<'a>(&'a [&'a str]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}`{name}`")?;
        }
        Ok(())
    }
}
