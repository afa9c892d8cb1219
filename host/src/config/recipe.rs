//! What makes a config a recipe that others can run: `recipe`, which says what it is and whose, and `lock`, which says what it
//! ran with and what came of it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Version of the format of [`Lock`].
pub const LOCK_FORMAT: u32 = 1;

/// `recipe`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub struct Recipe {
    /// Its name: small letters, digits, and `-`, `_` or `.` between them. Required.
    pub name: String,
    /// Its version, such as `1.0.0`. Required.
    pub version: String,
    /// Who made it. Default: none. Example: `[Ada Lovelace]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub authors: Vec<String>,
    /// Under which licence it and its files may be used, as SPDX has it. Default: none. Example: `apache-2.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// What it is for, in a sentence or two. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Words to find it by. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The oldest version of this program that can run it. Default: any. Example: `0.1.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// `lock`, which `host recipe lock` writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Version of this format.
    pub v: u32,
    /// The program that wrote it.
    pub host: String,
    /// SHA-256 of what the config says, without `recipe` and `lock`: layout, comments and the order of keys are not in it.
    pub config_sha256: String,
    /// Repositories of the Hugging Face hub.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hub: Vec<LockedRepository>,
    /// Files beside the recipe, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<LockedFile>,
    /// What was made of the data; none until that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<LockedData>,
    /// All plugins of the run.
    pub plugins: Vec<LockedPlugin>,
    /// What the run gave; none until there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<LockedResult>,
}

/// A repository of the Hugging Face hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LockedRepository {
    /// The key of the config that names it (`base_model`, `datasets[0].path`).
    pub key: String,
    /// Its name.
    pub name: String,
    /// The branch, tag or commit that was asked for.
    pub revision: String,
    /// The commit that this meant.
    pub commit: String,
    /// Bytes of the files that a run reads, where they were here when it was locked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// A file beside the recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LockedFile {
    /// Its path from the recipe's directory, with `/` between names.
    pub path: String,
    /// Its bytes.
    pub size: u64,
    /// Their SHA-256.
    pub sha256: String,
}

/// What was made of the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LockedData {
    /// Rows of `datasets` that were read.
    pub rows: u64,
    /// Samples to train on.
    pub samples: u64,
    /// Samples to evaluate on.
    pub eval_samples: u64,
    /// Digest of the samples to train on.
    pub sha256: String,
}

/// A plugin of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LockedPlugin {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The plugin API that it is made for.
    pub api: String,
    /// SHA-256 of its file.
    pub sha256: String,
    /// `bundled`, or its path from the recipe's directory.
    pub source: String,
    /// What it imports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<String>,
    /// What it would like to be granted: `read`, to read files beside its data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wants: Vec<String>,
}

/// What the run gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LockedResult {
    /// The program that ran.
    pub host: String,
    /// What was computed on: `cpu`, or the name of a GPU.
    pub device: String,
    /// Which kernels were used there.
    pub kernels: String,
    /// `float32` or `bfloat16`.
    pub precision: String,
    /// Processor threads.
    pub threads: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Tokens that went through the model.
    pub tokens: u64,
    /// Wall time, in seconds.
    pub seconds: f64,
    /// The most memory that the process had.
    pub peak_memory_bytes: u64,
    /// What was measured at some steps.
    pub curve: Vec<LockedPoint>,
    /// SHA-256 of the files of the finished model, by name.
    pub model: BTreeMap<String, String>,
}

/// What was measured at a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LockedPoint {
    /// Finished optimizer steps.
    pub step: u64,
    /// Metrics by name, as `metrics.jsonl` has them. JSON and YAML have no NaN: one that is not finite is null.
    pub metrics: BTreeMap<String, Option<f64>>,
}

impl Recipe {
    /// True for a name that can stand in an address and in a path.
    pub fn is_name(name: &str) -> bool {
        let is_end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        (1..=64).contains(&name.len())
            && is_end(name.chars().next())
            && is_end(name.chars().last())
            && name.chars().all(is_inner)
            && !name.contains("..")
    }
}

/// The numbers of a version such as `1.2.3` or `0.1`, as far as three.
pub fn version_numbers(text: &str) -> Option<[u64; 3]> {
    let mut numbers = [0; 3];
    let core = text.split(['-', '+']).next()?;
    for (index, part) in core.split('.').enumerate() {
        let is_number = !part.is_empty() && part.len() <= 9 && part.bytes().all(|byte| byte.is_ascii_digit());
        *numbers.get_mut(index).filter(|_| is_number)? = part.parse().ok()?;
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_stand_in_paths() {
        for name in ["a", "tiny-alpaca", "v1.0_x", "0"] {
            assert!(Recipe::is_name(name), "{name}");
        }
        for name in ["", ".", "..", "a..b", "-a", "a/", "a/b", "A", "ä", "a b", &"a".repeat(65)] {
            assert!(!Recipe::is_name(name), "{name}");
        }
    }

    #[test]
    fn versions_are_numbers() {
        assert_eq!(version_numbers("1.2.3-rc.1+x"), Some([1, 2, 3]));
        assert_eq!(version_numbers("0.1"), Some([0, 1, 0]));
        for text in ["", "1.", "v1", "1.2.3.4", "-1", "1.1000000000"] {
            assert_eq!(version_numbers(text), None, "{text}");
        }
    }
}
