//! Environments: programs that the model talks to over several turns, and that reward it (`environment`).

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::environment::exports::trainer::plugin::environment as wit;
pub use crate::bindings::environment::exports::trainer::plugin::environment::Context;
use crate::bindings::shared::trainer::plugin::types::PluginError;
pub use crate::bindings::shared::trainer::plugin::types::{Message, RowError};
use crate::{Error, config, log};

/// An environment. Register it with [`register_environment!`](crate::register_environment).
///
/// An instance sees many episodes, and other calls see them in other instances: what an episode depends on is its state.
pub trait Environment: Sized + 'static {
    /// The user's config for it. [`NoConfig`](crate::NoConfig) if there is none.
    type Config: DeserializeOwned;
    /// A row: a struct of the columns that it needs, or `serde_json::Map<String, Value>` for any.
    type Row: DeserializeOwned;
    /// What it needs to know of an episode between two turns; 64 KiB at most as JSON.
    type State: Serialize + DeserializeOwned;

    /// Starts with a config.
    ///
    /// # Errors
    /// [`Error::Config`] for a config that cannot work.
    fn new(config: Self::Config) -> Result<Self, Error>;

    /// How an episode about a row opens. The same row and context must give the same opening.
    ///
    /// # Errors
    /// What is wrong with this row, in words for the user. It ends the run.
    fn reset(&self, row: Self::Row, context: &Context) -> Result<Start<Self::State>, RowError>;

    /// The answer to a turn: [`go_on`] or [`end`]. The same state, turn and context must give the same answer.
    ///
    /// # Errors
    /// An error ends the run: nonsense that the model writes is better given a low reward.
    fn step(&self, state: Self::State, turn: &Turn, context: &Context) -> Result<Outcome<Self::State>, Error>;
}

/// How an episode opens.
#[derive(Debug, Clone, PartialEq)]
pub struct Start<S> {
    /// What the model reads before its first turn; at least one message.
    pub messages: Vec<Message>,
    /// Tool definitions for the chat template, as a JSON array.
    pub tools_json: Option<String>,
    /// For the first turn.
    pub state: S,
}

/// What the model wrote in a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The text, special tokens removed.
    pub completion: String,
    /// Its tokens.
    pub completion_tokens: u32,
    /// True: ended by a stop token. False: cut by the length limit.
    pub finished: bool,
    /// Turns of the episode so far, this one counted.
    pub number: u32,
    /// Turns that the episode has at most. After the last one, the answer's messages are not read.
    pub max_turns: u32,
}

impl Turn {
    /// A finished turn, the first of eight: for tests.
    pub fn of(completion: impl Into<String>) -> Self {
        let completion = completion.into();
        let completion_tokens = u32::try_from(completion.split_whitespace().count()).unwrap_or(u32::MAX);
        Self { completion, completion_tokens, finished: true, number: 1, max_turns: 8 }
    }

    /// There is no turn after this one.
    pub fn is_last(&self) -> bool {
        self.number >= self.max_turns
    }
}

/// The answer to a turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome<S> {
    /// For the next turn; none ends the episode.
    pub state: Option<S>,
    /// What the model reads before its next turn.
    pub messages: Vec<Message>,
    /// What the turn is worth, finite; the rewards of an episode are added up.
    pub reward: Option<f64>,
    /// Why, for a person who reads the samples.
    pub note: Option<String>,
}

impl<S> Outcome<S> {
    /// The same with a reward for the turn.
    #[must_use]
    pub fn reward(self, reward: f64) -> Self {
        Self { reward: Some(reward), ..self }
    }

    /// The same with a few words for a person who reads the samples.
    #[must_use]
    pub fn because(self, note: impl Into<String>) -> Self {
        Self { note: Some(note.into()), ..self }
    }
}

/// An opening without tools.
pub fn start<S>(messages: impl Into<Vec<Message>>, state: S) -> Start<S> {
    Start { messages: messages.into(), tools_json: None, state }
}

/// The episode goes on with these messages.
pub fn go_on<S>(state: S, messages: impl Into<Vec<Message>>) -> Outcome<S> {
    Outcome { state: Some(state), messages: messages.into(), reward: None, note: None }
}

/// The episode is over, and this is what its last turn is worth.
pub fn end<S>(reward: f64) -> Outcome<S> {
    Outcome { state: None, messages: Vec::new(), reward: Some(reward), note: None }
}

/// A message by its role: `system`, `user`, `tool`, or what the model's template knows.
pub fn message(role: &str, content: impl Into<String>) -> Message {
    Message { role: role.to_owned(), content: content.into(), train: None, spans: Vec::new(), extra_json: None }
}

/// A message of the user.
pub fn user(content: impl Into<String>) -> Message {
    message("user", content)
}

/// Connects the trait with the world; used by the macro.
#[doc(hidden)]
#[derive(Debug)]
pub struct Adapter<T>(T);

impl<T: Environment> Adapter<T> {
    fn open(&self, row: &str, context: &Context) -> Result<wit::Start, RowError> {
        let Start { messages, tools_json, state } = self.0.reset(config::read_row(row)?, context)?;
        let state = to_bytes(&state).map_err(|error| RowError { message: error, field: None })?;
        Ok(wit::Start { messages, tools_json, state })
    }

    fn answer(&self, turn: wit::Turn, context: &Context) -> Result<wit::Outcome, Error> {
        let wit::Turn { state, completion, completion_tokens, finished, number, max_turns } = turn;
        let state = serde_json::from_slice(&state).map_err(|error| format!("its own state cannot be read: {error}"))?;
        let turn = Turn { completion, completion_tokens, finished, number, max_turns };
        let Outcome { state, messages, reward, note } = self.0.step(state, &turn, context)?;
        let done = state.is_none();
        let state = state.map_or_else(|| Ok(Vec::new()), |state| to_bytes(&state))?;
        Ok(wit::Outcome { state, messages, reward, done, note })
    }
}

fn to_bytes(state: &impl Serialize) -> Result<Vec<u8>, String> {
    serde_json::to_vec(state).map_err(|error| format!("its own state cannot be written: {error}"))
}

impl<T: Environment> wit::Guest for Adapter<T> {
    type Episodes = Self;
}

impl<T: Environment> wit::GuestEpisodes for Adapter<T> {
    fn create(config_json: String) -> Result<wit::Episodes, PluginError> {
        log::report_panics();
        let environment = config::read(&config_json).and_then(T::new).map_err(PluginError::from)?;
        Ok(wit::Episodes::new(Self(environment)))
    }

    fn reset(&self, rows: Vec<String>, context: Context) -> Result<Vec<Result<wit::Start, RowError>>, PluginError> {
        Ok(rows.iter().map(|row| self.open(row, &context)).collect())
    }

    fn step(&self, turns: Vec<wit::Turn>, context: Context) -> Result<Vec<wit::Outcome>, PluginError> {
        turns.into_iter().map(|turn| self.answer(turn, &context).map_err(PluginError::from)).collect()
    }
}

/// Makes this crate an environment plugin:
/// `register_environment!(Shop, name: "acme:shop", description: "Orders that the model takes over several turns");`
#[macro_export]
macro_rules! register_environment {
    ($type:ty, $($manifest:tt)*) => {
        $crate::__manifest!("environment", $($manifest)*);
        #[cfg(target_family = "wasm")]
        const _: () = {
            type Plugin = $crate::environment::Adapter<$type>;
            $crate::bindings::environment::export_environment!(Plugin with_types_in $crate::bindings::environment);
        };
    };
}
