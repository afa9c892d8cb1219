//! What can go wrong with a plugin, in words for the user.

use std::fmt;

use serde_json::Value;

use crate::kind::Kind;

/// Why a plugin cannot be used, or why a call of it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginError {
    /// `plugin::trap`, `plugin::limit`, `plugin::unknown` and so on; stable.
    pub code: &'static str,
    /// The plugin, where one is known.
    pub plugin: Option<String>,
    /// What happened, one line.
    pub message: String,
    /// Why.
    pub why: Option<String>,
    /// How to go on.
    pub help: Option<String>,
    /// A path into the plugin's own config that it is about (`field`, `roles[1]`; empty: the config as a whole).
    pub config_path: Option<String>,
    /// It is about the key at the end of that path, not about its value.
    pub is_key: bool,
    /// A call of it took longer than it may.
    pub timed_out: bool,
    /// Anything else: what the plugin printed, where it was.
    pub notes: Vec<String>,
    /// The call that failed, as small as it could be made: enough to make it again.
    pub failed: Option<Box<FailedCall>>,
}

/// A call that trapped, went past a limit, or gave what it must not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedCall {
    /// The plugin.
    pub plugin: String,
    /// What it is for.
    pub kind: Kind,
    /// Its config, as JSON.
    pub config_json: String,
    /// The function: `render`, `score`, `judge`.
    pub call: &'static str,
    /// What it was given, as far as it takes that to fail.
    pub input: Vec<Value>,
    /// When it was called, for rewards.
    pub context: Option<Value>,
    /// Which of the rows or items it takes to fail.
    pub cause: Cause,
    /// Rows or items of the call.
    pub items: usize,
    /// What a person finds the row by, where the caller knows that.
    pub position: Option<String>,
}

/// Which rows or items of a call it takes to fail, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// This one alone.
    Alone(usize),
    /// This one after all those before it.
    After(usize),
    /// The same call ended well when it was made again.
    Gone,
    /// There was no time to find it.
    Unknown,
}

impl PluginError {
    /// An error with a code and a message.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            code,
            plugin: None,
            message,
            why: None,
            help: None,
            config_path: None,
            is_key: false,
            timed_out: false,
            notes: Vec::new(),
            failed: None,
        }
    }

    /// The plugin it is about.
    #[must_use]
    pub fn plugin(mut self, plugin: impl Into<String>) -> Self {
        self.plugin = Some(plugin.into());
        self
    }

    /// Why.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// How to go on.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Names the row that a failed call was reduced to, by what a person finds it by.
    #[must_use]
    pub fn at_row<T: AsRef<str>>(mut self, positions: &[T]) -> Self {
        if let Some(failed) = &mut self.failed
            && let Cause::Alone(item) | Cause::After(item) = failed.cause
        {
            failed.position = positions.get(item).map(|position| position.as_ref().to_owned());
        }
        self
    }

    /// Anything else.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(why) = &self.why {
            write!(f, ": {why}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PluginError {}

/// True for what does not show as itself: control characters, line separators, direction marks, characters without a width
/// and tags. They can steer a terminal, or make a text read as another one.
pub fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{115f}'
                | '\u{1160}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// Text from a guest, cut at `limit` characters.
pub(crate) fn cut(text: &mut String, limit: usize) {
    if let Some((at, _)) = text.char_indices().nth(limit) {
        text.truncate(at);
        text.push('…');
    }
}

/// Text from a guest as one safe line: what does not show as itself becomes a space, and it is cut at `limit` characters.
pub(crate) fn one_line(text: &str, limit: usize) -> String {
    let mut out = String::new();
    for (count, character) in text.trim().chars().enumerate() {
        if count == limit {
            out.push('…');
            break;
        }
        out.push(if is_hidden(character) { ' ' } else { character });
    }
    out
}
