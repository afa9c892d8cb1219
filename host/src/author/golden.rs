//! Holds a plugin against its cases: the same results every time, whatever the size of the batches and, for kinds that keep
//! nothing between rows, whatever their order; and the results that `golden.jsonl` has.

use std::path::Path;

use plugin_runtime::{Cause, Kind, PluginHost};
use serde_json::Value;

use super::cases::{Case, GOLDEN, Input};
use super::compare::differences;
use super::drive::{CONTEXT, Subject, Trouble};
use super::kinds::{ALL, Cases, SIZES, Way};
use crate::checkpoint::directory::replace_file;
use crate::diagnostic::{Diagnostic, Failure, Place};

/// Differences from `golden.jsonl` that are shown.
const SHOWN: usize = 5;

/// What became of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// Results.
    pub results: usize,
    /// `golden.jsonl` was written.
    pub blessed: bool,
}

/// Runs one case in every way.
pub fn test(plugins: &PluginHost, name: &str, kind: Kind, case: &Case, bless: bool) -> Result<Passed, Failure> {
    let subject = Subject { plugins, name, kind, config_json: &case.config_json, context: Some(CONTEXT) };
    let trial = Trial { subject, case, first: Vec::new() };
    let first = trial.results(Way::First)?;
    let trial = Trial { first, ..trial };
    for way in Cases::of(kind).ways() {
        trial.repeat(way)?;
    }
    let results = trial.first.len();
    let problems = trial.against_golden();
    if problems.is_empty() && case.golden.is_some() {
        return Ok(Passed { results, blessed: false });
    }
    if !bless {
        return Err(Failure(problems));
    }
    let lines: String = trial.first.iter().map(|result| format!("{result}\n")).collect();
    replace_file(&case.golden_path(), lines.as_bytes())?;
    Ok(Passed { results, blessed: true })
}

struct Trial<'a> {
    subject: Subject<'a>,
    case: &'a Case,
    first: Vec<Value>,
}

impl Trial<'_> {
    fn gives_findings(&self) -> bool {
        Cases::of(self.subject.kind).gives_findings
    }

    fn results(&self, way: Way) -> Result<Vec<Value>, Failure> {
        // A watch's findings belong to a line only where each line is a call of its own.
        let whole = if self.gives_findings() { 1 } else { ALL };
        let size = if let Way::Batch(size) = way { size } else { whole };
        let (path, values) = match &self.case.input {
            Input::Data(path) => {
                let size = if way == Way::Resumed { SIZES[1] } else { size };
                return self
                    .subject
                    .load(path, size, way == Way::Resumed)
                    .map_err(|trouble| self.data_trouble(trouble));
            }
            Input::Lines { path, values } => (path, values),
        };
        let mut inputs: Vec<Value> = values.iter().map(|(_, value)| value.clone()).collect();
        match way {
            Way::Reversed => inputs.reverse(),
            Way::Twice => inputs.extend_from_within(..),
            _ => {}
        }
        let steps = self.case.total_steps;
        let threads = if let Way::Threads(threads) = way { threads } else { 1 };
        match self.subject.run_on(threads, &inputs, steps, size) {
            Ok(mut results) => {
                match way {
                    Way::Reversed => results.reverse(),
                    Way::Twice => drop(results.drain(..results.len() / 2)),
                    _ => {}
                }
                Ok(results)
            }
            Err(trouble) => {
                let (index, diagnostic) = match trouble {
                    Trouble::Plugin(_, error) if error.code == "plugin::bad-config" => {
                        let at = place(&self.case.dir.join("config.json"), 1);
                        return Err(Diagnostic::from(error).at(at).note(self.case_note()).into());
                    }
                    Trouble::Plugin(first, error) => {
                        let within = match error.failed.as_ref().map(|failed| failed.cause) {
                            Some(Cause::Alone(item) | Cause::After(item)) => item,
                            _ => 0,
                        };
                        (first + within, Diagnostic::from(error))
                    }
                    Trouble::Input(index, why) => {
                        let message = format!("this is no input of {} plugin", self.subject.kind.with_article());
                        (index, Diagnostic::error("test::input", message).why(why))
                    }
                };
                let line = values.get(index % values.len().max(1)).map_or(1, |(line, _)| *line);
                Err(diagnostic.at(place(path, line)).note(self.case_note()).into())
            }
        }
    }

    fn data_trouble(&self, trouble: Trouble) -> Failure {
        match trouble {
            Trouble::Plugin(rows, error) => {
                let note = format!("it had given {rows} rows");
                Diagnostic::from(error).note(note).note(self.case_note()).into()
            }
            Trouble::Input(_, why) => Diagnostic::error("test::input", why).into(),
        }
    }

    fn case_note(&self) -> String {
        format!("in case `{}`", self.case.name())
    }

    /// Runs the case in another way, and says where the results differ.
    fn repeat(&self, way: Way) -> Result<(), Failure> {
        let again = self.results(way)?;
        let (first, again) =
            if self.gives_findings() { (findings(&self.first), findings(&again)) } else { (self.first.clone(), again) };
        let (code, what, help, words) = match way {
            Way::First | Way::Again | Way::Twice => (
                "test::repeat",
                "the same input gives another result the second time".to_owned(),
                "keep nothing between calls that a result depends on",
                ["first", "then"],
            ),
            Way::Batch(size) => (
                "test::batch",
                format!(
                    "the result depends on how many are given at once ({})",
                    if size == ALL { "all, and one by one".to_owned() } else { format!("all, and {size} a call") }
                ),
                "the host chooses the batches, so each result must be the same wherever one ends",
                ["all at once", "in batches"],
            ),
            Way::Reversed => (
                "test::order",
                "the result depends on the order of the rows".to_owned(),
                "rows are shuffled and shared among threads, so a result may depend on its own row only",
                ["in order", "reversed"],
            ),
            Way::Threads(threads) => (
                "test::threads",
                format!("the result depends on how many threads share the rows (1, and {threads})"),
                "each thread has an instance of its own, so a result may depend on its own row only",
                ["on one thread", "shared"],
            ),
            Way::Resumed => (
                "test::cursor",
                "going on at a cursor gives other rows".to_owned(),
                "a run that is resumed seeks to the cursor and must get the very same rows",
                ["in one go", "resumed"],
            ),
        };
        let name = self.subject.name;
        if let Some(index) = (0..first.len().max(again.len())).find(|&index| !same(first.get(index), again.get(index)))
        {
            let [a, b] = [&first, &again].map(|results| results.get(index).cloned().unwrap_or_default());
            let row = format!("plugin `{name}`, {} {}: {what}", self.subject.kind.unit(), index + 1);
            return Err(Diagnostic::error(code, row)
                .at(self.input_place(index))
                .why(differences(&a, &b, words))
                .help(help)
                .note(self.case_note())
                .plugin(name)
                .into());
        }
        Ok(())
    }

    /// Where an input stands, where one result belongs to one input.
    fn input_place(&self, index: usize) -> Option<Place> {
        match &self.case.input {
            Input::Lines { path, values } if !self.gives_findings() => {
                values.get(index).and_then(|(line, _)| place(path, *line))
            }
            _ => None,
        }
    }

    fn against_golden(&self) -> Vec<Diagnostic> {
        let path = self.case.golden_path();
        let target = "if the new results are right: run this again with `--bless`";
        let Some(golden) = &self.case.golden else {
            let message = format!("case `{}` has no `{GOLDEN}`", self.case.name());
            return vec![
                Diagnostic::error("test::golden", message)
                    .help("look at its results and keep them: run this again with `--bless`"),
            ];
        };
        let mut problems = Vec::new();
        if golden.len() != self.first.len() {
            let message =
                format!("`{}` has {} results, and the plugin gave {}", path.display(), golden.len(), self.first.len());
            problems.push(Diagnostic::error("test::golden", message).help(target).note(self.case_note()));
        }
        for (index, ((line, wanted), found)) in golden.iter().zip(&self.first).enumerate() {
            if same(Some(wanted), Some(found)) {
                continue;
            }
            let message = format!("{} {} is not as expected", self.subject.kind.unit(), index + 1);
            problems.push(
                Diagnostic::error("test::golden", message)
                    .at(place(&path, *line))
                    .why(differences(wanted, found, ["expected", "found"]))
                    .plugin(self.subject.name),
            );
        }
        let more = problems.len().saturating_sub(SHOWN);
        problems.truncate(SHOWN);
        if let Some(last) = problems.last_mut() {
            if more > 0 {
                last.notes.push(format!("{more} more results are not as expected"));
            }
            last.help = Some(target.to_owned());
        }
        problems
    }
}

/// All findings of all calls.
fn findings(results: &[Value]) -> Vec<Value> {
    results.iter().filter_map(|result| result["findings"].as_array()).flatten().cloned().collect()
}

fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => differences(a, b, ["", ""]).is_empty(),
        _ => false,
    }
}

/// A line of a file of the case.
fn place(path: &Path, line: usize) -> Option<Place> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(Place::in_text(path, &text, line, 1, 1))
}
