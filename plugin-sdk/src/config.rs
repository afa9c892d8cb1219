//! A plugin's own config, and the errors that a plugin returns.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::bindings::shared::trainer::plugin::types::{ConfigError, PluginError, RowError};

/// Why a plugin cannot start, or why a whole call failed. One bad row is not a reason: that is a row's own error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The config that the user wrote for this plugin is wrong. The message points at the key.
    Config {
        /// Path into the config: `field`, `roles[1]`; empty for the config as a whole.
        path: String,
        /// What is wrong, in words for the user.
        message: String,
        /// What to write instead.
        help: Option<String>,
    },
    /// Anything else, in words for the user. A last line that starts with `help: ` says how to go on.
    Failed(String),
}

impl Error {
    /// A wrong config.
    pub fn config(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Config { path: path.into(), message: message.into(), help: None }
    }

    /// Anything else, and how to go on: one line that can be pasted, where possible.
    pub fn failed_with_help(message: impl std::fmt::Display, help: impl std::fmt::Display) -> Self {
        Self::Failed(format!("{message}\nhelp: {help}"))
    }

    /// A wrong config, and what to write instead.
    pub fn config_with_help(path: impl Into<String>, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Config { path: path.into(), message: message.into(), help: Some(help.into()) }
    }
}

impl From<String> for Error {
    fn from(message: String) -> Self {
        Self::Failed(message)
    }
}

impl From<&str> for Error {
    fn from(message: &str) -> Self {
        Self::Failed(message.to_owned())
    }
}

impl From<Error> for PluginError {
    fn from(error: Error) -> Self {
        match error {
            Error::Config { path, message, help } => Self::InvalidConfig(ConfigError { path, message, help }),
            Error::Failed(message) => Self::Failed(message),
        }
    }
}

/// The config of a plugin that has none: any key is an error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

/// Reads the user's config; what does not fit is told with its path.
pub(crate) fn read<T: DeserializeOwned>(json: &str) -> Result<T, Error> {
    let json = if json.trim().is_empty() { "{}" } else { json };
    let mut deserializer = serde_json::Deserializer::from_str(json);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let message = error.inner().to_string();
        let message = without_position(&message);
        let path = if path == "." { unknown_field(&message).unwrap_or_default() } else { path };
        Error::Config { path, message, help: None }
    })
}

/// Reads a row, a JSON object; what does not fit is told with its column.
pub(crate) fn read_row<T: DeserializeOwned>(row: &str) -> Result<T, RowError> {
    serde_json::from_str(row).map_err(|error| {
        let message = without_position(&error.to_string());
        let field = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()).map(str::to_owned);
        RowError { message, field }
    })
}

/// A message of serde_json without line and column: the JSON is one line that the user never saw, they would mislead.
pub(crate) fn without_position(message: &str) -> String {
    message.split(" at line ").next().unwrap_or_default().to_owned()
}

/// serde tells an unknown field only in words.
fn unknown_field(message: &str) -> Option<String> {
    Some(message.strip_prefix("unknown field `")?.split('`').next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Config {
        field: String,
        roles: Vec<u32>,
    }

    fn wrong(json: &str) -> (String, String) {
        match read::<Config>(json) {
            Err(Error::Config { path, message, .. }) => (path, message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn wrong_configs_are_told_with_their_path() {
        assert_eq!(read::<Config>("").unwrap(), Config::default());
        assert_eq!(
            wrong(r#"{"roles": [1, "x"]}"#),
            ("roles[1]".into(), "invalid type: string \"x\", expected u32".into())
        );
        let (path, message) = wrong(r#"{"felid": "x"}"#);
        assert_eq!(path, "felid");
        assert!(message.starts_with("unknown field `felid`, expected"), "{message}");
        assert!(read::<NoConfig>(r#"{"a": 1}"#).is_err());
    }
}
