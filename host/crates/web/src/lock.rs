//! One program at a time.

use std::fs::{File, OpenOptions};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// Waits for the lock of a file, which is made where it is missing, and holds it until the file is dropped.
///
/// # Errors
/// Where the file cannot be opened or locked.
pub fn lock(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}
