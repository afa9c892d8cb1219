//! Compiled plugins, kept between runs. The files are native code, so the directory belongs to the user alone, only
//! what this program wrote is loaded, and each file must have the digest that was noted when it was written.

use std::fs;
use std::hash::{Hash, Hasher};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::manifest::hex;

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

    /// The compiled plugin, from the cache or compiled now.
    pub(crate) fn component(&self, engine: &Engine, bytes: &[u8], sha256: &str) -> wasmtime::Result<Component> {
        let path = self.path(engine, sha256);
        if let Some(component) = load(engine, &path) {
            return Ok(component);
        }
        let component = Component::new(engine, bytes)?;
        // A full disk or a lost directory costs only the time of compiling again.
        if let Ok(compiled) = component.serialize() {
            let _ = self.store(&path, &compiled);
        }
        Ok(component)
    }

    fn path(&self, engine: &Engine, sha256: &str) -> PathBuf {
        let mut hasher = Sha256Hasher(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let engine = hex(&hasher.0.finalize());
        self.dir.join(format!("{}-{}.cwasm", &sha256[..32], &engine[..16]))
    }

    fn store(&self, path: &Path, compiled: &[u8]) -> std::io::Result<()> {
        for (path, bytes) in
            [(path.to_owned(), compiled), (digest_path(path), hex(&Sha256::digest(compiled)).as_bytes())]
        {
            let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
            file.write_all(bytes)?;
            file.persist(path)?;
        }
        Ok(())
    }
}

fn load(engine: &Engine, path: &Path) -> Option<Component> {
    let compiled = fs::read(path).ok()?;
    let digest = fs::read_to_string(digest_path(path)).ok()?;
    if hex(&Sha256::digest(&compiled)) != digest {
        return None;
    }
    // SAFETY: the bytes are what `serialize` of this program gave: they lie in a directory that only this user can
    // write (checked in `open`), and have the digest noted with them. wasmtime itself checks version and settings.
    unsafe { Component::deserialize(engine, &compiled) }.ok()
}

fn digest_path(path: &Path) -> PathBuf {
    path.with_extension("sha256")
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
