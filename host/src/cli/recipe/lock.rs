//! `host recipe lock`: what a recipe is made of, written into it.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::{say, show};
use super::own_plugins;
use crate::check::ready::Ready;
use crate::config::recipe::Lock;
use crate::diagnostic::{ExitStatus, Failure};
use crate::recipe::lock;
use crate::recipe::opened::no_recipe;
use crate::report::{Output, emit};
use crate::train::job::Job;

#[derive(Debug, Args)]
pub(super) struct LockArgs {
    /// The recipe's file
    #[arg(default_value = "recipe.yml")]
    recipe: PathBuf,
    /// The output directory of a finished run of it, whose result is kept. Without it, the result that is locked stays as long as
    /// nothing else has changed
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Directory with plugins (*.wasm) beside the bundled ones and those in `plugins` beside the recipe
    #[arg(long, value_name = "DIR")]
    plugins: Vec<PathBuf>,
}

pub(super) fn run(args: &LockArgs, output: Output) -> Result<ExitStatus, Failure> {
    let path = if args.recipe.is_dir() { args.recipe.join(crate::check::contents::FILE) } else { args.recipe.clone() };
    let mut ready = Ready::new(&path, &[], own_plugins::open(&path, &args.plugins)?, &[], false)?;
    show(&ready.remarks, output);
    if ready.loaded.config.recipe.is_none() {
        return Err(no_recipe(&ready.loaded).into());
    }
    ready.bring_data()?;
    let Ready { loaded, plugins, model, remarks, .. } = &ready;
    let job = Job::new(loaded, plugins, model, remarks)?;
    show(&job.remarks, output);
    let mut new = lock::make(loaded, plugins, &job.plan, args.run.as_deref(), &loaded.source.sha256)?;
    if args.run.is_none() {
        new.result = loaded.config.lock.as_ref().filter(|old| is_same(old, &new)).and_then(|old| old.result.clone());
    }
    lock::write(loaded, &new)?;
    told(&path, &new, output);
    Ok(ExitStatus::Done)
}

/// Says what was locked.
pub(super) fn told(path: &std::path::Path, lock: &Lock, output: Output) {
    let Lock { files, plugins, hub, result, .. } = lock;
    match output {
        Output::Json => emit(
            "locked",
            json!({ "path": path.display().to_string(), "files": files.len(), "plugins": plugins.len(), "hub": hub.len(), "has_result": result.is_some() }),
        ),
        Output::Human => {
            let result = match result {
                Some(result) => format!("the result of {} steps", result.steps),
                None => "no result yet: run it, then `--run DIRECTORY` keeps what it gave".to_owned(),
            };
            say(&format!(
                "locked {}: {} files, {} plugins, {} repositories of the hub, {result}",
                path.display(),
                files.len(),
                plugins.len(),
                hub.len()
            ));
        }
    }
}

/// True if a run of one is a run of the other: only what people read has changed.
fn is_same(old: &Lock, new: &Lock) -> bool {
    let commits = |lock: &Lock| -> Vec<String> { lock.hub.iter().map(|locked| locked.commit.clone()).collect() };
    commits(old) == commits(new)
        && (&old.config_sha256, &old.data, &old.plugins) == (&new.config_sha256, &new.data, &new.plugins)
}
