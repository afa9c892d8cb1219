//! What a config's section `curation` means for commands that do not curate.

use std::path::Path;

use crate::commands::path;
use crate::config::{Config, LoadedConfig, ScoreBy};
use crate::diagnostic::{Diagnostic, Failure};

/// Refuses a config whose rows are still to be curated: to train on all of them is not what it says.
///
/// # Errors
/// It has the section.
pub fn refuse(loaded: &LoadedConfig) -> Result<(), Failure> {
    if loaded.config.curation.is_none() {
        return Ok(());
    }
    let config = path(&loaded.source.path);
    let curated = path(&target(loaded).join(TRAIN_FILE));
    Err(Diagnostic::error("curation::not-applied", "the rows of this config are not curated yet")
        .at(loaded.source.key_place("curation"))
        .why("`curation` is applied by a command of its own, which shows what it leaves out")
        .help(format!("`host curate {config}`, then `host train {curated}`; or delete `curation`"))
        .into())
}

/// True if rows are scored by what the base model says of them.
pub fn asks_model(config: &Config) -> bool {
    let score = config.curation.as_ref().and_then(|curation| curation.score.as_ref());
    score.is_some_and(|score| score.by != ScoreBy::Words)
}

/// The config that is written for the rows that are kept.
pub const TRAIN_FILE: &str = "train.yml";

/// Where the files of a curation go, unless the command line says another place.
pub fn target(loaded: &LoadedConfig) -> std::path::PathBuf {
    Path::new(&loaded.config.output_dir).join("curated")
}
