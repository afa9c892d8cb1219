//! The built-in quickstart: a tiny model, its tokenizer and its data, part of this program, unpacked into the user's
//! cache directory when it is first run.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::checkpoint::directory::replace_file;
use crate::diagnostic::{Diagnostic, Failure};
use crate::digest::hex;

/// Where the files lie in the repository; the config names them by this path.
const ROOT: &str = "configs/quickstart";

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../configs/quickstart/", $name)))),+]
    };
}

const FILES: &[(&str, &[u8])] = files![
    "config.yml",
    "train.jsonl",
    "eval.jsonl",
    "model/config.json",
    "model/generation_config.json",
    "model/model.safetensors",
    "model/tokenizer.json",
    "model/tokenizer_config.json",
];

/// Unpacks the files where they are not yet, and returns the config's path.
pub fn unpack() -> Result<PathBuf, Failure> {
    let cache = crate::directories::cache().unwrap_or_else(|| std::env::temp_dir().join("host"));
    let mut hasher = Sha256::new();
    for (name, bytes) in FILES {
        hasher.update(name.as_bytes());
        hasher.update(bytes);
    }
    let digest = hex(&hasher.finalize());
    let root = cache.join(format!("quickstart-{}", &digest[..16]));
    for (name, bytes) in FILES {
        let path = root.join(name);
        let bytes = contents(name, bytes, &root);
        if std::fs::read(&path).is_ok_and(|there| there == bytes) {
            continue;
        }
        let failed = |source: std::io::Error| {
            Diagnostic::error("io::write", format!("the quickstart cannot be unpacked into `{}`", root.display()))
                .why(source.to_string())
                .help("set `HOST_CACHE_DIR` to a directory that you may write to")
        };
        std::fs::create_dir_all(path.parent().unwrap_or(&root)).map_err(failed)?;
        replace_file(&path, &bytes)?;
    }
    Ok(root.join("config.yml"))
}

/// The config names its files by where they lie in the repository; unpacked, it names where they are now.
fn contents(name: &str, bytes: &[u8], root: &Path) -> Vec<u8> {
    match std::str::from_utf8(bytes) {
        Ok(text) if name == "config.yml" => text.replace(ROOT, &root.display().to_string()).into_bytes(),
        _ => bytes.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_small() {
        let bytes: usize = FILES.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(bytes < 8 << 20, "{bytes}");
    }
}
