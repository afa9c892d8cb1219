//! Models that a command names: directories, or names of the hub.

use std::path::{Path, PathBuf};

use engine::architecture::config::ModelConfig;
use engine::weights::{self, twice};

use crate::check::model_files;
use crate::checkpoint::directory::is_ours;
use crate::diagnostic::{Diagnostic, Failure};
use crate::remote;

/// The directory of a model or an adapter: as it is named, or of the hub.
pub(super) fn place(path: &Path, is_adapter: bool) -> Result<PathBuf, Diagnostic> {
    let name = path.to_str().filter(|_| !path.exists());
    let found = name.map(|name| remote::model(name, is_adapter)).transpose()?;
    Ok(found.flatten().unwrap_or_else(|| path.to_owned()))
}

/// The model's config, as its weights have it.
pub(super) fn model_config(directory: &Path) -> Result<(ModelConfig, Vec<Diagnostic>), Failure> {
    if !directory.is_dir() {
        let message = format!("there is no model directory `{}`", directory.display());
        return Err(Diagnostic::error("model::missing", message)
            .help("a model is a directory with `config.json`, `tokenizer.json` and safetensors weights")
            .into());
    }
    let mut config = ModelConfig::from_dir(directory).map_err(Diagnostic::from)?;
    let headers = weights::read_headers(directory).map_err(Diagnostic::from)?;
    let mut warnings = Vec::new();
    if twice::has_own_head(&headers, &config).map_err(Diagnostic::from)? {
        config.untie();
        warnings.push(model_files::own_head());
    }
    Ok((config, warnings))
}

/// That a directory may be written: it is empty, or not there, or what a run here has made.
pub(super) fn room(target: &Path) -> Result<(), Diagnostic> {
    let is_taken = std::fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_some());
    if is_taken && !is_ours(target) {
        let message = format!("`{}` is there already, and no run here made it", target.display());
        return Err(Diagnostic::error("merge::exists", message).help("name another directory with `--output`"));
    }
    Ok(())
}
