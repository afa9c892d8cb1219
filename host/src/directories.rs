//! Where this program keeps things of its own on the user's machine.

use std::path::PathBuf;

/// `HOST_CACHE_DIR`, or `host` in the user's cache directory (`XDG_CACHE_HOME`, `~/.cache`). None without a home.
pub fn cache() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("HOST_CACHE_DIR")
        .or_else(|| absolute("XDG_CACHE_HOME").map(|cache| cache.join("host")))
        .or_else(|| absolute("HOME").map(|home| home.join(".cache/host")))
}
