//! What came of a curation, for programs and for people.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::verdict::Reason;
use crate::config::ScoreBy;
use crate::data::filter::FilterReport;
use crate::diagnostic::Diagnostic;
use crate::report::progress::whole;

/// What came of a curation.
#[derive(Debug)]
pub struct Curated {
    /// Rows that were read and passed the row filters.
    pub rows: u64,
    /// Of those, the ones that are kept.
    pub kept: u64,
    /// Rows left out by each reason, in the order in which they are looked for.
    pub dropped: Vec<(Reason, u64)>,
    /// What was scored.
    pub scored: Option<Scored>,
    /// What the row filters of the config did before.
    pub filters: Vec<FilterReport>,
    /// Where the files are.
    pub directory: PathBuf,
    /// Config of the rows that are kept, and of the control.
    pub configs: [PathBuf; 2],
    /// What may surprise.
    pub remarks: Vec<Diagnostic>,
}

/// What was scored, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// What was measured.
    pub by: ScoreBy,
    /// Rows that have a score.
    pub rows: u64,
    /// Of those, the ones that the model was asked about now; what it said of the others was kept.
    pub asked: u64,
    /// The lowest score, the one in the middle and the highest.
    pub range: [f64; 3],
}

/// A score with as many digits as tell something.
pub(super) fn rounded(score: f64) -> String {
    match score.abs() {
        1e7.. => format!("{score:.2e}"),
        100.0.. => whole(score),
        10.0.. => format!("{score:.1}"),
        _ => format!("{score:.3}"),
    }
}

impl Scored {
    /// For people: the lowest score to the highest, and the one in the middle.
    pub fn range_words(&self) -> String {
        let [lowest, median, highest] = self.range.map(rounded);
        format!("{lowest} to {highest}, {median} in the middle")
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let [lowest, median, highest] = self.range;
        json!({
            "by": self.by,
            "rows": self.rows,
            "asked": self.asked,
            "lowest": lowest,
            "median": median,
            "highest": highest,
        })
    }
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
            "score": self.scored.as_ref().map(Scored::to_json),
            "row_filters": self.filters.iter().map(FilterReport::to_json).collect::<Vec<_>>(),
            "directory": self.directory.display().to_string(),
            "train": self.configs[0].display().to_string(),
            "control": self.configs[1].display().to_string(),
        })
    }
}
