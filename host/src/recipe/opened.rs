//! A recipe from wherever it is: first what it says of itself, then its files.

use std::path::{Path, PathBuf};

use super::image::{Image, differs, invalid};
use super::source;
use super::source::files::{Files, signature_of};
use super::store;
use crate::check::contents::{FILE, PLUGINS, SIGNATURE};
use crate::config::recipe::{Lock, Recipe};
use crate::config::{self, LoadedConfig};
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
    /// Anywhere else.
    Image(Image, Box<dyn Files>),
}

impl Opened {
    /// Opens a directory with a `recipe.yml`, such a file, a `.recipe` file, or what is at an `https://`, `oci://` or `hf:`
    /// address. Only its config is had.
    ///
    /// # Errors
    /// What is no recipe, and everything that is wrong with its config.
    pub fn new(from: &str) -> Result<Self, Failure> {
        let path = Path::new(from);
        let is_address = from.contains("://") || from.starts_with("hf:");
        let config = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
        if !is_address && source::is_yaml(&config) {
            let loaded = config::load(&config, &[])?;
            return Self::checked(from, loaded, From::Directory(config));
        }
        let found = source::find(from)?;
        if let Some(image) = &found.image {
            let (own, sha256) = (&image.files[0], hex(&Sha256::digest(&found.config)));
            if own.sha256 != sha256 {
                return Err(differs(&format!("`{FILE}`"), &own.sha256, &sha256).into());
            }
        }
        let loaded = read_config(&found.path, found.config.clone())?;
        let image = match found.image {
            Some(image) => image,
            None => made(&loaded, &found.config)?,
        };
        held_against(&image, &loaded)?;
        Self::checked(from, loaded, From::Image(image, found.files))
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
            From::Image(image, _) => Some(image),
        }
    }

    /// Its manifest, made of its lock where it is a directory.
    ///
    /// # Errors
    /// That it is not locked.
    pub fn made_image(&self) -> Result<Image, Diagnostic> {
        match &self.source {
            From::Image(image, _) => Ok(image.clone()),
            From::Directory(_) => {
                let lock = self.lock().ok_or_else(|| invalid("it is not locked"))?;
                Ok(Image::new(self.recipe(), self.loaded.source.text.as_bytes(), &lock.files))
            }
        }
    }

    /// The signature beside it, if there is one.
    ///
    /// # Errors
    /// Why that is not known.
    pub fn signature(&self) -> Result<Option<String>, Diagnostic> {
        match &self.source {
            From::Image(_, files) => files.signature(),
            From::Directory(config) => signature_of(&config.with_file_name(SIGNATURE)),
        }
    }

    /// Brings all its files, each held against its digest, and returns the path of its config.
    ///
    /// # Errors
    /// What differs, and what cannot be had or written.
    pub fn bring(&self) -> Result<PathBuf, Failure> {
        match &self.source {
            From::Directory(config) => Ok(config.clone()),
            From::Image(image, files) => {
                let directory = store::unpack(image, |file| files.open(file))?;
                source::forget(&image.files);
                Ok(directory.join(FILE))
            }
        }
    }

    /// Puts all its files into a directory that is not there yet.
    ///
    /// # Errors
    /// The same, and a directory that is there.
    pub fn copy_to(&self, directory: &Path) -> Result<(), Failure> {
        if directory.symlink_metadata().is_ok() {
            let message = format!("`{}` is there already", directory.display());
            return Err(Diagnostic::error("recipe::exists", message).help("name another: `--dir DIRECTORY`").into());
        }
        let From::Image(image, _) = &self.source else {
            let message = format!("`{}` is a directory already", self.from);
            return Err(Diagnostic::error("recipe::exists", message).help("copy it").into());
        };
        let config = self.bring()?;
        store::copy(image, config.parent().unwrap_or(&config), directory)?;
        Ok(())
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

/// The config of a recipe that is not here, as if it were at this path.
fn read_config(path: &Path, bytes: Vec<u8>) -> Result<LoadedConfig, Failure> {
    let examined = config::examine_bytes(path, bytes, &[]);
    let remarks = Failure::check(examined.problems)?;
    let Some(mut loaded) = examined.loaded else { return Err(Failure(remarks)) };
    loaded.remarks = remarks;
    Ok(loaded)
}

/// The image of a recipe whose files lie beside it.
fn made(loaded: &LoadedConfig, config: &[u8]) -> Result<Image, Failure> {
    let Some(recipe) = &loaded.config.recipe else { return Err(no_recipe(loaded).into()) };
    let Some(lock) = &loaded.config.lock else { return Err(invalid("it is not locked").into()) };
    Ok(Image::read(Image::new(recipe, config, &lock.files).manifest)?)
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
