//! Policy gradients of groups (Shao et al., "DeepSeekMath", GRPO) and its kin, as TRL's `GRPOTrainer` computes them: each
//! sampled text has an advantage, and its tokens become likelier or less likely by it, within a clipped ratio to the policy
//! that sampled them.

use super::{Metrics, Objective};
use crate::{Batch, EngineError, IGNORE};

/// Sampled texts, a document each behind its prompt; the targets are what the model wrote.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rollouts {
    /// The documents.
    pub batch: Batch,
    /// Advantage of each document.
    pub advantages: Vec<f64>,
    /// Log-probability of each position's target under the policy that sampled it, `[tokens]`; none where that is the model as
    /// it is, so that all ratios are 1.
    pub old: Option<Vec<f32>>,
    /// The same under the reference, where the objective has one; not needed of texts without advantages, where nothing is to be
    /// learned.
    pub reference: Option<Vec<f32>>,
    /// The model is the one that sampled them, by the same kernels: every ratio must be exactly 1.
    pub is_on_policy: bool,
}

impl AsRef<Batch> for Rollouts {
    fn as_ref(&self) -> &Batch {
        &self.batch
    }
}

/// What the losses of tokens are divided by, and how ratios are bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrpoLoss {
    /// Each text's mean over its tokens, then the mean of texts.
    Grpo,
    /// The mean over the tokens of a micro-batch.
    Bnpo,
    /// The tokens that texts could have (Liu et al., "Understanding R1-Zero-like training").
    DrGrpo {
        /// Tokens of a text at most.
        max_completion_length: usize,
    },
    /// The tokens of the step (Yu et al., "DAPO").
    Dapo,
    /// The same; ratios are bounded above as they are, and tokens beyond still learn (MiniMax, "MiniMax-M1").
    Cispo,
}

/// What a ratio is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ratio {
    /// Each token.
    Token,
    /// A text: the geometric mean of its tokens' (Zheng et al., "Group sequence policy optimization").
    Sequence,
}

/// Learning from advantages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grpo {
    /// How tokens count.
    pub loss: GrpoLoss,
    /// What ratios are of (`importance_sampling_level`).
    pub ratio: Ratio,
    /// How far below 1 a ratio counts (`epsilon`).
    pub epsilon_low: f64,
    /// How far above 1 (`epsilon_high`); of `cispo` the bound itself.
    pub epsilon_high: f64,
    /// A bound for ratios of texts that are to become less likely (`delta`).
    pub delta: Option<f64>,
    /// Weight of the divergence from the reference; 0 for none.
    pub beta: f64,
    /// The divergence is weighed with the ratio (`use_bias_correction_kl`): an estimate under the policy as it is, not under the
    /// one that sampled (DeepSeek-AI, "DeepSeek-V3.2").
    pub corrects_divergence: bool,
}

/// One text of a pass.
struct Text<'a> {
    /// Positions of its targets.
    targets: &'a [usize],
    advantage: f64,
    /// Of each target, or the text's alone.
    ratios: Vec<f64>,
}

impl Text<'_> {
    /// That of the target with this number.
    fn ratio(&self, target: usize) -> f64 {
        self.ratios[target.min(self.ratios.len() - 1)]
    }
}

impl Grpo {
    /// A token's loss and its derivative with respect to the logarithm of the ratio; of [`GrpoLoss::Cispo`] with respect to
    /// the token's log-probability.
    fn surrogate(&self, ratio: f64, advantage: f64, log_prob: f64) -> (f64, f64) {
        if self.loss == GrpoLoss::Cispo {
            let factor = -ratio.min(self.epsilon_high) * advantage;
            return (factor * log_prob, factor);
        }
        let clipped = ratio.clamp(1.0 - self.epsilon_low, 1.0 + self.epsilon_high);
        let bounded = self.delta.map_or(ratio, |delta| ratio.min(delta));
        if bounded * advantage > clipped * advantage {
            return (-clipped * advantage, 0.0);
        }
        let moves = self.delta.is_none_or(|delta| ratio <= delta);
        (-bounded * advantage, if moves { -ratio * advantage } else { 0.0 })
    }

    /// The divergence of each token from the reference (Schulman, "Approximating KL divergence", its third estimate), and its
    /// derivative with respect to the token's log-probability.
    fn divergence(
        &self,
        text: &Text<'_>,
        log_probs: &[f32],
        reference: &[f32],
        metrics: &mut Metrics,
    ) -> Vec<(f64, f64)> {
        let gap = |&index: &usize| f64::from(reference[index]) - f64::from(log_probs[index]);
        let plain = text.targets.iter().map(gap).map(|gap| (gap.exp() - gap - 1.0, 1.0 - gap.exp()));
        let mut all: Vec<(f64, f64)> = plain.collect();
        if self.corrects_divergence {
            let mean = all.iter().map(|(own, _)| own).sum::<f64>() / all.len() as f64;
            for (target, (own, slope)) in all.iter_mut().enumerate() {
                let ratio = text.ratio(target);
                let moved = if self.ratio == Ratio::Token { *own } else { mean };
                (*own, *slope) = (ratio * *own, ratio * (*slope + moved));
            }
        }
        for (own, _) in &all {
            metrics.add("kl", *own);
        }
        all
    }

    fn tell(&self, text: &Text<'_>, metrics: &mut Metrics) {
        for &ratio in &text.ratios {
            metrics.add("sampling/importance_sampling_ratio/mean", ratio);
            let is_high = text.advantage > 0.0;
            let mut tell = |name, is_it: bool| metrics.add(name, f64::from(u8::from(is_it)));
            if self.loss == GrpoLoss::Cispo {
                tell("cispo_clip_ratio", ratio > self.epsilon_high && is_high);
                continue;
            }
            let low = ratio < 1.0 - self.epsilon_low && text.advantage < 0.0;
            let high = ratio > 1.0 + self.epsilon_high && is_high;
            tell("clip_ratio/low_mean", low);
            tell("clip_ratio/high_mean", high);
            tell("clip_ratio/region_mean", low || high);
        }
    }
}

impl Objective for Grpo {
    type Batch = Rollouts;

    fn validate(&self, rollouts: &Rollouts) -> Result<(), EngineError> {
        let wrong = |reason: String| Err(EngineError::Batch { reason });
        let Rollouts { batch, advantages, old, reference, .. } = rollouts;
        let (documents, tokens) = (batch.doc_lens.len(), batch.ids.len());
        if advantages.len() != documents {
            return wrong(format!("{documents} documents but {} advantages", advantages.len()));
        }
        let is_idle = advantages.iter().all(|&advantage| advantage == 0.0);
        if self.beta > 0.0 && reference.is_none() && !is_idle {
            return wrong("it has no log-probabilities of the reference".into());
        }
        match [old, reference].into_iter().flatten().find(|known| known.len() != tokens) {
            Some(known) => wrong(format!("{tokens} tokens but {} log-probabilities", known.len())),
            None => Ok(()),
        }
    }

    fn scale(&self, micro_batches: &[Rollouts]) -> Option<f64> {
        let texts: usize = micro_batches.iter().map(|rollouts| rollouts.batch.doc_lens.len()).sum();
        let is_target = |target: &&u32| **target != IGNORE;
        let tokens: usize =
            micro_batches.iter().map(|rollouts| rollouts.batch.targets.iter().filter(is_target).count()).sum();
        let divisor = match self.loss {
            GrpoLoss::Grpo => texts,
            GrpoLoss::Bnpo => micro_batches.len(),
            GrpoLoss::DrGrpo { max_completion_length } => texts * max_completion_length,
            GrpoLoss::Dapo | GrpoLoss::Cispo => tokens,
        };
        (divisor > 0 && tokens > 0).then(|| 1.0 / divisor as f64)
    }

    fn verify(&self, rollouts: &Rollouts, log_probs: &[f32]) -> Result<(), EngineError> {
        let Some(old) = rollouts.old.as_ref().filter(|_| rollouts.is_on_policy) else { return Ok(()) };
        let targets = rollouts.batch.learned().flatten();
        let differs = |index: &usize| old[*index].to_bits() != log_probs[*index].to_bits();
        let (mut first, mut count) = (None, 0);
        for index in targets.filter(differs) {
            first.get_or_insert((old[index], log_probs[index]));
            count += 1;
        }
        match first {
            Some((sampled, learned)) => Err(EngineError::OffPolicy { tokens: count, sampled, learned }),
            None => Ok(()),
        }
    }

    fn loss(
        &self,
        rollouts: &Rollouts,
        log_probs: &[f32],
        _: &[f32],
        weights: &mut [f32],
        metrics: &mut Metrics,
    ) -> f64 {
        let all: Vec<Vec<usize>> = rollouts.batch.learned().collect();
        let in_batch: usize = all.iter().map(Vec::len).sum();
        let log_ratio = |index: usize| match &rollouts.old {
            Some(old) => f64::from(log_probs[index]) - f64::from(old[index]),
            None => 0.0,
        };
        let mut loss = 0.0;
        for (targets, &advantage) in all.iter().zip(&rollouts.advantages).filter(|(targets, _)| !targets.is_empty()) {
            let of_tokens = targets.iter().map(|&index| log_ratio(index));
            let ratios = match self.ratio {
                Ratio::Token => of_tokens.map(f64::exp).collect(),
                Ratio::Sequence => vec![(of_tokens.sum::<f64>() / targets.len() as f64).exp()],
            };
            let text = Text { targets, advantage, ratios };
            let share = match self.loss {
                GrpoLoss::Grpo => 1.0 / targets.len() as f64,
                GrpoLoss::Bnpo => 1.0 / in_batch as f64,
                GrpoLoss::DrGrpo { .. } | GrpoLoss::Dapo | GrpoLoss::Cispo => 1.0,
            };
            let of_reference = rollouts.reference.as_ref().filter(|_| self.beta > 0.0);
            let divergences = of_reference.map(|reference| self.divergence(&text, log_probs, reference, metrics));
            // A text's ratio depends on each of its tokens by one part, and stands in the loss of each of them.
            for (target, &index) in targets.iter().enumerate() {
                let log_prob = f64::from(log_probs[index]);
                let (own, slope) = self.surrogate(text.ratio(target), advantage, log_prob);
                let (divergence, of_divergence) = divergences.as_ref().map_or((0.0, 0.0), |all| all[target]);
                loss += share * (own + self.beta * divergence);
                weights[index] = -(share * (slope + self.beta * of_divergence)) as f32;
            }
            self.tell(&text, metrics);
        }
        loss
    }
}
