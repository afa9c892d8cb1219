//! The cache, laid out as `huggingface_hub` does: `models--org--name/{blobs,refs,snapshots/COMMIT}`.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tempfile::NamedTempFile;

use crate::digest::Expected;
use crate::name::{check_revision, is_commit};
use crate::{Hub, HubError, RemoteFile, Repository};

impl Hub {
    /// The folder of a repository.
    pub(crate) fn folder(&self, repository: &Repository) -> PathBuf {
        self.settings.cache.join(repository.folder())
    }

    /// Where the files of a commit are, as far as they are there.
    pub fn snapshot(&self, repository: &Repository, commit: &str) -> PathBuf {
        self.folder(repository).join("snapshots").join(commit)
    }

    /// The commit that a revision meant when it was last asked for, and where its files are; none where they are not.
    ///
    /// # Errors
    /// [`HubError::Revision`] for what is none.
    pub fn cached(&self, repository: &Repository, revision: &str) -> Result<Option<(String, PathBuf)>, HubError> {
        check_revision(revision)?;
        let commit = if is_commit(revision) { Some(revision.to_owned()) } else { self.reference(repository, revision) };
        let found = commit.map(|commit| (self.snapshot(repository, &commit), commit));
        Ok(found.filter(|(snapshot, _)| snapshot.is_dir()).map(|(snapshot, commit)| (commit, snapshot)))
    }

    fn reference(&self, repository: &Repository, revision: &str) -> Option<String> {
        let file = fs::File::open(self.folder(repository).join("refs").join(revision)).ok()?;
        let mut text = String::new();
        file.take(64).read_to_string(&mut text).ok()?;
        Some(text.trim().to_owned()).filter(|text| is_commit(text))
    }

    /// Notes what a revision means.
    pub(crate) fn refer(&self, repository: &Repository, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.folder(repository).join("refs").join(revision);
        let folder = path.parent().unwrap_or(&path);
        create(folder)?;
        let written = NamedTempFile::new_in(folder).and_then(|file| {
            fs::write(file.path(), commit)?;
            file.persist(&path).map_err(|error| error.error)
        });
        written.map(drop).map_err(HubError::cache(path))
    }

    /// Where the content of a file is kept.
    pub(crate) fn blob(&self, repository: &Repository, digest: &Expected) -> PathBuf {
        self.folder(repository).join("blobs").join(digest.digits())
    }

    /// Makes a file of a commit one of its snapshot.
    pub(crate) fn link(&self, repository: &Repository, commit: &str, file: &RemoteFile) -> Result<(), HubError> {
        let path = self.snapshot(repository, commit).join(&file.name);
        let folder = path.parent().unwrap_or(&path);
        create(folder)?;
        // Out of the file's folders, the commit's and `snapshots`.
        let out = "../".repeat(2 + file.name.matches('/').count());
        let target = PathBuf::from(format!("{out}blobs/{}", file.digest.digits()));
        if fs::read_link(&path).is_ok_and(|found| found == target) {
            return Ok(());
        }
        let linked = tempfile::Builder::new().make_in(folder, |place| symlink(&target, place));
        let linked = linked.and_then(|link| link.persist(&path).map_err(|error| error.error));
        linked.map(drop).map_err(HubError::cache(path))
    }

    /// Holds the lock of a file's content until it is dropped, as `huggingface_hub` does.
    pub(crate) fn lock(&self, repository: &Repository, digest: &Expected) -> Result<fs::File, HubError> {
        let folder = self.settings.cache.join(".locks").join(repository.folder());
        create(&folder)?;
        let path = folder.join(format!("{}.lock", digest.digits()));
        let file = fs::OpenOptions::new().create(true).append(true).open(&path).map_err(HubError::cache(&path))?;
        flock(&file, FlockOperation::LockExclusive).map_err(|error| HubError::cache(path)(error.into()))?;
        Ok(file)
    }

    /// Refuses what there is no room for.
    pub(crate) fn has_room(&self, needed: u64) -> Result<(), HubError> {
        let cache = &self.settings.cache;
        create(cache)?;
        let found = rustix::fs::statvfs(cache).map_err(|error| HubError::cache(cache)(error.into()))?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        if needed > free {
            return Err(HubError::Room { cache: cache.clone(), needed, free });
        }
        Ok(())
    }
}

/// Makes a folder.
pub(crate) fn create(folder: &Path) -> Result<(), HubError> {
    fs::create_dir_all(folder).map_err(HubError::cache(folder))
}

/// Bytes of a file that is there.
pub(crate) fn size(path: &Path) -> Result<Option<u64>, HubError> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some(found.len())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(HubError::cache(path)(error)),
    }
}
