//! Run health: monitors that see what is written to `metrics.jsonl`, say what looks wrong, and may stop the run.

use std::collections::BTreeMap;

use plugin_runtime::PluginError;
use plugin_runtime::types::{Advice, HealthFinding, Metric, Observation};
use serde_json::Value;

use crate::diagnostic::{Diagnostic, Severity};
use crate::report::metrics::metrics;
use crate::report::summary::HealthCount;
use crate::report::{Event, Reporter};

/// Watches a run. The loop cannot tell a sandboxed monitor from a native one.
pub trait Monitor {
    /// What the logged lines since the last call say about the run.
    fn observe(&mut self, observations: &[Observation]) -> Result<Vec<HealthFinding>, PluginError>;
}

impl Monitor for plugin_runtime::Monitor {
    fn observe(&mut self, observations: &[Observation]) -> Result<Vec<HealthFinding>, PluginError> {
        Self::observe(self, observations)
    }
}

/// Why a monitor wants the run to end.
#[derive(Debug, Clone, PartialEq)]
pub struct StopAdvice {
    /// The plugin.
    pub plugin: String,
    /// Finished steps when it said so.
    pub step: u64,
    /// What it said.
    pub finding: HealthFinding,
}

/// All monitors of a run, and what they found so far.
#[derive(Default)]
pub struct Watch {
    monitors: Vec<(String, Box<dyn Monitor>)>,
    /// Plugin and id of each kind of finding; one is shown the first time only.
    found: BTreeMap<(String, String), Count>,
}

struct Count {
    times: u64,
    first_step: u64,
}

impl Watch {
    /// Adds a monitor under the name of its plugin.
    pub fn add(&mut self, plugin: String, monitor: Box<dyn Monitor>) {
        self.monitors.push((plugin, monitor));
    }

    /// True without monitors.
    pub fn is_empty(&self) -> bool {
        self.monitors.is_empty()
    }

    /// Shows the monitors what was logged before a resume. What they find was told then.
    pub fn replay(&mut self, lines: &[Value]) -> Result<(), PluginError> {
        let observations: Vec<Observation> = lines.iter().filter_map(observation).collect();
        for (plugin, monitor) in &mut self.monitors {
            // One by one, as they came: a finding has no step of its own.
            for observation in &observations {
                for finding in monitor.observe(std::slice::from_ref(observation))? {
                    count(&mut self.found, plugin, &finding.id, observation.step);
                }
            }
        }
        Ok(())
    }

    /// Shows the monitors a record that was just logged, and reports what they find. The first `stop` is returned where
    /// there is something left to stop.
    pub fn observe(
        &mut self,
        record: &impl serde::Serialize,
        total_steps: u64,
        reporter: &mut Reporter<'_>,
    ) -> Result<Option<StopAdvice>, PluginError> {
        if self.is_empty() {
            return Ok(None);
        }
        let Some(observation) = serde_json::to_value(record).ok().as_ref().and_then(observation) else {
            return Ok(None);
        };
        let step = observation.step;
        let mut stop = None;
        for (plugin, monitor) in &mut self.monitors {
            for finding in monitor.observe(std::slice::from_ref(&observation))? {
                let is_first = count(&mut self.found, plugin, &finding.id, step);
                let stops = finding.advice == Advice::Stop && step < total_steps;
                let remark = (is_first && !stops).then(|| diagnostic(plugin, step, &finding));
                reporter.tell(Event::Health { plugin, step, finding: &finding, remark: remark.as_ref() });
                if stops {
                    stop.get_or_insert(StopAdvice { plugin: plugin.clone(), step, finding });
                }
            }
        }
        Ok(stop)
    }

    /// Each kind of finding with how often it came, for the closing summary.
    pub fn counts(&self) -> Vec<HealthCount> {
        let count = |((plugin, id), count): (&(String, String), &Count)| HealthCount {
            plugin: plugin.clone(),
            id: id.clone(),
            times: count.times,
            first_step: count.first_step,
        };
        self.found.iter().map(count).collect()
    }
}

impl StopAdvice {
    /// As the reason of a run's end.
    pub fn diagnostic(&self) -> Diagnostic {
        let Self { plugin, step, finding } = self;
        let message = format!("plugin `{plugin}` stopped the run at step {step}: {}", finding.message);
        Diagnostic { severity: Severity::Error, message, ..diagnostic(plugin, *step, finding) }
    }
}

/// Counts a finding. True if it is the first of its kind.
fn count(found: &mut BTreeMap<(String, String), Count>, plugin: &str, id: &str, step: u64) -> bool {
    let count = found.entry((plugin.to_owned(), id.to_owned())).or_insert(Count { times: 0, first_step: step });
    count.times += 1;
    count.times == 1
}

fn observation(fields: &Value) -> Option<Observation> {
    let (step, metrics) = metrics(fields)?;
    Some(Observation { step, metrics: metrics.into_iter().map(|(name, value)| Metric { name, value }).collect() })
}

/// For a person. At the end of a run there is nothing to stop any more, so the advice to do so is a warning.
fn diagnostic(plugin: &str, step: u64, finding: &HealthFinding) -> Diagnostic {
    let severity = if finding.advice == Advice::Note { Severity::Note } else { Severity::Warning };
    let message = format!("plugin `{plugin}` at step {step}: {}", finding.message);
    let mut diagnostic = Diagnostic::new(severity, format!("health::{}", finding.id), message).plugin(plugin);
    diagnostic.why = Some(finding.why.clone()).filter(|why| !why.is_empty());
    diagnostic.help.clone_from(&finding.help);
    diagnostic
}
