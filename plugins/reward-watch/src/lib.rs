//! Watches reinforcement learning for runs that go on and learn nothing, or learn something else than is meant. It warns, and
//! never stops a run.
//!
//! It reads the metrics that TRL's `GRPOTrainer` has too. What is not among a line's metrics is not judged: completions are
//! sampled in some steps, and learned from in others.

use plugin_sdk::Error;
use plugin_sdk::health::{Advice, Finding, Observation, Run, RunHealth, metric};
use serde::Deserialize;

/// What can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Logged lines in a row that are out of range before that is said. Default: 5.
    patience: u32,
    /// A larger share of completions with equal rewards in their group leaves too little to learn. Default: 0.9.
    frac_reward_zero_std_max: f64,
    /// A larger share of tokens beyond the clipped range. Default: 0.3.
    clip_ratio_max: f64,
    /// A larger divergence from the reference (`trl.beta`), in nats per token. Default: 1.
    kl_max: f64,
    /// Less entropy than this share of that of the first lines: the model is sure of all that it writes. Default: 0.05.
    entropy_share_min: f64,
    /// Completions that are so many times as long, or as short, as those of the first lines. Default: 2.
    length_factor: f64,
    /// Logged lines with rewards after which their rise is looked for: the last third against the first. Default: 30.
    flat_after: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            patience: 5,
            frac_reward_zero_std_max: 0.9,
            clip_ratio_max: 0.3,
            kl_max: 1.0,
            entropy_share_min: 0.05,
            length_factor: 2.0,
            flat_after: 30,
        }
    }
}

/// How many lines in a row something has been so, and whether that was said.
#[derive(Debug, Default)]
struct Streak {
    lines: u32,
    is_told: bool,
}

impl Streak {
    /// Counts a line; true when its number reaches `patience`, once until it is otherwise again.
    fn count(&mut self, is_so: bool, patience: u32) -> bool {
        if !is_so {
            *self = Self::default();
            return false;
        }
        self.lines += 1;
        let tells = self.lines >= patience && !self.is_told;
        self.is_told |= tells;
        tells
    }
}

/// The watch.
pub struct RewardWatch {
    config: Config,
    equal: Streak,
    cut: Streak,
    clipped: Streak,
    drift: Streak,
    away: Streak,
    sure: Streak,
    /// Lengths of the first lines, as many as `patience`.
    first_lengths: Vec<f64>,
    /// The same of entropies.
    first_entropies: Vec<f64>,
    rewards: Vec<f64>,
}

impl RunHealth for RewardWatch {
    type Config = Config;

    fn new(config: Config, _: Run) -> Result<Self, Error> {
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let wrong = [
            ("patience", config.patience == 0, "1 or more"),
            ("frac_reward_zero_std_max", !share(config.frac_reward_zero_std_max), "from 0 to 1"),
            ("clip_ratio_max", !share(config.clip_ratio_max), "from 0 to 1"),
            ("kl_max", config.kl_max.is_nan() || config.kl_max <= 0.0, "above 0"),
            ("entropy_share_min", !share(config.entropy_share_min), "from 0 to 1"),
            ("length_factor", config.length_factor.is_nan() || config.length_factor <= 1.0, "above 1"),
            ("flat_after", !(3..=100_000).contains(&config.flat_after), "from 3 to 100000"),
        ];
        if let Some((key, _, range)) = wrong.into_iter().find(|&(_, wrong, _)| wrong) {
            return Err(Error::config(key, format!("`{key}` must be {range}")));
        }
        Ok(Self {
            config,
            equal: Streak::default(),
            cut: Streak::default(),
            clipped: Streak::default(),
            drift: Streak::default(),
            away: Streak::default(),
            sure: Streak::default(),
            first_lengths: Vec::new(),
            first_entropies: Vec::new(),
            rewards: Vec::new(),
        })
    }

    fn observe(&mut self, observation: &Observation) -> Vec<Finding> {
        let value = |name: &str| metric(observation, name).filter(|value| value.is_finite());
        let mut found = Vec::new();
        if let Some(equal) = value("frac_reward_zero_std") {
            found.extend(self.equal(equal));
        }
        if let Some((cut, ended)) = value("completions/clipped_ratio").zip(value("completions/mean_terminated_length"))
        {
            found.extend(self.cut(cut, ended));
        }
        if let Some(length) = value("completions/mean_length") {
            found.extend(self.drift(length));
        }
        if let Some(clipped) = value("clip_ratio/region_mean") {
            found.extend(self.clipped(clipped));
        }
        if let Some(divergence) = value("kl") {
            found.extend(self.away(divergence));
        }
        if let Some(entropy) = value("entropy") {
            found.extend(self.sure(entropy));
        }
        if let Some(reward) = value("reward") {
            found.extend(self.flat(reward));
        }
        found
    }
}

fn finding(id: &str, advice: Advice, message: String, why: String, help: &str) -> Finding {
    Finding { id: id.to_owned(), advice, message, why, help: Some(help.to_owned()) }
}

impl RewardWatch {
    fn equal(&mut self, share: f64) -> Option<Finding> {
        let (limit, patience) = (self.config.frac_reward_zero_std_max, self.config.patience);
        self.equal.count(share > limit, patience).then(|| {
            finding(
                "equal-rewards",
                Advice::Warn,
                format!("{:.0} % of completions have the rewards of their whole group", 100.0 * share),
                format!("what is equal teaches nothing; so it was for {patience} logged steps in a row"),
                "take prompts that are neither too easy nor too hard, raise `trl.num_generations` or `trl.temperature`, or \
                 use a reward with steps between wrong and right",
            )
        })
    }

    /// The commonest way to learn nothing.
    fn cut(&mut self, share: f64, ended: f64) -> Option<Finding> {
        let patience = self.config.patience;
        self.cut.count(share >= 1.0 && ended <= 0.0, patience).then(|| {
            finding(
                "never-ends",
                Advice::Warn,
                "every completion is cut at `trl.max_completion_length`, and none ends by itself".to_owned(),
                format!("so it was for {patience} logged steps in a row; the model may not know how an answer ends"),
                "look at `completions.jsonl`: a chat model needs its chat template (`type: chat_template`), and \
                 `eot_tokens` if its turns end with another token; else raise `trl.max_completion_length`",
            )
        })
    }

    fn drift(&mut self, length: f64) -> Option<Finding> {
        let (factor, patience) = (self.config.length_factor, self.config.patience);
        if self.first_lengths.len() < patience as usize {
            self.first_lengths.push(length);
            return None;
        }
        let first = self.first_lengths.iter().sum::<f64>() / self.first_lengths.len() as f64;
        let is_off = length > first * factor || length * factor < first;
        self.drift.count(is_off, patience).then(|| {
            finding(
                "length-drift",
                Advice::Note,
                format!("completions have {length:.1} tokens, and had {first:.1}"),
                format!("beyond a factor of {factor} for {patience} logged steps in a row (`length_factor`)"),
                "if that is not what is wanted: a reward for length (`length`), or look at what the rewards like in \
                 `completions.jsonl`",
            )
        })
    }

    fn clipped(&mut self, share: f64) -> Option<Finding> {
        let (limit, patience) = (self.config.clip_ratio_max, self.config.patience);
        self.clipped.count(share > limit, patience).then(|| {
            finding(
                "clipped",
                Advice::Warn,
                format!("{:.0} % of tokens are beyond the range of `trl.epsilon`", 100.0 * share),
                format!("they learn nothing; so it was for {patience} logged steps in a row"),
                "lower `learning_rate`, `trl.num_iterations` or `trl.steps_per_generation`",
            )
        })
    }

    fn away(&mut self, divergence: f64) -> Option<Finding> {
        let (limit, patience) = (self.config.kl_max, self.config.patience);
        self.away.count(divergence > limit, patience).then(|| {
            finding(
                "far-away",
                Advice::Warn,
                format!("the divergence from the reference is {divergence:.2} nats a token"),
                format!(
                    "above {limit} for {patience} logged steps in a row: it writes what it would never have written"
                ),
                "look at `completions.jsonl`; a higher `trl.beta` or a lower `learning_rate` keeps it nearer",
            )
        })
    }

    fn sure(&mut self, entropy: f64) -> Option<Finding> {
        let (share, patience) = (self.config.entropy_share_min, self.config.patience);
        if self.first_entropies.len() < patience as usize {
            self.first_entropies.push(entropy);
            return None;
        }
        let first = self.first_entropies.iter().sum::<f64>() / self.first_entropies.len() as f64;
        self.sure.count(entropy < share * first, patience).then(|| {
            finding(
                "entropy-collapse",
                Advice::Note,
                format!("tokens have an entropy of {entropy:.4} nats, and had {first:.4}"),
                format!("less than {share} of that for {patience} logged steps in a row: it hardly tries anything else"),
                "fine where the reward is as high as it gets; else a higher `trl.temperature` or `trl.epsilon_high`, a lower \
                 `learning_rate`, or a `trl.beta`",
            )
        })
    }

    /// Told once, when there are enough.
    fn flat(&mut self, reward: f64) -> Option<Finding> {
        if self.rewards.len() >= self.config.flat_after {
            return None;
        }
        self.rewards.push(reward);
        if self.rewards.len() < self.config.flat_after {
            return None;
        }
        let third = self.rewards.len() / 3;
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let (first, last) = (mean(&self.rewards[..third]), mean(&self.rewards[self.rewards.len() - third..]));
        (last <= first).then(|| {
            finding(
                "flat-reward",
                Advice::Warn,
                format!("the reward does not rise: {first:.4} at first, {last:.4} now"),
                format!("means of {third} logged steps each, of {} in all", self.rewards.len()),
                "look at `completions.jsonl`; a higher `learning_rate`, more completions in a step, or prompts of which \
                 some are answered right now and then",
            )
        })
    }
}

plugin_sdk::register_run_health!(
    RewardWatch,
    name: "reward-watch",
    description: "Warns of reinforcement learning that runs and learns nothing: equal rewards, cut completions, drift",
);

#[cfg(test)]
mod tests {
    use plugin_sdk::health::Metric;
    use serde_json::{Value, json};

    use super::*;

    fn watch(config: Value, lines: impl IntoIterator<Item = Vec<(&'static str, f64)>>) -> Vec<(u64, String)> {
        let config = serde_json::from_value(config).unwrap();
        let mut watch = RewardWatch::new(config, Run { total_steps: 100 }).unwrap();
        let mut found = Vec::new();
        for (step, line) in (1..).zip(lines) {
            let metrics = line.into_iter().map(|(name, value)| Metric { name: name.to_owned(), value }).collect();
            found.extend(watch.observe(&Observation { step, metrics }).into_iter().map(|found| (step, found.id)));
        }
        found
    }

    #[test]
    fn what_is_out_of_range_for_long_is_said_once() {
        let equal = |values: &[f64]| -> Vec<Vec<(&'static str, f64)>> {
            values.iter().map(|&value| vec![("frac_reward_zero_std", value)]).collect()
        };
        let config = json!({"patience": 2});
        assert_eq!(watch(config.clone(), equal(&[1.0, 1.0, 1.0, 1.0])), [(2, "equal-rewards".to_owned())]);
        assert_eq!(watch(config.clone(), equal(&[1.0, 0.5, 1.0, 0.5])), []);
        let again = equal(&[1.0, 1.0, 0.5, 1.0, 1.0]);
        assert_eq!(watch(config, again).iter().map(|found| found.0).collect::<Vec<_>>(), [2, 5]);
    }

    #[test]
    fn completions_that_never_end_are_told() {
        let line = |cut: f64, ended: f64| {
            vec![("completions/clipped_ratio", cut), ("completions/mean_terminated_length", ended)]
        };
        assert_eq!(watch(json!({"patience": 1}), [line(0.9, 4.0), line(1.0, 0.0)]), [(2, "never-ends".to_owned())]);
    }

    #[test]
    fn drift_clipping_and_a_flat_reward_are_told() {
        let length = |value: f64| vec![("completions/mean_length", value)];
        let lengths = [10.0, 10.0, 15.0, 21.0, 30.0].map(length);
        assert_eq!(watch(json!({"patience": 2}), lengths), [(5, "length-drift".to_owned())]);
        let clipped = vec![("clip_ratio/region_mean", 0.4)];
        assert_eq!(watch(json!({"patience": 1}), [clipped]), [(1, "clipped".to_owned())]);
        let kl = |value: f64| vec![("kl", value)];
        assert_eq!(watch(json!({"patience": 2}), [0.5, 1.5, 0.9, 1.1, 3.0].map(kl)), [(5, "far-away".to_owned())]);
        let entropy = |value: f64| vec![("entropy", value)];
        let entropies = [2.0, 2.2, 1.0, 0.1, 0.11, 0.1, 0.09].map(entropy);
        assert_eq!(watch(json!({"patience": 2}), entropies), [(7, "entropy-collapse".to_owned())]);
        let reward = |value: f64| vec![("reward", value)];
        let config = json!({"flat_after": 3});
        assert_eq!(watch(config.clone(), [0.5, 0.9, 0.4, 0.1].map(reward)), [(3, "flat-reward".to_owned())]);
        assert_eq!(watch(config, [0.4, 0.1, 0.5].map(reward)), []);
    }

    #[test]
    fn what_is_not_there_is_not_judged() {
        assert_eq!(watch(json!({"patience": 1}), [vec![("loss", 1.0)], vec![("reward", f64::NAN)]]), []);
    }

    #[test]
    fn a_config_that_cannot_work_names_its_key() {
        for (key, value) in [("patience", json!(0)), ("clip_ratio_max", json!(2)), ("length_factor", json!(1.0))] {
            let config = serde_json::from_value(json!({ key: value })).unwrap();
            let run = Run { total_steps: 1 };
            assert!(matches!(RewardWatch::new(config, run), Err(Error::Config { path, .. }) if path == key), "{key}");
        }
    }
}
