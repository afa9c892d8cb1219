//! Prompt strategies: a row in, what the model reads and what it learns to write out (`datasets[].type`).

use serde::de::DeserializeOwned;

use crate::bindings::shared::trainer::plugin::types::PluginError;
pub use crate::bindings::shared::trainer::plugin::types::{Conversation, Message, RowError, Segment, Text, TrainSpan};
use crate::bindings::strategy::exports::trainer::plugin::prompt_strategy as wit;
pub use crate::bindings::strategy::exports::trainer::plugin::prompt_strategy::{
    Preference, Sample, Step, Stepwise, Unpaired,
};
use crate::{Error, config, log};

/// A prompt strategy. Register it with [`register_prompt_strategy!`](crate::register_prompt_strategy).
pub trait PromptStrategy: Sized + 'static {
    /// The user's config for it. [`NoConfig`](crate::NoConfig) if there is none.
    type Config: DeserializeOwned;
    /// A row: a struct of the columns that it needs, or `serde_json::Map<String, Value>` for any.
    type Row: DeserializeOwned;

    /// Starts with a config.
    ///
    /// # Errors
    /// [`Error::Config`] for a config that cannot work.
    fn new(config: Self::Config) -> Result<Self, Error>;

    /// What one row becomes; none leaves it out on purpose.
    ///
    /// # Errors
    /// What is wrong with this row, in words for the user.
    fn render(&self, row: Self::Row) -> Result<Option<Sample>, RowError>;

    /// What these rows (JSON objects) become: one result a row, in order. Only for strategies that gain from seeing many
    /// rows at once, or from reading few columns ([`columns`](crate::row::columns)); by default each is read and rendered
    /// on its own ([`render_row`]).
    ///
    /// # Errors
    /// Ends the run. One bad row is no reason: that is the row's own error.
    fn render_all(&self, rows: &[String]) -> Result<Vec<Result<Option<Sample>, RowError>>, Error> {
        Ok(rows.iter().map(|row| render_row(self, row)).collect())
    }
}

/// A piece of text that the model reads.
pub fn read(text: impl Into<String>) -> Segment {
    Segment { text: text.into(), train: false, weight: None }
}

/// A piece of text that the model learns to write.
pub fn learn(text: impl Into<String>) -> Segment {
    Segment { text: text.into(), train: true, weight: None }
}

/// A mark between two pieces of text that are tokenized apart, as a prompt and its answer are when the model is used; at the
/// start or the end of a text: no special token there.
pub fn apart() -> Segment {
    Segment { text: String::new(), train: false, weight: Some(0.0) }
}

/// The end-of-text token, which is learned, wherever it stands. What follows is tokenized apart from what is before it.
pub fn end_of_text() -> Segment {
    Segment { text: String::new(), train: true, weight: Some(0.0) }
}

/// A row error about one column.
pub fn bad_field(field: &str, message: impl Into<String>) -> RowError {
    RowError { message: message.into(), field: Some(field.to_owned()) }
}

/// Connects the trait with the world; used by the macro.
#[doc(hidden)]
#[derive(Debug)]
pub struct Adapter<T>(T);

impl<T: PromptStrategy> wit::Guest for Adapter<T> {
    type Strategy = Self;
}

impl<T: PromptStrategy> wit::GuestStrategy for Adapter<T> {
    fn create(config_json: String) -> Result<wit::Strategy, PluginError> {
        log::report_panics();
        let strategy = config::read(&config_json).and_then(T::new).map_err(PluginError::from)?;
        Ok(wit::Strategy::new(Self(strategy)))
    }

    fn render(&self, rows: Vec<String>) -> Result<Vec<Result<Option<Sample>, RowError>>, PluginError> {
        self.0.render_all(&rows).map_err(PluginError::from)
    }
}

/// Reads a row (a JSON object) and renders it.
///
/// # Errors
/// A row that does not fit the strategy's `Row`, or what its `render` says.
pub fn render_row<T: PromptStrategy>(strategy: &T, row: &str) -> Result<Option<Sample>, RowError> {
    strategy.render(config::read_row(row)?)
}

/// Makes this crate a prompt-strategy plugin:
/// `register_prompt_strategy!(Dialogue, name: "acme:dialogue", description: "Dialogues of our call centre");`
#[macro_export]
macro_rules! register_prompt_strategy {
    ($type:ty, $($manifest:tt)*) => {
        $crate::__manifest!("prompt-strategy", $($manifest)*);
        #[cfg(target_family = "wasm")]
        const _: () = {
            type Plugin = $crate::strategy::Adapter<$type>;
            $crate::bindings::strategy::export_prompt_strategy!(Plugin with_types_in $crate::bindings::strategy);
        };
    };
}
