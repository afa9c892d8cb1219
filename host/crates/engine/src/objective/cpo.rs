//! Preferences without a reference: CPO (Xu et al., "Contrastive preference optimization") and SimPO (Meng et al., "Simple
//! preference optimization with a reference-free reward"), as TRL's `CPOTrainer` computes them.

use super::pairs::{Pairs, answers, log_sigmoid, scale, share, sigmoid, tell, validate};
use super::{Metrics, Objective};
use crate::EngineError;

/// A loss of the difference between the answers of a pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CpoLoss {
    /// Of sums of log-probabilities.
    Sigmoid,
    /// The same with a hinge.
    Hinge,
    /// A square, of means per token.
    Ipo,
    /// The first, of means per token that are to be apart by `gamma / beta`.
    Simpo {
        /// The margin (`simpo_gamma`).
        gamma: f64,
    },
}

/// Learning from pairs without a reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Cpo {
    /// The loss.
    pub loss: CpoLoss,
    /// Factor of the difference (`rl_beta`); above 0.
    pub beta: f64,
    /// The share of pairs that are taken to be the wrong way round, of `sigmoid` and `simpo`; below one half.
    pub label_smoothing: f64,
    /// Weight of the cross-entropy of the chosen answers (`cpo_alpha`).
    pub alpha: f64,
}

impl Cpo {
    /// The loss of a difference in nats, and its derivative.
    fn of(&self, difference: f64) -> (f64, f64) {
        let (beta, epsilon) = (self.beta, self.label_smoothing);
        let smooth = |logit: f64| {
            let loss = -log_sigmoid(logit) * (1.0 - epsilon) - log_sigmoid(-logit) * epsilon;
            (loss, beta * (sigmoid(logit) * epsilon - sigmoid(-logit) * (1.0 - epsilon)))
        };
        match self.loss {
            CpoLoss::Sigmoid => smooth(beta * difference),
            CpoLoss::Simpo { gamma } => smooth(beta * difference - gamma),
            CpoLoss::Hinge if beta * difference < 1.0 => (1.0 - beta * difference, -beta),
            CpoLoss::Hinge => (0.0, 0.0),
            CpoLoss::Ipo => {
                let gap = difference - 1.0 / (2.0 * beta);
                (gap * gap, 2.0 * gap)
            }
        }
    }
}

impl Objective for Cpo {
    type Batch = Pairs;

    fn validate(&self, pairs: &Pairs) -> Result<(), EngineError> {
        validate(&pairs.batch)
    }

    fn scale(&self, micro_batches: &[Pairs]) -> Option<f64> {
        scale(micro_batches)
    }

    fn loss(&self, pairs: &Pairs, log_probs: &[f32], _: &[f32], weights: &mut [f32], metrics: &mut Metrics) -> f64 {
        let answers = answers(&pairs.batch, log_probs);
        let is_mean = matches!(self.loss, CpoLoss::Ipo | CpoLoss::Simpo { .. });
        let (share, mut loss) = (share(&answers), 0.0);
        for [chosen, rejected] in &answers {
            let factors = [chosen, rejected].map(|answer| if is_mean { 1.0 / answer.tokens() } else { 1.0 });
            let means = [chosen.log_prob * factors[0], rejected.log_prob * factors[1]];
            let (own, slope) = self.of(means[0] - means[1]);
            loss += own - self.alpha * chosen.log_prob * share;
            chosen.learn(slope * factors[0] - self.alpha * share, weights);
            rejected.learn(-slope * factors[1], weights);
            tell(means.map(|mean| self.beta * mean), means, metrics);
            metrics.add("nll_loss", if self.alpha == 0.0 { 0.0 } else { -chosen.log_prob * share });
        }
        loss
    }
}
