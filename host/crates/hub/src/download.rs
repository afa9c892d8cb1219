//! How files arrive: from where an earlier try has ended, no more than was announced, and held against their digests before
//! anything can see them.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use ureq::Body;
use ureq::http::Response;

use crate::cache::{create, size};
use crate::client::Question;
use crate::digest::Hasher;
use crate::name::encode;
use crate::{Hub, HubError, Listing, RemoteFile, Repository};

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

/// What a file is part of.
struct Job<'a> {
    repository: &'a Repository,
    commit: &'a str,
    file: &'a RemoteFile,
    page: String,
}

impl Job<'_> {
    fn corrupt(&self, reason: String) -> HubError {
        HubError::Corrupt { repository: self.repository.to_string(), file: self.file.name.clone(), reason }
    }

    fn question(&self) -> Question<'_> {
        Question { repository: self.repository, revision: self.commit, file: Some(&self.file.name), page: &self.page }
    }
}

impl Hub {
    /// Brings files of a listing into the cache, where they are not there yet, and says where they are.
    ///
    /// # Errors
    /// [`HubError`] says why they cannot be had; what has arrived stays for the next try.
    pub fn fetch(
        &self,
        repository: &Repository,
        revision: &str,
        listing: &Listing,
        files: &[&RemoteFile],
        progress: &dyn Progress,
    ) -> Result<PathBuf, HubError> {
        let mut needed = 0;
        for file in files {
            let blob = self.blob(repository, &file.digest);
            if size(&blob)? != Some(file.size) {
                needed += file.size - size(&part(&blob))?.unwrap_or(0).min(file.size);
            }
        }
        self.has_room(needed)?;
        for file in files {
            let job = Job { repository, commit: &listing.commit, file, page: self.page(repository) };
            self.bring(&job, progress)?;
            self.link(repository, &listing.commit, file)?;
        }
        self.refer(repository, revision, &listing.commit)?;
        Ok(self.snapshot(repository, &listing.commit))
    }

    /// The first bytes of a file, up to `count`.
    ///
    /// # Errors
    /// [`HubError`] says why they cannot be had.
    pub fn first_bytes(
        &self,
        repository: &Repository,
        listing: &Listing,
        file: &RemoteFile,
        count: u64,
    ) -> Result<Vec<u8>, HubError> {
        let job = Job { repository, commit: &listing.commit, file, page: self.page(repository) };
        let (address, count) = (self.file_address(&job), count.min(file.size));
        let mut tries = self.client.tries();
        loop {
            let end = count.saturating_sub(1);
            let answer = self.client.ask(&address, job.question(), Some((0, Some(end))), &mut tries)?;
            let mut bytes = Vec::new();
            match answer.into_body().into_reader().take(count).read_to_end(&mut bytes) {
                Ok(_) if bytes.len() as u64 == count => return Ok(bytes),
                Ok(_) => tries.again(&address, "the answer ends too early")?,
                Err(error) => tries.again(&address, &error.to_string())?,
            }
        }
    }

    fn file_address(&self, job: &Job<'_>) -> String {
        let (repository, file) = (job.repository.path(), encode(&job.file.name, false));
        self.client.address(&format!("{repository}/resolve/{}/{file}", job.commit))
    }

    /// The content of a file, in its place.
    fn bring(&self, job: &Job<'_>, progress: &dyn Progress) -> Result<(), HubError> {
        let (repository, file) = (job.repository, job.file);
        let blob = self.blob(repository, &file.digest);
        if size(&blob)? == Some(file.size) {
            return Ok(());
        }
        let folder = self.folder(repository).join("blobs");
        create(&folder)?;
        let _lock = self.lock(repository, &file.digest)?;
        // Another program may have brought it meanwhile.
        if size(&blob)? == Some(file.size) {
            return Ok(());
        }
        let path = part(&blob);
        let io = |error| HubError::cache(&path)(error);
        let mut kept =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        let mut there = kept.metadata().map_err(io)?.len();
        if there > file.size {
            kept.set_len(0).map_err(io)?;
            there = 0;
        }
        let mut hasher = file.digest.hasher(file.size);
        hash(&mut kept, there, &mut hasher).map_err(io)?;
        progress.begin(&file.name, file.size, there);
        self.receive(job, (&mut kept, &path), &mut hasher, there, progress)?;
        kept.sync_all().map_err(io)?;
        let found = hasher.digits();
        if found != file.digest.digits() {
            // Bytes that are wrong must not be gone on from.
            fs::remove_file(&path).map_err(io)?;
            return Err(job.corrupt(format!("its digest is {found}, not {}", file.digest.digits())));
        }
        fs::rename(&path, &blob).map_err(HubError::cache(&blob))?;
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(HubError::cache(folder))?;
        progress.end();
        Ok(())
    }

    /// The rest of a file, from byte `there` on.
    fn receive(
        &self,
        job: &Job<'_>,
        (kept, path): (&mut File, &Path),
        hasher: &mut Hasher,
        mut there: u64,
        progress: &dyn Progress,
    ) -> Result<(), HubError> {
        let io = |error| HubError::cache(path)(error);
        let (address, size) = (self.file_address(job), job.file.size);
        let mut tries = self.client.tries();
        while there < size {
            let range = (there > 0).then_some((there, None));
            let answer = self.client.ask(&address, job.question(), range, &mut tries)?;
            if there > 0 && !goes_on(&answer, there) {
                // The server sends all of it again, or has none of the rest.
                if answer.status().as_u16() != 200 {
                    return Err(job.corrupt(format!("the server does not send it from byte {there} on")));
                }
                kept.set_len(0).map_err(io)?;
                kept.seek(SeekFrom::Start(0)).map_err(io)?;
                *hasher = job.file.digest.hasher(size);
                there = 0;
                progress.at(0);
            }
            // One byte more than there should be, to see that there is none.
            let mut body = answer.into_body().into_reader().take(size - there + 1);
            let mut piece = vec![0; PIECE];
            loop {
                let count = match body.read(&mut piece) {
                    Ok(0) if there == size => break,
                    Ok(0) => {
                        tries.again(&address, "the answer ends too early")?;
                        break;
                    }
                    Ok(count) => count,
                    Err(error) => {
                        tries.again(&address, &error.to_string())?;
                        break;
                    }
                };
                if count as u64 > size - there {
                    kept.set_len(0).map_err(io)?;
                    return Err(job.corrupt(format!("it has more than the {size} bytes that the hub says")));
                }
                kept.write_all(&piece[..count]).map_err(io)?;
                hasher.update(&piece[..count]);
                there += count as u64;
                progress.at(there);
                tries.further();
            }
        }
        Ok(())
    }
}

/// What of a file is there before all of it is.
fn part(blob: &Path) -> PathBuf {
    blob.with_extension("incomplete")
}

/// Takes in what is there already; the file is at its end then.
fn hash(kept: &mut File, there: u64, hasher: &mut Hasher) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut left = there;
    while left > 0 {
        let count = piece.len().min(left as usize);
        kept.read_exact(&mut piece[..count])?;
        hasher.update(&piece[..count]);
        left -= count as u64;
    }
    kept.seek(SeekFrom::Start(there)).map(drop)
}

/// True if an answer begins with byte `start`.
fn goes_on(answer: &Response<Body>, start: u64) -> bool {
    let range = answer.headers().get("content-range").and_then(|value| value.to_str().ok());
    answer.status().as_u16() == 206 && range.is_some_and(|range| range.starts_with(&format!("bytes {start}-")))
}
