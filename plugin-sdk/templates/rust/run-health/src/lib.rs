//! Warns where the loss has risen far above its lowest value, and stops a run whose loss is no number.

use plugin_sdk::Error;
use plugin_sdk::health::{Advice, Finding, Observation, Run, RunHealth, metric};
use serde::Deserialize;

/// What users can set. `config.schema.json` says the same to the host, which holds their config against it.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    times: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { times: 3.0 }
    }
}

pub struct Rising {
    config: Config,
    lowest: f64,
}

impl RunHealth for Rising {
    type Config = Config;

    fn new(config: Config, _run: Run) -> Result<Self, Error> {
        Ok(Self { config, lowest: f64::INFINITY })
    }

    fn observe(&mut self, observation: &Observation) -> Vec<Finding> {
        let Some(loss) = metric(observation, "loss") else { return Vec::new() };
        if !loss.is_finite() {
            return vec![Finding {
                id: "loss-not-finite".to_owned(),
                advice: Advice::Stop,
                message: "the loss is no number any more".to_owned(),
                why: "every step from here on is wasted".to_owned(),
                help: Some("use a lower `learning_rate`".to_owned()),
            }];
        }
        self.lowest = self.lowest.min(loss);
        if loss > self.lowest * self.config.times {
            return vec![Finding {
                id: "loss-rise".to_owned(),
                advice: Advice::Warn,
                message: format!("the loss has risen to {loss:.3}"),
                why: format!("it was {:.3} before", self.lowest),
                help: None,
            }];
        }
        Vec::new()
    }
}

plugin_sdk::register_run_health!(
    Rising,
    name: "{{name}}",
    description: "Warns of a loss that rises",
    config_schema: include_str!("../config.schema.json"),
);

#[cfg(test)]
mod tests {
    use plugin_sdk::health::Metric;

    use super::*;

    #[test]
    fn a_rise_is_seen() {
        let mut watch = Rising::new(Config { times: 2.0 }, Run { total_steps: 3 }).unwrap();
        let mut findings = |loss: f64| {
            let metrics = vec![Metric { name: "loss".to_owned(), value: loss }];
            watch.observe(&Observation { step: 1, metrics }).len()
        };
        assert_eq!([findings(1.0), findings(1.9), findings(2.1), findings(f64::NAN)], [0, 0, 1, 1]);
    }
}
