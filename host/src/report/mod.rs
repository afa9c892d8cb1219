//! What a run tells: `metrics.jsonl`, the progress bar or plain lines on stderr, JSON events on stdout, and the closing
//! summary. The loop hands records over and never prints.

pub mod metrics;
pub mod progress;
pub mod summary;

use std::path::Path;

use plugin_runtime::Meters;

use self::metrics::{EvalRecord, MetricsFile, PluginCost, PluginCosts, TrainRecord};
use self::progress::Progress;
use crate::checkpoint::owned::METRICS_FILE;
use crate::diagnostic::Diagnostic;
use crate::terminal::{self, Safe};

/// How a command talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Text for a person on stderr.
    Human,
    /// One JSON object per line on stdout, progress on stderr only as plain log lines.
    Json,
}

/// All the ways in which a run reports, behind one door.
#[derive(Debug)]
pub struct Reporter {
    output: Output,
    metrics: MetricsFile,
    progress: Progress,
    costs: PluginCosts,
}

impl Reporter {
    /// Opens `metrics.jsonl` in `output_dir`. Lines of steps after `finished_steps` come from a run that went further
    /// than the checkpoint now resumed; they are dropped, because those steps are made again.
    pub fn open(
        output_dir: &Path,
        output: Output,
        finished_steps: u64,
        total_steps: u64,
        plugins: Meters,
    ) -> Result<Self, std::io::Error> {
        Ok(Self {
            output,
            metrics: MetricsFile::open(&output_dir.join(METRICS_FILE), finished_steps)?,
            progress: Progress::new(total_steps, finished_steps, output == Output::Human),
            costs: PluginCosts::new(plugins),
        })
    }

    /// One finished optimizer step; `log` says whether it is one of the logged ones.
    pub fn train(&mut self, record: &TrainRecord, log: bool) {
        self.progress.step(record, log);
        if log {
            self.record("train", record);
        }
    }

    /// One finished evaluation.
    pub fn eval(&mut self, record: &EvalRecord) {
        self.progress.eval(record);
        self.record("eval", record);
    }

    /// A line for a person; nothing that a program needs.
    pub fn say(&self, line: &str) {
        self.progress.say(&Safe::text(line));
    }

    /// A remark for a person in the middle of a run; programs get an event instead.
    pub fn remark(&self, diagnostic: &Diagnostic) {
        self.progress.say(&Safe::diagnostic(diagnostic, terminal::in_color()).trimmed());
    }

    /// An event for a program: on stdout with `--json`, nowhere otherwise.
    pub fn event(&self, event: &str, fields: serde_json::Value) {
        if self.output == Output::Json {
            emit(event, fields);
        }
    }

    /// What each plugin cost so far.
    pub fn plugin_costs(&self) -> Vec<PluginCost> {
        self.costs.all()
    }

    /// Takes the bar away, so that what follows stands alone.
    pub fn finish(&mut self) -> Option<String> {
        self.progress.finish();
        self.metrics.warning().map(ToOwned::to_owned)
    }

    fn record<T: serde::Serialize>(&mut self, event: &str, record: &T) {
        let mut fields = serde_json::to_value(record).expect("records are plain data");
        self.costs.add(&mut fields);
        self.metrics.append(event, &fields);
        self.event(event, fields);
    }
}

/// Prints one JSON event on stdout. A closed pipe is not an error: whoever read it has seen enough.
pub fn emit(event: &str, fields: serde_json::Value) {
    terminal::print_json_line(&metrics::event_line(event, fields));
}
