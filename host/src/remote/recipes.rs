//! Recipes that are repositories of the hub: a `recipe.yml` at their root, and its files beside it.

use std::path::PathBuf;

use hub::{Hub, HubError, Kind, Listing, MAIN, Repository, Settings};

use super::words;
use crate::config::FILE_LIMIT;
use crate::diagnostic::Diagnostic;
use crate::report::fetching::Fetching;

/// Bytes of a small file.
const SMALL: u64 = 1 << 14;

/// A repository with a recipe.
#[derive(Debug)]
pub struct HubRecipe {
    hub: Hub,
    repository: Repository,
    listing: Listing,
}

impl HubRecipe {
    /// Finds a repository by `[datasets/]ORG/NAME[@REVISION]`.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub fn find(name: &str) -> Result<Self, Diagnostic> {
        let (name, revision) = name.rsplit_once('@').unwrap_or((name, MAIN));
        let (kind, path) = match name.strip_prefix("datasets/") {
            Some(path) => (Kind::Dataset, path),
            None => (Kind::Model, name),
        };
        let Some(repository) = Repository::new(kind, path) else {
            let message = format!("`hf:{name}` names no repository of the hub");
            return Err(
                Diagnostic::error("recipe::source", message).help("write `hf:ORG/NAME` or `hf:datasets/ORG/NAME`")
            );
        };
        let failed = |error: HubError| words::failed(error, &repository);
        let settings = Settings::from_variables(|name| std::env::var_os(name)).map_err(failed)?;
        let hub = Hub::new(settings).map_err(failed)?;
        let listing = if hub.is_offline() {
            let cached = hub.cached(&repository, revision).map_err(failed)?;
            cached.and_then(|(commit, _)| hub.listed(&repository, &commit))
        } else {
            Some(hub.list(&repository, revision).map_err(failed)?)
        };
        let listing = listing.ok_or_else(|| failed(HubError::Offline { repository: repository.to_string() }))?;
        Ok(Self { hub, repository, listing })
    }

    /// The commit that was found.
    pub fn commit(&self) -> &str {
        &self.listing.commit
    }

    /// True if it has a file of this name, of a few kibibytes.
    pub fn has(&self, name: &str) -> bool {
        self.listing.file(name).is_some_and(|file| file.size <= SMALL)
    }

    /// Brings a file into the cache of the hub, and says where it is.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub fn bring(&self, name: &str) -> Result<PathBuf, Diagnostic> {
        let failed = |error: HubError| words::failed(error, &self.repository);
        let missing = || HubError::NoFile { repository: self.repository.to_string(), file: name.to_owned() };
        let file = self.listing.file(name).ok_or_else(|| failed(missing()))?;
        let (told, commit) = (Fetching::new(&self.repository), &self.listing.commit);
        let snapshot = self.hub.fetch(&self.repository, commit, &self.listing, &[file], &told).map_err(failed)?;
        Ok(snapshot.join(name))
    }

    /// The bytes of a config.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub fn config(&self, name: &str) -> Result<Vec<u8>, Diagnostic> {
        self.small(name, FILE_LIMIT)
    }

    /// The bytes of a file that has at most so many.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub fn small(&self, name: &str, limit: u64) -> Result<Vec<u8>, Diagnostic> {
        if self.listing.file(name).is_some_and(|file| file.size > limit) {
            let message = format!("`{name}` of `{}` has more than {limit} bytes", self.repository);
            return Err(Diagnostic::error("hub::too-large", message));
        }
        let path = self.bring(name)?;
        intake::read_inside(&path, limit).map_err(|error| {
            Diagnostic::error("recipe::file", format!("`{}` cannot be read", path.display())).why(error.to_string())
        })
    }
}
