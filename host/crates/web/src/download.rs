//! How files arrive: from where an earlier try has ended, no more than was announced, and held against their digests before
//! anything can see them.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use crate::{Answer, DownloadError, Hasher, Tries};

/// Bytes that are taken at a time.
const PIECE: usize = 1 << 17;

/// Told how far files are.
pub trait Progress {
    /// A file is begun, of which so many bytes are there already.
    fn begin(&self, file: &str, size: u64, there: u64);
    /// So many bytes more are there; fewer after a new start.
    fn at(&self, bytes: u64);
    /// It is there.
    fn end(&self);
}

/// A file that is to come.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// What it is called where progress is told of.
    pub name: &'a str,
    /// Its bytes.
    pub size: u64,
    /// Its digest, in lower-case hexadecimal digits.
    pub digits: &'a str,
    /// Where what there is of it is kept.
    pub part: &'a Path,
    /// Where it is once all of it is there; in the same folder.
    pub target: &'a Path,
}

/// Brings a file into its place. `ask` has the answer to a question for all of it or, where that is given, for what follows
/// from a byte on: with status 200, 206 or 416. The caller holds the file's [`lock`](crate::lock()).
///
/// # Errors
/// [`DownloadError`] says why it cannot be had; what has arrived stays for the next time, unless it is wrong.
pub fn download<H: Hasher, E>(
    wanted: Wanted<'_>,
    hasher: impl Fn() -> H,
    tries: Tries,
    mut ask: impl FnMut(Option<u64>, &mut Tries) -> Result<Answer, E>,
    progress: &dyn Progress,
) -> Result<(), DownloadError<E>> {
    let Wanted { name, size, digits, part, target } = wanted;
    let kept = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(part);
    let mut there = Part { file: kept.map_err(disk(part))?, path: part, bytes: 0, hasher: hasher(), new: &hasher };
    there.go_on(size).map_err(disk(part))?;
    progress.begin(name, size, there.bytes);
    receive(&mut there, size, tries, &mut ask, progress)?;
    there.file.sync_all().map_err(disk(part))?;
    let found = there.hasher.digits();
    if found != digits {
        // Bytes that are wrong must not be gone on from.
        fs::remove_file(part).map_err(disk(part))?;
        return Err(DownloadError::Digest(found));
    }
    fs::rename(part, target).map_err(disk(target))?;
    let folder = target.parent().unwrap_or(target);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(disk(folder))?;
    progress.end();
    Ok(())
}

/// What there is of a file.
struct Part<'a, H> {
    file: File,
    path: &'a Path,
    bytes: u64,
    hasher: H,
    new: &'a dyn Fn() -> H,
}

impl<H: Hasher> Part<'_, H> {
    /// Takes in what an earlier program has left, if a file of `size` bytes can begin with it.
    fn go_on(&mut self, size: u64) -> std::io::Result<()> {
        let there = self.file.metadata()?.len();
        if there > size {
            return self.file.set_len(0);
        }
        let mut piece = vec![0; PIECE];
        while self.bytes < there {
            let count = piece.len().min((there - self.bytes) as usize);
            self.file.read_exact(&mut piece[..count])?;
            self.hasher.update(&piece[..count]);
            self.bytes += count as u64;
        }
        Ok(())
    }

    /// Begins anew.
    fn clear(&mut self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        (self.hasher, self.bytes) = ((self.new)(), 0);
        Ok(())
    }

    fn add(&mut self, piece: &[u8]) -> std::io::Result<()> {
        self.file.write_all(piece)?;
        self.hasher.update(piece);
        self.bytes += piece.len() as u64;
        Ok(())
    }
}

/// The rest of a file.
fn receive<H: Hasher, E>(
    there: &mut Part<'_, H>,
    size: u64,
    mut tries: Tries,
    ask: &mut dyn FnMut(Option<u64>, &mut Tries) -> Result<Answer, E>,
    progress: &dyn Progress,
) -> Result<(), DownloadError<E>> {
    let path = there.path;
    let again =
        |tries: &mut Tries, reason: &str| tries.again(reason).map_err(|_| DownloadError::Stuck(reason.to_owned()));
    // The most that ever was there: a server that begins again and again does not get further.
    let mut most = there.bytes;
    while there.bytes < size {
        let answer = ask((there.bytes > 0).then_some(there.bytes), &mut tries).map_err(DownloadError::Refused)?;
        if there.bytes > 0 && !goes_on(&answer, there.bytes) {
            // The server sends all of it again, or has none of the rest.
            if answer.status() != 200 {
                return Err(DownloadError::NoRest(there.bytes));
            }
            there.clear().map_err(disk(path))?;
            progress.at(0);
        }
        let body = answer.response.into_body();
        if body.content_length().is_some_and(|length| length > size - there.bytes) {
            there.clear().map_err(disk(path))?;
            return Err(DownloadError::TooLong);
        }
        // One byte more than there should be, to see that there is none.
        let mut body = body.into_reader().take(size - there.bytes + 1);
        let mut piece = vec![0; PIECE];
        loop {
            let count = match body.read(&mut piece) {
                Ok(0) if there.bytes == size => break,
                Ok(0) => {
                    again(&mut tries, "the answer ends too early")?;
                    break;
                }
                Ok(count) => count,
                Err(error) => {
                    again(&mut tries, &error.to_string())?;
                    break;
                }
            };
            if count as u64 > size - there.bytes {
                there.clear().map_err(disk(path))?;
                return Err(DownloadError::TooLong);
            }
            there.add(&piece[..count]).map_err(disk(path))?;
            progress.at(there.bytes);
            if there.bytes > most {
                most = there.bytes;
                tries.further();
            }
        }
    }
    Ok(())
}

/// True if an answer begins with byte `start`.
fn goes_on(answer: &Answer, start: u64) -> bool {
    let range = answer.header("content-range");
    answer.status() == 206 && range.is_some_and(|range| range.starts_with(&format!("bytes {start}-")))
}

fn disk<E>(path: &Path) -> impl FnOnce(std::io::Error) -> DownloadError<E> {
    move |source| DownloadError::Disk { path: path.to_owned(), source }
}
