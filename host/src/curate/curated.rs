//! What came of a curation, for programs and for people.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::verdict::Reason;
use crate::data::filter::FilterReport;
use crate::diagnostic::Diagnostic;

/// What came of a curation.
#[derive(Debug)]
pub struct Curated {
    /// Rows that were read and passed the row filters.
    pub rows: u64,
    /// Of those, the ones that are kept.
    pub kept: u64,
    /// Rows left out by each reason, in the order in which they are looked for.
    pub dropped: Vec<(Reason, u64)>,
    /// What the row filters of the config did before.
    pub filters: Vec<FilterReport>,
    /// Where the files are.
    pub directory: PathBuf,
    /// Config of the rows that are kept, and of the control.
    pub configs: [PathBuf; 2],
    /// What may surprise.
    pub remarks: Vec<Diagnostic>,
}

impl Curated {
    /// For programs.
    pub fn to_json(&self) -> Value {
        let dropped: serde_json::Map<String, Value> =
            self.dropped.iter().map(|(reason, rows)| (reason.name().to_owned(), json!(rows))).collect();
        json!({
            "rows": self.rows,
            "kept": self.kept,
            "dropped": dropped,
            "row_filters": self.filters.iter().map(FilterReport::to_json).collect::<Vec<_>>(),
            "directory": self.directory.display().to_string(),
            "train": self.configs[0].display().to_string(),
            "control": self.configs[1].display().to_string(),
        })
    }
}
