//! State on disk: checkpoints that are complete or absent, and the finished model as Hugging Face files.
//! This is the only room of a run that renames files into place.

pub mod directory;
pub mod export;
pub mod load;
pub mod owned;
pub mod retention;
pub mod save;
mod tokenizer_files;

use std::path::{Path, PathBuf};

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

/// The step of a directory named `checkpoint-N`.
pub fn step_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse().ok()
}

/// Checkpoints under `output_dir` by step, the oldest first; complete or not.
pub fn list(output_dir: &Path) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
    let read = |source| CheckpointError::Read { path: output_dir.to_owned(), source };
    let entries = match std::fs::read_dir(output_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(read(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(read)?.path();
        if let (Some(step), true) = (step_of(&path), path.is_dir()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}
