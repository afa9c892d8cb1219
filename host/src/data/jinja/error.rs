//! Why a template could not be compiled or rendered.

use std::fmt;

/// A reason in words, and the line of the template where it arose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::data) struct Error {
    pub(super) reason: String,
    /// From 1; 0 while it is not known.
    pub(super) line: u32,
}

/// A result of the template engine.
pub(super) type Result<T, E = Error> = std::result::Result<T, E>;

/// An error whose line is filled in by the node that is evaluated.
pub(super) fn error(reason: impl Into<String>) -> Error {
    Error { reason: reason.into(), line: 0 }
}

impl Error {
    /// The same error at `line`, if it has no line yet.
    pub(super) fn at(mut self, line: u32) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => formatter.write_str(&self.reason),
            line => write!(formatter, "{} (line {line} of the template)", self.reason),
        }
    }
}
