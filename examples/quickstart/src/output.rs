//! Lines for people. `println!` panics where nobody reads on (`quickstart | head -1`); here that ends the run in order:
//! everything is taken down, and nothing more is said.

use std::{
    fmt,
    io::{self, Write as _},
};

/// Nobody reads standard output any more.
#[derive(Debug)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed")
    }
}

impl std::error::Error for Closed {}

/// Writes a line to standard output; [`say!`](crate::say) is this with a format.
///
/// # Errors
/// [`Closed`], or what else is in the way.
pub fn line(text: fmt::Arguments<'_>) -> anyhow::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Closed.into()),
        result => Ok(result?),
    }
}

/// Writes a line to standard error, if somebody reads that.
pub fn complain(text: fmt::Arguments<'_>) {
    drop(writeln!(io::stderr(), "{text}"));
}

/// A line for people, by [`line()`].
#[macro_export]
macro_rules! say {
    ($($arguments:tt)*) => {
        $crate::output::line(format_args!($($arguments)*))
    };
}
