//! Leaves out rows that teach little: empty or oversized ones, exact duplicates, and texts that repeat themselves.
//!
//! Each row gets a score from 0 to 1, `(1 - repetition) * legible`:
//! - `repetition` is the share of a text's lines, or of its runs of four words, that stood in the same text before,
//!   whichever is larger; a row has that of its worst text. (Repeated lines and n-grams are the repetition signals of
//!   Rae et al. 2021, arXiv 2112.11446.)
//! - `legible` is the share of characters that are not control characters, private ones, or the sign for broken
//!   encoding (U+FFFD).

use std::collections::BTreeSet;

use plugin_sdk::Error;
use plugin_sdk::filter::{RowFilter, Verdict, keep_with};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Words in a run.
const RUN: usize = 4;

/// What can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Columns that are looked at. Default: all; in lists and objects (conversations), the texts inside.
    fields: Option<Vec<String>>,
    /// Characters that these columns must have together. Default: 1.
    min_chars: usize,
    /// Characters that they may have together. Default: any number.
    max_chars: Option<usize>,
    /// Leave out rows that equal an earlier one but for case and spaces; the first stays. Default: true. It remembers
    /// some 30 bytes a row.
    dedup: bool,
    /// Share of a text that may repeat it, from 0 to 1. Default: any.
    max_repetition: Option<f64>,
}

impl Default for Config {
    fn default() -> Self {
        Self { fields: None, min_chars: 1, max_chars: None, dedup: true, max_repetition: None }
    }
}

/// The filter.
pub struct Curate {
    config: Config,
    /// Digests of the rows so far. A tree, because a hash map would ask the sandbox for randomness.
    seen: BTreeSet<u128>,
}

impl RowFilter for Curate {
    type Config = Config;
    type Row = Map<String, Value>;

    fn new(config: Config) -> Result<Self, Error> {
        if config.fields.as_ref().is_some_and(Vec::is_empty) {
            let message = "`fields` is empty, so every row would look the same";
            return Err(Error::config_with_help("fields", message, "name columns, or delete the line for all of them"));
        }
        if let Some(max) = config.max_chars.filter(|&max| max < config.min_chars) {
            let message = format!("`max_chars` {max} is less than `min_chars` {}: no row would fit", config.min_chars);
            return Err(Error::config("max_chars", message));
        }
        if config.max_repetition.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
            return Err(Error::config("max_repetition", "`max_repetition` is a share, from 0 to 1"));
        }
        Ok(Self { config, seen: BTreeSet::new() })
    }

    fn judge(&mut self, row: Map<String, Value>) -> Verdict {
        let mut texts = Vec::new();
        match &self.config.fields {
            Some(fields) => fields.iter().filter_map(|field| row.get(field)).for_each(|value| list(value, &mut texts)),
            None => row.values().for_each(|value| list(value, &mut texts)),
        }
        let chars: usize = texts.iter().map(|text| text.trim().chars().count()).sum();
        let repetition = texts.iter().map(|text| repetition(text)).fold(0.0, f64::max);
        let reason = self.reason(&texts, chars, repetition);
        Verdict { keep: reason.is_none(), reason, ..keep_with((1.0 - repetition) * legible(&texts)) }
    }
}

impl Curate {
    /// Why the row is left out, if it is.
    fn reason(&mut self, texts: &[&str], chars: usize, repetition: f64) -> Option<String> {
        let config = &self.config;
        if chars == 0 && config.min_chars > 0 {
            return Some(match &config.fields {
                Some(fields) => format!("no text in {}", fields.join(", ")),
                None => "no text".to_owned(),
            });
        }
        if chars < config.min_chars {
            return Some(format!("shorter than {} characters", config.min_chars));
        }
        if let Some(max) = config.max_chars.filter(|&max| chars > max) {
            return Some(format!("longer than {max} characters"));
        }
        if let Some(max) = config.max_repetition.filter(|&max| repetition > max) {
            return Some(format!("more than {} % repeats itself", (max * 1000.0).round() / 10.0));
        }
        (config.dedup && !self.seen.insert(digest(texts))).then(|| "duplicate of an earlier row".to_owned())
    }
}

/// All texts of a value, in order.
fn list<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(values) => values.iter().for_each(|value| list(value, texts)),
        Value::Object(map) => map.values().for_each(|value| list(value, texts)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Share of a text that stood in it before, by lines or by runs of words.
fn repetition(text: &str) -> f64 {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let words: Vec<&str> = text.split_whitespace().collect();
    repeated(lines.iter()).max(repeated(words.windows(RUN)))
}

fn repeated<T: Ord>(parts: impl Iterator<Item = T>) -> f64 {
    let mut seen = BTreeSet::new();
    let (mut all, mut again) = (0_u32, 0_u32);
    for part in parts {
        all += 1;
        again += u32::from(!seen.insert(part));
    }
    f64::from(again) / f64::from(all.max(1))
}

/// Share of characters that a reader can read.
fn legible(texts: &[&str]) -> f64 {
    let is_broken = |c: char| {
        (c.is_control() && !matches!(c, '\n' | '\r' | '\t')) || matches!(c, '\u{fffd}' | '\u{e000}'..='\u{f8ff}')
    };
    let (mut all, mut broken) = (0_u32, 0_u32);
    for character in texts.iter().flat_map(|text| text.chars()) {
        all += 1;
        broken += u32::from(is_broken(character));
    }
    1.0 - f64::from(broken) / f64::from(all.max(1))
}

/// FNV-1a of 128 bits over the texts, without case and with single spaces.
fn digest(texts: &[&str]) -> u128 {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let mut eat = |byte: u8| hash = (hash ^ u128::from(byte)).wrapping_mul(PRIME);
    for text in texts {
        for word in text.split_whitespace() {
            word.to_lowercase().bytes().for_each(&mut eat);
            eat(b' ');
        }
        // No text has this byte: where one ends and the next begins counts too.
        eat(0xff);
    }
    hash
}

plugin_sdk::register_row_filter!(
    Curate,
    name: "curate",
    description: "Leaves out duplicates, rows too short or long, and rows that repeat themselves",
);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn curate(config: Value) -> Curate {
        Curate::new(serde_json::from_value(config).unwrap()).unwrap()
    }

    fn reason(curate: &mut Curate, row: Value) -> Option<String> {
        let Value::Object(row) = row else { panic!("a row is an object") };
        let verdict = curate.judge(row);
        assert_eq!(verdict.keep, verdict.reason.is_none());
        verdict.reason
    }

    #[test]
    fn the_first_of_equal_rows_stays() {
        let mut all = curate(json!({}));
        assert_eq!(reason(&mut all, json!({"q": "Add 1  and 2", "a": "3"})), None);
        assert_eq!(reason(&mut all, json!({"q": "Add 1 and 2", "a": "33"})), None);
        assert_eq!(reason(&mut all, json!({"q": "Add 1 and", "a": "2 3"})), None);
        let again = reason(&mut all, json!({"q": " add 1 AND\n2", "a": "3", "id": 7}));
        assert_eq!(again.as_deref(), Some("duplicate of an earlier row"));
        let mut question = curate(json!({"fields": ["q"]}));
        assert_eq!(reason(&mut question, json!({"q": "x", "a": "1"})), None);
        assert!(reason(&mut question, json!({"q": "x", "a": "2"})).is_some());
        let mut off = curate(json!({"dedup": false}));
        assert_eq!([(); 2].map(|()| reason(&mut off, json!({"q": "x"}))), [None, None]);
    }

    #[test]
    fn lengths_count_characters_of_all_columns() {
        let mut filter = curate(json!({"min_chars": 3, "max_chars": 5, "dedup": false}));
        assert_eq!(reason(&mut filter, json!({"a": "é", "b": "ü"})).as_deref(), Some("shorter than 3 characters"));
        assert_eq!(reason(&mut filter, json!({"a": "é", "b": [{"content": "üü"}]})), None);
        assert_eq!(reason(&mut filter, json!({"a": "sixsix"})).as_deref(), Some("longer than 5 characters"));
        assert_eq!(reason(&mut filter, json!({"a": 123_456, "b": " "})).as_deref(), Some("no text"));
        assert_eq!(reason(&mut curate(json!({"fields": ["c"]})), json!({"a": "x"})).as_deref(), Some("no text in c"));
    }

    #[test]
    fn repetition_is_told_and_scored() {
        assert_eq!(repetition("a b c d e f g"), 0.0);
        assert_eq!(repetition("go go go go go go go"), 0.75);
        assert_eq!(repetition("one\ntwo\n\none\none\n"), 0.5);
        let mut filter = curate(json!({"max_repetition": 0.3}));
        let row = json!({"a": "fine", "b": "x\nx\ny\nx"});
        assert_eq!(reason(&mut filter, row).as_deref(), Some("more than 30 % repeats itself"));
        let Value::Object(half) = json!({"a": "b\u{fffd}", "b": "x\ny\nx\ny"}) else { unreachable!() };
        let score = curate(json!({})).judge(half).score.unwrap();
        assert!((score - 0.5 * (1.0 - 1.0 / 9.0)).abs() < 1e-12, "{score}");
    }

    #[test]
    fn configs_that_fit_no_row_are_refused() {
        let path = |config: Value| match Curate::new(serde_json::from_value(config).unwrap()) {
            Err(Error::Config { path, .. }) => path,
            _ => panic!("it was taken"),
        };
        assert_eq!(path(json!({"fields": []})), "fields");
        assert_eq!(path(json!({"min_chars": 9, "max_chars": 3})), "max_chars");
        assert_eq!(path(json!({"max_repetition": 1.5})), "max_repetition");
    }
}
