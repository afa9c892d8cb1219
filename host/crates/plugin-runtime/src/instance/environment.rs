//! Environments.

use super::failed::Call;
use super::{Live, MESSAGE, Origin, bound, debug_by_name};
use crate::bindings::environment::exports::trainer::plugin::environment::Context as GuestContext;
use crate::bindings::environment::{EnvironmentPlugin, EnvironmentPluginPre};
use crate::error::{PluginError, cut};
use crate::json;
use crate::kind::Kind;
use crate::registry::PluginHost;
use crate::types::{Context, EpisodeStart, Outcome, RowError, Turn};

/// Bytes that the state of an episode may have.
const STATE: usize = 64 << 10;

/// A running environment.
pub struct Environment {
    live: Live<EnvironmentPlugin>,
    /// It has seen episodes.
    is_used: bool,
}

debug_by_name!(Environment);

impl PluginHost {
    /// An environment.
    pub fn environment(&self, name: &str, config_json: &str) -> Result<Environment, PluginError> {
        Environment::new(self.origin(name, Kind::Environment, config_json)?)
    }
}

impl Environment {
    fn new(origin: Origin) -> Result<Self, PluginError> {
        Ok(Self { live: start(origin)?, is_used: false })
    }

    /// Opens episodes about rows (JSON objects): one result a row, in order.
    pub fn reset(
        &mut self,
        rows: &[String],
        context: &Context,
    ) -> Result<Vec<Result<EpisodeStart, RowError>>, PluginError> {
        self.reset_once(rows, context).map_err(|error| {
            let input = |item: usize| json::opening(&rows[item]);
            self.call(&input, rows.len(), context).reduce_as("reset", error, |origin, items| {
                Self::new(origin)?.reset_once(&rows[items], context).map(drop)
            })
        })
    }

    /// Answers turns, which are of different episodes: one outcome a turn, in order.
    pub fn step(&mut self, turns: &[Turn], context: &Context) -> Result<Vec<Outcome>, PluginError> {
        self.try_step(turns, context).map_err(|error| {
            let input = |item: usize| json::turn(&turns[item]);
            self.call(&input, turns.len(), context)
                .reduce(error, |origin, items| Self::new(origin)?.try_step(&turns[items], context).map(drop))
        })
    }

    /// The same, without looking for the turn at fault where the call fails.
    pub fn try_step(&mut self, turns: &[Turn], context: &Context) -> Result<Vec<Outcome>, PluginError> {
        self.renew()?;
        let mut outcomes = self.live.call(|store, world, handle| {
            world.trainer_plugin_environment().episodes().call_step(store, handle, turns, guest(context))
        })?;
        let cell = &self.live.cell;
        if outcomes.len() != turns.len() {
            return Err(cell.bad_result(&format!("gave {} answers to {} turns", outcomes.len(), turns.len())));
        }
        for outcome in &mut outcomes {
            if let Some(note) = &mut outcome.note {
                cut(note, MESSAGE);
            }
            self.check_state(&outcome.state)?;
            if let Some(reward) = outcome.reward.filter(|reward| !reward.is_finite()) {
                return Err(cell.bad_result(&format!("gave the reward {reward}; a reward is a finite number")));
            }
        }
        cell.rows(turns.len());
        Ok(outcomes)
    }

    fn reset_once(
        &mut self,
        rows: &[String],
        context: &Context,
    ) -> Result<Vec<Result<EpisodeStart, RowError>>, PluginError> {
        self.renew()?;
        let mut starts = self.live.call(|store, world, handle| {
            world.trainer_plugin_environment().episodes().call_reset(store, handle, rows, guest(context))
        })?;
        let cell = &self.live.cell;
        if starts.len() != rows.len() {
            return Err(cell.bad_result(&format!("opened {} episodes for {} rows", starts.len(), rows.len())));
        }
        for start in &mut starts {
            match start {
                Ok(start) if start.messages.is_empty() => {
                    return Err(cell.bad_result("opened an episode without a message"));
                }
                Ok(start) => self.check_state(&start.state)?,
                Err(error) => bound(error),
            }
        }
        self.live.cell.rows(rows.len());
        Ok(starts)
    }

    /// An answer depends on its episode's state and not on earlier calls: a run that is resumed has not made them.
    fn renew(&mut self) -> Result<(), PluginError> {
        if self.is_used || self.live.is_dead() {
            self.live = start(self.live.origin())?;
        }
        self.is_used = true;
        Ok(())
    }

    fn check_state(&self, state: &[u8]) -> Result<(), PluginError> {
        if state.len() <= STATE {
            return Ok(());
        }
        let message = format!("gave an episode a state of {} bytes; it has {STATE} at most", state.len());
        Err(self.live.cell.bad_result(&message))
    }

    fn call<'a>(&self, input: &'a dyn Fn(usize) -> serde_json::Value, items: usize, context: &Context) -> Call<'a> {
        let context = Some(json::context(context));
        Call { origin: self.live.origin(), kind: Kind::Environment, input, items, context }
    }
}

fn guest(context: &Context) -> GuestContext {
    GuestContext { step: context.step, total_steps: context.total_steps, seed: context.seed }
}

fn start(origin: Origin) -> Result<Live<EnvironmentPlugin>, PluginError> {
    Live::start(
        origin,
        |store, pre| EnvironmentPluginPre::new(pre)?.instantiate(store),
        |store, world, config| world.trainer_plugin_environment().episodes().call_create(store, config),
    )
}
