//! The table of imported records: one file of JSON lines on the user's machine, there only if the user imported something.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::record::{Record, Setup};
use crate::checkpoint::directory::replace_file;
use crate::diagnostic::{Diagnostic, Failure, Place};
use intake::read_text;

/// Bytes of a file of records.
pub const FILE_LIMIT: u64 = 16 << 20;
/// Records of a table: what a check can look at in a few milliseconds.
const RECORDS: usize = 10_000;
/// Groups of runs that rules get to see.
const GROUPS: usize = 250;
const FILE: &str = "outcomes.jsonl";

/// Imported records, in the order of their import.
#[derive(Debug, Default)]
pub struct Table {
    /// At most one of each id.
    pub records: Vec<Record>,
}

/// What an import did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    /// Records that the table did not have.
    pub new: usize,
    /// Records that replaced an earlier one of the same run.
    pub changed: usize,
    /// Records that the table had already.
    pub known: usize,
}

impl Table {
    /// Where it is.
    pub fn path() -> Result<PathBuf, Failure> {
        let missing = || {
            Diagnostic::error("evidence::no-home", "there is no place for the table of outcomes")
                .why("neither `HOST_DATA_DIR`, `XDG_DATA_HOME` nor `HOME` is an absolute path")
                .help("set `HOST_DATA_DIR`")
        };
        Ok(crate::directories::data().ok_or_else(missing)?.join(FILE))
    }

    /// The table; an empty one where nothing was imported yet, or could be.
    pub fn load() -> Result<Self, Failure> {
        let path = crate::directories::data().map(|directory| directory.join(FILE));
        let Some(path) = path.filter(|path| path.exists()) else { return Ok(Self::default()) };
        let records = read(&path).map_err(|mut failure| {
            for diagnostic in &mut failure.0 {
                diagnostic.help = Some(format!("delete the line, or all of `{}`", path.display()));
            }
            failure
        })?;
        Ok(Self { records })
    }

    /// Adds records and saves the table. A later record of a run replaces the earlier one.
    pub fn import(records: Vec<Record>) -> Result<Imported, Failure> {
        let path = Self::path()?;
        let directory = path.parent().unwrap_or(Path::new("."));
        let unwritable = |why: String| {
            Diagnostic::error("evidence::unwritable", format!("`{}` cannot be written", path.display()))
                .why(why)
                .note("nothing was imported")
        };
        let failed = |error: std::io::Error| unwritable(error.to_string());
        std::fs::create_dir_all(directory).map_err(failed)?;
        // Two imports at a time would lose one of them. The lock goes with the file handle.
        let lock = File::create(directory.join(".outcomes.lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let mut table = Self::load()?;
        let mut places: BTreeMap<String, usize> =
            table.records.iter().enumerate().map(|(index, record)| (record.id.clone(), index)).collect();
        let mut done = Imported { new: 0, changed: 0, known: 0 };
        for record in records {
            match places.get(&record.id) {
                Some(&index) if table.records[index] == record => done.known += 1,
                Some(&index) => {
                    table.records[index] = record;
                    done.changed += 1;
                }
                None => {
                    places.insert(record.id.clone(), table.records.len());
                    table.records.push(record);
                    done.new += 1;
                }
            }
        }
        if table.records.len() > RECORDS {
            let message = format!("the table would have {} outcomes; the limit is {RECORDS}", table.records.len());
            let help = format!("make room: delete lines of `{}`", path.display());
            return Err(Diagnostic::error("evidence::too-many", message)
                .help(help)
                .note("nothing was imported")
                .into());
        }
        replace_file(&path, lines(&table.records).as_bytes()).map_err(|error| unwritable(error.to_string()))?;
        Ok(done)
    }

    /// What rules get to see (`facts.outcomes`): how a run is set up, and groups of runs of its architecture and device,
    /// those with its techniques first, then the largest: `{"run": {…}, "outcomes": [{…, "outcome": "diverged", "runs": 9}]}`.
    /// Of the recipe that this is a run of, how its runs ended wherever they were made: `"recipe": [{"outcome": "finished", "device":
    /// "cpu", "host_version": "0.1.0", "runs": 12}]`.
    pub fn facts(&self, run: &Setup, recipe: Option<&str>) -> Value {
        let alike = self
            .records
            .iter()
            .filter(|record| (&record.setup.architecture, &record.setup.device) == (&run.architecture, &run.device));
        let mut groups: HashMap<_, u64> = HashMap::new();
        for Record { setup, outcome, .. } in alike {
            let numbers = (setup.parameters, setup.learning_rate.to_bits(), setup.batch_size, setup.sequence_len);
            *groups.entry((&setup.techniques, numbers, *outcome)).or_default() += 1;
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|((techniques, numbers, outcome), runs)| {
            (**techniques != run.techniques, Reverse(*runs), *techniques, *numbers, *outcome)
        });
        let outcomes = groups.into_iter().take(GROUPS).map(|((techniques, numbers, outcome), runs)| {
            let (parameters, learning_rate, batch_size, sequence_len) = numbers;
            let mut group = json!(Setup {
                techniques: techniques.clone(),
                parameters,
                learning_rate: f64::from_bits(learning_rate),
                batch_size,
                sequence_len,
                ..run.clone()
            });
            group["outcome"] = json!(outcome);
            group["runs"] = runs.into();
            group
        });
        let mut facts = json!({ "run": run, "outcomes": outcomes.collect::<Vec<_>>() });
        let mut of_recipe: BTreeMap<_, u64> = BTreeMap::new();
        let is_of_it = |record: &&Record| recipe.is_some() && record.recipe.as_deref() == recipe;
        for Record { setup, outcome, host_version, .. } in self.records.iter().filter(is_of_it) {
            *of_recipe.entry((*outcome, &setup.device, host_version)).or_default() += 1;
        }
        if !of_recipe.is_empty() {
            let group = |((outcome, device, host_version), runs)| json!({ "outcome": outcome, "device": device, "host_version": host_version, "runs": runs });
            facts["recipe"] = of_recipe.into_iter().take(GROUPS).map(group).collect();
        }
        facts
    }
}

/// Records as JSON lines.
pub fn lines(records: &[Record]) -> String {
    records.iter().map(|record| format!("{}\n", record.to_json())).collect()
}

/// The records of a file of JSON lines. All that is wrong with it comes at once, up to a few.
pub fn read(path: &Path) -> Result<Vec<Record>, Failure> {
    let text = read_text(path, FILE_LIMIT).map_err(|error| {
        Diagnostic::error("evidence::unreadable", format!("`{}` cannot be read", path.display())).why(error.to_string())
    })?;
    parse(&text, path)
}

/// The records of JSON lines that came from `path`.
pub fn parse(text: &str, path: &Path) -> Result<Vec<Record>, Failure> {
    const SHOWN: usize = 5;
    let mut records = Vec::new();
    let mut problems = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let (column, why) = match serde_json::from_str::<Record>(line) {
            Ok(record) => match record.flaw() {
                None => {
                    records.push(record);
                    continue;
                }
                Some(flaw) => (1, flaw),
            },
            Err(error) => {
                let why = error.to_string();
                (error.column().max(1), why.split(" at line ").next().unwrap_or_default().to_owned())
            }
        };
        problems.push(
            Diagnostic::error("evidence::bad-record", "this line is not the outcome of a run")
                .at(Place::in_text(path, text, index + 1, column, 1))
                .why(why)
                .help("records are what `host evidence export` writes, one a line"),
        );
        if problems.len() == SHOWN {
            break;
        }
    }
    if problems.is_empty() { Ok(records) } else { Err(Failure(problems)) }
}
