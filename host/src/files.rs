//! Small files of users, read whole.

use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// The text of a file of at most `limit` bytes.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    text_of(std::fs::File::open(path)?, limit)
}

/// The same of anything that can be read.
pub fn text_of(reader: impl Read, limit: u64) -> Result<String> {
    let mut text = String::new();
    reader.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("it has more than {} KiB", limit >> 10)));
    }
    Ok(text)
}
