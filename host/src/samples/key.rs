//! What the samples of a dataset depend on. Those that were kept are used again where nothing of it has changed; what has is told by
//! name.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use plugin_runtime::{PluginInfo, data_digest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::dataset::Dataset;
use crate::check::facts::ModelFacts;
use crate::check::plugins::{Use, locate};
use crate::diagnostic::{Diagnostic, Failure};
use crate::digest::hex;

/// Bytes that a file of a tokenizer may have.
const TOKENIZER_LIMIT: u64 = 1 << 30;
/// Ends of the names of files that a tokenizer is made of.
const TOKENIZER_FILES: [&str; 4] = ["json", "jinja", "model", "txt"];

/// Everything that the samples of a dataset depend on, by the name that a user knows it by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Key(BTreeMap<String, Value>);

impl Key {
    /// That of a dataset; `tokenizer` is the digest of the tokenizer's files.
    ///
    /// # Errors
    /// Data that cannot be read.
    pub(super) fn of(dataset: &Dataset<'_>, model: &ModelFacts, tokenizer: &str) -> Result<Self, Failure> {
        let (loaders, filters, strategy) = dataset.uses();
        let (path, config, all) = (dataset.path(), dataset.config, &dataset.loaded.config);
        let data = data_digest(&path).map_err(|error| locate(dataset.loaded, &loaders[0], error))?;
        let plugin = |used: &Use| {
            let sha256 = dataset.plugins.get(&used.name).map(|plugin| &plugin.inspection.sha256);
            json!({ "name": used.name, "sha256": sha256, "config": used.config_json })
        };
        // Directories that it may read beside the data.
        let granted = dataset.plugins.get(&loaders[0].name).map(PluginInfo::granted_digest).transpose();
        let granted = granted.map_err(|error| locate(dataset.loaded, &loaders[0], error))?.flatten();
        let filters: Vec<Value> = filters
            .iter()
            .zip(dataset.min_scores())
            .map(|(used, min_score)| json!({ "plugin": plugin(used), "min_score": min_score }))
            .collect();
        let making = &dataset.making;
        let template = making.encoder.template.map(crate::data::template::ChatTemplate::digest);
        // The shards of a dataset are drawn with the seed.
        let seed = config.shards.map(|_| all.seed);
        let learned =
            json!({ "train_on_inputs": making.encoder.train_on_inputs, "eot_tokens": making.encoder.end_of_turn });
        let steps = &making.steps;
        let parts = [
            ("program", program()),
            ("path", path.display().to_string().into()),
            ("data", data.into()),
            ("grants", json!(granted)),
            ("split", json!(config.split.to_string())),
            ("shards", json!([config.shards, config.shards_idx, seed])),
            ("ds_type", loaders.iter().map(plugin).collect()),
            ("row_filters", filters.into()),
            ("type", plugin(&strategy)),
            ("tokenizer", tokenizer.into()),
            ("special_tokens", json!([model.tokenizer.special_tokens(), model.tokenizer.added_tokens()])),
            ("chat_template", json!(template)),
            ("sequence_len", json!(making.sequence_len)),
            ("excess_length_strategy", json!(format!("{:?}", making.excess))),
            ("what is learned", learned),
            ("method", json!(format!("{:?}", making.learns))),
            ("steps", json!([steps.separator, steps.max_completion_length, steps.last_only])),
        ];
        Ok(Self(parts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))
    }

    /// SHA-256 of it.
    pub(super) fn digest(&self) -> String {
        let text = serde_json::to_string(&self.0).expect("names and values are plain");
        hex(&Sha256::digest(text))
    }

    /// The names of what differs.
    pub(super) fn changes(&self, other: &Self) -> Vec<&str> {
        let names = self.0.iter().filter(|(name, value)| other.0.get(*name) != Some(value));
        names.map(|(name, _)| name.as_str()).collect()
    }
}

/// This program: what another one made may be other samples.
fn program() -> Value {
    let file = std::fs::metadata("/proc/self/exe").ok();
    let file = file.map(|file| (file.len(), file.mtime(), file.mtime_nsec()));
    json!({ "version": env!("CARGO_PKG_VERSION"), "file": file })
}

/// SHA-256 of the files of a directory that a tokenizer may be made of: names and bytes.
pub(super) fn tokenizer_digest(directory: &Path) -> Result<String, Diagnostic> {
    let unreadable = |path: &Path, error: &std::io::Error| {
        Diagnostic::error("tokenizer::unreadable", format!("`{}` cannot be read: {error}", path.display()))
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(|error| unreadable(directory, &error))?.flatten() {
        let path = entry.path();
        let is_known = path.extension().is_some_and(|end| TOKENIZER_FILES.iter().any(|known| *known == end));
        if is_known && path.is_file() {
            files.push(path);
        }
    }
    files.sort_unstable();
    let mut hasher = Sha256::new();
    for path in files {
        let bytes = intake::read(&path, TOKENIZER_LIMIT).map_err(|error| unreadable(&path, &error))?;
        hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        hasher.update([0]);
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    }
    Ok(hex(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_named() {
        let key = |length: u32, data: &str| {
            let parts = [("path", json!("a")), ("sequence_len", json!(length)), ("data", json!(data))];
            Key(parts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
        };
        let (old, new) = (key(8, "x"), key(16, "y"));
        assert_eq!(new.changes(&old), ["data", "sequence_len"]);
        assert_ne!(old.digest(), new.digest());
        assert_eq!(old.digest(), key(8, "x").digest());
        assert!(old.changes(&old).is_empty());
    }
}
