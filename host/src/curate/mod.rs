//! Curation: which rows of a config's datasets are trained on, decided before training, with a random control beside it.
//!
//! The data is read twice, and texts are never all in memory: the first pass (`judge.rs`) keeps numbers of each row and says what
//! becomes of it, the second (`write.rs`) writes the files. Between them, a third one asks a model for scores (`score/`) where the
//! config wants them, and `select.rs` keeps rows by them. What comes out is a directory that appears whole or not at all:
//! the rows that are kept, a control of as many rows drawn at random from all, the rows that are left out with their reasons,
//! a page, and two configs to train with (`configs.rs`).

mod configs;
mod curated;
mod judge;
mod page;
mod passes;
mod score;
mod select;
mod text;
mod verdict;
mod write;

use std::path::Path;

use plugin_runtime::PluginHost;
use serde_json::json;

pub use self::curated::{Curated, Scored};
use self::judge::judge;
pub use self::score::BaseModel;
use self::score::Scores;
pub use self::verdict::Reason;
use crate::check::curation::TRAIN_FILE;
use crate::checkpoint::directory::{self, PendingDirectory};
use crate::config::LoadedConfig;
use crate::diagnostic::{Diagnostic, Failure};

/// The config of the control.
const CONTROL_FILE: &str = "control.yml";
/// The page.
const PAGE_FILE: &str = "index.html";
/// What was done, for programs; also what tells a directory of this command from others.
const RECORD_FILE: &str = "curation.json";

/// Curates the datasets of a config into a directory. `base` is the model that scores rows, where the config wants that; `command`
/// is what trains with a config, for the page; `told` hears how many rows are scored, of how many.
///
/// # Errors
/// What is wrong with the data, and a directory that something else made.
pub fn curate(
    loaded: &LoadedConfig,
    plugins: &PluginHost,
    base: Option<BaseModel<'_>>,
    target: &Path,
    command: &dyn Fn(&Path) -> String,
    told: &mut dyn FnMut(u64, u64),
) -> Result<Curated, Failure> {
    let unwritable = |error: std::io::Error| {
        Diagnostic::error("io::write", format!("`{}` cannot be written", target.display())).why(error.to_string())
    };
    let whole = std::path::absolute(target).map_err(unwritable)?;
    replaceable(&whole)?;
    let curation = loaded.config.curation.clone().unwrap_or_default();
    let judged = judge(loaded, plugins, &curation, base, told)?;
    let pending = PendingDirectory::create(&whole)?;
    let groups = configs::groups(loaded);
    let samples = write::rows(loaded, plugins, &curation, &judged, &groups, pending.path())?;
    let names = [TRAIN_FILE, CONTROL_FILE];
    for (name, rows) in names.into_iter().zip(["kept", "control"]) {
        let text = configs::config(loaded, &groups, &whole, rows);
        pending.write(name, text.as_bytes())?;
    }
    let curated = Curated {
        rows: judged.verdicts.len() as u64,
        kept: judged.kept(),
        dropped: judged.dropped(),
        scored: judged.scores.as_ref().and_then(Scores::scored),
        filters: judged.filters.clone(),
        directory: target.to_owned(),
        configs: names.map(|name| target.join(name)),
        remarks: judged.remarks.clone(),
    };
    let commands = names.map(|name| command(&target.join(name)));
    pending.write(PAGE_FILE, page::page(loaded, &curation, &curated, &judged, &samples, &commands).as_bytes())?;
    let mut record = json!({ "v": 1, "curation": curation, "seed": loaded.config.seed, "result": curated.to_json() });
    if let Some(scores) = &judged.scores {
        // By the number of the row, over all datasets.
        record["scores"] = json!(scores.of);
    }
    pending.write(RECORD_FILE, format!("{record:#}\n").as_bytes())?;
    pending.publish()?;
    Ok(curated)
}

/// What is there already must be of this command, and nothing else may have been put into it.
fn replaceable(target: &Path) -> Result<(), Failure> {
    if target.symlink_metadata().is_err() {
        return Ok(());
    }
    let foreign = |why: String| {
        let message = format!("`{}` is there already, and would be replaced", target.display());
        Failure::from(
            Diagnostic::error("curation::foreign", message)
                .why(why)
                .help("name another directory with `--output`, or move it away"),
        )
    };
    let entries = std::fs::read_dir(target).map_err(|_| foreign("it is no directory".to_owned()))?;
    let names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    if names.is_empty() && directory::is_ours(target) {
        return Ok(());
    }
    let manifest = directory::read_manifest(target).ok().filter(|manifest| manifest.files.contains_key(RECORD_FILE));
    let Some(manifest) = manifest else { return Err(foreign("`host curate` did not write it".to_owned())) };
    match names.iter().find(|name| *name != directory::MANIFEST && !manifest.files.contains_key(*name)) {
        Some(other) => Err(foreign(format!("`host curate` wrote it, but `{other}` in it is not its own"))),
        None => Ok(()),
    }
}
