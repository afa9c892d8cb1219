//! Answers that are wanted or not, one to a prompt: KTO (Ethayarajh et al., "KTO: Model alignment as prospect theoretic
//! optimization") and its kin, as TRL's `KTOTrainer` computes them. How much likelier an answer is than under the reference is
//! held against how far the model is from the reference in all, and that is estimated from answers to other prompts.

use super::pairs::{Answer, sigmoid};
use super::{Metrics, Objective, sum};
use crate::{Batch, EngineError};

/// A loss of answers by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KtoLoss {
    /// From the estimated divergence.
    Kto,
    /// From nothing: D'Oosterlinck et al., "Anchored preference optimization", of answers by themselves.
    ApoZeroUnpaired,
}

/// Learning from answers that are wanted or not.
#[derive(Debug, Clone, PartialEq)]
pub struct Kto {
    /// The loss.
    pub loss: KtoLoss,
    /// How far answers may go from the reference (`rl_beta`); above 0.
    pub beta: f64,
    /// Weight of answers that are wanted (`kto_desirable_weight`).
    pub desirable_weight: f64,
    /// Weight of the others (`kto_undesirable_weight`).
    pub undesirable_weight: f64,
}

/// Answers, a document each behind its prompt; the targets are the answers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Unpaired {
    /// The documents.
    pub batch: Batch,
    /// Whether each is wanted.
    pub desirable: Vec<bool>,
    /// For each, the sum of the log-probabilities of its targets under the reference.
    pub reference: Vec<f64>,
    /// The same prompts with answers to others, of [`KtoLoss::Kto`].
    pub mismatched: Batch,
    /// For each of those, the sum of the log-probabilities of its targets under the reference.
    pub mismatched_reference: Vec<f64>,
}

impl AsRef<Batch> for Unpaired {
    fn as_ref(&self) -> &Batch {
        &self.batch
    }
}

impl Kto {
    /// The divergence from the reference, of a micro-batch: a mean over its prompts, not below 0, and nothing is learned of it.
    fn divergence(&self, answers: &Unpaired, beside: &[f32]) -> f64 {
        if self.loss == KtoLoss::ApoZeroUnpaired {
            return 0.0;
        }
        let documents = answers.mismatched.learned().zip(&answers.mismatched_reference);
        let gaps: f64 = documents.map(|(targets, reference)| sum(&targets, beside) - reference).sum();
        (gaps / answers.mismatched_reference.len() as f64).max(0.0)
    }
}

impl Objective for Kto {
    type Batch = Unpaired;

    fn validate(&self, answers: &Unpaired) -> Result<(), EngineError> {
        let documents = answers.batch.doc_lens.len();
        let mut known =
            vec![("labels", answers.desirable.len()), ("numbers of the reference", answers.reference.len())];
        if self.loss == KtoLoss::Kto {
            known.push(("mismatched documents", answers.mismatched.doc_lens.len()));
            known.push(("numbers of the reference for those", answers.mismatched_reference.len()));
        }
        match known.into_iter().find(|(_, count)| *count != documents) {
            Some((what, count)) => {
                Err(EngineError::Batch { reason: format!("{documents} documents but {count} {what}") })
            }
            None => Ok(()),
        }
    }

    fn scale(&self, micro_batches: &[Unpaired]) -> Option<f64> {
        let answers: usize = micro_batches.iter().map(|answers| answers.batch.doc_lens.len()).sum();
        (answers > 0).then(|| 1.0 / answers as f64)
    }

    fn beside<'b>(&self, answers: &'b Unpaired) -> Option<&'b Batch> {
        (self.loss == KtoLoss::Kto).then_some(&answers.mismatched)
    }

    fn loss(
        &self,
        answers: &Unpaired,
        log_probs: &[f32],
        beside: &[f32],
        weights: &mut [f32],
        metrics: &mut Metrics,
    ) -> f64 {
        let (beta, kl) = (self.beta, self.divergence(answers, beside));
        let mut loss = 0.0;
        // Sum of rewards and count, of answers that are not wanted and of those that are.
        let mut rewards = [(0.0, 0.0); 2];
        let labels = answers.desirable.iter().zip(&answers.reference);
        for (targets, (&desirable, reference)) in answers.batch.learned().zip(labels) {
            let answer = Answer::new(targets, log_probs);
            let ratio = answer.log_prob - reference;
            let (weight, sign) = if desirable { (self.desirable_weight, 1.0) } else { (self.undesirable_weight, -1.0) };
            // `1 - sigmoid(x)`, without its cancellation.
            let (off, on) = (sigmoid(sign * beta * (kl - ratio)), sigmoid(sign * beta * (ratio - kl)));
            loss += weight * off;
            answer.learn(-sign * weight * beta * off * on, weights);
            let (reward, log_prob) =
                if desirable { ("rewards/chosen", "logps/chosen") } else { ("rewards/rejected", "logps/rejected") };
            metrics.add(reward, beta * ratio);
            metrics.add(log_prob, answer.log_prob);
            let of_label = &mut rewards[usize::from(desirable)];
            *of_label = (of_label.0 + beta * ratio, of_label.1 + 1.0);
        }
        let [(rejected, rejections), (chosen, choices)] = rewards;
        if rejections > 0.0 && choices > 0.0 {
            metrics.add("rewards/margins", chosen / choices - rejected / rejections);
        }
        metrics.add("kl", kl);
        loss
    }
}
