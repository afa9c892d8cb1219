//! What all places of recipes have in common: files that are opened one by one, and where blobs arrive.

use std::fmt::Debug;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::check::contents::SIGNATURE_BYTES;
use crate::config::recipe::LockedFile;
use crate::diagnostic::Diagnostic;
use crate::recipe::image::{Image, Packed};

/// Whatever gives the files of a recipe.
pub(in crate::recipe) trait Files: Debug {
    /// The bytes of a file, which are not held against its digest yet.
    fn open(&self, file: &LockedFile) -> Result<Box<dyn Read>, Diagnostic>;
    /// The signature beside them, if there is one.
    fn signature(&self) -> Result<Option<String>, Diagnostic>;
}

/// The signature in a file, if that is there.
pub(in crate::recipe) fn signature_of(path: &Path) -> Result<Option<String>, Diagnostic> {
    match intake::read_text(path, SIGNATURE_BYTES) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(&path.display().to_string(), &error)),
    }
}

/// A recipe of which the config was had.
#[derive(Debug)]
pub(in crate::recipe) struct Found {
    /// Where the config is, or would be.
    pub(in crate::recipe) path: PathBuf,
    /// Its bytes.
    pub(in crate::recipe) config: Vec<u8>,
    /// Its manifest; none where it has to be made of the config's lock.
    pub(in crate::recipe) image: Option<Image>,
    /// Its files.
    pub(in crate::recipe) files: Box<dyn Files>,
}

pub(super) fn of_packed(packed: &Packed, file: &LockedFile) -> Result<Box<dyn Read>, Diagnostic> {
    Ok(Box::new(packed.reader(file).map_err(|error| unreadable(&file.path, &error))?))
}

pub(super) fn open(path: &Path) -> Result<Box<dyn Read>, Diagnostic> {
    Ok(Box::new(File::open(path).map_err(|error| unreadable(&path.display().to_string(), &error))?))
}

pub(super) fn unreadable(name: &str, error: &std::io::Error) -> Diagnostic {
    Diagnostic::error("recipe::file", format!("`{name}` cannot be read")).why(error.to_string())
}

/// Where blobs arrive, until a recipe is unpacked.
pub(super) fn downloads() -> Result<PathBuf, Diagnostic> {
    let cache = crate::directories::cache().unwrap_or_else(|| std::env::temp_dir().join("host"));
    let folder = cache.join("recipes/.downloads");
    std::fs::create_dir_all(&folder).map_err(|error| {
        Diagnostic::error("io::write", format!("`{}` cannot be made", folder.display()))
            .why(error.to_string())
            .help("set `HOST_CACHE_DIR` to a directory that you may write to")
    })?;
    Ok(folder)
}
