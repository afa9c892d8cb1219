//! Rewards as evaluations and generations use them: what happens when one crashes on a completion, reaches a limit or gives no
//! finite number (`on_error`).
//!
//! Completions are scored many at a time. When a call fails, `fail` ends the run and names the completion that did it;
//! `zero` and `skip` score them one by one, so that only that completion scores 0, or has no score.

use engine::generate::Completion;
use plugin_runtime::types::{Context, Item, Score};
use plugin_runtime::{Cause, PluginError};

use crate::config::OnError;
use crate::data::dataset::Example;
use crate::data::tokenizer::Tokenizer;
use crate::diagnostic::{Diagnostic, Failure};
use crate::terminal::Safe;

/// Characters of a completion that a message shows.
const SHOWN: usize = 200;

/// Scores completions. The loop cannot tell a sandboxed reward from a native one.
pub trait Reward: Send {
    /// One score an item, in order. After an error, it can be called again.
    fn try_score(&mut self, items: &[Item], context: &Context) -> Result<Vec<Score>, PluginError>;

    /// The same; an error comes with the item at fault, where that can be found.
    fn score(&mut self, items: &[Item], context: &Context) -> Result<Vec<Score>, PluginError>;
}

impl Reward for plugin_runtime::Scorer {
    fn try_score(&mut self, items: &[Item], context: &Context) -> Result<Vec<Score>, PluginError> {
        Self::try_score(self, items, context)
    }

    fn score(&mut self, items: &[Item], context: &Context) -> Result<Vec<Score>, PluginError> {
        Self::score(self, items, context)
    }
}

/// What a reward is told of a completion.
///
/// # Errors
/// Tokens that the tokenizer does not know.
pub fn item(tokenizer: &Tokenizer, example: &Example, completion: &Completion) -> Result<Item, Failure> {
    let text =
        |ids: &[u32]| tokenizer.decode(ids).map_err(|error| Diagnostic::error("data::tokenizer", error.to_string()));
    Ok(Item {
        prompt: text(example.tokens.prompt_ids())?,
        completion: text(&completion.ids)?,
        completion_tokens: completion.ids.len() as u32,
        finished: completion.finished(),
        reference: text(example.tokens.completion_ids())?,
        row_json: example.row_json.to_string(),
    })
}

/// A reward of the config.
pub struct NamedReward {
    name: String,
    reward: Box<dyn Reward>,
    on_error: OnError,
}

/// What a reward said about some items.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// One an item, in order.
    pub scores: Vec<Score>,
    /// Unless `on_error` is `fail`: items on which it failed. They have the score 0, or none.
    pub errors: Option<u64>,
}

impl NamedReward {
    /// A reward and its place in the config.
    pub fn new(name: String, reward: impl Reward + 'static, on_error: OnError) -> Self {
        Self { name, reward: Box::new(reward), on_error }
    }

    /// As in the config.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Scores items.
    pub fn score(&mut self, items: &[Item], context: &Context) -> Result<Scored, Failure> {
        match self.on_error {
            OnError::Fail => match self.reward.score(items, context) {
                Ok(scores) => Ok(Scored { scores, errors: None }),
                Err(error) => Err(self.failed(error).into()),
            },
            OnError::Zero | OnError::Skip => match self.reward.try_score(items, context) {
                Ok(scores) => Ok(Scored { scores, errors: Some(0) }),
                Err(error) if is_fault(&error) => self.score_each(items, context),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// Scores items one by one, since the reward failed on all of them together.
    fn score_each(&mut self, items: &[Item], context: &Context) -> Result<Scored, Failure> {
        let mut scores = Vec::with_capacity(items.len());
        let value = (self.on_error == OnError::Zero).then_some(0.0);
        let mut errors = 0;
        for item in items {
            match self.reward.try_score(std::slice::from_ref(item), context) {
                Ok(score) => scores.extend(score),
                Err(error) if is_fault(&error) => {
                    errors += 1;
                    scores.push(Score { value, note: Some(error.to_string()) });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Scored { scores, errors: Some(errors) })
    }

    /// A failure with the completion that did it, and what else could be done with such a one.
    fn failed(&self, error: PluginError) -> Diagnostic {
        if !is_fault(&error) {
            return error.into();
        }
        let on_error = format!(
            "`{{name: {}, on_error: skip}}` goes on without a score for it, `zero` with the score 0",
            self.name
        );
        let help = error.help.clone().map_or(on_error.clone(), |help| format!("{help}; {on_error}"));
        let alone = error.failed.as_ref().filter(|failed| matches!(failed.cause, Cause::Alone(_)));
        // Of a score that is no number, the plugin's runtime knows the completion.
        let alone = alone.filter(|_| error.code != "plugin::bad-result" || error.notes.is_empty());
        let completion = alone.and_then(|failed| failed.input.first()?["completion"].as_str().map(shortened));
        let diagnostic = Diagnostic::from(error).help(help);
        match completion {
            Some(completion) => diagnostic.note(format!("the completion was {completion:?}")),
            None => diagnostic,
        }
    }
}

pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// That a reward judges nothing, and so is no reward; `note` is what it says of that.
pub(super) fn abstains(message: String, note: Option<&str>) -> Diagnostic {
    let diagnostic = Diagnostic::warning("rl::abstains", message)
        .why("a completion that no reward judges has no advantage, and nothing is learned of it")
        .help("see what the reward needs of a row: `host plugin inspect`, and the rows of the dataset");
    match note {
        Some(note) => diagnostic.note(format!("it says: {}", Safe::excerpt(note, SHOWN))),
        None => diagnostic,
    }
}

/// Whether a call failed because the plugin crashed, used too much or gave what it must not, and not because it says so.
pub(super) fn is_fault(error: &PluginError) -> bool {
    is_fault_code(error.code)
}

/// The same by the code of the failure.
pub(super) fn is_fault_code(code: &str) -> bool {
    matches!(code, "plugin::trap" | "plugin::limit" | "plugin::bad-result")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scores the length; crashes on `crash`, has no number for `nan`, runs out of time on more than three completions at once.
    struct Fake;

    impl Reward for Fake {
        fn score(&mut self, items: &[Item], context: &Context) -> Result<Vec<Score>, PluginError> {
            self.try_score(items, context)
        }

        fn try_score(&mut self, items: &[Item], _: &Context) -> Result<Vec<Score>, PluginError> {
            if items.iter().any(|item| item.completion == "crash") {
                return Err(PluginError::new("plugin::trap", "plugin `fake` crashed").help("tell its author"));
            }
            if items.iter().any(|item| item.completion == "nan") {
                return Err(PluginError::new("plugin::bad-result", "plugin `fake` gave the score NaN"));
            }
            if items.iter().any(|item| item.completion == "refuse") {
                return Err(PluginError::new("plugin::failed", "plugin `fake`: no"));
            }
            if items.len() > 3 {
                return Err(PluginError::new("plugin::limit", "plugin `fake` was stopped"));
            }
            Ok(items.iter().map(|item| Score { value: Some(item.completion.len() as f64), note: None }).collect())
        }
    }

    fn score(on_error: OnError, completions: &[&str]) -> Result<Scored, Vec<Diagnostic>> {
        let item = |completion: &&str| Item {
            prompt: String::new(),
            completion: (*completion).to_owned(),
            completion_tokens: 1,
            finished: true,
            reference: String::new(),
            row_json: "{}".to_owned(),
        };
        let items: Vec<Item> = completions.iter().map(item).collect();
        let context = Context { step: 0, total_steps: 1, seed: 0 };
        NamedReward::new("fake".to_owned(), Fake, on_error).score(&items, &context).map_err(|failure| failure.0)
    }

    fn values(scored: &Scored) -> Vec<f64> {
        scored.scores.iter().filter_map(|score| score.value).collect()
    }

    #[test]
    fn a_reward_that_works_is_asked_once() {
        assert_eq!(score(OnError::Fail, &["a", "bb"]).unwrap().errors, None);
        let scored = score(OnError::Zero, &["a", "bb"]).unwrap();
        assert_eq!((values(&scored), scored.errors), (vec![1.0, 2.0], Some(0)));
    }

    #[test]
    fn zero_costs_only_the_completion_that_did_it() {
        let scored = score(OnError::Zero, &["a", "crash", "bb", "crash", "ccc"]).unwrap();
        assert_eq!((values(&scored), scored.errors), (vec![1.0, 0.0, 2.0, 0.0, 3.0], Some(2)));
        assert_eq!(scored.scores[1].note.as_deref(), Some("plugin `fake` crashed"));
        let together = score(OnError::Zero, &["a", "b", "c", "d"]).unwrap();
        assert_eq!((values(&together), together.errors), (vec![1.0; 4], Some(0)));
    }

    #[test]
    fn skip_leaves_the_completion_without_a_score() {
        let scored = score(OnError::Skip, &["a", "crash", "bb", "nan"]).unwrap();
        let values: Vec<Option<f64>> = scored.scores.iter().map(|score| score.value).collect();
        assert_eq!((values, scored.errors), (vec![Some(1.0), None, Some(2.0), None], Some(2)));
        assert_eq!(scored.scores[3].note.as_deref(), Some("plugin `fake` gave the score NaN"));
    }

    #[test]
    fn fail_says_what_else_there_is() {
        let error = &score(OnError::Fail, &["a", "crash", "bb"]).unwrap_err()[0];
        assert_eq!(error.code, "plugin::trap");
        assert_eq!(
            error.help.as_deref(),
            Some(
                "tell its author; `{name: fake, on_error: skip}` goes on without a score for it, `zero` with the score 0"
            )
        );
        assert_eq!(score(OnError::Fail, &["refuse"]).unwrap_err()[0].help, None);
        assert_eq!(shortened(&"ä".repeat(300)), format!("{}…", "ä".repeat(SHOWN)));
    }

    #[test]
    fn what_a_reward_says_is_no_crash() {
        assert_eq!(score(OnError::Zero, &["a", "refuse"]).unwrap_err()[0].code, "plugin::failed");
    }
}
