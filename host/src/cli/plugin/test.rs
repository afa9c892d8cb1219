//! `host plugin test`: a plugin over its cases, or one failed call again.

use std::path::{Path, PathBuf};

use clap::Args;
use plugin_runtime::{PluginHost, PluginInfo};
use serde_json::json;

use super::inspect::unknown;
use crate::author::golden::test;
use crate::author::kinds::invariants;
use crate::author::project::Project;
use crate::author::{cases, replay};
use crate::cli::{open_plugins, say, show};
use crate::commands::{path, word};
use crate::diagnostic::{Diagnostic, ExitStatus, Failure};
use crate::report::{Output, emit};

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// A project, a .wasm file, or the name of a plugin
    #[arg(default_value = ".")]
    plugin: String,
    /// Keep the results as the expected ones (`golden.jsonl`)
    #[arg(long)]
    bless: bool,
    /// Make the call again that a run kept in its `failed-call.json`
    #[arg(long, value_name = "FILE", conflicts_with = "bless")]
    replay: Option<PathBuf>,
    /// Directory with plugins (*.wasm) beside the bundled ones
    #[arg(long, value_name = "DIR")]
    plugins: Vec<PathBuf>,
}

pub(super) fn run(args: &TestArgs, output: Output) -> Result<ExitStatus, Failure> {
    let mut plugins = open_plugins(&args.plugins)?;
    let (name, root) = find(&args.plugin, &mut plugins)?;
    if let Some(file) = &args.replay {
        return again(&name, file, &mut plugins, output);
    }
    let plugin = plugins.get(&name).ok_or_else(|| unknown(&name, std::iter::empty()))?;
    let kind = plugin.kind();
    let cases = cases::read_all(&root.join("tests"), kind)?;
    let (mut passed, count) = (0, cases.len());
    for case in &cases {
        let result = test(&plugins, &name, kind, case, args.bless);
        let (ok, results, blessed) =
            result.as_ref().map_or((false, 0, false), |done| (true, done.results, done.blessed));
        passed += usize::from(ok);
        match output {
            Output::Json => {
                emit("case", json!({ "case": case.name(), "passed": ok, "results": results, "blessed": blessed }));
            }
            Output::Human if blessed => {
                say(&format!("{}: wrote `{}`, {results} results", case.name(), case.golden_path().display()));
            }
            Output::Human if ok => say(&format!("{}: {results} results as expected", case.name())),
            Output::Human => say(&format!("{}: failed", case.name())),
        }
        if let Err(Failure(diagnostics)) = result {
            show(&diagnostics, output);
        }
    }
    match output {
        Output::Json => emit("test", json!({ "plugin": name, "cases": count, "passed": passed })),
        Output::Human => say(&format!("`{name}`: {passed} of {count} cases passed; looked at: {}", invariants(kind))),
    }
    Ok(if passed == count { ExitStatus::Done } else { ExitStatus::Failed })
}

/// The plugin that is meant, and the directory whose `tests` are its cases. A file may have the name of a bundled plugin: it
/// may be an older one, or one that its author has changed.
fn find(plugin: &str, plugins: &mut PluginHost) -> Result<(String, PathBuf), Failure> {
    let path = Path::new(plugin);
    if path.is_dir() {
        let project = Project::open(path)?;
        return Ok((plugins.add_file_in_place(&project.built()?)?, project.dir));
    }
    if path.is_file() {
        let parent = path.parent().unwrap_or(Path::new(""));
        // What `host plugin build` made lies in the project's `dist`.
        let root = match (parent.file_name(), parent.parent()) {
            (Some(name), Some(root)) if name == "dist" => root.to_owned(),
            _ => parent.to_owned(),
        };
        return Ok((plugins.add_file_in_place(path)?, root));
    }
    match plugins.get(plugin) {
        Some(found) => Ok((found.name().to_owned(), PathBuf::new())),
        None => Err(unknown(plugin, plugins.plugins().map(PluginInfo::name)).into()),
    }
}

fn again(name: &str, file: &Path, plugins: &mut PluginHost, output: Output) -> Result<ExitStatus, Failure> {
    let recorded = replay::read(file)?;
    if recorded.plugin != name {
        let message = format!("`{}` is a call of `{}`, not of `{name}`", file.display(), recorded.plugin);
        return Err(Diagnostic::error("test::replay", message)
            .help(format!("host plugin test {} --replay {}", word(&recorded.plugin), path(file)))
            .into());
    }
    let (results, other) = recorded.replay(plugins)?;
    show(&Vec::from_iter(other), output);
    match output {
        Output::Json => emit("replay", json!({ "plugin": name, "results": results })),
        Output::Human => {
            let lines: Vec<String> = results.iter().map(|result| format!("\n  {result}")).collect();
            say(&format!("the call ends well now; it gives{}", lines.concat()));
        }
    }
    Ok(ExitStatus::Done)
}
