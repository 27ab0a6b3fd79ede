//! Text to a tree of values that know their places, under limits.
//!
//! This is the part of YAML that documents need: mappings with text for keys, lists, and scalars. Anchors,
//! aliases, tags, directives and a second document are refused: they let a short text stand for a long one,
//! or one text mean two things.

use std::borrow::Cow;

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError};

use crate::{
    context::{Context, Path},
    errors::{Position, Problem},
};

/// How deep lists and mappings stand inside one another. Documents need 5.
pub(crate) const MAX_DEPTH: usize = 16;

/// How many values a document has. One takes some 50 bytes of memory.
pub(crate) const MAX_VALUES: usize = 1 << 22;

/// A value and where it begins.
#[derive(Debug)]
pub(crate) struct Node<'t> {
    pub(crate) at: Position,
    pub(crate) value: Value<'t>,
}

/// What stands at a place.
#[derive(Debug)]
pub(crate) enum Value<'t> {
    /// Text, number, truth value or nothing: `plain` where it has no quotes.
    Scalar {
        text: Cow<'t, str>,
        plain: bool,
    },
    List(Vec<Node<'t>>),
    Mapping(Vec<(Key<'t>, Node<'t>)>),
}

/// A key of a mapping and where it stands.
#[derive(Debug)]
pub(crate) struct Key<'t> {
    pub(crate) at: Position,
    pub(crate) text: Cow<'t, str>,
}

/// Reads the one document of a text. What is wrong is reported, and then there is no tree.
///
/// Takes time and memory in proportion to the text, and never more than the limits allow.
pub(crate) fn read<'t>(text: &'t str, context: &mut Context<'_>) -> Option<Node<'t>> {
    if text.starts_with('\u{feff}') {
        context.report(Position::START, Path::ROOT, Problem::ByteOrderMark);
        return None;
    }
    if let Some(offset) = text.find('\0') {
        context.report(position_of(text.as_bytes(), offset), Path::ROOT, Problem::Nul);
        return None;
    }
    match Builder::new().run(text) {
        Ok(Some(root)) => Some(root),
        Ok(None) => {
            context.report(Position::START, Path::ROOT, Problem::Empty);
            None
        }
        Err(refused) => {
            let Refused { at, field, problem } = *refused;
            context.report_at_field(at, field, problem);
            None
        }
    }
}

/// The position of the character that begins at this byte.
pub(crate) fn position_of(text: &[u8], offset: usize) -> Position {
    let before = text.get(..offset).unwrap_or(text);
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let line = before.iter().filter(|byte| **byte == b'\n').count();
    let column = before.iter().skip(start).filter(|byte| **byte & 0xc0 != 0x80).count();
    Position { line: narrow(line + 1), column: narrow(column + 1) }
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn position(marker: Marker) -> Position {
    Position { line: narrow(marker.line().max(1)), column: narrow(marker.col() + 1) }
}

/// The first thing that no tree can be built with.
struct Refused {
    at: Position,
    field: String,
    problem: Problem,
}

/// Boxed, so that the results of the builder stay small.
type BuildResult<T> = Result<T, Box<Refused>>;

/// A tree in the making: the lists and mappings that are open, the outermost first.
struct Builder<'t> {
    open: Vec<Open<'t>>,
    root: Option<Node<'t>>,
    values: usize,
    /// Where what was last taken ends.
    end: Position,
}

enum Open<'t> {
    List { at: Position, items: Vec<Node<'t>> },
    Mapping { at: Position, entries: Vec<(Key<'t>, Node<'t>)>, key: Option<Key<'t>> },
}

impl<'t> Builder<'t> {
    fn new() -> Self {
        Self { open: Vec::new(), root: None, values: 0, end: Position::START }
    }

    fn run(mut self, text: &'t str) -> BuildResult<Option<Node<'t>>> {
        let mut options = granit_parser::options! {
            disallow_directives: true,
            emit_unresolved_aliases: true,
            flow_nesting_limit: MAX_DEPTH,
            block_nesting_limit: MAX_DEPTH,
        };
        options.set_emit_comments(false);
        let mut documents = 0_usize;
        for event in Parser::new_from_str_with_options(text, options) {
            let (event, span) = event.map_err(|error| self.syntax(&error, text))?;
            let at = position(span.start);
            match event {
                Event::DocumentStart(..) => {
                    documents += 1;
                    if documents > 1 {
                        let instead = "give each document a file of its own";
                        return Err(self.unsupported(at, "a second document is", instead));
                    }
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.check_properties(at, anchor, tag.is_some())?;
                    self.scalar(at, text, style)?;
                }
                Event::SequenceStart(_, anchor, tag) => {
                    self.check_properties(at, anchor, tag.is_some())?;
                    self.begin(at, Open::List { at, items: Vec::new() })?;
                }
                Event::MappingStart(_, anchor, tag) => {
                    self.check_properties(at, anchor, tag.is_some())?;
                    self.begin(at, Open::Mapping { at, entries: Vec::new(), key: None })?;
                }
                Event::SequenceEnd | Event::MappingEnd => self.end()?,
                Event::Alias(_) | Event::UnresolvedAlias(_) => {
                    return Err(self.unsupported(at, "an alias (*name) is", "write the value out"));
                }
                // Start and end of the stream, ends of documents, and what is off in the options.
                _ => {}
            }
            self.end = position(span.end);
        }
        Ok(self.root)
    }

    fn check_properties(&self, at: Position, anchor: usize, tagged: bool) -> BuildResult<()> {
        if anchor != 0 {
            return Err(self.unsupported(
                at,
                "an anchor (&name) is",
                "write the value out where it is needed",
            ));
        }
        if tagged {
            return Err(self.unsupported(at, "a tag (!name) is", "write the plain value"));
        }
        Ok(())
    }

    fn scalar(&mut self, at: Position, text: Cow<'t, str>, style: ScalarStyle) -> BuildResult<()> {
        if let Some(Open::Mapping { key: key @ None, .. }) = self.open.last_mut() {
            *key = Some(Key { at, text });
            return Ok(());
        }
        let plain = style == ScalarStyle::Plain;
        // Nothing at all, as in a text of comments, is no root.
        if self.open.is_empty() && plain && is_null(&text) {
            return Ok(());
        }
        self.place(Node { at, value: Value::Scalar { text, plain } })
    }

    fn begin(&mut self, at: Position, open: Open<'t>) -> BuildResult<()> {
        if let Some(Open::Mapping { key: None, .. }) = self.open.last() {
            return Err(self.unsupported(at, "a list or mapping as a key is", "keys are names of fields"));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(self.refuse(at, Problem::TooDeep { most: MAX_DEPTH }));
        }
        self.open.push(open);
        Ok(())
    }

    fn end(&mut self) -> BuildResult<()> {
        match self.open.pop() {
            Some(Open::List { at, items }) => self.place(Node { at, value: Value::List(items) }),
            Some(Open::Mapping { at, entries, .. }) => {
                self.place(Node { at, value: Value::Mapping(entries) })
            }
            // The parser gives as many ends as beginnings.
            None => Ok(()),
        }
    }

    fn place(&mut self, node: Node<'t>) -> BuildResult<()> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(self.refuse(node.at, Problem::TooManyValues { most: MAX_VALUES }));
        }
        match self.open.last_mut() {
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Mapping { entries, key, .. }) => {
                if let Some(key) = key.take() {
                    entries.push((key, node));
                }
            }
            None => self.root = Some(node),
        }
        Ok(())
    }

    fn unsupported(&self, at: Position, what: &'static str, instead: &'static str) -> Box<Refused> {
        self.refuse(at, Problem::Unsupported { what, instead })
    }

    fn refuse(&self, at: Position, problem: Problem) -> Box<Refused> {
        Box::new(Refused { at, field: self.field(), problem })
    }

    fn syntax(&self, error: &ScanError, text: &str) -> Box<Refused> {
        let at = position(*error.marker());
        let problem = match error.kind() {
            ErrorKind::RecursionLimitExceeded => Problem::TooDeep { most: MAX_DEPTH },
            ErrorKind::DirectiveDisallowed => {
                Problem::Unsupported { what: "a directive (%NAME) is", instead: "leave it out" }
            }
            _ => Problem::Syntax { message: error.info(), hint: hint(text, at) },
        };
        Box::new(Refused { at, field: self.field_before(at, text), problem })
    }

    /// The path of what the parser could not read. It may be the rest of a value that was taken already, and no item or
    /// field of its own: where neither a new item begins before it nor a new line, it belongs to the last value.
    fn field_before(&self, at: Position, text: &str) -> String {
        let mut field = self.field();
        let rest = between(text, self.end, at);
        let is_next_line = rest.contains('\n');
        match self.open.last() {
            Some(Open::List { at: begin, .. }) if at <= *begin => {
                field.truncate(field.rfind('[').unwrap_or(field.len()));
            }
            Some(Open::List { items, .. }) if !items.is_empty() => {
                let begins = |line: &str| line.trim_start().starts_with('-');
                if rest.contains(',') || rest.lines().skip(1).any(begins) {
                    return field;
                }
                field.truncate(field.rfind('[').unwrap_or(field.len()));
                if !is_next_line {
                    field.push_str(&format!("[{}]", items.len() - 1));
                }
            }
            Some(Open::Mapping { entries, key: None, .. }) if !is_next_line && !rest.contains(',') => {
                if let Some((key, _)) = entries.last() {
                    push_field(&mut field, &key.text);
                }
            }
            _ => {}
        }
        field
    }

    /// The path of the value that is being read.
    fn field(&self) -> String {
        let mut field = String::new();
        for open in &self.open {
            match open {
                Open::List { items, .. } => field.push_str(&format!("[{}]", items.len())),
                Open::Mapping { key: Some(key), .. } => push_field(&mut field, &key.text),
                Open::Mapping { key: None, .. } => {}
            }
        }
        field
    }
}

fn push_field(path: &mut String, name: &str) {
    let dot = if path.is_empty() { "" } else { "." };
    path.push_str(&format!("{dot}{}", crate::context::excerpt(name)));
}

/// The text from one position up to and with the character at another; nothing where that comes first.
fn between(text: &str, from: Position, to: Position) -> &str {
    text.get(offset(text, from)..offset(text, Position { column: to.column + 1, ..to })).unwrap_or_default()
}

/// The byte at which the character of a position begins, or its line ends.
fn offset(text: &str, at: Position) -> usize {
    let index = |number: u32| usize::try_from(number.saturating_sub(1)).unwrap_or(usize::MAX);
    let mut lines = text.split_inclusive('\n');
    let before: usize = lines.by_ref().take(index(at.line)).map(str::len).sum();
    let line = lines.next().unwrap_or_default();
    before + line.char_indices().nth(index(at.column)).map_or(line.len(), |(start, _)| start)
}

/// Whether a plain scalar means nothing at all (YAML 1.2, 10.3.2).
pub(crate) fn is_null(plain: &str) -> bool {
    matches!(plain, "" | "~" | "null" | "Null" | "NULL")
}

/// The mistakes that this format invites.
fn hint(text: &str, at: Position) -> &'static str {
    let line_index = usize::try_from(at.line - 1).unwrap_or(usize::MAX);
    let mut lines = text.lines().skip(line_index.saturating_sub(1)).take(2);
    // The parser may stop on the line after the one at fault.
    let suspects = [lines.next().unwrap_or_default(), lines.next().unwrap_or_default()];
    if suspects.iter().any(|line| line.contains("- [") && line.contains("]:")) {
        return "put an IPv6 backend in quotes: \"[2001:db8::1]:8080\"";
    }
    if suspects.iter().any(|line| line.trim_start_matches(' ').starts_with('\t')) {
        return "indent with spaces, not with tabs";
    }
    ""
}
