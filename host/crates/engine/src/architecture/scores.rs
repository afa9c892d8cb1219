//! A head of scores where a language model has its output projection: transformers' `…ForSequenceClassification` and
//! `…ForTokenClassification`.

use serde_json::{Map, Value, json};

use super::config::ModelConfig;
use super::tensors::{Role, TensorSpec};

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

impl Scores {
    /// Its tensors, with their shapes.
    pub(super) fn tensors(self, hidden_size: usize) -> impl Iterator<Item = (Role, &'static str, Vec<usize>)> {
        let bias = self.has_bias.then(|| (Role::ScoreBias, "score.bias", vec![self.labels]));
        std::iter::once((Role::Score, "score.weight", vec![self.labels, hidden_size])).chain(bias)
    }
}

impl ModelConfig {
    /// Gives the model a head of scores for its output projection, in what is exported too: the checkpoint's, or a new one
    /// that starts from `seed`.
    ///
    /// # Errors
    /// [`NoScores`] for a family that has no such class, and for a checkpoint whose head is another one.
    pub fn score(&mut self, classifier: Classifier, labels: usize, seed: u64) -> Result<(), NoScores> {
        if let Some(own) = self.scores {
            if (own.classifier, own.labels) == (classifier, labels) {
                return Ok(());
            }
            return Err(NoScores::Other { classifier: own.classifier, labels: own.labels });
        }
        let class = self.classifiers[classifier as usize].filter(|_| self.others.is_empty());
        let Some(class) = class else { return Err(NoScores::Class(self.architecture.clone())) };
        let has_bias = classifier == Classifier::Token && has_token_bias(&self.raw);
        self.scores = Some(Scores { classifier, labels, has_bias, start: Some(seed) });
        let names: Vec<String> = (0..labels).map(|label| format!("LABEL_{label}")).collect();
        let id2label: Map<String, Value> =
            names.iter().enumerate().map(|(label, name)| (label.to_string(), name.as_str().into())).collect();
        let label2id: Map<String, Value> =
            names.iter().enumerate().map(|(label, name)| (name.clone(), label.into())).collect();
        self.set_raw("architectures", json!([class]));
        self.set_raw("id2label", id2label.into());
        self.set_raw("label2id", label2id.into());
        Ok(())
    }

    /// Numbers that the model gives for each token: one score a label, or the log-probability of the token's target.
    pub fn outputs(&self) -> usize {
        self.scores.map_or(1, |scores| scores.labels)
    }

    /// What a target may be: below the labels of a head of scores, or below the vocabulary.
    pub fn targets(&self) -> usize {
        self.scores.map_or(self.vocab_size, |scores| scores.labels)
    }

    /// The tensors that its checkpoint must have: those of the model as it is stored, without a head that is new.
    pub(crate) fn stored_parameters(&self) -> Vec<TensorSpec> {
        let is_new = self.scores.is_some_and(|scores| scores.start.is_some());
        let mut specs = self.as_stored().parameters();
        specs.retain(|spec| !(is_new && matches!(spec.role, Role::Score | Role::ScoreBias)));
        specs
    }
}

/// `token_classification_bias` of a config; transformers' default is true.
pub(super) fn has_token_bias(raw: &Map<String, Value>) -> bool {
    raw.get("token_classification_bias").and_then(Value::as_bool).unwrap_or(true)
}
