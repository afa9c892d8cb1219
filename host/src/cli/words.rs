//! Lines and diagnostics for whoever started the command.

use std::io::{BufRead as _, IsTerminal as _, Read as _};

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

/// Asks whether to go on. Where nobody is here to be asked, that is an error of this code.
pub(super) fn ask(question: &str, output: Output, code: &str) -> Result<bool, Diagnostic> {
    if output == Output::Json || !std::io::stdin().is_terminal() || !terminal::stderr_is_terminal() {
        let message = format!("nobody is here to be asked: {question}");
        return Err(Diagnostic::error(code, message).help("if so, say `--yes`"));
    }
    say(&format!("{question} [y/N]"));
    let mut answer = String::new();
    let read = std::io::stdin().lock().take(100).read_line(&mut answer);
    Ok(read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// A line for a person, on stderr.
pub(super) fn say(line: &str) {
    terminal::say(&Safe::text(line));
}
