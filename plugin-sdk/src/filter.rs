//! Row filters: which rows are trained on, and how good each is (`row_filters`).

use std::cell::RefCell;

use serde::de::DeserializeOwned;

use crate::bindings::filter::exports::trainer::plugin::row_filter as wit;
pub use crate::bindings::filter::exports::trainer::plugin::row_filter::Verdict;
use crate::bindings::shared::trainer::plugin::types::PluginError;
use crate::{Error, config, log};

/// A row filter. Register it with [`register_row_filter!`](crate::register_row_filter).
pub trait RowFilter: Sized + 'static {
    /// The user's config for it. [`NoConfig`](crate::NoConfig) if there is none.
    type Config: DeserializeOwned;
    /// A row: a struct of the columns that it needs, or `serde_json::Map<String, Value>` for any. A row that does not fit
    /// is left out, with what it lacks as the reason.
    type Row: DeserializeOwned;

    /// Starts with a config.
    ///
    /// # Errors
    /// [`Error::Config`] for a config that cannot work.
    fn new(config: Self::Config) -> Result<Self, Error>;

    /// Judges one row. Rows of one dataset come in their order, so a row may be compared with earlier ones.
    fn judge(&mut self, row: Self::Row) -> Verdict;

    /// Judges rows (JSON objects): one verdict each, in order. Only for filters that gain from seeing many rows at once;
    /// where a batch ends must not matter.
    ///
    /// # Errors
    /// Ends the run. One bad row is no reason: leave it out.
    fn judge_all(&mut self, rows: &[String]) -> Result<Vec<Verdict>, Error> {
        Ok(rows.iter().map(|row| judge(self, row)).collect())
    }
}

/// The row is trained on.
pub fn keep() -> Verdict {
    Verdict { keep: true, score: None, reason: None }
}

/// The row is trained on unless the config's `min_score` is above its score; a score is finite, and more is better.
pub fn keep_with(score: f64) -> Verdict {
    Verdict { keep: true, score: Some(score), reason: None }
}

/// The row is left out. Rows are counted by the reason, so it does not quote the row.
pub fn drop_because(reason: impl Into<String>) -> Verdict {
    Verdict { keep: false, score: None, reason: Some(reason.into()) }
}

fn judge<T: RowFilter>(filter: &mut T, row: &str) -> Verdict {
    match serde_json::from_str(row) {
        Ok(row) => filter.judge(row),
        Err(error) => drop_because(config::without_position(&error.to_string())),
    }
}

/// Connects the trait with the world; used by the macro.
#[doc(hidden)]
#[derive(Debug)]
pub struct Adapter<T>(RefCell<T>);

impl<T: RowFilter> wit::Guest for Adapter<T> {
    type Filter = Self;
}

impl<T: RowFilter> wit::GuestFilter for Adapter<T> {
    fn create(config_json: String) -> Result<wit::Filter, PluginError> {
        log::report_panics();
        let filter = config::read(&config_json).and_then(T::new).map_err(PluginError::from)?;
        Ok(wit::Filter::new(Self(RefCell::new(filter))))
    }

    fn judge(&self, rows: Vec<String>) -> Result<Vec<Verdict>, PluginError> {
        self.0.borrow_mut().judge_all(&rows).map_err(PluginError::from)
    }
}

/// Makes this crate a row-filter plugin:
/// `register_row_filter!(Polite, name: "acme:polite", description: "Leaves rude answers out");`
#[macro_export]
macro_rules! register_row_filter {
    ($type:ty, $($manifest:tt)*) => {
        $crate::__manifest!("row-filter", $($manifest)*);
        #[cfg(target_family = "wasm")]
        const _: () = {
            type Plugin = $crate::filter::Adapter<$type>;
            $crate::bindings::filter::export_row_filter!(Plugin with_types_in $crate::bindings::filter);
        };
    };
}
