//! What a run learns, as its config says (`rl`): the objective, the samples that it takes, and whether it needs a reference.

use engine::objective::{Cpo, CpoLoss, PairLoss, Preference};

use crate::config::{Config, Rl};
use crate::data::render::Learns;

/// Temperature of the loss `discopop`, as TRL has it.
const DISCOPOP_TAU: f64 = 0.05;

/// What a run learns.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// To write texts.
    Supervised,
    /// To prefer answers, measured from the model as it was.
    Preference(Preference),
    /// To prefer answers, measured from nothing.
    Cpo(Cpo),
}

impl Method {
    /// As the config says.
    pub fn of(config: &Config) -> Self {
        let beta = config.rl_beta.unwrap_or(0.1);
        match config.rl {
            None => Self::Supervised,
            Some(Rl::Dpo | Rl::Ipo) => {
                let losses = config.dpo_loss_type.iter().filter_map(|name| PairLoss::named(name));
                Self::Preference(Preference {
                    losses: losses.zip(config.dpo_loss_weights.iter().copied()).collect(),
                    beta,
                    label_smoothing: config.dpo_label_smoothing,
                    discopop_tau: DISCOPOP_TAU,
                })
            }
            Some(Rl::Simpo) => {
                let loss = CpoLoss::Simpo { gamma: config.simpo_gamma };
                Self::Cpo(Cpo { loss, beta, label_smoothing: 0.0, alpha: config.cpo_alpha })
            }
            Some(Rl::Cpo) => {
                let loss = CpoLoss::Sigmoid;
                Self::Cpo(Cpo { loss, beta, label_smoothing: 0.0, alpha: config.cpo_alpha })
            }
        }
    }

    /// The samples that it takes.
    pub fn learns(&self) -> Learns {
        match self {
            Self::Supervised => Learns::Texts,
            Self::Preference(_) | Self::Cpo(_) => Learns::Pairs,
        }
    }

    /// It asks what the model said before training.
    pub fn has_reference(&self) -> bool {
        matches!(self, Self::Preference(_))
    }
}
