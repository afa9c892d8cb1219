//! Files of rows, as the bundled loaders read them. Under libFuzzer they are libraries, which it sees into; in the tests they are
//! what a run has: components in the sandbox, with pointers of 32 bits.

#[cfg_attr(fuzzing, path = "rows/library.rs")]
#[cfg_attr(not(fuzzing), path = "rows/component.rs")]
mod loader;

use serde_json::{Map, Value, json};

use loader::Loader;

/// What is read of a file: rows, and bytes of them. The host stops a loader that gives far more than its file has.
const ROWS: usize = 5000;
const BYTES: usize = 1 << 20;
/// Bytes of a message.
const MESSAGE: usize = 1 << 16;

/// Libraries that panic where a file is broken: pages are looked at before they see them, yet not at everything in them. The
/// sandbox makes an error of it.
const LIBRARIES: [&str; 1] = ["/parquet-60."];

/// A row and where it stands, or what is wrong with it there.
#[derive(Debug, PartialEq)]
struct Row {
    json: Result<String, String>,
    position: String,
}

/// Some rows, and whether they are the last.
struct Batch {
    rows: Vec<Row>,
    is_last: bool,
}

/// What came of a file; `failed` is the message that ended it.
#[derive(Debug, PartialEq)]
struct Read {
    rows: Vec<Row>,
    is_whole: bool,
    failed: Option<String>,
}

/// A loader's name, and its config.
struct Kind {
    loader: &'static str,
    config: Value,
}

/// The first byte picks the loader, the rest is the file: `t` text, `j` JSON lines, `p` parquet, `a` Arrow; `,`, `;` and a tab
/// are CSV with that between its columns.
pub(crate) fn rows(bytes: &[u8]) {
    let Some((&first, file)) = bytes.split_first() else { return };
    let plain = |loader| Kind { loader, config: json!({}) };
    match first {
        b't' => text(&plain("text"), file),
        b'j' => jsonl(&plain("jsonl"), file),
        b',' | b';' | b'\t' => csv(first, file),
        b'p' => drop(plain("parquet").read(file)),
        b'a' => drop(plain("arrow").read(file)),
        _ => {}
    }
}

/// The rows that are left, so many at a time.
fn rest(loader: &mut Loader, max_rows: u32) -> Read {
    let mut read = Read { rows: Vec::new(), is_whole: false, failed: None };
    let mut bytes = 0;
    while read.rows.len() < ROWS && bytes < BYTES {
        match loader.next(max_rows) {
            Ok(batch) => {
                assert!(batch.rows.len() <= max_rows as usize && (batch.is_last || !batch.rows.is_empty()));
                bytes += batch.rows.iter().flat_map(|row| &row.json).map(String::len).sum::<usize>();
                read.rows.extend(batch.rows);
                if batch.is_last {
                    read.is_whole = true;
                    break;
                }
            }
            Err(message) => {
                sound(&message);
                read.failed = Some(message);
                break;
            }
        }
    }
    read
}

/// A message has words, and not without end.
fn sound(message: &str) {
    assert!(!message.is_empty() && message.len() < MESSAGE, "a message of {} bytes", message.len());
}

impl Kind {
    fn open(&self, file: &[u8]) -> Result<Loader, String> {
        Loader::open(self.loader, &self.config, file)
    }

    /// Opens what was opened before.
    fn again(&self, file: &[u8]) -> Loader {
        self.open(file).unwrap_or_else(|message| panic!("it was opened before: {message}"))
    }

    /// All rows of a file, which are sound, as many as the loader said, and the same from wherever it goes on.
    fn read(&self, file: &[u8]) -> Read {
        let mut loader = match self.open(file) {
            Ok(loader) => loader,
            Err(message) => {
                sound(&message);
                return Read { rows: Vec::new(), is_whole: false, failed: Some(message) };
            }
        };
        let promised = loader.len();
        let read = rest(&mut loader, 7);
        for Row { json, position } in &read.rows {
            assert!(!position.is_empty() && position.len() < 200, "{position}");
            match json {
                Ok(json) => {
                    let value: Result<Map<String, Value>, _> = serde_json::from_str(json);
                    assert!(value.is_ok(), "{position}: {value:?}");
                }
                Err(message) => sound(message),
            }
        }
        if let (Ok(Some(promised)), true) = (promised, read.is_whole) {
            assert_eq!(promised, read.rows.len() as u64);
        }
        // From a place in it, which the bytes pick.
        let place = file.iter().fold(0, |sum, &byte| sum + usize::from(byte)) % (read.rows.len() + 1);
        let mut loader = self.again(file);
        if place > 0 {
            let before = loader.next(place as u32).unwrap_or_else(|message| panic!("they were read before: {message}"));
            assert_eq!(before.rows.len(), place);
        }
        let Ok(cursor) = loader.cursor() else { return read };
        let mut again = self.again(file);
        if let Err(message) = again.seek(&cursor) {
            sound(&message);
            assert!(read.failed.is_some(), "row {place} cannot be gone on from: {message}");
            return read;
        }
        let others = rest(&mut again, 7);
        let count = read.rows.len() - place;
        assert!(others.rows.len() >= count || !read.is_whole);
        assert!(read.rows[place..].iter().zip(&others.rows).all(|(one, other)| one == other), "from row {place} on");
        read
    }

    /// The rows of a file are those of the same file packed.
    fn packed(&self, file: &[u8], read: &Read) {
        let packed = rest(&mut self.again(&gzip(file)), 7);
        assert_eq!(packed, *read);
    }
}

/// Lines as Python reads them.
fn text(kind: &Kind, file: &[u8]) {
    let read = kind.read(file);
    if !read.is_whole || is_packed(file) {
        return;
    }
    let lines = lines(file);
    assert_eq!(lines.len(), read.rows.len());
    for (line, row) in lines.iter().zip(&read.rows) {
        match (std::str::from_utf8(line), &row.json) {
            (Ok(line), Ok(json)) => assert_eq!(serde_json::from_str::<Value>(json).ok(), Some(json!({ "text": line }))),
            (Err(_), Err(message)) => assert!(message.contains("is not UTF-8"), "{message}"),
            (line, row) => panic!("{line:?} is {row:?}"),
        }
    }
    kind.packed(file, &read);
}

fn lines(file: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = Vec::new();
    let mut rest = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
        lines.push(&rest[..end.unwrap_or(rest.len())]);
        rest = match end {
            Some(end) => rest[end..].strip_prefix(b"\r\n").unwrap_or(&rest[end + 1..]),
            None => &[],
        };
    }
    lines
}

/// Where every line is an object, those are the rows.
fn jsonl(kind: &Kind, file: &[u8]) {
    let read = kind.read(file);
    if !read.is_whole || is_packed(file) {
        return;
    }
    let parsed = |line: &[u8]| serde_json::from_slice::<Map<String, Value>>(line).ok();
    let lines = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file).split(|&byte| byte == b'\n');
    let lines = lines.filter(|line| !line.iter().all(u8::is_ascii_whitespace));
    if let Some(objects) = lines.map(parsed).collect::<Option<Vec<_>>>() {
        assert_eq!(objects.len(), read.rows.len());
        for (object, row) in objects.iter().zip(&read.rows) {
            let json = row.json.as_ref().unwrap_or_else(|message| panic!("{object:?} is refused: {message}"));
            assert_eq!(serde_json::from_str::<Map<String, Value>>(json).ok().as_ref(), Some(object));
        }
    }
    kind.packed(file, &read);
}

fn csv(delimiter: u8, file: &[u8]) {
    let kind = Kind { loader: "csv", config: json!({ "delimiter": char::from(delimiter).to_string() }) };
    let read = kind.read(file);
    if !read.is_whole || is_packed(file) {
        return;
    }
    let records = records(delimiter, file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file));
    assert!(!records.last().is_some_and(|record| record.is_open), "a quote is open, and nothing is said");
    let Some((header, records)) = records.split_first() else { return assert!(read.rows.is_empty()) };
    let name = |(index, name): (usize, &Vec<u8>)| match String::from_utf8_lossy(name) {
        name if name.is_empty() => format!("Unnamed: {index}"),
        name => name.into_owned(),
    };
    let columns: Vec<String> = header.fields.iter().enumerate().map(name).collect();
    assert_eq!(records.len(), read.rows.len());
    for (record, row) in records.iter().zip(&read.rows) {
        let texts: Result<Vec<&str>, _> = record.fields.iter().map(|field| std::str::from_utf8(field)).collect();
        match (texts, &row.json) {
            (Ok(texts), Ok(json)) => {
                let wanted: Map<String, Value> =
                    columns.iter().cloned().zip(texts.iter().map(|text| Value::from(*text))).collect();
                assert_eq!(texts.len(), columns.len());
                assert_eq!(serde_json::from_str::<Value>(json).ok(), Some(Value::Object(wanted)));
            }
            (texts, Err(message)) => assert!(texts.is_err() || record.fields.len() != columns.len(), "{message}"),
            (texts, row) => panic!("{texts:?} is {row:?}"),
        }
        assert_eq!(row.position, format!("line {}", record.line));
    }
    kind.packed(file, &read);
}

/// A record of CSV, a quote in it that is not closed, and the line that it begins at.
struct Record {
    fields: Vec<Vec<u8>>,
    is_open: bool,
    line: usize,
}

/// RFC 4180, and beyond it what Python's `csv` reads: a quote within a field is a character, and so is what follows a closed
/// quote. Blank lines are none.
fn records(delimiter: u8, file: &[u8]) -> Vec<Record> {
    let (mut records, mut at, mut line) = (Vec::new(), 0, 1);
    let is_break = |byte: u8| matches!(byte, b'\r' | b'\n');
    while at < file.len() {
        let newline = |at: usize| usize::from(file[at] == b'\r' || at == 0 || file[at - 1] != b'\r');
        if is_break(file[at]) {
            line += newline(at);
            at += 1;
            continue;
        }
        let mut record = Record { fields: vec![Vec::new()], is_open: false, line };
        let mut is_start = true;
        while at < file.len() && (record.is_open || !is_break(file[at])) {
            let byte = file[at];
            let field = record.fields.last_mut().expect("there is one");
            if record.is_open {
                if is_break(byte) {
                    line += newline(at);
                }
                if byte != b'"' {
                    field.push(byte);
                } else if file.get(at + 1) == Some(&b'"') {
                    field.push(b'"');
                    at += 1;
                } else {
                    record.is_open = false;
                }
            } else if byte == delimiter {
                record.fields.push(Vec::new());
                is_start = true;
                at += 1;
                continue;
            } else if byte == b'"' && is_start {
                record.is_open = true;
            } else {
                field.push(byte);
            }
            is_start = false;
            at += 1;
        }
        records.push(record);
    }
    records
}

/// Starts as what is unpacked: gzip, or a frame of zstd, also one that is passed over.
fn is_packed(file: &[u8]) -> bool {
    match *file {
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => true,
        [first, 0x2a, 0x4d, 0x18, ..] => first >> 4 == 5,
        _ => false,
    }
}

/// As gzip has bytes that it does not pack.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec();
    let size = u16::try_from(bytes.len()).expect("an input is small");
    out.push(1);
    out.extend(size.to_le_bytes());
    out.extend((!size).to_le_bytes());
    out.extend(bytes);
    out.extend(crc32fast::hash(bytes).to_le_bytes());
    out.extend(u32::from(size).to_le_bytes());
    out
}
