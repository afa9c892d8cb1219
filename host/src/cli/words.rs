//! Lines and diagnostics for whoever started the command.

use crate::diagnostic::Diagnostic;
use crate::report::Output;
use crate::terminal::{self, Safe};

/// Prints diagnostics: text on stderr, or JSON on stdout.
pub(super) fn show(diagnostics: &[Diagnostic], output: Output) {
    for diagnostic in diagnostics {
        match output {
            Output::Human => {
                terminal::say(&Safe::diagnostic(diagnostic, terminal::in_color()));
            }
            Output::Json => terminal::print_json(&diagnostic.to_json()),
        }
    }
}

/// A line for a person, on stderr.
pub(super) fn say(line: &str) {
    terminal::say(&Safe::text(line));
}
