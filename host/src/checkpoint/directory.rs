//! A directory that appears whole or not at all: written beside its final place, each file synced and recorded with its
//! digest in a manifest that is written last, then renamed, then the parent synced. A crash at any instant leaves the
//! final name either absent or complete.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::CheckpointError;
use crate::digest::hex;

/// Name of the manifest inside a directory.
pub const MANIFEST: &str = "manifest.json";

/// What a complete directory holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format version of the directory.
    pub v: u32,
    /// Version of the program that wrote it.
    pub host: String,
    /// Each file with its size and digest.
    pub files: BTreeMap<String, FileRecord>,
}

/// One file of a complete directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Size.
    pub bytes: u64,
    /// Digest, in hexadecimal.
    pub sha256: String,
}

/// A directory that is being written. Dropped without [`publish`](Self::publish), it is removed.
#[derive(Debug)]
pub struct PendingDirectory {
    temporary: PathBuf,
    target: PathBuf,
    published: bool,
}

impl PendingDirectory {
    /// Starts a directory that is to become `target`.
    pub fn create(target: &Path) -> Result<Self, CheckpointError> {
        let name = target.file_name().map_or_else(|| "out".into(), |name| name.to_string_lossy().into_owned());
        let temporary = target.with_file_name(format!(".{name}.tmp-{}", std::process::id()));
        let write = |source| CheckpointError::Write { path: temporary.clone(), source };
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(write)?;
        }
        fs::create_dir_all(&temporary).map_err(write)?;
        Ok(Self { temporary, target: target.to_owned(), published: false })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Writes one small file.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        let path = self.temporary.join(name);
        fs::write(&path, bytes).map_err(|source| CheckpointError::Write { path, source })
    }

    /// Makes it durable and visible under its final name.
    pub fn publish(mut self) -> Result<(), CheckpointError> {
        let mut files = BTreeMap::new();
        for path in files_of(&self.temporary)? {
            let write = |source| CheckpointError::Write { path: path.clone(), source };
            let mut file = File::open(&path).map_err(write)?;
            let record = digest(&mut file).map_err(write)?;
            file.sync_all().map_err(write)?;
            files.insert(name_of(&path), record);
        }
        let manifest = Manifest { v: 1, host: env!("CARGO_PKG_VERSION").to_owned(), files };
        let path = self.temporary.join(MANIFEST);
        let write = |source| CheckpointError::Write { path: path.clone(), source };
        let mut file = File::create(&path).map_err(write)?;
        let text = serde_json::to_string_pretty(&manifest).expect("a manifest is plain data");
        file.write_all(text.as_bytes()).map_err(write)?;
        file.sync_all().map_err(write)?;
        sync_directory(&self.temporary)?;
        let failed = |source| CheckpointError::Write { path: self.target.clone(), source };
        // A complete one with this name is the same step; one that is not ours stays.
        let old = match fs::symlink_metadata(&self.target) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
            Ok(_) if is_ours(&self.target) => Some(set_aside(&self.target)?),
            Ok(_) => return Err(failed(std::io::Error::other("it is there already, and not from a run"))),
        };
        fs::rename(&self.temporary, &self.target).map_err(failed)?;
        self.published = true;
        if let Some(old) = old {
            fs::remove_dir_all(&old).map_err(|source| CheckpointError::Write { path: old, source })?;
        }
        if let Some(parent) = self.target.parent() {
            sync_directory(parent)?;
        }
        Ok(())
    }
}

impl Drop for PendingDirectory {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: what stays behind has a name that no reader takes for a checkpoint.
            let _ = fs::remove_dir_all(&self.temporary);
        }
    }
}

/// True for a directory that a run made: it has a manifest, whatever became of the files.
pub fn is_ours(directory: &Path) -> bool {
    fs::symlink_metadata(directory).is_ok_and(|metadata| metadata.is_dir())
        && match read_manifest(directory) {
            Ok(_) => true,
            // Versions before this one left them empty when they were killed while they removed them.
            Err(CheckpointError::Incomplete { .. }) => {
                fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
            }
            Err(_) => false,
        }
}

/// Renames a directory to a name that no reader takes for a checkpoint, and that `sweep` removes: what is then killed leaves
/// nothing half under the old name.
pub(super) fn set_aside(directory: &Path) -> Result<PathBuf, CheckpointError> {
    let aside = directory.with_file_name(format!(".{}.old.tmp-{}", name_of(directory), std::process::id()));
    let failed = |source| CheckpointError::Write { path: directory.to_owned(), source };
    fs::rename(directory, &aside).map_err(failed)?;
    Ok(aside)
}

/// Removes a directory that a run made: it is there whole, or not at all.
pub fn remove(directory: &Path) -> Result<(), CheckpointError> {
    let aside = set_aside(directory)?;
    fs::remove_dir_all(&aside).map_err(|source| CheckpointError::Write { path: aside, source })
}

/// Bytes that a manifest may have.
const MANIFEST_LIMIT: u64 = 16 << 20;

/// Reads the manifest of a complete directory and compares each file's size and digest with it.
pub fn verify(directory: &Path) -> Result<Manifest, CheckpointError> {
    let manifest = read_manifest(directory)?;
    for (name, record) in &manifest.files {
        let path = directory.join(name);
        let mut file = match intake::open_inside(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(CheckpointError::Corrupt { path, reason: "the manifest lists it, but it is gone".into() });
            }
            Err(source) => return Err(CheckpointError::Read { path, source }),
        };
        let found = digest(&mut file).map_err(|source| CheckpointError::Read { path: path.clone(), source })?;
        if found.bytes != record.bytes {
            let reason = format!("{} bytes were saved, {} are there", record.bytes, found.bytes);
            return Err(CheckpointError::Corrupt { path, reason });
        }
        if found.sha256 != record.sha256 {
            let reason = format!("its sha256 was {}, now it is {}", record.sha256, found.sha256);
            return Err(CheckpointError::Corrupt { path, reason });
        }
    }
    for path in files_of(directory)? {
        let name = name_of(&path);
        let is_read = path.extension().is_some_and(|end| end == "safetensors" || end == "json");
        if is_read && name != MANIFEST && !manifest.files.contains_key(&name) {
            let reason = "it was not saved with the checkpoint: its manifest does not list it".into();
            return Err(CheckpointError::Corrupt { path, reason });
        }
    }
    Ok(manifest)
}

/// Reads the manifest alone: enough to know that the directory was once complete.
pub fn read_manifest(directory: &Path) -> Result<Manifest, CheckpointError> {
    let path = directory.join(MANIFEST);
    let incomplete = |reason: &str| CheckpointError::Incomplete { path: directory.to_owned(), reason: reason.into() };
    let bytes = match intake::read_inside(&path, MANIFEST_LIMIT) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(incomplete(if directory.is_dir() {
                "it has no `manifest.json`"
            } else {
                "there is no such directory"
            }));
        }
        Err(source) => return Err(CheckpointError::Read { path, source }),
    };
    let manifest: Manifest = serde_json::from_slice(&bytes)
        .map_err(|error| CheckpointError::Corrupt { path: path.clone(), reason: error.to_string() })?;
    if manifest.v != 1 {
        let reason =
            format!("it has format {} (written by host {}); this host reads format 1", manifest.v, manifest.host);
        return Err(CheckpointError::Corrupt { path, reason });
    }
    if let Some(name) = manifest.files.keys().find(|name| name.contains(['/', '\\']) || name.starts_with('.')) {
        return Err(CheckpointError::Corrupt {
            path,
            reason: format!("it lists `{name}`, which is not a plain file name"),
        });
    }
    Ok(manifest)
}

/// Writes a file so that its name holds either the old bytes or the new ones. A file that is replaced leaves its
/// permissions to the new one.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let temporary = path.with_file_name(format!(".{}.tmp-{}", name_of(path), std::process::id()));
    let written = (|| {
        let mut file = File::create(&temporary)?;
        if let Ok(old) = fs::metadata(path) {
            // Before the bytes: what others may not read is never readable to them.
            file.set_permissions(old.permissions())?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    written.map_err(|source| {
        let _ = fs::remove_file(&temporary);
        CheckpointError::Write { path: path.to_owned(), source }
    })
}

/// Plain files directly inside `directory`, by name.
pub(super) fn files_of(directory: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let read = |source| CheckpointError::Read { path: directory.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(read)? {
        let entry = entry.map_err(read)?;
        if entry.file_type().map_err(read)?.is_file() {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

pub(super) fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

pub(super) fn sync_directory(path: &Path) -> Result<(), CheckpointError> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| CheckpointError::Write { path: path.to_owned(), source })
}

fn digest(file: &mut File) -> std::io::Result<FileRecord> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        hasher.update(&buffer[..read]);
    }
    Ok(FileRecord { bytes, sha256: hex(&hasher.finalize()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(root: &Path) -> PathBuf {
        let target = root.join("checkpoint-3");
        let pending = PendingDirectory::create(&target).unwrap();
        pending.write("a.bin", &[1, 2, 3]).unwrap();
        pending.write("b.json", b"{}").unwrap();
        pending.publish().unwrap();
        target
    }

    #[test]
    fn a_published_directory_verifies_and_leaves_nothing_beside_it() {
        let root = tempfile::tempdir().unwrap();
        let target = published(root.path());
        assert_eq!(verify(&target).unwrap().files.keys().collect::<Vec<_>>(), ["a.bin", "b.json"]);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_abandoned_directory_disappears() {
        let root = tempfile::tempdir().unwrap();
        let pending = PendingDirectory::create(&root.path().join("checkpoint-1")).unwrap();
        pending.write("a.bin", &[0; 10]).unwrap();
        drop(pending);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn each_kind_of_damage_is_named() {
        let root = tempfile::tempdir().unwrap();
        let target = published(root.path());
        fs::write(target.join("a.bin"), [1, 2, 4]).unwrap();
        assert!(verify(&target).unwrap_err().to_string().contains("its sha256 was"));
        fs::write(target.join("a.bin"), [1, 2]).unwrap();
        assert!(verify(&target).unwrap_err().to_string().contains("3 bytes were saved, 2 are there"));
        fs::remove_file(target.join("a.bin")).unwrap();
        assert!(verify(&target).unwrap_err().to_string().contains("it is gone"));
        fs::remove_file(target.join(MANIFEST)).unwrap();
        assert!(matches!(verify(&target), Err(CheckpointError::Incomplete { .. })));
    }

    #[test]
    fn a_manifest_cannot_point_outside() {
        let root = tempfile::tempdir().unwrap();
        let target = published(root.path());
        let text = fs::read_to_string(target.join(MANIFEST)).unwrap().replace("a.bin", "../a.bin");
        fs::write(target.join(MANIFEST), text).unwrap();
        assert!(verify(&target).unwrap_err().to_string().contains("not a plain file name"));
    }
}
