//! Compiled plugins, kept between runs. The files are native code, so the directory belongs to the user alone and only
//! what this program wrote is loaded. A file is written whole or not at all, and starts with the digest of the rest:
//! runs at the same time, a crash or a bad disk cost a compilation, never more.

use std::fs;
use std::hash::{Hash, Hasher};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::manifest::hex;

/// Bytes of the digest at the start of a file.
const DIGEST: usize = 32;
/// Bytes that a compiled plugin may have.
const CODE_LIMIT: u64 = 1 << 30;

/// A directory of compiled plugins.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// None where the directory cannot be made, or where another user could write to it: then nothing is cached.
    pub(crate) fn open(dir: &Path) -> Option<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).ok()?;
        let metadata = fs::metadata(dir).ok()?;
        let mine = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == metadata.uid());
        let private = metadata.permissions().mode() & 0o022 == 0;
        (mine && private).then(|| Self { dir: dir.to_owned() })
    }

    /// The compiled plugin, where it is there and whole.
    pub(crate) fn load(&self, engine: &Engine, sha256: &str) -> Option<Component> {
        let file = intake::read(&self.path(engine, sha256), CODE_LIMIT).ok()?;
        let (digest, code) = file.split_at_checked(DIGEST)?;
        if digest_of(sha256, code) != digest {
            return None;
        }
        // SAFETY: the bytes are what wasmtime of this program gave: they lie in a directory that only this user can write
        // (checked in `open`), with their digest. wasmtime itself checks version and settings.
        unsafe { Component::deserialize(engine, code) }.ok()
    }

    /// Keeps a compiled plugin. A full disk or a lost directory costs only the time of compiling again.
    pub(crate) fn store(&self, engine: &Engine, sha256: &str, code: &[u8]) {
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
            file.write_all(&digest_of(sha256, code))?;
            file.write_all(code)?;
            file.persist(self.path(engine, sha256))?;
            Ok::<(), std::io::Error>(())
        };
        let _ = write();
    }

    fn path(&self, engine: &Engine, sha256: &str) -> PathBuf {
        let mut hasher = Sha256Hasher(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let engine = hex(&hasher.0.finalize());
        self.dir.join(format!("{}-{}.bin", &sha256[..32], &engine[..16]))
    }
}

/// Of the code and of the plugin that it was made of: one plugin's code is not taken for another's.
fn digest_of(plugin: &str, code: &[u8]) -> [u8; DIGEST] {
    Sha256::new().chain_update(plugin).chain_update(code).finalize().into()
}

struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        digest.iter().take(8).fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::engine_config;

    /// The smallest component.
    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

    #[test]
    fn what_is_damaged_or_cut_is_not_loaded() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("plugins");
        let (cache, engine) = (Cache::open(&dir).unwrap(), Engine::new(&engine_config()).unwrap());
        let sha256 = hex(&Sha256::digest(EMPTY));
        assert!(cache.load(&engine, &sha256).is_none());
        cache.store(&engine, &sha256, &engine.precompile_component(EMPTY).unwrap());
        assert!(cache.load(&engine, &sha256).is_some());
        let path = cache.path(&engine, &sha256);
        let whole = fs::read(&path).unwrap();
        for broken in [&whole[..whole.len() - 1], &whole[..10], b"", &[&whole[..100], b"x", &whole[101..]].concat()] {
            fs::write(&path, broken).unwrap();
            assert!(cache.load(&engine, &sha256).is_none(), "{} bytes", broken.len());
        }
        let other = "0".repeat(64);
        fs::write(cache.path(&engine, &other), &whole).unwrap();
        assert!(cache.load(&engine, &other).is_none());
    }

    #[test]
    fn a_directory_that_others_can_write_is_not_used() {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Cache::open(root.path()).is_none());
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(Cache::open(root.path()).is_some());
    }
}
