//! Reward models: the chosen text of a pair is to score higher than the rejected one (Bradley and Terry, "Rank analysis of
//! incomplete block designs"), as TRL's `RewardTrainer` computes it. The model has a head of one score.

use super::pairs::{log_sigmoid, scale, sigmoid, validate};
use super::{Metrics, Objective};
use crate::{Batch, EngineError};

/// Texts in pairs, a chosen one and then the rejected one; the one target of each, whatever it is, is where it is scored.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScoredPairs {
    /// The texts.
    pub batch: Batch,
    /// For each pair, by how much the chosen text is to score higher; empty where that is 0.
    pub margins: Vec<f64>,
}

impl AsRef<Batch> for ScoredPairs {
    fn as_ref(&self) -> &Batch {
        &self.batch
    }
}

/// Learning to score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RewardModel {
    /// Weight of the mean square of the sum of a pair's scores, which keeps scores around 0 (`center_rewards_coefficient`;
    /// Eisenstein et al., "Helping or herding?"); 0 for none.
    pub center: f64,
}

impl Objective for RewardModel {
    type Batch = ScoredPairs;

    fn validate(&self, pairs: &ScoredPairs) -> Result<(), EngineError> {
        validate(&pairs.batch)?;
        let wrong = |reason: String| Err(EngineError::Batch { reason });
        if let Some(targets) = pairs.batch.learned().find(|targets| targets.len() != 1) {
            return wrong(format!("a text is scored at {} positions, not at one", targets.len()));
        }
        let (documents, margins) = (pairs.batch.doc_lens.len(), pairs.margins.len());
        if margins != 0 && margins != documents / 2 {
            return wrong(format!("{} pairs, but {margins} margins", documents / 2));
        }
        Ok(())
    }

    fn scale(&self, micro_batches: &[ScoredPairs]) -> Option<f64> {
        scale(micro_batches)
    }

    fn loss(&self, pairs: &ScoredPairs, scores: &[f32], _: &[f32], weights: &mut [f32], metrics: &mut Metrics) -> f64 {
        let places: Vec<usize> = pairs.batch.learned().flatten().collect();
        let (mut loss, mut all) = (0.0, Vec::with_capacity(places.len()));
        for (pair, places) in places.as_chunks().0.iter().enumerate() {
            let [chosen, rejected] = places.map(|place| f64::from(scores[place]));
            let (difference, sum) = (chosen - rejected, chosen + rejected);
            let apart = difference - pairs.margins.get(pair).copied().unwrap_or(0.0);
            loss += -log_sigmoid(apart) + self.center * sum * sum;
            let (slope, centering) = (-sigmoid(-apart), 2.0 * self.center * sum);
            let [of_chosen, of_rejected]: [usize; 2] = *places;
            weights[of_chosen] = -(slope + centering) as f32;
            weights[of_rejected] = -(centering - slope) as f32;
            metrics.add("accuracy", f64::from(u8::from(chosen > rejected)));
            metrics.add("margin", difference);
            all.extend([chosen, rejected]);
        }
        // TRL tells the extremes of each batch.
        metrics.add("min_reward", all.iter().copied().fold(f64::INFINITY, f64::min));
        metrics.add("max_reward", all.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        for score in all {
            metrics.add("mean_reward", score);
        }
        loss
    }
}
