//! Recipes at addresses of the web: a `recipe.yml` with its files beside it, or a `.recipe` file.

use std::fs;
use std::io::{Read, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use sha2::Sha256;
use web::{Answer, Client, DownloadError, Plain, Request, Tries, Wanted};

use super::files::{Files, Found, downloads, of_packed, open, unreadable};
use crate::check::contents::{FILE, SIGNATURE, SIGNATURE_BYTES};
use crate::config::FILE_LIMIT;
use crate::config::recipe::LockedFile;
use crate::diagnostic::Diagnostic;
use crate::recipe::image::{Packed, prefix};
use crate::report::fetching::Fetching;

/// Bytes of an archive beside those of its files.
const AROUND: u64 = 16 << 20;

/// A `recipe.yml`.
#[derive(Debug)]
pub(super) struct AtAddress {
    site: Site,
    /// The address of its directory, with a slash at its end.
    base: String,
}

/// A `.recipe` file.
#[derive(Debug)]
pub(super) struct PackedAtAddress {
    site: Site,
    address: String,
    sha256: String,
    /// Of all its files.
    bytes: u64,
    packed: std::cell::OnceCell<Packed>,
}

#[derive(Debug)]
struct Site {
    client: Client,
}

impl Site {
    fn new() -> Result<Self, Diagnostic> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if set("HOST_OFFLINE").is_some_and(|value| ["1", "on", "yes", "true"].iter().any(|on| value == *on)) {
            let message = "nothing is fetched, as `HOST_OFFLINE` is set";
            return Err(Diagnostic::error("web::offline", message).help("unset `HOST_OFFLINE`, or name a file"));
        }
        let certificates = set("SSL_CERT_FILE").map(PathBuf::from);
        let client = Client::new(certificates.as_deref(), Plain::Loopback, Duration::from_secs(1));
        let client = client
            .map_err(|reason| Diagnostic::error("web::setting", format!("`SSL_CERT_FILE` cannot be used: {reason}")))?;
        Ok(Self { client })
    }

    fn ask(&self, address: &str, start: Option<u64>, tries: &mut Tries) -> Result<Answer, Diagnostic> {
        let range = start.map(|start| format!("bytes={start}-"));
        let mut headers = vec![("accept-encoding", "identity")];
        headers.extend(range.iter().map(|range| ("range", range.as_str())));
        let request = Request { headers: &headers, ..Request::get(address) };
        let failed = |why: String| {
            Diagnostic::error("web::unreachable", format!("`{address}` cannot be had"))
                .why(why)
                .help("see to the address and the network")
        };
        let answer = self.client.ask(&request, tries).map_err(|failure| failed(failure.to_string()))?;
        match answer.status() {
            200 | 206 => Ok(answer),
            416 if start.is_some() => Ok(answer),
            status => Err(failed(format!("the server answers with status {status}"))),
        }
    }

    fn tries(&self) -> Tries {
        self.client.tries()
    }
}

/// The bytes at an address, at most `limit`.
pub(super) fn bytes_of(from: &str, limit: u64) -> Result<Vec<u8>, Diagnostic> {
    let site = Site::new()?;
    let bytes = site.ask(from, None, &mut site.tries())?.bytes(limit);
    bytes
        .map_err(|error| unreadable(from, &error))?
        .ok_or_else(|| Diagnostic::error("web::too-large", format!("`{from}` has more than {limit} bytes")))
}

impl AtAddress {
    pub(super) fn find(from: &str) -> Result<Found, Diagnostic> {
        let site = Site::new()?;
        let config = bytes_of(from, FILE_LIMIT)?;
        let plain = from.split(['?', '#']).next().unwrap_or(from);
        let base = plain.rsplit_once('/').map_or(plain, |(base, _)| base);
        let base = format!("{base}/");
        Ok(Found { path: FILE.into(), config, image: None, files: Box::new(Self { site, base }) })
    }
}

impl Site {
    /// A signature at an address, if there is one.
    fn signature(&self, address: &str) -> Result<Option<String>, Diagnostic> {
        match self.ask(address, None, &mut self.tries()) {
            Ok(answer) => {
                let bytes = answer.bytes(SIGNATURE_BYTES).map_err(|error| unreadable(address, &error))?;
                Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()))
            }
            Err(missing) if missing.why.as_deref().is_some_and(|why| why.ends_with("status 404")) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Files for AtAddress {
    fn signature(&self) -> Result<Option<String>, Diagnostic> {
        self.site.signature(&format!("{}{SIGNATURE}", self.base))
    }

    fn open(&self, file: &LockedFile) -> Result<Box<dyn Read>, Diagnostic> {
        let folder = downloads()?;
        let target = folder.join(format!("sha256-{}", file.sha256));
        let failed = |error: std::io::Error| unreadable(&target.display().to_string(), &error);
        let _lock = web::lock(&folder.join(format!("sha256-{}.lock", file.sha256))).map_err(failed)?;
        if crate::check::contents::digest(&target).is_ok_and(|found| found == (file.size, file.sha256.clone())) {
            return open(&target);
        }
        let address = format!("{}{}", self.base, encoded(&file.path));
        let part = folder.join(format!("sha256-{}.incomplete", file.sha256));
        let wanted = Wanted { name: &file.path, size: file.size, digits: &file.sha256, part: &part, target: &target };
        let ask = |start: Option<u64>, tries: &mut Tries| self.site.ask(&address, start, tries);
        let brought = web::download(wanted, Sha256::default, self.site.tries(), ask, &Fetching::new(&self.base));
        brought.map_err(|error| match error {
            DownloadError::Refused(diagnostic) => diagnostic,
            DownloadError::Digest(found) => {
                crate::recipe::image::differs(&format!("`{}`", file.path), &file.sha256, &found)
            }
            other => {
                let message = format!("`{address}` did not arrive as it was announced");
                Diagnostic::error("web::corrupt", message).why(other.to_string()).help("try again")
            }
        })?;
        open(&target)
    }
}

/// A path as part of an address.
fn encoded(path: &str) -> String {
    let mut out = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}

impl PackedAtAddress {
    pub(super) fn find(from: &str) -> Result<Found, Diagnostic> {
        let site = Site::new()?;
        let answer = site.ask(from, None, &mut site.tries())?;
        // Its first bytes say what it is; the connection ends there.
        let (image, config) = prefix(answer.response.into_body().into_reader())?;
        let (sha256, bytes) = (image.sha256.clone(), image.bytes());
        let own = Self { site, address: from.to_owned(), sha256, bytes, packed: std::cell::OnceCell::new() };
        Ok(Found { path: FILE.into(), config, image: Some(image), files: Box::new(own) })
    }

    fn bring(&self) -> Result<Packed, Diagnostic> {
        let path = downloads()?.join(format!("{}-{}.recipe", self.sha256, std::process::id()));
        let result = self.receive(&path);
        // What is open stays readable.
        let _ = fs::remove_file(&path);
        result
    }

    fn receive(&self, path: &std::path::Path) -> Result<Packed, Diagnostic> {
        let answer = self.site.ask(&self.address, None, &mut self.site.tries())?;
        let failed = |error: std::io::Error| {
            Diagnostic::error("web::corrupt", format!("`{}` did not arrive", self.address)).why(error.to_string())
        };
        let mut file = fs::File::create_new(path).map_err(failed)?;
        let mut body = answer.response.into_body().into_reader().take(self.bytes + AROUND);
        std::io::copy(&mut body, &mut file).and_then(|_| file.flush()).map_err(failed)?;
        let packed = Packed::open(path)?;
        if packed.image.sha256 != self.sha256 {
            return Err(crate::recipe::image::differs("the manifest", &self.sha256, &packed.image.sha256));
        }
        Ok(packed)
    }
}

impl Files for PackedAtAddress {
    fn signature(&self) -> Result<Option<String>, Diagnostic> {
        self.site.signature(&format!("{}.minisig", self.address))
    }

    fn open(&self, file: &LockedFile) -> Result<Box<dyn Read>, Diagnostic> {
        let packed = match self.packed.get() {
            Some(packed) => packed,
            None => {
                let packed = self.bring()?;
                self.packed.get_or_init(|| packed)
            }
        };
        of_packed(packed, file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_encoded() {
        assert_eq!(encoded("data/a b#?%\u{fc}.jsonl"), "data/a%20b%23%3F%25%C3%BC.jsonl");
    }
}
