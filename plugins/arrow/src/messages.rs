//! The messages that a file or stream is made of: where each lies, and what it says of itself. Nothing is read by its size before
//! that fits the file.

use std::rc::Rc;

use arrow_ipc::{CompressionType, FieldNode, MessageHeader, RecordBatch, root_as_footer, root_as_message};
use plugin_sdk::Error;
use plugin_sdk::loader::{Memory, ReadAt};
use rows::{Expected, File};

/// Starts and ends a file; a stream has neither.
const MAGIC: &[u8] = b"ARROW1";
/// Starts a message, before its length. Old writers leave it out.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Bytes of a message's head, and of its body, which is in memory as a whole.
const HEAD_LIMIT: u64 = 16 << 20;
const BODY_LIMIT: u64 = 64 << 20;
/// Bytes that are read at a time.
const STEP: u64 = 1 << 20;
/// Bytes of a file that is packed once more, which is unpacked at once.
const PACKED_LIMIT: u64 = 96 << 20;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Schema,
    /// So many rows.
    Rows(u64),
    Dictionary,
    Other,
}

/// A message in a file.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    /// Checked when it was found.
    pub(crate) head: Vec<u8>,
    /// Place and bytes of its body.
    body: (u64, u64),
}

/// The messages of a file.
pub(crate) struct Messages {
    file: Rc<File>,
    name: String,
    at: u64,
    end: u64,
    /// Of a file: record batches that its footer names, and those that came.
    promised: Option<usize>,
    found: usize,
    is_done: bool,
}

/// True if all buffers of a batch lie in its body, and no column has fewer than no rows: the crate takes that for granted.
fn fits(batch: RecordBatch<'_>, body: u64) -> bool {
    let is_inside = |buffer: &arrow_ipc::Buffer| {
        let (Ok(start), Ok(size)) = (u64::try_from(buffer.offset()), u64::try_from(buffer.length())) else {
            return false;
        };
        start.is_multiple_of(8) && start.checked_add(size).is_some_and(|end| end <= body)
    };
    let is_sound = |node: &FieldNode| (0..=node.length()).contains(&node.null_count());
    batch.buffers().is_none_or(|buffers| buffers.iter().all(is_inside))
        && batch.nodes().is_none_or(|nodes| nodes.iter().all(is_sound))
}

impl Messages {
    /// Looks at the start of a file, and at its end.
    pub(crate) fn new(file: &Rc<File>) -> Result<Self, Error> {
        let name = file.name();
        let file = if file.is_packed() {
            let Some(bytes) = file.all(PACKED_LIMIT)? else {
                let most = PACKED_LIMIT >> 20;
                let message = format!("`{name}` has more than {most} MiB inside; it would be unpacked at once");
                return Err(Error::failed_with_help(message, "unpack it"));
            };
            Rc::new(File::new(Rc::new(Memory(bytes))))
        } else {
            Rc::clone(file)
        };
        let head = file.read(0, rows::HEAD);
        let (at, end) = (0, file.len());
        let mut messages = Self { file, name, at, end, promised: None, found: 0, is_done: false };
        if head.starts_with(MAGIC) {
            messages.footer()?;
        } else if !head.starts_with(&CONTINUATION) {
            let other = rows::other(&*messages.file, &head, Expected::Arrow);
            return Err(other.unwrap_or_else(|| messages.broken("it is no Arrow file")));
        }
        Ok(messages)
    }

    /// Of a file with a footer: the place of its messages, and how many record batches there are.
    fn footer(&mut self) -> Result<(), Error> {
        let short = || {
            let message = format!("`{}` is cut short: it has no footer", self.name);
            Error::failed_with_help(message, "get the file again")
        };
        let len = self.file.len();
        let tail = self.file.read(len.saturating_sub(10), 10);
        let (Some(size), true) = (tail.first_chunk::<4>(), tail.len() == 10 && tail.ends_with(MAGIC)) else {
            return Err(short());
        };
        let size = u64::from(u32::from_le_bytes(*size));
        let start = (len - 10).checked_sub(size).filter(|start| *start >= 8 && size <= HEAD_LIMIT).ok_or_else(short)?;
        let bytes = self.read(start, size)?;
        let footer = root_as_footer(&bytes).map_err(|_| self.broken("the footer cannot be read"))?;
        let promised = footer.recordBatches().map_or(0, |batches| batches.len());
        (self.at, self.end, self.promised) = (8, start, Some(promised));
        Ok(())
    }

    /// The next message; none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Message>, Error> {
        if self.is_done {
            return Ok(None);
        }
        if self.at == self.end {
            return self.done();
        }
        let mut size = self.word()?;
        if size == u32::from_le_bytes(CONTINUATION) {
            size = self.word()?;
        }
        let size = u64::from(size);
        if size == 0 {
            // A stream behind a stream would be passed over in silence.
            if self.promised.is_none() && self.at < self.end {
                return Err(self.broken("there is more behind the end of its stream; write one file for each"));
            }
            return self.done();
        }
        if size > HEAD_LIMIT {
            return Err(self.broken(&format!("a message has a head of {size} bytes")));
        }
        let head = self.read(self.at, size)?;
        self.at += size;
        let message = root_as_message(&head).map_err(|_| self.broken("a message cannot be read"))?;
        let body = u64::try_from(message.bodyLength()).unwrap_or(u64::MAX);
        if self.at.checked_add(body).is_none_or(|end| end > self.end) {
            return Err(self.cut());
        }
        let kind = match message.header_type() {
            MessageHeader::Schema => Kind::Schema,
            MessageHeader::RecordBatch => {
                let batch = message.header_as_record_batch();
                let batch = batch.ok_or_else(|| self.broken("a record batch cannot be read"))?;
                if let Some(compression) = batch.compression() {
                    return Err(self.packed(compression.codec()));
                }
                if !fits(batch, body) {
                    return Err(self.broken("a record batch has buffers outside of it"));
                }
                self.found += 1;
                Kind::Rows(
                    u64::try_from(batch.length()).map_err(|_| self.broken("a record batch has fewer than no rows"))?,
                )
            }
            MessageHeader::DictionaryBatch => {
                let batch = message.header_as_dictionary_batch().and_then(|dictionary| dictionary.data());
                if let Some(compression) = batch.and_then(|batch| batch.compression()) {
                    return Err(self.packed(compression.codec()));
                }
                if !batch.is_some_and(|batch| fits(batch, body)) {
                    return Err(self.broken("a dictionary has buffers outside of it"));
                }
                Kind::Dictionary
            }
            _ => Kind::Other,
        };
        let message = Message { kind, head, body: (self.at, body) };
        self.at += body;
        Ok(Some(message))
    }

    fn done(&mut self) -> Result<Option<Message>, Error> {
        self.is_done = true;
        match self.promised {
            Some(promised) if promised != self.found => {
                Err(self.broken(&format!("it has {} record batches, and its footer names {promised}", self.found)))
            }
            _ => Ok(None),
        }
    }

    /// The body of a message.
    pub(crate) fn body(&self, message: &Message) -> Result<Vec<u8>, Error> {
        let (start, size) = message.body;
        if size > BODY_LIMIT {
            let message = format!(
                "`{}` has a record batch of {} MiB; {} are read at once",
                self.name,
                size >> 20,
                BODY_LIMIT >> 20
            );
            return Err(Error::failed_with_help(
                message,
                "write it with fewer rows in each: `writer_batch_size=100` of `datasets`",
            ));
        }
        self.read(start, size)
    }

    fn word(&mut self) -> Result<u32, Error> {
        let bytes = self.read(self.at, 4)?;
        self.at += 4;
        bytes.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes)).ok_or_else(|| self.cut())
    }

    fn read(&self, start: u64, size: u64) -> Result<Vec<u8>, Error> {
        if start.checked_add(size).is_none_or(|end| end > self.file.len()) {
            return Err(self.cut());
        }
        let mut bytes = Vec::with_capacity(size as usize);
        while (bytes.len() as u64) < size {
            let place = bytes.len() as u64;
            let more = self.file.read(start + place, (size - place).min(STEP) as u32);
            if more.is_empty() {
                return Err(self.cut());
            }
            bytes.extend(more);
        }
        Ok(bytes)
    }

    fn cut(&self) -> Error {
        let message = format!("`{}` is cut short, or broken at byte {}", self.name, self.at);
        Error::failed_with_help(message, format!("get the file again; it has {} bytes here", self.file.len()))
    }

    fn broken(&self, words: &str) -> Error {
        Error::Failed(format!("`{}`, before byte {}: {words}", self.name, self.at))
    }

    fn packed(&self, codec: CompressionType) -> Error {
        let codec = codec.variant_name().unwrap_or("something");
        let message = format!("`{}` has record batches that are packed ({codec}), which is not read", self.name);
        let command = "python3 -c 'import pyarrow.feather as f, sys; f.write_feather(f.read_table(sys.argv[1]), sys.argv[2], compression=\"uncompressed\")' IN OUT";
        Error::failed_with_help(message, format!("write it without: `{command}`"))
    }
}
