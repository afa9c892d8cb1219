//! Cases of a plugin test: `tests/<case>/` with `config.json`, an input, and `golden.jsonl`.

use std::path::{Path, PathBuf};

use plugin_runtime::{Kind, Start};
use serde_json::Value;

use super::kinds::Cases;
use crate::diagnostic::{Diagnostic, Failure, Place};
use intake::read_text;

/// What was expected of a case.
pub const GOLDEN: &str = "golden.jsonl";
/// Bytes that a file of a case may have.
const SIZE_LIMIT: u64 = 16 << 20;

/// A case.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Its directory.
    pub dir: PathBuf,
    /// The plugin's config, as JSON.
    pub config_json: String,
    /// What goes in.
    pub input: Input,
    /// How long the run is that a watch looks at, where the case says it.
    pub total_steps: Option<u64>,
    /// What is to come out, each line with its number; none where it is not written yet.
    pub golden: Option<Vec<(usize, Value)>>,
}

/// What goes into a plugin.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A row, an item, a run: one a line.
    Lines {
        /// The file.
        path: PathBuf,
        /// Each line with its number.
        values: Vec<(usize, Value)>,
    },
    /// A file or directory for a loader.
    Data(PathBuf),
}

impl Case {
    /// What messages call it.
    pub fn name(&self) -> String {
        self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Where its results are kept.
    pub fn golden_path(&self) -> PathBuf {
        self.dir.join(GOLDEN)
    }
}

/// All cases below `tests`, in the order of their names.
pub fn read_all(tests: &Path, kind: Kind) -> Result<Vec<Case>, Failure> {
    let mut dirs: Vec<PathBuf> = std::fs::read_dir(tests)
        .map(|entries| entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
        .unwrap_or_default();
    dirs.sort();
    if dirs.is_empty() {
        let input = if kind.start() == Start::Data { "input.EXTENSION" } else { "input.jsonl" };
        return Err(Diagnostic::error("test::no-cases", format!("there are no cases in `{}`", tests.display()))
            .help(format!(
                "make one: `{}` with {}; then `--bless` writes what comes out",
                tests.join("basic").join(input).display(),
                Cases::of(kind).input
            ))
            .into());
    }
    let (mut cases, mut problems) = (Vec::new(), Vec::new());
    for dir in dirs {
        match read(dir, kind) {
            Ok(case) => cases.push(case),
            Err(diagnostic) => problems.push(diagnostic),
        }
    }
    if problems.is_empty() { Ok(cases) } else { Err(Failure(problems)) }
}

fn read(dir: PathBuf, kind: Kind) -> Result<Case, Diagnostic> {
    let config = dir.join("config.json");
    let config_json = if config.is_file() { json(&config)?.to_string() } else { "{}".to_owned() };
    let input = if kind.start() == Start::Data {
        Input::Data(data(&dir)?)
    } else {
        let path = dir.join("input.jsonl");
        let values = lines(&path)?;
        if values.is_empty() {
            return Err(Diagnostic::error("test::input", format!("`{}` is empty", path.display())));
        }
        Input::Lines { path, values }
    };
    let run = dir.join("run.json");
    let total_steps = if Cases::of(kind).gives_findings && run.is_file() {
        let steps = json(&run)?["total_steps"].as_u64();
        let message = format!("`{}` has no `total_steps`", run.display());
        Some(steps.ok_or_else(|| Diagnostic::error("test::input", message))?)
    } else {
        None
    };
    let golden = dir.join(GOLDEN);
    let golden = if golden.is_file() { Some(lines(&golden)?) } else { None };
    Ok(Case { dir, config_json, input, total_steps, golden })
}

/// The one file or directory called `input`, whatever its extension.
fn data(dir: &Path) -> Result<PathBuf, Diagnostic> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(dir).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    found.retain(|path| path.file_stem().is_some_and(|stem| stem == "input"));
    match found.as_slice() {
        [one] => Ok(one.clone()),
        several => {
            let count = if several.is_empty() { "no" } else { "more than one" };
            let message = format!("`{}` has {count} file or directory called `input`", dir.display());
            Err(Diagnostic::error("test::input", message)
                .help("put one there, with the extension that users have: `input.csv`"))
        }
    }
}

fn text(path: &Path) -> Result<String, Diagnostic> {
    read_text(path, SIZE_LIMIT).map_err(|error| {
        Diagnostic::error("test::input", format!("`{}` cannot be read", path.display())).why(error.to_string())
    })
}

fn json(path: &Path) -> Result<Value, Diagnostic> {
    let text = text(path)?;
    serde_json::from_str(&text).map_err(|error| not_json(path, &text, error.line(), &error))
}

/// The values of a JSON-lines file with the numbers of their lines; empty lines are passed over.
fn lines(path: &Path) -> Result<Vec<(usize, Value)>, Diagnostic> {
    let text = text(path)?;
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    numbered
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| {
            let value = serde_json::from_str(line).map_err(|error| not_json(path, &text, number, &error))?;
            Ok((number, value))
        })
        .collect()
}

fn not_json(path: &Path, text: &str, line: usize, error: &serde_json::Error) -> Diagnostic {
    let why = error.to_string();
    let why = why.split(" at line ").next().unwrap_or_default().to_owned();
    Diagnostic::error("test::input", "this is not JSON")
        .at(Place::in_text(path, text, line, error.column().max(1), 1))
        .why(why)
}
