//! Which files of an output directory a run may replace: those that a run wrote there, as its `run.json` lists them.
//! Whatever else has one of their names is somebody's, and stays.

use std::collections::BTreeSet;
use std::path::Path;

use super::{CheckpointError, tokenizer_files};

/// Describes the run.
pub const RUN_FILE: &str = "run.json";
/// Its metrics.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// What its model wrote while it learned from that.
pub const COMPLETIONS_FILE: &str = "completions.jsonl";
/// Its config, with every default.
pub const RESOLVED_FILE: &str = "config.resolved.yml";
/// The call of a plugin that ended it.
pub const FAILED_CALL_FILE: &str = "failed-call.json";

/// What a run writes from its start on.
pub const OF_START: [&str; 4] = [RUN_FILE, METRICS_FILE, COMPLETIONS_FILE, RESOLVED_FILE];

const OF_MODEL: [&str; 7] = [
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
];

/// True for a name that a run may write in its output directory.
pub fn is_output(name: &str) -> bool {
    let shard = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
    let is_shard = shard.is_some_and(|rest| {
        rest.split_once("-of-").is_some_and(|(index, count)| {
            [index, count].iter().all(|digits| digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit()))
        })
    });
    is_shard || OF_START.contains(&name) || OF_MODEL.contains(&name) || tokenizer_files::NAMES.contains(&name)
}

/// What is in a directory under such a name; the second part, what of it is no plain file.
pub fn present(directory: &Path) -> Result<(BTreeSet<String>, BTreeSet<String>), CheckpointError> {
    let read = |source| CheckpointError::Read { path: directory.to_owned(), source };
    let (mut all, mut odd) = (BTreeSet::new(), BTreeSet::new());
    for entry in std::fs::read_dir(directory).map_err(read)? {
        let entry = entry.map_err(read)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if is_output(&name) {
            if !entry.file_type().map_err(read)?.is_file() {
                odd.insert(name.clone());
            }
            all.insert(name);
        }
    }
    Ok((all, odd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_run() {
        for name in ["model.safetensors", "model-00001-of-00002.safetensors", "run.json", "tokenizer.json", "README.md"]
        {
            assert!(is_output(name), "{name}");
        }
        for name in ["model-1-of-2.safetensors", "notes.md", "model.bin", "host.yml", ".lock", "model-.safetensors"] {
            assert!(!is_output(name), "{name}");
        }
    }
}
