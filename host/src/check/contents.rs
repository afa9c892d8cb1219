//! Which files a recipe consists of: those that its config names, its plugins, and what people read. Links and other things
//! that are no plain files have no place in it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use plugin_runtime::{PluginHost, Source};

use super::plugins;
use crate::checkpoint::owned::RUN_FILE;
use crate::config::recipe::LockedFile;
use crate::config::{LoadedConfig, is_inside};
use crate::diagnostic::{Diagnostic, Failure};
use crate::digest::of_reader;

/// Name of the config within a recipe.
pub const FILE: &str = "recipe.yml";
/// Bytes of a signature.
pub const SIGNATURE_BYTES: u64 = 1 << 14;
/// Its signature.
pub const SIGNATURE: &str = "recipe.minisig";
/// What came of its runs, as `host evidence export` writes it.
pub const EVIDENCE: &str = "evidence.jsonl";
/// The folder of its own plugins.
pub const PLUGINS: &str = "plugins";
/// Files of a recipe.
pub const FILES: usize = 4096;
/// Bytes of all of them.
pub const BYTES: u64 = 4 << 30;
/// Folders within one another.
const DEPTH: usize = 16;
/// Bytes of a path within it.
const PATH: usize = 400;
/// What people read, and what came of runs, in the recipe's own folder.
const PAPERS: [&str; 6] = ["README.md", "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", EVIDENCE];

/// True for a key of the config that names a model's directory.
pub fn names_model(key: &str) -> bool {
    let models =
        ["base_model", "base_model_config", "tokenizer_config", "lora_model_dir", "trl.teacher_model_name_or_path"];
    models.contains(&key)
}

/// True for a file of a model's directory that is one of the model: not what a run has left there, nor what nobody reads.
pub fn is_of_model(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    ["json", "safetensors", "jinja"].contains(&extension) && name != RUN_FILE
}

/// The folder of a model's directory with templates by name.
pub const TEMPLATES: &str = "additional_chat_templates";

/// The directory of a recipe's config.
pub fn directory(loaded: &LoadedConfig) -> PathBuf {
    let parent = loaded.source.path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_owned()
}

/// All files but the config itself, by name.
///
/// # Errors
/// What cannot be part of a recipe, and what cannot be read.
pub fn files(loaded: &LoadedConfig, plugins: &PluginHost) -> Result<Vec<LockedFile>, Failure> {
    let root = directory(loaded);
    let mut found = Found { root: &root, files: BTreeMap::new(), bytes: 0 };
    for (key, path) in loaded.config.files() {
        // What is not here is a name of the hub, or told by the checks.
        if is_inside(&path) && !loaded.elsewhere.directories.contains_key(&path) {
            let added = if names_model(&key) { found.add_model(&path) } else { found.add(&path, 0) };
            added.map_err(|error| loaded.locate(error, &key))?;
        }
    }
    for name in plugins::names(loaded) {
        if let Some(Source::File(file)) = plugins.get(&name).map(|plugin| &plugin.source) {
            found.add(&inside(&root, file, &name)?, 0)?;
        }
    }
    for paper in PAPERS {
        found.add(paper, 0)?;
    }
    if let Some(own) = loaded.source.path.file_name().and_then(|name| name.to_str()) {
        found.files.remove(own);
    }
    let read = |(path, _): (String, u64)| {
        let (size, sha256) = digest(&root.join(&path))?;
        Ok(LockedFile { path, size, sha256 })
    };
    found.files.into_iter().map(read).collect()
}

/// A plugin's file as seen from the recipe's directory.
pub fn inside(root: &Path, file: &Path, name: &str) -> Result<String, Diagnostic> {
    let resolve = |path: &Path| fs::canonicalize(path).map_err(|error| unreadable(path, &error));
    let (own, file) = (resolve(root)?, resolve(file)?);
    let within = file.strip_prefix(&own).ok().and_then(Path::to_str).map(str::to_owned);
    within.ok_or_else(|| {
        let message = format!("plugin `{name}` lies outside of the recipe: `{}`", file.display());
        Diagnostic::error("recipe::plugin", message)
            .plugin(name)
            .help(format!("put its file into `{}`, and pass `--plugins` with that", root.join(PLUGINS).display()))
    })
}

struct Found<'a> {
    root: &'a Path,
    files: BTreeMap<String, u64>,
    bytes: u64,
}

impl Found<'_> {
    /// Adds a model: its own files, and of what lies deeper its templates.
    fn add_model(&mut self, name: &str) -> Result<(), Diagnostic> {
        let path = self.root.join(name);
        if !fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
            return self.add(name, 0);
        }
        for entry in fs::read_dir(&path).map_err(|error| unreadable(&path, &error))? {
            let entry = entry.map_err(|error| unreadable(&path, &error))?;
            if let Some(own) = entry.file_name().to_str().filter(|own| is_of_model(own)) {
                self.add(&format!("{}/{own}", name.trim_end_matches('/')), 0)?;
            }
        }
        self.add(&format!("{}/{TEMPLATES}", name.trim_end_matches('/')), 0)
    }

    fn add(&mut self, name: &str, depth: usize) -> Result<(), Diagnostic> {
        let name = name.trim_end_matches('/').trim_start_matches("./");
        let path = self.root.join(name);
        let refuse = |why: &str| {
            let message = format!("`{}` cannot be part of a recipe", path.display());
            Err(Diagnostic::error("recipe::file", message).why(why))
        };
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(unreadable(&path, &error)),
        };
        if metadata.is_symlink() {
            return refuse("it is a link");
        }
        if name.len() > PATH {
            return refuse("its name is too long");
        }
        if metadata.is_file() {
            if self.files.insert(name.to_owned(), metadata.len()).is_none() {
                self.bytes = self.bytes.saturating_add(metadata.len());
            }
            if self.files.len() > FILES {
                return refuse(&format!("a recipe has at most {FILES} files"));
            }
            if self.bytes > BYTES {
                return refuse(&format!("a recipe has at most {} GiB", BYTES >> 30));
            }
            return Ok(());
        }
        if !metadata.is_dir() {
            return refuse("it is neither a file nor a directory");
        }
        if depth == DEPTH {
            return refuse(&format!("it lies more than {DEPTH} directories deep"));
        }
        let entries = fs::read_dir(&path).map_err(|error| unreadable(&path, &error))?;
        for entry in entries {
            let entry = entry.map_err(|error| unreadable(&path, &error))?;
            let Ok(own) = entry.file_name().into_string() else {
                return refuse("the name of a file in it is not UTF-8");
            };
            // What hides is of the user's tools.
            if !own.starts_with('.') {
                self.add(&format!("{name}/{own}"), depth + 1)?;
            }
        }
        Ok(())
    }
}

/// Bytes of a file, and their SHA-256.
///
/// # Errors
/// That it cannot be read, or is no plain file.
pub fn digest(path: &Path) -> Result<(u64, String), Diagnostic> {
    let unreadable = |error: std::io::Error| unreadable(path, &error);
    let metadata = fs::symlink_metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        let message = format!("`{}` cannot be part of a recipe", path.display());
        return Err(Diagnostic::error("recipe::file", message).why("it is no plain file"));
    }
    of_reader(File::open(path).map_err(unreadable)?).map_err(unreadable)
}

/// That a file cannot be read.
fn unreadable(path: &Path, error: &std::io::Error) -> Diagnostic {
    Diagnostic::error("recipe::file", format!("`{}` cannot be read", path.display())).why(error.to_string())
}
