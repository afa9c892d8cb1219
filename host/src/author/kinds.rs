//! What an author's cases are, for each kind of plugin: what is in their input, how they are run and in which ways, and what
//! is said about them.

use plugin_runtime::json::Episode;
use plugin_runtime::types::{Context, HealthRun, Turn};
use plugin_runtime::{Environment, Kind, PluginError, json};
use serde_json::{Value, json};

use super::drive::{Subject, Trouble};

/// Sizes of batches beside all at once.
pub(super) const SIZES: [usize; 2] = [1, 7];
/// All at once.
pub(super) const ALL: usize = 1 << 20;

/// How a case is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// As its results are kept.
    First,
    /// The same in another instance.
    Again,
    /// Twice in one instance.
    Twice,
    /// So many a call.
    Batch(usize),
    /// Last row first.
    Reversed,
    /// Shared among so many instances, which run at the same time.
    Threads(usize),
    /// Each call in another instance that goes on at a cursor.
    Resumed,
}

/// What is looked at in every case.
const ALWAYS: [Way; 3] = [Way::Again, Way::Batch(SIZES[0]), Way::Batch(SIZES[1])];
/// And where a result depends on its own input alone.
const ALONE: [Way; 4] = [Way::Twice, Way::Reversed, Way::Threads(2), Way::Threads(5)];

/// What the cases of a kind are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cases {
    /// What is in the file of an input.
    pub(super) input: &'static str,
    /// A call gives findings, not a result for each input: one input is given at a time, and `run.json` may say how long the
    /// run is.
    pub(super) gives_findings: bool,
    /// What is looked at, in words.
    pub(super) invariants: &'static str,
    /// Ways in which a case is run beside [`ALWAYS`].
    more: &'static [Way],
}

impl Cases {
    /// The cases of a kind.
    pub(super) fn of(kind: Kind) -> Self {
        match kind {
            Kind::DatasetLoader => Self {
                input: "a file as users have them",
                gives_findings: false,
                invariants: "rows in any batch size, and going on at a cursor; at least one row a call, no more than asked for; the length, where it is known",
                more: &[Way::Resumed],
            },
            Kind::PromptStrategy => Self {
                input: "a row a line",
                gives_findings: false,
                invariants: "one result a row, the same in any batch size and order, on 1, 2 and 5 threads, and when asked again",
                more: &ALONE,
            },
            Kind::Reward => Self {
                input: "a completion a line: `{\"prompt\": …, \"completion\": …}`",
                gives_findings: false,
                invariants: "one finite score a completion, the same in any batch size and order, on 1, 2 and 5 threads, and when asked again",
                more: &ALONE,
            },
            Kind::CompatRules => Self {
                input: "a config a line: `{\"config\": {…}}`",
                gives_findings: false,
                invariants: "only rules that it lists, the same when asked again",
                more: &[Way::Twice],
            },
            Kind::RowFilter => Self {
                input: "a row a line",
                gives_findings: false,
                invariants: "one verdict a row, the same in any batch size; finite scores",
                more: &[],
            },
            Kind::Environment => Self {
                input: "an episode a line: `{\"row\": {…}, \"completions\": [\"…\"]}`",
                gives_findings: false,
                invariants: "one opening a row and one answer a turn, with finite rewards and small states, the same in any batch size and order, on 1, 2 and 5 threads, and when asked again",
                more: &ALONE,
            },
            Kind::Schedule => Self {
                input: "a run a line: `{\"total_steps\": 100, \"warmup_steps\": 10}`",
                gives_findings: false,
                invariants: "one finite factor a step, none below zero, the same in any batch size",
                more: &[],
            },
            Kind::RunHealth => Self {
                input: "a logged line a line: `{\"step\": 1, \"metrics\": {\"loss\": 2.5}}`",
                gives_findings: true,
                invariants: "the same findings in any batch size; plain ids",
                more: &[Way::Batch(ALL)],
            },
        }
    }

    /// Ways in which a case is run, after the first time.
    pub(super) fn ways(self) -> impl Iterator<Item = Way> {
        ALWAYS.into_iter().chain(self.more.iter().copied())
    }
}

/// What is looked at in the cases of a kind, in words.
pub fn invariants(kind: Kind) -> &'static str {
    Cases::of(kind).invariants
}

impl Subject<'_> {
    /// The results of `inputs`, `batch` of them a call. Watches over a run give a list of findings for each call; what a
    /// loader gives, [`load`](Self::load) says.
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
                let no_context = || Trouble::Input(0, "it is not a JSON object".to_owned());
                let context = self.context.ok_or_else(no_context)?;
                chunks(&items, batch, |items| Ok(scorer.score(items, &context)?.iter().map(json::score).collect()))
            }
            Kind::Environment => {
                let environment = self.plugins.environment(self.name, self.config_json).map_err(at_start)?;
                let no_context = || Trouble::Input(0, "it is not a JSON object".to_owned());
                let mut played = Played { environment, context: self.context.ok_or_else(no_context)? };
                chunks(&read(inputs, json::read_episode)?, batch, |episodes| played.play(episodes))
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
}

/// Episodes whose completions are known, answered side by side as those of a run are.
struct Played {
    environment: Environment,
    context: Context,
}

impl Played {
    fn play(&mut self, episodes: &[Episode]) -> Result<Vec<Value>, PluginError> {
        let mut results: Vec<Value> = vec![Value::Null; episodes.len()];
        // What is still to be answered of each, last turn first, and the state of each.
        let mut left: Vec<Vec<Turn>> = Vec::new();
        let mut states: Vec<Vec<u8>> = Vec::new();
        let (mut rows, mut opened) = (Vec::new(), Vec::new());
        for (index, episode) in episodes.iter().enumerate() {
            let (turns, state) = match episode {
                Episode::Turn(turn) => {
                    results[index] = json!({ "turns": [] });
                    (vec![turn.clone()], turn.state.clone())
                }
                Episode::Whole { row, turns } => {
                    rows.push(row.clone());
                    opened.push(index);
                    let mut turns: Vec<Turn> =
                        turns.iter().zip(1..).map(|(turn, number)| Turn { number, ..turn.clone() }).collect();
                    turns.reverse();
                    (turns, Vec::new())
                }
            };
            left.push(turns);
            states.push(state);
        }
        let starts = if rows.is_empty() { Vec::new() } else { self.environment.reset(&rows, &self.context)? };
        for (index, start) in opened.into_iter().zip(starts) {
            let shown = json::opened(&start);
            match start {
                Ok(start) => {
                    results[index] = json!({ "start": shown, "turns": [] });
                    states[index] = start.state;
                }
                Err(_) => {
                    results[index] = shown;
                    left[index].clear();
                }
            }
        }
        loop {
            let (mut asked, mut turns) = (Vec::new(), Vec::new());
            for (index, left) in left.iter_mut().enumerate() {
                if let Some(turn) = left.pop() {
                    asked.push(index);
                    turns.push(Turn { state: std::mem::take(&mut states[index]), ..turn });
                }
            }
            if turns.is_empty() {
                return Ok(results);
            }
            for (index, outcome) in asked.into_iter().zip(self.environment.step(&turns, &self.context)?) {
                if let Some(Value::Array(shown)) = results[index].get_mut("turns") {
                    shown.push(json::outcome(&outcome));
                }
                if outcome.done {
                    left[index].clear();
                }
                states[index] = outcome.state;
            }
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
