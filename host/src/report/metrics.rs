//! `metrics.jsonl`: one line per logged step, appended and flushed, names as the field has them.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use plugin_runtime::{Meters, PluginStats};
use serde::Serialize;
use serde_json::Value;

/// One optimizer step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainRecord {
    /// Finished optimizer steps, counted from 1.
    pub step: u64,
    /// Passes over the data so far, as a fraction.
    pub epoch: f64,
    /// Loss of this step as its objective has it: for texts the mean per trained token, in nats.
    pub loss: f64,
    /// Length of the whole gradient before clipping.
    pub grad_norm: f64,
    /// Used for this step.
    pub learning_rate: f64,
    /// Tokens of this step, prompts included.
    pub tokens: u64,
    /// Of this step.
    pub tokens_per_second: f64,
    /// Of this step.
    pub step_seconds: f64,
    /// The most memory the process has had.
    pub peak_memory_bytes: u64,
    /// What the objective tells beside its loss, by TRL's names.
    #[serde(flatten)]
    pub metrics: BTreeMap<String, f64>,
}

/// One evaluation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvalRecord {
    /// Finished optimizer steps; 0 is before training.
    pub step: u64,
    /// Loss of the evaluation set, as [`TrainRecord::loss`]; none where only rewards judge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    /// `exp(eval_loss)`, where that is a mean per token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_perplexity: Option<f64>,
    /// What the objective tells beside its loss, by TRL's names with `eval_` before them.
    #[serde(flatten)]
    pub metrics: BTreeMap<String, f64>,
    /// Mean of each reward over the generations (`rewards/<name>/mean`), and with `on_error: zero` how many generations
    /// crashed it or reached a limit (`rewards/<name>/errors`).
    #[serde(flatten)]
    pub rewards: BTreeMap<String, f64>,
    /// Time it took.
    pub eval_seconds: f64,
}

/// Fields of an [`EvalRecord`] that are no metrics of the objective, though they begin as those do.
pub const EVAL_FIELDS: [&str; 3] = ["eval_loss", "eval_perplexity", "eval_seconds"];

/// What a plugin cost this process so far, over all its instances.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PluginCost {
    /// Its name.
    pub name: String,
    /// Calls made.
    pub calls: u64,
    /// Rows or items given or taken.
    pub rows: u64,
    /// Time inside its calls, over all threads.
    pub seconds: f64,
    /// Calls that it did not end by itself: it crashed or reached a limit.
    pub traps: u64,
    /// The most memory that one instance had.
    pub peak_memory_bytes: u64,
}

impl From<PluginStats> for PluginCost {
    fn from(stats: PluginStats) -> Self {
        let PluginStats { name, calls, rows, time, peak_memory_bytes, traps } = stats;
        Self { name, calls, rows, seconds: time.as_secs_f64(), traps, peak_memory_bytes }
    }
}

/// Adds the costs of plugins to records: `plugins/<name>/calls` and so on, totals so far, of the plugins that were called
/// since the record before.
#[derive(Debug)]
pub struct PluginCosts {
    meters: Meters,
    told: BTreeMap<String, u64>,
}

impl PluginCosts {
    /// Of the plugins of a run.
    pub fn new(meters: Meters) -> Self {
        Self { meters, told: BTreeMap::new() }
    }

    /// All costs, for the summary.
    pub fn all(&self) -> Vec<PluginCost> {
        self.meters.read().into_iter().map(PluginCost::from).collect()
    }

    /// Adds to the fields of a record.
    pub(super) fn add(&mut self, fields: &mut Value) {
        for cost in self.all() {
            if self.told.insert(cost.name.clone(), cost.calls) == Some(cost.calls) {
                continue;
            }
            let name = &cost.name;
            fields[format!("{PLUGINS}{name}/calls")] = cost.calls.into();
            fields[format!("{PLUGINS}{name}/rows")] = cost.rows.into();
            fields[format!("{PLUGINS}{name}/seconds")] = cost.seconds.into();
            fields[format!("{PLUGINS}{name}/traps")] = cost.traps.into();
            fields[format!("{PLUGINS}{name}/peak_memory_bytes")] = cost.peak_memory_bytes.into();
        }
    }
}

/// How the names of costs of plugins begin.
const PLUGINS: &str = "plugins/";

/// Fields of a record that are no metrics: where it stands, and what differs from one machine or moment to the next. So
/// does what plugins cost.
const NOT_METRICS: [&str; 6] = ["step", "v", "tokens_per_second", "step_seconds", "peak_memory_bytes", "eval_seconds"];

/// The metrics of a record or of a line of the file, by name: what the same run has again, bit for bit. JSON writes a
/// number that is not finite as null; it is NaN here. None for a line without a step.
pub fn metrics(fields: &Value) -> Option<(u64, Vec<(String, f64)>)> {
    let step = fields.get("step")?.as_u64()?;
    let metric = |(name, value): (&String, &Value)| {
        let value = if value.is_null() { f64::NAN } else { value.as_f64()? };
        (!NOT_METRICS.contains(&name.as_str()) && !name.starts_with(PLUGINS)).then(|| (name.clone(), value))
    };
    Some((step, fields.as_object()?.iter().filter_map(metric).collect()))
}

/// The lines of the file that is there; none where there is none.
pub fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The append-only file. A failed write is remembered and said once: it is no reason to stop training.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
    warning: Option<String>,
}

impl MetricsFile {
    /// Opens or creates it, without the lines of steps after `finished_steps` and without a torn last line.
    pub fn open(path: &Path, finished_steps: u64) -> Result<Self, std::io::Error> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let text = std::fs::read(path)?;
        let text = String::from_utf8_lossy(&text);
        let keep: String = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n') && step_of(line).is_some_and(|step| step <= finished_steps))
            .collect();
        if keep.len() != text.len() {
            file.set_len(0)?;
            file.write_all(keep.as_bytes())?;
        }
        file.seek(SeekFrom::End(0))?;
        Ok(Self { path: path.to_owned(), file, warning: None })
    }

    /// Appends one event.
    pub fn append(&mut self, event: &str, fields: &Value) {
        let line = event_line(event, fields.clone());
        if let Err(error) = writeln!(self.file, "{line}").and_then(|()| self.file.flush()) {
            let message = || format!("cannot write `{}`: {error}; training went on without it", self.path.display());
            self.warning.get_or_insert_with(message);
        }
    }

    /// The first failed write.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }
}

/// An event as one line of JSON: `event` and `v` first.
pub fn event_line(event: &str, fields: Value) -> String {
    let mut object = serde_json::Map::new();
    object.insert("event".into(), event.into());
    object.insert("v".into(), 1.into());
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    Value::Object(object).to_string()
}

fn step_of(line: &str) -> Option<u64> {
    serde_json::from_str::<Value>(line).ok()?.get("step")?.as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_read_back_has_the_metrics_of_its_record() {
        let rewards = BTreeMap::from([("rewards/a/mean".to_owned(), 0.1 + 0.2)]);
        let record = EvalRecord {
            step: 3,
            eval_loss: Some(f64::NAN),
            eval_perplexity: Some(1.0 / 3.0),
            metrics: BTreeMap::new(),
            rewards,
            eval_seconds: 9.0,
        };
        let mut fields = serde_json::to_value(&record).unwrap();
        fields["plugins/alpaca/calls"] = 3.into();
        let line: Value = serde_json::from_str(&event_line("eval", fields.clone())).unwrap();
        for value in [fields, line] {
            let (step, found) = metrics(&value).unwrap();
            assert_eq!(step, 3);
            let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["eval_loss", "eval_perplexity", "rewards/a/mean"]);
            assert!(found[0].1.is_nan());
            assert_eq!(
                [found[1].1.to_bits(), found[2].1.to_bits()],
                [(1.0 / 3.0_f64).to_bits(), (0.1 + 0.2_f64).to_bits()]
            );
        }
    }

    #[test]
    fn resuming_drops_later_steps_and_a_torn_line() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("metrics.jsonl");
        let mut metrics = MetricsFile::open(&path, 0).unwrap();
        for step in 1..=4 {
            metrics.append("train", &serde_json::json!({ "step": step }));
        }
        drop(metrics);
        let mut torn = std::fs::read_to_string(&path).unwrap();
        torn.push_str("{\"event\":\"train\",\"st");
        std::fs::write(&path, torn).unwrap();
        let mut metrics = MetricsFile::open(&path, 2).unwrap();
        metrics.append("train", &serde_json::json!({ "step": 3 }));
        let text = std::fs::read_to_string(&path).unwrap();
        let steps: Vec<_> = text.lines().map(|line| step_of(line).unwrap()).collect();
        assert_eq!(steps, [1, 2, 3]);
        assert!(text.starts_with(r#"{"event":"train","v":1,"step":1}"#));
    }
}
