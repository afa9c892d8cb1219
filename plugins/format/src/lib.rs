//! 1 where a completion has the form that is asked for, else 0: a pattern, or tags one after another.
//!
//! Patterns are those of the crate regex-lite: no look-around and no back references, so that any completion takes time in
//! proportion to its length; `\d`, `\w` and `\s` are ASCII. `(?s)` lets `.` match line breaks.

use plugin_sdk::Error;
use plugin_sdk::reward::{Context, Item, Reward, Score, value, value_because};
use regex_lite::{Regex, RegexBuilder};
use serde::Deserialize;

/// Bytes of a completion that is looked at: far more than any model writes at once.
const LIMIT: usize = 1 << 20;
/// Bytes of a compiled pattern.
const PATTERN_LIMIT: usize = 1 << 20;

/// What can be set: one of `pattern`, `tags` and `preset`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A regular expression: `(?s)<think>.*</think>.+`.
    pattern: Option<String>,
    /// With `pattern`: `full`, the whole completion matches, or `search`, a part of it does. Default: `full`.
    #[serde(rename = "match")]
    whole: Option<Match>,
    /// Tags, each once and in this order, with nothing but space between and around them: `[think, answer]` is
    /// `<think>…</think> <answer>…</answer>`.
    tags: Option<Vec<String>>,
    /// `think`: starts with `<think>…</think>`, and no other `<think>`; that is TRL's `think_format_reward`.
    /// `think-answer`: `tags: [think, answer]`.
    preset: Option<Preset>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Match {
    Full,
    Search,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Preset {
    Think,
    ThinkAnswer,
}

/// The reward.
pub enum Format {
    Pattern(Box<Regex>),
    Tags(Vec<String>),
    Think,
}

impl Reward for Format {
    type Config = Config;

    fn new(config: Config) -> Result<Self, Error> {
        if config.whole.is_some() && config.pattern.is_none() {
            return Err(Error::config("match", "`match` is for a `pattern`, and there is none"));
        }
        match (config.pattern, config.tags, config.preset) {
            (Some(pattern), None, None) => compiled(&pattern, config.whole.unwrap_or(Match::Full)),
            (None, Some(tags), None) => {
                if tags.is_empty() {
                    return Err(Error::config("tags", "`tags` is empty"));
                }
                let is_name = |tag: &String| !tag.is_empty() && !tag.contains(['<', '>', '/']);
                if let Some(index) = tags.iter().position(|tag| !is_name(tag)) {
                    let message = format!("`{}` is not the name of a tag", tags[index]);
                    return Err(Error::config_with_help(
                        format!("tags[{index}]"),
                        message,
                        "write it without brackets: `think`",
                    ));
                }
                Ok(Self::Tags(tags))
            }
            (None, None, Some(Preset::Think)) => Ok(Self::Think),
            (None, None, Some(Preset::ThinkAnswer)) => {
                Ok(Self::Tags(["think", "answer"].map(ToOwned::to_owned).into()))
            }
            (None, None, None) => {
                Err(Error::config_with_help("", "no format is asked for", "set `pattern`, `tags` or `preset`"))
            }
            _ => Err(Error::config_with_help(
                "",
                "there is more than one format",
                "keep one of `pattern`, `tags` and `preset`",
            )),
        }
    }

    fn score(&mut self, item: &Item, _context: &Context) -> Result<Score, Error> {
        let text = item.completion.as_str();
        if text.len() > LIMIT {
            return Ok(value_because(0.0, format!("longer than {LIMIT} bytes")));
        }
        let why = match self {
            Self::Pattern(pattern) => (!pattern.is_match(text)).then(|| "the pattern does not match".to_owned()),
            Self::Tags(tags) => in_tags(text, tags).err(),
            Self::Think => thought(text).err().map(ToOwned::to_owned),
        };
        Ok(why.map_or_else(|| value(1.0), |why| value_because(0.0, why)))
    }
}

fn compiled(pattern: &str, whole: Match) -> Result<Format, Error> {
    let compile = |pattern: &str| RegexBuilder::new(pattern).size_limit(PATTERN_LIMIT).build();
    // By itself first: within a group, a bracket too much would change what the group is.
    let own = compile(pattern);
    let regex = match whole {
        Match::Search => own,
        Match::Full => own.and_then(|_| compile(&format!(r"\A(?:{pattern})\z"))),
    };
    let regex = regex.map_err(|error| {
        let help = "patterns have no look-around and no back references";
        Error::config_with_help("pattern", format!("`pattern` cannot be read: {error}"), help)
    })?;
    Ok(Format::Pattern(Box::new(regex)))
}

/// `<think>…</think>` at the start, and no `<think>` after the first.
fn thought(text: &str) -> Result<(), &'static str> {
    let inside = text.strip_prefix("<think>").ok_or("it does not start with `<think>`")?;
    if inside.contains("<think>") {
        return Err("it has more than one `<think>`");
    }
    if inside.contains("</think>") { Ok(()) } else { Err("`<think>` is not closed") }
}

fn in_tags(text: &str, tags: &[String]) -> Result<(), String> {
    let mut rest = text;
    for tag in tags {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        if text.matches(&open).nth(1).is_some() || text.matches(&close).nth(1).is_some() {
            return Err(format!("it has more than one `{tag}`"));
        }
        let inside =
            rest.trim_start().strip_prefix(&open).ok_or_else(|| format!("`{open}` does not stand in its place"))?;
        let (_, after) = inside.split_once(&close).ok_or_else(|| format!("`{open}` is not closed"))?;
        rest = after;
    }
    if rest.trim().is_empty() { Ok(()) } else { Err("there is more behind the last tag".to_owned()) }
}

plugin_sdk::register_reward!(
    Format,
    name: "format",
    description: "1 where a completion has the form that is asked for, else 0",
);

#[cfg(test)]
mod tests {
    use plugin_sdk::serde_json::{self, Value, json};

    use super::*;

    fn scored(config: Value, completion: &str) -> Score {
        let mut reward = Format::new(serde_json::from_value(config).unwrap()).unwrap();
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
    fn a_pattern_is_for_the_whole_unless_searched_for() {
        let score = |config: Value, text: &str| scored(config, text).value.unwrap();
        let number = json!({"pattern": r"\d+|none"});
        assert_eq!(
            ["12", "none", "12 ", "12\n", ""].map(|text| score(number.clone(), text)),
            [1.0, 1.0, 0.0, 0.0, 0.0]
        );
        assert_eq!(score(json!({"pattern": r"\d+", "match": "search"}), "so 12."), 1.0);
        assert_eq!(score(json!({"pattern": "a.b"}), "a\nb"), 0.0);
        assert_eq!(score(json!({"pattern": "(?s)a.b"}), "a\nb"), 1.0);
    }

    #[test]
    fn thoughts_are_those_of_trl() {
        let fixture: Value = serde_json::from_str(include_str!("../../../tests/fixtures/rewards/cases.json")).unwrap();
        for case in fixture["think"].as_array().unwrap() {
            let score = scored(json!({"preset": "think"}), case["text"].as_str().unwrap());
            assert_eq!(score.value, case["reward"].as_f64(), "{case}");
        }
    }

    #[test]
    fn tags_stand_once_and_in_order() {
        let note = |text: &str| scored(json!({"preset": "think-answer"}), text).note.unwrap_or_default();
        assert_eq!(note("<think>a\n</think>\n<answer>4</answer>\n"), "");
        assert_eq!(note("<answer>4</answer><think>a</think>"), "`<think>` does not stand in its place");
        assert_eq!(note("<think>a</think> so <answer>4</answer>"), "`<answer>` does not stand in its place");
        assert_eq!(note("<think>a</think><answer>4"), "`<answer>` is not closed");
        assert_eq!(note("<think>a</think><answer>4</answer>."), "there is more behind the last tag");
        assert_eq!(note("<think>a</think><think>b</think><answer>4</answer>"), "it has more than one `think`");
        assert_eq!(scored(json!({"tags": ["x"]}), "<x></x>"), value(1.0));
    }

    #[test]
    fn hostile_completions_take_no_longer_than_their_length() {
        let evil = json!({"pattern": "(a*)*(a|aa)+(a+)+b"});
        assert_eq!(scored(evil.clone(), &"a".repeat(20_000)).value, Some(0.0));
        for config in [evil, json!({"preset": "think"}), json!({"preset": "think-answer"})] {
            assert_eq!(scored(config.clone(), &"<think>".repeat(40_000)).value, Some(0.0));
            let note = format!("longer than {LIMIT} bytes");
            assert_eq!(scored(config, &"[".repeat(100_000_000)).note, Some(note));
        }
    }

    #[test]
    fn configs_without_one_format_are_refused() {
        let path = |config: Value| match Format::new(serde_json::from_value(config).unwrap()) {
            Err(Error::Config { path, .. }) => path,
            _ => panic!("it was taken"),
        };
        for several in
            [json!({}), json!({"pattern": "a", "preset": "think"}), json!({"tags": ["a"], "preset": "think"})]
        {
            assert_eq!(path(several), "");
        }
        for wrong in ["(", "a)|(b", "(?=a)", "((a{900}){900})"] {
            assert_eq!(path(json!({"pattern": wrong})), "pattern", "{wrong}");
        }
        assert_eq!(path(json!({"preset": "think", "match": "full"})), "match");
        assert_eq!(path(json!({"tags": []})), "tags");
        assert_eq!(path(json!({"tags": ["a", "<b>"]})), "tags[1]");
    }
}
