//! What a run learns, as its config says (`rl`): the objective, the samples that it takes, and whether it needs a reference.

use engine::objective::{Cpo, CpoLoss, Grpo, GrpoLoss, PairLoss, Preference, Ratio};

use crate::config::{Config, GrpoLossType, ImportanceSamplingLevel, Rl, Trl};
use crate::data::render::Learns;
use crate::rl::advantage::Advantage;
use crate::rl::episode::EpisodeLimits;
use crate::rl::sampler::Sampling;

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
    /// To write what rewards like.
    Grpo(Grpo, Sampling),
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
            Some(Rl::Grpo | Rl::Gdpo) => {
                let trl = config.trl.clone().unwrap_or_default();
                let sampling = sampling(config, &trl);
                Self::Grpo(grpo(&trl, sampling.longest()), sampling)
            }
        }
    }

    /// The samples that it takes.
    pub fn learns(&self) -> Learns {
        match self {
            Self::Supervised => Learns::Texts,
            Self::Preference(_) | Self::Cpo(_) => Learns::Pairs,
            Self::Grpo(_, sampling) if sampling.episodes.is_some() => Learns::Episodes,
            Self::Grpo(_, sampling) => Learns::Prompts { completion: sampling.max_completion_length },
        }
    }

    /// An evaluation has a loss, and not rewards alone.
    pub fn has_eval_loss(&self) -> bool {
        !matches!(self, Self::Grpo(..))
    }

    /// It asks what the model said before training.
    pub fn has_reference(&self) -> bool {
        matches!(self, Self::Preference(_))
    }
}

/// A text has so many written tokens at most.
fn grpo(trl: &Trl, max_completion_length: usize) -> Grpo {
    Grpo {
        loss: match trl.loss_type {
            GrpoLossType::Grpo => GrpoLoss::Grpo,
            GrpoLossType::Bnpo => GrpoLoss::Bnpo,
            GrpoLossType::DrGrpo => GrpoLoss::DrGrpo { max_completion_length },
            GrpoLossType::Dapo => GrpoLoss::Dapo,
            GrpoLossType::Cispo => GrpoLoss::Cispo,
        },
        ratio: match trl.importance_sampling_level {
            ImportanceSamplingLevel::Token => Ratio::Token,
            ImportanceSamplingLevel::Sequence => Ratio::Sequence,
        },
        epsilon_low: trl.epsilon,
        epsilon_high: trl.epsilon_high.unwrap_or(trl.epsilon),
        delta: trl.delta,
        beta: 0.0,
        corrects_divergence: true,
    }
}

fn sampling(config: &Config, trl: &Trl) -> Sampling {
    let environment = config.environment.as_ref();
    Sampling {
        advantage: Advantage {
            group: trl.num_generations as usize,
            weights: trl
                .reward_weights
                .iter()
                .copied()
                .chain(environment.map(|environment| environment.weight))
                .collect(),
            scale: trl.scale_rewards,
            aggregation: trl.multi_objective_aggregation,
        },
        micro_batch_size: config.micro_batch_size as usize,
        accumulation: config.gradient_accumulation_steps as usize,
        steps_per_generation: trl.steps_per_generation as usize,
        iterations: trl.num_iterations as usize,
        max_completion_length: trl.max_completion_length as usize,
        temperature: trl.temperature,
        masks_truncated: trl.mask_truncated_completions,
        is_token_mean: matches!(trl.loss_type, GrpoLossType::Dapo | GrpoLossType::Cispo),
        // Dropout changes what training says.
        is_exact: config.lora_dropout <= 0.0,
        shuffle: config.shuffle_merged_datasets,
        seed: config.seed,
        logged: trl.num_completions_to_log as usize,
        episodes: environment.map(|environment| EpisodeLimits {
            max_turns: environment.max_turns as usize,
            sequence_len: config.sequence_len as usize,
            max_completion_length: trl.max_completion_length as usize,
        }),
    }
}
