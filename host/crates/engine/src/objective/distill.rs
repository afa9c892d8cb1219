//! On-policy distillation (Agarwal et al., "On-policy distillation of language models"), as TRL's `DistillationTrainer` computes
//! it: a model learns its teacher's distributions at each token that it has written itself.

use super::{Metrics, Objective, Rollouts};
use crate::IGNORE;
use crate::model::divergence::Divergence;

/// Learning a teacher's distributions ([`Trainer::load_teacher`](crate::Trainer::load_teacher)).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distill {
    /// How far the two are from each other.
    pub divergence: Divergence,
}

impl Objective for Distill {
    type Batch = Rollouts;

    /// The mean over all written tokens of the step.
    fn scale(&self, micro_batches: &[Rollouts]) -> Option<f64> {
        let targets = micro_batches.iter().flat_map(|rollouts| &rollouts.batch.targets);
        let tokens = targets.filter(|&&target| target != IGNORE).count();
        (tokens > 0).then(|| 1.0 / tokens as f64)
    }

    fn divergence(&self) -> Option<Divergence> {
        Some(self.divergence)
    }

    /// Nothing is learned through the log-probabilities of single tokens.
    fn loss(&self, _: &Rollouts, _: &[f32], _: &[f32], _: &mut [f32], _: &mut Metrics) -> f64 {
        0.0
    }
}
