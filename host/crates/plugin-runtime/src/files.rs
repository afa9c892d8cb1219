//! The only way to files: what the host opens for guests, over capability handles of cap-std. A guest names no path
//! outside the directory that the user named.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, Metadata, MetadataExt as _, OpenOptions, OpenOptionsExt as _};

use sha2::{Digest, Sha256};

use crate::error::PluginError;
use crate::manifest::hex;

/// Files that one directory may list.
const LIST_LIMIT: usize = 100_000;
/// Bytes that are hashed at a time.
const HASHED: usize = 1 << 20;
/// Directories inside one another.
const DEPTH_LIMIT: usize = 32;

/// One open file.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated bindings name it in public items")]
pub struct ByteSource {
    name: String,
    file: std::fs::File,
    len: u64,
}

impl ByteSource {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Bytes that it had when it was opened.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// At most `len` bytes from `offset` on; fewer only at its end. The error is a line for the user.
    pub(crate) fn read(&self, offset: u64, len: u32) -> Result<Vec<u8>, String> {
        let len = u64::from(len).min(self.len.saturating_sub(offset)) as usize;
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                format!("`{}` became shorter while it was read", self.name)
            } else {
                format!("`{}` cannot be read: {error}", self.name)
            }
        })?;
        Ok(bytes)
    }

    fn hash(&self, hasher: &mut Sha256) -> Result<(), String> {
        for start in (0..self.len).step_by(HASHED) {
            hasher.update(self.read(start, HASHED as u32)?);
        }
        Ok(())
    }
}

/// One open directory.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated bindings name it in public items")]
pub struct Directory {
    name: String,
    /// Nothing outside of it is opened.
    root: Dir,
    /// Where it lies in `root`: a snapshot of the hub's cache is links to files elsewhere in its repository.
    below: PathBuf,
    /// Granted beside the data: a file there that has other names too (a hard link) may be one from outside, and is refused.
    is_grant: bool,
}

impl Directory {
    /// Opens a directory that the user granted to a plugin.
    pub(crate) fn granted(path: &Path) -> io::Result<Self> {
        let root = Dir::open_ambient_dir(path, ambient_authority())?;
        Ok(Self { name: path.display().to_string(), root, below: PathBuf::from("."), is_grant: true })
    }

    /// Opens a directory that the user named as data.
    fn of_data(path: &Path) -> io::Result<Self> {
        let (root, below) = intake::hub_repository(path).unwrap_or_else(|| (path.to_owned(), PathBuf::from(".")));
        let root = Dir::open_ambient_dir(root, ambient_authority())?;
        Ok(Self { name: path.display().to_string(), root, below, is_grant: false })
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        let (name, below) = (self.name.clone(), self.below.clone());
        Ok(Self { name, root: self.root.try_clone()?, below, is_grant: self.is_grant })
    }
}

impl Directory {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of all files that a guest can read through it. What cannot be listed counts nothing: no guest gets it either.
    pub(crate) fn bytes(&self) -> u64 {
        let mut files = Vec::new();
        let _ = self.walk("", 0, &mut files);
        files.iter().filter_map(|file| Some(self.root.metadata(self.below.join(file)).ok()?.len())).sum()
    }

    /// Paths of all files below it that a guest may open, in the order of their names. The error is a line for the guest.
    pub(crate) fn list(&self) -> Result<Vec<String>, String> {
        let mut files = Vec::new();
        self.walk("", 0, &mut files)?;
        files.sort_unstable();
        Ok(files)
    }

    /// A file below it. The error is a line for the guest.
    pub(crate) fn open(&self, path: &str) -> Result<ByteSource, String> {
        let name = format!("{}/{path}", self.name.trim_end_matches('/'));
        // Without waiting: a pipe that nobody writes to would hold the call for ever.
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        // Its root may be larger than it is.
        if !Path::new(path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(format!("`{name}` cannot be opened: it is no path inside of the directory"));
        }
        // What is not listed is not read: kept samples are known by the files that are.
        if path.split('/').any(|part| part.starts_with('.') && part != ".") {
            return Err(format!("`{name}` is hidden; such files are not read"));
        }
        let opened = self.root.open_with(self.below.join(path), &options);
        let opened = opened.and_then(|file| Ok((file.metadata()?, file.into_std())));
        match opened {
            Ok((metadata, _)) if stays_closed(self.is_grant, &metadata) => Err(format!(
                "`{name}` has other names too (a hard link); such files of a granted directory stay closed"
            )),
            Ok((metadata, file)) if metadata.is_file() => Ok(ByteSource { name, file, len: metadata.len() }),
            Ok(_) => Err(format!("`{name}` is not a file")),
            Err(error) => Err(format!("`{name}` cannot be opened: {error}")),
        }
    }

    /// The files below `prefix`.
    fn walk(&self, prefix: &str, depth: usize, files: &mut Vec<String>) -> Result<(), String> {
        if depth > DEPTH_LIMIT {
            return Err(format!("directories lie more than {DEPTH_LIMIT} deep at `{prefix}`"));
        }
        for entry in self.root.read_dir(self.below.join(prefix)).map_err(|error| format!("`{prefix}`: {error}"))? {
            let entry = entry.map_err(|error| format!("`{prefix}`: {error}"))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with('.') {
                continue;
            }
            let path = format!("{prefix}{name}");
            // Follows a link, and fails for one that leads out of the root: those are left out.
            let Ok(metadata) = self.root.metadata(self.below.join(&path)) else { continue };
            if metadata.is_file() {
                if !stays_closed(self.is_grant, &metadata) {
                    files.push(path);
                }
            } else if metadata.is_dir() && !entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                self.walk(&format!("{path}/"), depth + 1, files)?;
            }
            if files.len() > LIST_LIMIT {
                return Err(format!("more than {LIST_LIMIT} files"));
            }
        }
        Ok(())
    }
}

/// SHA-256 of the file or directory that a dataset's `path` names: of all that its loader can read, names and bytes.
///
/// # Errors
/// What cannot be read.
pub fn data_digest(path: &Path) -> Result<String, PluginError> {
    let digest = Opened::open(path)?.digest();
    digest.map_err(|error| PluginError::new("data::unreadable", error))
}

/// SHA-256 of all files of some directories that a guest can read: names and bytes. The error is a line for the user.
pub(crate) fn digest_of(directories: &[Directory]) -> Result<String, String> {
    let mut hasher = Sha256::new();
    for directory in directories {
        let names = directory.list()?;
        hasher.update((names.len() as u64).to_le_bytes());
        for name in names {
            let file = directory.open(&name)?;
            hasher.update((name.len() as u64).to_le_bytes());
            hasher.update(&name);
            hasher.update(file.len.to_le_bytes());
            file.hash(&mut hasher)?;
        }
    }
    Ok(hex(&hasher.finalize()))
}

/// What a dataset's `path` named.
#[derive(Debug)]
pub(crate) enum Opened {
    File(ByteSource),
    Directory(Directory),
}

impl Opened {
    /// Opens what the user named.
    pub(crate) fn open(path: &Path) -> Result<Self, PluginError> {
        let name = path.display().to_string();
        let failed = |error: &io::Error| {
            if error.kind() == io::ErrorKind::NotFound {
                PluginError::new("data::missing-file", format!("there is no file or directory `{name}`"))
                    .help("paths are relative to the directory in which `host` runs, or to that of the config")
            } else {
                PluginError::new("data::unreadable", format!("`{name}` cannot be read")).why(error.to_string())
            }
        };
        let metadata = std::fs::metadata(path).map_err(|error| failed(&error))?;
        if metadata.is_dir() {
            return Directory::of_data(path).map(Self::Directory).map_err(|error| failed(&error));
        }
        if !metadata.is_file() {
            return Err(PluginError::new("data::unreadable", format!("`{name}` is neither a file nor a directory"))
                .help("pipes and devices cannot be read twice; write the rows to a file"));
        }
        let file = intake::open(path).map_err(|error| failed(&error))?;
        Ok(Self::File(ByteSource { name, file, len: metadata.len() }))
    }
}

impl Opened {
    /// SHA-256 of all that a guest can read through it: names and bytes.
    fn digest(&self) -> Result<String, String> {
        match self {
            Self::File(file) => {
                let mut hasher = Sha256::new();
                file.hash(&mut hasher)?;
                Ok(hex(&hasher.finalize()))
            }
            Self::Directory(directory) => digest_of(std::slice::from_ref(directory)),
        }
    }

    /// Bytes of all files that a guest can read through it.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::File(file) => file.len,
            Self::Directory(directory) => directory.bytes(),
        }
    }
}

/// True for a file of a granted directory that has other names too: it may be one from outside.
fn stays_closed(is_grant: bool, metadata: &Metadata) -> bool {
    is_grant && metadata.is_file() && metadata.nlink() > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_shows_its_files_and_nothing_outside() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("data");
        std::fs::create_dir_all(data.join("sub")).unwrap();
        std::fs::write(root.path().join("secret"), "x").unwrap();
        for name in ["b.jsonl", "a.jsonl", ".hidden", "sub/c.jsonl"] {
            std::fs::write(data.join(name), "{}").unwrap();
        }
        std::os::unix::fs::symlink("../secret", data.join("out.jsonl")).unwrap();
        std::os::unix::fs::symlink("a.jsonl", data.join("in.jsonl")).unwrap();
        std::os::unix::fs::symlink(".", data.join("loop")).unwrap();
        let Opened::Directory(directory) = Opened::open(&data).unwrap() else { panic!("it is a directory") };
        assert_eq!(directory.list().unwrap(), ["a.jsonl", "b.jsonl", "in.jsonl", "sub/c.jsonl"]);
        for path in ["../secret", "/etc/passwd", "out.jsonl", "sub/../../secret", ".hidden"] {
            assert!(directory.open(path).is_err(), "{path} was opened");
        }
    }

    #[test]
    fn a_snapshot_of_the_hub_is_read_through_its_links() {
        let root = tempfile::tempdir().unwrap();
        let repository = root.path().join("datasets--org--name");
        let snapshot = repository.join("snapshots/0123");
        std::fs::create_dir_all(snapshot.join("data")).unwrap();
        std::fs::create_dir(repository.join("blobs")).unwrap();
        std::fs::write(repository.join("blobs/abcd"), "{}").unwrap();
        std::fs::write(root.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink("../../../blobs/abcd", snapshot.join("data/train.jsonl")).unwrap();
        std::os::unix::fs::symlink("../../../secret", snapshot.join("out.jsonl")).unwrap();
        let Opened::Directory(directory) = Opened::open(&snapshot).unwrap() else { panic!("it is a directory") };
        assert_eq!(directory.list().unwrap(), ["data/train.jsonl"]);
        assert_eq!(directory.open("data/train.jsonl").unwrap().read(0, 9).unwrap(), b"{}");
        for path in ["out.jsonl", "../../blobs/abcd", "/etc/passwd"] {
            assert!(directory.open(path).is_err(), "{path} was opened");
        }
    }

    #[test]
    fn what_is_no_file_is_named() {
        let missing = Opened::open(Path::new("no/such.jsonl")).unwrap_err();
        assert_eq!(missing.code, "data::missing-file");
        assert_eq!(Opened::open(Path::new("/dev/null")).unwrap_err().code, "data::unreadable");
    }
}
