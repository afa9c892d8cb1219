//! `host check`: every problem at once, before anything is spent; with `--fix`, what can be mended with certainty is.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use clap::Args;
use plugin_runtime::PluginHost;

use super::config_args::ConfigArgs;
use super::plan::describe;
use super::plugin_host::open_plugins;
use super::words::{ask, say, show};
use crate::author::replay::{self, Keep};
use crate::check::curation;
use crate::check::facts::ModelFacts;
use crate::check::fix::{self, Fixes};
use crate::check::{check_examined, lock, plugins};
use crate::config::{self, Examined};
use crate::diagnostic::{Diagnostic, Edit, ExitStatus, Failure, Severity};
use crate::remote::Remote;
use crate::report::{Output, emit};
use crate::terminal::{self, Safe, print};
use crate::train::job::Job;
use crate::train::trial::try_rewards;

/// Times that `--fix` looks again. Two rules that undo each other's fixes are left at that.
const PASSES: usize = 8;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// Refuse plugins that are not exactly those of the config's `plugins.lock`
    #[arg(long)]
    pub(super) locked: bool,
    /// Then, if there are no errors, say what the run would be and what it would take: steps, tokens, memory, disk, and what
    /// rewards make of the data's own references
    #[arg(long)]
    pub(super) plan: bool,
    /// With --plan: let rewards judge these completions in place of the references; JSON lines with a `completion`, and a
    /// `prompt` and a `reference` if they are known, such as a run's completions.jsonl
    #[arg(long, value_name = "FILE", requires = "plan")]
    pub(super) completions: Option<PathBuf>,
    /// Mend in the file what can be mended with certainty; comments, order and layout stay
    #[arg(long)]
    pub(super) fix: bool,
    /// Also print each finding to stdout as an annotation of GitHub Actions, which shows it at its line of a pull request
    #[arg(long, conflicts_with = "json")]
    pub(super) github: bool,
}

pub(super) fn run(args: &CheckArgs) -> Result<ExitStatus, Failure> {
    let (path, _) = args.config.choose()?;
    let output = args.config.output();
    let mut look = Look::new(args, &path)?;
    let mut mended = 0;
    // What is mended can bring more to light: a key that now has its right name, with a value that is wrong.
    for _ in 0..PASSES {
        let Some(loaded) = look.examined.loaded.as_ref().filter(|_| args.fix) else { break };
        let fixes = Fixes::new(&loaded.source, &look.found);
        if fixes.mended.is_empty() {
            break;
        }
        if fixes.is_of_rule(&look.found) && output == Output::Human && !agreed(&fixes.difference(&loaded.source)) {
            break;
        }
        mended += fixes.mended.len();
        fix::write(&loaded.source, &fixes.text)?;
        fixes.mended.iter().for_each(|&index| tell(&look.found[index], &path, output));
        look = Look::new(args, &path)?;
    }
    let Look { mut examined, mut remote, plugins, model, mut found } = look;
    let is_error = |found: &Diagnostic| found.severity == Severity::Error;
    if let Some(loaded) = &mut examined.loaded {
        // A plan knows of every row; weights stay where they are.
        if args.plan && !found.iter().any(is_error) && curation::refuse(loaded).is_ok() {
            remote.bring_data(loaded).unwrap_or_else(|failure| found.extend(failure.0));
        }
        found.extend(remote.notes(loaded));
    }
    let is_sound = !found.iter().any(is_error);
    let sound = examined.loaded.as_ref().zip(model.as_ref()).filter(|_| args.plan && is_sound);
    let planned = sound.and_then(|(loaded, model)| {
        let planned = Job::new(loaded, &plugins, model, &found).map_err(|mut failure| {
            replay::keep(&mut failure, &plugins, Keep::Nothing);
            found.extend(failure.0);
        });
        let job = planned.ok()?;
        found.extend(job.remarks.iter().cloned());
        Some(job)
    });
    let mut tried = Vec::new();
    if let Some(job) = &planned {
        let mut remarks = Failure::default();
        match try_rewards(job, args.completions.as_deref()) {
            Ok(all) => tried = all,
            Err(failure) => remarks = failure,
        }
        remarks.0.extend(tried.iter().flat_map(|tried| tried.remarks.clone()));
        replay::keep(&mut remarks, &plugins, Keep::Nothing);
        found.extend(remarks.0);
    }
    config::sort(&mut found, &path);
    let fixes = examined.loaded.as_ref().map(|loaded| Fixes::new(&loaded.source, &found));
    let fixable = fixes.as_ref().map_or(0, |fixes| fixes.mended.len());
    if args.fix {
        for (index, reason) in fixes.into_iter().flat_map(|fixes| fixes.left) {
            found[index].notes.push(format!("not fixed: {reason}"));
        }
    }
    show(&found, output);
    if args.github {
        let mut annotations = Safe::default();
        for found in &found {
            annotations.push(&Safe::annotation(found));
        }
        print(&annotations)?;
    }
    let count = |severity: Severity| found.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    match output {
        Output::Json => {
            let mut fields = serde_json::json!({ "errors": errors, "warnings": warnings });
            if args.fix {
                fields["fixed"] = mended.into();
            }
            emit("check", fields);
        }
        Output::Human => {
            if mended > 0 {
                say(&format!("fixed {} in {}", counted(mended, "problem"), path.display()));
            }
            let more = if fixable > 0 { format!("; {fixable} of them can be fixed with --fix") } else { String::new() };
            say(&format!("{}: {}, {}{more}", path.display(), counted(errors, "error"), counted(warnings, "warning")));
        }
    }
    if let Some(Job { loaded, model, plan, cost, .. }) = planned.as_ref().filter(|_| errors == 0) {
        describe(loaded, model, plan, cost, None, &tried, output, "nothing was trained or written (--plan)");
    }
    Ok(if errors == 0 { ExitStatus::Done } else { ExitStatus::Failed })
}

/// Whether the person at the terminal wants this change: rules are plugins, and some are strangers'. Where nobody is there
/// to be asked, `--fix` is the answer.
fn agreed(difference: &str) -> bool {
    if !std::io::stdin().is_terminal() || !terminal::stderr_is_terminal() {
        return true;
    }
    say(difference.trim_end_matches('\n'));
    ask("change it like this?", Output::Human, "check::ask").unwrap_or(false)
}

/// A config as it now stands in its file, and everything that is found in it.
struct Look {
    examined: Examined,
    remote: Remote,
    plugins: PluginHost,
    model: Option<ModelFacts>,
    found: Vec<Diagnostic>,
}

impl Look {
    fn new(args: &CheckArgs, path: &Path) -> Result<Self, Failure> {
        let mut plugins = open_plugins(&args.config.plugins)?;
        let mut examined = config::examine(path, &args.config.set);
        let remote = examined.loaded.as_mut().map(Remote::find).unwrap_or_default();
        if let Some(loaded) = &mut examined.loaded {
            examined.problems.append(&mut loaded.remarks);
            plugins::configure(loaded, &args.config.grant, &mut plugins)?;
        }
        let (mut found, model) = check_examined(&examined, &plugins);
        found.extend(examined.loaded.iter().flat_map(|loaded| lock::check(loaded, &plugins, args.locked)));
        Ok(Self { examined, remote, plugins, model, found })
    }
}

/// Says what was mended.
fn tell(finding: &Diagnostic, path: &Path, output: Output) {
    match output {
        Output::Json => {
            let edits: Vec<_> = finding.fix.iter().map(Edit::to_json).collect();
            let file = path.display().to_string();
            emit("fix", serde_json::json!({ "code": finding.code, "file": file, "fix": edits }));
        }
        Output::Human => {
            let edits: Vec<String> = finding.fix.iter().map(ToString::to_string).collect();
            say(&format!("fixed {}: {}", finding.code, edits.join(", ")));
        }
    }
}

fn counted(count: usize, what: &str) -> String {
    match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}
