//! Watches the loss and the gradient norm: says when one jumps, and stops a run that has failed (Axolotl's
//! `loss_watchdog_threshold` and `loss_watchdog_patience`).
//!
//! A metric that is not finite arrives as NaN. A loss like that stops the run at once and is kept out of the average;
//! a NaN is never above a limit, so it must be asked for by name.

use std::collections::VecDeque;

use plugin_sdk::Error;
use plugin_sdk::health::{Advice, Finding, Observation, Run, RunHealth, metric};
use serde::Deserialize;

/// Losses that there must be before one can be a spike.
const ENOUGH: usize = 5;

/// What can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A loss above this is too high. Default: none is.
    threshold: Option<f64>,
    /// Logged steps in a row above `threshold` that stop the run. Default: 3. A run that is resumed after that gets as
    /// many again.
    patience: u32,
    /// A loss this many times the median of the last ones is a spike. Default: 2.
    spike_factor: f64,
    /// How many last ones, 5 or more. Default: 20.
    window: usize,
    /// A gradient norm (before clipping) above this is too large. Default: none is.
    grad_norm_max: Option<f64>,
}

impl Default for Config {
    fn default() -> Self {
        Self { threshold: None, patience: 3, spike_factor: 2.0, window: 20, grad_norm_max: None }
    }
}

/// The watch.
pub struct LossWatch {
    config: Config,
    /// The last losses.
    losses: VecDeque<f64>,
    /// Logged steps in a row above the threshold.
    high: u32,
}

impl RunHealth for LossWatch {
    type Config = Config;

    fn new(config: Config, _: Run) -> Result<Self, Error> {
        let wrong = [
            ("threshold", config.threshold.is_some_and(|limit| limit <= 0.0), "above 0"),
            ("patience", config.patience == 0, "1 or more"),
            ("spike_factor", config.spike_factor <= 1.0, "above 1"),
            ("window", !(ENOUGH..=100_000).contains(&config.window), "from 5 to 100000"),
            ("grad_norm_max", config.grad_norm_max.is_some_and(|limit| limit <= 0.0), "above 0"),
        ];
        if let Some((key, _, range)) = wrong.into_iter().find(|&(_, wrong, _)| wrong) {
            return Err(Error::config(key, format!("`{key}` must be {range}")));
        }
        Ok(Self { config, losses: VecDeque::new(), high: 0 })
    }

    fn observe(&mut self, observation: &Observation) -> Vec<Finding> {
        let mut found = Vec::new();
        if let Some(name) =
            ["loss", "eval_loss"].into_iter().find(|name| metric(observation, name).is_some_and(f64::is_nan))
        {
            found.push(not_finite(name));
        }
        if let Some(loss) = metric(observation, "loss").filter(|loss| loss.is_finite()) {
            found.extend(self.spike(loss));
            found.extend(self.too_high(loss));
            self.losses.push_back(loss);
            if self.losses.len() > self.config.window {
                self.losses.pop_front();
            }
        }
        found.extend(metric(observation, "grad_norm").and_then(|norm| self.gradient(norm)));
        found
    }
}

impl LossWatch {
    fn spike(&self, loss: f64) -> Option<Finding> {
        let usual = self.median().filter(|_| self.losses.len() >= ENOUGH)?;
        (loss > self.config.spike_factor * usual).then(|| Finding {
            id: "loss-spike".to_owned(),
            advice: Advice::Warn,
            message: format!("the loss jumped to {loss:.4}"),
            why: format!(
                "the median of the last {} logged steps is {usual:.4}; `spike_factor` is {}",
                self.losses.len(),
                self.config.spike_factor
            ),
            help: Some(
                "if it does not come down again: lower `learning_rate`, or look at the data of these steps".to_owned(),
            ),
        })
    }

    fn too_high(&mut self, loss: f64) -> Option<Finding> {
        let limit = self.config.threshold?;
        self.high = if loss > limit { self.high + 1 } else { 0 };
        if self.high < self.config.patience {
            return None;
        }
        // Counted anew from here: a user who resumes all the same does not want to be stopped at the very next line.
        self.high = 0;
        Some(Finding {
            id: "loss-threshold".to_owned(),
            advice: Advice::Stop,
            message: format!("the loss {loss:.4} is above {limit}"),
            why: format!("so it was for {} logged steps in a row (`threshold`, `patience`)", self.config.patience),
            help: Some(
                "go back to an earlier checkpoint with a lower `learning_rate`, or raise `threshold`".to_owned(),
            ),
        })
    }

    fn gradient(&self, norm: f64) -> Option<Finding> {
        let limit = self.config.grad_norm_max?;
        (norm > limit).then(|| Finding {
            id: "grad-norm".to_owned(),
            advice: Advice::Warn,
            message: format!("the gradient norm {norm:.4} is above {limit}"),
            why: "before clipping; such steps move the weights by what `max_grad_norm` leaves of them".to_owned(),
            help: Some("lower `learning_rate`, warm up longer, or raise `grad_norm_max`".to_owned()),
        })
    }

    fn median(&self) -> Option<f64> {
        let mut sorted: Vec<f64> = self.losses.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }
}

fn not_finite(name: &str) -> Finding {
    Finding {
        id: "not-finite".to_owned(),
        advice: Advice::Stop,
        message: format!("`{name}` is not a finite number"),
        why: "weights that give such a loss do not recover".to_owned(),
        help: Some("go back to an earlier checkpoint with a lower `learning_rate`".to_owned()),
    }
}

plugin_sdk::register_run_health!(
    LossWatch,
    name: "loss-watch",
    description: "Warns of jumps of the loss and large gradients, and stops a run that has failed",
);

#[cfg(test)]
mod tests {
    use plugin_sdk::health::Metric;
    use serde_json::{Value, json};

    use super::*;

    fn watch(config: Value) -> LossWatch {
        LossWatch::new(serde_json::from_value(config).unwrap(), Run { total_steps: 100 }).unwrap()
    }

    /// Ids of what is found in each line.
    fn ids(watch: &mut LossWatch, name: &str, values: &[f64]) -> Vec<String> {
        let line = |(index, &value): (usize, &f64)| {
            let metrics = vec![Metric { name: name.to_owned(), value }];
            let found = watch.observe(&Observation { step: index as u64 + 1, metrics });
            found.into_iter().map(|finding| finding.id).collect::<Vec<_>>().join(" ")
        };
        values.iter().enumerate().map(line).collect()
    }

    #[test]
    fn a_jump_over_the_median_is_a_spike() {
        let found = ids(&mut watch(json!({})), "loss", &[9.0, 2.0, 2.1, 2.0, 1.9, 4.1, 2.0, 3.9]);
        assert_eq!(found, ["", "", "", "", "", "loss-spike", "", ""]);
        // Too few to compare with.
        assert_eq!(ids(&mut watch(json!({})), "loss", &[1.0, 1.0, 1.0, 1.0, 5.0]), [""; 5]);
        // The window forgets.
        let values = [1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0, 3.0, 5.0];
        assert_eq!(ids(&mut watch(json!({"window": 5})), "loss", &values).last().unwrap(), "");
    }

    #[test]
    fn patience_is_counted_in_a_row_and_anew_after_a_stop() {
        let mut watch = watch(json!({"threshold": 3, "patience": 2}));
        let found = ids(&mut watch, "loss", &[4.0, 2.0, 4.0, 4.0, 4.0, 4.0]);
        assert_eq!(found, ["", "", "", "loss-threshold", "", "loss-threshold"]);
    }

    #[test]
    fn gradients_and_values_that_are_not_finite() {
        let mut watch = watch(json!({"grad_norm_max": 10, "threshold": 3, "patience": 1}));
        assert_eq!(ids(&mut watch, "grad_norm", &[9.0, 11.0, f64::NAN]), ["", "grad-norm", ""]);
        assert_eq!(ids(&mut watch, "eval_loss", &[9.0, f64::NAN]), ["", "not-finite"]);
        assert_eq!(ids(&mut watch, "loss", &[f64::NAN]), ["not-finite"]);
        assert!(watch.losses.is_empty());
    }

    #[test]
    fn limits_that_cannot_be_are_refused() {
        let wrong = [
            ("threshold", json!(0)),
            ("patience", json!(0)),
            ("spike_factor", json!(1)),
            ("window", json!(2)),
            ("grad_norm_max", json!(-1)),
        ];
        for (key, value) in wrong {
            let config = serde_json::from_value(json!({ key: value })).unwrap();
            match LossWatch::new(config, Run { total_steps: 1 }) {
                Err(Error::Config { path, .. }) => assert_eq!(path, key),
                _ => panic!("{key} was taken"),
            }
        }
    }
}
