//! Digests on their way.

use sha2::{Digest as _, Sha256};

/// A digest on its way.
pub trait Hasher {
    /// Takes in more bytes.
    fn update(&mut self, bytes: &[u8]);
    /// The digest of all of them, in lower-case hexadecimal digits.
    fn digits(self) -> String;
}

impl Hasher for Sha256 {
    fn update(&mut self, bytes: &[u8]) {
        sha2::Digest::update(self, bytes);
    }

    fn digits(self) -> String {
        hex(&self.finalize())
    }
}

/// Bytes in lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
