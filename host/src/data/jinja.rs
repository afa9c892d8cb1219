//! Jinja as transformers runs it: what a chat template may call, and how it writes what it prints.
//!
//! transformers renders with Jinja2's immutable sandbox, `trim_blocks`, `lstrip_blocks`, loop controls, `raise_exception`,
//! `strftime_now`, its own `tojson` and `{% generation %}` (`transformers/utils/chat_template_utils.py`). Here minijinja
//! renders, with a fuel budget, so that no template can hang a run.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value};
use serde::Serialize;

/// Steps of the template engine that one rendering may take.
const FUEL: u64 = 5_000_000;
/// The name of the only template of an environment.
pub(super) const NAME: &str = "chat_template";

/// An environment with `source` compiled as [`NAME`]. `now` is what `strftime_now` reads.
///
/// # Errors
/// The reason in words, for a template that is not valid Jinja.
pub(super) fn environment(source: &str, now: Now) -> Result<Environment<'static>, String> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| describe(&error))?);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", move |format: String| now.format(&format));
    environment.add_filter("tojson", to_json);
    let compiled = without_generation_tags(source);
    environment.add_template_owned(NAME, compiled).map_err(|error| describe(&error))?;
    Ok(environment)
}

/// The moment that `strftime_now` prints: seconds since 1970, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now(pub u64);

impl Now {
    /// The parts of strftime that chat templates use; anything else is an error rather than a wrong date.
    fn format(self, format: &str) -> Result<String, Error> {
        const MONTHS: [&str; 12] = [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ];
        const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
        let days = self.0 / 86_400;
        let (year, month, day) = civil_from_days(days as i64);
        let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days % 7) as usize]);
        let seconds = self.0 % 86_400;
        let mut out = String::new();
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                out.push(character);
                continue;
            }
            match characters.next() {
                Some('Y') => out.push_str(&year.to_string()),
                Some('m') => out.push_str(&format!("{month:02}")),
                Some('d') => out.push_str(&format!("{day:02}")),
                Some('B') => out.push_str(month_name),
                Some('b') => out.push_str(&month_name[..3]),
                Some('A') => out.push_str(day_name),
                Some('a') => out.push_str(&day_name[..3]),
                Some('H') => out.push_str(&format!("{:02}", seconds / 3600)),
                Some('M') => out.push_str(&format!("{:02}", seconds / 60 % 60)),
                Some('S') => out.push_str(&format!("{:02}", seconds % 60)),
                Some('%') => out.push('%'),
                other => {
                    let shown = other.map_or_else(|| "%".to_owned(), |letter| format!("%{letter}"));
                    return Err(Error::new(
                        ErrorKind::InvalidOperation,
                        format!("strftime_now does not know `{shown}`"),
                    ));
                }
            }
        }
        Ok(out)
    }
}

/// Days since 1970-01-01 to year, month, day (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// `{% generation %}` is a transformers extension that marks assistant text and prints nothing: an always-true block.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let Some(close) = rest[open..].find("%}") else { break };
        let tag = &rest[open + 2..open + close];
        let word = tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        out.push_str(&rest[..open + 2]);
        match word {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        out.push_str("%}");
        rest = &rest[open + close + 2..];
    }
    out.push_str(rest);
    out
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=…)`, as transformers defines the filter.
fn to_json(value: Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    if ensure_ascii == Some(true) || sort_keys == Some(true) {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "tojson supports neither ensure_ascii=true nor sort_keys=true",
        ));
    }
    let mut bytes = Vec::new();
    let failed = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter)).map_err(failed)?;
        }
        None => {
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, PythonSpacing)).map_err(failed)?;
        }
    }
    String::from_utf8(bytes).map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// `json.dumps` writes `", "` and `": "` between parts where serde_json writes nothing.
struct PythonSpacing;

impl serde_json::ser::Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// The reason without minijinja's own file name; the line is kept.
pub(super) fn describe(error: &Error) -> String {
    let reason = error.detail().map_or_else(|| error.kind().to_string(), ToOwned::to_owned);
    match error.line() {
        Some(line) => format!("{reason} (line {line} of the template)"),
        None => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> String {
        // 1 790 000 000 s after 1970 is Monday, 21 September 2026, 14:13:20 UTC.
        let environment = environment(source, Now(1_790_000_000)).unwrap();
        environment.get_template(NAME).unwrap().render(minijinja::context! {}).unwrap()
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        assert_eq!(render("{{ {'a': [1, 'é<'], 'b': none} | tojson }}"), r#"{"a": [1, "é<"], "b": null}"#);
    }

    #[test]
    fn the_date_is_the_frozen_one() {
        assert_eq!(render("{{ strftime_now('%A %d %B %Y %H:%M:%S') }}"), "Monday 21 September 2026 14:13:20");
    }
}
