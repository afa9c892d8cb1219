//! The tokenizer's post-processor: what it puts around a text, and the same with another token in the place of one.

use serde_json::Value;
use tokenizers::{PostProcessorWrapper, Tokenizer};

use super::patterns::Bounded;

/// Texts to try it with: a vocabulary need not have them all.
const TEXTS: [&str; 4] = ["a", "0", " ", "\u{4e00}"];

/// What the tokenizer's own post-processor puts around a plain text (`add_special_tokens=True` of transformers).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Affixes {
    /// In front of it.
    pub prefix: Vec<u32>,
    /// Behind it.
    pub suffix: Vec<u32>,
}

/// What is put around a text: found by encoding one with and without it.
pub(super) fn affixes(tokenizer: &Bounded) -> Result<Affixes, String> {
    let encode = |text, special| tokenizer.encode(text, special).map_err(|error| error.to_string());
    let mut found = None;
    for text in TEXTS {
        let plain = encode(text, false)?;
        if !plain.is_empty() {
            found = Some((plain, encode(text, true)?));
            break;
        }
    }
    let Some((plain, whole)) = found else { return Err("it makes no token of a text".to_owned()) };
    let (ids, added) = (whole.get_ids(), whole.get_special_tokens_mask());
    let start = added.iter().position(|&added| added == 0).unwrap_or(ids.len());
    let end = added.iter().rposition(|&added| added == 0).map_or(start, |last| last + 1);
    if ids[start..end] != *plain.get_ids() {
        return Err("its post-processor does not keep a text in one piece".to_owned());
    }
    Ok(Affixes { prefix: ids[..start].to_vec(), suffix: ids[end..].to_vec() })
}

/// Puts the second token of each pair where the post-processor writes the first. Returns the `tokenizer.json` of it, where
/// that made a difference; `file` is the one that was read.
pub(super) fn rename(
    tokenizer: &mut Bounded,
    file: &[u8],
    renamed: &[(String, String)],
) -> Result<Option<String>, String> {
    let Some(processor) = tokenizer.get_post_processor().filter(|_| !renamed.is_empty()) else { return Ok(None) };
    let before = serde_json::to_value(processor).map_err(|error| error.to_string())?;
    let mut after = before.clone();
    for (from, to) in renamed {
        let ids = tokenizer.token_to_id(from).zip(tokenizer.token_to_id(to));
        let Some((from_id, to_id)) = ids else { continue };
        replace(&mut after, &Pair { from, to, from_id, to_id });
    }
    if after == before {
        return Ok(None);
    }
    let processor: PostProcessorWrapper = serde_json::from_value(after).map_err(|error| error.to_string())?;
    tokenizer.with_post_processor(Some(processor.clone()));
    // From the bytes again: what was changed for encoding does not belong into the file.
    let mut written = Tokenizer::from_bytes(file).map_err(|error| error.to_string())?;
    written.with_post_processor(Some(processor));
    written.to_string(true).map(Some).map_err(|error| error.to_string())
}

struct Pair<'a> {
    from: &'a str,
    to: &'a str,
    from_id: u32,
    to_id: u32,
}

/// Tokens stand in a post-processor as a text (`"id": "</s>"`), as a key (`"special_tokens": {"</s>": …}`), in lists of ids
/// (`"ids": [2]`), or as a pair (`"sep": ["</s>", 2]`).
fn replace(value: &mut Value, pair: &Pair<'_>) {
    match value {
        Value::String(text) if text == pair.from => pair.to.clone_into(text),
        Value::Array(list) => {
            let is_pair = list.len() == 2 && list[0] == pair.from && list[1] == pair.from_id;
            if is_pair {
                *list = vec![pair.to.into(), pair.to_id.into()];
            }
            for item in list {
                replace(item, pair);
            }
        }
        Value::Object(object) => {
            *object = std::mem::take(object)
                .into_iter()
                .map(|(key, mut item)| {
                    if let ("ids", Value::Array(ids)) = (key.as_str(), &mut item) {
                        ids.iter_mut().filter(|id| **id == pair.from_id).for_each(|id| *id = pair.to_id.into());
                    }
                    replace(&mut item, pair);
                    (if key == pair.from { pair.to.to_owned() } else { key }, item)
                })
                .collect();
        }
        _ => {}
    }
}
