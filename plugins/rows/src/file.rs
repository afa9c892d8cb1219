//! One file, and what gzip or zstd holds: unpacked while it is read, within limits.

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use plugin_sdk::Error;
use plugin_sdk::loader::ReadAt;
use ruzstd::decoding::FrameDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};

use crate::shell::{quoted, unpacked};

/// Bytes that a packed file may become where it is small, and for each of its bytes beside that. Texts are packed to a fifth,
/// the most repetitive ones to a hundredth; a bomb goes to a thousandth and beyond.
const UNPACKED_BASE: u64 = 64 << 20;
const UNPACKED_TIMES: u64 = 200;
/// Bytes that stay in memory behind the place that was read last.
const WINDOW: usize = 1 << 18;
/// Bytes that are unpacked at a time.
const STEP: usize = 1 << 16;
/// Memory for the window of a zstd frame: what `zstd` without `--long` makes at most, at level 22.
const ZSTD_WINDOW: u64 = 128 << 20;

/// A file of a dataset. What it has packed is what it reads as.
pub struct File {
    file: Rc<dyn ReadAt>,
    packed: Option<RefCell<Unpacking>>,
}

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Gzip,
    Zstd,
}

impl Packing {
    fn of(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            // A frame, or one with something else than data, which may come first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    fn command(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

struct Unpacking {
    packing: Packing,
    reader: Box<dyn Read>,
    /// What was unpacked last, and its place.
    window: Vec<u8>,
    start: u64,
    failed: Option<Error>,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("File").field(&self.name()).finish()
    }
}

impl File {
    /// Unpacks it where its first bytes say that it is packed.
    pub fn new(file: Rc<dyn ReadAt>) -> Self {
        let packed = Packing::of(&file.read(0, 4)).map(|packing| {
            let (reader, window, start, failed) = (open(packing, &file), Vec::new(), 0, None);
            RefCell::new(Unpacking { packing, reader, window, start, failed })
        });
        Self { file, packed }
    }

    /// True if it is read as something else than its own bytes.
    pub fn is_packed(&self) -> bool {
        self.packed.is_some()
    }

    /// Why what was read last ended before the file did. A reader sees its end there, so this is asked wherever rows end.
    ///
    /// # Errors
    /// That it cannot be unpacked, or becomes too much.
    pub fn check(&self) -> Result<(), Error> {
        let failed = self.packed.as_ref().and_then(|packed| packed.borrow().failed.clone());
        failed.map_or(Ok(()), Err)
    }

    /// All bytes; none where there are more than `limit`.
    ///
    /// # Errors
    /// That it cannot be unpacked.
    pub fn all(&self, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let mut bytes = Vec::new();
        loop {
            let more = self.read(bytes.len() as u64, 1 << 20);
            self.check()?;
            if more.is_empty() {
                return Ok(Some(bytes));
            }
            bytes.extend(more);
            if bytes.len() as u64 > limit {
                return Ok(None);
            }
        }
    }

    /// Unpacks some more; what lies before `needed` may be let go of. False at the end.
    fn unpack(&self, unpacking: &mut Unpacking, needed: u64) -> bool {
        if unpacking.failed.is_some() {
            return false;
        }
        let over = unpacking.window.len().saturating_sub(WINDOW).min((needed - unpacking.start) as usize);
        if over > STEP {
            unpacking.window.drain(..over);
            unpacking.start += over as u64;
        }
        let (end, size) = (unpacking.window.len(), self.file.len());
        unpacking.window.resize(end + STEP, 0);
        let (more, read) = read_full(&mut *unpacking.reader, &mut unpacking.window[end..]);
        unpacking.window.truncate(end + more);
        let count = unpacking.start + unpacking.window.len() as u64;
        let (name, command) = (self.file.name(), unpacking.packing.command());
        let help = format!("{command} -dc {} > {}", quoted(&name), quoted(&unpacked(&name)));
        let failed = match &read {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Some(Error::failed_with_help(
                format!("`{name}` is cut short: its {command} data ends after {count} unpacked bytes"),
                format!("get the file again; it has {size} bytes here"),
            )),
            Err(error) => Some(Error::Failed(format!(
                "`{name}` cannot be unpacked ({command}) after {count} unpacked bytes: {error}"
            ))),
            Ok(()) if count > UNPACKED_BASE + size.saturating_mul(UNPACKED_TIMES) => Some(Error::failed_with_help(
                format!("`{name}` has {size} bytes, and becomes more than {} MiB when it is unpacked", count >> 20),
                format!("if you trust it: `{help}`"),
            )),
            Ok(()) => None,
        };
        if failed.is_some() {
            unpacking.failed = failed;
            return false;
        }
        more > 0
    }
}

impl ReadAt for File {
    fn name(&self) -> String {
        self.file.name()
    }

    /// Of a packed file, more than it can have: nobody knows before its end.
    fn len(&self) -> u64 {
        if self.is_packed() { u64::MAX } else { self.file.len() }
    }

    fn read(&self, offset: u64, len: u32) -> Vec<u8> {
        let Some(packed) = &self.packed else { return self.file.read(offset, len) };
        let unpacking = &mut *packed.borrow_mut();
        if offset < unpacking.start {
            unpacking.reader = open(unpacking.packing, &self.file);
            unpacking.window.clear();
            unpacking.start = 0;
        }
        let wanted = offset.saturating_add(len.into());
        while unpacking.start + (unpacking.window.len() as u64) < wanted && self.unpack(unpacking, offset) {}
        let at = |place: u64| (place.saturating_sub(unpacking.start) as usize).min(unpacking.window.len());
        unpacking.window[at(offset)..at(wanted)].to_vec()
    }
}

/// As many bytes as there is room for; fewer only at the end, or before what is wrong.
fn read_full(reader: &mut dyn Read, bytes: &mut [u8]) -> (usize, io::Result<()>) {
    let mut count = 0;
    while count < bytes.len() {
        match reader.read(&mut bytes[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) => return (count, Err(error)),
        }
    }
    (count, Ok(()))
}

fn open(packing: Packing, file: &Rc<dyn ReadAt>) -> Box<dyn Read> {
    let source = BufReader::with_capacity(STEP, Bytes { file: Rc::clone(file), at: 0 });
    match packing {
        Packing::Gzip => Box::new(MultiGzDecoder::new(source)),
        Packing::Zstd => Box::new(Zstd { source, decoder: FrameDecoder::new(), is_open: false }),
    }
}

/// The bytes of a file, in order.
struct Bytes {
    file: Rc<dyn ReadAt>,
    at: u64,
}

impl Read for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read(self.at, u32::try_from(buffer.len()).unwrap_or(u32::MAX));
        buffer[..bytes.len()].copy_from_slice(&bytes);
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }
}

/// The frames of a zstd file, one after another.
struct Zstd {
    source: BufReader<Bytes>,
    decoder: FrameDecoder,
    /// Inside of a frame.
    is_open: bool,
}

impl Read for Zstd {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.is_open {
                if self.source.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                self.decoder.set_max_window_size(ZSTD_WINDOW);
                match self.decoder.reset(&mut self.source) {
                    Ok(()) => self.is_open = true,
                    Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                        length, ..
                    })) => {
                        let skipped = io::copy(&mut self.source.by_ref().take(length.into()), &mut io::sink())?;
                        if skipped < length.into() {
                            return Err(io::ErrorKind::UnexpectedEof.into());
                        }
                        continue;
                    }
                    Err(error) => return Err(self.failure(&error)),
                }
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                use ruzstd::decoding::BlockDecodingStrategy::UptoBlocks;
                if let Err(error) = self.decoder.decode_blocks(&mut self.source, UptoBlocks(1)) {
                    return Err(self.failure(&error));
                }
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            let written = self.decoder.get_checksum_from_data();
            if written.is_some() && written != self.decoder.get_calculated_checksum() {
                return Err(io::Error::other("its checksum is that of other data"));
            }
            self.is_open = false;
        }
    }
}

impl Zstd {
    /// The end of the file where there are no more bytes, whatever it was read as.
    fn failure(&mut self, error: &FrameDecoderError) -> io::Error {
        let is_at_end = self.source.fill_buf().is_ok_and(<[u8]>::is_empty);
        let words = match error {
            FrameDecoderError::WindowSizeTooBig { requested, .. } => {
                format!("it needs a window of {} MiB, {} are allowed", requested >> 20, ZSTD_WINDOW >> 20)
            }
            FrameDecoderError::DictNotProvided { .. } => "it needs a dictionary".to_owned(),
            _ if is_at_end => return io::ErrorKind::UnexpectedEof.into(),
            error => error.to_string(),
        };
        io::Error::other(words)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use plugin_sdk::loader::Memory;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn file(bytes: Vec<u8>) -> File {
        File::new(Rc::new(Memory(bytes)))
    }

    /// A megabyte that does not pack well.
    fn noise() -> Vec<u8> {
        let mut state = 1_u32;
        let step = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8 % 64
        };
        (0..1 << 20).map(step).collect()
    }

    #[test]
    fn packed_files_read_as_what_they_hold() {
        let noise = noise();
        for pack in [gzip, zstd] {
            let packed = file(pack(&noise));
            assert!(packed.is_packed());
            for (offset, len) in [(0, 3), (0, 70_000), (500_000, 100), (10, 20), (1_048_570, 100), (1 << 20, 5)] {
                let end = (offset + len).min(noise.len());
                assert!(packed.read(offset as u64, len as u32) == noise[offset..end], "{offset}");
            }
            assert!(packed.all(1 << 20).unwrap().unwrap() == noise);
            assert_eq!(packed.all(1000).unwrap(), None);
            let two = [pack(b"one "), pack(b""), pack(b"two")].concat();
            assert_eq!(file(two).all(99).unwrap().unwrap(), b"one two");
        }
        let skipped = [b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec(), zstd(b"rows")].concat();
        assert_eq!(file(skipped).all(99).unwrap().unwrap(), b"rows");
        assert_eq!(file(b"plain".to_vec()).all(99).unwrap().unwrap(), b"plain");
    }

    fn told(bytes: Vec<u8>) -> String {
        match file(bytes).all(u64::MAX) {
            Err(Error::Failed(message)) => message,
            other => panic!("{:?}", other.map(|bytes| bytes.map(|bytes| bytes.len()))),
        }
    }

    #[test]
    fn what_is_cut_short_or_broken_is_told() {
        for pack in [gzip, zstd] {
            let whole = pack(&noise());
            for cut in [5, 30, 1000, whole.len() / 2, whole.len() - 5, whole.len() - 1] {
                let message = told(whole[..cut].to_vec());
                assert!(message.contains("is cut short"), "{cut}: {message}");
            }
            let mut broken = whole.clone();
            broken[whole.len() / 2] ^= 0xff;
            let message = told(broken);
            assert!(message.contains("cannot be unpacked") || message.contains("cut short"), "{message}");
            assert!(
                told([pack(b"rows"), b"garbage, more than a header".to_vec()].concat()).contains("cannot be unpacked")
            );
        }
        let mut broken = gzip(b"rows");
        let last = broken.len() - 5;
        broken[last] ^= 1;
        assert!(told(broken).contains("cannot be unpacked"));
        assert!(told(b"\x28\xb5\x2f\xfd\x80\xb8\0\0\0\0".to_vec()).contains("it needs a window of"));
    }

    #[test]
    fn a_bomb_is_told_before_it_goes_off() {
        for pack in [gzip, zstd] {
            let message = told(pack(&vec![b'\n'; 100 << 20]));
            assert!(message.contains("becomes more than"), "{message}");
        }
    }
}
