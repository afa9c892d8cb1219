//! 0 for completions that do not repeat themselves, and less the more they do, down to `max_penalty`: the share of n-grams that
//! stood in the completion before, times `max_penalty`. (Appendix C.2 of arXiv 2502.03373.)
//!
//! That is TRL's `get_repetition_penalty_reward`, over words: a plugin sees the text of a completion, where TRL sees its tokens.
//! For languages without spaces between words, set `unit: characters`.

use std::collections::{BTreeMap, BTreeSet};

use plugin_sdk::Error;
use plugin_sdk::reward::{Context, Item, Reward, Score, value, value_because};
use serde::Deserialize;

/// Bytes of a completion that are looked at: far more than any model writes at once.
const LIMIT: usize = 1 << 20;

/// What can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Units in a run, from 1 to 64. Default: `3`.
    ngram_size: usize,
    /// Penalty of a completion that is repetition alone, 0 or less. Default: `-1`.
    max_penalty: f64,
    /// What a run consists of: `words` (between spaces) or `characters`. Default: `words`.
    unit: Unit,
    /// `The` is `the`. Default: false.
    ignore_case: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Unit {
    Words,
    Characters,
}

impl Default for Config {
    fn default() -> Self {
        Self { ngram_size: 3, max_penalty: -1.0, unit: Unit::Words, ignore_case: false }
    }
}

/// The reward.
pub struct Repetition {
    config: Config,
}

impl Reward for Repetition {
    type Config = Config;

    fn new(config: Config) -> Result<Self, Error> {
        if !(1..=64).contains(&config.ngram_size) {
            return Err(Error::config("ngram_size", "`ngram_size` must be from 1 to 64"));
        }
        if !(config.max_penalty.is_finite() && config.max_penalty <= 0.0) {
            return Err(Error::config("max_penalty", "`max_penalty` must be 0 or less"));
        }
        Ok(Self { config })
    }

    fn score(&mut self, item: &Item, _context: &Context) -> Result<Score, Error> {
        let text = &item.completion[..item.completion.floor_char_boundary(LIMIT)];
        let lower = self.config.ignore_case.then(|| text.to_lowercase());
        let text = lower.as_deref().unwrap_or(text);
        let units = match self.config.unit {
            Unit::Words => numbered(text.split_whitespace()),
            Unit::Characters => numbered(text.chars().filter(|character| !character.is_whitespace())),
        };
        let all = (units.len() + 1).saturating_sub(self.config.ngram_size);
        // A tree, because a hash map would ask the sandbox for randomness.
        let unique = units.windows(self.config.ngram_size).collect::<BTreeSet<_>>().len();
        if unique == all {
            return Ok(value(0.0));
        }
        let share = 1.0 - unique as f64 / all as f64;
        let note = format!("{} of {all} runs of {} stood there before", all - unique, self.config.ngram_size);
        Ok(value_because(share * self.config.max_penalty, note))
    }
}

/// Units by number, the same for equal ones: runs of numbers compare fast whatever the length of a word is.
fn numbered<T: Ord>(units: impl Iterator<Item = T>) -> Vec<u32> {
    let mut known = BTreeMap::new();
    units
        .map(|unit| {
            let next = known.len() as u32;
            *known.entry(unit).or_insert(next)
        })
        .collect()
}

plugin_sdk::register_reward!(
    Repetition,
    name: "repetition",
    description: "0 for completions that do not repeat themselves, and less the more they do",
);

#[cfg(test)]
mod tests {
    use plugin_sdk::serde_json::{self, Value, json};

    use super::*;

    fn scored(config: Value, completion: &str) -> Score {
        let mut reward = Repetition::new(serde_json::from_value(config).unwrap()).unwrap();
        let item = Item {
            prompt: String::new(),
            completion: completion.to_owned(),
            completion_tokens: 1,
            finished: true,
            reference: String::new(),
            row_json: "{}".to_owned(),
        };
        reward.score(&item, &Context { step: 0, total_steps: 1, seed: 0 }).unwrap()
    }

    #[test]
    fn the_numbers_are_those_of_trl() {
        let fixture: Value = serde_json::from_str(include_str!("../../../tests/fixtures/rewards/cases.json")).unwrap();
        for case in fixture["repetition"].as_array().unwrap() {
            let config = json!({"ngram_size": case["ngram_size"], "max_penalty": case["max_penalty"]});
            let found = scored(config, case["text"].as_str().unwrap()).value.unwrap();
            // serde_json may read a number as the double beside it.
            assert!((found - case["reward"].as_f64().unwrap()).abs() < 1e-15, "{found} {case}");
        }
    }

    #[test]
    fn units_and_case_can_be_set() {
        assert_eq!(scored(json!({"ngram_size": 1}), "go Go"), value(0.0));
        let note = "1 of 2 runs of 1 stood there before";
        assert_eq!(scored(json!({"ngram_size": 1, "ignore_case": true}), "go Go"), value_because(-0.5, note));
        assert_eq!(scored(json!({"ngram_size": 2, "unit": "characters"}), "哈哈 哈").value, Some(-0.5));
        for wrong in [json!({"ngram_size": 0}), json!({"ngram_size": 65}), json!({"max_penalty": 0.5})] {
            assert!(Repetition::new(serde_json::from_value(wrong).unwrap()).is_err());
        }
    }

    #[test]
    fn hostile_completions_are_looked_at_up_to_a_length() {
        for text in ["[", "a ", "\0", "é ", "ab cd "] {
            let score = scored(json!({"ngram_size": 64}), &text.repeat(40_000_000 / text.len())).value.unwrap();
            assert!((-1.0..=0.0).contains(&score), "{text}");
        }
    }
}
