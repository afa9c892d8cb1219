//! What a `tokenizer.json` may ask of the library that reads it. The file is a stranger's program: rules that are run one
//! after another over every text.
//!
//! Its rules are looked at before they are made: how many, how long their patterns, how many times longer than the text what
//! they write can become. The library panics on some files; that is an error of the file.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use serde::Deserialize;
use serde_json::Value;

/// Rules of a kind (normalizers, splits, decoders). The most that is known has nine.
const RULES: usize = 64;
/// Characters of all patterns. The longest that is known has some four hundred.
const PATTERNS: usize = 8 << 10;
/// Bytes that a rule puts in front of a text.
const PREPENDED: usize = 256;
/// How many times longer than a text its rules may make it, all together. A space that becomes `▁` makes it three.
const GROWTH: usize = 64;
/// Tokens that may stand around a text.
pub(super) const AFFIXES: usize = 64;

/// The part of the file that is looked at; the vocabulary is passed over.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    model: Model,
}

#[derive(Deserialize, Default)]
struct Model {
    #[serde(default)]
    dropout: Option<f64>,
}

/// Refuses a file that asks for more than a tokenizer needs, or that would give one text different tokens. Returns whether it
/// works on bytes: `_tokenizer_json_has_byte_level` of transformers.
///
/// # Errors
/// What it asks for.
pub(super) fn check(bytes: &[u8]) -> Result<bool, String> {
    // What is not readable like this is said by the library.
    let Ok(file) = serde_json::from_slice::<File>(bytes) else { return Ok(false) };
    if let Some(dropout) = file.model.dropout.filter(|dropout| *dropout > 0.0) {
        return Err(format!(
            "its `dropout` is {dropout}, so that one text has other tokens each time; set it to null (transformers drops \
             tokens too as long as it is there)"
        ));
    }
    for (kind, part) in
        [("normalizer", &file.normalizer), ("pre_tokenizer", &file.pre_tokenizer), ("decoder", &file.decoder)]
    {
        let mut count = Count { growth: 1, ..Count::default() };
        count.rules_of(part, 0).map_err(|reason| format!("its `{kind}` {reason}"))?;
    }
    let has = |part: &Value| part.to_string().contains("\"ByteLevel\"");
    Ok(has(&file.pre_tokenizer) || has(&file.decoder))
}

#[derive(Default)]
struct Count {
    rules: usize,
    patterns: usize,
    growth: usize,
}

impl Count {
    fn rules_of(&mut self, part: &Value, depth: usize) -> Result<(), String> {
        if depth > 16 {
            return Err("nests more than 16 deep".to_owned());
        }
        let Value::Object(fields) = part else { return Ok(()) };
        self.rules += 1;
        if self.rules > RULES {
            return Err(format!("has more than {RULES} rules"));
        }
        let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
        let (literal, regex) = match fields.get("pattern") {
            Some(Value::Object(pattern)) => (pattern.get("String"), pattern.get("Regex")),
            _ => (None, None),
        };
        let (literal, regex) = (literal.and_then(Value::as_str), regex.and_then(Value::as_str));
        self.patterns += literal.or(regex).map_or(0, |pattern| pattern.chars().count());
        if self.patterns > PATTERNS {
            return Err(format!("has patterns of more than {PATTERNS} characters"));
        }
        if text("type") == "Replace" {
            if literal.or(regex).is_some_and(str::is_empty) {
                return Err("replaces the empty text".to_owned());
            }
            // A regular expression may match a single byte.
            let replaced = literal.map_or(1, str::len);
            self.growth = self.growth.saturating_mul(text("content").len().div_ceil(replaced).max(1));
            if self.growth > GROWTH {
                return Err(format!("can make a text more than {GROWTH} times longer"));
            }
        }
        if let Some(told) = told_size(text("precompiled_charsmap"))
            && told > text("precompiled_charsmap").len()
        {
            return Err(format!("has a table of characters that says it has {told} bytes, more than there are"));
        }
        let prepended = text("prepend").len().max(text("replacement").len());
        if prepended > PREPENDED {
            return Err(format!("puts {prepended} bytes in front of a text; the most is {PREPENDED}"));
        }
        for list in ["normalizers", "pretokenizers", "decoders"] {
            for part in fields.get(list).and_then(Value::as_array).into_iter().flatten() {
                self.rules_of(part, depth + 1)?;
            }
        }
        Ok(())
    }
}

/// What a table in base64 says of its own size, in its first four bytes: the library makes room for so many.
fn told_size(table: &str) -> Option<usize> {
    let digit = |letter: u8| {
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".iter().position(|&known| known == letter)
    };
    let mut bits = 0_u64;
    for letter in table.bytes().take(6) {
        bits = bits << 6 | digit(letter)? as u64;
    }
    // Six letters are 36 bits.
    (table.len() >= 6).then(|| ((bits >> 4) as u32).swap_bytes() as usize)
}

thread_local! {
    /// A panic of this thread is caught and told in other words.
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs what may panic on a stranger's file. None where it did.
pub(super) fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_GUARDED.get() {
                usual(panic);
            }
        }));
    });
    let before = IS_GUARDED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    IS_GUARDED.set(before);
    done.ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(file: &Value) -> String {
        check(file.to_string().as_bytes()).unwrap_err()
    }

    #[test]
    fn what_tokenizers_have_passes() {
        let space = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
        let split = json!({ "type": "Split", "pattern": { "Regex": "\\s+(?!\\S)|\\s+" }, "behavior": "Isolated" });
        let file = json!({
            "normalizer": { "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": "▁" }, space] },
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": [split, { "type": "ByteLevel" }] },
            "decoder": { "type": "Metaspace", "replacement": "▁" },
            "model": { "type": "BPE", "dropout": null, "vocab": {}, "merges": [] },
        });
        assert!(check(file.to_string().as_bytes()).unwrap(), "it works on bytes");
        assert!(!check(b"{}").unwrap());
        assert!(!check(b"not JSON").unwrap());
    }

    #[test]
    fn bombs_are_seen_before_they_go_off() {
        let ten = json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "aaaaaaaaaa" });
        let sequence =
            |part: &Value, count: usize| json!({ "type": "Sequence", "normalizers": vec![part.clone(); count] });
        assert!(refused(&json!({ "normalizer": sequence(&ten, 2) })).contains("64 times longer"));
        assert!(
            refused(&json!({ "decoder": { "type": "Sequence", "decoders": [ten.clone(), ten] } })).contains("decoder")
        );
        let split = json!({ "type": "Split", "pattern": { "Regex": "\\w{80}" } });
        assert!(refused(&json!({ "normalizer": sequence(&split, 65) })).contains("more than 64 rules"));
        let prepend = json!({ "type": "Prepend", "prepend": "x".repeat(1000) });
        assert!(refused(&json!({ "normalizer": prepend })).contains("1000 bytes in front"));
        let empty = json!({ "type": "Replace", "pattern": { "Regex": "" }, "content": "x" });
        assert!(refused(&json!({ "normalizer": empty })).contains("empty text"));
        assert!(refused(&json!({ "model": { "dropout": 0.5 } })).contains("`dropout` is 0.5"));
        let table = |table: &str| json!({ "normalizer": { "type": "Precompiled", "precompiled_charsmap": table } });
        assert!(refused(&table("/////wAA")).contains("says it has 4294967295 bytes"));
        // Four bytes, and one more.
        assert!(check(table("BAAAAAAAAAAA").to_string().as_bytes()).is_ok());
        assert_eq!(told_size("BAAAAAAAAAAA"), Some(4));
        assert_eq!(told_size("AAEAAA=="), Some(256));
    }

    #[test]
    fn a_panic_is_caught_and_not_printed() {
        assert_eq!(guarded(|| 1), Some(1));
        assert_eq!(guarded(|| -> u8 { panic!("of the library") }), None);
    }
}
