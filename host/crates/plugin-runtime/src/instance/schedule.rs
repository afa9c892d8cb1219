//! Schedules.

use super::{Live, Origin, debug_by_name};
use crate::bindings::schedule::{SchedulePlugin, SchedulePluginPre};
use crate::error::PluginError;
use crate::kind::Kind;
use crate::registry::PluginHost;
use crate::types::ScheduleRun;

/// Factors asked for in one call.
const BATCH: u64 = 1 << 16;

/// A running schedule.
pub struct Curve {
    live: Live<SchedulePlugin>,
}

debug_by_name!(Curve);

impl PluginHost {
    /// A schedule.
    pub fn curve(&self, name: &str, config_json: &str, run: ScheduleRun) -> Result<Curve, PluginError> {
        Curve::new(self.origin(name, Kind::Schedule, config_json)?, run)
    }
}

impl Curve {
    fn new(origin: Origin, run: ScheduleRun) -> Result<Self, PluginError> {
        let live = Live::start(
            origin,
            |store, pre| SchedulePluginPre::new(pre)?.instantiate(store),
            |store, world, config| world.trainer_plugin_schedule().curve().call_create(store, config, run),
        )?;
        Ok(Self { live })
    }

    /// The factors of the first `steps` optimizer steps: each finite and not negative.
    pub fn factors(&mut self, steps: u64) -> Result<Vec<f64>, PluginError> {
        let mut all = Vec::new();
        while (all.len() as u64) < steps {
            let first = all.len() as u64;
            all.extend(self.range(first, (steps - first).min(BATCH) as u32)?);
        }
        Ok(all)
    }

    /// The factors of `count` steps from `first`, in one call.
    pub fn range(&mut self, first: u64, count: u32) -> Result<Vec<f64>, PluginError> {
        let factors = self.live.call(|store, world, handle| {
            world.trainer_plugin_schedule().curve().call_factors(store, handle, first, count)
        })?;
        let cell = &self.live.cell;
        if factors.len() != count as usize {
            return Err(cell.bad_result(&format!("gave {} factors for {count} steps", factors.len())));
        }
        if let Some(index) = factors.iter().position(|factor| !factor.is_finite() || *factor < 0.0) {
            let message = format!(
                "gave the factor {} for step {}; a factor is a finite number that is not negative",
                factors[index],
                first + index as u64
            );
            return Err(cell.bad_result(&message));
        }
        cell.rows(factors.len());
        Ok(factors)
    }
}
