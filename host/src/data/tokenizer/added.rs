//! Tokens that a config gives a tokenizer: new ones (`tokens`, `special_tokens`), and other texts for added ones that have a row
//! already (`added_tokens_overrides`). Both are edits of `tokenizer.json`, which is exported with them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tokenizers::AddedToken;

/// Writes other texts for added tokens into a `tokenizer.json`.
///
/// # Errors
/// What is in the way: an id that is no added token's, a text that is a token already, or a file that is none.
pub(super) fn replace(file: &[u8], overrides: &BTreeMap<u32, String>) -> Result<String, Replaced> {
    let mut root: Map<String, Value> =
        serde_json::from_slice(file).map_err(|error| Replaced::Invalid(error.to_string()))?;
    for (&id, text) in overrides {
        let added = root.get_mut("added_tokens").and_then(Value::as_array_mut);
        let mut entries = added.into_iter().flatten();
        let Some(entry) = entries.find(|entry| entry["id"] == id) else { return Err(Replaced::NotAdded(id)) };
        let Some(before) = entry["content"].as_str().map(str::to_owned) else { return Err(Replaced::NotAdded(id)) };
        entry["content"] = text.as_str().into();
        match root.get_mut("model").and_then(|model| model.get_mut("vocab")) {
            Some(Value::Object(vocab)) => {
                if vocab.get(text).is_some_and(|other| *other != id) {
                    return Err(Replaced::Known(id, text.clone()));
                }
                if vocab.get(&before).is_some_and(|own| *own == id) {
                    vocab.remove(&before);
                    vocab.insert(text.clone(), id.into());
                }
            }
            Some(Value::Array(pieces)) => {
                if pieces.iter().any(|piece| piece[0] == text.as_str()) {
                    return Err(Replaced::Known(id, text.clone()));
                }
                if let Some(piece) = pieces.get_mut(id as usize).filter(|piece| piece[0] == before.as_str()) {
                    piece[0] = text.as_str().into();
                }
            }
            _ => {}
        }
        let twice = |entry: &&Value| entry["content"] == text.as_str();
        if root["added_tokens"].as_array().is_some_and(|added| added.iter().filter(twice).count() > 1) {
            return Err(Replaced::Known(id, text.clone()));
        }
    }
    serde_json::to_string_pretty(&Value::Object(root)).map_err(|error| Replaced::Invalid(error.to_string()))
}

/// Why a token cannot have another text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Replaced {
    /// The file is no tokenizer.
    Invalid(String),
    /// No added token has this id.
    NotAdded(u32),
    /// Another token has this text.
    Known(u32, String),
}

/// A token that is found before anything else is, as it stands in a text (`AddedToken(text, rstrip=False, lstrip=False,
/// normalized=False)`, which is what Axolotl makes of `tokens` and `special_tokens`).
pub(super) fn token(text: &str, is_special: bool) -> AddedToken {
    AddedToken::from(text, is_special).normalized(false)
}

/// A `tokenizer.json` with tokens that it does not have. `ids` are those that the tokenizer has given them.
///
/// # Errors
/// What is wrong with the file.
pub(super) fn write(file: &str, ids: &[(u32, AddedToken)]) -> Result<String, String> {
    let mut root: Map<String, Value> = serde_json::from_str(file).map_err(|error| error.to_string())?;
    let added = root.entry("added_tokens").or_insert_with(|| json!([]));
    let Value::Array(added) = added else { return Err("`added_tokens` is not a list".to_owned()) };
    for (id, token) in ids {
        added.retain(|entry| entry["id"] != *id);
        added.push(json!({
            "id": id,
            "content": token.content,
            "single_word": token.single_word,
            "lstrip": token.lstrip,
            "rstrip": token.rstrip,
            "normalized": token.normalized,
            "special": token.special,
        }));
    }
    added.sort_by_key(|entry| entry["id"].as_u64());
    serde_json::to_string_pretty(&Value::Object(root)).map_err(|error| error.to_string())
}
