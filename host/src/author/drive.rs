//! Runs a plugin of any kind over the input of a case, in a fresh instance, some at a time; what comes out is JSON.

use std::path::Path;

use plugin_runtime::types::{Context, HealthRun};
use plugin_runtime::{Kind, PluginError, PluginHost, json};
use serde_json::{Value, json};

/// When the completions of a case are scored.
pub const CONTEXT: Context = Context { step: 0, total_steps: 1, seed: 0 };
/// Rows that one call of a loader gives at most.
const ALL: usize = 4096;
/// Rows that a loader's input may have.
const ROWS: usize = 1_000_000;

/// What is run.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// Where it is.
    pub plugins: &'a PluginHost,
    /// Its name.
    pub name: &'a str,
    /// What it is for.
    pub kind: Kind,
    /// Its config, as JSON.
    pub config_json: &'a str,
}

/// Why there is no result.
#[derive(Debug)]
pub enum Trouble {
    /// The plugin failed, in the call that began with this input.
    Plugin(usize, PluginError),
    /// An input is not what the kind takes.
    Input(usize, String),
}

impl std::fmt::Debug for Subject<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").field("name", &self.name).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Subject<'_> {
    /// The same as [`run`](Self::run), with the inputs divided among instances that run at the same time.
    pub fn run_on(
        &self,
        threads: usize,
        inputs: &[Value],
        total_steps: Option<u64>,
        batch: usize,
    ) -> Result<Vec<Value>, Trouble> {
        if threads <= 1 {
            return self.run(inputs, total_steps, batch);
        }
        let share = inputs.len().div_ceil(threads).max(1);
        let parts: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> =
                inputs.chunks(share).map(|inputs| scope.spawn(move || self.run(inputs, total_steps, batch))).collect();
            let done = |worker: std::thread::ScopedJoinHandle<'_, _>| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            workers.into_iter().map(done).collect()
        });
        let mut results = Vec::new();
        for (part, result) in parts.into_iter().enumerate() {
            let before = part * share;
            results.extend(result.map_err(|trouble| match trouble {
                Trouble::Plugin(index, error) => Trouble::Plugin(before + index, error),
                Trouble::Input(index, why) => Trouble::Input(before + index, why),
            })?);
        }
        Ok(results)
    }

    /// The results of `inputs`, `batch` of them a call. Watches over a run give a list of findings for each call.
    pub fn run(&self, inputs: &[Value], total_steps: Option<u64>, batch: usize) -> Result<Vec<Value>, Trouble> {
        let at_start = |error| Trouble::Plugin(0, error);
        match self.kind {
            Kind::PromptStrategy => {
                let mut strategy = self.plugins.strategy(self.name, self.config_json).map_err(at_start)?;
                chunks(&texts(inputs), batch, |rows| Ok(strategy.render(rows)?.iter().map(json::rendered).collect()))
            }
            Kind::Reward => {
                let mut scorer = self.plugins.scorer(self.name, self.config_json).map_err(at_start)?;
                let items = read(inputs, json::read_item)?;
                chunks(&items, batch, |items| Ok(scorer.score(items, &CONTEXT)?.iter().map(json::score).collect()))
            }
            Kind::RowFilter => {
                let mut filter = self.plugins.filter(self.name, self.config_json).map_err(at_start)?;
                chunks(&texts(inputs), batch, |rows| Ok(filter.judge(rows)?.iter().map(json::verdict).collect()))
            }
            Kind::CompatRules => {
                let mut checker = self.plugins.checker(self.name, self.config_json).map_err(at_start)?;
                let known: Vec<String> = checker.rules().map_err(at_start)?.into_iter().map(|rule| rule.id).collect();
                chunks(&read(inputs, json::read_facts)?, 1, |facts| {
                    let findings = checker.check(&facts[0])?;
                    if let Some(finding) = findings.iter().find(|finding| !known.contains(&finding.rule)) {
                        let message =
                            format!("plugin `{}` found `{}`, a rule that it does not list", self.name, finding.rule);
                        return Err(PluginError::new("plugin::bad-result", message).plugin(self.name));
                    }
                    Ok(vec![json!({ "findings": findings.iter().map(json::finding).collect::<Vec<_>>() })])
                })
            }
            Kind::Schedule => chunks(&read(inputs, json::read_schedule_run)?, 1, |runs| {
                let mut curve = self.plugins.curve(self.name, self.config_json, runs[0])?;
                let (mut factors, total) = (Vec::new(), runs[0].total_steps);
                while (factors.len() as u64) < total {
                    let first = factors.len() as u64;
                    factors.extend(curve.range(first, (total - first).min(batch as u64) as u32)?);
                }
                Ok(vec![json!({ "factors": factors })])
            }),
            Kind::RunHealth => {
                let lines = read(inputs, json::read_observation)?;
                let last = lines.iter().map(|line| line.step).max().unwrap_or_default();
                let run = HealthRun { total_steps: total_steps.unwrap_or(last) };
                let mut monitor = self.plugins.monitor(self.name, self.config_json, run).map_err(at_start)?;
                chunks(&lines, batch, |lines| {
                    let findings = monitor.observe(lines)?;
                    Ok(vec![json!({ "findings": findings.iter().map(json::health_finding).collect::<Vec<_>>() })])
                })
            }
            Kind::DatasetLoader => Ok(Vec::new()),
        }
    }

    /// The rows of a loader's input, `batch` of them a call. With `resume`, each call is made by a new instance that goes
    /// on at the cursor of the one before.
    pub fn load(&self, path: &Path, batch: usize, resume: bool) -> Result<Vec<Value>, Trouble> {
        let mut rows = Vec::new();
        let step = |rows: &mut Vec<Value>| -> Result<(), PluginError> {
            let open = || self.plugins.loader(self.name, self.config_json, path);
            let mut loader = open()?;
            let known = loader.len()?;
            loop {
                let given = loader.next(batch.min(ALL) as u32)?;
                rows.extend(given.rows.iter().map(json::loaded));
                if given.done {
                    break;
                }
                if rows.len() > ROWS {
                    let message = format!("plugin `{}` gives more than {ROWS} rows", self.name);
                    return Err(PluginError::new("plugin::bad-result", message).plugin(self.name));
                }
                if resume {
                    let cursor = loader.cursor()?;
                    loader = open()?;
                    loader.seek(&cursor)?;
                }
            }
            match known {
                Some(known) if known != rows.len() as u64 => {
                    let message =
                        format!("plugin `{}` said that there are {known} rows, and gave {}", self.name, rows.len());
                    Err(PluginError::new("plugin::bad-result", message).plugin(self.name))
                }
                _ => Ok(()),
            }
        };
        match step(&mut rows) {
            Ok(()) => Ok(rows),
            Err(error) => Err(Trouble::Plugin(rows.len(), error)),
        }
    }
}

fn texts(inputs: &[Value]) -> Vec<String> {
    inputs.iter().map(Value::to_string).collect()
}

fn read<T>(inputs: &[Value], read: fn(&Value) -> Result<T, String>) -> Result<Vec<T>, Trouble> {
    let read = |(index, value)| read(value).map_err(|why| Trouble::Input(index, why));
    inputs.iter().enumerate().map(read).collect()
}

fn chunks<T>(
    inputs: &[T],
    batch: usize,
    mut call: impl FnMut(&[T]) -> Result<Vec<Value>, PluginError>,
) -> Result<Vec<Value>, Trouble> {
    let mut results = Vec::new();
    for (index, inputs) in inputs.chunks(batch.max(1)).enumerate() {
        results.extend(call(inputs).map_err(|error| Trouble::Plugin(index * batch, error))?);
    }
    Ok(results)
}
