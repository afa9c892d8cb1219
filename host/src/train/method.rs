//! What a run learns, as its config says (`rl`, `reward_model`, `process_reward_model`): the objective, the samples that it takes, and whether it needs a reference.

use engine::model::divergence::Divergence;
use engine::objective::{
    Cpo, CpoLoss, Distill, Grpo, GrpoLoss, Kto, KtoLoss, LabelCrossEntropy, Orpo, PairLoss, Preference, Ratio,
    RewardModel,
};

use super::asked::Asked;
use crate::config::{Config, GrpoLossType, ImportanceSamplingLevel, KtoLossType, Rl, Trl};
use crate::data::render::Learns;
use crate::data::store::Sizes;
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
    /// To prefer answers by their odds, and to write the chosen texts.
    Orpo(Orpo),
    /// To give answers that are wanted and no others, measured from the model as it was.
    Kto(Kto),
    /// To score texts.
    Reward(RewardModel),
    /// To judge the steps of answers.
    Steps(LabelCrossEntropy),
    /// To write what rewards like.
    Grpo(Grpo, Sampling),
    /// To say what a teacher says where it writes itself.
    Distill(Distill, Sampling),
}

impl Method {
    /// As the config says.
    pub fn of(config: &Config) -> Self {
        let beta = config.rl_beta.unwrap_or(0.1);
        match config.rl {
            None if config.reward_model => {
                Self::Reward(RewardModel { center: config.center_rewards_coefficient.unwrap_or(0.0) })
            }
            None => match config.scores() {
                Some((_, labels)) => Self::Steps(LabelCrossEntropy { labels }),
                None => Self::Supervised,
            },
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
            Some(Rl::Orpo) => Self::Orpo(Orpo { beta }),
            Some(Rl::Kto) => Self::Kto(Kto {
                loss: match config.kto_loss_type {
                    KtoLossType::Kto => KtoLoss::Kto,
                    KtoLossType::ApoZeroUnpaired => KtoLoss::ApoZeroUnpaired,
                },
                beta,
                desirable_weight: config.kto_desirable_weight,
                undesirable_weight: config.kto_undesirable_weight,
            }),
            Some(Rl::Grpo | Rl::Gdpo) => {
                let trl = config.trl.clone().unwrap_or_default();
                let sampling = sampling(config, &trl);
                Self::Grpo(grpo(&trl, sampling.longest()), sampling)
            }
            Some(Rl::Distill) => {
                let trl = config.trl.clone().unwrap_or_default();
                let divergence = Divergence { beta: trl.beta };
                // Every token counts, and there is no reference.
                let sampling = Sampling { is_token_mean: false, asks_reference: false, ..sampling(config, &trl) };
                Self::Distill(Distill { divergence }, sampling)
            }
        }
    }

    /// The samples that it takes.
    pub fn learns(&self) -> Learns {
        match self {
            Self::Supervised => Learns::Texts,
            Self::Preference(_) | Self::Cpo(_) | Self::Orpo(_) => Learns::Pairs,
            Self::Reward(_) => Learns::ScoredPairs,
            Self::Steps(objective) => Learns::Steps { labels: objective.labels },
            Self::Kto(_) => Learns::Unpaired,
            Self::Grpo(_, sampling) | Self::Distill(_, sampling) => match sampling.episodes {
                Some(_) => Learns::Episodes,
                None => Learns::Prompts { completion: sampling.max_completion_length },
            },
        }
    }

    /// An evaluation has a loss, and not rewards alone.
    pub fn has_eval_loss(&self) -> bool {
        self.sampling().is_none()
    }

    /// How it has the model write what it learns from, where it does.
    pub fn sampling(&self) -> Option<&Sampling> {
        match self {
            Self::Grpo(_, sampling) | Self::Distill(_, sampling) => Some(sampling),
            _ => None,
        }
    }

    /// What it asks the model as it was before training.
    pub fn asked(&self) -> Option<Asked> {
        match self {
            Self::Preference(_) => Some(Asked::Pair),
            Self::Kto(_) if self.is_mismatched() => Some(Asked::AnswerAndMismatched),
            Self::Kto(_) => Some(Asked::Answer),
            _ => None,
        }
    }

    /// It asks the model as training began about what the model writes.
    pub fn keeps_reference(&self) -> bool {
        self.sampling().is_some_and(|sampling| sampling.asks_reference)
    }

    /// Prompts come with answers to others too.
    pub fn is_mismatched(&self) -> bool {
        matches!(self, Self::Kto(Kto { loss: KtoLoss::Kto, .. }))
    }

    /// Tokens of a sample that are learned.
    pub fn trained_tokens(&self, sample: &Sizes) -> usize {
        let Sizes { first, rejected, learned, rejected_learned, labels, .. } = *sample;
        let tokens = match self {
            // The chosen text is learned with its prompt; nothing is before its first token.
            Self::Orpo(_) if rejected > 0 => first - 1 + rejected_learned,
            // Each text is scored at one token.
            Self::Reward(_) => 1 + u32::from(rejected > 0),
            Self::Steps(_) => labels,
            _ => learned + rejected_learned,
        };
        tokens as usize
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
        beta: trl.beta,
        corrects_divergence: trl.use_bias_correction_kl,
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
        shuffles_rewards: trl.shuffle_rewards,
        is_token_mean: matches!(trl.loss_type, GrpoLossType::Dapo | GrpoLossType::Cispo),
        asks_reference: trl.beta > 0.0,
        // `bnpo` has a mean for each micro-batch.
        keeps_groups: trl.loss_type != GrpoLossType::Bnpo
            && trl.steps_per_generation.is_multiple_of(config.gradient_accumulation_steps),
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
