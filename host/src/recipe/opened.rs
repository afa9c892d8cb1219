//! A recipe from wherever it is: first what it says of itself, then its files.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::image::{Image, Packed, differs, invalid};
use super::store;
use crate::check::contents::{FILE, PLUGINS};
use crate::config::recipe::{Lock, LockedFile, Recipe};
use crate::config::{self, FILE_LIMIT, LoadedConfig};
use crate::diagnostic::{Diagnostic, Failure};
use crate::digest::hex;
use sha2::{Digest as _, Sha256};

/// A recipe whose config was read, and none of its other files.
#[derive(Debug)]
pub struct Opened {
    /// Where it is, as the user said.
    pub from: String,
    /// Its config.
    pub loaded: LoadedConfig,
    source: From,
}

#[derive(Debug)]
enum From {
    /// A directory, with the config at this path.
    Directory(PathBuf),
    /// A `.recipe` file.
    Packed(Box<Packed>),
}

impl Opened {
    /// Opens a directory with a `recipe.yml`, such a file, or a `.recipe` file.
    ///
    /// # Errors
    /// What is no recipe, and everything that is wrong with its config.
    pub fn new(from: &str) -> Result<Self, Failure> {
        if let Some((scheme, _)) = from.split_once("://") {
            let message = format!("recipes are not read from `{scheme}://` addresses yet");
            return Err(Diagnostic::error("recipe::source", message).help("download it, and name the file").into());
        }
        let path = Path::new(from);
        let config = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
        let is_yaml = config.extension().is_some_and(|extension| extension == "yml" || extension == "yaml");
        if is_yaml || path.is_dir() {
            let loaded = config::load(&config, &[])?;
            return Self::checked(from, loaded, From::Directory(config));
        }
        let packed = Packed::open(path)?;
        let loaded = read_config(&packed, path)?;
        held_against(&packed.image, &loaded)?;
        Self::checked(from, loaded, From::Packed(Box::new(packed)))
    }

    fn checked(from: &str, loaded: LoadedConfig, source: From) -> Result<Self, Failure> {
        if loaded.config.recipe.is_none() {
            return Err(no_recipe(&loaded).into());
        }
        Ok(Self { from: from.to_owned(), loaded, source })
    }

    /// What it says of itself.
    pub fn recipe(&self) -> &Recipe {
        self.loaded.config.recipe.as_ref().expect("it was looked for")
    }

    /// Its lock.
    pub fn lock(&self) -> Option<&Lock> {
        self.loaded.config.lock.as_ref()
    }

    /// Its manifest, where it is packed.
    pub fn image(&self) -> Option<&Image> {
        match &self.source {
            From::Directory(_) => None,
            From::Packed(packed) => Some(&packed.image),
        }
    }

    /// Brings all its files, each held against its digest, and returns the path of its config.
    ///
    /// # Errors
    /// What differs, and what cannot be had or written.
    pub fn bring(&self) -> Result<PathBuf, Failure> {
        match &self.source {
            From::Directory(config) => Ok(config.clone()),
            From::Packed(packed) => {
                let unreadable = |error: std::io::Error| {
                    Diagnostic::error("recipe::file", format!("`{}` cannot be read", self.from)).why(error.to_string())
                };
                let open = |file: &LockedFile| packed.reader(file).map_err(unreadable);
                Ok(store::unpack(&packed.image, open)?.join(FILE))
            }
        }
    }

    /// Directories with plugins of its own, once it was brought.
    pub fn plugins(config: &Path) -> Vec<PathBuf> {
        let own = config.parent().map(|parent| parent.join(PLUGINS));
        own.filter(|own| own.is_dir()).into_iter().collect()
    }
}

/// That a config does not say that it is a recipe.
pub fn no_recipe(loaded: &LoadedConfig) -> Diagnostic {
    let path = loaded.source.path.display();
    Diagnostic::error("recipe::none", format!("`{path}` is a config, and no recipe"))
        .help("give it a name: `recipe: {name: my-recipe, version: 1.0.0}`, or make one of it: `host recipe new`")
}

/// The config of a packed recipe, as if it lay beside the archive.
fn read_config(packed: &Packed, path: &Path) -> Result<LoadedConfig, Failure> {
    let file = &packed.image.files[0];
    let unreadable = |error: std::io::Error| {
        Diagnostic::error("recipe::file", format!("`{}` cannot be read", path.display())).why(error.to_string())
    };
    let mut bytes = Vec::new();
    packed.reader(file).map_err(unreadable)?.take(FILE_LIMIT).read_to_end(&mut bytes).map_err(unreadable)?;
    let found = hex(&Sha256::digest(&bytes));
    if found != file.sha256 {
        return Err(differs(&format!("`{FILE}`"), &file.sha256, &found).into());
    }
    let examined = config::examine_bytes(&path.with_extension("").join(FILE), bytes, &[]);
    let remarks = Failure::check(examined.problems)?;
    let Some(mut loaded) = examined.loaded else { return Err(Failure(remarks)) };
    loaded.remarks = remarks;
    Ok(loaded)
}

/// A packed recipe has the files of its lock, and no others.
fn held_against(image: &Image, loaded: &LoadedConfig) -> Result<(), Failure> {
    let Some(lock) = &loaded.config.lock else {
        return Err(invalid("it is not locked").into());
    };
    let files = &image.files[1..];
    for locked in &lock.files {
        match files.iter().find(|file| file.path == locked.path) {
            None => return Err(invalid(format!("its lock names `{}`, and it does not have it", locked.path)).into()),
            Some(file) if file.sha256 != locked.sha256 => {
                return Err(differs(&format!("`{}`", locked.path), &locked.sha256, &file.sha256).into());
            }
            Some(_) => {}
        }
    }
    match files.iter().find(|file| !lock.files.iter().any(|locked| locked.path == file.path)) {
        Some(extra) => Err(invalid(format!("it has `{}`, which its lock does not name", extra.path)).into()),
        None => Ok(()),
    }
}
