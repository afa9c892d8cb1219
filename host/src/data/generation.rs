//! `generation_config.json`: what ends a text, and how the model's authors sample from it.

use std::path::{Path, PathBuf};

use intake::JSON_BYTES;
use serde_json::{Map, Value};

/// Why a `generation_config.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// It cannot be read.
    #[error("cannot read `{path}`: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not what it must be.
    #[error("`{path}` is not a valid generation config: {reason}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// What a model's `generation_config.json` says; nothing where there is none. Null is as good as absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// The file as it was, for export.
    pub raw: Option<Map<String, Value>>,
    /// Tokens that end a text.
    pub eos_token_id: Vec<u32>,
    /// Draw instead of taking the likeliest token.
    pub do_sample: Option<bool>,
    /// Above 0.
    pub temperature: Option<f64>,
    /// Only the k likeliest tokens; 0 for all.
    pub top_k: Option<usize>,
    /// Only the likeliest tokens that together have this probability.
    pub top_p: Option<f64>,
    /// Only tokens that have at least this share of the likeliest one's probability.
    pub min_p: Option<f64>,
    /// Above 1: what is there already becomes less likely.
    pub repetition_penalty: Option<f64>,
    /// Tokens that are written at most.
    pub max_new_tokens: Option<usize>,
}

/// Keys that change what is generated and that are not here, each with the value that does nothing.
const OTHERS: [(&str, f64); 12] = [
    ("num_beams", 1.0),
    ("num_beam_groups", 1.0),
    ("num_return_sequences", 1.0),
    ("typical_p", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("penalty_alpha", 0.0),
    ("no_repeat_ngram_size", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("min_length", 0.0),
    ("min_new_tokens", 0.0),
    ("guidance_scale", 1.0),
];
/// The same for keys that do nothing where they are null or empty.
const LISTS: [&str; 8] = [
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "sequence_bias",
    "stop_strings",
];

impl GenerationConfig {
    /// Reads the file of a directory; a directory without one says nothing.
    ///
    /// # Errors
    /// [`GenerationError`] names the file and what is wrong in it.
    pub fn read(directory: &Path) -> Result<Self, GenerationError> {
        let path = directory.join("generation_config.json");
        let bytes = intake::read_inside_if_there(&path, JSON_BYTES)
            .map_err(|source| GenerationError::Read { path: path.clone(), source })?;
        let Some(bytes) = bytes else { return Ok(Self::default()) };
        let invalid = |reason: String| GenerationError::Invalid { path: path.clone(), reason };
        let raw: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        Self::from_map(raw).map_err(invalid)
    }

    fn from_map(raw: Map<String, Value>) -> Result<Self, String> {
        let read = |key: &str| raw.get(key).filter(|value| !value.is_null());
        let wrong = |key: &str, value: &Value, what: &str| format!("`{key}` is {value}, not {what}");
        let number = |key: &str| match read(key) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or_else(|| wrong(key, value, "a number")),
        };
        let count = |key: &str| match read(key) {
            None => Ok(None),
            Some(value) => {
                let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
                count.map(Some).ok_or_else(|| wrong(key, value, "a whole number"))
            }
        };
        let do_sample = match read("do_sample") {
            None => None,
            Some(Value::Bool(flag)) => Some(*flag),
            Some(value) => return Err(wrong("do_sample", value, "true or false")),
        };
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let eos_token_id: Option<Vec<u32>> = match read("eos_token_id") {
            None => Some(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(id).collect(),
            // Some files say -1 for none.
            Some(value) if value.as_i64().is_some_and(|id| id < 0) => Some(Vec::new()),
            Some(value) => id(value).map(|id| vec![id]),
        };
        let eos_token_id =
            eos_token_id.ok_or_else(|| wrong("eos_token_id", &raw["eos_token_id"], "a token id or a list of them"))?;
        Ok(Self {
            do_sample,
            temperature: number("temperature")?,
            top_k: count("top_k")?,
            top_p: number("top_p")?,
            min_p: number("min_p")?,
            repetition_penalty: number("repetition_penalty")?,
            max_new_tokens: count("max_new_tokens")?,
            eos_token_id,
            raw: Some(raw),
        })
    }

    /// Keys that would change what is generated, and do not here: `key: value`.
    pub fn unheeded(&self) -> Vec<String> {
        let Some(raw) = &self.raw else { return Vec::new() };
        let is_empty = |value: &Value| match value {
            Value::Array(list) => list.is_empty(),
            Value::Object(object) => object.is_empty(),
            value => value.is_null(),
        };
        let by_number = OTHERS.iter().filter_map(|(key, neutral)| {
            let value = raw.get(*key).filter(|value| !is_empty(value))?;
            (value.as_f64() != Some(*neutral)).then(|| format!("{key}: {value}"))
        });
        let by_list = LISTS.iter().filter_map(|key| {
            let value = raw.get(*key).filter(|value| !is_empty(value))?;
            Some(format!("{key}: {value}"))
        });
        by_number.chain(by_list).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(value: Value) -> Result<GenerationConfig, String> {
        let Value::Object(raw) = value else { panic!("{value} is no object") };
        GenerationConfig::from_map(raw)
    }

    #[test]
    fn what_is_null_is_absent() {
        let config = of(json!({"temperature": null, "eos_token_id": [2, 7], "top_k": 20, "do_sample": true})).unwrap();
        assert_eq!((config.temperature, config.top_k, config.do_sample), (None, Some(20), Some(true)));
        assert_eq!(config.eos_token_id, [2, 7]);
        assert_eq!(of(json!({"eos_token_id": 3})).unwrap().eos_token_id, [3]);
        assert!(of(json!({"eos_token_id": -1})).unwrap().eos_token_id.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let reason = |value: Value| of(value).unwrap_err();
        assert_eq!(reason(json!({"do_sample": "yes"})), "`do_sample` is \"yes\", not true or false");
        assert_eq!(reason(json!({"top_k": 1.5})), "`top_k` is 1.5, not a whole number");
        assert_eq!(
            reason(json!({"eos_token_id": "</s>"})),
            "`eos_token_id` is \"</s>\", not a token id or a list of them"
        );
    }

    #[test]
    fn what_would_change_the_text_and_does_not_is_listed() {
        let config = of(json!({"num_beams": 4, "min_p": 0.0, "suppress_tokens": [], "bad_words_ids": [[1]]})).unwrap();
        assert_eq!(config.unheeded(), ["num_beams: 4", "bad_words_ids: [[1]]"]);
    }

    #[test]
    fn a_directory_without_the_file_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(GenerationConfig::read(directory.path()).unwrap(), GenerationConfig::default());
        std::fs::write(directory.path().join("generation_config.json"), "{").unwrap();
        assert!(matches!(GenerationConfig::read(directory.path()), Err(GenerationError::Invalid { .. })));
    }
}
