//! The head that a model gets for its output projection, and what follows from it.

use serde_json::{Map, Value, json};

use super::config::ModelConfig;
use super::scores::{Classifier, NoScores, Scores, has_token_bias};
use super::tensors::{Role, TensorSpec};

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

    /// Why its frozen weights cannot be held in few bits, if they cannot.
    pub fn cannot_be_packed(&self) -> Option<&'static str> {
        self.experts.is_some().then_some("weights of experts cannot be quantized: they are computed in full precision")
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
