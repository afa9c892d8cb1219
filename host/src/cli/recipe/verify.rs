//! `host recipe verify`: whether a recipe is what it says, and can run here.

use serde_json::json;

use super::super::{say, show};
use super::own_plugins;
use crate::check::ready::Ready;
use crate::diagnostic::{ExitStatus, Failure};
use crate::recipe::opened::Opened;
use crate::report::{Output, emit};

pub(super) fn run(recipe: &str, output: Output) -> Result<ExitStatus, Failure> {
    let opened = Opened::new(recipe)?;
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
