//! What can go wrong with state on disk, and the words for it.

use std::path::PathBuf;

use crate::diagnostic::{Diagnostic, fails_as_diagnostic};

/// What went wrong with state on disk.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file or directory could not be written. What was complete before is untouched.
    #[error("cannot write `{path}`: {source}")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file or directory could not be read.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The directory is not a checkpoint, or not a whole one.
    #[error("`{path}` is not a complete checkpoint: {reason}")]
    Incomplete {
        /// The directory.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// The bytes are not those that were saved.
    #[error("`{path}` is corrupt: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// The checkpoint belongs to another run: each difference in words.
    #[error("`{path}` belongs to another run")]
    Mismatch {
        /// The directory.
        path: PathBuf,
        /// `key: now …, then …`.
        differences: Vec<String>,
    },
}

fails_as_diagnostic!(CheckpointError);

impl From<CheckpointError> for Diagnostic {
    fn from(error: CheckpointError) -> Self {
        match &error {
            CheckpointError::Write { source, .. } => {
                Self::error("checkpoint::write", error.to_string()).written(source)
            }
            CheckpointError::Read { .. } => Self::error("checkpoint::unreadable", error.to_string()),
            CheckpointError::Incomplete { .. } => Self::error("checkpoint::incomplete", error.to_string()).help(
                "name a `checkpoint-N` directory of an earlier run, or `--resume auto` for the newest complete one",
            ),
            CheckpointError::Corrupt { .. } => Self::error("checkpoint::corrupt", error.to_string())
                .help("resume from an older checkpoint: `--resume DIR`"),
            CheckpointError::Mismatch { differences, .. } => Self::error("checkpoint::mismatch", error.to_string())
                .why(differences.join("\n"))
                .help("use the config of that run, or another `output_dir` for a new one"),
        }
    }
}
