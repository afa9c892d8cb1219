//! Registries of the [OCI distribution specification](https://github.com/opencontainers/distribution-spec): where recipes and
//! plugins are shared, by references such as `oci://ghcr.io/org/recipe:1.0`.
//!
//! What comes in is a [`Reference`], what goes out is a manifest's bytes or a blob in a folder; what is in them is the caller's
//! business. A registry is not trusted: answers are bounded, everything is held against its digest before anyone sees it, and
//! what lets the user in goes to the registry and to the server that it has its tokens from, never to where it redirects.
//!
//! The usual client, `oci-client`, needs tokio, reqwest, hyper and aws-lc (with a C compiler and CMake when it is built), and
//! would be a second HTTP stack beside the hub's, with its own rules for redirects and credentials. So HTTP is spoken as `web`
//! does it, for both, and what is particular to registries is here.

mod ask;
mod challenge;
mod digest;
mod error;
mod login;
mod logins;
mod manifest;
mod pull;
mod push;
mod reference;
mod scheme;
mod settings;

use std::collections::BTreeMap;
use std::sync::Mutex;

pub use digest::Digest;
pub use error::{NotLetIn, RegistryError};
pub use logins::Logins;
pub use manifest::{IMAGE_MANIFEST, Manifest};
pub use push::Content;
pub use reference::{DEFAULT_TAG, Reference};
pub use settings::Settings;
pub use web::Progress;

/// Registries, and what is known of them: one of these serves references of all.
#[derive(Debug)]
pub struct Registry {
    settings: Settings,
    web: web::Client,
    /// The scheme of each registry of this machine.
    schemes: Mutex<BTreeMap<String, &'static str>>,
    passes: login::Passes,
}

impl Registry {
    /// Registries; nothing is asked of them yet.
    ///
    /// # Errors
    /// [`RegistryError::Setting`] for settings that cannot be used.
    pub fn new(settings: Settings) -> Result<Self, RegistryError> {
        let web = web::Client::new(settings.certificates.as_deref(), web::Plain::Loopback, settings.pause);
        let web = web.map_err(|reason| RegistryError::Setting { name: "SSL_CERT_FILE", reason })?;
        Ok(Self { settings, web, schemes: Mutex::default(), passes: login::Passes::default() })
    }

    /// True if nothing may be asked of a registry.
    pub fn is_offline(&self) -> bool {
        self.settings.is_offline
    }

    /// Refuses to ask where nothing may be asked.
    fn see_that_it_may_ask(&self, reference: &Reference) -> Result<(), RegistryError> {
        if self.is_offline() { Err(RegistryError::Offline { reference: reference.to_string() }) } else { Ok(()) }
    }
}
