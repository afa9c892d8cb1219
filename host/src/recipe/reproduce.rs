//! Whether a run gave what a recipe says that it gives: the same bytes, nearly the same, or something else, and what differs
//! between the two that could be why.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::lock::{model_digests, outcome, points};
use crate::checkpoint::owned::METRICS_FILE;
use crate::config::recipe::{Lock, LockedPoint, LockedResult, Recipe};
use crate::diagnostic::{Diagnostic, Failure};
use crate::report::page::{begin, html};
use crate::train::output::described;

/// Metrics that say how well a model does: these are compared, by how their names begin.
const JUDGED: [&str; 4] = ["loss", "eval_loss", "reward", "eval_reward"];

/// What came of running a recipe again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The recipe's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What is to be said of it.
    pub verdict: Verdict,
    /// Steps that were made, and those of the recipe's own run.
    pub steps: [u64; 2],
    /// The recorded points up to there, one metric of each.
    pub points: Vec<Compared>,
    /// What differs between the two runs.
    pub differences: Vec<Difference>,
}

/// What is to be said of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Verdict {
    /// All metrics at all recorded points and, where all steps were made, the weights are the same, bit for bit.
    SameBytes {
        /// All steps were made, and the weights compared.
        whole: bool,
    },
    /// No judged metric is further away than this share of the recorded one.
    Within {
        /// The furthest, as a share.
        share: f64,
    },
    /// One is further away than is allowed.
    Diverged {
        /// The first step at which that is so.
        step: u64,
        /// How far away, as a share.
        share: f64,
    },
}

/// A metric at a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compared {
    /// Finished optimizer steps.
    pub step: u64,
    /// Name of the metric.
    pub metric: String,
    /// As the recipe has it.
    pub recorded: Option<f64>,
    /// As it is now.
    pub found: Option<f64>,
}

/// Something that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What.
    pub what: String,
    /// As the recipe has it.
    pub recorded: String,
    /// As it is now.
    pub found: String,
}

impl Report {
    /// Compares the run in a directory with what a recipe says of its own. A metric may be away by `tolerance`, a share.
    ///
    /// # Errors
    /// A recipe without a result, and a run that cannot be read.
    pub fn new(recipe: &Recipe, lock: &Lock, run: &Path, tolerance: f64) -> Result<Self, Failure> {
        let recorded = lock.result.as_ref().ok_or_else(|| {
            Diagnostic::error("recipe::result", format!("`{}` does not say what it gives", recipe.name))
                .help("who made it can add that: `host recipe lock recipe.yml --run DIRECTORY`")
        })?;
        let unreadable = || Diagnostic::error("recipe::run", format!("the run in `{}` cannot be read", run.display()));
        let record = described(run).ok_or_else(unreadable)?;
        let found: BTreeMap<u64, LockedPoint> =
            points(&run.join(METRICS_FILE)).into_iter().map(|point| (point.step, point)).collect();
        let last = record["step"].as_u64().or(found.keys().last().copied()).unwrap_or(0);
        let whole = last == recorded.steps && record["status"] == crate::train::output::FINISHED;
        let up_to: Vec<&LockedPoint> = recorded.curve.iter().filter(|point| point.step <= last).collect();
        let mut is_same = true;
        let mut compared = Vec::new();
        for point in up_to {
            let own = found.get(&point.step);
            for (name, &value) in &point.metrics {
                let now = own.and_then(|own| own.metrics.get(name).copied()).flatten();
                is_same &= now.map(f64::to_bits) == value.map(f64::to_bits);
                if JUDGED.iter().any(|judged| {
                    name == judged
                        || name.starts_with(&format!("{judged}s/"))
                        || name.starts_with(&format!("{judged}/"))
                }) {
                    let metric = name.clone();
                    compared.push(Compared { step: point.step, metric, recorded: value, found: now });
                }
            }
        }
        if compared.is_empty() {
            let message = format!("no recorded point lies within the {last} steps that were made");
            let help = format!("make more: `--steps {}`", recorded.curve.first().map_or(1, |point| point.step.max(1)));
            return Err(Diagnostic::error("recipe::steps", message).help(help).into());
        }
        let mut differences = differences(recorded, &record, lock);
        if whole {
            let model = model_digests(run, &record)?;
            is_same &= model == recorded.model;
            for (name, digest) in &recorded.model {
                let now = model.get(name).cloned().unwrap_or_default();
                if now != *digest {
                    differences.push(Difference { what: format!("`{name}`"), recorded: digest.clone(), found: now });
                }
            }
        }
        let verdict = if is_same { Verdict::SameBytes { whole } } else { judged(&compared, tolerance) };
        let (name, version) = (recipe.name.clone(), recipe.version.clone());
        Ok(Self { name, version, verdict, steps: [last, recorded.steps], points: compared, differences })
    }

    /// The verdict in words.
    pub fn words(&self) -> String {
        let [made, all] = self.steps;
        let of = if made == all { format!("all {all} steps") } else { format!("the first {made} of {all} steps") };
        match self.verdict {
            Verdict::SameBytes { whole: true } => format!("same bytes: metrics and weights after {of}"),
            Verdict::SameBytes { whole: false } => {
                format!("same bytes: metrics of {of}; weights are compared once all are made")
            }
            Verdict::Within { share } => format!("within ± {} at each recorded point of {of}", percent(share)),
            Verdict::Diverged { step, share } => {
                format!("diverged at step {step}: ± {} there, {of} made", percent(share))
            }
        }
    }

    /// True if it reproduced.
    pub fn is_good(&self) -> bool {
        !matches!(self.verdict, Verdict::Diverged { .. })
    }

    /// For a model card: Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("## Reproduction\n\nRecipe `{}` {}: {}.\n", self.name, self.version, self.words());
        if !self.differences.is_empty() {
            text.push_str("\n| | recipe | here |\n|---|---|---|\n");
            for Difference { what, recorded, found } in &self.differences {
                let _ = writeln!(text, "| {what} | {recorded} | {found} |");
            }
        }
        text
    }
}

impl Report {
    /// The whole page. It has no script and asks nobody for anything.
    pub fn page(&self) -> String {
        let title = format!("{} {}", html(&self.name), html(&self.version));
        let (title, heading) = (format!("Reproduction of {title}"), format!("Reproduction of <code>{title}</code>"));
        let mut page = begin(&title, &heading);
        let _ = writeln!(page, "<p class=\"lead\"><b>{}</b></p>", html(&self.words()));
        page.push_str("<section>\n<h2>What differs between the two runs</h2>\n");
        if self.differences.is_empty() {
            page.push_str("<p>Nothing: program, device, samples and plugins are the same.</p>\n");
        } else {
            page.push_str("<table>\n<tr><th></th><th>recipe</th><th>here</th></tr>\n");
            for Difference { what, recorded, found } in &self.differences {
                let cells = [what, recorded, found].map(|text| format!("<td>{}</td>", html(text)));
                let _ = writeln!(page, "<tr>{}</tr>", cells.concat());
            }
            page.push_str("</table>\n");
        }
        page.push_str("</section>\n<section>\n<h2>Recorded points</h2>\n<table>\n");
        page.push_str("<tr><th>step</th><th>metric</th><th>recipe</th><th>here</th><th>away</th></tr>\n");
        for point in &self.points {
            let number = |value: Option<f64>| value.map_or_else(|| "none".to_owned(), |value| value.to_string());
            let away = match away(point) {
                0.0 => "same".to_owned(),
                away if away.is_finite() => percent(away),
                _ => "no number".to_owned(),
            };
            let cells =
                [point.step.to_string(), point.metric.clone(), number(point.recorded), number(point.found), away];
            let _ = writeln!(page, "<tr>{}</tr>", cells.map(|text| format!("<td>{}</td>", html(&text))).concat());
        }
        page.push_str("</table>\n</section>\n</main>\n</body>\n</html>\n");
        page
    }
}

/// A share as a percentage that shows where the first digit is.
fn percent(share: f64) -> String {
    match share * 100.0 {
        percent if percent >= 0.1 => format!("{percent:.1} %"),
        percent if percent >= 0.001 => format!("{percent:.3} %"),
        percent => format!("{percent:.0e} %"),
    }
}

/// How far a metric is from the recorded one, as a share; infinite where one of the two is no number.
fn away(point: &Compared) -> f64 {
    match (point.recorded, point.found) {
        (Some(recorded), Some(found)) if recorded.to_bits() == found.to_bits() => 0.0,
        (Some(recorded), Some(found)) => (found - recorded).abs() / recorded.abs().max(f64::MIN_POSITIVE),
        (None, None) => 0.0,
        _ => f64::INFINITY,
    }
}

fn judged(points: &[Compared], tolerance: f64) -> Verdict {
    match points.iter().find(|point| away(point) > tolerance) {
        Some(point) => Verdict::Diverged { step: point.step, share: away(point) },
        None => Verdict::Within { share: points.iter().map(away).fold(0.0, f64::max) },
    }
}

/// What could be why two runs differ.
fn differences(recorded: &LockedResult, record: &Value, lock: &Lock) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut compare = |what: &str, recorded: &str, now: &str| {
        if recorded != now {
            let (recorded, now) = (recorded.to_owned(), now.to_owned());
            found.push(Difference { what: what.to_owned(), recorded, found: now });
        }
    };
    let Some(now) = outcome(record, Vec::new(), BTreeMap::new()).or_else(|| unfinished(record)) else { return found };
    compare("host", &recorded.host, &now.host);
    compare("device", &recorded.device, &now.device);
    compare("kernels", &recorded.kernels, &now.kernels);
    compare("precision", &recorded.precision, &now.precision);
    compare("threads", &recorded.threads.to_string(), &now.threads.to_string());
    let data = lock.data.as_ref().map_or("", |data| &data.sha256);
    compare("samples", data, record["data_sha256"].as_str().unwrap_or_default());
    for locked in &lock.plugins {
        let all = record["plugins"].as_array().into_iter().flatten();
        let own = all.clone().find(|plugin| plugin["name"] == locked.name.as_str());
        let own = own.and_then(|plugin| plugin["sha256"].as_str()).unwrap_or("none");
        compare(&format!("plugin `{}`", locked.name), &locked.sha256, own);
    }
    for locked in &lock.hub {
        let all = record["hub"].as_array().into_iter().flatten();
        let own = all.clone().find(|pin| pin["key"] == locked.key.as_str());
        let own = own.and_then(|pin| pin["commit"].as_str()).unwrap_or("a directory here");
        compare(&format!("`{}`", locked.name), &locked.commit, own);
    }
    found
}

/// What a run that was stopped has, as far as it is compared.
fn unfinished(record: &Value) -> Option<LockedResult> {
    let mut whole = record.clone();
    whole["summary"] = serde_json::json!({ "tokens": 0, "wall_seconds": 0.0, "peak_memory_bytes": 0 });
    outcome(&whole, Vec::new(), BTreeMap::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(step: u64, recorded: f64, found: f64) -> Compared {
        Compared { step, metric: "loss".into(), recorded: Some(recorded), found: Some(found) }
    }

    #[test]
    fn a_verdict_names_the_first_step_that_is_too_far_away() {
        let points = [point(1, 2.0, 2.0), point(2, 2.0, 2.01), point(3, 1.0, 1.2), point(4, 1.0, 2.0)];
        assert_eq!(judged(&points[..1], 0.05), Verdict::Within { share: 0.0 });
        assert!(matches!(judged(&points[..2], 0.05), Verdict::Within { share } if (share - 0.005).abs() < 1e-12));
        assert!(matches!(judged(&points, 0.05), Verdict::Diverged { step: 3, .. }));
        let lost = Compared { found: None, ..point(1, 1.0, 1.0) };
        assert!(matches!(judged(&[lost], 0.05), Verdict::Diverged { step: 1, .. }));
    }

    #[test]
    fn shares_show_their_first_digit() {
        assert_eq!([0.123, 0.000_05, 1e-9].map(percent), ["12.3 %", "0.005 %", "1e-7 %"]);
    }
}
