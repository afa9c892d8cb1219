//! The one shape of a message to the user: what, where, why and how to go on, as text with a caret or as one line of JSON.
//!
//! Rooms return facts (their own error enums) and keep the words for them beside the enum, as a conversion into a
//! [`Diagnostic`]; only `main` prints one. Everything here is escaped when it is shown, so text from a config, a data file
//! or a plugin cannot forge terminal output.

mod convert;
mod render;

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

pub(crate) use self::convert::fails_as_diagnostic;
pub use self::render::{escape, escape_line};

/// How bad it is. Ordered: an error is greater than a warning, a warning greater than a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know; nothing needs to change.
    Note,
    /// Probably not what the user wants; the command goes on.
    Warning,
    /// The command cannot do what was asked.
    Error,
}

impl Severity {
    /// The word that messages and JSON use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Where something stands in a file, or in an argument of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file as the user named it.
    pub file: PathBuf,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// Characters that the caret covers; 0 counts as 1.
    pub len: usize,
    /// Config path (`datasets[0].path`) of the value, where the file is a config.
    pub key_path: Option<String>,
    /// Text of the line, without its line break. None: shown without a snippet.
    pub source_line: Option<String>,
}

impl Place {
    /// A place without a snippet, one character long.
    pub fn new(file: impl Into<PathBuf>, line: usize, column: usize) -> Self {
        Self { file: file.into(), line, column, len: 1, key_path: None, source_line: None }
    }

    /// A place in `text`, the content of `file`, with the line shown.
    pub fn in_text(file: &Path, text: &str, line: usize, column: usize, len: usize) -> Self {
        let source_line = text.lines().nth(line.saturating_sub(1)).map(str::to_owned);
        Self { file: file.to_owned(), line, column, len, key_path: None, source_line }
    }

    /// How many characters the caret covers.
    #[must_use]
    pub fn len(mut self, len: usize) -> Self {
        self.len = len;
        self
    }

    /// The config path that stands here.
    #[must_use]
    pub fn key_path(mut self, path: impl Into<String>) -> Self {
        self.key_path = Some(path.into());
        self
    }

    /// The text of the line.
    #[must_use]
    pub fn source_line(mut self, line: impl Into<String>) -> Self {
        self.source_line = Some(line.into());
        self
    }
}

/// An edit of the config file that mends what a message is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Put a value at a config path.
    Set {
        /// The path (`gradient_checkpointing_kwargs.use_reentrant`).
        path: String,
        /// The value, as YAML.
        value: String,
    },
    /// Delete what stands at a config path.
    Remove {
        /// The path.
        path: String,
    },
    /// Give the key at a config path another name.
    Rename {
        /// The path, with the old name.
        path: String,
        /// The new name alone.
        to: String,
    },
}

impl Edit {
    /// The config path that it changes.
    pub fn path(&self) -> &str {
        let (Self::Set { path, .. } | Self::Remove { path } | Self::Rename { path, .. }) = self;
        path
    }

    /// The edit as a program reads it: `{"set": PATH, "to": YAML}`, `{"remove": PATH}`, `{"rename": PATH, "to": NAME}`.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Set { path, value } => json!({"set": path, "to": value}),
            Self::Remove { path } => json!({"remove": path}),
            Self::Rename { path, to } => json!({"rename": path, "to": to}),
        }
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set { path, value } => write!(formatter, "set {path}: {value}"),
            Self::Remove { path } => write!(formatter, "remove {path}"),
            Self::Rename { path, to } => write!(formatter, "rename {path} to {to}"),
        }
    }
}

/// One message to the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// `room::name`, stable: `config::unknown-key`, `rule::G1`.
    pub code: String,
    /// How bad it is.
    pub severity: Severity,
    /// What happened, one line, lower-case first letter, values in backticks.
    pub message: String,
    /// Where.
    pub place: Option<Place>,
    /// Other places that have to do with it, each with a few words.
    pub related: Vec<(Place, String)>,
    /// Why it is wrong.
    pub why: Option<String>,
    /// How to go on; something that can be pasted, where possible.
    pub help: Option<String>,
    /// Edits of the config that mend it, all of them together, where that is certain.
    pub fix: Vec<Edit>,
    /// Anything else worth knowing (whether something was lost).
    pub notes: Vec<String>,
    /// The plugin that it comes from.
    pub plugin: Option<String>,
    /// The plugin's call that failed, until the command has kept it (`author::replay`).
    pub failed_call: Option<Box<plugin_runtime::FailedCall>>,
}

impl Diagnostic {
    /// A message of any severity.
    pub fn new(severity: Severity, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            severity,
            message: message.into(),
            place: None,
            related: Vec::new(),
            why: None,
            help: None,
            fix: Vec::new(),
            notes: Vec::new(),
            plugin: None,
            failed_call: None,
        }
    }

    /// An error: the command cannot do what was asked.
    pub fn error(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, message)
    }

    /// A warning: the command goes on.
    pub fn warning(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, message)
    }

    /// Where it is.
    #[must_use]
    pub fn at(mut self, place: impl Into<Option<Place>>) -> Self {
        self.place = place.into();
        self
    }

    /// Another place that has to do with it.
    #[must_use]
    pub fn related(mut self, place: Place, words: impl Into<String>) -> Self {
        self.related.push((place, words.into()));
        self
    }

    /// Why it is wrong.
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

    /// An edit that mends it, if there is a certain one.
    #[must_use]
    pub fn fix(mut self, edit: impl Into<Option<Edit>>) -> Self {
        self.fix.extend(edit.into());
        self
    }

    /// Anything else worth knowing.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// The plugin that it comes from.
    #[must_use]
    pub fn plugin(mut self, plugin: impl Into<String>) -> Self {
        self.plugin = Some(plugin.into());
        self
    }

    /// The message as a program reads it: one object, `event: diagnostic`, `v: 1`.
    pub fn to_json(&self) -> Value {
        let mut object = json!({
            "event": "diagnostic",
            "v": 1,
            "code": self.code,
            "severity": self.severity.name(),
            "message": self.message,
            "file": self.place.as_ref().map(|place| place.file.display().to_string()),
            "line": self.place.as_ref().map(|place| place.line),
            "column": self.place.as_ref().map(|place| place.column),
            "why": self.why,
            "help": self.help,
            "plugin": self.plugin,
        });
        if let Some(path) = self.place.as_ref().and_then(|place| place.key_path.as_ref()) {
            object["key"] = json!(path);
        }
        if !self.related.is_empty() {
            let related = self.related.iter().map(|(place, words)| {
                json!({"message": words, "file": place.file.display().to_string(), "line": place.line, "column": place.column})
            });
            object["related"] = related.collect();
        }
        if !self.fix.is_empty() {
            object["fix"] = self.fix.iter().map(Edit::to_json).collect();
        }
        if !self.notes.is_empty() {
            object["notes"] = json!(self.notes);
        }
        object
    }
}

/// Why a command did not do what was asked: at least one diagnostic, all that are known, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failure(pub Vec<Diagnostic>);

impl Failure {
    /// `Err` with `diagnostics` where one of them is an error, `Ok` with them (warnings and notes) otherwise.
    pub fn check(diagnostics: Vec<Diagnostic>) -> Result<Vec<Diagnostic>, Self> {
        if diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
            Err(Self(diagnostics))
        } else {
            Ok(diagnostics)
        }
    }
}

/// The status that the process ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// What was asked is done.
    Done = 0,
    /// Something that the user can mend.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// A bug of ours.
    Bug = 101,
    /// Stopped by SIGHUP, with the state saved.
    HungUp = 129,
    /// Stopped by SIGINT, with the state saved.
    Interrupted = 130,
    /// Stopped by SIGTERM, with the state saved.
    Terminated = 143,
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status as u8)
    }
}
