//! Run health.

use super::{Live, Origin, debug_by_name};
use crate::bindings::health::{RunHealthPlugin, RunHealthPluginPre};
use crate::error::PluginError;
use crate::types::{HealthFinding, HealthRun, Observation};

/// A running watch over a run. It remembers what it saw.
pub struct Monitor {
    live: Live<RunHealthPlugin>,
}

debug_by_name!(Monitor);

impl Monitor {
    pub(crate) fn new(origin: Origin, run: HealthRun) -> Result<Self, PluginError> {
        let live = Live::start(
            origin,
            |store, pre| RunHealthPluginPre::new(pre)?.instantiate(store),
            |store, world, config| world.trainer_plugin_run_health().monitor().call_create(store, config, run),
        )?;
        Ok(Self { live })
    }

    /// What the logged lines since the last call say about the run.
    pub fn observe(&mut self, observations: &[Observation]) -> Result<Vec<HealthFinding>, PluginError> {
        let findings = self.live.call(|store, world, handle| {
            world.trainer_plugin_run_health().monitor().call_observe(store, handle, observations)
        })?;
        self.live.cell.rows(observations.len());
        Ok(findings)
    }
}
