//! The bytes of a file as the parquet reader asks for them, and its pages, unpacked within limits.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};
use std::rc::Rc;

use bytes::Bytes;
use parquet::basic::{Compression, Encoding};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use plugin_sdk::loader::ReadAt;
use rows::File;

use crate::differences::{are_lengths, are_whole};
use crate::levels::Levels;

/// Bytes that are read at once, and that a page may have.
const READ_LIMIT: usize = 64 << 20;
const PAGE_LIMIT: usize = 64 << 20;
/// Bytes of a buffer for page headers.
const HEADER: usize = 512;

thread_local! {
    /// Files that are read now. The reader wants something that it could send to another thread, which a file of the host is
    /// not: it gets a number.
    static FILES: RefCell<(u64, BTreeMap<u64, Rc<File>>)> = const { RefCell::new((0, BTreeMap::new())) };
}

/// A file by its number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunk {
    file: u64,
    len: u64,
}

/// Ends the use of a file by its number.
pub(crate) struct Lent(u64);

impl Drop for Lent {
    fn drop(&mut self) {
        FILES.with_borrow_mut(|(_, files)| files.remove(&self.0));
    }
}

/// Gives a file a number for as long as the second value is there.
pub(crate) fn lend(file: &Rc<File>) -> (Chunk, Lent) {
    let number = FILES.with_borrow_mut(|(last, files)| {
        *last += 1;
        files.insert(*last, Rc::clone(file));
        *last
    });
    (Chunk { file: number, len: file.len() }, Lent(number))
}

impl Chunk {
    fn read(self, offset: u64, len: usize) -> Vec<u8> {
        let file = FILES.with_borrow(|(_, files)| files.get(&self.file).cloned());
        file.map(|file| file.read(offset, u32::try_from(len).unwrap_or(u32::MAX))).unwrap_or_default()
    }
}

impl Length for Chunk {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for Chunk {
    type T = BufReader<From>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(BufReader::with_capacity(HEADER, From { chunk: *self, at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.len) {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} lie outside of the file")));
        }
        if length > READ_LIMIT {
            return Err(ParquetError::General(format!(
                "a page of {} MiB; {} are read",
                length >> 20,
                READ_LIMIT >> 20
            )));
        }
        let bytes = self.read(start, length);
        if bytes.len() < length {
            return Err(ParquetError::EOF(format!("the file ends before {length} bytes at {start}")));
        }
        Ok(bytes.into())
    }
}

/// A file from a place on.
pub(crate) struct From {
    chunk: Chunk,
    at: u64,
}

impl Read for From {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.chunk.read(self.at, buffer.len());
        buffer[..bytes.len()].copy_from_slice(&bytes);
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }
}

/// The pages of a column, unpacked.
pub(crate) struct Unpacked {
    pages: SerializedPageReader<Chunk>,
    compression: Compression,
    column: String,
    has_dictionary: bool,
    levels: Levels,
}

impl Unpacked {
    pub(crate) fn new(pages: SerializedPageReader<Chunk>, chunk: &ColumnChunkMetaData) -> Self {
        let (compression, column) = (chunk.compression(), chunk.column_path().string());
        let levels = Levels::of(chunk.column_descr());
        Self { pages, compression, column, has_dictionary: false, levels }
    }

    fn unpack(&self, packed: &[u8]) -> Result<Bytes> {
        let failed = |words: &str| {
            let (column, compression) = (&self.column, self.compression);
            ParquetError::General(format!("a page of column `{column}` cannot be unpacked ({compression}): {words}"))
        };
        let too_large = || failed(&format!("it becomes more than {} MiB", PAGE_LIMIT >> 20));
        if packed.is_empty() {
            return Ok(Bytes::new());
        }
        let read = |reader: &mut dyn Read| {
            let mut bytes = Vec::with_capacity(packed.len().saturating_mul(3).min(PAGE_LIMIT));
            let count = reader.take(PAGE_LIMIT as u64 + 1).read_to_end(&mut bytes);
            match count {
                Ok(count) if count > PAGE_LIMIT => Err(too_large()),
                Ok(_) => Ok(bytes),
                Err(error) => Err(failed(&error.to_string())),
            }
        };
        let bytes = match self.compression {
            Compression::SNAPPY => {
                let claimed = snap::raw::decompress_len(packed).map_err(|error| failed(&error.to_string()))?;
                if claimed > PAGE_LIMIT {
                    return Err(too_large());
                }
                snap::raw::Decoder::new().decompress_vec(packed).map_err(|error| failed(&error.to_string()))?
            }
            Compression::GZIP(_) => read(&mut flate2::read::MultiGzDecoder::new(packed))?,
            Compression::ZSTD(_) => {
                let mut packed = packed;
                let decoder = ruzstd::decoding::StreamingDecoder::new(&mut packed);
                let mut decoder = decoder.map_err(|error| failed(&error.to_string()))?;
                let bytes = read(&mut decoder)?;
                drop(decoder);
                if !packed.is_empty() {
                    return Err(failed("there is more behind its end"));
                }
                bytes
            }
            Compression::LZ4_RAW => unpack_lz4(packed).map_err(|words| failed(&words))?,
            other => return Err(failed(&format!("{other} is not read"))),
        };
        Ok(bytes.into())
    }

    fn page(&mut self, page: Page) -> Result<Page> {
        match &page {
            Page::DictionaryPage { .. } => self.has_dictionary = true,
            Page::DataPage { encoding, .. } | Page::DataPageV2 { encoding, .. } => {
                // The crate takes for granted that it is there.
                let needs_one = matches!(encoding, Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY);
                if needs_one && !self.has_dictionary {
                    let words = format!("a page of column `{}` needs a dictionary, and there is none", self.column);
                    return Err(ParquetError::General(words));
                }
            }
        }
        let page = if self.compression == Compression::UNCOMPRESSED { page } else { self.unpacked(page)? };
        if !self.levels.are_whole(&page) {
            let words = format!("a page of column `{}` has fewer levels than it says", self.column);
            return Err(ParquetError::General(words));
        }
        self.counted(self.levels.without_spare(page))
    }

    /// A page whose values are packed as differences. The crate makes room for as many as their header says, and takes for
    /// granted that the first is there: no page has more than its values, and of one that has none the crate asks for none.
    fn counted(&self, mut page: Page) -> Result<Page> {
        use Encoding::{DELTA_BINARY_PACKED, DELTA_BYTE_ARRAY, DELTA_LENGTH_BYTE_ARRAY};
        if !matches!(page.encoding(), DELTA_BINARY_PACKED | DELTA_BYTE_ARRAY | DELTA_LENGTH_BYTE_ARRAY) {
            return Ok(page);
        }
        let broken =
            |words: &str| Err(ParquetError::General(format!("a page of column `{}` has {words}", self.column)));
        let Some(values) = self.levels.values(&page).filter(|values| !values.is_empty()) else { return Ok(page) };
        let Some((at, count)) = self.levels.differences(&page) else { return broken("differences without a header") };
        if count > u64::from(page.num_values()) {
            return broken(&format!("{count} values in the place of fewer"));
        }
        let are_sound = match page.encoding() {
            DELTA_BYTE_ARRAY => are_lengths(values, 2),
            DELTA_LENGTH_BYTE_ARRAY => are_lengths(values, 1),
            _ => are_whole(values),
        };
        if !are_sound {
            return broken("differences that cannot be");
        }
        if let (0, DELTA_BINARY_PACKED, Page::DataPage { buf, .. } | Page::DataPageV2 { buf, .. }) =
            (count, page.encoding(), &mut page)
        {
            let mut whole = buf.to_vec();
            whole[at] |= 1;
            *buf = whole.into();
        }
        Ok(page)
    }

    fn unpacked(&self, page: Page) -> Result<Page> {
        Ok(match page {
            Page::DataPage { buf, num_values, encoding, def_level_encoding, rep_level_encoding, statistics } => {
                let buf = self.unpack(&buf)?;
                Page::DataPage { buf, num_values, encoding, def_level_encoding, rep_level_encoding, statistics }
            }
            Page::DictionaryPage { buf, num_values, encoding, is_sorted } => {
                Page::DictionaryPage { buf: self.unpack(&buf)?, num_values, encoding, is_sorted }
            }
            // Its levels are never packed.
            Page::DataPageV2 {
                buf,
                num_values,
                encoding,
                num_nulls,
                num_rows,
                def_levels_byte_len,
                rep_levels_byte_len,
                is_compressed: true,
                statistics,
            } => {
                let levels = (def_levels_byte_len as usize).saturating_add(rep_levels_byte_len as usize);
                if levels > buf.len() {
                    let words =
                        format!("a page of column `{}` has {levels} bytes of levels, of {}", self.column, buf.len());
                    return Err(ParquetError::General(words));
                }
                let values = self.unpack(&buf[levels..])?;
                let mut whole = Vec::with_capacity(levels + values.len());
                whole.extend_from_slice(&buf[..levels]);
                whole.extend_from_slice(&values);
                Page::DataPageV2 {
                    buf: whole.into(),
                    num_values,
                    encoding,
                    num_nulls,
                    num_rows,
                    def_levels_byte_len,
                    rep_levels_byte_len,
                    is_compressed: false,
                    statistics,
                }
            }
            page @ Page::DataPageV2 { .. } => page,
        })
    }
}

/// A block without its size: the room grows until it is enough.
fn unpack_lz4(packed: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let mut room = packed.len().saturating_mul(4).clamp(1 << 12, PAGE_LIMIT);
    loop {
        let mut bytes = vec![0; room];
        match lz4_flex::block::decompress_into(packed, &mut bytes) {
            Ok(count) => {
                bytes.truncate(count);
                return Ok(bytes);
            }
            Err(lz4_flex::block::DecompressError::OutputTooSmall { .. }) if room < PAGE_LIMIT => {
                room = room.saturating_mul(4).min(PAGE_LIMIT);
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

impl Iterator for Unpacked {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Unpacked {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        page.map(|page| self.page(page)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        // Kept by the reader, for pages behind it.
        self.has_dictionary |= self.pages.peek_next_page()?.is_some_and(|page| page.is_dict);
        self.pages.skip_next_page()
    }

    fn supports_deferred_dictionary(&self) -> bool {
        self.pages.supports_deferred_dictionary()
    }

    fn take_deferred_dictionary(&mut self) -> Result<Option<Page>> {
        let page = self.pages.take_deferred_dictionary()?;
        page.map(|page| self.page(page)).transpose()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pages.at_record_boundary()
    }
}
