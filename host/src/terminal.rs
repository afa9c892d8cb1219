//! stdout and stderr. This is the only place that writes to them, and what it takes is [`Safe`], JSON, or the words of a
//! model: clippy refuses `std::io::stdout` elsewhere (`clippy.toml`).

use std::borrow::Cow;
use std::fmt;
use std::io::{IsTerminal as _, Write as _};

use serde_json::Value;

use crate::diagnostic::{Diagnostic, Failure, escape, escape_line};

/// A text that may be shown to a person: whatever in it came from outside can neither steer a terminal nor pass for something
/// else. There is no other way to one than through these functions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Safe(String);

impl Safe {
    /// Escapes what does not show as itself; line breaks stay.
    pub fn text(text: &str) -> Self {
        Self(escape(text))
    }

    /// The same in one line.
    pub fn line(text: &str) -> Self {
        Self(escape_line(text))
    }

    /// The beginning of a text, in one line of at most `width` characters: spaces and line breaks between words are one space.
    pub fn excerpt(text: &str, width: usize) -> Self {
        let (mut line, mut length) = (String::new(), 0);
        for (index, word) in text.split_whitespace().enumerate() {
            let gap = if index > 0 { " " } else { "" };
            for character in gap.chars().chain(word.chars()) {
                let shown = escape_line(character.encode_utf8(&mut [0; 4]));
                length += shown.chars().count();
                if length > width {
                    line.push('…');
                    return Self(line);
                }
                line.push_str(&shown);
            }
        }
        Self(line)
    }

    /// A diagnostic, which escapes its parts itself and indents their lines.
    pub fn diagnostic(diagnostic: &Diagnostic, color: bool) -> Self {
        Self(diagnostic.render(color))
    }

    /// The same as a workflow command of GitHub Actions, with a line break.
    pub fn annotation(diagnostic: &Diagnostic) -> Self {
        Self(diagnostic.annotation() + "\n")
    }

    /// In green, where stdout shows colours.
    #[must_use]
    pub fn green(self) -> Self {
        let in_color = stdout_is_terminal() && std::env::var_os("NO_COLOR").is_none();
        if in_color { Self(format!("\x1b[32m{}\x1b[0m", self.0)) } else { self }
    }

    /// Puts another one behind it.
    pub fn push(&mut self, more: &Self) {
        self.0.push_str(&more.0);
    }

    /// Without line breaks and spaces at its end.
    #[must_use]
    pub fn trimmed(mut self) -> Self {
        self.0.truncate(self.0.trim_end().len());
        self
    }
}

impl fmt::Display for Safe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the place")]
fn stdout() -> std::io::Stdout {
    std::io::stdout()
}

#[expect(clippy::disallowed_methods, reason = "this is the place")]
fn stderr() -> std::io::Stderr {
    std::io::stderr()
}

/// True if a person reads stdout.
pub fn stdout_is_terminal() -> bool {
    stdout().is_terminal()
}

/// True if a person reads stderr.
pub fn stderr_is_terminal() -> bool {
    stderr().is_terminal()
}

/// True if messages on stderr are in colour: on a terminal, unless `NO_COLOR` is set.
pub fn in_color() -> bool {
    stderr_is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// What a command was asked for, on stdout. Whoever closes a pipe early has seen enough; a disk that is full is an error.
pub fn print(text: &Safe) -> Result<(), Failure> {
    written(text.0.as_bytes())
}

/// What a model wrote, on stdout: as it is in a pipe or a file, without what could steer a terminal on one.
pub fn print_words(words: &str) -> Result<(), Failure> {
    let steers = |character: char| character.is_control() && !matches!(character, '\n' | '\t');
    if !words.contains(steers) || !stdout_is_terminal() {
        return written(words.as_bytes());
    }
    let mut shown = String::with_capacity(words.len() + 16);
    for character in words.chars() {
        if steers(character) {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    written(shown.as_bytes())
}

/// What another program reads, on stdout: a script for a shell, a schema, records. It is made by this program and has no text
/// of others that JSON does not escape.
pub fn print_file(file: &str) -> Result<(), Failure> {
    written(file.as_bytes())
}

/// One JSON value, a line of its own, on stdout. A closed pipe is no error.
pub fn print_json(value: &Value) {
    print_json_line(&value.to_string());
}

/// The same of a line that is JSON already. What does not show as itself is written as an escape, which means the same.
pub fn print_json_line(line: &str) {
    let mut stdout = stdout().lock();
    let _ = writeln!(stdout, "{}", in_ascii(line));
    let _ = stdout.flush();
}

/// JSON whose hidden characters, which can only stand in its texts, are escaped.
fn in_ascii(line: &str) -> Cow<'_, str> {
    use std::fmt::Write as _;
    if !line.contains(plugin_runtime::is_hidden) {
        return line.into();
    }
    let mut out = String::with_capacity(line.len() + 16);
    for character in line.chars() {
        if plugin_runtime::is_hidden(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(character);
        }
    }
    out.into()
}

fn written(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Diagnostic::error("io::stdout", "the output cannot be written").why(error.to_string()).into())
        }
        _ => Ok(()),
    }
}

/// A line on stderr. A closed terminal must not end a run.
pub fn say(line: &Safe) {
    let _ = writeln!(stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_means_the_same_in_ascii() {
        let value = serde_json::json!({ "a\u{202e}": "\u{9b}2J é \u{e0041}\n" });
        let line = in_ascii(&value.to_string()).into_owned();
        assert_eq!(line, r#"{"a\u202e":"\u009b2J é \udb40\udc41\n"}"#);
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
        assert!(matches!(in_ascii("{}"), Cow::Borrowed(_)));
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        let excerpt = |text: &str| Safe::excerpt(text, 8).to_string();
        assert_eq!([excerpt(" a\n\n b "), excerpt("12345678"), excerpt("1234567 9")], ["a b", "12345678", "1234567 …"]);
        assert_eq!([excerpt("a\u{1b}b"), excerpt("ab\u{1b}[2J"), excerpt("")], ["a\\u{1b}b", "ab\\u{1b}…", ""]);
    }

    #[test]
    fn nothing_unescaped_gets_in() {
        let mut text = Safe::line("a\u{1b}[2J\nb");
        text.push(&Safe::text("\u{202e}c\n"));
        assert_eq!(text.clone().green().to_string(), "a\\u{1b}[2J\\nb\\u{202e}c\n");
        assert_eq!(format!("{:<3}|", Safe::line("a")), "a  |");
        assert_eq!(text.trimmed().to_string(), "a\\u{1b}[2J\\nb\\u{202e}c");
    }
}
