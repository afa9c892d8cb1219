//! Preferences: of two answers to one prompt the chosen one is to become likelier than the rejected one, measured from a
//! reference. The losses are those of TRL's `DPOTrainer`, by its names (`dpo_loss_type`), of the papers named at each.

use super::pairs::{Pairs, answers, log_sigmoid, scale, share, sigmoid, tell, validate};
use super::{Metrics, Objective};
use crate::EngineError;

/// A loss over pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairLoss {
    /// Rafailov et al., "Direct preference optimization".
    Sigmoid,
    /// Zhao et al., "SLiC-HF".
    Hinge,
    /// Azar et al., "A general theoretical paradigm to understand learning from human preferences"; of means per token.
    Ipo,
    /// Ji et al., "Towards efficient exact optimization of language model alignment".
    ExoPair,
    /// Chen et al., "Noise contrastive alignment of language models with explicit rewards".
    NcaPair,
    /// Chowdhury et al., "Provably robust DPO".
    Robust,
    /// Jung et al., "Binary classifier optimization", of pairs, without its shift.
    BcoPair,
    /// Wu et al., "Self-play preference optimization", with the winner's probability 1.
    SppoHard,
    /// D'Oosterlinck et al., "Anchored preference optimization": chosen answers are better than the model's own.
    ApoZero,
    /// The same where they are worse.
    ApoDown,
    /// Lu et al., "Discovering preference optimization algorithms with and for large language models".
    Discopop,
    /// The first, of means per token.
    SigmoidNorm,
    /// Cross-entropy of the chosen answers, per token.
    Sft,
}

impl PairLoss {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Sigmoid,
        Self::Hinge,
        Self::Ipo,
        Self::ExoPair,
        Self::NcaPair,
        Self::Robust,
        Self::BcoPair,
        Self::SppoHard,
        Self::ApoZero,
        Self::ApoDown,
        Self::Discopop,
        Self::SigmoidNorm,
        Self::Sft,
    ];

    /// As TRL names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sigmoid => "sigmoid",
            Self::Hinge => "hinge",
            Self::Ipo => "ipo",
            Self::ExoPair => "exo_pair",
            Self::NcaPair => "nca_pair",
            Self::Robust => "robust",
            Self::BcoPair => "bco_pair",
            Self::SppoHard => "sppo_hard",
            Self::ApoZero => "apo_zero",
            Self::ApoDown => "apo_down",
            Self::Discopop => "discopop",
            Self::SigmoidNorm => "sigmoid_norm",
            Self::Sft => "sft",
        }
    }

    /// The loss of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|loss| loss.name() == name)
    }
}

/// Learning from pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct Preference {
    /// Losses with their weights; their weighted sum is learned.
    pub losses: Vec<(PairLoss, f64)>,
    /// How far answers may go from the reference (`rl_beta`); above 0.
    pub beta: f64,
    /// The share of pairs that are taken to be the wrong way round (`dpo_label_smoothing`): of `robust` below one half, of
    /// `exo_pair` above 0.
    pub label_smoothing: f64,
    /// The temperature of `discopop`'s mixture; TRL's default is 0.05.
    pub discopop_tau: f64,
}

/// What a loss sees of a pair: how much likelier each answer is than under the reference, in nats, and its tokens.
#[derive(Debug, Clone, Copy)]
struct Pair {
    chosen: f64,
    rejected: f64,
    chosen_tokens: f64,
    rejected_tokens: f64,
}

/// A loss and its derivatives with respect to the two of [`Pair`].
#[derive(Debug, Clone, Copy, Default)]
struct Slope {
    loss: f64,
    chosen: f64,
    rejected: f64,
}

impl Preference {
    fn pair(&self, loss: PairLoss, pair: Pair) -> Slope {
        let (beta, epsilon) = (self.beta, self.label_smoothing);
        let (chosen, rejected) = (beta * pair.chosen, beta * pair.rejected);
        let difference = chosen - rejected;
        // Of a loss of `beta` times the difference.
        let of_difference = |loss: f64, slope: f64| Slope { loss, chosen: beta * slope, rejected: -beta * slope };
        let means = |scale: f64| (scale / pair.chosen_tokens, scale / pair.rejected_tokens);
        match loss {
            PairLoss::Sigmoid => of_difference(-log_sigmoid(difference), -sigmoid(-difference)),
            PairLoss::Hinge if difference < 1.0 => of_difference(1.0 - difference, -1.0),
            // What pairs share is added by the batch.
            PairLoss::Hinge | PairLoss::Sft => Slope::default(),
            PairLoss::Ipo => {
                let (of_chosen, of_rejected) = means(1.0);
                let gap = pair.chosen * of_chosen - pair.rejected * of_rejected - 1.0 / (2.0 * beta);
                Slope { loss: gap * gap, chosen: 2.0 * gap * of_chosen, rejected: -2.0 * gap * of_rejected }
            }
            PairLoss::ExoPair => {
                let (wins, loses) = (sigmoid(difference), sigmoid(-difference));
                let win = log_sigmoid(difference) - (-epsilon).ln_1p();
                let lose = log_sigmoid(-difference) - epsilon.ln();
                of_difference(wins * win + loses * lose, wins * loses * (win - lose))
            }
            PairLoss::NcaPair => Slope {
                loss: -log_sigmoid(chosen) - 0.5 * log_sigmoid(-chosen) - 0.5 * log_sigmoid(-rejected),
                chosen: beta * (0.5 * sigmoid(chosen) - sigmoid(-chosen)),
                rejected: beta * 0.5 * sigmoid(rejected),
            },
            PairLoss::Robust => {
                let loss = epsilon * log_sigmoid(-difference) - (1.0 - epsilon) * log_sigmoid(difference);
                let slope = -epsilon * sigmoid(difference) - (1.0 - epsilon) * sigmoid(-difference);
                of_difference(loss / (1.0 - 2.0 * epsilon), slope / (1.0 - 2.0 * epsilon))
            }
            PairLoss::BcoPair => Slope {
                loss: -log_sigmoid(chosen) - log_sigmoid(-rejected),
                chosen: -beta * sigmoid(-chosen),
                rejected: beta * sigmoid(rejected),
            },
            PairLoss::SppoHard => {
                let (wins, loses) = (pair.chosen - 0.5 / beta, pair.rejected + 0.5 / beta);
                Slope { loss: wins * wins + loses * loses, chosen: 2.0 * wins, rejected: 2.0 * loses }
            }
            PairLoss::ApoZero => Slope {
                loss: sigmoid(-chosen) + sigmoid(rejected),
                chosen: -beta * sigmoid(chosen) * sigmoid(-chosen),
                rejected: beta * sigmoid(rejected) * sigmoid(-rejected),
            },
            PairLoss::ApoDown => {
                let slope = sigmoid(difference) * sigmoid(-difference);
                Slope {
                    loss: sigmoid(chosen) + sigmoid(-difference),
                    chosen: beta * (sigmoid(chosen) * sigmoid(-chosen) - slope),
                    rejected: beta * slope,
                }
            }
            PairLoss::Discopop => {
                let mixture = sigmoid(difference / self.discopop_tau);
                let steepness = mixture * (1.0 - mixture) / self.discopop_tau;
                let (logistic, exponential) = (-log_sigmoid(difference), (-difference).exp());
                let slope = (exponential - logistic) * steepness
                    - sigmoid(-difference) * (1.0 - mixture)
                    - exponential * mixture;
                of_difference(logistic * (1.0 - mixture) + exponential * mixture, slope)
            }
            PairLoss::SigmoidNorm => {
                let (of_chosen, of_rejected) = means(beta);
                let difference = pair.chosen * of_chosen - pair.rejected * of_rejected;
                let slope = -sigmoid(-difference);
                Slope { loss: -log_sigmoid(difference), chosen: slope * of_chosen, rejected: -slope * of_rejected }
            }
        }
    }
}

impl Objective for Preference {
    type Batch = Pairs;

    fn validate(&self, pairs: &Pairs) -> Result<(), EngineError> {
        validate(&pairs.batch)?;
        let (documents, known) = (pairs.batch.doc_lens.len(), pairs.reference.len());
        if documents == known {
            return Ok(());
        }
        Err(EngineError::Batch { reason: format!("{documents} documents, but the reference has {known}") })
    }

    fn scale(&self, micro_batches: &[Pairs]) -> Option<f64> {
        scale(micro_batches)
    }

    fn loss(&self, pairs: &Pairs, log_probs: &[f32], _: &[f32], weights: &mut [f32], metrics: &mut Metrics) -> f64 {
        let answers = answers(&pairs.batch, log_probs);
        let (share, mut loss) = (share(&answers), 0.0);
        for ([chosen, rejected], reference) in answers.iter().zip(pairs.reference.as_chunks().0) {
            let [of_chosen, of_rejected]: [f64; 2] = *reference;
            let pair = Pair {
                chosen: chosen.log_prob - of_chosen,
                rejected: rejected.log_prob - of_rejected,
                chosen_tokens: chosen.tokens(),
                rejected_tokens: rejected.tokens(),
            };
            let mut slope = Slope::default();
            for &(kind, weight) in &self.losses {
                let own = match kind {
                    PairLoss::Sft => Slope { loss: -chosen.log_prob * share, chosen: -share, rejected: 0.0 },
                    kind => self.pair(kind, pair),
                };
                slope.loss += weight * own.loss;
                slope.chosen += weight * own.chosen;
                slope.rejected += weight * own.rejected;
            }
            loss += slope.loss;
            chosen.learn(slope.chosen, weights);
            rejected.learn(slope.rejected, weights);
            let rewards = [self.beta * pair.chosen, self.beta * pair.rejected];
            tell(rewards, [chosen.log_prob, rejected.log_prob], metrics);
        }
        loss
    }
}
