//! 0 for completions of the wanted length, and less the further they are from it, down to `max_penalty`:
//!
//! ```text
//!      min     max
//!   0   ┌───────┐
//!      ╱         ╲      one `falloff` outside of the range, and further out, it is `max_penalty`
//!  -1 ─            ─
//! ```
//!
//! TRL's `get_soft_overlong_punishment` (eq. 13 of DAPO, arXiv 2503.14476) is the same under other names, which can be written
//! in its place: `max_completion_len` is `max` + `falloff`, `soft_punish_cache` is `falloff`.

use plugin_sdk::Error;
use plugin_sdk::reward::{Context, Item, Reward, Score, value, value_because};
use serde::Deserialize;

/// What can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is counted: `tokens`, `words` (between spaces) or `characters`. Default: `tokens`.
    unit: Unit,
    /// Least length without a penalty. Default: none.
    min: Option<u64>,
    /// Greatest length without a penalty. Default: none.
    max: Option<u64>,
    /// Over how much the penalty grows to its whole; with 0 all outside of the range has it. Default: `0`.
    falloff: Option<u64>,
    /// Penalty of a completion that is wholly out of range, 0 or less. Default: `-1`.
    max_penalty: f64,
    /// TRL's name: the length from which on the penalty is whole.
    max_completion_len: Option<u64>,
    /// TRL's name: how much before that it starts. Default: `0`.
    soft_punish_cache: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Unit {
    Tokens,
    Words,
    Characters,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            unit: Unit::Tokens,
            min: None,
            max: None,
            falloff: None,
            max_penalty: -1.0,
            max_completion_len: None,
            soft_punish_cache: None,
        }
    }
}

/// The reward.
pub struct Length {
    unit: Unit,
    min: u64,
    max: u64,
    falloff: u64,
    max_penalty: f64,
}

impl Reward for Length {
    type Config = Config;

    fn new(config: Config) -> Result<Self, Error> {
        let (max, falloff) = match (config.max_completion_len, config.soft_punish_cache) {
            (None, None) => (config.max, config.falloff.unwrap_or(0)),
            (None, Some(_)) => {
                let message = "`soft_punish_cache` is part of `max_completion_len`, which is not set";
                return Err(Error::config("soft_punish_cache", message));
            }
            (Some(_), _) if config.max.is_some() || config.falloff.is_some() => {
                let message = "`max_completion_len` and `soft_punish_cache` are other words for `max` and `falloff`";
                return Err(Error::config_with_help("max_completion_len", message, "write one pair of them"));
            }
            (Some(end), cache) => {
                let cache = cache.unwrap_or(0);
                let max = end.checked_sub(cache).ok_or_else(|| {
                    Error::config(
                        "soft_punish_cache",
                        format!("`soft_punish_cache` {cache} is more than `max_completion_len` {end}"),
                    )
                })?;
                (Some(max), cache)
            }
        };
        if config.min.is_none() && max.is_none() {
            return Err(Error::config_with_help("", "no length is wanted", "set `min`, `max` or both"));
        }
        let (min, max) = (config.min.unwrap_or(0), max.unwrap_or(u64::MAX));
        if min > max {
            return Err(Error::config("min", format!("`min` {min} is more than `max` {max}: no length would fit")));
        }
        if !(config.max_penalty.is_finite() && config.max_penalty <= 0.0) {
            return Err(Error::config("max_penalty", "`max_penalty` must be 0 or less"));
        }
        Ok(Self { unit: config.unit, min, max, falloff, max_penalty: config.max_penalty })
    }

    fn score(&mut self, item: &Item, _context: &Context) -> Result<Score, Error> {
        let (length, unit) = match self.unit {
            Unit::Tokens => (u64::from(item.completion_tokens), "tokens"),
            Unit::Words => (item.completion.split_whitespace().count() as u64, "words"),
            Unit::Characters => (item.completion.chars().count() as u64, "characters"),
        };
        let (over, side) = if length > self.max {
            (length - self.max, format!("over {}", self.max))
        } else if length < self.min {
            (self.min - length, format!("under {}", self.min))
        } else {
            return Ok(value(0.0));
        };
        let share = if over >= self.falloff { 1.0 } else { over as f64 / self.falloff as f64 };
        Ok(value_because(share * self.max_penalty, format!("{length} {unit}, {side}")))
    }
}

plugin_sdk::register_reward!(
    Length,
    name: "length",
    description: "0 for completions of the wanted length, and less the further they are from it",
);

#[cfg(test)]
mod tests {
    use plugin_sdk::serde_json::{self, Value, json};

    use super::*;

    fn scored(config: Value, completion: &str, completion_tokens: u32) -> Score {
        let mut reward = Length::new(serde_json::from_value(config).unwrap()).unwrap();
        let item = Item {
            prompt: String::new(),
            completion: completion.to_owned(),
            completion_tokens,
            finished: true,
            reference: String::new(),
            row_json: "{}".to_owned(),
        };
        reward.score(&item, &Context { step: 0, total_steps: 1, seed: 0 }).unwrap()
    }

    #[test]
    fn the_penalty_grows_outside_of_the_range() {
        let config = json!({"min": 10, "max": 20, "falloff": 4});
        let score = |tokens: u32| scored(config.clone(), "", tokens).value.unwrap();
        assert_eq!([0, 6, 7, 10, 20, 21, 24, 999].map(score), [-1.0, -1.0, -0.75, 0.0, 0.0, -0.25, -1.0, -1.0]);
        assert_eq!(scored(config.clone(), "", 21).note.as_deref(), Some("21 tokens, over 20"));
        let half = json!({"max": 2, "unit": "words", "max_penalty": -0.5});
        assert_eq!(scored(half, " a b\nc ", 0), value_because(-0.5, "3 words, over 2"));
        assert_eq!(
            scored(json!({"min": 2, "unit": "characters"}), "é", 0).note.as_deref(),
            Some("1 characters, under 2")
        );
    }

    #[test]
    fn soft_overlong_punishment_is_that_of_trl() {
        let fixture: Value = serde_json::from_str(include_str!("../../../tests/fixtures/rewards/cases.json")).unwrap();
        for case in fixture["soft_overlong"].as_array().unwrap() {
            let config = json!({"max_completion_len": case["max_completion_len"], "soft_punish_cache": case["soft_punish_cache"]});
            let tokens = u32::try_from(case["tokens"].as_u64().unwrap()).unwrap();
            assert_eq!(scored(config, "", tokens).value, case["reward"].as_f64(), "{case}");
        }
    }

    #[test]
    fn configs_that_fit_no_length_are_refused() {
        let path = |config: Value| match Length::new(serde_json::from_value(config).unwrap()) {
            Err(Error::Config { path, .. }) => path,
            _ => panic!("it was taken"),
        };
        assert_eq!(path(json!({})), "");
        assert_eq!(path(json!({"min": 3, "max": 2})), "min");
        assert_eq!(path(json!({"max": 3, "max_penalty": 1})), "max_penalty");
        assert_eq!(path(json!({"max": 3, "max_completion_len": 4})), "max_completion_len");
        assert_eq!(path(json!({"soft_punish_cache": 4})), "soft_punish_cache");
        assert_eq!(path(json!({"max_completion_len": 3, "soft_punish_cache": 4})), "soft_punish_cache");
    }
}
