//! Small files of users, read whole.

use std::io::{Error, ErrorKind, Read as _, Result};
use std::path::Path;

/// The text of a file of at most `limit` bytes.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("it has more than {} KiB", limit >> 10)));
    }
    Ok(text)
}
