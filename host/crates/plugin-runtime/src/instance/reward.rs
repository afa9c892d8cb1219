//! Rewards.

use super::failed::Call;
use super::{Live, MESSAGE, Origin, debug_by_name};
use crate::bindings::reward::{RewardPlugin, RewardPluginPre};
use crate::error::{PluginError, cut, one_line};
use crate::json;
use crate::kind::Kind;
use crate::registry::PluginHost;
use crate::types::{Context, Item, Score};

/// A running reward.
pub struct Scorer {
    live: Live<RewardPlugin>,
    /// It has seen completions.
    is_used: bool,
}

debug_by_name!(Scorer);

impl PluginHost {
    /// A reward.
    pub fn scorer(&self, name: &str, config_json: &str) -> Result<Scorer, PluginError> {
        Scorer::new(self.origin(name, Kind::Reward, config_json)?)
    }
}

impl Scorer {
    fn new(origin: Origin) -> Result<Self, PluginError> {
        Ok(Self { live: start(origin)?, is_used: false })
    }

    /// Scores completions: one finite score (or none) an item, in order.
    pub fn score(&mut self, items: &[Item], context: &Context) -> Result<Vec<Score>, PluginError> {
        self.try_score(items, context).map_err(|error| {
            let input = |item: usize| json::item(&items[item]);
            let (origin, when) = (self.live.origin(), Some(json::context(context)));
            let kind = Kind::Reward;
            let call = Call { origin, kind, input: &input, items: items.len(), context: when };
            call.reduce(error, |origin, range| Self::new(origin)?.try_score(&items[range], context).map(drop))
        })
    }

    /// The same, without looking for the completion at fault where the call fails.
    pub fn try_score(&mut self, items: &[Item], context: &Context) -> Result<Vec<Score>, PluginError> {
        // A score does not depend on earlier calls: a run that is resumed has not made them.
        if self.is_used || self.live.is_dead() {
            self.live = start(self.live.origin())?;
        }
        self.is_used = true;
        let mut scores = self.live.call(|store, world, handle| {
            world.trainer_plugin_reward().scorer().call_score(store, handle, items, *context)
        })?;
        let cell = &self.live.cell;
        if scores.len() != items.len() {
            return Err(cell.bad_result(&format!("gave {} scores for {} completions", scores.len(), items.len())));
        }
        let broken = scores.iter().position(|score| score.value.is_some_and(|value| !value.is_finite()));
        if let Some(index) = broken {
            let value = scores[index].value.unwrap_or_default();
            let completion = one_line(&items[index].completion, 200);
            let error = cell.bad_result(&format!("gave the score {value}; a score is a finite number"));
            return Err(error.note(format!("the completion was `{completion}`")));
        }
        for note in scores.iter_mut().filter_map(|score| score.note.as_mut()) {
            cut(note, MESSAGE);
        }
        cell.rows(items.len());
        Ok(scores)
    }
}

fn start(origin: Origin) -> Result<Live<RewardPlugin>, PluginError> {
    Live::start(
        origin,
        |store, pre| RewardPluginPre::new(pre)?.instantiate(store),
        |store, world, config| world.trainer_plugin_reward().scorer().call_create(store, config),
    )
}
