//! Warm-up, stable, decay (Hu et al. 2024, arXiv 2404.06395): up to the peak, a long time there, down at the end. The
//! same numbers and names as transformers' `get_wsd_schedule`. The warm-up's length comes from the run's own keys
//! (`warmup_steps`, `warmup_ratio`).

use std::f64::consts::PI;

use plugin_sdk::Error;
use plugin_sdk::schedule::{Run, Schedule};
use serde::Deserialize;

/// What can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Steps of the decay. Default: a tenth of the run, rounded up.
    num_decay_steps: Option<u64>,
    /// Steps at the peak. Default: what warm-up and decay leave of the run. With fewer, the rest of the run stays at
    /// `min_lr_ratio`; with more, the run ends before the decay does.
    num_stable_steps: Option<u64>,
    /// Way up. Default: `linear`.
    warmup_type: Shape,
    /// Way down. Default: `cosine`.
    decay_type: Shape,
    /// Where the warm-up starts and the decay ends, as a share of `learning_rate`, from 0 to 1. Default: 0.
    min_lr_ratio: f64,
    /// Waves of a cosine decay; 0.5 goes down once. Default: 0.5.
    num_cycles: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            num_decay_steps: None,
            num_stable_steps: None,
            warmup_type: Shape::Linear,
            decay_type: Shape::Cosine,
            min_lr_ratio: 0.0,
            num_cycles: 0.5,
        }
    }
}

/// How the factor goes up or down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Along a line.
    Linear,
    /// Along a cosine.
    Cosine,
    /// Slow first on the way up, fast first on the way down.
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

/// The schedule.
pub struct Wsd {
    config: Config,
    warmup: u64,
    stable: u64,
    decay: u64,
}

impl Schedule for Wsd {
    type Config = Config;

    fn new(config: Config, run: Run) -> Result<Self, Error> {
        if !(0.0..=1.0).contains(&config.min_lr_ratio) {
            return Err(Error::config("min_lr_ratio", "`min_lr_ratio` is a share of the peak, from 0 to 1"));
        }
        if config.num_cycles < 0.0 {
            return Err(Error::config("num_cycles", "`num_cycles` is 0 or more"));
        }
        let (total, warmup) = (run.total_steps, run.warmup_steps);
        let room = total.saturating_sub(warmup);
        let decay = config.num_decay_steps.unwrap_or_else(|| total.div_ceil(10).min(room));
        if config.num_stable_steps.is_none() && decay > room {
            let message = format!(
                "{decay} steps of decay do not fit: the run has {total} steps, the warm-up takes {warmup} of them"
            );
            return Err(Error::config_with_help("num_decay_steps", message, format!("write {room} or less")));
        }
        let stable = config.num_stable_steps.unwrap_or(room.saturating_sub(decay));
        Ok(Self { config, warmup, stable, decay })
    }

    fn factor(&self, step: u64) -> f64 {
        let Self { config, warmup, stable, decay } = self;
        let peak = warmup.saturating_add(*stable);
        let end = peak.saturating_add(*decay);
        let factor = if step < *warmup {
            let progress = step as f64 / *warmup as f64;
            match config.warmup_type {
                Shape::Linear => progress,
                Shape::Cosine => 0.5 * (1.0 - (PI * progress).cos()),
                Shape::OneMinusSqrt => 1.0 - (1.0 - progress).sqrt(),
            }
        } else if step < peak {
            return 1.0;
        } else if step < end {
            let progress = (step - peak) as f64 / *decay as f64;
            match config.decay_type {
                Shape::Linear => 1.0 - progress,
                Shape::Cosine => 0.5 * (1.0 + (PI * config.num_cycles * 2.0 * progress).cos()),
                Shape::OneMinusSqrt => 1.0 - progress.sqrt(),
            }
        } else {
            return config.min_lr_ratio;
        };
        (factor * (1.0 - config.min_lr_ratio) + config.min_lr_ratio).max(0.0)
    }
}

plugin_sdk::register_schedule!(Wsd, name: "wsd", description: "Warm-up, a long stable stretch, then a decay");

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const RUN: Run = Run { total_steps: 12, warmup_steps: 3, steps_per_epoch: 12 };

    fn wsd(config: Value) -> Result<Wsd, Error> {
        Wsd::new(serde_json::from_value(config).unwrap(), RUN)
    }

    fn check(config: Value, expected: [f64; 12]) {
        let wsd = wsd(config).unwrap();
        for (step, expected) in expected.into_iter().enumerate() {
            let found = wsd.factor(step as u64);
            assert!((found - expected).abs() < 1e-15, "step {step}: {found} for {expected}");
        }
    }

    /// transformers 5.24.0 with torch 2.15.0: `get_wsd_schedule(AdamW([p], lr=1.0), num_warmup_steps=3,
    /// num_training_steps=12, **config)`, `get_last_lr()[0]` before each of the 12 steps.
    #[test]
    #[expect(clippy::unreadable_literal, reason = "as Python prints them")]
    fn equals_transformers() {
        #[rustfmt::skip]
        let cases = [
            (json!({"num_decay_steps": 4}),
             [0.0, 0.3333333333333333, 0.6666666666666666, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8535533905932737, 0.5, 0.14644660940672627]),
            (json!({"num_decay_steps": 4, "decay_type": "linear", "min_lr_ratio": 0.1}),
             [0.1, 0.4, 0.7, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.775, 0.55, 0.325]),
            (json!({"num_decay_steps": 4, "warmup_type": "cosine", "decay_type": "1-sqrt"}),
             [0.0, 0.24999999999999994, 0.7499999999999999, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.2928932188134524, 0.1339745962155614]),
            (json!({"num_decay_steps": 4, "num_stable_steps": 2, "warmup_type": "1-sqrt", "min_lr_ratio": 0.25}),
             [0.25, 0.3876275643042055, 0.5669872981077806, 1.0, 1.0, 1.0, 0.8901650429449552, 0.625, 0.3598349570550447, 0.25, 0.25, 0.25]),
            (json!({"num_decay_steps": 6, "num_cycles": 1.5}),
             [0.0, 0.3333333333333333, 0.6666666666666666, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0, 0.4999999999999999, 1.0, 0.5000000000000001]),
        ];
        for (config, expected) in cases {
            check(config, expected);
        }
    }

    #[test]
    fn a_tenth_of_the_run_decays_by_default() {
        let Wsd { warmup, stable, decay, .. } = wsd(json!({})).unwrap();
        assert_eq!((warmup, stable, decay), (3, 7, 2));
        let short = Wsd::new(Config::default(), Run { total_steps: 3, ..RUN }).unwrap();
        assert_eq!((0..3).map(|step| short.factor(step)).collect::<Vec<_>>(), [0.0, 1.0 / 3.0, 2.0 / 3.0]);
    }

    #[test]
    fn what_cannot_be_is_refused_at_its_key() {
        let path = |config: Value| match wsd(config) {
            Err(Error::Config { path, message, .. }) => (path, message),
            _ => panic!("it was taken"),
        };
        let (key, message) = path(json!({"num_decay_steps": 10}));
        assert_eq!(key, "num_decay_steps");
        assert_eq!(message, "10 steps of decay do not fit: the run has 12 steps, the warm-up takes 3 of them");
        assert_eq!(path(json!({"min_lr_ratio": 2})).0, "min_lr_ratio");
        assert_eq!(path(json!({"num_cycles": -1})).0, "num_cycles");
    }
}
