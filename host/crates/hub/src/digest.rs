//! Digests of files, as the hub has them: SHA-256 of large ones, git's own of the others.

use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use web::hex;

/// What a file's digest must be, in lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    /// SHA-256 of the content.
    Sha256(String),
    /// SHA-1 of git's header and the content.
    Git(String),
}

/// A digest on its way.
pub(crate) enum Hasher {
    Sha256(Sha256),
    Git(Sha1),
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl Expected {
    /// The SHA-256 of a large file.
    pub(crate) fn sha256(text: &str) -> Option<Self> {
        is_hex(text, 64).then(|| Self::Sha256(text.to_owned()))
    }

    /// Git's digest of a file.
    pub(crate) fn git(text: &str) -> Option<Self> {
        is_hex(text, 40).then(|| Self::Git(text.to_owned()))
    }

    /// Its digits; the file's name in the cache.
    pub(crate) fn digits(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::Git(digits) => digits,
        }
    }

    /// Of a file of `size` bytes.
    pub(crate) fn hasher(&self, size: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Self::Git(_) => {
                let mut hasher = Sha1::new();
                hasher.update(format!("blob {size}\0"));
                Hasher::Git(hasher)
            }
        }
    }
}

impl web::Hasher for Hasher {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => sha2::Digest::update(hasher, bytes),
            Self::Git(hasher) => sha1::Digest::update(hasher, bytes),
        }
    }

    fn digits(self) -> String {
        match self {
            Self::Sha256(hasher) => hex(&hasher.finalize()),
            Self::Git(hasher) => hex(&hasher.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use web::Hasher as _;

    use super::*;

    #[test]
    fn digests_are_those_of_sha256sum_and_git() {
        // `printf 'hello\n' | sha256sum` and `| git hash-object --stdin`.
        let sha256 = Expected::sha256("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03").unwrap();
        let git = Expected::git("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        for expected in [sha256, git] {
            let mut hasher = expected.hasher(6);
            hasher.update(b"hel");
            hasher.update(b"lo\n");
            assert_eq!(hasher.digits(), expected.digits());
        }
        assert!(Expected::git("../../x").is_none() && Expected::sha256(&"G".repeat(64)).is_none());
    }
}
