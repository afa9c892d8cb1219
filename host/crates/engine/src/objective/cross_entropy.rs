//! Cross-entropy.

use super::{Metrics, Objective};
use crate::{Batch, IGNORE};

/// Supervised fine-tuning: cross-entropy. Each token of a step counts the same wherever it stands, so the sums are divided
/// once by the targets' weights of the whole step (transformers' `num_items_in_batch`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CrossEntropy;

impl Objective for CrossEntropy {
    type Batch = Batch;

    fn scale(&self, micro_batches: &[Batch]) -> Option<f64> {
        let total: f64 = micro_batches.iter().map(Batch::target_weight).sum();
        (total > 0.0).then(|| 1.0 / total)
    }

    fn is_linear(&self) -> bool {
        true
    }

    fn loss(&self, batch: &Batch, log_probs: &[f32], _: &[f32], weights: &mut [f32], _: &mut Metrics) -> f64 {
        let mut loss = 0.0;
        for (index, weight) in weights.iter_mut().enumerate().filter(|(index, _)| batch.targets[*index] != IGNORE) {
            *weight = batch.weights.as_ref().map_or(1.0, |weights| weights[index]);
            loss -= f64::from(*weight) * f64::from(log_probs[index]);
        }
        loss
    }
}
