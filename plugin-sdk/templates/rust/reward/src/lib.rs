//! Short answers score 1; the score goes down with every word too many.

use plugin_sdk::Error;
use plugin_sdk::reward::{Context, Item, Reward, Score, does_not_apply, value, value_because};
use serde::Deserialize;

/// What users can set. `config.schema.json` says the same to the host, which holds their config against it.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    max_words: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_words: 50 }
    }
}

pub struct Brevity {
    config: Config,
}

impl Reward for Brevity {
    type Config = Config;

    fn new(config: Config) -> Result<Self, Error> {
        Ok(Self { config })
    }

    fn score(&mut self, item: &Item, _context: &Context) -> Result<Score, Error> {
        let words = item.completion.split_whitespace().count();
        if words == 0 {
            return Ok(does_not_apply());
        }
        let limit = f64::from(self.config.max_words);
        if words as f64 <= limit {
            Ok(value(1.0))
        } else {
            Ok(value_because(limit / words as f64, format!("{words} words")))
        }
    }
}

plugin_sdk::register_reward!(
    Brevity,
    name: "{{name}}",
    description: "Short answers score more",
    config_schema: include_str!("../config.schema.json"),
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_answers_score_less() {
        let mut reward = Brevity::new(Config { max_words: 2 }).unwrap();
        let mut score = |completion: &str| {
            let item = Item {
                prompt: String::new(),
                completion: completion.to_owned(),
                completion_tokens: 1,
                finished: true,
                reference: String::new(),
                row_json: "{}".to_owned(),
            };
            reward.score(&item, &Context { step: 0, total_steps: 1, seed: 0 }).unwrap().value
        };
        assert_eq!([score("one two"), score("one two three four"), score("")], [Some(1.0), Some(0.5), None]);
    }
}
