//! Against what pyarrow sees in the same files (`tests/fixtures/loaders/make.py`), and against files that lie.

use plugin_sdk::loader::{DatasetLoader as _, Memory, Source};
use serde_json::Value;

use rows::Loader;

use super::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/loaders/");

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(format!("{FIXTURES}{name}")).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn open(bytes: Vec<u8>) -> Result<Loader<Arrow>, Error> {
    Loader::open(ColumnsConfig::default(), Source::File(Rc::new(Memory(bytes))))
}

fn all(mut loader: Loader<Arrow>, max_rows: u32) -> Result<Vec<Result<Row, BadRow>>, Error> {
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

#[test]
fn rows_are_those_of_pyarrow() {
    for name in
        ["types.stream.arrow", "types.file.arrow", "nested.stream.arrow", "many.file.arrow", "many.stream.arrow"]
    {
        let stem = name.split_once('.').unwrap().0;
        let wanted = String::from_utf8(bytes(&format!("{stem}.rows.jsonl"))).unwrap();
        let wanted: Vec<Value> = wanted.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for max_rows in [1, 7, 1000] {
            let found = all(open(bytes(name)).unwrap(), max_rows).unwrap();
            assert_eq!(found.len(), wanted.len(), "{name}");
            for (found, wanted) in found.iter().zip(&wanted) {
                let found = found.as_ref().unwrap();
                let json: Value = serde_json::from_str(&found.json).unwrap();
                assert_eq!(json, *wanted, "{name}, {}", found.position);
            }
        }
        assert_eq!(open(bytes(name)).unwrap().rows(), Some(wanted.len() as u64), "{name}");
    }
}

#[test]
fn a_cursor_goes_on_where_it_was() {
    for name in ["many.file.arrow", "types.stream.arrow"] {
        let mut whole = open(bytes(name)).unwrap();
        loop {
            let cursor = whole.cursor();
            let mut again = open(bytes(name)).unwrap();
            again.seek(&cursor).unwrap();
            let (one, other) = (whole.next(70).unwrap(), again.next(70).unwrap());
            assert_eq!(format!("{one:?}"), format!("{other:?}"));
            if one.done {
                break;
            }
        }
    }
}

fn told(bytes: Vec<u8>) -> String {
    match open(bytes).and_then(|loader| all(loader, 100)) {
        Err(Error::Failed(message)) => message,
        other => panic!("{:?}", other.map(|rows| rows.len())),
    }
}

#[test]
fn what_cannot_be_read_is_told() {
    let file = bytes("many.file.arrow");
    assert!(told(file[..file.len() - 10].to_vec()).contains("is cut short"));
    let stream = bytes("many.stream.arrow");
    assert!(told(stream[..stream.len() / 2].to_vec()).contains("is cut short"));
    assert!(told([stream.clone(), stream].concat()).contains("more behind the end"));
    assert!(told(bytes("packed.arrow")).contains("packed (ZSTD)"));
    assert!(told(b"PAR1".to_vec()).contains("write `ds_type: parquet`"));
    assert!(told(Vec::new()).contains("not"));
}

/// Every byte of a small file changed: rows, bad rows or one message, and nothing else.
#[test]
fn files_that_lie_are_errors() {
    let mut panics = Vec::new();
    for name in ["types.stream.arrow", "types.file.arrow", "nested.stream.arrow"] {
        let whole = bytes(name);
        for at in 0..whole.len() {
            for change in [0xff, 0x80, 0x01] {
                let mut broken = whole.clone();
                broken[at] ^= change;
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
    assert!(panics.is_empty(), "{}: {panics:?}", panics.len());
}
