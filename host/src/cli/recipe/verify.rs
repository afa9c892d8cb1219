//! `host recipe verify`: whether a recipe is what it says, and can run here.

use serde_json::json;

use super::super::{say, show};
use super::own_plugins;
use crate::check::ready::Ready;
use crate::diagnostic::{ExitStatus, Failure};
use crate::recipe::opened::Opened;
use crate::recipe::signature;
use crate::report::{Output, emit};

/// Says who has signed a recipe, which one of these keys must have done.
pub(super) fn signed(opened: &Opened, keys: &[String], output: Output) -> Result<(), Failure> {
    let signed = signature::check(opened, keys)?;
    match output {
        Output::Json => emit("signed", json!({ "key": signed.key, "comment": signed.comment })),
        Output::Human => say(&format!("signed by {} ({})", signed.key, signed.comment)),
    }
    Ok(())
}

pub(super) fn run(recipe: &str, keys: &[String], output: Output) -> Result<ExitStatus, Failure> {
    let opened = Opened::new(recipe)?;
    if !keys.is_empty() {
        signed(&opened, keys, output)?;
    }
    let config = opened.bring()?;
    let ready = Ready::new(&config, &[], own_plugins::open(&config, &[])?, &[], true)?;
    show(&ready.remarks, output);
    let recipe = opened.recipe();
    match output {
        Output::Json => emit("verified", json!({ "name": recipe.name, "version": recipe.version })),
        Output::Human => {
            let lock = opened.lock();
            let (files, plugins) = lock.map_or((0, 0), |lock| (lock.files.len(), lock.plugins.len()));
            say(&format!(
                "{} {} is what it says: its config, {files} files and {plugins} plugins",
                recipe.name, recipe.version
            ));
        }
    }
    Ok(ExitStatus::Done)
}
