//! Small files of a model directory, read whole and within limits. A model may come from a stranger: a pipe in the place
//! of a file must not hang the reader, nor an endless one fill the memory.

use std::fs::File;
use std::io::{Error, ErrorKind, Read as _, Result};
use std::path::Path;

/// Bytes that a JSON file beside the weights may have. `config.json` has a few thousand; an index of shards of a large
/// model, some millions.
pub const JSON_BYTES: u64 = 64 << 20;

/// The bytes of a regular file of at most `limit`.
///
/// # Errors
/// What the system says; [`ErrorKind::InvalidInput`] for what is no regular file, [`ErrorKind::FileTooLarge`] for one
/// that is larger.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    // Looked at before it is opened: opening a pipe that nobody writes to waits for ever.
    if !std::fs::metadata(path)?.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// The same, and nothing where there is no such file.
///
/// # Errors
/// As [`read`].
pub fn read_if_there(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    match read(path, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_small_regular_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        assert_eq!(read(&path, 4).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(read_if_there(&path, 4).unwrap(), None);
        std::fs::write(&path, "1234").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"1234");
        assert_eq!(read(&path, 3).unwrap_err().to_string(), "it has more than 3 bytes");
        assert_eq!(read(directory.path(), 3).unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        assert_eq!(read(&path, 4).unwrap_err().to_string(), "it is not a regular file");
    }
}
