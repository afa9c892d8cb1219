//! How blobs arrive.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use sha2::Sha256;
use web::{DownloadError, Progress, Tries, Wanted};

use crate::ask::Question;
use crate::error::safe;
use crate::{Digest, Reference, Registry, RegistryError};

impl Registry {
    /// Brings a blob of a reference's repository into a folder, where it is not there yet, and says where it is: in
    /// `sha256-DIGITS`, and before all of it is there in `sha256-DIGITS.incomplete`, with which the next try goes on.
    ///
    /// # Errors
    /// [`RegistryError`] says why it cannot be had.
    pub fn fetch_blob(
        &self,
        reference: &Reference,
        digest: &Digest,
        size: u64,
        folder: &Path,
        progress: &dyn Progress,
    ) -> Result<PathBuf, RegistryError> {
        let path = folder.join(digest.file_name());
        if is_there(&path, digest, size) {
            return Ok(path);
        }
        self.see_that_it_may_ask(reference)?;
        let locks = folder.join(".locks");
        fs::create_dir_all(&locks).map_err(RegistryError::disk(&locks))?;
        let lock = locks.join(format!("{}.lock", digest.file_name()));
        let _lock = web::lock(&lock).map_err(RegistryError::disk(lock))?;
        // Another program may have brought it meanwhile.
        if is_there(&path, digest, size) {
            return Ok(path);
        }
        let server = self.server(reference)?;
        let address = server.address(reference, &format!("blobs/{digest}"));
        let ask = |start: Option<u64>, tries: &mut Tries| {
            let range = start.map(|start| format!("bytes={start}-"));
            let headers: Vec<_> = range.iter().map(|range| ("range", range.as_str())).collect();
            let question = Question { headers: &headers, ..Question::get(reference, &server, &address) };
            let answer = self.ask(&question, tries)?;
            match answer.status() {
                200 | 206 => Ok(answer),
                416 if start.is_some() => Ok(answer),
                _ => Err(match question.refused(answer) {
                    RegistryError::NotFound { reference } => {
                        RegistryError::NoBlob { reference, digest: digest.to_string() }
                    }
                    error => error,
                }),
            }
        };
        let (name, part) = (digest.to_string(), folder.join(format!("{}.incomplete", digest.file_name())));
        let wanted = Wanted { name: &name, size, digits: digest.digits(), part: &part, target: &path };
        let brought = web::download(wanted, Sha256::default, self.web.tries(), ask, progress);
        brought.map_err(|error| {
            if fs::metadata(&part).is_ok_and(|found| found.len() == 0) {
                let _ = fs::remove_file(&part);
            }
            let corrupt = |reason: String| RegistryError::Corrupt { what: format!("{digest} of {reference}"), reason };
            match error {
                DownloadError::Refused(error) => error,
                DownloadError::Stuck(reason) => {
                    RegistryError::Unreachable { address: address.clone(), reason: safe(&reason) }
                }
                DownloadError::Disk { path, source } => RegistryError::Disk { path, source },
                DownloadError::Digest(found) => corrupt(format!("its digest is sha256:{found}, not {digest}")),
                DownloadError::TooLong => corrupt(format!("it has more than the {size} bytes that were announced")),
                DownloadError::NoRest(there) => {
                    // A registry that has less does not get further with the same bytes.
                    let _ = fs::remove_file(&part);
                    corrupt(format!("the registry does not send it from byte {there} of {size} on"))
                }
            }
        })?;
        Ok(path)
    }
}

/// True for a file that is what its name says. What is left on a disk may be anything.
fn is_there(path: &Path, digest: &Digest, size: u64) -> bool {
    let has_size = fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() == size);
    let found = || Digest::of_reader(&mut File::open(path).ok()?).ok();
    has_size && found().is_some_and(|(found, _)| found == *digest)
}
