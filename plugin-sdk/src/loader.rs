//! Dataset loaders: bytes in, rows out (`datasets[].ds_type`).

use std::cell::RefCell;
use std::rc::Rc;

use serde::de::DeserializeOwned;

use crate::bindings::loader::exports::trainer::plugin::dataset_loader as wit;
pub use crate::bindings::loader::exports::trainer::plugin::dataset_loader::{BadRow, Batch, Row};
use crate::bindings::shared::trainer::plugin::files;
use crate::bindings::shared::trainer::plugin::types::PluginError;
pub use crate::bindings::shared::trainer::plugin::types::RowError;
use crate::{Error, config, log};

/// A dataset loader. Register it with [`register_dataset_loader!`](crate::register_dataset_loader).
pub trait DatasetLoader: Sized + 'static {
    /// The user's config for it. [`NoConfig`](crate::NoConfig) if there is none.
    type Config: DeserializeOwned;

    /// Starts with a config, over what the user's `path` names.
    ///
    /// # Errors
    /// [`Error::Config`] for a config that cannot work; words for the user for bytes that are not of this format.
    fn open(config: Self::Config, source: Source) -> Result<Self, Error>;

    /// Rows in all, where that is known without reading everything.
    fn rows(&self) -> Option<u64> {
        None
    }

    /// At least one row unless done, at most `max_rows`. A row that cannot be read is a [`BadRow`] in its place.
    ///
    /// # Errors
    /// Words for the user where nothing more can be read.
    fn next(&mut self, max_rows: u32) -> Result<Batch, Error>;

    /// Where the next call would go on: opaque, small, valid for the same bytes.
    fn cursor(&self) -> Vec<u8>;

    /// Goes on from a cursor of the same bytes and config.
    ///
    /// # Errors
    /// A cursor that this loader did not make.
    fn seek(&mut self, cursor: &[u8]) -> Result<(), Error>;
}

/// What `datasets[].path` named.
pub enum Source {
    /// One file.
    File(Rc<dyn ReadAt>),
    /// A directory.
    Directory(Rc<dyn Files>),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(file) => f.debug_tuple("File").field(&file.name()).finish(),
            Self::Directory(directory) => f.debug_tuple("Directory").field(&directory.name()).finish(),
        }
    }
}

/// A file that the host opened; in tests, [`Memory`].
pub trait ReadAt {
    /// A name for messages.
    fn name(&self) -> String;
    /// Length in bytes.
    fn len(&self) -> u64;
    /// True without bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// At most `len` bytes from `offset`; fewer only at the end.
    fn read(&self, offset: u64, len: u32) -> Vec<u8>;
}

/// A directory that the host opened; in tests, [`MemoryFiles`].
pub trait Files {
    /// A name for messages.
    fn name(&self) -> String;
    /// Relative paths of its files, sorted.
    ///
    /// # Errors
    /// What the system said.
    fn list(&self) -> Result<Vec<String>, String>;
    /// Opens one of them.
    ///
    /// # Errors
    /// What the system said.
    fn open(&self, path: &str) -> Result<Rc<dyn ReadAt>, String>;
}

/// The directories that the user granted to this plugin beside its data (`plugins[].grants`, `--grant`), in the order of
/// the config. A plugin that calls this needs a grant: the host refuses to start it without one. Empty in native tests.
pub fn granted_directories() -> Vec<Rc<dyn Files>> {
    #[cfg(target_family = "wasm")]
    return crate::bindings::shared::trainer::plugin::grants::directories()
        .into_iter()
        .map(|directory| Rc::new(HostDirectory(directory)) as Rc<dyn Files>)
        .collect();
    #[cfg(not(target_family = "wasm"))]
    Vec::new()
}

/// A file in memory, for tests.
#[derive(Debug, Clone)]
pub struct Memory(
    /// Its bytes.
    pub Vec<u8>,
);

impl ReadAt for Memory {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, offset: u64, len: u32) -> Vec<u8> {
        let start = (offset as usize).min(self.0.len());
        self.0[start..(start + len as usize).min(self.0.len())].to_vec()
    }
}

/// A directory in memory, for tests.
#[derive(Debug, Clone, Default)]
pub struct MemoryFiles(
    /// Its files.
    pub std::collections::BTreeMap<String, Vec<u8>>,
);

impl Files for MemoryFiles {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn list(&self) -> Result<Vec<String>, String> {
        Ok(self.0.keys().cloned().collect())
    }

    fn open(&self, path: &str) -> Result<Rc<dyn ReadAt>, String> {
        self.0
            .get(path)
            .map(|bytes| Rc::new(Memory(bytes.clone())) as Rc<dyn ReadAt>)
            .ok_or_else(|| format!("no `{path}`"))
    }
}

struct HostFile(files::ByteSource);

impl ReadAt for HostFile {
    fn name(&self) -> String {
        self.0.name()
    }

    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read(&self, offset: u64, len: u32) -> Vec<u8> {
        self.0.read(offset, len)
    }
}

struct HostDirectory(files::Directory);

impl Files for HostDirectory {
    fn name(&self) -> String {
        self.0.name()
    }

    fn list(&self) -> Result<Vec<String>, String> {
        self.0.list()
    }

    fn open(&self, path: &str) -> Result<Rc<dyn ReadAt>, String> {
        Ok(Rc::new(HostFile(self.0.open(path)?)))
    }
}

/// Reads a file line by line, a block at a time.
pub struct Lines {
    file: Rc<dyn ReadAt>,
    /// Bytes from `start` on that were read.
    block: Vec<u8>,
    /// Place of the block in the file.
    block_start: u64,
    /// Place of the next line in the file.
    position: u64,
    /// Lines given so far.
    number: u64,
}

/// Bytes that are read at a time.
const BLOCK: u32 = 1 << 16;
/// Bytes that one line may have.
const LINE_LIMIT: usize = 64 << 20;

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("position", &self.position).field("number", &self.number).finish_non_exhaustive()
    }
}

impl Lines {
    /// Starts at the beginning, after a byte-order mark if there is one.
    pub fn new(file: Rc<dyn ReadAt>) -> Self {
        let position = if file.read(0, 3) == [0xef, 0xbb, 0xbf] { 3 } else { 0 };
        Self { file, block: Vec::new(), block_start: position, position, number: 0 }
    }

    /// Goes on at a place that [`position`](Self::position) and [`number`](Self::number) gave.
    pub fn seek(&mut self, position: u64, number: u64) {
        self.block.clear();
        (self.block_start, self.position, self.number) = (position, position, number);
    }

    /// Place of the next line in the file.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Lines given so far: the number of the last one, counted from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The next line without its line break (`\n` or `\r\n`); none at the end.
    ///
    /// # Errors
    /// A line that is longer than any row can be.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>, Error> {
        let mut scanned = (self.position - self.block_start) as usize;
        loop {
            if let Some(at) = self.block[scanned..].iter().position(|&byte| byte == b'\n') {
                let (start, end) = ((self.position - self.block_start) as usize, scanned + at);
                self.position = self.block_start + end as u64 + 1;
                self.number += 1;
                return Ok(Some(without_return(&self.block[start..end])));
            }
            let start = (self.position - self.block_start) as usize;
            if start > 0 {
                self.block.drain(..start);
                self.block_start = self.position;
            }
            scanned = self.block.len();
            if scanned > LINE_LIMIT {
                return Err(Error::Failed(format!("line {} has more than {} MiB", self.number + 1, LINE_LIMIT >> 20)));
            }
            let more = self.file.read(self.block_start + scanned as u64, BLOCK);
            if more.is_empty() {
                if self.block.is_empty() {
                    return Ok(None);
                }
                self.position = self.block_start + self.block.len() as u64;
                self.number += 1;
                return Ok(Some(without_return(&self.block)));
            }
            self.block.extend(more);
        }
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Connects the trait with the world; used by the macro.
#[doc(hidden)]
#[derive(Debug)]
pub struct Adapter<T>(RefCell<T>);

impl<T: DatasetLoader> wit::Guest for Adapter<T> {
    type Loader = Self;
}

impl<T: DatasetLoader> wit::GuestLoader for Adapter<T> {
    fn create(config_json: String, source: wit::Source) -> Result<wit::Loader, PluginError> {
        log::report_panics();
        let source = match source {
            wit::Source::File(file) => Source::File(Rc::new(HostFile(file))),
            wit::Source::Directory(directory) => Source::Directory(Rc::new(HostDirectory(directory))),
        };
        let loader =
            config::read(&config_json).and_then(|config| T::open(config, source)).map_err(PluginError::from)?;
        Ok(wit::Loader::new(Self(RefCell::new(loader))))
    }

    fn len(&self) -> Option<u64> {
        self.0.borrow().rows()
    }

    fn next(&self, max_rows: u32) -> Result<Batch, PluginError> {
        self.0.borrow_mut().next(max_rows).map_err(PluginError::from)
    }

    fn cursor(&self) -> Vec<u8> {
        self.0.borrow().cursor()
    }

    fn seek(&self, cursor: Vec<u8>) -> Result<(), PluginError> {
        self.0.borrow_mut().seek(&cursor).map_err(PluginError::from)
    }
}

/// Makes this crate a dataset-loader plugin:
/// `register_dataset_loader!(Tickets, name: "acme:tickets", description: "Exports of our ticket system");`
#[macro_export]
macro_rules! register_dataset_loader {
    ($type:ty, $($manifest:tt)*) => {
        $crate::__manifest!("dataset-loader", $($manifest)*);
        #[cfg(target_family = "wasm")]
        const _: () = {
            type Plugin = $crate::loader::Adapter<$type>;
            $crate::bindings::loader::export_dataset_loader!(Plugin with_types_in $crate::bindings::loader);
        };
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<String> {
        let mut lines = Lines::new(Rc::new(Memory(bytes.to_vec())));
        let mut all = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            all.push(String::from_utf8(line.to_vec()).unwrap());
        }
        all
    }

    #[test]
    fn lines_end_at_breaks_and_at_the_end() {
        assert_eq!(lines(b"\xef\xbb\xbfa\r\n\nb"), ["a", "", "b"]);
        assert_eq!(lines(b"a\n"), ["a"]);
        assert_eq!(lines(b""), [""; 0]);
        let long = "x".repeat(200_000);
        assert_eq!(lines(format!("{long}\ny\n{long}").as_bytes()), [&long, "y", &long]);
    }

    #[test]
    fn seeking_gives_the_same_lines() {
        let file = Rc::new(Memory(b"one\ntwo\nthree\n".to_vec()));
        let mut lines = Lines::new(file.clone());
        lines.next_line().unwrap();
        let (position, number) = (lines.position(), lines.number());
        assert_eq!(lines.next_line().unwrap().unwrap(), b"two");
        let mut again = Lines::new(file);
        again.seek(position, number);
        assert_eq!(again.next_line().unwrap().unwrap(), b"two");
        assert_eq!(again.number(), 2);
    }
}
