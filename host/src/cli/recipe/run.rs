//! `host recipe run`: a stranger's recipe, once the user has seen what it takes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;

use super::super::train::{How, tell, train};
use super::super::words::ask;
use super::super::{say, show};
use super::own_plugins;
use super::plan;
use crate::check::plugins::Grant;
use crate::check::ready::Ready;
use crate::commands::word;
use crate::diagnostic::{ExitStatus, Failure};
use crate::recipe::opened::Opened;
use crate::report::console::Console;
use crate::report::{Output, emit};
use crate::train::output::Existing;

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// A directory with a recipe.yml, that file, a .recipe file, or an address: https://…, oci://…, hf:ORG/NAME
    recipe: String,
    #[command(flatten)]
    brought: Brought,
    /// Replace one value of the config: `--set learning_rate=1e-4`. The result is then not the recipe's
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Do everything up to the first step, then say what the run would be
    #[arg(long)]
    dry_run: bool,
    /// Go on from a checkpoint: `auto` for the newest complete one in the output directory, or a checkpoint-N directory
    #[arg(long, value_name = "auto|DIR", conflicts_with = "overwrite")]
    resume: Option<String>,
    /// Replace an earlier run in the output directory
    #[arg(long)]
    overwrite: bool,
}

/// What the user brings to a stranger's recipe.
#[derive(Debug, Args)]
pub(super) struct Brought {
    /// Where the run writes. Default: outputs/NAME
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Let a dataset loader read the files under a directory, beside its data: `--grant acme:tables=./tables`
    #[arg(long, value_name = "NAME=DIR")]
    pub(super) grant: Vec<Grant>,
    /// Run it only if this key of minisign has signed it; one of several
    #[arg(long, value_name = "KEY|FILE")]
    key: Vec<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Brought {
    /// Where the run writes.
    pub(super) fn output_dir(&self, default: &str) -> PathBuf {
        self.output_dir.clone().unwrap_or_else(|| PathBuf::from("outputs").join(default))
    }

    /// The option that says where the run writes, for a config.
    pub(super) fn set_output_dir(path: &Path) -> String {
        format!("output_dir={}", serde_json::json!(path.display().to_string()))
    }

    /// Shows what the recipe is and takes, and asks. What nobody can be asked about needs `--yes`.
    pub(super) fn agreed(&self, opened: &Opened, output_dir: &Path, output: Output) -> Result<bool, Failure> {
        show(&opened.loaded.remarks, output);
        if !self.key.is_empty() {
            super::verify::signed(opened, &self.key, output)?;
        }
        match output {
            Output::Json => emit("recipe", plan::fields(opened)),
            Output::Human => say(plan::text(opened, Some(&output_dir.display().to_string())).trim_end()),
        }
        if self.yes {
            return Ok(true);
        }
        Ok(ask("run it?", output, "recipe::ask")?)
    }
}

pub(super) fn run(args: &RunArgs, output: Output) -> Result<ExitStatus, Failure> {
    let began = Instant::now();
    let opened = Opened::new(&args.recipe)?;
    let output_dir = args.brought.output_dir(&opened.recipe().name);
    if !args.brought.agreed(&opened, &output_dir, output)? {
        say("nothing was run");
        return Ok(ExitStatus::Done);
    }
    let config = opened.bring()?;
    let mut set = vec![Brought::set_output_dir(&output_dir)];
    set.extend(args.set.iter().cloned());
    let ready = Ready::new(&config, &set, own_plugins::open(&config, &[])?, &args.brought.grant, true)?;
    show(&ready.remarks, output);
    let existing = match &args.resume {
        Some(word) if word == "auto" => Existing::ResumeNewest,
        Some(path) => Existing::Resume(PathBuf::from(path)),
        None if args.overwrite => Existing::Overwrite,
        None => Existing::Refuse,
    };
    let how = How { began, output, command: command(args), dry_run: args.dry_run, existing };
    train(ready, &how, |_| Box::new(Console::new(output)), |job, done| tell(&how, job, done))
}

fn command(args: &RunArgs) -> String {
    let mut command = format!("host recipe run {}", word(&args.recipe));
    if let Some(path) = &args.brought.output_dir {
        command += &format!(" --output-dir {}", crate::commands::path(path));
    }
    for grant in &args.brought.grant {
        command += &format!(" --grant {}", word(&format!("{}={}", grant.plugin, grant.directory.display())));
    }
    for set in &args.set {
        command += &format!(" --set {}", word(set));
    }
    command
}
