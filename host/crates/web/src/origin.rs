//! Addresses: whose they are, where a redirect leads, and which may be asked without encryption.

use ureq::http::Uri;
use ureq::http::uri::{PathAndQuery, Scheme};

/// A server, as an address names it: scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: Scheme,
    /// In lower case.
    host: String,
    /// The scheme's where the address has none.
    port: u16,
}

impl Origin {
    /// The server of an address; none where it has no host, or no scheme of the web.
    pub fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme().filter(|scheme| **scheme == Scheme::HTTP || **scheme == Scheme::HTTPS)?;
        let usual = if *scheme == Scheme::HTTPS { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(usual);
        Some(Self { scheme: scheme.clone(), host: uri.host()?.to_lowercase(), port })
    }

    /// True for an address of this server. One with a user's name in it is nobody's.
    pub fn has(&self, uri: &Uri) -> bool {
        let has_user = uri.authority().is_none_or(|authority| authority.as_str().contains('@'));
        !has_user && Self::of(uri).as_ref() == Some(self)
    }

    /// True for an address of this server that nobody on the way can read along: what lets the user in may go there.
    pub fn trusts(&self, uri: &Uri) -> bool {
        self.has(uri) && (self.scheme == Scheme::HTTPS || is_loopback(uri))
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { scheme, host, port } = self;
        let is_usual = *port == if *scheme == Scheme::HTTPS { 443 } else { 80 };
        if is_usual { write!(f, "{scheme}://{host}") } else { write!(f, "{scheme}://{host}:{port}") }
    }
}

/// Which servers may be asked without encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plain {
    /// All: the user has named one that is.
    Anywhere,
    /// Those of this machine alone, and no address has a user's name in it.
    Loopback,
}

impl Plain {
    /// True for an address that may be asked.
    pub fn allows(self, uri: &Uri) -> bool {
        let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        self == Self::Anywhere || (!has_user && (uri.scheme() == Some(&Scheme::HTTPS) || is_loopback(uri)))
    }
}

/// True for an address of this machine.
pub fn is_loopback(uri: &Uri) -> bool {
    uri.host().is_some_and(|host| ["localhost", "127.0.0.1", "[::1]"].contains(&host))
}

/// Where a redirect leads: to an address of its own, or to another path of the same server. From an encrypted connection none
/// leads to one that is not.
pub fn joined(from: &Uri, to: Uri) -> Option<Uri> {
    let mut parts = to.into_parts();
    if parts.authority.is_none() {
        parts.scheme = from.scheme().cloned();
        parts.authority = from.authority().cloned();
    }
    let scheme = parts.scheme.as_ref()?;
    let is_web = *scheme == Scheme::HTTPS || (*scheme == Scheme::HTTP && from.scheme() == Some(&Scheme::HTTP));
    parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    if is_web { Uri::from_parts(parts).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn redirects_stay_on_the_web_and_encrypted() {
        let from = uri("https://hub.co/a/b?c");
        let to = |text: &str| joined(&from, uri(text)).map(|uri| uri.to_string());
        assert_eq!(to("/x?y=1").unwrap(), "https://hub.co/x?y=1");
        assert_eq!(to("https://cdn.co/x").unwrap(), "https://cdn.co/x");
        assert_eq!(to("http://hub.co/x"), None);
        assert_eq!(to("ftp://hub.co/x"), None);
    }

    #[test]
    fn one_server_is_trusted_and_no_other() {
        let origin = Origin::of(&uri("https://hub.co/a")).unwrap();
        assert!(origin.trusts(&uri("https://hub.co/b?c")) && origin.trusts(&uri("https://HUB.co:443/b")));
        for other in ["http://hub.co/a", "https://hub.co:444/a", "https://x.hub.co/a", "https://a@hub.co/a", "/a"] {
            assert!(!origin.trusts(&uri(other)), "{other}");
        }
        let plain = Origin::of(&uri("http://hub.co/a")).unwrap();
        assert!(plain.has(&uri("http://hub.co/a")) && !plain.trusts(&uri("http://hub.co/a")));
        let here = Origin::of(&uri("http://[::1]:5000/a")).unwrap();
        assert!(here.trusts(&uri("http://[::1]:5000/a")) && !here.trusts(&uri("http://[::1]:5001/a")));
        assert_eq!(Origin::of(&uri("https://a:b@hub.co/c?d")).unwrap().to_string(), "https://hub.co");
        assert!(Origin::of(&uri("ftp://hub.co")).is_none() && Origin::of(&uri("/a")).is_none());
    }

    #[test]
    fn what_is_not_encrypted_stays_on_this_machine() {
        for (address, loopback) in [
            ("https://a.co/", true),
            ("http://localhost:5000/", true),
            ("http://127.0.0.1/", true),
            ("http://a.co/", false),
            ("http://localhost.a.co/", false),
            ("https://user@a.co/", false),
        ] {
            assert_eq!(Plain::Loopback.allows(&uri(address)), loopback, "{address}");
            assert!(Plain::Anywhere.allows(&uri(address)), "{address}");
        }
    }
}
