//! Run health.

use super::{Live, MESSAGE, Origin, debug_by_name};
use crate::bindings::health::{RunHealthPlugin, RunHealthPluginPre};
use crate::error::{PluginError, one_line};
use crate::kind::Kind;
use crate::registry::PluginHost;
use crate::types::{HealthFinding, HealthRun, Observation};

/// Findings that one logged line may have.
const FINDINGS: usize = 16;
/// Characters of a finding's id.
const ID: usize = 64;

/// A running watch over a run. It remembers what it saw.
pub struct Monitor {
    live: Live<RunHealthPlugin>,
}

debug_by_name!(Monitor);

impl PluginHost {
    /// A watch over a run.
    pub fn monitor(&self, name: &str, config_json: &str, run: HealthRun) -> Result<Monitor, PluginError> {
        Monitor::new(self.origin(name, Kind::RunHealth, config_json)?, run)
    }
}

impl Monitor {
    fn new(origin: Origin, run: HealthRun) -> Result<Self, PluginError> {
        let live = Live::start(
            origin,
            |store, pre| RunHealthPluginPre::new(pre)?.instantiate(store),
            |store, world, config| world.trainer_plugin_run_health().monitor().call_create(store, config, run),
        )?;
        Ok(Self { live })
    }

    /// What the logged lines since the last call say about the run: some findings a line at most, their ids short and
    /// plain, their words single lines.
    pub fn observe(&mut self, observations: &[Observation]) -> Result<Vec<HealthFinding>, PluginError> {
        let mut findings = self.live.call(|store, world, handle| {
            world.trainer_plugin_run_health().monitor().call_observe(store, handle, observations)
        })?;
        let cell = &self.live.cell;
        if findings.len() > FINDINGS * observations.len() {
            let message = format!("gave {} findings for {} logged lines", findings.len(), observations.len());
            return Err(cell.bad_result(&message));
        }
        for finding in &mut findings {
            let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if finding.id.is_empty() || finding.id.len() > ID || !finding.id.chars().all(is_plain) {
                let id = one_line(&finding.id, ID);
                return Err(cell.bad_result(&format!("gave the id `{id}`; an id is like `loss-spike`")));
            }
            finding.message = one_line(&finding.message, MESSAGE);
            finding.why = one_line(&finding.why, MESSAGE);
            finding.help = finding.help.as_ref().map(|help| one_line(help, MESSAGE));
        }
        cell.rows(observations.len());
        Ok(findings)
    }
}
