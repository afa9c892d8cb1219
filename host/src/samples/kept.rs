//! Samples that are kept between runs, a directory for each dataset and all that its samples depend on. A directory without its
//! note is not finished: whoever makes it next goes on with it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::dataset::Dataset;
use super::key::Key;
use crate::config::LoadedConfig;
use crate::data::dropped::Dropped;
use crate::data::store::{Builder, Store, StoreError, is_store};
use crate::diagnostic::{Diagnostic, Failure};
use crate::directories;

/// The note that says that a directory is finished, and what is in it.
const NOTE: &str = "store.json";
/// Bytes that a note may have.
const NOTE_LIMIT: u64 = 16 << 20;
/// Samples that were not used for so long are deleted when others are made.
const UNUSED: Duration = Duration::from_hours(30 * 24);
/// Notes that are looked at to say what changed.
const LOOKED_AT: usize = 1000;

/// What is known of kept samples.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    key: Key,
    /// Where the data was.
    data: PathBuf,
    samples: usize,
    bytes: u64,
    digest: String,
    rows: u64,
    dropped: Dropped,
    remarks: Vec<Remark>,
}

/// A warning about the rows of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remark {
    code: String,
    message: String,
    why: Option<String>,
    /// The key of the config that it is about.
    key: Option<String>,
}

/// Where the samples of a dataset come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreOrigin {
    /// They were kept in this directory.
    Kept(PathBuf),
    /// They were made now, and are kept there; what has changed since samples of the same data were made.
    Made(PathBuf, Vec<String>),
    /// They were made now, and are kept nowhere.
    NotKept,
}

/// The samples of a dataset.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) store: Store,
    pub(super) rows: u64,
    pub(super) dropped: Dropped,
    pub(super) remarks: Vec<Diagnostic>,
    pub(super) origin: StoreOrigin,
}

/// The directory of kept samples: that of the config, or one in the user's cache; none where there is no cache.
///
/// # Errors
/// The config's cannot be made.
pub(super) fn place(loaded: &LoadedConfig) -> Result<Option<PathBuf>, Failure> {
    let make = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
    if let Some(path) = &loaded.config.dataset_prepared_path {
        let path = PathBuf::from(path);
        make(&path).map_err(|source| {
            let error = StoreError::Write { path: path.clone(), source };
            Diagnostic::from(error).at(loaded.source.nearest_place("dataset_prepared_path"))
        })?;
        return Ok(Some(path));
    }
    Ok(directories::cache().map(|cache| cache.join("prepared")).filter(|path| make(path).is_ok()))
}

/// The samples of a dataset: those that were kept, or else made now. `root` has those that are kept.
///
/// # Errors
/// What is wrong with the data, and a disk that is full.
pub(super) fn samples(dataset: &Dataset<'_>, key: Key, root: Option<&Path>, with_rows: bool) -> Result<Kept, Failure> {
    let Some(root) = root else { return make(dataset, key, Builder::unnamed(with_rows)?, None) };
    let digest = key.digest();
    let directory = root.join(&digest[..32]);
    if let Some(kept) = find(dataset, &key, &directory) {
        return Ok(kept);
    }
    let unwritten = |path: &Path, source| StoreError::Write { path: path.to_owned(), source };
    let lock = root.join(format!("{}.lock", &digest[..32]));
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&lock);
    let file = file.map_err(|source| unwritten(&lock, source))?;
    // Another run that makes the same is waited for; then there is nothing left to do.
    file.lock().map_err(|source| unwritten(&lock, source))?;
    if let Some(kept) = find(dataset, &key, &directory) {
        return Ok(kept);
    }
    DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(|source| unwritten(&directory, source))?;
    // Whatever a note says that was not believed.
    let _ = fs::remove_file(directory.join(NOTE));
    let changed = changed(root, &key, &data_of(dataset));
    let builder = Builder::open(&directory, with_rows)?;
    let kept = make(dataset, key, builder, Some((&directory, changed)));
    if kept.is_err() {
        // What failed is not gone on with: the reason is in the data, and another key will be that of the mended one.
        let _ = fs::remove_dir_all(&directory);
    }
    delete_unused(root);
    kept
}

/// Samples that are finished.
fn find(dataset: &Dataset<'_>, key: &Key, directory: &Path) -> Option<Kept> {
    let note = read_note(directory).filter(|note| note.key == *key)?;
    let store = Store::open(directory, note.samples, note.bytes, note.digest).ok()?;
    // When it was used last.
    let file = OpenOptions::new().write(true).open(directory.join(NOTE));
    let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
    let remarks = note.remarks.into_iter().map(|remark| remark.diagnostic(dataset.loaded)).collect();
    let origin = StoreOrigin::Kept(directory.to_owned());
    Some(Kept { store, rows: note.rows, dropped: note.dropped, remarks, origin })
}

fn read_note(directory: &Path) -> Option<Note> {
    serde_json::from_slice(&intake::read(&directory.join(NOTE), NOTE_LIMIT).ok()?).ok()
}

fn make(
    dataset: &Dataset<'_>,
    key: Key,
    mut builder: Builder,
    directory: Option<(&Path, Vec<String>)>,
) -> Result<Kept, Failure> {
    let (prepared, remarks) = dataset.make(&mut builder)?;
    let dropped = Dropped { filters: prepared.filters, ..builder.dropped().clone() };
    let store = builder.finish()?;
    let rows = prepared.rows;
    let Some((directory, changed)) = directory else {
        return Ok(Kept { store, rows, dropped, remarks, origin: StoreOrigin::NotKept });
    };
    let note = Note {
        key,
        data: data_of(dataset),
        samples: store.len(),
        bytes: store.bytes(),
        digest: store.digest().to_owned(),
        rows,
        dropped,
        remarks: remarks.iter().map(Remark::of).collect(),
    };
    let path = directory.join(NOTE);
    write_note(&path, &note).map_err(|source| StoreError::Write { path, source })?;
    let origin = StoreOrigin::Made(directory.to_owned(), changed);
    Ok(Kept { store, rows, dropped: note.dropped, remarks, origin })
}

/// Where the data is, whatever the directory that it was named from.
fn data_of(dataset: &Dataset<'_>) -> PathBuf {
    let path = dataset.path();
    fs::canonicalize(&path).unwrap_or(path)
}

/// Whole or not at all.
fn write_note(path: &Path, note: &Note) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(&serde_json::to_vec(note).expect("a note is plain"))?;
    file.as_file().sync_data()?;
    file.persist(path)?;
    File::open(directory)?.sync_all()
}

/// What is not as it was when samples of the same data were made last.
fn changed(root: &Path, key: &Key, data: &Path) -> Vec<String> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten().take(LOOKED_AT);
    let of_same_data = entries.filter_map(|entry| {
        let note = read_note(&entry.path()).filter(|note| note.data == data)?;
        let used = fs::metadata(entry.path().join(NOTE)).ok()?.modified().ok()?;
        Some((used, note.key))
    });
    let last = of_same_data.max_by_key(|(used, _)| *used);
    last.map(|(_, last)| key.changes(&last).into_iter().map(str::to_owned).collect()).unwrap_or_default()
}

/// Deletes what nobody used for long, finished or not. What cannot be deleted stays.
fn delete_unused(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        let note = path.join(NOTE);
        let used = fs::metadata(&note).or_else(|_| fs::metadata(&path)).and_then(|metadata| metadata.modified());
        let is_unused = used.is_ok_and(|used| used.elapsed().is_ok_and(|elapsed| elapsed > UNUSED));
        // Other programs keep theirs under such names too.
        if is_unused && entry.file_type().is_ok_and(|kind| kind.is_dir()) && is_store(&path) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

impl Remark {
    fn of(diagnostic: &Diagnostic) -> Self {
        Self {
            code: diagnostic.code.clone(),
            message: diagnostic.message.clone(),
            why: diagnostic.why.clone(),
            key: diagnostic.place.as_ref().and_then(|place| place.key_path.clone()),
        }
    }

    fn diagnostic(self, loaded: &LoadedConfig) -> Diagnostic {
        let diagnostic = Diagnostic::warning(self.code, self.message);
        let diagnostic = match self.why {
            Some(why) => diagnostic.why(why),
            None => diagnostic,
        };
        match self.key {
            Some(key) => diagnostic.at(loaded.source.nearest_place(&key)),
            None => diagnostic,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_samples_that_nobody_used_are_deleted() {
        let root = tempfile::tempdir().unwrap();
        let make = |name: &str, is_own: bool, age: Duration| {
            let directory = root.path().join(name);
            fs::create_dir(&directory).unwrap();
            if is_own {
                drop(Builder::open(&directory, false).unwrap());
            }
            File::open(&directory).unwrap().set_modified(SystemTime::now() - age).unwrap();
        };
        make("old", true, 2 * UNUSED);
        make("new", true, UNUSED / 2);
        make("0123456789abcdef0123456789abcdef", false, 2 * UNUSED);
        delete_unused(root.path());
        assert!(!root.path().join("old").exists() && root.path().join("new").exists());
        assert!(root.path().join("0123456789abcdef0123456789abcdef").exists(), "it is of another program");
    }
}
