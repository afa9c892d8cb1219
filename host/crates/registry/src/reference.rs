//! References: what is meant, on which registry. The grammar is that of the distribution specification.

use std::fmt;

use crate::{Digest, RegistryError};

/// The tag that is meant where none is given.
pub const DEFAULT_TAG: &str = "latest";

/// Characters of a registry and a repository together.
const NAME_LENGTH: usize = 255;
/// Characters of a tag.
const TAG_LENGTH: usize = 128;
/// How each reference begins.
const SCHEME: &str = "oci://";

/// Something on a registry: `oci://host[:port]/repository/path[:tag][@sha256:digits]`.
///
/// Where it has both a tag and a digest, the digest says what is had. It shows itself as it is written, with the tag that is
/// meant where none is given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// A reference as it is written.
    ///
    /// # Errors
    /// [`RegistryError::Reference`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, RegistryError> {
        let wrong = |reason: &'static str| RegistryError::Reference { reference: shown(text), reason };
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| wrong("it does not begin with `oci://`"))?;
        let (host, rest) = rest.split_once('/').ok_or_else(|| wrong("it has no `/` after the registry"))?;
        if host.contains('@') {
            return Err(wrong("a login is no part of it; `docker login` keeps one"));
        }
        if !is_host(host) {
            return Err(wrong("its registry is no name or address of a server, with a port or without"));
        }
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => {
                let digest = Digest::parse(digest);
                (rest, Some(digest.ok_or_else(|| wrong("what follows `@` is not `sha256:` and 64 lower-case digits"))?))
            }
            None => (rest, None),
        };
        let (repository, tag) = rest.split_once(':').map_or((rest, None), |(name, tag)| (name, Some(tag)));
        if !is_repository(repository) {
            let is_upper = is_repository(&repository.to_lowercase());
            return Err(wrong(if is_upper {
                "the name of its repository has upper-case letters"
            } else {
                "the name of its repository is none: lower-case letters and digits, with `.`, `_`, `-` and `/` between them"
            }));
        }
        if host.len() + 1 + repository.len() > NAME_LENGTH {
            return Err(wrong("registry and repository have more than 255 characters"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong(
                "its tag is none: up to 128 letters, digits, `_`, `.` and `-`, of which `.` and `-` do not begin it",
            ));
        }
        let default = || digest.is_none().then(|| DEFAULT_TAG.to_owned());
        Ok(Self {
            host: host.to_lowercase(),
            repository: repository.to_owned(),
            tag: tag.map(ToOwned::to_owned).or_else(default),
            digest,
        })
    }

    /// The registry, with its port where that is given.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository on the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; none where there is a digest and nothing else.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest, where it is given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same, of which nothing but the manifest with this digest is meant.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// What a manifest is asked for by.
    pub(crate) fn manifest(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_else(|| DEFAULT_TAG.to_owned()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Reference {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, RegistryError> {
        Self::parse(text)
    }
}

/// `name`, `1.2.3.4` or `[::1]`, and a port.
fn is_host(text: &str) -> bool {
    let is_port = |port: &str| {
        !port.starts_with('0') && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
    };
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let port = if port.is_empty() { Some("1") } else { port.strip_prefix(':') };
        return address.parse::<std::net::Ipv6Addr>().is_ok() && port.is_some_and(is_port);
    }
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    let is_part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    name.split('.').all(is_part) && port.is_none_or(is_port)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, and more of them after `/`.
fn is_repository(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.split('/').all(|part| {
        let mut between = part.split(|c: char| c.is_ascii() && is_plain(c as u8)).filter(|text| !text.is_empty());
        let is_closed = part.bytes().next().is_some_and(is_plain) && part.bytes().last().is_some_and(is_plain);
        is_closed && between.all(|text| [".", "_", "__"].contains(&text) || text.bytes().all(|byte| byte == b'-'))
    })
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
fn is_tag(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    !text.is_empty() && text.len() <= TAG_LENGTH && !text.starts_with(['.', '-']) && text.bytes().all(is_part)
}

/// What is no reference, for a message: one line, and nothing of what may be a password.
fn shown(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    let (name, digest) = match rest.rsplit_once('@') {
        Some((name, digest)) if digest.starts_with("sha") => (name, Some(digest)),
        _ => (rest, None),
    };
    let name = name.rsplit_once('@').map_or_else(|| name.to_owned(), |(_, host)| format!("…@{host}"));
    let digest = digest.map_or_else(String::new, |digest| format!("@{digest}"));
    let scheme = if scheme.is_empty() { String::new() } else { format!("{scheme}://") };
    crate::error::safe(&format!("{scheme}{name}{digest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

    #[test]
    fn a_reference_shows_itself_as_it_is_written() {
        for text in [
            "oci://ghcr.io/org/recipe:1.0",
            "oci://localhost:5000/a:latest",
            "oci://[::1]:5000/a/b/c-d__e.f_g--h:v1_x.Y-z",
            &format!("oci://127.0.0.1/a@{DIGEST}"),
            &format!("oci://registry.example.org:443/a/b:1@{DIGEST}"),
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), text);
        }
        let found = Reference::parse("oci://GHCR.io/org/recipe").unwrap();
        assert_eq!((found.host(), found.repository(), found.tag()), ("ghcr.io", "org/recipe", Some("latest")));
        assert_eq!(found.to_string(), "oci://ghcr.io/org/recipe:latest");
        let both = Reference::parse(&format!("oci://a.b/c:1@{DIGEST}")).unwrap();
        assert_eq!((both.manifest(), both.tag()), (DIGEST.into(), Some("1")));
        let only = Reference::parse(&format!("oci://a.b/c@{DIGEST}")).unwrap();
        assert_eq!((only.manifest(), only.tag()), (DIGEST.into(), None));
        assert_eq!(Reference::parse("oci://a.b/c:1").unwrap().with_digest(Digest::parse(DIGEST).unwrap()), both);
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for (text, words) in [
            ("ghcr.io/a:1", "begin with `oci://`"),
            ("https://ghcr.io/a:1", "begin with `oci://`"),
            ("oci://ghcr.io", "no `/`"),
            ("oci:///a", "registry is no name"),
            ("oci://a_b/c", "registry is no name"),
            ("oci://-a/c", "registry is no name"),
            ("oci://a..b/c", "registry is no name"),
            ("oci://a:0/c", "registry is no name"),
            ("oci://a:65536/c", "registry is no name"),
            ("oci://a:/c", "registry is no name"),
            ("oci://a:+1/c", "registry is no name"),
            ("oci://[::1/c", "registry is no name"),
            ("oci://[::g]/c", "registry is no name"),
            ("oci://a.b/", "repository is none"),
            ("oci://a.b/c/", "repository is none"),
            ("oci://a.b//c", "repository is none"),
            ("oci://a.b/../c", "repository is none"),
            ("oci://a.b/c..d", "repository is none"),
            ("oci://a.b/c___d", "repository is none"),
            ("oci://a.b/c-._d", "repository is none"),
            ("oci://a.b/-c", "repository is none"),
            ("oci://a.b/c?d", "repository is none"),
            ("oci://a.b/ä", "repository is none"),
            ("oci://a.b/C", "upper-case"),
            ("oci://a.b/c:", "tag is none"),
            ("oci://a.b/c:.d", "tag is none"),
            ("oci://a.b/c:d:e", "tag is none"),
            ("oci://a.b/c:d/e", "tag is none"),
            ("oci://a.b/c@", "what follows `@`"),
            ("oci://a.b/c@sha256:12", "what follows `@`"),
            ("oci://a.b/c@sha512:12", "what follows `@`"),
            (&format!("oci://a.b/c:{}", "d".repeat(129)), "tag is none"),
            (&format!("oci://a.b/{}", "c".repeat(255)), "more than 255"),
            ("oci://a.b/c\nd", "repository is none"),
            ("oci://u:secret@a.b/c", "a login is no part"),
            ("https://u:secret@a.b/c", "begin with `oci://`"),
            ("u:secret@a.b/c", "begin with `oci://`"),
            ("oci://u:secret/secret@a.b/c", "registry is no name"),
            (&format!("oci://u:secret@a.b/c@{DIGEST}"), "a login is no part"),
        ] {
            let error = Reference::parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
            assert!(!error.contains("secret") && !error.contains(char::is_control) && error.len() < 500, "{error}");
        }
    }
}
