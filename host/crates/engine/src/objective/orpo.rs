//! Preferences without a reference, beside supervised learning: ORPO (Hong et al., "ORPO: Monolithic preference optimization
//! without reference model"), as TRL's `ORPOTrainer` computes it. The chosen text is learned whole, its prompt too, and the odds
//! of its answer are to be above those of the rejected one.

use super::pairs::{Answer, log_sigmoid, scale, sigmoid, tell, validate};
use super::{Metrics, Objective, sum};
use crate::{Batch, EngineError, IGNORE};

/// The nearest to 0 that a mean log-probability is taken to be: `f32` does not tell more, and the odds of 0 are infinite.
const SURE: f64 = -1e-7;

/// Learning from pairs, the chosen texts of which are learned too.
#[derive(Debug, Clone, PartialEq)]
pub struct Orpo {
    /// Weight of the odds ratio (`orpo_alpha`; the paper's lambda, TRL's `beta`); above 0.
    pub beta: f64,
}

/// Documents in pairs, a chosen answer and then the rejected one, each behind its prompt; the targets of a chosen document are
/// all of it, those of a rejected one its answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WholePairs {
    batch: Batch,
    /// For each position, whether its target is part of an answer.
    is_answer: Vec<bool>,
}

impl WholePairs {
    /// Of documents in pairs whose targets are the answers.
    pub fn of_answers(mut batch: Batch) -> Self {
        let is_answer = batch.targets.iter().map(|&target| target != IGNORE).collect();
        let chosen: Vec<_> = batch.documents().step_by(2).collect();
        for document in chosen.into_iter().filter(|document| !document.is_empty()) {
            let (targets, next) = (document.start..document.end - 1, document.start + 1..document.end);
            batch.targets[targets].copy_from_slice(&batch.ids[next]);
        }
        Self { batch, is_answer }
    }
}

impl AsRef<Batch> for WholePairs {
    fn as_ref(&self) -> &Batch {
        &self.batch
    }
}

/// The logarithm of `1 - exp(x)`, for `x` below 0.
fn log_1m_exp(x: f64) -> f64 {
    // Each form where the other cancels (Mächler, "Accurately computing log(1 - exp(-|a|))").
    if x < -std::f64::consts::LN_2 { (-x.exp()).ln_1p() } else { (-x.exp_m1()).ln() }
}

impl Objective for Orpo {
    type Batch = WholePairs;

    fn validate(&self, pairs: &WholePairs) -> Result<(), EngineError> {
        validate(&pairs.batch)
    }

    fn scale(&self, micro_batches: &[WholePairs]) -> Option<f64> {
        scale(micro_batches)
    }

    fn loss(
        &self,
        pairs: &WholePairs,
        log_probs: &[f32],
        _: &[f32],
        weights: &mut [f32],
        metrics: &mut Metrics,
    ) -> f64 {
        let texts: Vec<Vec<usize>> = pairs.batch.learned().collect();
        let texts: &[[Vec<usize>; 2]] = texts.as_chunks().0;
        // TRL's cross-entropy is a mean over the tokens of a batch.
        let tokens: usize = texts.iter().map(|[chosen, _]| chosen.len()).sum();
        let share = texts.len() as f64 / tokens.max(1) as f64;
        let answer = |text: &[usize]| {
            Answer::new(text.iter().copied().filter(|&index| pairs.is_answer[index]).collect(), log_probs)
        };
        let mut loss = 0.0;
        for [text, rejected] in texts {
            let answers = [answer(text), answer(rejected)];
            let means = answers.each_ref().map(|answer| answer.log_prob / answer.tokens());
            let [chosen, rejected] = means.map(|mean| mean.min(SURE));
            let log_odds = (chosen - rejected) - (log_1m_exp(chosen) - log_1m_exp(rejected));
            let ratio = log_sigmoid(log_odds);
            let nll = -sum(text, log_probs) * share;
            loss += nll - self.beta * ratio;
            // Of the log odds with respect to each mean: `1 / (1 - exp(mean))`.
            let slope = -self.beta * sigmoid(-log_odds);
            for (answer, slope) in answers.iter().zip([slope / -chosen.exp_m1(), -slope / -rejected.exp_m1()]) {
                answer.learn(slope / answer.tokens(), weights);
            }
            for &index in text {
                weights[index] += share as f32;
            }
            tell(means.map(|mean| self.beta * mean), means, metrics);
            metrics.add("nll_loss", nll);
            metrics.add("log_odds_ratio", ratio);
            metrics.add("log_odds_chosen", log_odds);
        }
        loss
    }
}
