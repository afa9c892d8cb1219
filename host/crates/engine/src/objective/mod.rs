//! What a step learns from: an objective turns what the model says of a step's documents into a loss and its derivatives.

pub mod cpo;
mod cross_entropy;
pub mod distill;
pub mod grpo;
pub mod kto;
pub mod labels;
pub mod orpo;
mod pairs;
pub mod preference;
pub mod reward;

use std::collections::BTreeMap;

use crate::kernels::Kernels;
use crate::model::divergence::{Divergence, Divergences};
use crate::{Batch, EngineError, Trainer};

pub use cpo::{Cpo, CpoLoss};
pub use cross_entropy::CrossEntropy;
pub use distill::Distill;
pub use grpo::{Grpo, GrpoLoss, Ratio, Rollouts};
pub use kto::{Kto, KtoLoss, Unpaired};
pub use labels::LabelCrossEntropy;
pub use orpo::{Orpo, WholePairs};
pub use pairs::Pairs;
pub use preference::{PairLoss, Preference};
pub use reward::{RewardModel, ScoredPairs};

/// A loss over the micro-batches of a step. It reaches the model through its outputs alone: the log-probability of each
/// position's target, `[tokens]`, or the scores of each position, `[tokens, labels]`, of a model with a head of scores.
pub trait Objective {
    /// Documents with their targets, and what else the loss depends on.
    type Batch: AsRef<Batch>;

    /// Checks that what a micro-batch holds beside its documents fits them.
    ///
    /// # Errors
    /// [`EngineError::Batch`] names what does not fit.
    fn validate(&self, _batch: &Self::Batch) -> Result<(), EngineError> {
        Ok(())
    }

    /// The factor that makes the sum of the micro-batches' losses the loss of the step; none where the step has nothing to
    /// learn.
    fn scale(&self, micro_batches: &[Self::Batch]) -> Option<f64>;

    /// Whether [`Self::loss`] is the sum over the targets of the batch's weight times negative log-probability, whatever the
    /// model says. Then both halves of a pass are one: logits are computed once, and the host waits for nothing.
    fn is_linear(&self) -> bool {
        false
    }

    /// How far the model's distributions are from its teacher's, where that is what is learned: then nothing comes of
    /// [`Self::loss`], which is not asked.
    fn divergence(&self) -> Option<Divergence> {
        None
    }

    /// Checks what the model says of a micro-batch in training, where that is known beforehand.
    ///
    /// # Errors
    /// What is not as it must be.
    fn verify(&self, _batch: &Self::Batch, _outputs: &[f32]) -> Result<(), EngineError> {
        Ok(())
    }

    /// Documents that the loss of a micro-batch depends on and learns nothing from. What the model says of them is asked before
    /// the pass of the micro-batch, without gradients and dropout.
    fn beside<'b>(&self, _batch: &'b Self::Batch) -> Option<&'b Batch> {
        None
    }

    /// The loss of a micro-batch, before [`Self::scale`]. `outputs` is what the model says of it, log-probabilities in nats, and
    /// `beside` the same of [`Self::beside`]. Puts into `weights`, which are as many zeros, the negative derivative of the loss
    /// with respect to each of `outputs`, and into `metrics` what else is to be told of the step.
    fn loss(
        &self,
        batch: &Self::Batch,
        outputs: &[f32],
        beside: &[f32],
        weights: &mut [f32],
        metrics: &mut Metrics,
    ) -> f64;
}

/// What an objective tells of a step beside its loss: means, by TRL's names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics(BTreeMap<&'static str, (f64, u64)>);

impl Metrics {
    /// One value of many.
    pub fn add(&mut self, name: &'static str, value: f64) {
        self.add_sum(name, value, 1);
    }

    /// The sum of `count` values of many.
    pub fn add_sum(&mut self, name: &'static str, value: f64, count: u64) {
        let (sum, all) = self.0.entry(name).or_default();
        *sum += value;
        *all += count;
    }

    /// The mean of all values of each name.
    pub fn means(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.0.iter().map(|(&name, &(sum, count))| (name, sum / count as f64))
    }
}

/// What the passes over a step's micro-batches came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Accumulated {
    /// The step's loss as far as the host knows it; what the device has summed comes beside it, times `scale`.
    pub loss: f64,
    /// Factor of what the device has summed ([`Trainer::loss_sum`]).
    pub scale: f64,
    /// Some target has a weight that is not zero: there are gradients.
    pub learns: bool,
    /// What the objective tells beside.
    pub metrics: Metrics,
}

impl Accumulated {
    /// With the load-balancing loss of experts, where the model's config turns it on: it is a part of the step's loss, and told
    /// apart too, by TRL's name and before its coefficient.
    fn with_balance<K: Kernels>(mut self, trainer: &Trainer<K>) -> Self {
        if let Some((sum, micro_batches)) = trainer.balance_losses() {
            self.loss += trainer.auxiliary_loss();
            self.learns = true;
            self.metrics.add_sum("aux_loss", sum, micro_batches);
        }
        self
    }
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
    for batch in micro_batches {
        objective.validate(batch)?;
    }
    let scale = objective.scale(micro_batches).ok_or(EngineError::NothingToLearn)?;
    if objective.is_linear() {
        for (index, batch) in micro_batches.iter().enumerate() {
            trainer.forward_backward(batch.as_ref(), scale, index as u32)?;
        }
        let found = Accumulated { loss: 0.0, scale, learns: true, metrics: Metrics::default() };
        return Ok(found.with_balance(trainer));
    }
    let (mut loss, mut learns, mut metrics) = (0.0, false, Metrics::default());
    if let Some(divergence) = objective.divergence() {
        for (index, batch) in micro_batches.iter().enumerate() {
            let found = trainer.distill(divergence, batch.as_ref(), scale, index as u32)?;
            loss += found.divergence;
            tell(found, batch.as_ref(), &mut metrics);
        }
        return Ok(Accumulated { loss: loss * scale, scale, learns: loss != 0.0, metrics }.with_balance(trainer));
    }
    for (index, batch) in micro_batches.iter().enumerate() {
        let beside = look_beside(trainer, objective, batch)?;
        let pass = trainer.forward(batch.as_ref(), index as u32)?;
        objective.verify(batch, pass.outputs())?;
        let mut weights = vec![0.0; pass.outputs().len()];
        loss += objective.loss(batch, pass.outputs(), &beside, &mut weights, &mut metrics);
        learns |= weights.iter().any(|&weight| weight != 0.0);
        pass.backward(&weights, scale)?;
    }
    Ok(Accumulated { loss: loss * scale, scale, learns, metrics }.with_balance(trainer))
}

/// The entropy of the model's own distributions, by TRL's name.
fn tell(found: Divergences, batch: &Batch, metrics: &mut Metrics) {
    metrics.add_sum("entropy", found.entropy, batch.learned().flatten().count() as u64);
}

/// What the model says of the documents beside a micro-batch; nothing where there are none.
fn look_beside<K: Kernels, O: Objective>(
    trainer: &mut Trainer<K>,
    objective: &O,
    batch: &O::Batch,
) -> Result<Vec<f32>, EngineError> {
    objective.beside(batch).map_or_else(|| Ok(Vec::new()), |documents| trainer.outputs(documents))
}

/// What an objective says of batches as the weights are, kept apart from training: no gradients, no dropout, and no
/// load-balancing loss, so that the loss of targets is that of the targets alone. None where there is nothing to judge.
///
/// # Errors
/// As [`Trainer::evaluate`], and [`EngineError::Batch`] for a batch that does not fit together.
pub fn evaluate<K: Kernels, O: Objective>(
    trainer: &mut Trainer<K>,
    objective: &O,
    batches: &[O::Batch],
) -> Result<Option<(f64, Metrics)>, EngineError> {
    let Some(scale) = objective.scale(batches) else { return Ok(None) };
    let (mut loss, mut metrics) = (0.0, Metrics::default());
    for batch in batches {
        objective.validate(batch)?;
        if objective.is_linear() {
            loss += trainer.evaluate(batch.as_ref())?;
            continue;
        }
        if let Some(divergence) = objective.divergence() {
            let found = trainer.divergence(divergence, batch.as_ref())?;
            loss += found.divergence;
            tell(found, batch.as_ref(), &mut metrics);
            continue;
        }
        let beside = look_beside(trainer, objective, batch)?;
        let outputs = trainer.outputs(batch.as_ref())?;
        let mut weights = vec![0.0; outputs.len()];
        loss += objective.loss(batch, &outputs, &beside, &mut weights, &mut metrics);
    }
    Ok(Some((loss * scale, metrics)))
}

/// The sum of the log-probabilities of each document's targets, in nats, as the weights are.
///
/// # Errors
/// As [`Trainer::outputs`].
pub fn document_log_probs<K: Kernels>(trainer: &mut Trainer<K>, batch: &Batch) -> Result<Vec<f64>, EngineError> {
    let log_probs = trainer.outputs(batch)?;
    Ok(batch.learned().map(|targets| sum(&targets, &log_probs)).collect())
}

/// The sum of the log-probabilities at some positions.
fn sum(positions: &[usize], log_probs: &[f32]) -> f64 {
    positions.iter().map(|&index| f64::from(log_probs[index])).sum()
}
