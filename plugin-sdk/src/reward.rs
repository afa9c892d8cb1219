//! Rewards: completions in, scores out (`eval_reward_funcs`).

use std::cell::RefCell;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::bindings::reward::exports::trainer::plugin::reward as wit;
pub use crate::bindings::reward::exports::trainer::plugin::reward::{Context, Item, Score};
use crate::bindings::shared::trainer::plugin::types::PluginError;
use crate::{Error, config, log};

/// A reward. Register it with [`register_reward!`](crate::register_reward).
pub trait Reward: Sized + 'static {
    /// The user's config for it. [`NoConfig`](crate::NoConfig) if there is none.
    type Config: DeserializeOwned;

    /// Starts with a config.
    ///
    /// # Errors
    /// [`Error::Config`] for a config that cannot work.
    fn new(config: Self::Config) -> Result<Self, Error>;

    /// Scores one completion. [`value`] makes a score, [`does_not_apply`] none.
    ///
    /// # Errors
    /// An error ends the run: a completion that cannot be judged is better given a low score.
    fn score(&mut self, item: &Item, context: &Context) -> Result<Score, Error>;

    /// Scores completions that were generated together: one score each, in order.
    ///
    /// # Errors
    /// As for [`score`](Self::score).
    fn score_all(&mut self, items: &[Item], context: &Context) -> Result<Vec<Score>, Error> {
        items.iter().map(|item| self.score(item, context)).collect()
    }
}

/// A score; it must be finite.
pub fn value(value: f64) -> Score {
    Score { value: Some(value), note: None }
}

/// A score with a few words for a person who reads the samples.
pub fn value_because(value: f64, note: impl Into<String>) -> Score {
    Score { value: Some(value), note: Some(note.into()) }
}

/// No score: this reward says nothing about this item.
pub fn does_not_apply() -> Score {
    Score { value: None, note: None }
}

/// What a completion is held against: a column of the row, or without one what training would have learned from it. A value
/// that is no text comes as JSON. None where there is nothing but space.
///
/// # Errors
/// A row that is not a JSON object.
pub fn reference(item: &Item, column: Option<&str>) -> Result<Option<String>, Error> {
    let Some(column) = column else {
        return Ok((!item.reference.trim().is_empty()).then(|| item.reference.clone()));
    };
    let mut row: Map<String, Value> = serde_json::from_str(&item.row_json)
        .map_err(|error| Error::Failed(format!("the row is not an object: {error}")))?;
    Ok(match row.remove(column) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => (!text.trim().is_empty()).then_some(text),
        Some(other) => Some(other.to_string()),
    })
}

/// Connects the trait with the world; used by the macro.
#[doc(hidden)]
#[derive(Debug)]
pub struct Adapter<T>(RefCell<T>);

impl<T: Reward> wit::Guest for Adapter<T> {
    type Scorer = Self;
}

impl<T: Reward> wit::GuestScorer for Adapter<T> {
    fn create(config_json: String) -> Result<wit::Scorer, PluginError> {
        log::report_panics();
        let reward = config::read(&config_json).and_then(T::new).map_err(PluginError::from)?;
        Ok(wit::Scorer::new(Self(RefCell::new(reward))))
    }

    fn score(&self, items: Vec<Item>, context: Context) -> Result<Vec<Score>, PluginError> {
        self.0.borrow_mut().score_all(&items, &context).map_err(PluginError::from)
    }
}

/// Makes this crate a reward plugin: `register_reward!(Style, name: "acme:style", description: "Short answers score more");`
#[macro_export]
macro_rules! register_reward {
    ($type:ty, $($manifest:tt)*) => {
        $crate::__manifest!("reward", $($manifest)*);
        #[cfg(target_family = "wasm")]
        const _: () = {
            type Plugin = $crate::reward::Adapter<$type>;
            $crate::bindings::reward::export_reward!(Plugin with_types_in $crate::bindings::reward);
        };
    };
}
