//! Digests, as registries write them: `sha256:` and 64 digits.

use std::fmt;

use sha2::Sha256;
use web::Hasher as _;

/// The SHA-256 of a manifest or a blob.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

impl Digest {
    /// A digest as it is written; none for other algorithms, and where digits are not lower-case hexadecimal.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sha256:")?;
        let is_hex = digits.len() == 64 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_hex.then(|| Self(digits.to_owned()))
    }

    /// The digest of bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Sha256::default();
        hasher.update(bytes);
        Self(hasher.digits())
    }

    /// The digest of what a reader has; and its bytes.
    pub(crate) fn of_reader(reader: &mut dyn std::io::Read) -> std::io::Result<(Self, u64)> {
        let (mut hasher, mut size) = (Sha256::default(), 0);
        let mut piece = vec![0; 1 << 17];
        loop {
            let count = reader.read(&mut piece)?;
            if count == 0 {
                return Ok((Self(hasher.digits()), size));
            }
            hasher.update(&piece[..count]);
            size += count as u64;
        }
    }

    /// Its 64 digits.
    pub fn digits(&self) -> &str {
        &self.0
    }

    /// The name of a file with what it is the digest of.
    pub fn file_name(&self) -> String {
        format!("sha256-{}", self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_sha256sum() {
        // `printf 'hello\n' | sha256sum`.
        let text = "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(Digest::parse(text), Some(Digest::of(b"hello\n")));
        assert_eq!(Digest::of(b"hello\n").to_string(), text);
        assert_eq!(Digest::of_reader(&mut &b"hello\n"[..]).unwrap(), (Digest::of(b"hello\n"), 6));
        let (short, large) = (&text[..70], text.to_uppercase());
        for other in ["", "sha256:", short, &large, &text[7..], &text.replace("sha256", "sha512"), "sha256:../../x"] {
            assert!(Digest::parse(other).is_none(), "{other}");
        }
    }
}
