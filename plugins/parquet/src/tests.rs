//! Against what pyarrow sees in the same files (`tests/fixtures/loaders/make.py`), and against files that lie.

use plugin_sdk::loader::{DatasetLoader as _, MemoryFiles, Source};
use serde_json::Value;

use rows::Loader;

use super::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/loaders/");

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(format!("{FIXTURES}{name}")).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn open(bytes: Vec<u8>) -> Result<Loader<Parquet>, Error> {
    Loader::open(ColumnsConfig::default(), Source::File(Rc::new(Memory(bytes))))
}

fn all(mut loader: Loader<Parquet>, max_rows: u32) -> Result<Vec<Result<Row, BadRow>>, Error> {
    let mut rows = Vec::new();
    loop {
        let batch = loader.next(max_rows)?;
        assert!(batch.done || !batch.rows.is_empty());
        rows.extend(batch.rows);
        if batch.done {
            return Ok(rows);
        }
    }
}

fn json(rows: &[Result<Row, BadRow>]) -> Vec<Value> {
    rows.iter().map(|row| serde_json::from_str(&row.as_ref().unwrap().json).unwrap()).collect()
}

fn expected(name: &str) -> Vec<Value> {
    let text = String::from_utf8(bytes(&format!("{name}.rows.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn rows_are_those_of_pyarrow() {
    for name in [
        "types.parquet",
        "nested.parquet",
        "many.snappy.parquet",
        "many.gzip.parquet",
        "many.zstd.parquet",
        "many.lz4.parquet",
        "many.none.parquet",
        "many.v2.parquet",
        "many.delta.parquet",
        "empty.parquet",
    ] {
        let wanted = expected(name.split_once('.').map(|(stem, _)| stem).unwrap());
        for max_rows in [1, 7, 1000] {
            let found = all(open(bytes(name)).unwrap(), max_rows).unwrap();
            let found = json(&found);
            assert_eq!(found.len(), wanted.len(), "{name}");
            for (index, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                assert_eq!(found, wanted, "{name}, row {index}");
            }
        }
        assert_eq!(open(bytes(name)).unwrap().rows(), Some(wanted.len() as u64), "{name}");
    }
}

#[test]
fn positions_name_row_groups_and_a_cursor_goes_on() {
    let mut whole = open(bytes("many.snappy.parquet")).unwrap();
    for step in 0..40 {
        let cursor = whole.cursor();
        let mut again = open(bytes("many.snappy.parquet")).unwrap();
        again.seek(&cursor).unwrap();
        let (one, other) = (whole.next(13).unwrap(), again.next(13).unwrap());
        assert_eq!(format!("{one:?}"), format!("{other:?}"), "{step}");
    }
    let rows = all(open(bytes("many.snappy.parquet")).unwrap(), 100).unwrap();
    assert_eq!(rows[0].as_ref().unwrap().position, "row group 1, row 1");
    assert_eq!(rows[100].as_ref().unwrap().position, "row group 2, row 1");
}

#[test]
fn only_wanted_columns_are_read() {
    let read = |columns: &[&str]| {
        let columns = Some(columns.iter().map(ToString::to_string).collect());
        let config = ColumnsConfig { columns, ..ColumnsConfig::default() };
        let loader = Loader::open(config, Source::File(Rc::new(Memory(bytes("nested.parquet")))))?;
        all(loader, 9)
    };
    let row = json(&read(&["messages"]).unwrap()).remove(0);
    assert_eq!(row.as_object().unwrap().keys().collect::<Vec<_>>(), ["messages"]);
    assert!(matches!(read(&["messages", "x"]), Err(Error::Config { path, .. }) if path == "columns[1]"));
}

fn told(result: Result<Loader<Parquet>, Error>) -> String {
    match result.and_then(|loader| all(loader, 100)) {
        Err(Error::Failed(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_read_is_told() {
    let whole = bytes("many.snappy.parquet");
    assert!(told(open(whole[..whole.len() - 10].to_vec())).contains("the footer cannot be read"));
    assert!(told(open(b"PAR1".to_vec())).contains("the footer cannot be read"));
    assert!(told(open(b"{\"a\": 1}".to_vec())).contains("write `ds_type: json`"));
    assert!(told(open(Vec::new())).contains("not"));
    let brotli = told(open(bytes("brotli.parquet")));
    assert!(brotli.contains("packed with BROTLI") && brotli.contains("pyarrow"), "{brotli}");
    let binary = all(open(bytes("bytes.parquet")).unwrap(), 9).unwrap();
    assert_eq!(json(&binary[..1])[0]["b"], "text");
    assert!(binary[1].as_ref().unwrap_err().error.message.contains("holds bytes"));
}

#[test]
fn shards_have_the_same_columns() {
    let open = |names: &[&str]| {
        let files = names.iter().map(|name| ((*name).to_owned(), bytes(name))).collect();
        let loader = Loader::<Parquet>::open(ColumnsConfig::default(), Source::Directory(Rc::new(MemoryFiles(files))))?;
        all(loader, 100)
    };
    let rows = open(&["many.gzip.parquet", "many.snappy.parquet"]).unwrap();
    assert_eq!(rows.len(), 2 * expected("many").len());
    assert_eq!(rows[0].as_ref().unwrap().position, "many.gzip.parquet row group 1, row 1");
    let Err(Error::Failed(message)) = open(&["many.gzip.parquet", "nested.parquet"]) else { panic!() };
    assert!(message.contains("files of one dataset have the same columns"), "{message}");
}

/// Files that fuzzing found: the crate's reader panics on them.
#[test]
fn differences_that_lie_are_told() {
    let suffix = told(open(bytes("found-suffix.parquet")));
    assert!(suffix.contains("has differences that cannot be"), "{suffix}");
    let none = told(open(bytes("found-no-difference.parquet")));
    assert!(none.contains("column"), "{none}");
}

/// Every byte of a small file changed: rows, bad rows or one message, and nothing else.
#[test]
fn files_that_lie_are_errors() {
    let (mut panics, mut tries) = (Vec::new(), 0);
    for name in ["types.parquet", "nested.parquet", "small.zstd.parquet", "small.delta.parquet"] {
        let whole = bytes(name);
        for at in 0..whole.len() {
            for change in [0xff, 0x80, 0x01] {
                let mut broken = whole.clone();
                broken[at] ^= change;
                tries += 1;
                let read = std::panic::catch_unwind(|| {
                    let rows = open(broken).and_then(|loader| all(loader, 100));
                    if let Err(Error::Failed(message)) = rows {
                        assert!(message.lines().count() <= 2, "{message}");
                    }
                });
                if read.is_err() {
                    panics.push((name, at, change));
                }
            }
        }
    }
    // Of a map whose keys and values are not as many, the crate's reader panics (60.1): a trap in the sandbox, a message there.
    let is_map = |(name, at, _): &(&str, usize, u8)| *name == "nested.parquet" && (520..660).contains(at);
    assert!(panics.iter().all(is_map) && panics.len() < 10, "{} of {tries}: {panics:?}", panics.len());
}
