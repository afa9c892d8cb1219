//! What a file is that is not what a loader expects: told from its first bytes, with the loader that reads it, or the
//! command that makes JSON lines of it.

use plugin_sdk::Error;
use plugin_sdk::loader::ReadAt;

use crate::extension;
use crate::shell::{converted, quoted};

/// Bytes at the start of a file that are looked at.
pub const HEAD: u32 = 1 << 16;
/// Characters of a file that a message shows.
const SHOWN: usize = 24;

/// How the rows of a format become JSON lines. `IN` and `OUT` stand for the files.
enum Way {
    /// A command that writes them.
    Command(&'static str),
    /// Words: the file is the wrong one.
    Words(&'static str),
}

use Way::{Command, Words};

/// Where a format has its mark, the mark, its name, the way out.
#[rustfmt::skip]
const BINARY: &[(usize, &[u8], &str, Way)] = &[
    (0, b"PAR1", "a parquet file", Words("write `ds_type: parquet`")),
    (0, b"ARROW1", "an Arrow file", Words("write `ds_type: arrow`")),
    (0, b"\xff\xff\xff\xff", "an Arrow stream", Words("write `ds_type: arrow`")),
    (0, b"FEA1", "a Feather file", Command("python3 -c 'import pandas, sys; pandas.read_feather(sys.argv[1]).to_json(sys.argv[2], orient=\"records\", lines=True)' IN OUT")),
    (0, b"ORC", "an ORC file", Command("python3 -c 'import pandas, sys; pandas.read_orc(sys.argv[1]).to_json(sys.argv[2], orient=\"records\", lines=True)' IN OUT")),
    (0, b"Obj\x01", "an Avro file", Command("python3 -c 'import fastavro, json, sys; [print(json.dumps(row)) for row in fastavro.reader(open(sys.argv[1], \"rb\"))]' IN > OUT")),
    (0, b"SQLite format 3\0", "an SQLite database", Command("sqlite3 -json IN 'SELECT * FROM my_table' | jq -c '.[]' > OUT")),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", Command("python3 -c 'import pandas, sys; pandas.read_hdf(sys.argv[1]).to_json(sys.argv[2], orient=\"records\", lines=True)' IN OUT")),
    (0, b"\x93NUMPY", "a NumPy array", Words("rows are JSON objects; an array of numbers has no texts")),
    (0, b"\xfd7zXZ\0", "compressed (xz)", Command("xz -dc IN > OUT")),
    (0, b"BZh", "compressed (bzip2)", Command("bzip2 -dc IN > OUT")),
    (0, b"\x04\x22\x4d\x18", "compressed (lz4)", Command("lz4 -dc IN > OUT")),
    (0, b"PK\x03\x04", "a zip archive", Command("unzip -p IN > OUT")),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", Command("7z x -so IN > OUT")),
    (0, b"Rar!", "a RAR archive", Command("unrar p -inul IN > OUT")),
    (257, b"ustar", "a tar archive", Command("tar -xOf IN > OUT")),
    (0, b"\x89PNG", "a PNG picture", Words(WRONG_FILE)),
    (0, b"\xff\xd8\xff", "a JPEG picture", Words(WRONG_FILE)),
    (0, b"GIF8", "a GIF picture", Words(WRONG_FILE)),
    (0, b"%PDF", "a PDF document", Words("take its text out first (`pdftotext`), and write it as JSON lines")),
    (0, b"\x7fELF", "a program", Words(WRONG_FILE)),
    (0, b"{\\rtf", "an RTF document", Words("save it as plain text first, and write it as JSON lines")),
];

const WRONG_FILE: &str = "name the file with the rows in `path`";

/// What a loader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// JSON lines, or a list.
    Json,
    /// A table in text.
    Csv,
    /// Lines of text.
    Text,
    /// A parquet file.
    Parquet,
    /// An Arrow file or stream.
    Arrow,
}

impl Expected {
    fn words(self) -> &'static str {
        match self {
            Self::Json => "JSON lines",
            Self::Csv => "CSV",
            Self::Text => "text",
            Self::Parquet => "parquet",
            Self::Arrow => "an Arrow file",
        }
    }
}

/// Why a file that starts with these bytes has no rows of the expected format; none where it may have.
pub fn other(file: &dyn ReadAt, head: &[u8], expected: Expected) -> Option<Error> {
    let name = file.name();
    let told = |what: &str, way: &Way| {
        let help = match way {
            Command(command) => command_for(command, &name),
            Words(words) => (*words).to_owned(),
        };
        Some(Error::failed_with_help(format!("`{name}` is {what}, not {}", expected.words()), help))
    };
    if let Some((_, _, what, way)) =
        BINARY.iter().find(|(at, mark, ..)| head.get(*at..).is_some_and(|head| head.starts_with(mark)))
    {
        return told(what, way);
    }
    if head.len() >= 2 && head[0] == 0x80 && (2..=5).contains(&head[1]) {
        return told(
            "a pickle of Python",
            &Words("a pickle can run code when it is read: convert it where you trust it"),
        );
    }
    if head.len() > 9 && head[8] == b'{' && head[5..8] == [0; 3] {
        return told("a safetensors file", &Words(WRONG_FILE));
    }
    if let Some((encoding, from)) = wide(head) {
        return told(encoding, &Command(from));
    }
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    if head.iter().any(|byte| matches!(byte, 0..=8 | 14..=26)) && head.first() != Some(&b'{') {
        return told("no text", &Words(WRONG_FILE));
    }
    let text = String::from_utf8_lossy(head);
    let text = text.trim_start();
    let lower: String = text.chars().take(64).collect::<String>().to_lowercase();
    if text.starts_with("version https://git-lfs.github.com/spec/") {
        let pull = format!("git lfs pull --include {}", quoted(name.rsplit('/').next().unwrap_or(&name)));
        return Some(Error::failed_with_help(format!("`{name}` is a Git LFS pointer, not the file itself"), pull));
    }
    if lower.starts_with("<!doctype html") || lower.starts_with("<html") {
        return told("a web page", &Words("it was saved instead of the file behind it; download that one again"));
    }
    match expected {
        Expected::Text => return None,
        Expected::Csv => {
            let is_json = text.starts_with("{\"") || text.starts_with("[{");
            return is_json.then(|| told("JSON", &Words("write `ds_type: json`"))).flatten();
        }
        Expected::Parquet | Expected::Arrow if text.starts_with(['{', '[']) => {
            return told("JSON", &Words("write `ds_type: json`"));
        }
        Expected::Parquet | Expected::Arrow => {
            return told("text", &Words("`ds_type` names another format; `csv` and `text` are text"));
        }
        Expected::Json => {}
    }
    if text.starts_with('<') {
        return told("XML", &Words("write its rows as JSON, one object per line"));
    }
    // What can begin a JSON value is told row by row; so is a file in which rows come later.
    let begins_json = text.starts_with(|c: char| c.is_ascii_digit() || "{[\"-".contains(c))
        || ["true", "false", "null", "NaN", "Infinity"].iter().any(|word| text.starts_with(word));
    let has_rows = text.lines().any(|line| line.trim_start().starts_with('{'));
    let separator = separator(text, &name);
    if text.is_empty() || has_rows || (begins_json && separator.is_none() && !is_yaml(text, &name)) {
        return None;
    }
    match separator {
        Some('\t') => told("a TSV file (columns with tabs between them)", &Words("write `ds_type: tsv`")),
        Some(';') => told(
            "a CSV file (with `;` between its columns)",
            &Words("write `ds_type: {name: csv, config: {delimiter: ';'}}`"),
        ),
        Some(_) => told("a CSV file", &Words("write `ds_type: csv`")),
        None if is_yaml(text, &name) => told("YAML", &Command(YAML)),
        None => {
            let start: String = text.lines().next().unwrap_or_default().chars().take(SHOWN).collect();
            let message = format!("`{name}` holds no JSON lines: it starts with `{start}`");
            Some(Error::failed_with_help(
                message,
                "if each line of it is a row of text: `ds_type: text`, with `type: completion`",
            ))
        }
    }
}

const YAML: &str = "python3 -c 'import json, sys, yaml; [print(json.dumps(row)) for row in yaml.safe_load(open(sys.argv[1]))]' IN > OUT";

/// A command with the file in place of `IN`, and the one for its rows in place of `OUT`.
fn command_for(command: &str, name: &str) -> String {
    let word = |word: &str| match word {
        "IN" => quoted(name),
        "OUT" => quoted(&converted(name)),
        word => word.to_owned(),
    };
    command.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// UTF-16 and UTF-32, with a mark or without: ASCII has zero bytes in them.
fn wide(head: &[u8]) -> Option<(&'static str, &'static str)> {
    let zeros: Vec<bool> = head.iter().take(4).map(|&byte| byte == 0).collect();
    match (head, zeros.as_slice()) {
        ([0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..], _) => {
            Some(("text in UTF-32", "iconv -f UTF-32 -t UTF-8 IN > OUT"))
        }
        ([0xff, 0xfe, ..] | [0xfe, 0xff, ..], _) => Some(("text in UTF-16", "iconv -f UTF-16 -t UTF-8 IN > OUT")),
        (_, [false, true, true, true]) => {
            Some(("text in UTF-32 (little-endian, without a mark)", "iconv -f UTF-32LE -t UTF-8 IN > OUT"))
        }
        (_, [true, true, true, false]) => {
            Some(("text in UTF-32 (big-endian, without a mark)", "iconv -f UTF-32BE -t UTF-8 IN > OUT"))
        }
        (_, [false, true, false, true]) => {
            Some(("text in UTF-16 (little-endian, without a mark)", "iconv -f UTF-16LE -t UTF-8 IN > OUT"))
        }
        (_, [true, false, true, false]) => {
            Some(("text in UTF-16 (big-endian, without a mark)", "iconv -f UTF-16BE -t UTF-8 IN > OUT"))
        }
        _ => None,
    }
}

/// What stands between the columns of a table. Without the extension of one, its first line must look like names of columns.
fn separator(text: &str, name: &str) -> Option<char> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let (header, second) = (lines.next()?, lines.next());
    let extension = extension(name);
    let count = |line: &str, separator: char| line.matches(separator).count();
    if extension == "tsv" || extension == "tab" {
        return Some('\t');
    }
    let most = ['\t', ',', ';'].into_iter().filter(|&separator| count(header, separator) > 0);
    let separator = most.max_by_key(|&separator| count(header, separator));
    if extension == "csv" {
        return Some(separator.unwrap_or(','));
    }
    let separator = separator?;
    let is_name = |field: &str| {
        let field = field.trim_matches('"');
        !field.is_empty()
            && field.len() <= 40
            && field.trim() == field
            && field.chars().all(|c| c.is_alphanumeric() || " _-.".contains(c))
    };
    let fits = header.split(separator).all(is_name)
        && !header.starts_with(|c: char| c.is_ascii_digit())
        && second.is_some_and(|second| count(second, separator) > 0);
    fits.then_some(separator)
}

fn is_yaml(text: &str, name: &str) -> bool {
    matches!(extension(name).as_str(), "yml" | "yaml") || text.starts_with("---\n") || text.starts_with("- ")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named(&'static str);

    impl ReadAt for Named {
        fn name(&self) -> String {
            self.0.to_owned()
        }

        fn len(&self) -> u64 {
            0
        }

        fn read(&self, _offset: u64, _len: u32) -> Vec<u8> {
            Vec::new()
        }
    }

    fn told(name: &'static str, head: &[u8]) -> String {
        match other(&Named(name), head, Expected::Json) {
            None => String::new(),
            Some(Error::Failed(message)) => message,
            Some(other) => panic!("{other:?}"),
        }
    }

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    #[test]
    fn files_of_other_formats_are_named() {
        let mut tar = b"a.jsonl".to_vec();
        tar.resize(257, 0);
        tar.extend(b"ustar");
        for (head, what) in [
            (b"PAR1....".to_vec(), "a parquet file"),
            (b"ARROW1\0\0".to_vec(), "an Arrow file"),
            (b"\xff\xff\xff\xff\x10\x02".to_vec(), "an Arrow stream"),
            (b"\xfd7zXZ\0".to_vec(), "compressed (xz)"),
            (b"BZh9".to_vec(), "compressed (bzip2)"),
            (b"PK\x03\x04\x14".to_vec(), "a zip archive"),
            (tar, "a tar archive"),
            (b"SQLite format 3\0".to_vec(), "an SQLite database"),
            (b"\x89HDF\r\n\x1a\n".to_vec(), "an HDF5 file"),
            (b"\x80\x04\x95".to_vec(), "a pickle of Python"),
            (b"\x89PNG\r\n".to_vec(), "a PNG picture"),
            (b"\x40\0\0\0\0\0\0\0{\"a\":".to_vec(), "a safetensors file"),
            (b"version https://git-lfs.github.com/spec/v1\noid".to_vec(), "a Git LFS pointer"),
            (b"\n<!DOCTYPE html>\n".to_vec(), "a web page"),
            (b"<?xml version=\"1.0\"?>".to_vec(), "XML"),
            (b"- a: 1\n  b: 2\n".to_vec(), "YAML"),
            (b"instruction,output\na,b\n".to_vec(), "a CSV file"),
            (b"\xef\xbb\xbfinstruction;output\na;b\n".to_vec(), "a CSV file (with `;`"),
            (b"instruction\toutput\na\tb\n".to_vec(), "a TSV file"),
            (b"\x01\x02\x03\x04\x05".to_vec(), "no text"),
            ([b"\xff\xfe".to_vec(), utf16("{}", u16::to_le_bytes)].concat(), "text in UTF-16"),
            ([b"\xfe\xff".to_vec(), utf16("{}", u16::to_be_bytes)].concat(), "text in UTF-16"),
            (utf16("{\"a\": 1}", u16::to_le_bytes), "text in UTF-16 (little-endian"),
            (utf16("{\"a\": 1}", u16::to_be_bytes), "text in UTF-16 (big-endian"),
            (b"\xff\xfe\0\0{\0\0\0".to_vec(), "text in UTF-32"),
            (b"{\0\0\0\"\0\0\0".to_vec(), "text in UTF-32 (little-endian"),
            (b"\0\0\0{\0\0\0\"".to_vec(), "text in UTF-32 (big-endian"),
        ] {
            let message = told("d.jsonl", &head);
            assert!(message.starts_with(&format!("`d.jsonl` is {what}")), "{what}: {message:?}");
            assert!(message.contains("\nhelp: "), "{message}");
        }
    }

    #[test]
    fn what_may_be_json_is_left_to_the_rows() {
        for head in
            ["", "{\"a\": 1}\n", "[1]", "3\n3\n", "\"x\"\n", "# rows\n{\"a\": 1}\n", "null\n", "{\"a\": \"\u{1}\"}"]
        {
            assert_eq!(told("d.jsonl", head.as_bytes()), "", "{head}");
        }
        assert!(
            told("d.jsonl", b"Once upon a time, there was\nno row, nor any\n").contains("it starts with `Once upon a")
        );
    }

    #[test]
    fn the_command_names_the_file_and_another_one_for_the_rows() {
        assert!(told("my data/d.csv", b"q\na\n").ends_with("\nhelp: write `ds_type: csv`"));
        assert!(told("my data/d.yml", b"- a: 1\n").ends_with(" 'my data/d.yml' > 'my data/d.jsonl'"));
        assert!(told("d.jsonl", b"BZh9").ends_with("\nhelp: bzip2 -dc d.jsonl > d-rows.jsonl"));
        assert!(told("d.jsonl.lz4", b"\x04\x22\x4d\x18").ends_with("lz4 -dc d.jsonl.lz4 > d.jsonl"));
    }
}
