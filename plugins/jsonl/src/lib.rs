//! Rows from JSON lines: one object per line. A directory gives the rows of all its JSON files.
//!
//! A file that starts with `[` is one JSON list of rows, as `json` datasets on the Hugging Face hub often are. `NaN` and
//! `Infinity`, which Python's `json` writes, are read as `null`. Any other format is named.

mod nan;
mod whole;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::rc::Rc;

use plugin_sdk::Error;
use plugin_sdk::loader::{BadRow, Lines, ReadAt, Row, RowError};
use rows::{Expected, File, Format, Rows, Selection};
use serde::de::IgnoredAny;

/// JSON lines, or one list.
pub struct Jsonl;

impl Format for Jsonl {
    type Config = Selection;

    const EXTENSIONS: &'static [&'static str] = &["jsonl", "json", "ndjson", "jsonlines"];

    fn selection(config: &Selection) -> Selection {
        config.clone()
    }

    fn new(_config: Selection) -> Result<Self, Error> {
        Ok(Self)
    }

    fn open(&self, file: &Rc<File>) -> Result<Box<dyn Rows>, Error> {
        let head = file.read(0, rows::HEAD);
        if let Some(other) = rows::other(&**file, &head, Expected::Json) {
            return Err(other);
        }
        let first = head.iter().find(|byte| !byte.is_ascii_whitespace() && !matches!(byte, 0xef | 0xbb | 0xbf));
        match first {
            Some(b'[') => Ok(Box::new(Entries { rows: whole::list(file)?, given: 0 })),
            Some(b'{') => match whole::object(file)? {
                Some(error) => Err(error),
                None => Ok(Box::new(JsonLines(Lines::new(Rc::clone(file) as Rc<dyn ReadAt>)))),
            },
            _ => Ok(Box::new(JsonLines(Lines::new(Rc::clone(file) as Rc<dyn ReadAt>)))),
        }
    }
}

struct JsonLines(Lines);

impl Rows for JsonLines {
    /// The next row that is not blank.
    fn next(&mut self) -> Result<Option<Result<Row, BadRow>>, Error> {
        loop {
            let number = self.0.number() + 1;
            match self.0.next_line()? {
                None => return Ok(None),
                Some(line) if line.iter().all(u8::is_ascii_whitespace) => {}
                Some(line) => return Ok(Some(row(line, &format!("line {number}")))),
            }
        }
    }

    fn cursor(&self) -> (u64, u64) {
        (self.0.position(), self.0.number())
    }

    fn seek(&mut self, (position, number): (u64, u64)) -> Result<(), Error> {
        self.0.seek(position, number);
        Ok(())
    }
}

/// The entries of a list.
struct Entries {
    rows: VecDeque<String>,
    given: u64,
}

impl Rows for Entries {
    fn next(&mut self) -> Result<Option<Result<Row, BadRow>>, Error> {
        Ok(self.rows.pop_front().map(|json| {
            self.given += 1;
            row(json.as_bytes(), &format!("entry {}", self.given))
        }))
    }

    fn cursor(&self) -> (u64, u64) {
        (0, self.given)
    }

    fn seek(&mut self, (_, given): (u64, u64)) -> Result<(), Error> {
        self.rows.drain(..self.rows.len().min(given as usize));
        self.given = given;
        Ok(())
    }
}

/// A row is checked here, so that strategies only ever see objects.
fn row(bytes: &[u8], position: &str) -> Result<Row, BadRow> {
    let bad = |message: String, column: usize| BadRow {
        error: RowError { message, field: None },
        position: if column > 1 { format!("{position}, column {column}") } else { position.to_owned() },
    };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let byte = bytes.get(error.valid_up_to()).copied().unwrap_or_default();
        bad(format!("byte 0x{byte:02x} is not UTF-8"), error.valid_up_to() + 1)
    })?;
    let mut text = Cow::Borrowed(text.trim());
    if let Err(error) = serde_json::from_str::<IgnoredAny>(&text) {
        // Python's numbers that are not finite; only where they are all that is wrong.
        let error = match nan::same_length(&text).map(|text| serde_json::from_str::<IgnoredAny>(&text)) {
            Some(Ok(_)) => None,
            Some(Err(other)) => Some(other),
            None => Some(error),
        };
        if let Some(error) = error {
            return Err(bad(format!("{}{}", reason(&error), likely_cause(&text, &error)), error.column()));
        }
        text = Cow::Owned(nan::with_null(&text).unwrap_or_default());
    }
    if !text.starts_with('{') {
        return Err(bad("a row is a JSON object (`{…}`)".to_owned(), 0));
    }
    Ok(Row { json: text.into_owned(), position: position.to_owned() })
}

/// serde's words without its own line and column, which count from the start of this row.
fn reason(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    format!("not valid JSON: {message}")
}

/// What a row is that is no JSON, where that can be seen.
fn likely_cause(text: &str, error: &serde_json::Error) -> String {
    if text.starts_with("{'") {
        return "; this is how Python prints a dict: write rows with `json.dumps`".to_owned();
    }
    if text.starts_with('{') && text.contains("}\r{") {
        return "; its lines end in `\\r` alone: `tr '\\r' '\\n'` mends them".to_owned();
    }
    if error.column() <= 1 {
        let start: String = text.chars().take(24).collect();
        return format!("; it starts with `{start}`");
    }
    String::new()
}

plugin_sdk::register_dataset_loader!(
    rows::Loader<Jsonl>,
    name: "jsonl",
    description: "Rows from JSON lines (one object per line), or from a file with one JSON list",
);

#[cfg(test)]
mod tests {
    use plugin_sdk::loader::{DatasetLoader as _, Memory, MemoryFiles, Source};

    use rows::Loader;

    use super::*;

    fn open(bytes: &[u8]) -> Loader<Jsonl> {
        Loader::open(Selection::default(), Source::File(Rc::new(Memory(bytes.to_vec())))).unwrap()
    }

    /// `position json` or `position! message`, one a row.
    fn rows(loader: &mut Loader<Jsonl>, max_rows: u32) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let batch = loader.next(max_rows).unwrap();
            assert!(batch.done || !batch.rows.is_empty());
            all.extend(batch.rows.into_iter().map(|row| match row {
                Ok(row) => format!("{} {}", row.position, row.json),
                Err(row) => format!("{}! {}", row.position, row.error.message),
            }));
            if batch.done {
                return all;
            }
        }
    }

    #[test]
    fn lines_are_rows_and_blank_lines_are_not() {
        let text = "\u{feff}{\"a\":1}\r\n\n  \n{\"a\": [2]}\n{\"a\":3}";
        for max_rows in [1, 2, 100] {
            assert_eq!(
                rows(&mut open(text.as_bytes()), max_rows),
                ["line 1 {\"a\":1}", "line 4 {\"a\": [2]}", "line 5 {\"a\":3}"]
            );
        }
        assert_eq!(rows(&mut open(b""), 10), [""; 0]);
    }

    #[test]
    fn broken_lines_are_told_with_their_place() {
        let found = rows(&mut open(b"{\"a\":1}\n{\"a\":}\n[1]\n{\"a\":1} x\n{\"a\":\"\xff\"}\n"), 10);
        assert_eq!(
            found,
            [
                "line 1 {\"a\":1}",
                "line 2, column 6! not valid JSON: expected value",
                "line 3! a row is a JSON object (`{…}`)",
                "line 4, column 9! not valid JSON: trailing characters",
                "line 5, column 7! byte 0xff is not UTF-8",
            ]
        );
    }

    #[test]
    fn a_list_gives_its_entries() {
        assert_eq!(rows(&mut open(b" [ {\"a\": 1},\n{\"a\":2} ]"), 1), ["entry 1 {\"a\": 1}", "entry 2 {\"a\":2}"]);
        let error = open(b"[{\"a\": 1},\n {\"a\" 2}]").next(1).unwrap_err();
        assert_eq!(error, Error::Failed("`memory`, line 2, column 7: not valid JSON: expected `:`".into()));
    }

    fn error(bytes: &[u8]) -> String {
        match open(bytes).next(1) {
            Err(Error::Failed(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn other_formats_are_named() {
        assert!(error(b"PAR1....").contains("parquet"));
        assert!(error(&[0x1f, 0x8b, 8]).contains("is cut short"));
    }

    #[test]
    fn an_object_over_several_lines_is_named() {
        for text in [
            "{\n  \"a\": 1\n}\n{\n  \"a\": 2\n}\n",
            "{\n  \"a\": NaN\n}",
            "\u{feff}{\r\n \"messages\": [\n{\"role\": \"user\"}]}\r\n",
        ] {
            let message = error(text.as_bytes());
            assert!(message.contains("over several lines") && message.contains("jq -c . "), "{message}");
        }
        let message = error(b"{\n \"version\": 1, \"data\": [\n {\"a\": 1}]}");
        assert!(message.ends_with("jq -c '.data[]' memory > memory.jsonl"), "{message}");
        let message = error(b"{\"version\": 1, \"data\": [{\"a\": 1}]}\n");
        assert!(message.contains("one JSON object whose rows are in `data`"), "{message}");
        // A row, whatever lies in it.
        for text in [
            "{\"messages\": [{\"role\": \"user\"}]}\n",
            "{\"data\": [{\"a\": 1}]}\n{\"data\": [{\"a\": 1}]}\n",
            "{\"data\": [1]}",
        ] {
            assert!(open(text.as_bytes()).next(1).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_first_line_that_is_cut_short_is_told_at_its_place() {
        assert_eq!(
            rows(&mut open(b"{\"a\": 1, \"b\n{\"a\": 2}\n"), 9),
            ["line 1, column 11! not valid JSON: EOF while parsing a string", "line 2 {\"a\": 2}"]
        );
    }

    #[test]
    fn numbers_that_are_not_finite_are_null() {
        assert_eq!(rows(&mut open(b"{\"a\": NaN, \"b\": \"NaN\"}"), 1), ["line 1 {\"a\": null, \"b\": \"NaN\"}"]);
        assert_eq!(rows(&mut open(b"[{\"a\": -Infinity}]"), 1), ["entry 1 {\"a\": null}"]);
        assert_eq!(rows(&mut open(b"{\"a\": NaN, \"b\"}"), 1), ["line 1, column 15! not valid JSON: expected `:`"]);
    }

    #[test]
    fn rows_of_other_notations_are_named() {
        let told = rows(&mut open(b"{'a': 1}\n{\"a\": 1}\r{\"a\": 2}\n"), 9);
        assert!(told[0].contains("how Python prints a dict"), "{told:?}");
        assert!(told[1].contains("end in `\\r` alone"), "{told:?}");
    }

    #[test]
    fn a_directory_gives_all_its_files() {
        let mut files = MemoryFiles::default();
        for (name, text) in [("b.JSONL", "{\"b\":1}\n"), ("a/c.json", "[{\"c\":1},{\"c\":2}]"), ("notes.txt", "no")] {
            files.0.insert(name.to_owned(), text.as_bytes().to_vec());
        }
        let mut loader = Loader::<Jsonl>::open(Selection::default(), Source::Directory(Rc::new(files))).unwrap();
        assert_eq!(
            rows(&mut loader, 2),
            ["a/c.json entry 1 {\"c\":1}", "a/c.json entry 2 {\"c\":2}", "b.JSONL line 1 {\"b\":1}"]
        );
        assert!(
            Loader::<Jsonl>::open(Selection::default(), Source::Directory(Rc::new(MemoryFiles::default()))).is_err()
        );
    }

    #[test]
    fn a_cursor_goes_on_where_it_was() {
        for text in ["{\"a\":1}\n\n{\"a\":2}\n{\"a\":3}\n", "[{\"a\":1},{\"a\":2},{\"a\":3}]"] {
            let mut whole = open(text.as_bytes());
            for _ in 0..4 {
                let cursor = whole.cursor();
                let mut again = open(text.as_bytes());
                again.seek(&cursor).unwrap();
                assert_eq!(format!("{:?}", again.next(1).unwrap()), format!("{:?}", whole.next(1).unwrap()));
            }
        }
        assert!(open(b"").seek(b"x").is_err());
    }
}
