//! Documents in pairs, and what losses over them share.

use super::{Metrics, sum};
use crate::{Batch, EngineError};

/// Documents in pairs, a chosen answer and then the rejected one, each behind its prompt; the targets are the answers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pairs {
    /// The documents.
    pub batch: Batch,
    /// For each document, the sum of the log-probabilities of its targets under the reference; empty where a loss has none.
    pub reference: Vec<f64>,
}

impl AsRef<Batch> for Pairs {
    fn as_ref(&self) -> &Batch {
        &self.batch
    }
}

pub(super) fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

pub(super) fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// An answer in a pass.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// Positions of its targets.
    pub(super) targets: Vec<usize>,
    /// The sum of their log-probabilities.
    pub(super) log_prob: f64,
}

impl Answer {
    pub(super) fn new(targets: Vec<usize>, log_probs: &[f32]) -> Self {
        let log_prob = sum(&targets, log_probs);
        Self { targets, log_prob }
    }

    /// How many targets it has, and 1 where it has none.
    pub(super) fn tokens(&self) -> f64 {
        self.targets.len().max(1) as f64
    }

    /// Writes the derivative of a loss with respect to the sum.
    pub(super) fn learn(&self, derivative: f64, weights: &mut [f32]) {
        for &index in &self.targets {
            weights[index] = -derivative as f32;
        }
    }
}

/// The chosen and the rejected answer of each pair.
pub(super) fn answers(batch: &Batch, log_probs: &[f32]) -> Vec<[Answer; 2]> {
    let all: Vec<Answer> = batch.learned().map(|targets| Answer::new(targets, log_probs)).collect();
    all.as_chunks().0.to_vec()
}

/// What the cross-entropy of the chosen answers is divided by, times the number of pairs: TRL's mean is over the tokens of a
/// batch.
pub(super) fn share(answers: &[[Answer; 2]]) -> f64 {
    let tokens: usize = answers.iter().map(|[chosen, _]| chosen.targets.len()).sum();
    answers.len() as f64 / tokens.max(1) as f64
}

/// One over the pairs of a step: a loss is their mean.
pub(super) fn scale<B: AsRef<Batch>>(micro_batches: &[B]) -> Option<f64> {
    let pairs: usize = micro_batches.iter().map(|pairs| pairs.as_ref().doc_lens.len() / 2).sum();
    (pairs > 0).then(|| 1.0 / pairs as f64)
}

/// That documents come in pairs.
pub(super) fn validate(pairs: &Batch) -> Result<(), EngineError> {
    match pairs.doc_lens.len() {
        count if count % 2 == 0 => Ok(()),
        count => Err(EngineError::Batch { reason: format!("{count} documents are not pairs") }),
    }
}

/// What TRL tells of a pair.
pub(super) fn tell([of_chosen, of_rejected]: [f64; 2], [chosen, rejected]: [f64; 2], metrics: &mut Metrics) {
    metrics.add("rewards/chosen", of_chosen);
    metrics.add("rewards/rejected", of_rejected);
    metrics.add("rewards/accuracies", f64::from(u8::from(of_chosen > of_rejected)));
    metrics.add("rewards/margins", of_chosen - of_rejected);
    metrics.add("logps/chosen", chosen);
    metrics.add("logps/rejected", rejected);
}
