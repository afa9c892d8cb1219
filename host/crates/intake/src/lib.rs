//! The one way to open what a user or a stranger names.
//!
//! A file is opened without waiting (a pipe that nobody writes to would wait for ever), then asked what it is: only a
//! regular file is read, and only up to a limit. A file of a model is opened inside of the model's directory: a link that
//! leads out of it is not followed ([`open_inside`]).

use std::fs::{File, Metadata, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptionsExt as _};

/// Bytes that a JSON file beside the weights may have. `config.json` has a few thousand; an index of shards of a large
/// model, some millions.
pub const JSON_BYTES: u64 = 64 << 20;

/// Opens a regular file that the user named, for reading.
///
/// # Errors
/// What the system says; [`ErrorKind::InvalidInput`] with what it is, for what is no regular file.
pub fn open(path: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    regular(&file.metadata()?)?;
    Ok(file)
}

/// Opens a regular file for reading that lies in the directory that its path names: no link out of that is followed. The
/// cache of Hugging Face's hub, where every file of a snapshot is a link into the same repository, counts as one directory.
///
/// # Errors
/// As [`open`]; [`ErrorKind::PermissionDenied`] for a link that leads out.
pub fn open_inside(path: &Path) -> Result<File> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or_else(|| Error::new(ErrorKind::InvalidInput, "it is a directory"))?;
    let (root, below) = match hub_repository(directory) {
        Some((root, below)) => (root, below.join(name)),
        None => (directory.to_owned(), PathBuf::from(name)),
    };
    let root = Dir::open_ambient_dir(root, ambient_authority())?;
    let mut options = cap_std::fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = root.open_with(&below, &options).map_err(|error| {
        // A refusal of the system has a number; this one is of the library that keeps inside.
        if error.kind() == ErrorKind::PermissionDenied && error.raw_os_error().is_none() {
            Error::new(ErrorKind::PermissionDenied, "it is a link out of its directory; copy the file there")
        } else {
            error
        }
    })?;
    let file = file.into_std();
    regular(&file.metadata()?)?;
    Ok(file)
}

/// The repository of the hub's cache that a snapshot lies in (`models--…/snapshots/…`), and the snapshot's path below it.
pub fn hub_repository(directory: &Path) -> Option<(PathBuf, PathBuf)> {
    let directory = directory.canonicalize().ok()?;
    let snapshots = directory.parent()?;
    let repository = snapshots.parent()?;
    let kinds = ["models--", "datasets--"];
    let is_repository =
        repository.file_name()?.to_str().is_some_and(|name| kinds.iter().any(|kind| name.starts_with(kind)));
    if !is_repository || snapshots.file_name()? != "snapshots" {
        return None;
    }
    Some((repository.to_owned(), Path::new("snapshots").join(directory.file_name()?)))
}

/// Refuses what is no regular file, and says what it is instead.
///
/// # Errors
/// [`ErrorKind::InvalidInput`].
pub fn regular(metadata: &Metadata) -> Result<()> {
    let kind = metadata.file_type();
    let what = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(Error::new(ErrorKind::InvalidInput, format!("it is {what}, not a regular file")))
}

/// The bytes of a file that the user named, of at most `limit`.
///
/// # Errors
/// As [`open`]; [`ErrorKind::FileTooLarge`] for one that is larger.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    all(open(path)?, limit)
}

/// The text of a file that the user named, of at most `limit` bytes.
///
/// # Errors
/// As [`read`]; [`ErrorKind::InvalidData`] for what is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    text_of(open(path)?, limit)
}

/// The same of anything that can be read.
///
/// # Errors
/// As [`read_text`].
pub fn text_of(reader: impl Read, limit: u64) -> Result<String> {
    String::from_utf8(all(reader, limit)?).map_err(|_| Error::new(ErrorKind::InvalidData, "it is not UTF-8"))
}

/// The bytes of a file of a model, of at most `limit`, opened as [`open_inside`] does.
///
/// # Errors
/// As [`open_inside`]; [`ErrorKind::FileTooLarge`] for one that is larger.
pub fn read_inside(path: &Path, limit: u64) -> Result<Vec<u8>> {
    all(open_inside(path)?, limit)
}

/// The same, and nothing where there is no such file.
///
/// # Errors
/// As [`read_inside`].
pub fn read_inside_if_there(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    match read_inside(path, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn all(reader: impl Read, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let shown = if limit >= 1 << 20 { format!("{} MiB", limit >> 20) } else { format!("{limit} bytes") };
        return Err(Error::new(ErrorKind::FileTooLarge, format!("it has more than {shown}")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_small_regular_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        for read in [read, read_inside] {
            assert_eq!(read(&path, 4).unwrap_err().kind(), ErrorKind::NotFound);
            std::fs::write(&path, "1234").unwrap();
            assert_eq!(read(&path, 4).unwrap(), b"1234");
            assert_eq!(read(&path, 3).unwrap_err().to_string(), "it has more than 3 bytes");
            let of_directory = read(directory.path(), 3).unwrap_err();
            assert_eq!(of_directory.to_string(), "it is a directory, not a regular file");
            std::fs::remove_file(&path).unwrap();
        }
        assert_eq!(read_inside_if_there(&path, 4).unwrap(), None);
        std::fs::write(&path, b"\xff").unwrap();
        assert_eq!(read_text(&path, 4).unwrap_err().to_string(), "it is not UTF-8");
        assert_eq!(read(Path::new("/dev/zero"), 4).unwrap_err().to_string(), "it is a device, not a regular file");
    }

    #[test]
    fn a_pipe_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        for read in [read, read_inside] {
            assert_eq!(read(&path, 4).unwrap_err().to_string(), "it is a pipe, not a regular file");
        }
    }

    #[test]
    fn a_link_out_of_a_model_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let model = root.path().join("model");
        std::fs::create_dir(&model).unwrap();
        std::fs::write(root.path().join("secret"), "s").unwrap();
        std::fs::write(model.join("vocab.json"), "v").unwrap();
        symlink("../secret", model.join("out.json")).unwrap();
        symlink(root.path().join("secret"), model.join("absolute.json")).unwrap();
        symlink("vocab.json", model.join("in.json")).unwrap();
        symlink("/dev/zero", model.join("zero.json")).unwrap();
        symlink("nowhere", model.join("dangling.json")).unwrap();
        assert_eq!(read_inside(&model.join("in.json"), 9).unwrap(), b"v");
        for name in ["out.json", "absolute.json", "zero.json"] {
            let error = read_inside(&model.join(name), 9).unwrap_err();
            assert_eq!(error.to_string(), "it is a link out of its directory; copy the file there", "{name}");
        }
        assert_eq!(read_inside_if_there(&model.join("dangling.json"), 9).unwrap(), None);
        // The directory itself may be a link: the user named it.
        symlink("model", root.path().join("alias")).unwrap();
        assert_eq!(read_inside(&root.path().join("alias/vocab.json"), 9).unwrap(), b"v");
    }

    #[test]
    fn a_snapshot_of_the_hub_is_read_through_its_links() {
        let root = tempfile::tempdir().unwrap();
        let repository = root.path().join("models--owner--name");
        let snapshot = repository.join("snapshots/0123");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir(repository.join("blobs")).unwrap();
        std::fs::write(repository.join("blobs/abcd"), "{}").unwrap();
        std::fs::write(root.path().join("secret"), "s").unwrap();
        symlink("../../blobs/abcd", snapshot.join("config.json")).unwrap();
        symlink("../../../secret", snapshot.join("vocab.json")).unwrap();
        assert_eq!(read_inside(&snapshot.join("config.json"), 9).unwrap(), b"{}");
        assert_eq!(read_inside(&snapshot.join("vocab.json"), 9).unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
}
