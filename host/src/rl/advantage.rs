//! From rewards to advantages: how much better a completion is than the others of its prompt, as TRL's `GRPOTrainer` has it.

use crate::config::{Aggregation, ScaleRewards};

/// Added to a standard deviation that something is divided by.
const EPSILON: f64 = 1e-4;
/// A standard deviation below this is none.
const ZERO: f64 = 1e-8;

/// How rewards become advantages.
#[derive(Debug, Clone, PartialEq)]
pub struct Advantage {
    /// Completions of a prompt; they stand one after the other.
    pub group: usize,
    /// What each reward counts.
    pub weights: Vec<f64>,
    /// What advantages are divided by.
    pub scale: ScaleRewards,
    /// How several rewards become one.
    pub aggregation: Aggregation,
}

/// What came of the rewards of some completions.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The weighted sum of a completion's rewards; none where none of them judged it.
    pub rewards: Vec<Option<f64>>,
    /// Its advantage; 0 where there is no reward.
    pub advantages: Vec<f64>,
    /// The share of completions that are compared with nothing but their like.
    pub frac_reward_zero_std: f64,
}

impl Advantage {
    /// Judges so many completions by `scores`, a list for each reward with a score, or none, for each completion.
    pub fn judge(&self, items: usize, scores: &[Vec<Option<f64>>]) -> Judged {
        let sums = self.sums(scores, items);
        let (advantages, zeros) = match self.aggregation {
            Aggregation::SumThenNormalize => self.of_sums(&sums),
            Aggregation::NormalizeThenSum => {
                let normal: Vec<Vec<Option<f64>>> = scores.iter().map(|scores| self.normalized(scores)).collect();
                let mut sums = self.sums(&normal, items);
                for (sum, scores) in sums.iter_mut().zip(self.sums(scores, items)) {
                    *sum = sum.or(scores.map(|_| 0.0));
                }
                let (mean, deviation) = moments(&sums);
                let zero = if deviation < ZERO { items } else { 0 };
                (sums.iter().map(|sum| sum.map(|sum| (sum - mean) / (deviation + EPSILON))).collect(), zero)
            }
        };
        // A lone score has no deviation.
        let finite = |advantage: Option<f64>| advantage.filter(|advantage| advantage.is_finite()).unwrap_or(0.0);
        Judged {
            rewards: sums,
            advantages: advantages.into_iter().map(finite).collect(),
            frac_reward_zero_std: zeros as f64 / items.max(1) as f64,
        }
    }

    /// Weighted sums over the rewards that judged a completion.
    fn sums(&self, scores: &[Vec<Option<f64>>], items: usize) -> Vec<Option<f64>> {
        let sum = |item: usize| {
            let own = scores.iter().zip(&self.weights).filter_map(|(scores, weight)| Some(weight * scores[item]?));
            own.reduce(|sum, score| sum + score)
        };
        (0..items).map(sum).collect()
    }

    fn of_sums(&self, sums: &[Option<f64>]) -> (Vec<Option<f64>>, usize) {
        let of_all = moments(sums).1;
        let (mut advantages, mut zeros) = (Vec::with_capacity(sums.len()), 0);
        for group in sums.chunks(self.group.max(1)) {
            let (mean, own) = moments(group);
            let deviation = if self.scale == ScaleRewards::Batch { of_all } else { own };
            zeros += if deviation < ZERO { group.len() } else { 0 };
            let divisor = if self.scale == ScaleRewards::None { 1.0 } else { deviation + EPSILON };
            advantages.extend(group.iter().map(|sum| sum.map(|sum| (sum - mean) / divisor)));
        }
        (advantages, zeros)
    }

    /// The scores of one reward, compared within each group.
    fn normalized(&self, scores: &[Option<f64>]) -> Vec<Option<f64>> {
        let mut all = Vec::with_capacity(scores.len());
        for group in scores.chunks(self.group.max(1)) {
            let (mean, deviation) = moments(group);
            let normal = |score: &Option<f64>| {
                score.map(|score| (score - mean) / (deviation + EPSILON)).filter(|score| score.is_finite())
            };
            all.extend(group.iter().map(normal));
        }
        all
    }
}

/// Mean and standard deviation (over n - 1) of what is there; NaN where too little is.
pub fn moments(values: &[Option<f64>]) -> (f64, f64) {
    let values: Vec<f64> = values.iter().copied().flatten().collect();
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    // Of equal values the mean may differ from them by its rounding.
    if values.windows(2).all(|pair| pair[0].to_bits() == pair[1].to_bits()) {
        let mean = values.first().copied().unwrap_or(f64::NAN);
        return (mean, if values.len() > 1 { 0.0 } else { f64::NAN });
    }
    let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
    (mean, (squares / (count - 1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advantage(scale: ScaleRewards, aggregation: Aggregation, weights: &[f64]) -> Advantage {
        Advantage { group: 4, weights: weights.to_vec(), scale, aggregation }
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }

    /// The expected values are those of `tests/fixtures/grpo/advantages.py`, which runs TRL 1.16's own lines.
    #[test]
    fn advantages_are_those_of_trl() {
        #[derive(serde::Deserialize)]
        struct Case {
            scale_rewards: String,
            aggregation: String,
            weights: Vec<f64>,
            scores: Vec<Vec<Option<f64>>>,
            advantages: Vec<f64>,
            frac_reward_zero_std: f64,
        }
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../../../tests/fixtures/grpo/advantages.json")).unwrap();
        assert!(cases.len() >= 12);
        for case in cases {
            use crate::config::Choice;
            let scale = ScaleRewards::parse(&case.scale_rewards).unwrap();
            let aggregation = Aggregation::parse(&case.aggregation).unwrap();
            let judged = advantage(scale, aggregation, &case.weights)
                .judge(case.scores.first().map_or(0, Vec::len), &case.scores);
            close(&judged.advantages, &case.advantages);
            close(&[judged.frac_reward_zero_std], &[case.frac_reward_zero_std]);
        }
    }

    #[test]
    fn equal_rewards_have_no_advantage_at_all() {
        let scores = vec![vec![Some(0.1); 4]];
        let judged = advantage(ScaleRewards::Group, Aggregation::SumThenNormalize, &[0.3])
            .judge(scores.first().map_or(0, Vec::len), &scores);
        assert_eq!((judged.advantages, judged.frac_reward_zero_std), (vec![0.0; 4], 1.0));
    }

    #[test]
    fn what_no_reward_judges_has_none() {
        let scores = vec![vec![None, Some(1.0), Some(0.0), None], vec![None, None, Some(1.0), None]];
        let judged = advantage(ScaleRewards::None, Aggregation::SumThenNormalize, &[1.0, 2.0])
            .judge(scores.first().map_or(0, Vec::len), &scores);
        assert_eq!(judged.rewards, [None, Some(1.0), Some(2.0), None]);
        assert_eq!(judged.advantages, [0.0, -0.5, 0.5, 0.0]);
    }
}
