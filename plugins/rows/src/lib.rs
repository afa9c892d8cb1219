//! What the bundled dataset loaders share: which files a path means, what gzip and zstd hold, one row after another.
//!
//! A loader is a [`Format`] in a [`Loader`]: it says how one file becomes rows, and nothing of files and cursors.

mod directory;
mod file;
mod formats;
pub mod shell;

use std::rc::Rc;

use plugin_sdk::loader::{BadRow, Batch, DatasetLoader, Files, Row, RowError, Source};
use plugin_sdk::{Error, log};
use serde::de::{self, DeserializeOwned};
use serde::{Deserialize, Deserializer};

pub use directory::extension;
pub use file::File;
pub use formats::{Expected, HEAD, other};

/// Which files of a path are meant: keys beside `ds_type`, of every loader here.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    /// The split; `train` where none is named.
    pub split: Option<String>,
    /// Files of a directory, by their names or by patterns. Empty for all.
    pub data_files: DataFiles,
}

/// One name, or a list of names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DataFiles(pub Vec<String>);

/// The config path of an entry of `data_files`.
fn data_file_path(index: usize) -> String {
    format!("data_files[{index}]")
}

impl<'de> Deserialize<'de> for DataFiles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum OneOrMany {
            One(String),
            Many(Vec<String>),
        }
        match OneOrMany::deserialize(deserializer) {
            Ok(OneOrMany::One(name)) => Ok(Self(vec![name])),
            Ok(OneOrMany::Many(names)) => Ok(Self(names)),
            Err(_) => Err(de::Error::custom("write a file's name, or a list of them")),
        }
    }
}

/// A format of files with rows.
pub trait Format: Sized + 'static {
    /// The loader's config.
    type Config: DeserializeOwned;

    /// Extensions of its files, in small letters.
    const EXTENSIONS: &'static [&'static str];

    /// Which files a config means.
    fn selection(config: &Self::Config) -> Selection;

    /// With the rest of the config.
    ///
    /// # Errors
    /// What is wrong with the config.
    fn new(config: Self::Config) -> Result<Self, Error>;

    /// The rows of a file.
    ///
    /// # Errors
    /// That it is of another format, or broken as a whole.
    fn open(&self, file: &Rc<File>) -> Result<Box<dyn Rows>, Error>;

    /// How many rows a file has, where that is known without reading them.
    fn count(&self, _file: &Rc<File>) -> Option<u64> {
        None
    }

    /// Why the rows of `file` cannot stand behind those of `first`: they have other columns.
    ///
    /// # Errors
    /// In words for the user.
    fn fits(&self, _first: &Rc<File>, _file: &Rc<File>) -> Result<(), Error> {
        Ok(())
    }
}

/// The rows of one file.
pub trait Rows {
    /// The next row; none at the end.
    ///
    /// # Errors
    /// That nothing more can be read.
    fn next(&mut self) -> Result<Option<Result<Row, BadRow>>, Error>;

    /// Where the next call would go on: two numbers, of which the second is 0 only at the start.
    fn cursor(&self) -> (u64, u64);

    /// Goes on from a cursor of the same file.
    ///
    /// # Errors
    /// That it cannot be read there.
    fn seek(&mut self, cursor: (u64, u64)) -> Result<(), Error>;
}

/// A row that cannot be used.
pub fn bad(message: impl Into<String>, position: impl Into<String>) -> BadRow {
    BadRow { error: RowError { message: message.into(), field: None }, position: position.into() }
}

/// A dataset loader for a format.
pub struct Loader<F> {
    format: F,
    files: Opens,
    /// The file that is being read.
    current: usize,
    rows: Option<(Rc<File>, Box<dyn Rows>)>,
}

/// The files that there are, by number.
enum Opens {
    One(Rc<File>),
    Many { directory: Rc<dyn Files>, names: Vec<String> },
}

impl Opens {
    fn new(source: Source, extensions: &'static [&'static str], wanted: &Selection) -> Result<Self, Error> {
        match source {
            Source::File(file) => {
                let name = file.name();
                if let Some(split) = wanted.split.as_ref().filter(|split| *split != "train") {
                    let message = format!("`{name}` is a file, which has the split `train` and no split `{split}`");
                    let help = "write `split: train`, and name the file of the split in `path`";
                    return Err(Error::config_with_help("split", message, help));
                }
                let is_named = |pattern: &String| {
                    let last = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
                    last(pattern) == last(&name)
                };
                if let Some(index) = wanted.data_files.0.iter().position(|pattern| !is_named(pattern)) {
                    let message = format!("`{}` is not in `{name}`, which is a file", wanted.data_files.0[index]);
                    let help = "name their directory in `path`, or delete `data_files`";
                    return Err(Error::config_with_help(data_file_path(index), message, help));
                }
                Ok(Self::One(Rc::new(File::new(file))))
            }
            Source::Directory(directory) => {
                let name = directory.name();
                let names = directory.list().map_err(Error::Failed)?;
                let listed = directory::Listed::of(names, extensions, wanted, &name)?;
                if listed.data.is_empty() {
                    return Err(listed.no_data(&name));
                }
                if let Some(words) = listed.passed_over(&name) {
                    log::info(&words);
                }
                if wanted.data_files.0.is_empty() {
                    listed.incomplete(&name).iter().for_each(|words| log::warn(words));
                }
                Ok(Self::Many { directory, names: listed.data })
            }
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many { names, .. } => names.len(),
        }
    }

    fn open(&self, index: usize) -> Result<Rc<File>, Error> {
        match self {
            Self::One(file) => Ok(Rc::clone(file)),
            Self::Many { directory, names } => {
                Ok(Rc::new(File::new(directory.open(&names[index]).map_err(Error::Failed)?)))
            }
        }
    }

    /// What stands before a position in messages: the file's name where there are several.
    fn prefix(&self, index: usize) -> String {
        match self {
            Self::One(_) => String::new(),
            Self::Many { names, .. } => format!("{} ", names[index]),
        }
    }
}

impl<F: Format> DatasetLoader for Loader<F> {
    type Config = F::Config;

    fn open(config: F::Config, source: Source) -> Result<Self, Error> {
        let files = Opens::new(source, F::EXTENSIONS, &F::selection(&config))?;
        Ok(Self { format: F::new(config)?, files, current: 0, rows: None })
    }

    fn rows(&self) -> Option<u64> {
        let count = |index| self.format.count(&self.files.open(index).ok()?);
        (0..self.files.count()).map(count).try_fold(0_u64, |sum, count| sum.checked_add(count?))
    }

    fn next(&mut self, max_rows: u32) -> Result<Batch, Error> {
        let mut rows = Vec::new();
        while rows.len() < max_rows as usize {
            match self.row()? {
                Some(row) => rows.push(row),
                None => return Ok(Batch { rows, done: true }),
            }
        }
        Ok(Batch { rows, done: false })
    }

    fn cursor(&self) -> Vec<u8> {
        let (place, number) = self.rows.as_ref().map_or((0, 0), |(_, rows)| rows.cursor());
        [self.current as u64, place, number].iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn seek(&mut self, cursor: &[u8]) -> Result<(), Error> {
        let words: Vec<u64> =
            cursor.chunks_exact(8).filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?))).collect();
        let &[file, place, number] = words.as_slice() else {
            return Err("this is not a cursor of this loader".into());
        };
        (self.current, self.rows) = (usize::try_from(file).unwrap_or(usize::MAX), None);
        if number > 0 && self.current < self.files.count() {
            let (file, mut rows) = self.start()?;
            rows.seek((place, number))?;
            self.rows = Some((file, rows));
        }
        Ok(())
    }
}

impl<F: Format> Loader<F> {
    fn start(&self) -> Result<(Rc<File>, Box<dyn Rows>), Error> {
        let file = self.files.open(self.current)?;
        if self.current > 0 {
            self.format.fits(&self.files.open(0)?, &file)?;
        }
        let rows = self.format.open(&file);
        // What is missing at the end of a packed file is the reason of whatever else is wrong.
        file.check()?;
        Ok((file, rows?))
    }

    fn row(&mut self) -> Result<Option<Result<Row, BadRow>>, Error> {
        while self.current < self.files.count() {
            let (file, mut rows) = match self.rows.take() {
                Some(rows) => rows,
                None => self.start()?,
            };
            let next = rows.next();
            file.check()?;
            if let Some(mut row) = next? {
                self.rows = Some((file, rows));
                let position = match &mut row {
                    Ok(row) => &mut row.position,
                    Err(row) => &mut row.position,
                };
                position.insert_str(0, &self.files.prefix(self.current));
                return Ok(Some(row));
            }
            self.current += 1;
        }
        Ok(None)
    }
}
