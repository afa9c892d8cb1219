//! Process reward models: the step that ends at a token is right or wrong, and the model, which has a head of a score for each
//! label, is to say so (Lightman et al., "Let's verify step by step"), as TRL's `PRMTrainer` computes it.

use super::{Metrics, Objective};
use crate::{Batch, IGNORE};

/// Cross-entropy of the labels of tokens; the targets of a batch are labels. Each counts the same wherever it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelCrossEntropy {
    /// How many labels there are; 2 or more.
    pub labels: usize,
}

impl Objective for LabelCrossEntropy {
    type Batch = Batch;

    fn scale(&self, micro_batches: &[Batch]) -> Option<f64> {
        let is_target = |target: &&u32| **target != IGNORE;
        let total: usize = micro_batches.iter().map(|batch| batch.targets.iter().filter(is_target).count()).sum();
        (total > 0).then(|| 1.0 / total as f64)
    }

    fn loss(&self, batch: &Batch, scores: &[f32], _: &[f32], weights: &mut [f32], metrics: &mut Metrics) -> f64 {
        let labels = self.labels;
        let mut loss = 0.0;
        for (index, &target) in batch.targets.iter().enumerate().filter(|(_, target)| **target != IGNORE) {
            let (own, target) = (&scores[index * labels..][..labels], target as usize);
            let largest = own.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let shifted = |score: f32| f64::from(score) - f64::from(largest);
            let sum: f64 = own.iter().map(|&score| shifted(score).exp()).sum();
            loss += sum.ln() - shifted(own[target]);
            for (label, (&score, weight)) in own.iter().zip(&mut weights[index * labels..][..labels]).enumerate() {
                let wanted = if label == target { 1.0 } else { 0.0 };
                *weight = (wanted - shifted(score).exp() / sum) as f32;
            }
            let is_first = |label: &usize| own[*label].total_cmp(&largest).is_eq();
            let said = (0..labels).find(is_first);
            metrics.add("accuracy", f64::from(u8::from(said == Some(target))));
        }
        loss
    }
}
