//! Where this program keeps things of its own on the user's machine.

use std::path::PathBuf;

/// `HOST_CACHE_DIR`, or `host` in the user's cache directory (`XDG_CACHE_HOME`, `~/.cache`). None without a home.
pub fn cache() -> Option<PathBuf> {
    absolute("HOST_CACHE_DIR")
        .or_else(|| absolute("XDG_CACHE_HOME").map(|cache| cache.join("host")))
        .or_else(|| absolute("HOME").map(|home| home.join(".cache/host")))
}

/// `HOST_DATA_DIR`, or `host` in the user's data directory (`XDG_DATA_HOME`, `~/.local/share`). None without a home.
pub fn data() -> Option<PathBuf> {
    absolute("HOST_DATA_DIR")
        .or_else(|| absolute("XDG_DATA_HOME").map(|data| data.join("host")))
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share/host")))
}

fn absolute(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}
