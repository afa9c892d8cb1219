//! Samples on disk: written once, piece by piece, and read one at a time, so that memory does not grow with rows.
//!
//! A store is two files. `samples.bin` has the pieces, each behind a frame with its length and checksum: what a run that was
//! killed has finished is known by that. `index.bin` says where each sample is and how large. Whether a store is complete
//! says whoever keeps it ([`crate::samples`]).

mod builder;
mod record;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub use self::builder::{Builder, Frame, is_store};
pub use self::record::Sizes;
use super::example::Example;

/// The files.
pub const SAMPLES_FILE: &str = "samples.bin";
/// Where each sample is.
pub const INDEX_FILE: &str = "index.bin";
/// Entries of the index that are read at a time.
const BLOCK: usize = 4096;

/// Why samples could not be kept, or not be read again.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file cannot be written.
    #[error("`{path}` cannot be written: {source}", path = path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be read.
    #[error("`{path}` cannot be read: {source}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not as it was written.
    #[error("`{path}` is damaged: {reason}", path = path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How that shows.
        reason: String,
    },
}

/// Where a sample is, and how large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// Its record.
    offset: u64,
    length: u32,
    /// Its row.
    row_length: u32,
    row_offset: u64,
    /// Of record, row and sizes.
    checksum: u32,
    sizes: Sizes,
}

impl Entry {
    const BYTES: usize = 52;

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.row_length.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.row_offset.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[28..].copy_from_slice(&self.sizes.to_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
            bytes[at..at + N].try_into().expect("it lies inside")
        }
        Self {
            offset: u64::from_le_bytes(part(bytes, 0)),
            length: u32::from_le_bytes(part(bytes, 8)),
            row_length: u32::from_le_bytes(part(bytes, 12)),
            row_offset: u64::from_le_bytes(part(bytes, 16)),
            checksum: u32::from_le_bytes(part(bytes, 24)),
            sizes: Sizes::from_bytes(part(bytes, 28)),
        }
    }
}

/// Samples in files, in the order in which they were made.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    samples: File,
    index: File,
    len: usize,
    bytes: u64,
    digest: String,
}

impl Store {
    /// Opens the files of a directory.
    ///
    /// # Errors
    /// Files that cannot be read, or do not have the samples and bytes that are known of them.
    pub fn open(directory: &Path, len: usize, bytes: u64, digest: String) -> Result<Self, StoreError> {
        let open = |name: &str| {
            let path = directory.join(name);
            intake::open(&path).map_err(|source| StoreError::Read { path, source })
        };
        Self::of_files(directory, open(SAMPLES_FILE)?, open(INDEX_FILE)?, len, bytes, digest)
    }

    fn of_files(
        directory: &Path,
        samples: File,
        index: File,
        len: usize,
        bytes: u64,
        digest: String,
    ) -> Result<Self, StoreError> {
        let wanted = [(SAMPLES_FILE, &samples, bytes), (INDEX_FILE, &index, (len * Entry::BYTES) as u64)];
        for (name, file, wanted) in wanted {
            let path = directory.join(name);
            let found = file.metadata().map_err(|source| StoreError::Read { path: path.clone(), source })?.len();
            if found != wanted {
                return Err(StoreError::Damaged { path, reason: format!("it has {found} bytes in place of {wanted}") });
            }
        }
        Ok(Self { path: directory.to_owned(), samples, index, len, bytes, digest })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// SHA-256 of its samples, whatever their rows are called.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Bytes of the samples on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// One of them, with its row; it must be there.
    ///
    /// # Errors
    /// A file that cannot be read, or that is damaged.
    pub fn get(&self, sample: usize) -> Result<Example, StoreError> {
        let entry = self.entries(sample..sample + 1)?[0];
        let record = self.read(entry.offset, entry.length)?;
        let row = self.read(entry.row_offset, entry.row_length)?;
        let damaged = || self.damaged(format!("sample {sample} is not what was written"));
        if checksum(&record, &row, entry.sizes) != entry.checksum {
            return Err(damaged());
        }
        let mut example = record::decode(&record).ok_or_else(damaged)?;
        example.row_json = String::from_utf8(row).map_err(|_| damaged())?.into();
        Ok(example)
    }

    /// How large all of them are, in their order.
    pub fn sizes(&self) -> impl Iterator<Item = Result<Sizes, StoreError>> + '_ {
        let blocks = (0..self.len).step_by(BLOCK).map(|start| start..(start + BLOCK).min(self.len));
        let mut failed = false;
        blocks
            .map_while(move |block| {
                if failed {
                    return None;
                }
                let entries = self.entries(block);
                failed = entries.is_err();
                Some(match entries {
                    Ok(entries) => entries.into_iter().map(|entry| Ok(entry.sizes)).collect(),
                    Err(error) => vec![Err(error)],
                })
            })
            .flatten()
    }

    fn entries(&self, samples: std::ops::Range<usize>) -> Result<Vec<Entry>, StoreError> {
        let mut bytes = vec![0; samples.len() * Entry::BYTES];
        let path = || self.path.join(INDEX_FILE);
        self.index
            .read_exact_at(&mut bytes, (samples.start * Entry::BYTES) as u64)
            .map_err(|source| StoreError::Read { path: path(), source })?;
        Ok(bytes.as_chunks().0.iter().map(Entry::from_bytes).collect())
    }

    fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>, StoreError> {
        // Before memory is taken for it.
        if offset.checked_add(length.into()).is_none_or(|end| end > self.bytes) {
            return Err(self.damaged("its index points behind its end".to_owned()));
        }
        let mut bytes = vec![0; length as usize];
        let path = || self.path.join(SAMPLES_FILE);
        self.samples.read_exact_at(&mut bytes, offset).map_err(|source| StoreError::Read { path: path(), source })?;
        Ok(bytes)
    }

    fn damaged(&self, reason: String) -> StoreError {
        StoreError::Damaged { path: self.path.join(SAMPLES_FILE), reason }
    }
}

fn checksum(record: &[u8], row: &[u8], sizes: Sizes) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(record);
    hasher.update(row);
    hasher.update(&sizes.to_bytes());
    hasher.finalize()
}
