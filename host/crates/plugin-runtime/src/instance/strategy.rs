//! Prompt strategies.

use super::failed::{self, Call};
use super::{Live, Origin, bound, debug_by_name};
use crate::bindings::strategy::{PromptStrategyPlugin, PromptStrategyPluginPre};
use crate::error::PluginError;
use crate::kind::Kind;
use crate::registry::PluginHost;
use crate::types::{RowError, Sample};

/// A running prompt strategy.
pub struct Strategy {
    live: Live<PromptStrategyPlugin>,
    /// It has seen rows.
    is_used: bool,
}

debug_by_name!(Strategy);

impl PluginHost {
    /// A prompt strategy.
    pub fn strategy(&self, name: &str, config_json: &str) -> Result<Strategy, PluginError> {
        Strategy::new(self.origin(name, Kind::PromptStrategy, config_json)?)
    }
}

impl Strategy {
    fn new(origin: Origin) -> Result<Self, PluginError> {
        Ok(Self { live: start(origin)?, is_used: false })
    }

    /// Forgets all rows so far: what comes next is rendered as by an instance that has seen none.
    pub fn begin(&mut self) -> Result<(), PluginError> {
        if self.is_used {
            self.live = start(self.live.origin())?;
            self.is_used = false;
        }
        Ok(())
    }

    /// Renders rows (JSON objects): one result a row, in order.
    pub fn render(&mut self, rows: &[String]) -> Result<Vec<Result<Option<Sample>, RowError>>, PluginError> {
        self.render_once(rows).map_err(|error| {
            let input = |item: usize| failed::row(&rows[item]);
            let origin = self.live.origin();
            let kind = Kind::PromptStrategy;
            let call = Call { origin, kind, input: &input, items: rows.len(), context: None };
            call.reduce(error, |origin, items| Self::new(origin)?.render_once(&rows[items]).map(drop))
        })
    }

    fn render_once(&mut self, rows: &[String]) -> Result<Vec<Result<Option<Sample>, RowError>>, PluginError> {
        if self.live.is_dead() {
            self.live = start(self.live.origin())?;
        }
        self.is_used = true;
        let mut samples = self.live.call(|store, world, handle| {
            world.trainer_plugin_prompt_strategy().strategy().call_render(store, handle, rows)
        })?;
        if samples.len() != rows.len() {
            let message = format!("gave {} results for {} rows", samples.len(), rows.len());
            return Err(self.live.cell.bad_result(&message));
        }
        for error in samples.iter_mut().filter_map(|sample| sample.as_mut().err()) {
            bound(error);
        }
        self.live.cell.rows(rows.len());
        Ok(samples)
    }
}

fn start(origin: Origin) -> Result<Live<PromptStrategyPlugin>, PluginError> {
    Live::start(
        origin,
        |store, pre| PromptStrategyPluginPre::new(pre)?.instantiate(store),
        |store, world, config| world.trainer_plugin_prompt_strategy().strategy().call_create(store, config),
    )
}
