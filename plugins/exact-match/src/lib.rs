//! 1 where the completion is exactly the reference, else 0. The reference is what training would have learned, or a
//! column of the row.

use plugin_sdk::Error;
use plugin_sdk::reward::{Context, Item, Reward, Score, does_not_apply, reference, value, value_because};
use serde::Deserialize;

/// What can be set.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Column with the right answer. Default: what training would have learned from the row.
    field: Option<String>,
    /// `Yes` is `yes`.
    ignore_case: bool,
    /// `a, b.` is `a b`.
    ignore_punctuation: bool,
}

/// The reward.
pub struct ExactMatch {
    config: Config,
}

impl Reward for ExactMatch {
    type Config = Config;

    fn new(config: Config) -> Result<Self, Error> {
        if config.field.as_deref() == Some("") {
            return Err(Error::config("field", "`field` is empty; name a column of the data"));
        }
        Ok(Self { config })
    }

    fn score(&mut self, item: &Item, _context: &Context) -> Result<Score, Error> {
        let Some(reference) = reference(item, self.config.field.as_deref())? else { return Ok(does_not_apply()) };
        if self.plain(&item.completion) == self.plain(&reference) {
            Ok(value(1.0))
        } else {
            Ok(value_because(0.0, format!("wanted `{}`", reference.trim())))
        }
    }
}

impl ExactMatch {
    /// Without what does not count: space at the ends and runs of it, and what the config ignores.
    fn plain(&self, text: &str) -> String {
        let mut text = text.to_owned();
        if self.config.ignore_case {
            text = text.to_lowercase();
        }
        if self.config.ignore_punctuation {
            text.retain(|character| !character.is_ascii_punctuation());
        }
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

plugin_sdk::register_reward!(
    ExactMatch,
    name: "exact-match",
    description: "1 where the completion is the reference, else 0",
);

#[cfg(test)]
mod tests {
    use plugin_sdk::serde_json;

    use super::*;

    fn score(config: &str, completion: &str, reference: &str) -> Option<f64> {
        let mut reward = ExactMatch::new(serde_json::from_str(config).unwrap()).unwrap();
        let item = Item {
            prompt: String::new(),
            completion: completion.to_owned(),
            completion_tokens: 1,
            finished: true,
            reference: reference.to_owned(),
            row_json: r#"{"answer": 42}"#.to_owned(),
        };
        reward.score(&item, &Context { step: 0, total_steps: 1, seed: 0 }).unwrap().value
    }

    #[test]
    fn only_the_same_text_scores() {
        assert_eq!(score("{}", " a  b\n", "a b"), Some(1.0));
        assert_eq!(score("{}", "a b c", "a b"), Some(0.0));
        assert_eq!(score("{}", "A b", "a b"), Some(0.0));
        assert_eq!(score(r#"{"ignore_case": true, "ignore_punctuation": true}"#, "A, b.", "a b"), Some(1.0));
    }

    #[test]
    fn the_reference_can_be_a_column() {
        assert_eq!(score(r#"{"field": "answer"}"#, "42", "no"), Some(1.0));
        assert_eq!(score(r#"{"field": "missing"}"#, "42", "no"), None);
        assert_eq!(score("{}", "42", ""), None);
    }
}
