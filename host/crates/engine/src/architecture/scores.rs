//! A head of scores where a language model has its output projection: transformers' `…ForSequenceClassification` and
//! `…ForTokenClassification`.

use serde_json::{Map, Value};

/// What scores are given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Classifier {
    /// Texts, at their last token (`…ForSequenceClassification`).
    Sequence,
    /// Tokens (`…ForTokenClassification`).
    Token,
}

/// The output projection of a model that scores: `score.weight [labels, hidden_size]`, and `score.bias [labels]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scores {
    /// What is scored.
    pub classifier: Classifier,
    /// Scores of each text or token.
    pub labels: usize,
    /// It has a bias, as that of tokens has in transformers.
    pub has_bias: bool,
    /// The seed of its start, where the checkpoint has none: weights normal with `initializer_range`, biases zero.
    pub start: Option<u64>,
}

/// Why a model cannot have a head of scores.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoScores {
    /// transformers has no class for it, so nothing could read what is saved.
    #[error("transformers has no `{0}` with a head of scores")]
    Class(String),
    /// The checkpoint has a head of scores already: what it scores, and how many labels it has.
    #[error("it has a head of {labels} scores of {} already", of_what(*classifier))]
    Other {
        /// What it scores.
        classifier: Classifier,
        /// Its labels.
        labels: usize,
    },
}

fn of_what(classifier: Classifier) -> &'static str {
    match classifier {
        Classifier::Sequence => "texts",
        Classifier::Token => "tokens",
    }
}

impl Classifier {
    /// PEFT's `task_type` of an adapter of such a model.
    pub(crate) fn task_type(self) -> &'static str {
        match self {
            Self::Sequence => "SEQ_CLS",
            Self::Token => "TOKEN_CLS",
        }
    }

    /// The one whose adapters say this.
    pub(crate) fn of_task_type(name: &str) -> Option<Self> {
        [Self::Sequence, Self::Token].into_iter().find(|classifier| classifier.task_type() == name)
    }
}

/// The module's name.
pub const SCORE: &str = "score";

/// `token_classification_bias` of a config; transformers' default is true.
pub(super) fn has_token_bias(raw: &Map<String, Value>) -> bool {
    raw.get("token_classification_bias").and_then(Value::as_bool).unwrap_or(true)
}
