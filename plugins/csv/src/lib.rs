//! Rows from CSV and TSV files: a header with the names of the columns, then a row for each record.
//!
//! Each value is the text that stands in the file: `007` stays `007`, and an empty cell is an empty text. (`datasets` takes
//! a column of digits for numbers, and would make 7 of it.) A record may take several lines, inside of quotes.

mod quotes;

use std::rc::Rc;

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};
use plugin_sdk::Error;
use plugin_sdk::loader::{BadRow, ReadAt, Row};
use plugin_sdk::serde_json::{Value, to_writer};
use rows::{DataFiles, Expected, File, Format, Rows, Selection, bad, extension};
use serde::Deserialize;

use crate::quotes::Quotes;

/// Bytes that are read at a time.
const BLOCK: u32 = 1 << 16;
/// Bytes that one record may have.
const RECORD_LIMIT: usize = 64 << 20;
/// Columns of a table.
const COLUMNS: usize = 10_000;
/// Characters of a name that a message shows.
const SHOWN: usize = 40;

/// The loader's config.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CsvConfig {
    /// What stands between columns. Default: a comma, in `.tsv` files a tab.
    delimiter: Option<String>,
    split: Option<String>,
    data_files: DataFiles,
}

/// Tables in text.
pub struct Csv {
    delimiter: Option<u8>,
}

impl Format for Csv {
    type Config = CsvConfig;

    const EXTENSIONS: &'static [&'static str] = &["csv", "tsv"];

    fn selection(config: &CsvConfig) -> Selection {
        Selection { split: config.split.clone(), data_files: config.data_files.clone() }
    }

    fn new(config: CsvConfig) -> Result<Self, Error> {
        let delimiter = config.delimiter.map(|text| match text.as_bytes() {
            &[byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => Ok(byte),
            _ => Err(Error::config_with_help(
                "delimiter",
                format!("`delimiter` must be one ASCII character, found `{}`", text.escape_debug()),
                "write a character like `;`, or `\"\\t\"` for a tab",
            )),
        });
        Ok(Self { delimiter: delimiter.transpose()? })
    }

    fn open(&self, file: &Rc<File>) -> Result<Box<dyn Rows>, Error> {
        if let Some(other) = rows::other(&**file, &file.read(0, rows::HEAD), Expected::Csv) {
            return Err(other);
        }
        Ok(Box::new(Table::new(file, self.of(file), self.delimiter.is_some())?))
    }

    fn fits(&self, first: &Rc<File>, file: &Rc<File>) -> Result<(), Error> {
        let columns = |file: &Rc<File>| Ok::<_, Error>(Table::new(file, self.of(file), true)?.columns);
        let (one, other) = (columns(first)?, columns(file)?);
        let has = |columns: &[String], name: &String| columns.contains(name);
        let (missing, more) = (one.iter().find(|name| !has(&other, name)), other.iter().find(|name| !has(&one, name)));
        let difference = match (missing, more) {
            (Some(name), _) => format!("has no column `{}`, which `{}` has", shown(name), first.name()),
            (None, Some(name)) => format!("has a column `{}`, which `{}` lacks", shown(name), first.name()),
            (None, None) => return Ok(()),
        };
        let message = format!("`{}` {difference}; files of one dataset have the same columns", file.name());
        Err(Error::failed_with_help(message, "write an entry of `datasets` for each kind of file"))
    }
}

impl Csv {
    fn of(&self, file: &File) -> u8 {
        self.delimiter.unwrap_or(if extension(&file.name()) == "tsv" { b'\t' } else { b',' })
    }
}

/// The records of one file.
struct Table {
    file: Rc<File>,
    delimiter: u8,
    columns: Vec<String>,
    /// The columns' names as JSON, with what stands around them in a row.
    keys: Vec<String>,
    reader: Reader,
    /// Bytes of the file from `start` on, of which `used` were read.
    block: Vec<u8>,
    start: u64,
    used: usize,
    quotes: Quotes,
    is_done: bool,
    /// The fields of a record, and where each of them ends.
    fields: Vec<u8>,
    ends: Vec<usize>,
}

impl Table {
    /// Reads the header.
    fn new(file: &Rc<File>, delimiter: u8, is_certain: bool) -> Result<Self, Error> {
        let mut table = Self {
            file: Rc::clone(file),
            delimiter,
            columns: Vec::new(),
            keys: Vec::new(),
            reader: ReaderBuilder::new().delimiter(delimiter).build(),
            block: Vec::new(),
            start: if file.read(0, 3) == [0xef, 0xbb, 0xbf] { 3 } else { 0 },
            used: 0,
            quotes: Quotes::new(delimiter, 1, 0),
            is_done: false,
            fields: vec![0; 1 << 12],
            ends: vec![0; 64],
        };
        let name = file.name();
        let Some(record) = table.record()? else { return Ok(table) };
        let mut columns = Vec::new();
        for (index, field) in record.fields(&table).enumerate() {
            let column = std::str::from_utf8(field)
                .map_err(|_| Error::Failed(format!("`{name}`: the name of column {} is not UTF-8", index + 1)))?;
            // As pandas calls it, which writes such a column.
            let column = if column.is_empty() { format!("Unnamed: {index}") } else { column.to_owned() };
            if columns.contains(&column) {
                let message = format!("`{name}` has two columns `{}`", shown(&column));
                return Err(Error::failed_with_help(message, "give one of them another name"));
            }
            columns.push(column);
            if columns.len() > COLUMNS {
                return Err(Error::Failed(format!("`{name}` has more than {COLUMNS} columns")));
            }
        }
        if let ([column], false) = (columns.as_slice(), is_certain)
            && let Some(other) = [';', '\t', '|', ','].into_iter().find(|&other| column.contains(other))
        {
            let message = format!("`{name}` has one column, `{}`", shown(column));
            let sign = other.escape_debug();
            let help = format!(
                "if `{sign}` stands between columns: `ds_type: {{name: csv, config: {{delimiter: \"{sign}\"}}}}`"
            );
            return Err(Error::failed_with_help(message, help));
        }
        let key = |(index, column): (usize, &String)| {
            format!("{}{}:", if index == 0 { '{' } else { ',' }, Value::from(column.as_str()))
        };
        table.keys = columns.iter().enumerate().map(key).collect();
        table.columns = columns;
        Ok(table)
    }

    /// The next record that is not a blank line.
    fn record(&mut self) -> Result<Option<Record>, Error> {
        let (mut written, mut count) = (0, 0);
        self.quotes.begin();
        while !self.is_done {
            if self.used == self.block.len() {
                self.start += self.block.len() as u64;
                self.block = self.file.read(self.start, BLOCK);
                self.used = 0;
                // What ends here for want of bytes is told as that.
                self.file.check()?;
            }
            let input = &self.block[self.used..];
            let (result, read, wrote, ended) =
                self.reader.read_record(input, &mut self.fields[written..], &mut self.ends[count..]);
            self.quotes.read(&input[..read]);
            self.used += read;
            written += wrote;
            count += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if self.fields.len() >= RECORD_LIMIT => {
                    let start = self.quotes.start();
                    let hint = match self.quotes.open() {
                        Some(line) => format!("; the quote of line {line} may never be closed"),
                        None => String::new(),
                    };
                    let (name, most) = (self.file.name(), RECORD_LIMIT >> 20);
                    return Err(Error::Failed(format!(
                        "`{name}`, line {start}: a record of more than {most} MiB{hint}"
                    )));
                }
                ReadRecordResult::OutputFull => self.fields.resize(self.fields.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::Record => {
                    let line = self.quotes.start();
                    if let Some(line) = self.quotes.open() {
                        let message =
                            format!("`{}`, line {line}: a quote opens here that is never closed", self.file.name());
                        return Err(Error::failed_with_help(
                            message,
                            "close it; a quote inside of quotes is written twice",
                        ));
                    }
                    return Ok(Some(Record { count, line }));
                }
                ReadRecordResult::End => self.is_done = true,
            }
        }
        Ok(None)
    }
}

/// A record whose fields lie in its table.
struct Record {
    count: usize,
    line: u64,
}

impl Record {
    fn fields<'a>(&self, table: &'a Table) -> impl Iterator<Item = &'a [u8]> {
        let ends = &table.ends[..self.count];
        let starts = std::iter::once(0).chain(ends.iter().copied());
        starts.zip(ends).map(|(start, &end)| &table.fields[start..end])
    }
}

impl Rows for Table {
    fn next(&mut self) -> Result<Option<Result<Row, BadRow>>, Error> {
        let Some(record) = self.record()? else { return Ok(None) };
        let position = format!("line {}", record.line);
        if record.count != self.keys.len() {
            let values = if record.count == 1 { "1 value".to_owned() } else { format!("{} values", record.count) };
            let message = format!("it has {values}, and the header names {} columns", self.keys.len());
            return Ok(Some(Err(bad(message, position))));
        }
        let mut json = Vec::with_capacity(self.ends[record.count - 1] + self.keys.len() * 16);
        for ((key, column), field) in self.keys.iter().zip(&self.columns).zip(record.fields(self)) {
            let Ok(text) = std::str::from_utf8(field) else {
                return Ok(Some(Err(bad(format!("column `{}` is not UTF-8", shown(column)), position))));
            };
            json.extend_from_slice(key.as_bytes());
            // Writing to a vector does not fail.
            let _ = to_writer(&mut json, text);
        }
        json.push(b'}');
        let json = String::from_utf8(json).map_err(|_| Error::Failed(format!("{position} is not UTF-8")))?;
        Ok(Some(Ok(Row { json, position })))
    }

    fn cursor(&self) -> (u64, u64) {
        (self.start + self.used as u64, self.quotes.line())
    }

    fn seek(&mut self, (place, line): (u64, u64)) -> Result<(), Error> {
        let last = place.checked_sub(1).and_then(|before| self.file.read(before, 1).first().copied());
        self.quotes = Quotes::new(self.delimiter, line, last.unwrap_or_default());
        (self.start, self.used, self.is_done) = (place, 0, false);
        self.block.clear();
        self.reader.reset();
        Ok(())
    }
}

fn shown(name: &str) -> String {
    name.escape_debug().to_string().chars().take(SHOWN).collect()
}

plugin_sdk::register_dataset_loader!(
    rows::Loader<Csv>,
    name: "csv",
    description: "Rows from CSV and TSV files, each value as the text that it is",
);

#[cfg(test)]
mod tests {
    use plugin_sdk::loader::{DatasetLoader as _, Memory, MemoryFiles, Source};

    use rows::Loader;

    use super::*;

    fn open(bytes: &[u8], delimiter: Option<&str>) -> Loader<Csv> {
        let config = CsvConfig { delimiter: delimiter.map(ToOwned::to_owned), ..CsvConfig::default() };
        Loader::open(config, Source::File(Rc::new(Memory(bytes.to_vec())))).unwrap()
    }

    fn all(mut loader: Loader<Csv>, max_rows: u32) -> Result<Vec<String>, Error> {
        let mut all = Vec::new();
        loop {
            let batch = loader.next(max_rows)?;
            all.extend(batch.rows.into_iter().map(|row| match row {
                Ok(row) => format!("{} {}", row.position, row.json),
                Err(row) => format!("{}! {}", row.position, row.error.message),
            }));
            if batch.done {
                return Ok(all);
            }
        }
    }

    fn rows(text: &str) -> Vec<String> {
        let one = all(open(text.as_bytes(), None), 1).unwrap();
        assert_eq!(all(open(text.as_bytes(), None), 100).unwrap(), one);
        one
    }

    fn told(bytes: &[u8]) -> String {
        match all(open(bytes, None), 100) {
            Err(Error::Failed(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn values_are_the_texts_of_the_file() {
        assert_eq!(
            rows("\u{feff}q,a\r\n007,\"x, \"\"y\"\"\"\r\n\r\n ,\"two\nlines\"\nlast,\n"),
            [
                "line 2 {\"q\":\"007\",\"a\":\"x, \\\"y\\\"\"}",
                "line 4 {\"q\":\" \",\"a\":\"two\\nlines\"}",
                "line 6 {\"q\":\"last\",\"a\":\"\"}",
            ]
        );
        assert_eq!(rows(",q\n0,a"), ["line 2 {\"Unnamed: 0\":\"0\",\"q\":\"a\"}"]);
        assert_eq!(rows("q\rone\rtwo"), ["line 2 {\"q\":\"one\"}", "line 3 {\"q\":\"two\"}"]);
        assert_eq!(rows("q,a\n"), [""; 0]);
        assert_eq!(rows(""), [""; 0]);
        let tabs = all(open(b"q\ta\n1,2\t3", Some("\t")), 9).unwrap();
        assert_eq!(tabs, ["line 2 {\"q\":\"1,2\",\"a\":\"3\"}"]);
    }

    /// Files that Python's `csv` wrote and reads (`tests/fixtures/loaders/make.py`).
    #[test]
    fn rows_are_those_of_python() {
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/loaders/");
        let file = |name: &str| std::fs::read(format!("{fixtures}{name}")).unwrap();
        let wanted = String::from_utf8(file("table.rows.jsonl")).unwrap();
        let wanted: Vec<Value> = wanted.lines().map(json).collect();
        for (name, delimiter) in [("table.excel.csv", ","), ("table.unix.csv", ","), ("table.tabs.tsv", "\t")] {
            for max_rows in [1, 50] {
                let found = all(open(&file(name), Some(delimiter)), max_rows).unwrap();
                assert_eq!(found.len(), wanted.len(), "{name}");
                for (found, wanted) in found.iter().zip(&wanted) {
                    let (position, row) = found.split_once(" {").unwrap();
                    assert_eq!(json(&format!("{{{row}")), *wanted, "{name}, {position}");
                }
            }
        }
    }

    fn json(text: &str) -> Value {
        plugin_sdk::serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        assert_eq!(
            rows("q,a\n1\n1,2,3\n"),
            [
                "line 2! it has 1 value, and the header names 2 columns",
                "line 3! it has 3 values, and the header names 2 columns",
            ]
        );
        let latin = all(open(b"q,a\nx,caf\xe9\n", None), 9).unwrap();
        assert_eq!(latin, ["line 2! column `a` is not UTF-8"]);
        let quote = told(b"q,a\n1,2\nx,\"open\n3,4\n5,\"\"\n6,7\n");
        assert!(quote.starts_with("`memory`, line 3: a quote opens here that is never closed"), "{quote}");
        assert!(told(b"q,a,q\n").contains("two columns `q`"));
        assert!(told(b"q;a\n1;2\n").contains("{delimiter: \";\"}"));
        assert!(told(b"q\ta\n1\t2\n").contains("{delimiter: \"\\t\"}"));
        assert!(told(b"PAR1").contains("write `ds_type: parquet`"));
        assert!(told(b"{\"a\": 1}\n").contains("write `ds_type: json`"));
        let wrong = Csv::new(CsvConfig { delimiter: Some("||".into()), ..CsvConfig::default() });
        assert!(matches!(wrong, Err(Error::Config { path, .. }) if path == "delimiter"));
    }

    #[test]
    fn long_records_and_many_blocks_are_read_whole() {
        let long = "x\"\"y\n".repeat(50_000);
        let text: Vec<String> = (0..50).map(|row| format!("{row},\"{long}\"\n")).collect();
        let text = text.concat();
        let found = all(open(format!("q,a\n{text}").as_bytes(), None), 7).unwrap();
        assert_eq!(found.len(), 50);
        let (_, row) = found[49].split_once('{').unwrap();
        let value = json(&format!("{{{row}"));
        assert_eq!(value["a"].as_str().unwrap(), long.replace("\"\"", "\""));
        assert!(found[49].starts_with(&format!("line {} ", 2 + 49 * 50_001)));
    }

    #[test]
    fn a_cursor_goes_on_where_it_was() {
        let text = b"q,a\r\n1,\"a\r\nb\"\r\n\r\n2,c\r\n3,d";
        let mut whole = open(text, None);
        for _ in 0..5 {
            let cursor = whole.cursor();
            let mut again = open(text, None);
            again.seek(&cursor).unwrap();
            assert_eq!(format!("{:?}", again.next(1).unwrap()), format!("{:?}", whole.next(1).unwrap()));
        }
    }

    #[test]
    fn files_with_other_columns_do_not_follow() {
        let open = |second: &str| {
            let mut files = MemoryFiles::default();
            for (name, text) in [("a.csv", "q,a\n1,2\n"), ("b.csv", second)] {
                files.0.insert(name.to_owned(), text.as_bytes().to_vec());
            }
            all(Loader::open(CsvConfig::default(), Source::Directory(Rc::new(files))).unwrap(), 9)
        };
        assert_eq!(
            open("a,q\n3,4").unwrap(),
            ["a.csv line 2 {\"q\":\"1\",\"a\":\"2\"}", "b.csv line 2 {\"a\":\"3\",\"q\":\"4\"}"]
        );
        assert!(matches!(open("q\n3"), Err(Error::Failed(message)) if message.contains("has no column `a`")));
        assert!(matches!(open("q,a,x\n3,4,5"), Err(Error::Failed(message)) if message.contains("has a column `x`")));
    }
}
