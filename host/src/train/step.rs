//! One optimizer step: gradients of each micro-batch, summed, then one update.

use std::time::Instant;

use engine::kernels::Kernels;
use engine::objective::{Metrics, accumulate};
use engine::{Batch, Objective, Trainer};

use crate::diagnostic::Failure;

/// What one step did.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOutcome {
    /// Loss of the step, as its objective has it: for cross-entropy the mean per trained token, in nats.
    pub loss: f64,
    /// Length of the whole gradient before clipping.
    pub grad_norm: f64,
    /// Tokens that went through, prompts included.
    pub tokens: u64,
    /// Time it took, from its micro-batches on.
    pub seconds: f64,
    /// What the objective tells beside its loss.
    pub metrics: Metrics,
}

/// A whole step. `inspect` sees the gradients before the update, if there are any: a step without is right where all of its
/// derivatives are zero.
pub fn train_step<K: Kernels, O: Objective>(
    trainer: &mut Trainer<K>,
    objective: &O,
    micro_batches: &[O::Batch],
    learning_rate: f64,
    max_grad_norm: Option<f64>,
    inspect: impl FnOnce(&Trainer<K>) -> Result<(), Failure>,
) -> Result<StepOutcome, Failure> {
    let start = Instant::now();
    let found = accumulate(trainer, objective, micro_batches)?;
    if found.learns {
        inspect(trainer)?;
    }
    let mut metrics = found.metrics;
    let has_experts = !trainer.expert_tokens().is_empty();
    let stats = trainer.apply(learning_rate, max_grad_norm)?;
    if has_experts {
        metrics.add("idle_experts", stats.idle_experts as f64);
    }
    Ok(StepOutcome {
        loss: found.loss + stats.loss_sum * found.scale,
        grad_norm: stats.grad_norm,
        tokens: micro_batches.iter().map(|batch| batch.as_ref().ids.len() as u64).sum(),
        seconds: start.elapsed().as_secs_f64(),
        metrics,
    })
}

/// The longest stretch of tokens that a prediction of these batches can look back on, itself included.
pub fn longest_context<B: AsRef<Batch>>(micro_batches: &[B]) -> usize {
    let mut longest = 0;
    for batch in micro_batches.iter().map(AsRef::as_ref) {
        for document in batch.documents() {
            let last = batch.targets[document].iter().rposition(|&target| target != engine::IGNORE);
            longest = longest.max(last.map_or(0, |last| last + 1));
        }
    }
    longest
}
