//! Why something of a registry cannot be had, or not be put there.

use std::fmt;
use std::path::PathBuf;

use web::{Failure, Unusable};

/// Why something of a registry cannot be had, or not be put there. No secret is in any of them, and each is one line.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A variable of the environment cannot be used.
    #[error("`{name}` cannot be used: {reason}")]
    Setting {
        /// The variable.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// What was given is no reference.
    #[error("`{reference}` is no reference: {reason}")]
    Reference {
        /// As it was given, without what may be a password.
        reference: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Nothing may be asked of a registry.
    #[error("`{reference}` is not asked for, as `HOST_OFFLINE` is set")]
    Offline {
        /// What would have been asked for.
        reference: String,
    },
    /// The registry does not answer.
    #[error("`{address}` cannot be reached: {reason}")]
    Unreachable {
        /// What was asked for.
        address: String,
        /// Of the network.
        reason: String,
    },
    /// There is no such manifest or repository, or it is not shown to this user.
    #[error("the registry has no `{reference}`")]
    NotFound {
        /// What was asked for.
        reference: String,
    },
    /// The repository has no such blob.
    #[error("the repository of `{reference}` has no blob `{digest}`")]
    NoBlob {
        /// What it is a part of.
        reference: String,
        /// Of the blob.
        digest: String,
    },
    /// The registry wants a login that it takes.
    #[error("`{host}` does not let you in for `{reference}`: {why}")]
    Unauthorized {
        /// The registry.
        host: String,
        /// What was asked for.
        reference: String,
        /// What is missing, and what to do.
        why: NotLetIn,
    },
    /// The registry knows the user, who may not do this.
    #[error("`{host}` does not allow this for `{reference}`{}", said(reason))]
    Denied {
        /// The registry.
        host: String,
        /// What was asked for.
        reference: String,
        /// What the registry says; may be empty.
        reason: String,
    },
    /// The registry refuses for a while.
    #[error("there were too many questions, and `{address}` is refused for now")]
    TooMany {
        /// What was asked for.
        address: String,
    },
    /// An answer that says nothing that can be used.
    #[error("`{address}` answers with status {status}{}", said(reason))]
    Status {
        /// What was asked for.
        address: String,
        /// Of HTTP.
        status: u16,
        /// What the registry says; may be empty.
        reason: String,
    },
    /// There are more bytes than are wanted.
    #[error("`{what}` is larger than {limit} bytes")]
    TooLarge {
        /// What was asked for.
        what: String,
        /// Bytes that it may have.
        limit: u64,
    },
    /// What arrived is not what was announced. Nothing of it is kept.
    #[error("`{what}` did not arrive as it was announced: {reason}")]
    Corrupt {
        /// What was asked for.
        what: String,
        /// What differs; where it is the digest, both of them.
        reason: String,
    },
    /// What is to be put on a registry is not what it is said to be. Nothing of it was sent.
    #[error("what is to be pushed to `{reference}` is not what it is said to be: {reason}")]
    Content {
        /// Where it should go.
        reference: String,
        /// What differs.
        reason: String,
    },
    /// An answer that is not what it must be.
    #[error("`{address}` answers what cannot be used: {reason}")]
    Invalid {
        /// What was asked for.
        address: String,
        /// What is wrong.
        reason: String,
    },
    /// The registry leads to a server that may not be asked.
    #[error("`{address}` leads to {to}, which is not followed: it must be encrypted, or the same server")]
    Redirect {
        /// What was asked for.
        address: String,
        /// Where to.
        to: String,
    },
    /// A file cannot be read or written.
    #[error("cannot use `{}`: {source}", path.display())]
    Disk {
        /// What was to be used.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Why a registry does not let the user in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotLetIn {
    /// There is no login for it.
    NoLogin {
        /// The registry.
        host: String,
    },
    /// It does not take the login that there is.
    Refused {
        /// The registry.
        host: String,
    },
    /// The login is kept by a program, which is not run.
    Helper {
        /// The registry.
        host: String,
        /// The program.
        program: String,
    },
}

impl fmt::Display for NotLetIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLogin { host } => {
                write!(f, "there is no login for it; `docker login {host}` or its like keeps one")
            }
            Self::Refused { host } => write!(
                f,
                "it does not take the login that is kept for it; `docker login {host}` or its like keeps another one"
            ),
            Self::Helper { host, program } => write!(
                f,
                "its login is kept by `{program}`, which is not run here; `docker login {host}` with a `DOCKER_CONFIG` of its \
                 own, without `credsStore` and `credHelpers`, keeps one that can be read"
            ),
        }
    }
}

impl RegistryError {
    pub(crate) fn disk(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Disk { path, source }
    }

    /// Of an address that has no answer.
    pub(crate) fn of(address: &str) -> impl FnOnce(Failure) -> Self {
        let address = without_query(address);
        move |failure| match failure {
            Failure::Unusable(Unusable::Elsewhere(to)) => Self::Redirect { address, to: place(to) },
            Failure::Unusable(unusable) => Self::Invalid { address, reason: unusable.to_string() },
            Failure::Unreachable(reason) => Self::Unreachable { address, reason: safe(&reason) },
            Failure::TooMany => Self::TooMany { address },
            Failure::Status(status) => Self::Status { address, status, reason: String::new() },
        }
    }
}

/// Where a redirect leads, for a message.
pub(crate) fn place(to: Option<String>) -> String {
    to.map_or_else(|| "what is no address of the web".into(), |to| format!("`{}`", safe(&to)))
}

/// An address without what may be a secret in it.
pub(crate) fn without_query(address: &str) -> String {
    let address = address.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match host.rsplit_once('@') {
        Some((_, host)) => safe(&format!("{scheme}://{host}{path}")),
        None => safe(address),
    }
}

/// A stranger's words as a part of one line: 200 characters, and each shows.
pub(crate) fn safe(text: &str) -> String {
    const LENGTH: usize = 200;
    let mut shown: String = text.chars().take(LENGTH).map(|c| if c.is_control() { ' ' } else { c }).collect();
    shown = shown.chars().map(|c| if is_shown(c) { c } else { '�' }).collect();
    if text.chars().nth(LENGTH).is_some() {
        shown.push('…');
    }
    shown
}

/// False for what changes how the characters around it are shown, and for what is not shown at all.
fn is_shown(c: char) -> bool {
    c == ' ' || (c.is_ascii() && c.is_ascii_graphic()) || c.is_alphanumeric() || c == '…'
}

fn said(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": it says `{reason}`") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_strangers_are_one_line() {
        assert_eq!(safe("a\nb\u{1b}[1mc\u{202e}dä"), "a b [1mc�dä");
        assert_eq!(safe(&"x".repeat(300)).chars().count(), 201);
        assert_eq!(without_query("https://a.b/c@d?sig=secret"), "https://a.b/c@d");
        assert_eq!(without_query("https://user:secret@a.b/c"), "https://a.b/c");
    }
}
