//! What can go wrong with a plugin, in words for the user.

use std::fmt;

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
    /// Anything else: what the plugin printed, where it was.
    pub notes: Vec<String>,
}

impl PluginError {
    /// An error with a code and a message.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, plugin: None, message, why: None, help: None, config_path: None, notes: Vec::new() }
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

/// Text from a guest as one safe line: control characters and direction marks become spaces, and it is cut at `limit`
/// characters.
pub(crate) fn one_line(text: &str, limit: usize) -> String {
    let mut out = String::new();
    for (count, character) in text.trim().chars().enumerate() {
        if count == limit {
            out.push('…');
            break;
        }
        let hides = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        out.push(if character.is_control() || hides { ' ' } else { character });
    }
    out
}
