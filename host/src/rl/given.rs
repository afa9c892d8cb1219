//! Completions of a file, to be judged: JSON lines with a `completion`, and what else is known of it, such as
//! `completions.jsonl` as a run writes it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use serde_json::{Map, Value};

use crate::diagnostic::{Diagnostic, Failure, Place};

/// Bytes of a line.
const LINE: u64 = 1 << 20;

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// From 1.
    pub line: usize,
    /// What was asked.
    pub prompt: Option<String>,
    /// What was answered.
    pub completion: String,
    /// What a good answer may be.
    pub reference: Option<String>,
    /// It was not cut off.
    pub finished: bool,
    /// The line itself.
    pub json: String,
}

/// Reads the first `count` lines that are not empty.
///
/// # Errors
/// A file that cannot be read, or the first line that is no such row.
pub fn read(path: &Path, count: usize) -> Result<Vec<Given>, Failure> {
    let unreadable = |error: std::io::Error| {
        Diagnostic::error("data::unreadable", format!("`{}` cannot be read", path.display())).why(error.to_string())
    };
    let mut reader = BufReader::new(intake::open(path).map_err(unreadable)?);
    let (mut all, mut line) = (Vec::new(), 0);
    while all.len() < count {
        let mut bytes = Vec::new();
        line += 1;
        if reader.by_ref().take(LINE + 1).read_until(b'\n', &mut bytes).map_err(unreadable)? == 0 {
            break;
        }
        let given = given(&bytes, line).map_err(|why| {
            Diagnostic::error("data::bad-row", format!("line {line} of `{}` is no completion", path.display()))
                .at(Place::new(path, line, 1))
                .why(why)
                .help(r#"write a JSON object per line: `{"prompt": "…", "completion": "…", "reference": "…"}`, the first and the last if they are known"#)
        })?;
        all.extend(given);
    }
    if all.is_empty() {
        return Err(Diagnostic::error("data::empty", format!("`{}` has no completions", path.display())).into());
    }
    Ok(all)
}

/// A line; none where it is empty.
fn given(bytes: &[u8], line: usize) -> Result<Option<Given>, String> {
    if bytes.len() as u64 > LINE {
        return Err(format!("it has more than {} MiB", LINE >> 20));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let row: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let column = |key: &str| match row.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("its `{key}` is not a text")),
    };
    Ok(Some(Given {
        line,
        prompt: column("prompt")?,
        completion: column("completion")?.ok_or("it has no `completion`")?,
        reference: column("reference")?,
        finished: row.get("finished").and_then(Value::as_bool).unwrap_or(true),
        json: text.to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: impl AsRef<[u8]>) -> Result<Vec<Given>, Vec<Diagnostic>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.jsonl");
        std::fs::write(&path, text).unwrap();
        read(&path, 3).map_err(|failure| failure.0)
    }

    #[test]
    fn lines_are_read_up_to_the_count() {
        let text = "{\"completion\": \"a\"}\n\n{\"prompt\": \"p\", \"completion\": \"\", \"reference\": null, \"finished\": false}\n{\"completion\": \"c\", \"reference\": \"r\"}\nnot read";
        let all = read_text(text).unwrap();
        assert_eq!(all.iter().map(|given| given.line).collect::<Vec<_>>(), [1, 3, 4]);
        assert_eq!((all[1].prompt.as_deref(), all[1].finished, all[0].finished), (Some("p"), false, true));
        assert_eq!(all[2].reference.as_deref(), Some("r"));
    }

    #[test]
    fn what_is_no_completion_is_said_in_one_message() {
        let why = |text: &[u8]| {
            let mut errors = read_text(text).unwrap_err();
            assert_eq!(errors.len(), 1);
            let error = errors.remove(0);
            error.why.unwrap_or(error.message)
        };
        assert_eq!(why(b"{\"completion\": 1}"), "its `completion` is not a text");
        assert_eq!(why(b"{\"prompt\": \"p\"}"), "it has no `completion`");
        assert_eq!(why(b"{\"completion\": \"\xff\"}"), "it is not UTF-8");
        assert_eq!(why("[".repeat(2 << 20).as_bytes()), "it has more than 1 MiB");
        assert!(why("{\"a\":".repeat(1000).as_bytes()).contains("recursion limit"));
        assert!(why(b"{\"completion\": \"a\"").starts_with("EOF"));
        assert!(why(b"[]").contains("expected a map"));
        assert!(why(b"\n \n").ends_with("has no completions"));
    }
}
