//! What lets the user in: what `docker login` has kept in its `config.json`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

/// Bytes of a `config.json`.
const CONFIG: u64 = 4 << 20;

/// Docker Hub, which goes by several names.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// What lets the user in, by registry. It never shows what it has.
#[derive(Clone, Default)]
pub struct Logins {
    by_host: BTreeMap<String, Login>,
    /// The program that keeps all others.
    store: Option<String>,
}

/// What lets the user in to one registry.
#[derive(Clone)]
pub(crate) enum Login {
    /// Nothing.
    Missing,
    /// A name and a password.
    Basic { user: String, password: String },
    /// A token, for which a token server gives others.
    Identity(String),
    /// What a program keeps, which is not run.
    Helper(String),
}

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What lets a user in is nobody's business.
        let hosts: Vec<_> = self.by_host.keys().collect();
        f.debug_struct("Logins").field("hosts", &hosts).field("store", &self.store).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    auths: Option<BTreeMap<String, Auth>>,
    cred_helpers: Option<BTreeMap<String, String>>,
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct Auth {
    auth: Option<String>,
    identitytoken: Option<String>,
}

impl Logins {
    /// None but this one: a name and a password for a registry.
    #[must_use]
    pub fn with(mut self, host: &str, user: &str, password: &str) -> Self {
        self.by_host.insert(key(host), Login::Basic { user: user.to_owned(), password: password.to_owned() });
        self
    }

    /// What is in a `config.json`; none where there is no such file.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let of_file = |error: &dyn fmt::Display| format!("`{}`: {error}", path.display());
        let mut bytes = Vec::new();
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {
                return Ok(Self::default());
            }
            Err(error) => return Err(of_file(&error)),
        };
        file.take(CONFIG + 1).read_to_end(&mut bytes).map_err(|error| of_file(&error))?;
        if bytes.len() as u64 > CONFIG {
            return Err(of_file(&format!("it is larger than {CONFIG} bytes")));
        }
        Self::parse(&bytes).map_err(|reason| of_file(&reason))
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        // What serde says may quote a secret.
        let place = |error: serde_json::Error| {
            format!("it is no config of Docker, from line {}, column {} on", error.line(), error.column())
        };
        let config: Config = serde_json::from_slice(bytes).map_err(place)?;
        let mut found = Self { store: config.creds_store.filter(|name| !name.is_empty()), ..Self::default() };
        let helpers = config.cred_helpers.unwrap_or_default();
        found.by_host.extend(helpers.into_iter().map(|(host, name)| (key(&host), Login::Helper(name))));
        for (host, Auth { auth, identitytoken }) in config.auths.unwrap_or_default() {
            let is_set = |text: &String| !text.is_empty();
            let login = match (identitytoken.filter(is_set), auth.filter(is_set)) {
                (Some(token), _) => Login::Identity(token),
                (None, Some(auth)) => basic(&auth).ok_or_else(|| {
                    format!("`auth` of `{}` is no user and password in base64", crate::error::safe(&key(&host)))
                })?,
                // A program has the rest.
                (None, None) => continue,
            };
            found.by_host.insert(key(&host), login);
        }
        Ok(found)
    }

    /// What there is for a registry.
    pub(crate) fn of(&self, host: &str) -> Login {
        let of_store = || self.store.clone().map_or(Login::Missing, Login::Helper);
        self.by_host.get(&key(host)).cloned().unwrap_or_else(of_store)
    }
}

/// The name that a registry has here.
fn key(host: &str) -> String {
    let host = host.strip_prefix("https://").or_else(|| host.strip_prefix("http://")).unwrap_or(host);
    let host = host.split('/').next().unwrap_or_default();
    // Nobody keeps a login there, but it is no part of a message either.
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host).to_lowercase();
    if DOCKER_HUB.contains(&host.as_str()) { DOCKER_HUB[0].into() } else { host }
}

fn basic(auth: &str) -> Option<Login> {
    let text = String::from_utf8(BASE64_STANDARD.decode(auth.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    // Docker's client takes these off, too.
    let password = password.trim_end_matches('\0');
    Some(Login::Basic { user: user.to_owned(), password: password.to_owned() }).filter(|_| !user.is_empty())
}

/// The header's value for a name and a password.
pub(crate) fn header(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

/// The server of a registry: Docker Hub's is not at its name.
pub(crate) fn server(host: &str) -> &str {
    if DOCKER_HUB.contains(&host) { DOCKER_HUB[2] } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Logins, String> {
        Logins::parse(text.as_bytes())
    }

    fn shown(logins: &Logins, host: &str) -> String {
        match logins.of(host) {
            Login::Missing => "missing".into(),
            Login::Basic { user, password } => format!("{user} {password}"),
            Login::Identity(token) => format!("token {token}"),
            Login::Helper(name) => format!("helper {name}"),
        }
    }

    #[test]
    fn logins_are_found_by_the_names_that_docker_keeps_them_under() {
        let auth = BASE64_STANDARD.encode("user:pass:word\0");
        let logins = parse(&format!(
            r#"{{"auths": {{"https://index.docker.io/v1/": {{"auth": "{auth}"}}, "a.b:5000": {{"auth": "{auth}"}},
                "HTTP://x": {{}}, "https://C.d/v2/": {{"auth": "{auth}", "identitytoken": "long"}}, "e.f": {{}}}},
                "credHelpers": {{"g.h": "gcloud"}}, "HttpHeaders": {{"a": 1}}}}"#
        ));
        let logins = logins.unwrap();
        for (host, login) in [
            ("docker.io", "user pass:word"),
            ("registry-1.docker.io", "user pass:word"),
            ("a.b:5000", "user pass:word"),
            ("a.b", "missing"),
            ("c.d", "token long"),
            ("e.f", "missing"),
            ("g.h", "helper gcloud"),
        ] {
            assert_eq!(shown(&logins, host), login, "{host}");
        }
        assert_eq!(format!("{logins:?}").matches("pass").count() + format!("{logins:?}").matches("long").count(), 0);
        let store = parse(r#"{"auths": {"e.f": {}, "i.j": {"auth": "YTpi"}}, "credsStore": "desktop"}"#).unwrap();
        assert_eq!((shown(&store, "e.f"), shown(&store, "i.j")), ("helper desktop".into(), "a b".into()));
        assert_eq!(shown(&parse(r#"{"auths": null}"#).unwrap(), "a"), "missing");
        assert_eq!(shown(&Logins::default().with("a", "u", "p"), "a"), "u p");
        assert_eq!((server("docker.io"), server("a.b")), ("registry-1.docker.io", "a.b"));
    }

    #[test]
    fn a_config_that_is_none_says_where_and_no_secret() {
        for (text, words) in [
            ("", "line 1, column 0"),
            (r#"{"auths": "secret"}"#, "line 1"),
            (r#"{"auths": {"a.b": "secret"}}"#, "line 1"),
            (r#"{"auths": {"a.b": {"auth": "secret!"}}}"#, "`auth` of `a.b`"),
            (r#"{"auths": {"a.b": {"auth": "c2VjcmV0"}}}"#, "`auth` of `a.b`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words) && !error.contains("secret"), "{error}");
        }
    }
}
