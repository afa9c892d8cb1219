//! Files of records: outcomes of other people's runs, and calls that failed.

use std::path::Path;

use host::author::replay;
use host::checkpoint::owned::FAILED_CALL_FILE;
use host::evidence::table;

use crate::{all_told, directory, files};

/// Lines of `host evidence import`, and a `failed-call.json`.
pub(crate) fn records(bytes: &[u8]) {
    let [outcomes, call] = files(bytes);
    if let Ok(text) = std::str::from_utf8(outcomes) {
        match table::parse(text, Path::new("outcomes.jsonl")) {
            Ok(records) => {
                let again = table::parse(&table::lines(&records), Path::new("again.jsonl"));
                assert_eq!(again.expect("what was written is read"), records);
                let whole = table::Table { records };
                if let Some(first) = whole.records.first() {
                    let facts = whole.facts(&first.setup, first.recipe.as_deref()).to_string();
                    assert!(facts.len() < 1 << 20);
                }
            }
            Err(failure) => all_told(&failure),
        }
    }
    let folder = directory(&[(FAILED_CALL_FILE, call)]);
    if let Err(failure) = replay::read(&folder.path().join(FAILED_CALL_FILE)) {
        all_told(&failure);
    }
}
