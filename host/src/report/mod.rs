//! What a run tells while it goes on: records into `metrics.jsonl`, and events to whoever observes it. The loop hands
//! records over and never prints.

pub mod console;
pub mod fetching;
pub mod metrics;
pub mod page;
pub mod progress;
pub mod samples;
pub mod summary;

use std::path::Path;

use plugin_runtime::Meters;
use plugin_runtime::types::{Advice, HealthFinding};
use serde::Serialize;
use serde_json::{Value, json};

use self::metrics::{EvalRecord, MetricsFile, PluginCost, PluginCosts, TrainRecord};
use self::samples::Extremes;
use crate::checkpoint::owned::{COMPLETIONS_FILE, METRICS_FILE};
use crate::diagnostic::Diagnostic;
use crate::terminal;

/// How a command talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Text for a person on stderr.
    Human,
    /// One JSON object per line on stdout, progress on stderr only as plain log lines.
    Json,
}

/// What a run is, as it begins or goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Start {
    /// The config's file.
    pub config: String,
    /// Where the run's files go.
    pub output_dir: String,
    /// Optimizer steps that an earlier process has made.
    pub step: u64,
    /// Optimizer steps of the whole run.
    pub total_steps: u64,
    /// Elements that are trained.
    pub trainable_parameters: u64,
    /// Elements of model and adapter.
    pub total_parameters: u64,
    /// Samples of the training set; of a stream, of its first window.
    pub samples: u64,
    /// They are a stream.
    pub streaming: bool,
    /// Their tokens.
    pub tokens: u64,
    /// Of those, the ones that are learned.
    #[serde(skip)]
    pub trained_tokens: u64,
    /// The model's, as transformers names it.
    #[serde(skip)]
    pub architecture: String,
}

/// Something that has happened in a run.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// The model is loaded; the first step comes next.
    Start(&'a Start),
    /// Before the start: the model is asked about answers as it is.
    Reference {
        /// Samples that are done.
        done: u64,
        /// Of so many.
        all: u64,
    },
    /// An optimizer step is finished.
    Train {
        /// What it did.
        record: &'a TrainRecord,
        /// Its fields in `metrics.jsonl`, if it is one of the logged steps.
        logged: Option<&'a Value>,
    },
    /// An evaluation is finished.
    Eval {
        /// What it found.
        record: &'a EvalRecord,
        /// Its fields in `metrics.jsonl`.
        logged: &'a Value,
        /// What the model wrote there, where rewards judge that.
        extremes: Option<&'a Extremes>,
    },
    /// The state is saved.
    Checkpoint {
        /// Steps that are finished.
        step: u64,
        /// The checkpoint's directory.
        path: &'a Path,
    },
    /// A run-health plugin has found something.
    Health {
        /// The plugin.
        plugin: &'a str,
        /// Steps that were finished.
        step: u64,
        /// What it found.
        finding: &'a HealthFinding,
        /// The finding for a person, the first time that it is found.
        remark: Option<&'a Diagnostic>,
    },
    /// Something to know that ends nothing.
    Remark(&'a Diagnostic),
    /// No step comes any more; the model is still to be written.
    End,
}

impl Event<'_> {
    /// Name and fields, as `--json` prints them; none for what programs are not told.
    pub fn to_json(&self) -> Option<(&'static str, Value)> {
        match self {
            Self::Start(start) => Some(("start", json!(start))),
            Self::Train { logged, .. } => logged.map(|fields| ("train", fields.clone())),
            Self::Eval { logged, .. } => Some(("eval", (*logged).clone())),
            Self::Checkpoint { step, path } => {
                Some(("checkpoint", json!({ "step": step, "path": path.display().to_string() })))
            }
            Self::Health { plugin, step, finding, .. } => Some(("health", health(plugin, *step, finding))),
            Self::Reference { done, all } => Some(("reference", json!({ "done": done, "all": all }))),
            Self::Remark(_) | Self::End => None,
        }
    }
}

fn health(plugin: &str, step: u64, finding: &HealthFinding) -> Value {
    json!({
        "plugin": plugin,
        "id": finding.id,
        "advice": match finding.advice {
            Advice::Note => "note",
            Advice::Warn => "warn",
            Advice::Stop => "stop",
        },
        "step": step,
        "message": finding.message,
        "why": finding.why,
        "help": finding.help,
    })
}

/// Whoever is told of a run while it goes on. What is told is in the output directory too, where it lasts.
pub trait Observer {
    /// Something has happened. The run waits until this returns.
    fn on(&mut self, event: Event<'_>);
}

/// All the ways in which a run reports, behind one door.
pub struct Reporter<'a> {
    metrics: MetricsFile,
    completions: Option<MetricsFile>,
    costs: PluginCosts,
    observer: &'a mut dyn Observer,
}

impl<'a> Reporter<'a> {
    /// Opens `metrics.jsonl` in `output_dir`, and with `writes_completions` `completions.jsonl`. Lines of steps after `finished_steps` come from a run that went further
    /// than the checkpoint now resumed; they are dropped, because those steps are made again.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(
        output_dir: &Path,
        finished_steps: u64,
        writes_completions: bool,
        plugins: Meters,
        observer: &'a mut dyn Observer,
    ) -> Result<Self, std::io::Error> {
        let metrics = MetricsFile::open(&output_dir.join(METRICS_FILE), finished_steps)?;
        let open = || MetricsFile::open(&output_dir.join(COMPLETIONS_FILE), finished_steps);
        let completions = writes_completions.then(open).transpose()?;
        Ok(Self { metrics, completions, costs: PluginCosts::new(plugins), observer })
    }

    /// One finished optimizer step; `log` says whether it is one of the logged ones.
    pub fn train(&mut self, record: &TrainRecord, log: bool) {
        let logged = log.then(|| self.record("train", record));
        self.tell(Event::Train { record, logged: logged.as_ref() });
    }

    /// What the model wrote for a logged step.
    pub fn completions(&mut self, lines: &[Value]) {
        if let Some(file) = &mut self.completions {
            for line in lines {
                file.append("completion", line);
            }
        }
    }

    /// One finished evaluation.
    pub fn eval(&mut self, record: &EvalRecord, extremes: Option<&Extremes>) {
        let logged = self.record("eval", record);
        self.tell(Event::Eval { record, logged: &logged, extremes });
    }

    /// What is in no file of the run's log.
    pub fn tell(&mut self, event: Event<'_>) {
        self.observer.on(event);
    }

    /// What each plugin cost so far.
    pub fn plugin_costs(&self) -> Vec<PluginCost> {
        self.costs.all()
    }

    /// No step comes any more. Says so, and whether the log is whole.
    pub fn end(&mut self) {
        self.tell(Event::End);
        let files = std::iter::once(&self.metrics).chain(&self.completions);
        for warning in files.filter_map(MetricsFile::warning) {
            self.observer.on(Event::Remark(&Diagnostic::warning("io::metrics", warning)));
        }
    }

    fn record<T: Serialize>(&mut self, event: &str, record: &T) -> Value {
        let mut fields = serde_json::to_value(record).expect("records are plain data");
        self.costs.add(&mut fields);
        self.metrics.append(event, &fields);
        fields
    }
}

/// Prints one JSON event on stdout. A closed pipe is not an error: whoever read it has seen enough.
pub fn emit(event: &str, fields: Value) {
    terminal::print_json_line(&metrics::event_line(event, fields));
}
