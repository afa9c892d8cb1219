//! What a step learns from: an objective turns the log-probabilities of a step's targets into a loss and its derivatives.

use crate::kernels::Kernels;
use crate::{Batch, EngineError, IGNORE, Trainer};

/// A loss over the micro-batches of a step. It reaches the model through the log-probabilities of the targets alone.
pub trait Objective {
    /// Documents with their targets, and what else the loss depends on.
    type Batch: AsRef<Batch>;

    /// The factor that makes the sum of the micro-batches' losses the loss of the step; none where the step has nothing to
    /// learn.
    fn scale(&self, micro_batches: &[Self::Batch]) -> Option<f64>;

    /// Whether [`Self::loss`] is the sum over the targets of the batch's weight times negative log-probability, whatever the
    /// model says. Then both halves of a pass are one: logits are computed once, and the host waits for nothing.
    fn is_linear(&self) -> bool {
        false
    }

    /// The loss of a micro-batch, before [`Self::scale`]. `log_probs [tokens]` are those of the targets, in nats. Puts into
    /// `weights [tokens]`, which are zeros, the negative derivative of the loss with respect to each.
    fn loss(&self, batch: &Self::Batch, log_probs: &[f32], weights: &mut [f32]) -> f64;
}

/// What the passes over a step's micro-batches came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Accumulated {
    /// The step's loss as far as the host knows it; what the device has summed comes beside it, times `scale`.
    pub loss: f64,
    /// Factor of what the device has summed ([`Trainer::loss_sum`]).
    pub scale: f64,
    /// Some target has a weight that is not zero: there are gradients.
    pub learns: bool,
}

/// Gradients of a step, kept by the trainer.
///
/// # Errors
/// As [`Trainer::forward_backward`], and [`EngineError::NothingToLearn`].
pub fn accumulate<K: Kernels, O: Objective>(
    trainer: &mut Trainer<K>,
    objective: &O,
    micro_batches: &[O::Batch],
) -> Result<Accumulated, EngineError> {
    let scale = objective.scale(micro_batches).ok_or(EngineError::NothingToLearn)?;
    if objective.is_linear() {
        for (index, batch) in micro_batches.iter().enumerate() {
            trainer.forward_backward(batch.as_ref(), scale, index as u32)?;
        }
        return Ok(Accumulated { loss: 0.0, scale, learns: true });
    }
    let (mut loss, mut learns) = (0.0, false);
    for (index, batch) in micro_batches.iter().enumerate() {
        let pass = trainer.forward(batch.as_ref(), index as u32)?;
        let mut weights = vec![0.0; batch.as_ref().ids.len()];
        loss += objective.loss(batch, pass.log_probs(), &mut weights);
        learns |= weights.iter().any(|&weight| weight != 0.0);
        pass.backward(&weights, scale)?;
    }
    Ok(Accumulated { loss: loss * scale, scale, learns })
}

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

    fn loss(&self, batch: &Batch, log_probs: &[f32], weights: &mut [f32]) -> f64 {
        let mut loss = 0.0;
        for (index, weight) in weights.iter_mut().enumerate().filter(|(index, _)| batch.targets[*index] != IGNORE) {
            *weight = batch.weights.as_ref().map_or(1.0, |weights| weights[index]);
            loss -= f64::from(*weight) * f64::from(log_probs[index]);
        }
        loss
    }
}
