//! The closing table of a run: what changed, how fast it went, where the result is, and what to do next.

use std::fmt::Write as _;
use std::path::PathBuf;

use engine::kernels::Usage;

use super::metrics::{EvalRecord, PluginCost};
use super::progress::whole;
use crate::data::dropped::LeftOut;
use crate::data::filter::FilterReport;

/// A kind of finding of a run-health plugin.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct HealthCount {
    /// The plugin.
    pub plugin: String,
    /// What it calls it.
    pub id: String,
    /// How often it was found.
    pub times: u64,
    /// When first.
    pub first_step: u64,
}

/// The best evaluation of a run that makes something of it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Judged {
    /// What evaluations were held against each other by.
    pub metric: String,
    /// What the best had.
    pub value: f64,
    /// The step after which it was.
    pub step: u64,
    /// The model of that step is the result.
    pub is_result: bool,
    /// The run ended before its last step, as evaluations had not become better for long enough.
    pub stopped_early: bool,
}

impl Judged {
    fn words(&self) -> String {
        let result = if self.is_result { ", which is the result" } else { "" };
        let early = if self.stopped_early { "; the run ended as none after it was better" } else { "" };
        format!("{} {:.4} after step {}{result}{early}", self.metric, self.value, self.step)
    }
}

/// A finished run.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Optimizer steps of the whole run.
    pub steps: u64,
    /// What was made of the best evaluation.
    pub best: Option<Judged>,
    /// Loss of the first step of the run and of its last.
    pub loss: Option<(f64, f64)>,
    /// Evaluations before and after.
    pub eval: Option<(EvalRecord, EvalRecord)>,
    /// Tokens trained in the whole run, prompts included.
    pub tokens: u64,
    /// Of those, the ones of this process: all of them, unless the run was stopped and went on.
    pub own_tokens: u64,
    /// Time of this process in training steps.
    pub train_seconds: f64,
    /// Time of this process in all, evaluations and saving included.
    pub wall_seconds: f64,
    /// The most memory that the process had.
    pub peak_memory_bytes: u64,
    /// What a GPU was used for.
    pub device_usage: Option<Usage>,
    /// Rows that were left out, by reason.
    pub dropped: Vec<LeftOut>,
    /// What each row filter did.
    pub filters: Vec<FilterReport>,
    /// What run-health plugins found.
    pub health: Vec<HealthCount>,
    /// What each plugin took.
    pub plugins: Vec<PluginCost>,
    /// Where the model is.
    pub output_dir: PathBuf,
}

impl Summary {
    /// The table for a person; `next` are commands that are likely to be wanted now.
    pub fn table(&self, next: &[String]) -> String {
        let mut rows: Vec<(String, String)> = vec![("steps".into(), whole(self.steps as f64))];
        if let Some((first, last)) = self.loss {
            rows.push(("loss".into(), format!("{first:.4} → {last:.4}")));
        }
        if let Some((before, after)) = &self.eval {
            if let (Some(before), Some(after)) = (before.eval_loss, after.eval_loss) {
                rows.push(("eval loss".into(), format!("{before:.4} → {after:.4}")));
            }
            let accuracy = |record: &EvalRecord| record.metrics.get("eval_rewards/accuracies").copied();
            if let (Some(before), Some(after)) = (accuracy(before), accuracy(after)) {
                rows.push(("accuracy".into(), format!("{} → {}", percent(before), percent(after))));
            }
            for (name, value) in &after.rewards {
                if let Some(name) = name.strip_prefix("rewards/").and_then(|name| name.strip_suffix("/errors")) {
                    let from = before.rewards.get(&format!("rewards/{name}/errors")).copied().unwrap_or(0.0);
                    if from + value > 0.0 {
                        let text = format!("{} → {} completions made it fail", whole(from), whole(*value));
                        rows.push((format!("{name} errors"), text));
                    }
                    continue;
                }
                let label = name.strip_prefix("rewards/").and_then(|name| name.strip_suffix("/mean")).unwrap_or(name);
                let from = before.rewards.get(name).copied().unwrap_or(f64::NAN);
                rows.push((label.to_owned(), format!("{} → {}", percent(from), percent(*value))));
            }
        }
        rows.extend(self.best.iter().map(|best| ("best".into(), best.words())));
        let speed = self.speed();
        rows.push(("tokens".into(), format!("{} at {} a second", whole(self.tokens as f64), whole(speed))));
        rows.push(("time".into(), format!("{:.1} s, {:.1} s of it training", self.wall_seconds, self.train_seconds)));
        let megabytes = |bytes: u64| format!("{} MB", whole(bytes as f64 / 1e6));
        match &self.device_usage {
            None => rows.push(("peak memory".into(), megabytes(self.peak_memory_bytes))),
            Some(usage) => {
                let (on_gpu, beside) = (megabytes(usage.peak_memory_bytes), megabytes(self.peak_memory_bytes));
                rows.push(("peak memory".into(), format!("{on_gpu} of the GPU's, {beside} of the machine's")));
                rows.extend(usage.remarks.iter().map(|remark| ("gpu".into(), remark.clone())));
            }
        }
        rows.extend(self.filters.iter().map(|filter| (format!("filter {}", filter.plugin), filter.words())));
        rows.extend(self.dropped.iter().map(|left_out| ("left out".into(), left_out.to_string())));
        for found in &self.health {
            let times = if found.times == 1 { "once".to_owned() } else { format!("{} times, first", found.times) };
            rows.push((
                format!("health {}", found.id),
                format!("{times} at step {} ({})", found.first_step, found.plugin),
            ));
        }
        for plugin in &self.plugins {
            let share = 100.0 * plugin.seconds / self.wall_seconds.max(1e-9);
            let mut text = format!(
                "{} rows in {} calls, {:.2} s ({share:.1} %), {} MB",
                whole(plugin.rows as f64),
                whole(plugin.calls as f64),
                plugin.seconds,
                whole((plugin.peak_memory_bytes as f64 / 1e6).ceil()),
            );
            match plugin.traps {
                0 => {}
                1 => text.push_str(", crashed or stopped once"),
                traps => {
                    let _ = write!(text, ", crashed or stopped {traps} times");
                }
            }
            rows.push((format!("plugin {}", plugin.name), text));
        }
        rows.push(("model".into(), self.output_dir.display().to_string()));
        let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let mut out = String::from("\ndone\n");
        for (name, value) in rows {
            let _ = writeln!(out, "  {name:<width$}  {value}");
        }
        if !next.is_empty() {
            out.push_str("next\n");
            for command in next {
                let _ = writeln!(out, "  {}", crate::diagnostic::escape(command));
            }
        }
        out
    }

    /// Tokens a second.
    fn speed(&self) -> f64 {
        self.own_tokens as f64 / self.train_seconds.max(1e-9)
    }

    /// The same for a program.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "steps": self.steps,
            "best": self.best,
            "first_loss": self.loss.map(|loss| loss.0),
            "final_loss": self.loss.map(|loss| loss.1),
            "eval_before": self.eval.as_ref().map(|eval| &eval.0),
            "eval_after": self.eval.as_ref().map(|eval| &eval.1),
            "tokens": self.tokens,
            "tokens_per_second": self.speed(),
            "train_seconds": self.train_seconds,
            "wall_seconds": self.wall_seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "device_usage": self.device_usage,
            "dropped": self.dropped,
            "row_filters": self.filters.iter().map(FilterReport::to_json).collect::<Vec<_>>(),
            "health": self.health,
            "plugins": self.plugins,
            "output_dir": self.output_dir.display().to_string(),
        })
    }
}

/// Rewards between 0 and 1 read best as shares; others as they are.
fn percent(value: f64) -> String {
    if (0.0..=1.0).contains(&value) { format!("{:.1} %", 100.0 * value) } else { format!("{value:.4}") }
}
