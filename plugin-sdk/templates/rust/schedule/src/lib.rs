//! Up along a line during the warm-up, then down by half at even distances.

use plugin_sdk::Error;
use plugin_sdk::schedule::{Run, Schedule};
use serde::Deserialize;

/// What users can set. `config.schema.json` says the same to the host, which holds their config against it.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    drops: i32,
}

impl Default for Config {
    fn default() -> Self {
        Self { drops: 2 }
    }
}

pub struct Halves {
    config: Config,
    run: Run,
}

impl Schedule for Halves {
    type Config = Config;

    fn new(config: Config, run: Run) -> Result<Self, Error> {
        if config.drops < 1 {
            return Err(Error::config("drops", "`drops` must be at least 1"));
        }
        Ok(Self { config, run })
    }

    fn factor(&self, step: u64) -> f64 {
        let warmup = self.run.warmup_steps;
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        let rest = self.run.total_steps.saturating_sub(warmup).max(1);
        let parts = f64::from(self.config.drops) + 1.0;
        let part = ((step - warmup) as f64 / rest as f64 * parts).floor().min(parts - 1.0);
        0.5_f64.powi(part as i32)
    }
}

plugin_sdk::register_schedule!(
    Halves,
    name: "{{name}}",
    description: "Down by half at even distances",
    config_schema: include_str!("../config.schema.json"),
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_up_and_down() {
        let run = Run { total_steps: 8, warmup_steps: 2, steps_per_epoch: 8 };
        let schedule = Halves::new(Config { drops: 2 }, run).unwrap();
        let factors: Vec<f64> = (0..8).map(|step| schedule.factor(step)).collect();
        assert_eq!(factors, [0.5, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]);
    }
}
