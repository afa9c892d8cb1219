//! Scores that are kept between runs: a file for each model and measure, a record for each text. It only grows, so that what was
//! found before a kill is there when the next run goes on.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::diagnostic::{Diagnostic, Failure};
use crate::directories;

/// What a file begins with.
const START: [u8; 8] = *b"hscores1";
/// Bytes of a record: digest, score, checksum of both.
const RECORD: usize = 16 + 8 + 4;
/// Files that were not used for so long are deleted when others are used.
const UNUSED: Duration = Duration::from_hours(30 * 24);

/// What a text is known by: the first bytes of a SHA-256.
pub(super) type Digest = [u8; 16];

pub(super) fn short(digest: [u8; 32]) -> Digest {
    *digest.first_chunk().expect("there are 32 bytes")
}

/// The scores that are known.
#[derive(Debug)]
pub(super) struct Kept {
    known: HashMap<Digest, f64>,
    /// None where there is no cache directory.
    file: Option<(File, PathBuf)>,
}

impl Kept {
    /// Those of a key, which says all that they depend on beside the texts. Another run with the same key is waited for.
    pub(super) fn open(key: &str) -> Result<Self, Failure> {
        let make = |path: &PathBuf| DirBuilder::new().recursive(true).mode(0o700).create(path).is_ok();
        match directories::cache().map(|cache| cache.join("scores")).filter(make) {
            Some(root) => Self::open_in(&root, key),
            None => Ok(Self { known: HashMap::new(), file: None }),
        }
    }

    fn open_in(root: &Path, key: &str) -> Result<Self, Failure> {
        let path = root.join(format!("{}.bin", &key[..32]));
        delete_unused(root, &path);
        let read = || -> std::io::Result<(HashMap<Digest, f64>, File)> {
            let mut options = OpenOptions::new();
            let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            file.lock()?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            let records = bytes.strip_prefix(&START).unwrap_or_default().as_chunks::<RECORD>().0;
            let known: Vec<(Digest, f64)> = records.iter().map_while(decode).collect();
            if known.is_empty() {
                file.set_len(0)?;
                file.rewind()?;
                file.write_all(&START)?;
            } else {
                // What a kill has cut off, or a disk has spoilt, is written again.
                let end = (START.len() + known.len() * RECORD) as u64;
                file.set_len(end)?;
                file.seek(SeekFrom::Start(end))?;
                file.set_modified(SystemTime::now())?;
            }
            Ok((known.into_iter().collect(), file))
        };
        let (known, file) = read().map_err(|error| unwritable(&path, &error))?;
        Ok(Self { known, file: Some((file, path)) })
    }

    /// The score of a text.
    pub(super) fn get(&self, digest: &Digest) -> Option<f64> {
        self.known.get(digest).copied()
    }

    /// Keeps more of them.
    pub(super) fn add(&mut self, scores: &[(Digest, f64)]) -> Result<(), Failure> {
        self.known.extend(scores.iter().copied());
        let Some((file, path)) = &mut self.file else { return Ok(()) };
        let bytes: Vec<u8> = scores.iter().flat_map(|&(digest, score)| encode(digest, score)).collect();
        file.write_all(&bytes).map_err(|error| unwritable(path, &error).into())
    }
}

fn encode(digest: Digest, score: f64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..16].copy_from_slice(&digest);
    record[16..24].copy_from_slice(&score.to_le_bytes());
    let checksum = crc32fast::hash(&record[..24]);
    record[24..].copy_from_slice(&checksum.to_le_bytes());
    record
}

/// None for bytes that are no record.
fn decode(record: &[u8; RECORD]) -> Option<(Digest, f64)> {
    let (digest, rest) = record.split_first_chunk::<16>()?;
    let (score, checksum) = rest.split_first_chunk::<8>()?;
    (crc32fast::hash(&record[..24]).to_le_bytes() == checksum).then(|| (*digest, f64::from_le_bytes(*score)))
}

/// Deletes files of other keys that nobody used for long. What cannot be deleted stays.
fn delete_unused(root: &Path, own: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let (path, used) = (entry.path(), entry.metadata().and_then(|metadata| metadata.modified()));
        let is_unused = used.is_ok_and(|used| used.elapsed().is_ok_and(|elapsed| elapsed > UNUSED));
        if is_unused && path != own && is_ours(&path) {
            let _ = fs::remove_file(&path);
        }
    }
}

/// True for a file of scores.
fn is_ours(path: &Path) -> bool {
    let mut start = [0; START.len()];
    intake::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == START
}

fn unwritable(path: &Path, error: &std::io::Error) -> Diagnostic {
    Diagnostic::error("io::write", format!("`{}` cannot be written", path.display())).why(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef01234567";

    fn scores(kept: &Kept) -> Vec<Option<f64>> {
        (0..4).map(|text| kept.get(&[text; 16])).collect()
    }

    #[test]
    fn a_file_that_was_cut_anywhere_has_what_was_whole() {
        let root = tempfile::tempdir().unwrap();
        let all: Vec<(Digest, f64)> = (0..3).map(|text| ([text; 16], f64::from(text) + 0.5)).collect();
        let mut kept = Kept::open_in(root.path(), KEY).unwrap();
        kept.add(&all[..1]).unwrap();
        kept.add(&all[1..]).unwrap();
        drop(kept);
        let path = root.path().join(format!("{}.bin", &KEY[..32]));
        let whole = fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut kept = Kept::open_in(root.path(), KEY).unwrap();
            let count = cut.saturating_sub(START.len()) / RECORD;
            let expected = |text: usize| (text < count).then_some(text as f64 + 0.5);
            assert_eq!(scores(&kept), (0..4).map(expected).collect::<Vec<_>>(), "cut at {cut}");
            kept.add(&all[count..]).unwrap();
            drop(kept);
            assert_eq!(fs::read(&path).unwrap(), whole, "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            fs::write(&path, changed).unwrap();
            let found = scores(&Kept::open_in(root.path(), KEY).unwrap());
            let is_as_written =
                |(text, score): (usize, &Option<f64>)| score.is_none() || *score == Some(text as f64 + 0.5);
            assert!(found.iter().enumerate().all(is_as_written), "byte {at}: {found:?}");
        }
    }

    #[test]
    fn only_own_files_that_nobody_used_are_deleted() {
        let root = tempfile::tempdir().unwrap();
        let make = |name: &str, start: &[u8], age: Duration| {
            fs::write(root.path().join(name), start).unwrap();
            File::options()
                .write(true)
                .open(root.path().join(name))
                .unwrap()
                .set_modified(SystemTime::now() - age)
                .unwrap();
        };
        make("old.bin", &START, 2 * UNUSED);
        make("new.bin", &START, UNUSED / 2);
        make("other.bin", b"something", 2 * UNUSED);
        drop(Kept::open_in(root.path(), KEY).unwrap());
        let is_there = |name: &str| root.path().join(name).exists();
        assert!(!is_there("old.bin") && is_there("new.bin") && is_there("other.bin"));
    }
}
