//! How files come into the cache.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use web::{DownloadError, Progress, Wanted};

use crate::cache::{create, size};
use crate::client::Question;
use crate::name::encode;
use crate::{Hub, HubError, Listing, RemoteFile, Repository};

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
            match answer.response.into_body().into_reader().take(count).read_to_end(&mut bytes) {
                Ok(_) if bytes.len() as u64 == count => return Ok(bytes),
                Ok(_) => tries.again("the answer ends too early").map_err(HubError::of(&address))?,
                Err(error) => tries.again(&error.to_string()).map_err(HubError::of(&address))?,
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
        create(&self.folder(repository).join("blobs"))?;
        let _lock = self.lock(repository, &file.digest)?;
        // Another program may have brought it meanwhile.
        if size(&blob)? == Some(file.size) {
            return Ok(());
        }
        let (address, path) = (self.file_address(job), part(&blob));
        let digits = file.digest.digits();
        let wanted = Wanted { name: &file.name, size: file.size, digits, part: &path, target: &blob };
        let ask = |start: Option<u64>, tries: &mut web::Tries| {
            self.client.ask(&address, job.question(), start.map(|start| (start, None)), tries)
        };
        let brought = web::download(wanted, || file.digest.hasher(file.size), self.client.tries(), ask, progress);
        brought.map_err(|error| match error {
            DownloadError::Refused(error) => error,
            DownloadError::Stuck(reason) => HubError::Unreachable { address: address.clone(), reason },
            DownloadError::TooLong => {
                job.corrupt(format!("it has more than the {} bytes that the hub says", file.size))
            }
            DownloadError::Digest(found) => job.corrupt(format!("its digest is {found}, not {digits}")),
            error @ DownloadError::NoRest(_) => job.corrupt(error.to_string()),
            DownloadError::Disk { path, source } => HubError::Cache { path, source },
        })
    }
}

/// What of a file is there before all of it is.
fn part(blob: &Path) -> PathBuf {
    blob.with_extension("incomplete")
}
