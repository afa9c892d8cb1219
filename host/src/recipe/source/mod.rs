//! Where a recipe is: here, in a registry, on the hub, or at an address. First its config is had, then, once the user has said
//! so, its files.

pub(super) mod files;
mod registries;
mod websites;

use std::io::Read;
use std::path::{Path, PathBuf};

use self::files::{Files, Found, downloads, of_packed, open, signature_of, unreadable};
use self::registries::InRegistry;
pub use self::registries::{Pushed, push};
use self::websites::{AtAddress, PackedAtAddress};
use super::image::Packed;
use crate::check::contents::{FILE, SIGNATURE};
use crate::config::recipe::LockedFile;
use crate::diagnostic::Diagnostic;
use crate::remote::HubRecipe;

/// True for the name of a config.
pub(super) fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yml" || extension == "yaml")
}

/// Finds a recipe that is not a directory here.
pub(super) fn find(from: &str) -> Result<Found, Diagnostic> {
    if let Some(name) = from.strip_prefix("hf:") {
        let repository = HubRecipe::find(name.trim_start_matches("//"))?;
        let config = repository.config(FILE)?;
        return Ok(Found { path: FILE.into(), config, image: None, files: Box::new(repository) });
    }
    match from.split_once("://") {
        Some(("oci", _)) => InRegistry::find(from),
        Some(("https" | "http", rest)) => {
            let path = rest.split(['?', '#']).next().unwrap_or_default();
            if is_yaml(Path::new(path)) { AtAddress::find(from) } else { PackedAtAddress::find(from) }
        }
        Some((scheme, _)) => {
            let message = format!("recipes are not read from `{scheme}://` addresses");
            Err(Diagnostic::error("recipe::source", message)
                .help("write `https://…`, `oci://…` or `hf:ORG/NAME`, or name a file"))
        }
        None => {
            let packed = Packed::open(Path::new(from))?;
            let config = packed.config()?;
            let path = Path::new(from).with_extension("").join(FILE);
            let image = Some(packed.image.clone());
            Ok(Found {
                path,
                config,
                image,
                files: Box::new(InFile { packed, signature: format!("{from}.minisig").into() }),
            })
        }
    }
}

/// The bytes of a file here or at an `https://` address, at most `limit`.
///
/// # Errors
/// Why they cannot be had.
pub fn bytes_of(from: &str, limit: u64) -> Result<Vec<u8>, Diagnostic> {
    match from.split_once("://") {
        Some(("https" | "http", _)) => websites::bytes_of(from, limit),
        Some((scheme, _)) => {
            let message = format!("nothing is read from `{scheme}://` addresses here");
            Err(Diagnostic::error("recipe::source", message).help("write `https://…`, or name a file"))
        }
        None => intake::read(Path::new(from), limit).map_err(|error| unreadable(from, &error)),
    }
}

/// The bytes of a plugin, and where they are: with the digest, where a registry has them.
///
/// # Errors
/// Why they cannot be had.
pub fn plugin(from: &str) -> Result<(Vec<u8>, String), Diagnostic> {
    match from.split_once("://") {
        Some(("oci", _)) => registries::plugin(from),
        Some(("https" | "http", _)) => Ok((websites::bytes_of(from, plugin_runtime::FILE_LIMIT)?, from.to_owned())),
        Some((scheme, _)) => {
            let message = format!("plugins are not read from `{scheme}://` addresses");
            Err(Diagnostic::error("plugin::source", message).help("write `https://…` or `oci://…`, or name a file"))
        }
        None => {
            let path = Path::new(from);
            let shown = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
            Ok((plugin_runtime::read_file(path)?, shown))
        }
    }
}

/// A `.recipe` file here.
#[derive(Debug)]
struct InFile {
    packed: Packed,
    signature: PathBuf,
}

impl Files for InFile {
    fn open(&self, file: &LockedFile) -> Result<Box<dyn Read>, Diagnostic> {
        of_packed(&self.packed, file)
    }

    fn signature(&self) -> Result<Option<String>, Diagnostic> {
        signature_of(&self.signature)
    }
}

impl Files for HubRecipe {
    fn open(&self, file: &LockedFile) -> Result<Box<dyn Read>, Diagnostic> {
        open(&self.bring(&file.path)?)
    }

    fn signature(&self) -> Result<Option<String>, Diagnostic> {
        if self.has(SIGNATURE) { signature_of(&self.bring(SIGNATURE)?) } else { Ok(None) }
    }
}

/// Removes blobs that have arrived, once the recipe is unpacked.
pub(super) fn forget(files: &[LockedFile]) {
    let Ok(folder) = downloads() else { return };
    for file in files {
        let _ = std::fs::remove_file(folder.join(format!("sha256-{}", file.sha256)));
    }
}
