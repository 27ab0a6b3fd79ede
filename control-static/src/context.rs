//! Where reading is: the file and the path of the field, for error messages.

use std::{fmt, path, sync::Arc};

use crate::errors::{Error, Place, Position, Problem, Report};

/// The file that is read, and what was found wrong so far.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) file: &'a Arc<path::Path>,
    pub(crate) report: &'a mut Report,
}

impl Context<'_> {
    /// Notes that something is wrong.
    pub(crate) fn report(&mut self, at: Position, field: Path<'_>, problem: Problem) {
        // A field's path is written out only for an error that is kept.
        if self.report.is_full() {
            self.report.omit();
        } else {
            self.report_at_field(at, field.to_string(), problem);
        }
    }

    /// Notes that something is wrong, and gives nothing: what a reader then returns.
    pub(crate) fn refuse<T>(&mut self, at: Position, field: Path<'_>, problem: Problem) -> Option<T> {
        self.report(at, field, problem);
        None
    }

    pub(crate) fn report_at_field(&mut self, at: Position, field: String, problem: Problem) {
        self.report.push(Error::new(self.place(at), field, problem));
    }

    pub(crate) fn place(&self, at: Position) -> Place {
        Place::new(self.file, Some(at))
    }
}

/// The path of a field, made of its parents': nothing is allocated before there is an error to show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'p> {
    Root,
    Field(&'p str),
    Item(usize),
}

impl Path<'static> {
    /// The document.
    pub(crate) const ROOT: Self = Self { parent: None, step: Step::Root };
}

impl<'p> Path<'p> {
    /// A field of a mapping.
    pub(crate) fn field(&'p self, name: &'p str) -> Self {
        Self { parent: Some(self), step: Step::Field(name) }
    }

    /// An item of a list, from 0.
    pub(crate) fn item(&'p self, index: usize) -> Self {
        Self { parent: Some(self), step: Step::Item(index) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(f, "{parent}")?;
        }
        let top = self.parent.is_none_or(|parent| matches!(parent.step, Step::Root));
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) => write!(f, "{}{}", if top { "" } else { "." }, excerpt(name)),
            Step::Item(index) => write!(f, "[{index}]"),
        }
    }
}

/// The beginning of a text, short enough for a message.
pub(crate) fn excerpt(text: &str) -> std::borrow::Cow<'_, str> {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        None => text.into(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()).into(),
    }
}
