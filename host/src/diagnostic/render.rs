//! A diagnostic as text: head line, `-->` with the place, the source line with carets, then `why:`, `help:`, `note:`.
//! Colours only add: the text reads the same without them.

use std::fmt::Write as _;

use super::{Diagnostic, Place, Severity};

/// Characters of a source line that are shown; a longer line is cut around the caret.
const WINDOW: usize = 120;
/// Characters that stay visible before the caret when a line is cut.
const LEAD: usize = 40;

/// Characters of a message, a reason or a note that are shown.
const TEXT: usize = 8_000;
/// Lines of one.
const LINES: usize = 60;
/// Notes of a diagnostic.
const NOTES: usize = 40;

/// Whatever could steer a terminal or make a text read as another one, as visible escapes (`\u{1b}`); line breaks and
/// everything else as they are.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        push_visible(&mut out, character);
    }
    out
}

/// The same in one line.
pub fn escape_line(text: &str) -> String {
    escape(text).replace('\n', "\\n")
}

fn push_visible(out: &mut String, character: char) {
    if character == '\n' || !plugin_runtime::is_hidden(character) {
        out.push(character);
    } else {
        out.extend(character.escape_unicode());
    }
}

/// A text in lines that are safe to print, as many as are shown.
fn lines(text: &str) -> Vec<String> {
    let text = text.trim_end_matches('\n');
    let cut = text.char_indices().nth(TEXT).map_or(text.len(), |(at, _)| at);
    let end = text[..cut].match_indices('\n').nth(LINES - 1).map_or(cut, |(at, _)| at);
    let mut lines: Vec<String> = text[..end].split('\n').map(escape).collect();
    if end < text.len() {
        lines.push(format!("… ({} bytes more)", text.len() - end));
    }
    lines
}

#[derive(Clone, Copy)]
struct Paint {
    color: bool,
}

impl Paint {
    fn wrap(self, style: &str, text: &str) -> String {
        if self.color { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn severity(self, severity: Severity, text: &str) -> String {
        let style = match severity {
            Severity::Error => "1;31",
            Severity::Warning => "1;33",
            Severity::Note => "1;36",
        };
        self.wrap(style, text)
    }

    fn gutter(self, text: &str) -> String {
        self.wrap("1;34", text)
    }

    fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }
}

impl Diagnostic {
    /// The message as a person reads it, several lines, ending in a line break.
    pub fn render(&self, color: bool) -> String {
        let paint = Paint { color };
        let severity = self.severity;
        let mut out = String::new();
        let head = format!("{}[{}]", severity.name(), escape_line(&self.code));
        let message = lines(&self.message);
        let first = paint.bold(&format!(": {}", message[0]));
        let _ = writeln!(out, "{}{first}", paint.severity(severity, &head));
        // Nothing of a message begins a line: it could pass for one of ours.
        for line in &message[1..] {
            let _ = writeln!(out, "      {}", paint.bold(line));
        }
        if let Some(place) = &self.place {
            snippet(&mut out, place, '^', paint, severity);
        }
        for (place, words) in &self.related {
            labelled(&mut out, "note", words, paint);
            snippet(&mut out, place, '-', paint, Severity::Note);
        }
        if let Some(why) = &self.why {
            labelled(&mut out, "why", why, paint);
        }
        if let Some(help) = &self.help {
            labelled(&mut out, "help", help, paint);
        }
        for note in self.notes.iter().take(NOTES) {
            labelled(&mut out, "note", note, paint);
        }
        if self.notes.len() > NOTES {
            labelled(&mut out, "note", &format!("{} notes more", self.notes.len() - NOTES), paint);
        }
        out
    }

    /// The message as a workflow command of GitHub Actions, which shows it at its line of a pull request:
    /// <https://docs.github.com/actions/reference/workflow-commands-for-github-actions>.
    pub fn annotation(&self) -> String {
        // What would end the message is written as a percent escape; in a property, its separators too.
        let data = |text: &str| escape(text).replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
        let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
        let kind = if self.severity == Severity::Note { "notice" } else { self.severity.name() };
        let mut properties = format!("title={}", property(&self.code));
        if let Some(place) = &self.place {
            let (file, line, from, to) = (&place.file, place.line, place.column, place.column + place.len.max(1));
            let _ = write!(
                properties,
                ",file={},line={line},endLine={line},col={from},endColumn={to}",
                property(&file.display().to_string())
            );
        }
        let mut text = self.message.clone();
        for (label, more) in [("why", &self.why), ("help", &self.help)] {
            if let Some(more) = more {
                let _ = write!(text, "\n{label}: {more}");
            }
        }
        format!("::{kind} {properties}::{}", data(&text))
    }
}

/// `why:  text`, later lines of the text indented below its first one.
fn labelled(out: &mut String, label: &str, text: &str, paint: Paint) {
    let label = format!("{:<5}", format!("{label}:"));
    for (index, line) in lines(text).iter().enumerate() {
        let _ = if index == 0 { writeln!(out, "{} {line}", paint.bold(&label)) } else { writeln!(out, "      {line}") };
    }
}

fn snippet(out: &mut String, place: &Place, mark: char, paint: Paint, severity: Severity) {
    let number = place.line.to_string();
    let indent = " ".repeat(number.len());
    let file = escape_line(&place.file.display().to_string());
    let _ = writeln!(out, "{indent}{} {file}:{}:{}", paint.gutter("-->"), place.line, place.column);
    let Some(line) = &place.source_line else { return };
    let (shown, caret, width) = visible_line(line, place);
    let _ = writeln!(out, "{}", format!("{} {shown}", paint.gutter(&format!("{number} |"))).trim_end());
    let marks: String = std::iter::repeat_n(mark, width).collect();
    let _ = writeln!(
        out,
        "{} {}{}",
        paint.gutter(&format!("{indent} |")),
        " ".repeat(caret),
        paint.severity(severity, &marks)
    );
}

/// The part of a line that is shown, where the caret starts in it, and how many columns it covers.
fn visible_line(line: &str, place: &Place) -> (String, usize, usize) {
    let characters: Vec<char> = line.chars().collect();
    let start = place.column.saturating_sub(1).min(characters.len());
    let end = (start + place.len.max(1)).min(characters.len().max(start + 1));
    let from = if characters.len() > WINDOW { start.saturating_sub(LEAD) } else { 0 };
    let to = characters.len().min(from + WINDOW);
    let mut shown = String::new();
    let (mut caret, mut caret_end) = (None, None);
    if from > 0 {
        shown.push('…');
    }
    for (index, &character) in characters.iter().enumerate().take(to).skip(from) {
        if index == start {
            caret = Some(shown.chars().count());
        }
        if index == end {
            caret_end = Some(shown.chars().count());
        }
        if character == '\t' {
            shown.push_str("    ");
        } else {
            push_visible(&mut shown, character);
        }
    }
    let width = shown.chars().count();
    let caret = caret.unwrap_or(width);
    let covered = caret_end.unwrap_or(width).saturating_sub(caret).max(1);
    if to < characters.len() {
        shown.push('…');
    }
    (shown, caret, covered)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn text_has_the_line_the_caret_and_all_labels() {
        let text = "base_model: x\nmicro_batchsize: 2\n";
        let diagnostic = Diagnostic::error("config::unknown-key", "unknown key `micro_batchsize`")
            .at(Place::in_text(Path::new("configs/lora.yml"), text, 2, 1, 15))
            .why("first\nsecond")
            .help("did you mean `micro_batch_size`?")
            .note("nothing was written");
        insta::assert_snapshot!(diagnostic.render(false), @"
        error[config::unknown-key]: unknown key `micro_batchsize`
         --> configs/lora.yml:2:1
        2 | micro_batchsize: 2
          | ^^^^^^^^^^^^^^^
        why:  first
              second
        help: did you mean `micro_batch_size`?
        note: nothing was written
        ");
    }

    #[test]
    fn a_text_is_cut_where_it_is_long_and_told_so() {
        assert_eq!(lines(""), [""]);
        assert_eq!(lines("a\r\nb\n"), ["a\\u{d}", "b"]);
        let many = lines(&"x\n".repeat(LINES + 5));
        assert_eq!((many.len(), many[LINES].as_str()), (LINES + 1, "… (10 bytes more)"));
        let long = lines(&"é".repeat(TEXT + 1));
        assert_eq!((long[0].chars().count(), long[1].as_str()), (TEXT, "… (2 bytes more)"));
    }

    #[test]
    fn control_characters_are_shown_and_never_sent() {
        let diagnostic =
            Diagnostic::warning("data::bad-row", "row \u{1b}[2J\u{202e} is odd\r")
                .at(Place::new("a\u{7}b", 3, 2).len(2).source_line("\tx\u{1b}[0m"));
        let text = diagnostic.render(false);
        assert!(text.chars().all(|character| character == '\n' || !character.is_control()), "{text:?}");
        insta::assert_snapshot!(text, @r"
        warning[data::bad-row]: row \u{1b}[2J\u{202e} is odd\u{d}
         --> a\u{7}b:3:2
        3 |     x\u{1b}[0m
          |     ^^^^^^^
        ");
    }

    #[test]
    fn colours_only_add() {
        let diagnostic = Diagnostic::error("a::b", "c").at(Place::new("f", 1, 1).source_line("abc")).help("d");
        let mut plain = diagnostic.render(true);
        for style in ["\x1b[1;31m", "\x1b[1;34m", "\x1b[1m", "\x1b[0m"] {
            assert!(plain.contains(style), "{plain:?} lacks {style:?}");
            plain = plain.replace(style, "");
        }
        assert_eq!(plain, diagnostic.render(false));
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let line = format!("{}HERE{}", "a".repeat(500), "b".repeat(500));
        let diagnostic = Diagnostic::error("a::b", "c").at(Place::new("f", 1, 501).len(4).source_line(line));
        let text = diagnostic.render(false);
        let shown = text.lines().nth(2).expect("the source line");
        let carets = text.lines().nth(3).expect("the caret line");
        assert!(shown.chars().count() < 140, "{shown}");
        let here = shown.chars().position(|character| character == 'H');
        assert_eq!(here, carets.chars().position(|character| character == '^'));
        assert_eq!(carets.matches('^').count(), 4);
    }

    #[test]
    fn a_caret_past_the_end_stands_after_the_line() {
        let diagnostic = Diagnostic::error("a::b", "c").at(Place::new("f", 1, 9).len(3).source_line("abc"));
        assert!(diagnostic.render(false).ends_with("1 | abc\n  |    ^\n"), "{}", diagnostic.render(false));
    }
}
