//! The cache, laid out as `huggingface_hub` does: `models--org--name/{blobs,refs,snapshots/COMMIT}`.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::digest::Expected;
use crate::name::{check_revision, is_commit};
use crate::{Hub, HubError, RemoteFile, Repository};

/// Files of a snapshot, and folders inside one another.
const FILES: usize = 200_000;
const DEPTH: usize = 32;

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
        write(&self.folder(repository).join("refs").join(revision), commit.as_bytes())
    }

    /// Keeps what the hub says that a commit has. Which files of a dataset are meant depends on those that nobody fetches.
    pub(crate) fn keep_listing(&self, repository: &Repository, commit: &str, answer: &[u8]) -> Result<(), HubError> {
        let path = self.listing_file(repository, commit);
        if path.is_file() { Ok(()) } else { write(&path, answer) }
    }

    /// What was kept of it, up to `limit` bytes.
    pub(crate) fn kept_listing(&self, repository: &Repository, commit: &str, limit: u64) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        fs::File::open(self.listing_file(repository, commit)).ok()?.take(limit).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Beside `.no_exist` of `huggingface_hub`, which passes over what it does not know there.
    fn listing_file(&self, repository: &Repository, commit: &str) -> PathBuf {
        self.folder(repository).join(".listings").join(format!("{commit}.json"))
    }

    /// The files of a commit that are there, by name.
    pub fn snapshot_files(&self, repository: &Repository, commit: &str) -> Vec<String> {
        let mut names = Vec::new();
        list(&self.snapshot(repository, commit), "", 0, &mut names);
        names.sort_unstable();
        names
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
        web::lock(&path).map_err(HubError::cache(path))
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

/// Writes a small file, whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(path);
    create(folder)?;
    let written = NamedTempFile::new_in(folder).and_then(|file| {
        fs::write(file.path(), bytes)?;
        file.persist(path).map_err(|error| error.error)
    });
    written.map(drop).map_err(HubError::cache(path))
}

/// The files below a folder, which are links to their content.
fn list(folder: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let (path, name) = (entry.path(), format!("{prefix}{name}"));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth < DEPTH {
                list(&path, &format!("{name}/"), depth + 1, names);
            }
        } else if path.is_file() && names.len() < FILES {
            names.push(name);
        }
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
