//! The Hugging Face hub: models and datasets by name, in the cache that Python's `huggingface_hub` has too.
//!
//! What a server says is not trusted: names of files stay inside of a repository's folder, sizes and digests are held against
//! what arrives, and the user's token goes to the hub alone, not to where it redirects. Files are chosen by the caller; nothing
//! is fetched for being there. HTTP is spoken as `web` does it.
//!
//! `hf-hub` 0.5 has the same layout, but neither holds digests against what arrives nor bounds it, and takes headers of an
//! answer as parts of paths; 1.0 brings a runtime and 293 packages. So only HTTP is a library's (`ureq`, with `rustls`).

mod cache;
mod client;
mod digest;
mod download;
mod error;
mod listing;
mod name;
mod settings;

pub use error::HubError;
pub use listing::{Listing, RemoteFile};
pub use name::{Kind, MAIN, Repository};
pub use settings::Settings;
pub use web::Progress;

/// A hub, and the cache of what came from it.
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
    client: client::Client,
}

impl Hub {
    /// A hub; nothing is asked of it yet.
    ///
    /// # Errors
    /// [`HubError::Setting`] for settings that cannot be used.
    pub fn new(settings: Settings) -> Result<Self, HubError> {
        let client = client::Client::new(&settings)?;
        Ok(Self { settings, client })
    }

    /// True if only what is in the cache may be used.
    pub fn is_offline(&self) -> bool {
        self.settings.is_offline
    }

    /// The page of a repository, for a person.
    pub fn page(&self, repository: &Repository) -> String {
        format!("{}/{}", self.settings.endpoint, repository.path())
    }
}
