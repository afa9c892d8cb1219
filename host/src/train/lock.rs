//! One run per output directory: a lock that the system drops with the process, so that a crash leaves none behind.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::diagnostic::{Diagnostic, fails_as_diagnostic};

/// No link is followed, and no pipe waited for.
const FLAGS: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;

/// Holds the directory until dropped.
#[derive(Debug)]
pub struct OutputLock {
    _file: File,
}

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("`{path}` is in use by another run", path = path.display())]
    InUse {
        /// The output directory.
        path: PathBuf,
        /// What that run wrote about itself.
        owner: String,
    },
    /// The directory cannot be written.
    #[error("cannot write `{path}`: {source}", path = path.display())]
    Write {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

fails_as_diagnostic!(LockError);

impl From<LockError> for Diagnostic {
    fn from(error: LockError) -> Self {
        match &error {
            LockError::InUse { owner, .. } => Self::error("run::in-use", error.to_string())
                .why(if owner.is_empty() {
                    "its lock file is held".to_owned()
                } else {
                    format!("{owner} holds its lock file")
                })
                .help("wait for it, stop it, or use another `output_dir`"),
            LockError::Write { source, .. } => Self::error("io::write", error.to_string()).written(source),
        }
    }
}

impl OutputLock {
    /// Whether a run holds the directory now. Nothing is written.
    pub fn probe(output_dir: &Path) -> Result<(), LockError> {
        let path = output_dir.join(".lock");
        let Ok(mut file) = intake::open(&path) else { return Ok(()) };
        if let Err(TryLockError::WouldBlock) = file.try_lock_shared() {
            return Err(in_use(output_dir, &mut file));
        }
        Ok(())
    }

    /// Creates the directory where it is missing and takes its lock.
    pub fn take(output_dir: &Path) -> Result<Self, LockError> {
        let path = output_dir.join(".lock");
        let failed = |source| LockError::Write { path: path.clone(), source };
        std::fs::create_dir_all(output_dir)
            .map_err(|source| LockError::Write { path: output_dir.to_owned(), source })?;
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).custom_flags(FLAGS).open(&path);
        let mut file = file.map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => failed(std::io::Error::other("it is a link; a lock is a file of its own")),
            _ => failed(error),
        })?;
        intake::regular(&file.metadata().map_err(failed)?).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(output_dir, &mut file)),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0).map_err(failed)?;
        write!(file, "process {}", std::process::id()).and_then(|()| file.flush()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn in_use(output_dir: &Path, file: &mut File) -> LockError {
    let mut owner = String::new();
    let _ = file.take(100).read_to_string(&mut owner);
    LockError::InUse { path: output_dir.to_owned(), owner: owner.trim().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_run_is_told_who_has_it_and_the_next_gets_it() {
        let root = tempfile::tempdir().unwrap();
        let first = OutputLock::take(root.path()).unwrap();
        let Err(LockError::InUse { owner, .. }) = OutputLock::take(root.path()) else {
            panic!("the lock was given twice")
        };
        assert_eq!(owner, format!("process {}", std::process::id()));
        assert!(matches!(OutputLock::probe(root.path()), Err(LockError::InUse { .. })));
        drop(first);
        OutputLock::probe(root.path()).unwrap();
        OutputLock::take(root.path()).unwrap();
    }
}
