//! Rows from lines of text: `{"text": …}` for each line, as the `text` format of `datasets` gives them. An empty line is a
//! row with an empty text.

use std::collections::VecDeque;
use std::rc::Rc;

use plugin_sdk::loader::{BadRow, Lines, ReadAt, Row};
use plugin_sdk::{Error, serde_json};
use rows::{Expected, File, Format, Rows, Selection, bad};

/// Lines of text.
pub struct Text;

impl Format for Text {
    type Config = Selection;

    const EXTENSIONS: &'static [&'static str] = &["txt", "text"];

    fn selection(config: &Selection) -> Selection {
        config.clone()
    }

    fn new(_config: Selection) -> Result<Self, Error> {
        Ok(Self)
    }

    fn open(&self, file: &Rc<File>) -> Result<Box<dyn Rows>, Error> {
        if let Some(other) = rows::other(&**file, &file.read(0, rows::HEAD), Expected::Text) {
            return Err(other);
        }
        let lines = Lines::new(Rc::clone(file) as Rc<dyn ReadAt>);
        Ok(Box::new(TextLines { at: lines.position(), lines, given: 0, pending: VecDeque::new() }))
    }
}

struct TextLines {
    lines: Lines,
    /// Where the next row starts, and rows that were given.
    at: u64,
    given: u64,
    /// Of the line that was read last, rows that were not given, and the place behind each: a `\r` alone ends one too.
    pending: VecDeque<(Vec<u8>, u64)>,
}

impl Rows for TextLines {
    fn next(&mut self) -> Result<Option<Result<Row, BadRow>>, Error> {
        if self.pending.is_empty() {
            let mut place = self.lines.position();
            let Some(line) = self.lines.next_line()? else { return Ok(None) };
            for part in line.split(|&byte| byte == b'\r') {
                place += part.len() as u64 + 1;
                self.pending.push_back((part.to_vec(), place));
            }
            if let Some(last) = self.pending.back_mut() {
                last.1 = self.lines.position();
            }
        }
        let Some((line, behind)) = self.pending.pop_front() else { return Ok(None) };
        (self.at, self.given) = (behind, self.given + 1);
        let number = self.given;
        Ok(Some(match std::str::from_utf8(&line) {
            Ok(text) => Ok(Row { json: row(text), position: format!("line {number}") }),
            Err(error) => {
                let byte = line.get(error.valid_up_to()).copied().unwrap_or_default();
                let column = error.valid_up_to() + 1;
                Err(bad(format!("byte 0x{byte:02x} is not UTF-8"), format!("line {number}, column {column}")))
            }
        }))
    }

    fn cursor(&self) -> (u64, u64) {
        (self.at, self.given)
    }

    fn seek(&mut self, (at, given): (u64, u64)) -> Result<(), Error> {
        self.lines.seek(at, given);
        self.pending.clear();
        (self.at, self.given) = (at, given);
        Ok(())
    }
}

fn row(text: &str) -> String {
    format!("{{\"text\":{}}}", serde_json::Value::from(text))
}

plugin_sdk::register_dataset_loader!(
    rows::Loader<Text>,
    name: "text",
    description: "Rows from text: one for each line, its text in the column `text`",
);

#[cfg(test)]
mod tests {
    use plugin_sdk::loader::{DatasetLoader as _, Memory, Source};

    use rows::Loader;

    use super::*;

    fn rows(bytes: &[u8]) -> Vec<String> {
        let source = Source::File(Rc::new(Memory(bytes.to_vec())));
        let mut loader = Loader::<Text>::open(Selection::default(), source).unwrap();
        let rows = loader.next(100).unwrap().rows.into_iter();
        rows.map(|row| match row {
            Ok(row) => format!("{} {}", row.position, row.json),
            Err(row) => format!("{}! {}", row.position, row.error.message),
        })
        .collect()
    }

    #[test]
    fn each_line_is_a_row() {
        assert_eq!(
            rows(b"\xef\xbb\xbfone \"two\"\r\n\n<b>three</b>\nfour"),
            [
                "line 1 {\"text\":\"one \\\"two\\\"\"}",
                "line 2 {\"text\":\"\"}",
                "line 3 {\"text\":\"<b>three</b>\"}",
                "line 4 {\"text\":\"four\"}",
            ]
        );
        assert_eq!(rows(b""), [""; 0]);
        // As Python reads lines.
        assert_eq!(
            rows(b"one\rtwo\r\nthree\n"),
            ["line 1 {\"text\":\"one\"}", "line 2 {\"text\":\"two\"}", "line 3 {\"text\":\"three\"}"]
        );
    }

    #[test]
    fn a_cursor_goes_on_where_it_was() {
        let open = || {
            let source = Source::File(Rc::new(Memory(b"one\rtwo\r\n\nthree".to_vec())));
            Loader::<Text>::open(Selection::default(), source).unwrap()
        };
        let mut whole = open();
        for _ in 0..5 {
            let mut again = open();
            again.seek(&whole.cursor()).unwrap();
            assert_eq!(format!("{:?}", again.next(1).unwrap()), format!("{:?}", whole.next(1).unwrap()));
        }
    }

    #[test]
    fn what_is_not_utf_8_is_told() {
        assert_eq!(rows(b"a\nb\xe9\n")[1], "line 2, column 2! byte 0xe9 is not UTF-8");
    }
}
