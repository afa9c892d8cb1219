//! Which files of a model's repository are used.

use std::path::Path;

use engine::weights::{INDEX, WeightsError, shards};
use hub::Listing;

/// Weights in one file.
const SINGLE: &str = "model.safetensors";
/// An adapter's.
pub(super) const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// What a model is beside its weights.
const SMALL: [&str; 10] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "adapter_config.json",
    INDEX,
];

/// True for the files that a check reads.
pub(super) fn is_small(name: &str) -> bool {
    SMALL.contains(&name)
}

/// Why a repository has no weights to use.
#[derive(Debug)]
pub(super) enum NoWeights {
    /// It has pickled ones.
    Pickled(String),
    /// It has none.
    None,
    /// Its index cannot be used.
    Index(WeightsError),
}

/// The weight files of a repository whose small files are in `directory`.
pub(super) fn weights_of(directory: &Path, listing: &Listing) -> Result<Vec<String>, NoWeights> {
    if listing.file(SINGLE).is_some() {
        return Ok(vec![SINGLE.to_owned()]);
    }
    if listing.file(INDEX).is_some() {
        return shards(&directory.join(INDEX)).map(|shards| shards.into_keys().collect()).map_err(NoWeights::Index);
    }
    let is_pickled = |name: &str| {
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        ["bin", "pt", "pth"].contains(&extension)
    };
    let pickled = listing.files.iter().find(|file| is_pickled(&file.name));
    Err(pickled.map_or(NoWeights::None, |file| NoWeights::Pickled(file.name.clone())))
}

/// What of a model is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Uses {
    /// Its config, or its tokenizer.
    Files,
    /// An adapter.
    Adapter,
    /// All of it.
    Weights,
}

/// True if a directory has all of that.
pub(super) fn is_complete(directory: &Path, uses: Uses) -> bool {
    let has = |name: &str| directory.join(name).is_file();
    match uses {
        Uses::Files => has("config.json") || has("tokenizer.json"),
        Uses::Adapter => has("adapter_config.json") && has(ADAPTER_WEIGHTS),
        Uses::Weights => {
            let is_whole = |shards: Vec<String>| shards.iter().all(|shard| has(shard));
            let sharded = || shards(&directory.join(INDEX)).is_ok_and(|shards| is_whole(shards.into_keys().collect()));
            has("config.json") && (has(SINGLE) || sharded())
        }
    }
}
