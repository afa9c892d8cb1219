//! Tokens that a config gives a tokenizer: new ones (`tokens`, `special_tokens`), and other texts for added ones that have a row
//! already (`added_tokens_overrides`). Both are edits of `tokenizer.json`, which is exported with them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::{Map, Value, json};
use tokenizers::AddedToken;

/// Writes other texts for added tokens into a `tokenizer.json`.
///
/// # Errors
/// What is in the way: an id that is no added token's, a text that is a token already, or a file that is none.
pub(super) fn replace(file: &[u8], overrides: &BTreeMap<u32, String>) -> Result<String, Replaced> {
    let mut root: Map<String, Value> =
        serde_json::from_slice(file).map_err(|error| Replaced::Invalid(error.to_string()))?;
    let mut before = BTreeMap::new();
    let mut others = HashSet::new();
    for entry in root.get_mut("added_tokens").and_then(Value::as_array_mut).into_iter().flatten() {
        let id = entry["id"].as_u64().and_then(|id| u32::try_from(id).ok());
        let Some((id, text)) = id.zip(entry["content"].as_str().map(str::to_owned)) else { continue };
        match overrides.get(&id) {
            None => drop(others.insert(text)),
            Some(new) => {
                entry["content"] = new.as_str().into();
                before.insert(id, text);
            }
        }
    }
    if let Some(id) = overrides.keys().find(|id| !before.contains_key(id)) {
        return Err(Replaced::NotAdded(*id));
    }
    // An added token may be one of the vocabulary too, under its id.
    match root.get_mut("model").and_then(|model| model.get_mut("vocab")) {
        Some(Value::Object(vocab)) => {
            let is_there = |(id, text): &(&u32, &String)| vocab.get(*text).is_some_and(|own| *own == **id);
            let renamed: Vec<(&u32, &String)> = before.iter().filter(is_there).collect();
            for (_, text) in &renamed {
                vocab.remove(*text);
            }
            others.extend(vocab.keys().cloned());
            vocab.extend(renamed.into_iter().map(|(id, _)| (overrides[id].clone(), (*id).into())));
        }
        Some(Value::Array(pieces)) => {
            for (id, text) in &before {
                if let Some(piece) = pieces.get_mut(*id as usize).filter(|piece| piece[0] == text.as_str()) {
                    piece[0] = overrides[id].as_str().into();
                }
            }
            let is_own = |index: usize| u32::try_from(index).is_ok_and(|id| before.contains_key(&id));
            let pieces = pieces.iter().enumerate().filter(|(index, _)| !is_own(*index));
            others.extend(pieces.filter_map(|(_, piece)| piece[0].as_str()).map(str::to_owned));
        }
        _ => {}
    }
    for (id, text) in overrides {
        if !others.insert(text.clone()) {
            return Err(Replaced::Known(*id, text.clone()));
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
    let own: BTreeSet<u64> = ids.iter().map(|(id, _)| u64::from(*id)).collect();
    added.retain(|entry| entry["id"].as_u64().is_none_or(|id| !own.contains(&id)));
    for (id, token) in ids {
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
