//! State on disk: checkpoints that are complete or absent, and the finished model as Hugging Face files.
//! This is the only room of a run that renames files into place.

pub mod directory;
mod error;
pub mod export;
pub mod load;
pub mod owned;
pub mod retention;
pub mod save;
mod tokenizer_files;

use std::path::{Path, PathBuf};

pub use self::error::CheckpointError;

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
