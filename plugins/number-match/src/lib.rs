//! 1 where the number that a completion comes to is the right one, else 0.
//!
//! Of a text, the number in its last `\boxed{…}` counts, else the first one behind its last `####`, else its last number.
//! The right one is taken from the reference in the same way, so that a whole worked solution can be the reference.
//!
//! Numbers are read as `number.rs` says: decimals, thousands, fractions, percent. There is no algebra: `2^3`, `3\pi` and
//! `2 \times 10^5` are not computed.

mod number;

use plugin_sdk::Error;
use plugin_sdk::reward::{Context, Item, Reward, Score, does_not_apply, reference, value, value_because};
use serde::Deserialize;

use number::{Number, first_number, last_number};

/// What can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Column with the right answer. Default: what training would have learned from the row.
    field: Option<String>,
    /// Where a completion says its answer: `any` as above, or only `boxed`, `hashes` (`####`) or `last` (the last number).
    /// Default: `any`.
    answer: Answer,
    /// How far the number may be from the right one, as a share of that. Default: `1e-9`, which is rounding.
    relative_tolerance: f64,
    /// How far it may be whatever the right one is; the wider of the two counts. Default: `0`.
    absolute_tolerance: f64,
    /// `50%` is `0.5`, and never `50`. Default: false; a percentage is right either way where only one of the two has the sign.
    strict_percent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Any,
    Boxed,
    Hashes,
    Last,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            field: None,
            answer: Answer::Any,
            relative_tolerance: 1e-9,
            absolute_tolerance: 0.0,
            strict_percent: false,
        }
    }
}

/// The reward.
pub struct NumberMatch {
    config: Config,
}

impl Reward for NumberMatch {
    type Config = Config;

    fn new(config: Config) -> Result<Self, Error> {
        if config.field.as_deref() == Some("") {
            return Err(Error::config("field", "`field` is empty; name a column of the data"));
        }
        for (key, tolerance) in
            [("relative_tolerance", config.relative_tolerance), ("absolute_tolerance", config.absolute_tolerance)]
        {
            if !(tolerance.is_finite() && tolerance >= 0.0) {
                return Err(Error::config(key, format!("`{key}` must be 0 or more")));
            }
        }
        Ok(Self { config })
    }

    fn score(&mut self, item: &Item, _context: &Context) -> Result<Score, Error> {
        let Some(reference) = reference(item, self.config.field.as_deref())? else { return Ok(does_not_apply()) };
        let Ok(wanted) = said(&reference, Answer::Any) else {
            return Ok(Score { value: None, note: Some("the reference has no number".to_owned()) });
        };
        let found = match said(&item.completion, self.config.answer) {
            Ok(found) => found,
            Err(why) => return Ok(value_because(0.0, why)),
        };
        if self.is_right(found, wanted) {
            return Ok(value(1.0));
        }
        Ok(value_because(0.0, format!("wanted {wanted}, found {found}")))
    }
}

impl NumberMatch {
    fn is_right(&self, found: Number, wanted: Number) -> bool {
        let near = |found: f64, wanted: f64| {
            let tolerance = self.config.absolute_tolerance.max(self.config.relative_tolerance * wanted.abs());
            (found - wanted).abs() <= tolerance
        };
        let is_either = found.is_percent != wanted.is_percent && !self.config.strict_percent;
        near(found.value(), wanted.value()) || (is_either && near(found.written, wanted.written))
    }
}

/// The number that a text comes to, or why there is none.
fn said(text: &str, answer: Answer) -> Result<Number, &'static str> {
    if matches!(answer, Answer::Any | Answer::Boxed) {
        if let Some(inside) = last_boxed(text) {
            return last_number(inside).ok_or("its `\\boxed{}` has no number");
        }
        if answer == Answer::Boxed {
            return Err("it has no `\\boxed{}`");
        }
    }
    if matches!(answer, Answer::Any | Answer::Hashes) {
        if let Some((_, behind)) = text.rsplit_once("####") {
            return first_number(behind).ok_or("it has no number behind `####`");
        }
        if answer == Answer::Hashes {
            return Err("it has no `####`");
        }
    }
    last_number(text).ok_or("it has no number")
}

/// What stands in the last `\boxed{…}` that is closed; an open one was cut off.
fn last_boxed(text: &str) -> Option<&str> {
    const START: &str = "\\boxed{";
    let inside = &text[text.rfind(START)? + START.len()..];
    let mut depth = 0_usize;
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 0 => return Some(&inside[..at]),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

plugin_sdk::register_reward!(
    NumberMatch,
    name: "number-match",
    description: "1 where the number that a completion comes to is the right one, else 0",
);

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(config: &str, completion: &str, reference: &str) -> Score {
        let mut reward = NumberMatch::new(plugin_sdk::serde_json::from_str(config).unwrap()).unwrap();
        let item = Item {
            prompt: String::new(),
            completion: completion.to_owned(),
            completion_tokens: 1,
            finished: true,
            reference: reference.to_owned(),
            row_json: r#"{"answer": 42, "none": null}"#.to_owned(),
        };
        reward.score(&item, &Context { step: 0, total_steps: 1, seed: 0 }).unwrap()
    }

    fn score(completion: &str, reference: &str) -> Option<f64> {
        scored("{}", completion, reference).value
    }

    #[test]
    fn the_number_that_counts_is_found() {
        assert_eq!(score("2 + 2 = 4", "4"), Some(1.0));
        assert_eq!(score("So it is \\boxed{\\text{about } 4}, not 5", "#### 4"), Some(1.0));
        assert_eq!(score("\\boxed{3} then \\boxed{4", "#### 4"), Some(1.0), "an open box was cut off");
        assert_eq!(score("3 apples\n#### 1,234 of 9", "1234"), Some(1.0));
        assert_eq!(score("5", "He has 3 and 2, so <<3+2=5>>5.\n#### 5"), Some(1.0));
        assert_eq!(scored("{}", "The answer is 41.", "42").note.as_deref(), Some("wanted 42, found 41"));
        assert_eq!(scored("{}", "\\boxed{x}", "42").note.as_deref(), Some("its `\\boxed{}` has no number"));
        assert_eq!(scored("{}", "none", "42").note.as_deref(), Some("it has no number"));
    }

    #[test]
    fn a_config_says_where_the_answer_stands() {
        assert_eq!(scored(r#"{"answer": "boxed"}"#, "4", "4").value, Some(0.0));
        assert_eq!(scored(r#"{"answer": "hashes"}"#, "\\boxed{4}", "4").note.as_deref(), Some("it has no `####`"));
        assert_eq!(scored(r#"{"answer": "last"}"#, "\\boxed{4}, or 5", "5").value, Some(1.0));
        assert_eq!(scored(r#"{"field": "answer"}"#, "42", "41").value, Some(1.0));
        assert_eq!(scored(r#"{"field": "none"}"#, "42", "41").value, None);
        assert_eq!(score("4", " "), None);
        assert_eq!(scored("{}", "4", "four").note.as_deref(), Some("the reference has no number"));
    }

    #[test]
    fn tolerances_are_the_wider_of_the_two() {
        assert_eq!(score("0.333333333333", "1/3"), Some(1.0));
        assert_eq!(score("0.33", "1/3"), Some(0.0));
        assert_eq!(scored(r#"{"absolute_tolerance": 0.01}"#, "0.33", "1/3").value, Some(1.0));
        assert_eq!(scored(r#"{"relative_tolerance": 0.1}"#, "-95", "-100").value, Some(1.0));
        assert_eq!(score("1000000", "1000001"), Some(0.0));
        for wrong in [r#"{"relative_tolerance": -1}"#, r#"{"field": ""}"#] {
            assert!(NumberMatch::new(plugin_sdk::serde_json::from_str(wrong).unwrap()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn percentages_are_right_either_way_unless_strict() {
        for (completion, reference) in
            [("50%", "0.5"), ("0.5", "50 %"), ("50\\%", "50"), ("50", "50%"), ("50 percent", "50%")]
        {
            assert_eq!(score(completion, reference), Some(1.0), "{completion} {reference}");
        }
        assert_eq!(scored(r#"{"strict_percent": true}"#, "50%", "50").value, Some(0.0));
        assert_eq!(score("50%", "0.5%"), Some(0.0));
    }

    #[test]
    fn hostile_completions_take_no_longer_than_their_length() {
        let many = 4_000_000;
        for text in ["{", "\\boxed{", "9", "1,", "-", "1/", "\\frac{", "####", "\0", "1e9", ".", "𝟗"] {
            let score = score(&text.repeat(many / text.len()), "4").unwrap();
            assert!(score == 0.0, "{text}");
        }
    }
}
