//! `host evidence`: what came of runs, to be shared as JSON lines and held against configs. Nothing is ever sent.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::say;
use crate::check::contents::{EVIDENCE, FILE};
use crate::diagnostic::{Diagnostic, ExitStatus, Failure};
use crate::evidence::record::Record;
use crate::evidence::table::{FILE_LIMIT, Table, lines, parse, read};
use crate::recipe::opened::Opened;
use crate::report::{Output, emit};
use crate::terminal::{Safe, print, print_file};
use crate::train::lock::OutputLock;
use crate::train::output::described;
use intake::text_of;

#[derive(Debug, Args)]
pub(super) struct EvidenceArgs {
    #[command(subcommand)]
    command: EvidenceCommand,
    /// One JSON object per line on stdout instead of text, messages too
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum EvidenceCommand {
    /// Print what came of runs, one JSON line each: how they were set up and how they ended, nothing personal
    Export {
        /// Output directories of runs
        #[arg(required = true)]
        runs: Vec<PathBuf>,
    },
    /// Add outcomes to the table on this machine that `host check` and `host train` hold configs against
    Import {
        /// Files of JSON lines, output directories of runs, recipes that carry some, or `-` for stdin
        #[arg(required = true)]
        from: Vec<PathBuf>,
    },
    /// Show the table: which combinations were run, and how those runs ended
    Show,
}

impl EvidenceArgs {
    pub(super) fn output(&self) -> Output {
        if self.json { Output::Json } else { Output::Human }
    }
}

pub(super) fn run(args: &EvidenceArgs) -> Result<ExitStatus, Failure> {
    match &args.command {
        EvidenceCommand::Export { runs } => export(runs),
        EvidenceCommand::Import { from } => import(from, args.output()),
        EvidenceCommand::Show => show(args.output()),
    }
}

fn export(runs: &[PathBuf]) -> Result<ExitStatus, Failure> {
    let mut records = Vec::new();
    let mut problems = Vec::new();
    for run in runs {
        match of_run(run) {
            Ok(record) => records.push(record),
            Err(diagnostic) => problems.push(diagnostic),
        }
    }
    Failure::check(problems)?;
    print_file(&lines(&records))?;
    Ok(ExitStatus::Done)
}

/// The record of an ended run.
fn of_run(directory: &Path) -> Result<Record, Diagnostic> {
    let shown = directory.display();
    if !directory.is_dir() {
        return Err(Diagnostic::error("evidence::no-run", format!("there is no directory `{shown}`"))
            .help("name the output directory of a run"));
    }
    let record = described(directory).and_then(|run| Record::of_run(&run)).ok_or_else(|| {
        Diagnostic::error("evidence::no-run", format!("`{shown}` holds no run with an outcome"))
            .why("its `run.json` is missing, damaged, or of a version of this program that kept none")
            .help("name the output directory of a run")
    })?;
    // Whoever holds the lock is still at it.
    OutputLock::probe(directory).map_err(|error| Diagnostic::from(error).help("wait until it has ended"))?;
    Ok(record)
}

fn import(from: &[PathBuf], output: Output) -> Result<ExitStatus, Failure> {
    let mut records = Vec::new();
    let mut problems = Vec::new();
    for path in from {
        let found = if path == Path::new("-") {
            stdin()
        } else if is_recipe(path) {
            of_recipe(path)
        } else if path.is_dir() {
            of_run(path).map(|record| vec![record]).map_err(Failure::from)
        } else {
            read(path)
        };
        match found {
            Ok(found) => records.extend(found),
            Err(failure) => problems.extend(failure.0),
        }
    }
    if let Some(last) = problems.last_mut() {
        last.notes.push("nothing was imported".to_owned());
    }
    Failure::check(problems)?;
    let done = Table::import(records)?;
    let path = Table::path()?;
    match output {
        Output::Json => emit(
            "imported",
            json!({ "new": done.new, "changed": done.changed, "known": done.known, "table": path.display().to_string() }),
        ),
        Output::Human => say(&format!(
            "{} new, {} changed, {} known already; the table is `{}`, delete it to forget them",
            done.new,
            done.changed,
            done.known,
            path.display()
        )),
    }
    Ok(ExitStatus::Done)
}

/// A directory with a recipe, a `.recipe` file, or an address of one.
fn is_recipe(path: &Path) -> bool {
    let text = path.to_string_lossy();
    path.join(FILE).is_file()
        || path.extension().is_some_and(|extension| extension == "recipe")
        || text.contains("://")
        || text.starts_with("hf:")
}

/// What came of others' runs, which a recipe carries.
fn of_recipe(path: &Path) -> Result<Vec<Record>, Failure> {
    let config = Opened::new(&path.to_string_lossy())?.bring()?;
    let file = config.with_file_name(EVIDENCE);
    if !file.is_file() {
        let message = format!("`{}` carries no outcomes of runs", path.display());
        let help =
            format!("who made it can add them: `host evidence export RUN… > {EVIDENCE}` beside it, and lock it again");
        return Err(Diagnostic::error("evidence::none", message).help(help).into());
    }
    read(&file)
}

fn stdin() -> Result<Vec<Record>, Failure> {
    if std::io::stdin().is_terminal() {
        say("reading outcomes from the terminal; end with Ctrl-D");
    }
    let text = text_of(std::io::stdin(), FILE_LIMIT)
        .map_err(|error| Diagnostic::error("evidence::unreadable", "stdin cannot be read").why(error.to_string()))?;
    parse(&text, Path::new("-"))
}

fn show(output: Output) -> Result<ExitStatus, Failure> {
    let table = Table::load()?;
    if output == Output::Json {
        print_file(&lines(&table.records))?;
        return Ok(ExitStatus::Done);
    }
    let path = Table::path()?;
    if table.records.is_empty() {
        say(&format!("no outcomes were imported yet; they would be in `{}`", path.display()));
        say("`host evidence import OUTPUT_DIR` adds one of your own runs, `host evidence import FILE` those of others");
        return Ok(ExitStatus::Done);
    }
    // Word of the end → runs, for each combination.
    let mut combinations: BTreeMap<(&str, String), BTreeMap<String, usize>> = BTreeMap::new();
    for record in &table.records {
        let ends = combinations.entry((&record.setup.architecture, record.setup.techniques.join(" "))).or_default();
        let end = json!(record.outcome).as_str().unwrap_or_default().to_owned();
        *ends.entry(end).or_default() += 1;
    }
    let mut text = String::new();
    let mut architecture = "";
    for ((of, techniques), ends) in &combinations {
        if *of != architecture {
            text += &format!("{of}\n");
            architecture = of;
        }
        let ends: Vec<String> = ends.iter().map(|(end, runs)| format!("{runs} {end}")).collect();
        text += &format!("  {techniques}\n    {}\n", ends.join(", "));
    }
    text += &format!("{} outcomes in `{}`; delete it to forget them\n", table.records.len(), path.display());
    print(&Safe::text(&text))?;
    Ok(ExitStatus::Done)
}
