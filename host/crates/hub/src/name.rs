//! Names: of repositories, of revisions, of the files in them.

use std::fmt;

use crate::HubError;

/// Characters of a part of a repository's name.
const NAME_LENGTH: usize = 96;
/// Bytes of a file's name.
const FILE_LENGTH: usize = 1024;
/// Characters of a revision's name.
const REVISION_LENGTH: usize = 255;

/// What the hub's default branch is called.
pub const MAIN: &str = "main";

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Weights, a config, a tokenizer.
    Model,
    /// Rows.
    Dataset,
}

/// A repository of the hub.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    kind: Kind,
    name: String,
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Repository {
    /// A repository by its name, `org/name`, as the hub allows names.
    pub fn new(kind: Kind, name: &str) -> Option<Self> {
        let is_part = |part: &str| {
            !part.is_empty()
                && part.len() <= NAME_LENGTH
                && !part.starts_with(['.', '-'])
                && !part.ends_with(['.', '-'])
                && !part.contains("--")
                && !part.contains("..")
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let (organisation, own) = name.split_once('/')?;
        (is_part(organisation) && is_part(own)).then(|| Self { kind, name: name.to_owned() })
    }

    /// What it holds.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// `org/name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its part of an address.
    pub(crate) fn path(&self) -> String {
        match self.kind {
            Kind::Model => self.name.clone(),
            Kind::Dataset => format!("datasets/{}", self.name),
        }
    }

    /// Its part of an address of the hub's API.
    pub(crate) fn api(&self) -> String {
        let kind = if self.kind == Kind::Model { "models" } else { "datasets" };
        format!("api/{kind}/{}", self.name)
    }

    /// Its folder in the cache.
    pub(crate) fn folder(&self) -> String {
        let kind = if self.kind == Kind::Model { "models" } else { "datasets" };
        format!("{kind}--{}", self.name.replace('/', "--"))
    }
}

/// True for a commit: it never means anything else.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Refuses what git would not take for a branch or a tag.
pub(crate) fn check_revision(revision: &str) -> Result<(), HubError> {
    let is_part = |part: &str| !part.is_empty() && !part.starts_with(['.', '-']) && !part.ends_with('.');
    let is_name = revision.len() <= REVISION_LENGTH
        && revision.split('/').all(is_part)
        && !revision.contains("..")
        && revision.chars().all(|c| c.is_ascii_alphanumeric() || "-_./+=@".contains(c));
    let reason = || HubError::Revision { revision: revision.to_owned() };
    if is_name { Ok(()) } else { Err(reason()) }
}

/// True for the name of a file that stays inside of its repository.
pub(crate) fn is_inside(name: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && part != "." && part != "..";
    name.len() <= FILE_LENGTH
        && name.split('/').all(is_part)
        && !name.contains(['\\', '\0'])
        && !name.contains(char::is_control)
}

/// A text as a part of an address; `/` stays where `whole` is not set.
pub(crate) fn encode(text: &str, whole: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        let is_plain = byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || (byte == b'/' && !whole);
        if is_plain {
            encoded.push(byte as char);
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_and_nothing_else() {
        for name in ["Qwen/Qwen2.5-0.5B", "tatsu-lab/alpaca", "a/b_c"] {
            assert!(Repository::new(Kind::Model, name).is_some(), "{name}");
        }
        for name in ["gpt2", "a/b/c", "../a", "a/..", "a/.b", "a/b--c", "a b/c", "/a", "a/", "", "a/b\n"] {
            assert!(Repository::new(Kind::Model, name).is_none(), "{name}");
        }
        let dataset = Repository::new(Kind::Dataset, "tatsu-lab/alpaca").unwrap();
        assert_eq!(dataset.folder(), "datasets--tatsu-lab--alpaca");
        assert_eq!(
            (dataset.path(), dataset.api()),
            ("datasets/tatsu-lab/alpaca".into(), "api/datasets/tatsu-lab/alpaca".into())
        );
    }

    #[test]
    fn files_stay_inside() {
        for name in ["config.json", "data/train-00000.parquet", "a b.json"] {
            assert!(is_inside(name), "{name}");
        }
        for name in ["", "/etc/passwd", "../x", "a/../x", "a//b", "./a", "a\\b", "a\n", "a/", &"a".repeat(2000)] {
            assert!(!is_inside(name), "{name}");
        }
    }

    #[test]
    fn revisions_are_those_of_git() {
        for revision in ["main", "v1.0", "refs/pr/3", "refs/convert/parquet"] {
            check_revision(revision).unwrap();
        }
        for revision in ["", "../main", "a//b", "-x", "a..b", "a b", ".hidden"] {
            assert!(check_revision(revision).is_err(), "{revision}");
        }
        assert_eq!(encode("refs/pr/3", true), "refs%2Fpr%2F3");
        assert_eq!(encode("a b/ä", false), "a%20b/%C3%A4");
    }
}
