//! Where recipes are unpacked: in the user's cache, under the digest of their manifest. One is there whole or not at all.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::image::{Image, put};
use crate::check::contents::digest;
use crate::config::recipe::LockedFile;
use crate::diagnostic::Diagnostic;

/// Unpacks a recipe, and returns its directory. `open` gives the bytes of a file.
///
/// # Errors
/// Bytes that are not what the image says, and what cannot be written; nothing of it stays behind then.
pub(super) fn unpack<R: Read>(
    image: &Image,
    mut open: impl FnMut(&LockedFile) -> Result<R, Diagnostic>,
) -> Result<PathBuf, Diagnostic> {
    let cache = crate::directories::cache().unwrap_or_else(|| std::env::temp_dir().join("host"));
    let root = cache.join("recipes");
    let failed = |path: &Path, error: &std::io::Error| {
        Diagnostic::error("io::write", format!("the recipe cannot be unpacked into `{}`", path.display()))
            .why(error.to_string())
            .help("set `HOST_CACHE_DIR` to a directory that you may write to")
    };
    let place = root.join(&image.sha256);
    std::fs::create_dir_all(&root).map_err(|error| failed(&root, &error))?;
    if place.is_dir() {
        if image.files.iter().all(|file| is_there(&place, file)) {
            return Ok(place);
        }
        // Somebody has changed it since.
        std::fs::remove_dir_all(&place).map_err(|error| failed(&place, &error))?;
    }
    let building = tempfile::Builder::new().prefix(".unpacking-").tempdir_in(&root);
    let building = building.map_err(|error| failed(&root, &error))?;
    for file in &image.files {
        put(file, open(file)?, building.path())?;
    }
    match std::fs::rename(building.path(), &place) {
        Ok(()) => drop(building.keep()),
        // Another process was faster.
        Err(_) if place.is_dir() => {}
        Err(error) => return Err(failed(&place, &error)),
    }
    Ok(place)
}

/// Copies an unpacked recipe to a place of the user's, whole or not at all.
pub(super) fn copy(image: &Image, from: &Path, to: &Path) -> Result<(), Diagnostic> {
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |error: std::io::Error| {
        Diagnostic::error("io::write", format!("nothing can be written into `{}`", parent.display()))
            .why(error.to_string())
    };
    std::fs::create_dir_all(parent).map_err(failed)?;
    let building = tempfile::Builder::new().prefix(".recipe-").tempdir_in(parent).map_err(failed)?;
    for file in &image.files {
        put(file, std::fs::File::open(from.join(&file.path)).map_err(failed)?, building.path())?;
    }
    open_to_others(building.path()).and_then(|()| std::fs::rename(building.path(), to)).map_err(failed)?;
    drop(building.keep());
    Ok(())
}

/// A temporary directory is for its user alone; what is kept is as any that the user makes.
pub(super) fn open_to_others(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let probe = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o777)).tempdir_in(directory)?;
    let permissions = std::fs::metadata(probe.path())?.permissions();
    drop(probe);
    std::fs::set_permissions(directory, permissions)
}

fn is_there(place: &Path, file: &LockedFile) -> bool {
    digest(&place.join(&file.path)).is_ok_and(|found| found == (file.size, file.sha256.clone()))
}
