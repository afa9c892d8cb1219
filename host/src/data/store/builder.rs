//! Writing a store: frame after frame, so that what was finished before a kill is there when it goes on.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::super::dropped::Dropped;
use super::super::example::Example;
use super::{Entry, INDEX_FILE, SAMPLES_FILE, Sizes, Store, StoreError, checksum, record};
use crate::digest::hex;

/// What a file begins with.
const START: [u8; 8] = *b"hsample1";
/// What a frame begins with.
const FRAME: u32 = 0x6672_616d;
/// Bytes of a frame's header: mark, samples, bytes of what was left out and of the samples, checksum of all behind it.
const HEADER: usize = 4 + 4 + 4 + 8 + 4;
/// Bytes that one frame may have.
const FRAME_LIMIT: u64 = 16 << 30;

/// A piece of a dataset as bytes.
#[derive(Debug)]
pub struct Frame {
    /// Offsets are those behind the start of `body`.
    entries: Vec<Entry>,
    dropped: Vec<u8>,
    body: Vec<u8>,
}

impl Frame {
    /// Of some samples, and of what was left out beside them.
    pub fn new(examples: &[Example], dropped: &Dropped) -> Self {
        let mut frame = Self {
            entries: Vec::with_capacity(examples.len()),
            dropped: serde_json::to_vec(dropped).expect("counts are plain"),
            body: Vec::new(),
        };
        for example in examples {
            let offset = frame.body.len();
            record::encode(example, &mut frame.body);
            let row_offset = frame.body.len();
            frame.body.extend(example.row_json.as_bytes());
            let (record, row) = (&frame.body[offset..row_offset], example.row_json.as_bytes());
            let sizes = Sizes::of(example);
            let entry = Entry {
                offset: offset as u64,
                length: record.len() as u32,
                row_length: row.len() as u32,
                row_offset: row_offset as u64,
                checksum: checksum(record, row, sizes),
                sizes,
            };
            frame.entries.push(entry);
        }
        frame
    }

    /// Its bytes before those of the samples.
    fn head(&self) -> Vec<u8> {
        let mut rest = self.dropped.clone();
        rest.extend(self.entries.iter().flat_map(|entry| entry.to_bytes()));
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&rest);
        hasher.update(&self.body);
        let mut head = Vec::with_capacity(HEADER + rest.len());
        head.extend(FRAME.to_le_bytes());
        head.extend((self.entries.len() as u32).to_le_bytes());
        head.extend((self.dropped.len() as u32).to_le_bytes());
        head.extend((self.body.len() as u64).to_le_bytes());
        head.extend(hasher.finalize().to_le_bytes());
        head.extend(rest);
        head
    }

    /// The next frame of a file; none where there is no whole one.
    fn read(file: &mut impl Read, left: u64) -> Option<Self> {
        let mut header = [0; HEADER];
        file.read_exact(&mut header).ok()?;
        let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let body = u64::from_le_bytes(header[12..20].try_into().expect("eight bytes"));
        let (count, dropped) = (number(4) as usize, number(8) as usize);
        let entries = count * Entry::BYTES;
        let length = body.checked_add((entries + dropped) as u64)?;
        if number(0) != FRAME || length > left.min(FRAME_LIMIT) {
            return None;
        }
        let mut bytes = vec![0; length as usize];
        file.read_exact(&mut bytes).ok()?;
        if crc32fast::hash(&bytes) != number(20) {
            return None;
        }
        let body = bytes.split_off(dropped + entries);
        let entries = bytes.split_off(dropped).as_chunks().0.iter().map(Entry::from_bytes).collect();
        Some(Self { entries, dropped: bytes, body })
    }

    fn bytes(&self) -> u64 {
        (HEADER + self.dropped.len() + self.entries.len() * Entry::BYTES + self.body.len()) as u64
    }
}

/// True for a directory with samples that this program wrote, all of them or not.
pub fn is_store(directory: &Path) -> bool {
    let mut start = [0; START.len()];
    let file = intake::open(&directory.join(SAMPLES_FILE));
    file.and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == START
}

/// A store that is being written.
#[derive(Debug)]
pub struct Builder {
    path: PathBuf,
    samples: BufWriter<File>,
    index: BufWriter<File>,
    pieces: usize,
    len: usize,
    bytes: u64,
    dropped: Dropped,
    digest: Sha256,
    /// Rows are part of what the digest is of.
    with_rows: bool,
}

impl Builder {
    /// Opens the files of a directory, and goes on behind the last whole frame that they have. With `with_rows`, samples whose
    /// rows differ are not the same.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn open(directory: &Path, with_rows: bool) -> Result<Self, StoreError> {
        let open = |name: &str| {
            let path = directory.join(name);
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).open(&path);
            file.map_err(|source| StoreError::Write { path, source })
        };
        Self::of_files(directory, open(SAMPLES_FILE)?, open(INDEX_FILE)?, with_rows)
    }

    /// A store in files without names, which are gone with it.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn unnamed(with_rows: bool) -> Result<Self, StoreError> {
        let directory = std::env::temp_dir();
        let open = || tempfile::tempfile().map_err(|source| StoreError::Write { path: directory.clone(), source });
        Self::of_files(&directory, open()?, open()?, with_rows)
    }

    fn of_files(directory: &Path, samples: File, index: File, with_rows: bool) -> Result<Self, StoreError> {
        let mut builder = Self {
            path: directory.to_owned(),
            samples: BufWriter::with_capacity(1 << 20, samples),
            index: BufWriter::new(index),
            pieces: 0,
            len: 0,
            bytes: START.len() as u64,
            dropped: Dropped::default(),
            digest: Sha256::new(),
            with_rows,
        };
        builder.go_on().map_err(|source| builder.unwritten(SAMPLES_FILE, source))?;
        Ok(builder)
    }

    /// Takes up what there is.
    fn go_on(&mut self) -> std::io::Result<()> {
        self.index.get_ref().set_len(0)?;
        let length = self.samples.get_ref().metadata()?.len();
        let mut file = BufReader::with_capacity(1 << 20, self.samples.get_ref().try_clone()?);
        let mut start = [0; START.len()];
        if file.read_exact(&mut start).is_ok() && start == START {
            while let Some(frame) = Frame::read(&mut file, length - self.bytes) {
                let Ok(dropped) = serde_json::from_slice(&frame.dropped) else { break };
                self.dropped.add(&dropped);
                self.account(&frame)?;
            }
        }
        let end = if self.pieces == 0 { 0 } else { self.bytes };
        self.samples.get_ref().set_len(end)?;
        self.samples.seek(SeekFrom::Start(end))?;
        if self.pieces == 0 {
            self.samples.write_all(&START)?;
        }
        Ok(())
    }

    /// Notes where the samples of a frame are, which begins where the last one ended.
    fn account(&mut self, frame: &Frame) -> std::io::Result<()> {
        let body = self.bytes + frame.bytes() - frame.body.len() as u64;
        for entry in &frame.entries {
            let record = frame.body.get(entry.offset as usize..).and_then(|left| left.get(..entry.length as usize));
            let row =
                frame.body.get(entry.row_offset as usize..).and_then(|left| left.get(..entry.row_length as usize));
            let (Some(record), Some(row)) = (record, row) else { return Err(std::io::ErrorKind::InvalidData.into()) };
            self.digest.update((record.len() as u64).to_le_bytes());
            self.digest.update(record);
            if self.with_rows {
                self.digest.update((row.len() as u64).to_le_bytes());
                self.digest.update(row);
            }
            let place = Entry { offset: body + entry.offset, row_offset: body + entry.row_offset, ..*entry };
            self.index.write_all(&place.to_bytes())?;
        }
        self.pieces += 1;
        self.len += frame.entries.len();
        self.bytes += frame.bytes();
        Ok(())
    }

    /// Pieces that are there.
    pub fn pieces(&self) -> usize {
        self.pieces
    }

    /// Samples that are there.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What was left out of the pieces that are there.
    pub fn dropped(&self) -> &Dropped {
        &self.dropped
    }

    /// Adds the next piece.
    ///
    /// # Errors
    /// A full disk, and whatever else writing meets.
    pub fn add(&mut self, frame: &Frame, dropped: &Dropped) -> Result<(), StoreError> {
        let mut write = || -> std::io::Result<()> {
            self.samples.write_all(&frame.head())?;
            self.samples.write_all(&frame.body)?;
            self.account(frame)
        };
        let written = write();
        self.dropped.add(dropped);
        written.map_err(|source| self.unwritten(SAMPLES_FILE, source))
    }

    /// Puts everything on the disk.
    ///
    /// # Errors
    /// A full disk, and whatever else writing meets.
    pub fn finish(mut self) -> Result<Store, StoreError> {
        let flush = |file: &mut BufWriter<File>| file.flush().and_then(|()| file.get_ref().sync_data());
        flush(&mut self.samples).map_err(|source| self.unwritten(SAMPLES_FILE, source))?;
        flush(&mut self.index).map_err(|source| self.unwritten(INDEX_FILE, source))?;
        let Self { path, samples, index, len, bytes, digest, .. } = self;
        let file = |writer: BufWriter<File>, name: &str| {
            writer.into_inner().map_err(|error| StoreError::Write { path: path.join(name), source: error.into_error() })
        };
        let (samples, index) = (file(samples, SAMPLES_FILE)?, file(index, INDEX_FILE)?);
        Store::of_files(&path, samples, index, len, bytes, hex(&digest.finalize()))
    }

    fn unwritten(&self, name: &str, source: std::io::Error) -> StoreError {
        StoreError::Write { path: self.path.join(name), source }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tokenize::TokenSample;
    use super::*;

    fn examples(from: u32, count: u32) -> Vec<Example> {
        let one = |id: u32| Example {
            tokens: TokenSample {
                ids: vec![id; 1 + id as usize % 7],
                trained: vec![true; 1 + id as usize % 7],
                weights: None,
            },
            rejected: None,
            desirable: None,
            margin: None,
            labels: Vec::new(),
            row_json: format!("{{\"row\":{id}}}").into(),
            origin: None,
        };
        (from..from + count).map(one).collect()
    }

    fn add(builder: &mut Builder, from: u32, count: u32) {
        let dropped = Dropped::default();
        builder.add(&Frame::new(&examples(from, count), &dropped), &dropped).unwrap();
    }

    #[test]
    fn a_store_that_was_cut_anywhere_goes_on_to_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let mut whole = Builder::open(folder.path(), true).unwrap();
        for (from, count) in [(0, 5), (5, 0), (5, 9)] {
            add(&mut whole, from, count);
        }
        let store = whole.finish().unwrap();
        assert_eq!(store.len(), 14);
        for sample in 0..14 {
            assert_eq!(store.get(sample).unwrap(), examples(sample as u32, 1)[0]);
        }
        let sizes: Vec<Sizes> = store.sizes().collect::<Result<_, _>>().unwrap();
        assert_eq!(sizes, examples(0, 14).iter().map(Sizes::of).collect::<Vec<_>>());
        let bytes = std::fs::read(folder.path().join(SAMPLES_FILE)).unwrap();
        for cut in 0..=bytes.len() {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(SAMPLES_FILE), &bytes[..cut]).unwrap();
            let mut builder = Builder::open(folder.path(), true).unwrap();
            for (piece, (from, count)) in [(0, 5), (5, 0), (5, 9)].into_iter().enumerate() {
                if piece >= builder.pieces() {
                    add(&mut builder, from, count);
                }
            }
            let again = builder.finish().unwrap();
            assert_eq!((again.len(), again.digest()), (14, store.digest()), "cut at {cut}");
            assert_eq!(std::fs::read(folder.path().join(SAMPLES_FILE)).unwrap(), bytes);
        }
    }

    #[test]
    fn damage_is_told_and_never_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut builder = Builder::open(folder.path(), false).unwrap();
        add(&mut builder, 0, 3);
        let store = builder.finish().unwrap();
        let (len, bytes) = (store.len(), store.bytes());
        let path = folder.path().join(SAMPLES_FILE);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            std::fs::write(&path, changed).unwrap();
            let store = Store::open(folder.path(), len, bytes, String::new()).unwrap();
            for sample in 0..3 {
                // Frames are for going on; what is read is held against its own checksum.
                if let Ok(example) = store.get(sample) {
                    assert_eq!(example, examples(sample as u32, 1)[0], "byte {at}");
                }
            }
        }
        std::fs::write(&path, &whole[1..]).unwrap();
        assert!(matches!(Store::open(folder.path(), len, bytes, String::new()), Err(StoreError::Damaged { .. })));
    }
}
