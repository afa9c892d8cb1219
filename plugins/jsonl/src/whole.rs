//! Files that are one JSON value: a list of rows is read, an object over several lines is named with the command that
//! makes JSON lines of it.

use std::collections::VecDeque;
use std::rc::Rc;

use plugin_sdk::Error;
use plugin_sdk::loader::{Lines, ReadAt};
use rows::File;
use rows::shell::{converted, quoted};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::{nan, reason};

/// Bytes that a file of one value may have: it is read at once.
const LIMIT: u64 = 64 << 20;
/// Names that people give to the list of rows in an object around it.
const LISTS: [&str; 12] = [
    "data",
    "rows",
    "examples",
    "items",
    "records",
    "samples",
    "train",
    "dataset",
    "instances",
    "entries",
    "questions",
    "results",
];

/// The rows of a file that is one list.
pub(crate) fn list(file: &File) -> Result<VecDeque<String>, Error> {
    let name = file.name();
    let Some(bytes) = file.all(LIMIT)? else {
        return Err(Error::failed_with_help(
            format!("`{name}` is one JSON list of more than {} MiB, which would be read at once", LIMIT >> 20),
            format!("write one object per line: `{}`", jq("'.[]'", &name)),
        ));
    };
    let rows = |text: &str| -> Result<VecDeque<String>, serde_json::Error> {
        let rows: Vec<&RawValue> = serde_json::from_str(text)?;
        Ok(rows.into_iter().map(|row| row.get().to_owned()).collect())
    };
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let (before, byte) = (&error.as_bytes()[..at], error.as_bytes()[at]);
        let line = before.split(|&byte| byte == b'\n').count();
        Error::Failed(format!("`{name}`, line {line}: byte 0x{byte:02x} is not UTF-8"))
    })?;
    let text = text.trim_start_matches('\u{feff}');
    rows(text).or_else(|error| {
        // Python's numbers that are not finite; only where they are all that is wrong.
        let error = match nan::same_length(text) {
            None => error,
            Some(without) => match rows(&without) {
                Ok(_) => return rows(&nan::with_null(text).unwrap_or_default()).map_err(|error| wrong(&name, &error)),
                Err(other) => other,
            },
        };
        Err(wrong(&name, &error))
    })
}

fn wrong(name: &str, error: &serde_json::Error) -> Error {
    let after = if error.to_string().starts_with("trailing characters") {
        " after the list, which is the whole file"
    } else {
        ""
    };
    Error::Failed(format!("`{name}`, line {}, column {}: {}{after}", error.line(), error.column(), reason(error)))
}

/// What is wrong with a file that starts with `{`, where its first object takes several lines, or is all there is and
/// holds the rows. None: it is JSON lines, or broken at a place that its lines tell.
pub(crate) fn object(file: &Rc<File>) -> Result<Option<Error>, Error> {
    let mut lines = Lines::new(Rc::clone(file) as Rc<dyn ReadAt>);
    let mut first = Vec::new();
    while first.iter().all(u8::is_ascii_whitespace) {
        match lines.next_line()? {
            Some(line) => first = line.to_vec(),
            None => return Ok(None),
        }
    }
    let Ok(text) = std::str::from_utf8(&first) else { return Ok(None) };
    let name = file.name();
    match parse(text) {
        Some(Ok((value, _))) => {
            while let Some(line) = lines.next_line()? {
                if !line.iter().all(u8::is_ascii_whitespace) {
                    return Ok(None);
                }
            }
            let list = rows_of(&value).filter(|list| LISTS.contains(list));
            Ok(list.map(|list| around(&name, list, "is one JSON object")))
        }
        Some(Err(())) => Ok(None),
        // The first line ends inside of a value.
        None => {
            let Some(bytes) = file.all(LIMIT)? else { return Ok(None) };
            let text = String::from_utf8_lossy(&bytes);
            let text = text.trim_start_matches('\u{feff}');
            let Some(Ok((value, end))) = parse(text) else { return Ok(None) };
            let is_only = text.get(end..).is_some_and(|rest| rest.trim().is_empty());
            Ok(Some(match rows_of(&value).filter(|_| is_only) {
                Some(list) => around(&name, list, "is one JSON object over several lines"),
                None => Error::failed_with_help(
                    format!("`{name}` has JSON objects over several lines; a row is one line"),
                    jq(".", &name),
                ),
            }))
        }
    }
}

/// The value that a text begins with, and where it ends; none where the text ends first.
fn parse(text: &str) -> Option<Result<(Value, usize), ()>> {
    let same_length = nan::same_length(text);
    let mut values = serde_json::Deserializer::from_str(same_length.as_deref().unwrap_or(text)).into_iter::<Value>();
    match values.next()? {
        Ok(value) => Some(Ok((value, values.byte_offset()))),
        Err(error) if error.is_eof() => None,
        Err(_) => Some(Err(())),
    }
}

fn around(name: &str, list: &str, what: &str) -> Error {
    let filter = if list.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        format!(".{list}[]")
    } else {
        format!(".[{}][]", Value::from(list))
    };
    Error::failed_with_help(
        format!("`{name}` {what} whose rows are in `{list}`; a row is one line of its own"),
        jq(&quoted(&filter), name),
    )
}

/// The one field of an object that is a list of objects other than the turns of a conversation.
fn rows_of(value: &Value) -> Option<&str> {
    let is_row = |value: &Value| {
        value
            .as_object()
            .is_some_and(|row| !["role", "from", "content", "value"].iter().any(|key| row.contains_key(*key)))
    };
    let lists = value
        .as_object()?
        .iter()
        .filter(|(_, value)| value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(is_row)));
    let names: Vec<&String> = lists.map(|(name, _)| name).collect();
    match names.as_slice() {
        [name] => Some(name),
        _ => None,
    }
}

fn jq(filter: &str, name: &str) -> String {
    let to = quoted(&converted(name));
    let packed =
        [("gz", "gzip"), ("zst", "zstd")].into_iter().find(|(extension, _)| name.ends_with(&format!(".{extension}")));
    match packed {
        Some((_, command)) => format!("{command} -dc {} | jq -c {filter} > {to}", quoted(name)),
        None => format!("jq -c {filter} {} > {to}", quoted(name)),
    }
}
