//! Row filters: which rows of a dataset are trained on, and how good they are. The loop cannot tell a sandboxed filter from
//! a native one.

use std::collections::BTreeMap;

use plugin_runtime::PluginError;
use plugin_runtime::types::Verdict;
use serde::{Deserialize, Serialize};

/// Reasons of one filter that are counted apart; the rest is counted together.
const REASONS: usize = 20;

/// Judges rows (JSON objects), many at a time.
pub trait RowFilter {
    /// One verdict a row, in order.
    fn judge(&mut self, rows: &[String]) -> Result<Vec<Verdict>, PluginError>;
}

impl RowFilter for plugin_runtime::Filter {
    fn judge(&mut self, rows: &[String]) -> Result<Vec<Verdict>, PluginError> {
        Self::judge(self, rows)
    }
}

/// A filter of one dataset, started for it.
pub struct DatasetFilter {
    /// Name of the plugin.
    pub plugin: String,
    /// Where the config names it: what tells two uses of one plugin apart.
    pub path: String,
    /// Rows with a lower score are left out.
    pub min_score: Option<f64>,
    /// The filter.
    pub filter: Box<dyn RowFilter>,
}

impl DatasetFilter {
    /// Judges some rows. True for each that stays; all are counted in `report`.
    pub fn judge(&mut self, rows: &[String], report: &mut FilterReport) -> Result<Vec<bool>, PluginError> {
        let verdicts = self.filter.judge(rows)?;
        Ok(verdicts.into_iter().map(|verdict| report.count(verdict, self.min_score)).collect())
    }
}

/// What one filter did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FilterReport {
    /// Name of the plugin.
    pub plugin: String,
    /// Where the config names it.
    pub path: String,
    /// Rows that it saw.
    pub rows: u64,
    /// Rows that stayed.
    pub kept: u64,
    /// Rows that got a score, and the sum of the scores.
    scores: (u64, f64),
    reasons: BTreeMap<String, u64>,
    /// Rows left out for reasons beyond the first [`REASONS`].
    other: u64,
}

impl FilterReport {
    /// Nothing was judged yet.
    pub fn new(filter: &DatasetFilter) -> Self {
        let (plugin, path) = (filter.plugin.clone(), filter.path.clone());
        Self { plugin, path, rows: 0, kept: 0, scores: (0, 0.0), reasons: BTreeMap::new(), other: 0 }
    }

    /// Mean of all scores, those of rows left out included; none where no row got one.
    pub fn mean_score(&self) -> Option<f64> {
        let (count, sum) = self.scores;
        (count > 0).then(|| sum / count as f64)
    }

    /// Why rows were left out and how many, the most frequent reason first, the rest at the end.
    pub fn reasons(&self) -> Vec<(String, u64)> {
        let mut reasons: Vec<(String, u64)> =
            self.reasons.iter().map(|(reason, count)| (reason.clone(), *count)).collect();
        reasons.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        if self.other > 0 {
            reasons.push(("other reasons".to_owned(), self.other));
        }
        reasons
    }

    /// For a person: how many rows stayed, and the mean score.
    pub fn words(&self) -> String {
        let score = self.mean_score().map(|mean| format!(", mean score {mean:.3}")).unwrap_or_default();
        format!("{} of {} rows kept{score}", self.kept, self.rows)
    }

    /// For a program.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "plugin": self.plugin, "rows": self.rows, "kept": self.kept, "mean_score": self.mean_score(),
        })
    }

    /// Adds what the same filter did in another dataset.
    pub fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.kept += other.kept;
        self.scores = (self.scores.0 + other.scores.0, self.scores.1 + other.scores.1);
        self.other += other.other;
        for (reason, count) in &other.reasons {
            self.left_out(reason, *count);
        }
    }

    /// Counts a verdict. True if the row stays.
    fn count(&mut self, verdict: Verdict, min_score: Option<f64>) -> bool {
        self.rows += 1;
        if let Some(score) = verdict.score {
            self.scores = (self.scores.0 + 1, self.scores.1 + score);
        }
        let too_low = min_score.filter(|min| verdict.score.is_some_and(|score| score < *min));
        if let (true, Some(min)) = (verdict.keep, too_low) {
            self.left_out(&format!("score below {min}"), 1);
        } else if verdict.keep {
            self.kept += 1;
            return true;
        } else {
            let reason = verdict.reason.filter(|reason| !reason.is_empty());
            self.left_out(reason.as_deref().unwrap_or("no reason given"), 1);
        }
        false
    }

    fn left_out(&mut self, reason: &str, count: u64) {
        if let Some(known) = self.reasons.get_mut(reason) {
            *known += count;
        } else if self.reasons.len() < REASONS {
            self.reasons.insert(reason.to_owned(), count);
        } else {
            self.other += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps even numbers and scores each with itself; says no two reasons alike.
    struct Even;

    impl RowFilter for Even {
        fn judge(&mut self, rows: &[String]) -> Result<Vec<Verdict>, PluginError> {
            let judge = |row: &String| {
                let number: u32 = row.parse().unwrap();
                let keep = number.is_multiple_of(2);
                Verdict { keep, score: Some(number.into()), reason: (!keep).then(|| format!("{number} is odd")) }
            };
            Ok(rows.iter().map(judge).collect())
        }
    }

    fn judged(numbers: std::ops::Range<u32>, min_score: Option<f64>) -> (Vec<bool>, FilterReport) {
        let (plugin, path) = ("even".to_owned(), "row_filters[0]".to_owned());
        let mut filter = DatasetFilter { plugin, path, min_score, filter: Box::new(Even) };
        let mut report = FilterReport::new(&filter);
        let rows: Vec<String> = numbers.map(|number| number.to_string()).collect();
        (filter.judge(&rows, &mut report).unwrap(), report)
    }

    #[test]
    fn rows_are_kept_by_verdict_and_by_score() {
        let (kept, report) = judged(0..5, Some(1.5));
        assert_eq!(kept, [false, false, true, false, true]);
        assert_eq!((report.rows, report.kept, report.mean_score()), (5, 2, Some(2.0)));
        assert_eq!(report.reasons()[2], ("score below 1.5".to_owned(), 1));
    }

    #[test]
    fn reasons_without_end_are_counted_together() {
        let (_, mut report) = judged(0..100, None);
        let reasons = report.reasons();
        assert_eq!((reasons.len(), &reasons[20]), (21, &("other reasons".to_owned(), 30)));
        report.add(&judged(0..100, None).1);
        let reasons = report.reasons();
        assert_eq!((reasons.len(), reasons[0].1, reasons[20].1), (21, 2, 60));
        assert_eq!((report.rows, report.kept), (200, 100));
    }
}
