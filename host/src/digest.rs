//! Digests as text.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

/// Bytes that are taken at a time.
const PIECE: usize = 1 << 17;

/// How many bytes a reader has, and their SHA-256.
///
/// # Errors
/// Where reading fails.
pub fn of_reader(mut reader: impl Read) -> io::Result<(u64, String)> {
    let (mut hasher, mut size, mut piece) = (Sha256::new(), 0, vec![0; PIECE]);
    loop {
        let count = reader.read(&mut piece)?;
        if count == 0 {
            return Ok((size, hex(&hasher.finalize())));
        }
        hasher.update(&piece[..count]);
        size += count as u64;
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        use std::fmt::Write as _;
        let _ = write!(text, "{byte:02x}");
        text
    })
}
