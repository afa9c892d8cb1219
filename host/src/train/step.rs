//! One optimizer step: forward and backward of each micro-batch, gradients summed, then one update.

use std::time::Instant;

use engine::kernels::Kernels;
use engine::{Batch, EngineError, Trainer};

/// What one step did.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOutcome {
    /// Mean loss per trained token, in nats.
    pub loss: f64,
    /// Length of the whole gradient before clipping.
    pub grad_norm: f64,
    /// Tokens that went through, prompts included.
    pub tokens: u64,
    /// Time it took.
    pub seconds: f64,
}

/// Gradients of all `micro_batches`, as of one big batch: each token counts the same wherever it stands, so the sums are
/// divided once by the trained tokens of the whole step (transformers' `num_items_in_batch`).
/// Returns what makes the sum of the losses their mean.
pub fn accumulate<K: Kernels>(trainer: &mut Trainer<K>, micro_batches: &[Batch]) -> Result<f64, EngineError> {
    let total: f64 = micro_batches.iter().map(target_weight).sum();
    let scale = if total > 0.0 { 1.0 / total } else { 0.0 };
    for (index, batch) in micro_batches.iter().enumerate() {
        trainer.forward_backward(batch, scale, index as u32)?;
    }
    Ok(scale)
}

/// A whole step.
pub fn train_step<K: Kernels>(
    trainer: &mut Trainer<K>,
    micro_batches: &[Batch],
    learning_rate: f64,
    max_grad_norm: Option<f64>,
    inspect: impl FnOnce(&Trainer<K>) -> Result<(), crate::diagnostic::Failure>,
) -> Result<StepOutcome, crate::diagnostic::Failure> {
    let start = Instant::now();
    let scale = accumulate(trainer, micro_batches)?;
    inspect(trainer)?;
    let stats = trainer.apply(learning_rate, max_grad_norm)?;
    Ok(StepOutcome {
        loss: stats.loss_sum * scale,
        grad_norm: stats.grad_norm,
        tokens: micro_batches.iter().map(|batch| batch.ids.len() as u64).sum(),
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// How much the targets of a batch weigh: their number, or the sum of their weights.
pub fn target_weight(batch: &Batch) -> f64 {
    let is_target = |&(_, &target): &(usize, &u32)| target != engine::IGNORE;
    batch
        .targets
        .iter()
        .enumerate()
        .filter(is_target)
        .map(|(index, _)| batch.weights.as_ref().map_or(1.0, |weights| f64::from(weights[index])))
        .sum()
}

/// The longest stretch of tokens that a prediction of these batches can look back on, itself included.
pub fn longest_context(micro_batches: &[Batch]) -> usize {
    let mut longest = 0;
    for batch in micro_batches {
        let mut start = 0;
        for &length in &batch.doc_lens {
            let end = start + length as usize;
            let last = batch.targets[start..end].iter().rposition(|&target| target != engine::IGNORE);
            longest = longest.max(last.map_or(0, |last| last + 1));
            start = end;
        }
    }
    longest
}
