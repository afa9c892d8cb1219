//! Rows from parquet files: snappy, gzip, zstd and LZ4, nested columns, one row group after another.
//!
//! The footer and the pages are read where they lie, so memory goes by pages and not by files. What the footer says of the file is
//! checked before anything is read by it.

mod differences;
mod groups;
mod levels;
mod pages;

use std::rc::Rc;
use std::sync::Arc;

use arrow_schema::Fields;
use columns::{BatchRows, ColumnsConfig, choose, fits};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, RowSelection, RowSelector};
use parquet::arrow::{FieldLevels, ProjectionMask, parquet_to_arrow_field_levels, parquet_to_arrow_schema};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use plugin_sdk::Error;
use plugin_sdk::loader::{BadRow, Memory, ReadAt, Row};
use rows::shell::quoted;
use rows::{Expected, File, Format, HEAD, Rows, Selection, other};

use crate::groups::{Group, check, row_count};
use crate::pages::lend;

/// Rows that are decoded at a time, and bytes that they may take by what the footer says.
const ROWS: u64 = 256;
const BATCH_BYTES: u64 = 8 << 20;
/// Bytes of a file that is packed once more, which is unpacked at once.
const PACKED_LIMIT: u64 = 96 << 20;

/// Tables of columns.
pub struct Parquet {
    columns: Option<Vec<String>>,
}

impl Format for Parquet {
    type Config = ColumnsConfig;

    const EXTENSIONS: &'static [&'static str] = &["parquet"];

    fn selection(config: &ColumnsConfig) -> Selection {
        config.selection()
    }

    fn new(config: ColumnsConfig) -> Result<Self, Error> {
        Ok(Self { columns: config.columns })
    }

    fn open(&self, file: &Rc<File>) -> Result<Box<dyn Rows>, Error> {
        Ok(Box::new(Table::new(file, self.columns.as_deref())?))
    }

    fn count(&self, file: &Rc<File>) -> Option<u64> {
        let (_, metadata) = footer(file).ok()?;
        u64::try_from(metadata.file_metadata().num_rows()).ok()
    }

    fn fits(&self, first: &Rc<File>, file: &Rc<File>) -> Result<(), Error> {
        let of = |file: &Rc<File>| Ok::<_, Error>(Table::new(file, self.columns.as_deref())?.fields);
        fits(&of(first)?, &of(file)?, &first.name(), &file.name())
    }
}

/// A file that can be read anywhere, and its footer, checked.
fn footer(file: &Rc<File>) -> Result<(Rc<File>, ParquetMetaData), Error> {
    let name = file.name();
    let file = if file.is_packed() {
        let Some(bytes) = file.all(PACKED_LIMIT)? else {
            let message =
                format!("`{name}` has more than {} MiB inside; it would be unpacked at once", PACKED_LIMIT >> 20);
            return Err(Error::failed_with_help(message, "unpack it: parquet has its columns packed already"));
        };
        Rc::new(File::new(Rc::new(Memory(bytes))))
    } else {
        Rc::clone(file)
    };
    let head = file.read(0, HEAD);
    if !head.starts_with(b"PAR1") {
        let encrypted = Error::Failed(format!("`{name}` is encrypted"));
        let other = other(&*file, &head, Expected::Parquet);
        return Err(match other {
            _ if head.starts_with(b"PARE") => encrypted,
            Some(other) => other,
            None => Error::Failed(format!("`{name}` is not a parquet file")),
        });
    }
    let broken = |error: ParquetError| {
        Error::failed_with_help(
            format!("`{name}`: the footer cannot be read: {}", words(&error)),
            "the file is cut short or broken; get it again",
        )
    };
    let (chunk, _lent) = lend(&file);
    let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Skip);
    let metadata = reader.parse_and_finish(&chunk).map_err(broken)?;
    check(&metadata, file.len()).map_err(|message| {
        Error::failed_with_help(format!("`{name}`: {message}"), "the file is broken; get it again")
    })?;
    Ok((file, metadata))
}

/// That a column is packed as nothing here unpacks.
fn unpackable(metadata: &ParquetMetaData, name: &str) -> Result<(), Error> {
    for column in metadata.row_groups().iter().flat_map(RowGroupMetaData::columns) {
        if let Compression::LZO | Compression::LZ4 | Compression::BROTLI(_) = column.compression() {
            let packing = column.compression().to_string();
            let (path, packing) = (column.column_path().string(), packing.split('(').next().unwrap_or_default());
            let message = format!(
                "column `{path}` of `{name}` is packed with {packing}; snappy, gzip, zstd and LZ4_RAW are read"
            );
            let to = format!("{}-snappy.parquet", name.trim_end_matches(".parquet"));
            let help = format!(
                "python3 -c 'import pyarrow.parquet as p, sys; p.write_table(p.read_table(sys.argv[1]), sys.argv[2])' {} {}",
                quoted(name),
                quoted(&to)
            );
            return Err(Error::failed_with_help(message, help));
        }
    }
    Ok(())
}

/// Words of the crate, on one line.
fn line(text: &str) -> String {
    let mut text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    while let Some(rest) =
        ["Parquet argument error: ", "Parquet error: ", "External: "].iter().find_map(|start| text.strip_prefix(start))
    {
        text = rest.to_owned();
    }
    text.chars().take(300).collect()
}

/// The crate's words.
fn words(error: &ParquetError) -> String {
    let text = match error {
        ParquetError::General(text) | ParquetError::EOF(text) | ParquetError::ArrowError(text) => text.clone(),
        other => other.to_string(),
    };
    line(&text)
}

/// The rows of one file.
struct Table {
    file: Rc<File>,
    name: String,
    metadata: Rc<ParquetMetaData>,
    levels: FieldLevels,
    /// The columns that are read.
    fields: Fields,
    /// The row group that is read, and rows of it that were given.
    group: usize,
    given: u64,
    reader: Option<Reading>,
}

struct Reading {
    reader: ParquetRecordBatchReader,
    rows: Option<BatchRows>,
    /// Keeps the file within reach of the reader.
    _lent: pages::Lent,
}

impl Table {
    fn new(file: &Rc<File>, wanted: Option<&[String]>) -> Result<Self, Error> {
        let name = file.name();
        let (file, metadata) = footer(file)?;
        unpackable(&metadata, &name)?;
        let failed =
            |error: ParquetError| Error::Failed(format!("`{name}`: the schema cannot be read: {}", words(&error)));
        let schema = metadata.file_metadata().schema_descr();
        let all = parquet_to_arrow_schema(schema, None).map_err(failed)?.fields;
        let chosen = choose(&all, wanted, &name)?;
        let fields = chosen.iter().map(|&index| Arc::clone(&all[index])).collect();
        let mask = ProjectionMask::roots(schema, chosen);
        let levels = parquet_to_arrow_field_levels(schema, mask, None).map_err(failed)?;
        Ok(Self { file, name, metadata: Rc::new(metadata), levels, fields, group: 0, given: 0, reader: None })
    }

    /// Starts the current row group, behind the rows of it that were given.
    fn start(&self) -> Result<Reading, Error> {
        let group = self.metadata.row_group(self.group);
        let rows = row_count(group);
        let bytes = u64::try_from(group.total_byte_size()).unwrap_or_default();
        let each = (bytes / (rows as u64).max(1)).max(1);
        let (chunk, lent) = lend(&self.file);
        let groups = Group::new(chunk, &self.metadata, self.group);
        let selection = (self.given > 0).then(|| {
            let given = self.given as usize;
            RowSelection::from(vec![RowSelector::skip(given), RowSelector::select(rows - given)])
        });
        let batch = (BATCH_BYTES / each).clamp(1, ROWS) as usize;
        let reader = ParquetRecordBatchReader::try_new_with_row_groups(&self.levels, &groups, batch, selection);
        Ok(Reading { reader: reader.map_err(|error| self.failed(&error))?, rows: None, _lent: lent })
    }

    fn failed(&self, error: &ParquetError) -> Error {
        self.broken(&words(error))
    }

    fn broken(&self, words: &str) -> Error {
        let at = self.given + 1;
        Error::Failed(format!("`{}`, row group {}, near row {at}: {words}", self.name, self.group + 1))
    }
}

impl Rows for Table {
    fn next(&mut self) -> Result<Option<Result<Row, BadRow>>, Error> {
        while self.group < self.metadata.num_row_groups() {
            let promised = row_count(self.metadata.row_group(self.group)) as u64;
            if self.given < promised {
                let mut reading = match self.reader.take() {
                    Some(reading) => reading,
                    None => self.start()?,
                };
                if reading.rows.as_ref().is_none_or(|rows| rows.left() == 0) {
                    reading.rows = match reading.reader.next() {
                        Some(Ok(batch)) => Some(BatchRows::new(batch)),
                        Some(Err(error)) => {
                            return Err(self.broken(&line(&error.to_string())));
                        }
                        None => return Err(self.broken(&format!("it ends here, and the footer names {promised} rows"))),
                    };
                }
                let position = format!("row group {}, row {}", self.group + 1, self.given + 1);
                let row = reading.rows.as_mut().and_then(|rows| rows.next(position));
                self.reader = Some(reading);
                if row.is_some() {
                    self.given += 1;
                    return Ok(row);
                }
                continue;
            }
            (self.group, self.given, self.reader) = (self.group + 1, 0, None);
        }
        Ok(None)
    }

    fn cursor(&self) -> (u64, u64) {
        (self.group as u64, self.given + 1)
    }

    fn seek(&mut self, (group, given): (u64, u64)) -> Result<(), Error> {
        (self.group, self.given, self.reader) = (group as usize, given.saturating_sub(1), None);
        Ok(())
    }
}

plugin_sdk::register_dataset_loader!(
    rows::Loader<Parquet>,
    name: "parquet",
    description: "Rows from parquet files",
);

#[cfg(test)]
mod tests;
