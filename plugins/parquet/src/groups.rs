//! One row group: what the footer says of it, checked, and its columns' pages.

use std::sync::Arc;

use parquet::basic::Compression;
use parquet::column::page::{PageIterator, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::serialized_reader::SerializedPageReader;

use crate::pages::{Chunk, Unpacked};

/// Rows of a row group.
const ROWS: i64 = i32::MAX as i64;

/// Says what of a footer cannot be: what it says of the file is only believed afterwards.
pub(crate) fn check(metadata: &ParquetMetaData, len: u64) -> std::result::Result<(), String> {
    let len = i64::try_from(len).unwrap_or(i64::MAX);
    let columns = metadata.file_metadata().schema_descr().num_columns();
    let mut rows = 0_i64;
    for (index, group) in metadata.row_groups().iter().enumerate() {
        let told = |message: String| Err(format!("row group {}: {message}", index + 1));
        if !(0..=ROWS).contains(&group.num_rows()) {
            return told(format!("the footer names {} rows", group.num_rows()));
        }
        rows = rows.saturating_add(group.num_rows());
        if group.num_columns() != columns {
            return told(format!("it has {} columns, the schema {columns}", group.num_columns()));
        }
        for column in group.columns() {
            let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
            let size = column.compressed_size();
            let is_inside = start >= 4 && size >= 0 && start.checked_add(size).is_some_and(|end| end <= len);
            if !is_inside || column.num_values() < 0 {
                let path = column.column_path().string();
                return told(format!("column `{path}` lies outside of the file ({size} bytes from {start})"));
            }
        }
    }
    let all = metadata.file_metadata().num_rows();
    if all != rows {
        return Err(format!("the footer names {all} rows, and {rows} of its row groups"));
    }
    Ok(())
}

/// Rows of a row group that was checked.
pub(crate) fn row_count(group: &RowGroupMetaData) -> usize {
    usize::try_from(group.num_rows()).unwrap_or_default()
}

/// A row group.
pub(crate) struct Group<'a> {
    chunk: Arc<Chunk>,
    metadata: &'a ParquetMetaData,
    index: usize,
}

impl<'a> Group<'a> {
    pub(crate) fn new(chunk: Chunk, metadata: &'a ParquetMetaData, index: usize) -> Self {
        Self { chunk: Arc::new(chunk), metadata, index }
    }

    fn of(&self) -> &'a RowGroupMetaData {
        self.metadata.row_group(self.index)
    }
}

impl parquet::arrow::arrow_reader::RowGroups for Group<'_> {
    fn num_rows(&self) -> usize {
        row_count(self.of())
    }

    fn column_chunks(&self, index: usize) -> Result<Box<dyn PageIterator>> {
        let column = self.of().column(index);
        // The crate would unpack pages at the size that they claim, and knows zstd by a library in C: pages come packed.
        let plain = column.clone().into_builder().set_compression(Compression::UNCOMPRESSED).build()?;
        let pages = SerializedPageReader::new(Arc::clone(&self.chunk), &plain, self.num_rows(), None)?;
        let pages = Unpacked::new(pages, column);
        Ok(Box::new(One(Some(Box::new(pages)))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(std::iter::once(self.of()))
    }

    fn metadata(&self) -> &ParquetMetaData {
        self.metadata
    }
}

/// The pages of one column in one row group.
struct One(Option<Box<dyn PageReader>>);

impl Iterator for One {
    type Item = Result<Box<dyn PageReader>, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(Ok)
    }
}

impl PageIterator for One {}
