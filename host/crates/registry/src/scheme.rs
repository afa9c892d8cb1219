//! How a registry is spoken to: encrypted, but for those of this machine that are not.

use std::sync::PoisonError;

use web::http::Uri;
use web::{Origin, Request, is_loopback};

use crate::logins::server;
use crate::{Reference, Registry, RegistryError};

/// The server of a registry.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) origin: Origin,
    /// Scheme, host and port.
    pub(crate) base: Uri,
}

impl Server {
    /// The address of a path of a reference's repository.
    pub(crate) fn address(&self, reference: &Reference, path: &str) -> String {
        format!("{}v2/{}/{path}", self.base, reference.repository())
    }
}

impl Registry {
    /// The server that a reference is on.
    pub(crate) fn server(&self, reference: &Reference) -> Result<Server, RegistryError> {
        let host = server(reference.host());
        let invalid = || RegistryError::Reference {
            reference: reference.to_string(),
            reason: "its registry is no name or address of a server, with a port or without",
        };
        let base = |scheme: &str| format!("{scheme}://{host}/").parse::<Uri>().map_err(|_| invalid());
        let encrypted = base("https")?;
        let base = if is_loopback(&encrypted) { base(self.scheme_here(host))? } else { encrypted };
        Ok(Server { origin: Origin::of(&base).ok_or_else(invalid)?, base })
    }

    /// The scheme of a registry of this machine. It is asked without encryption, and without a login, what it speaks.
    fn scheme_here(&self, host: &str) -> &'static str {
        let known =
            |registry: &Self| registry.schemes.lock().unwrap_or_else(PoisonError::into_inner).get(host).copied();
        if let Some(scheme) = known(self) {
            return scheme;
        }
        let status = |scheme: &str| {
            let address = format!("{scheme}://{host}/v2/");
            match self.web.ask_once(&Request::get(&address)) {
                Ok(Ok(answer)) => Some(answer.status()),
                Ok(Err(_)) => None,
                // It speaks, whatever it says.
                Err(_) => Some(200),
            }
        };
        // A server that wants encryption says that it does not understand, or nothing at all.
        let scheme = match status("http") {
            Some(400) => "https",
            Some(_) => "http",
            None if status("https").is_some() => "https",
            // Nobody is there yet.
            None => return "http",
        };
        self.schemes.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned(), scheme);
        scheme
    }
}
