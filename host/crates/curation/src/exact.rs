//! Exact duplicates: texts whose words are the same, one after another, as [`Words`] has them.

use sha2::{Digest as _, Sha256};

use crate::words::Words;

/// The first 128 bits of SHA-256 over the words: nobody can make two texts that are different and have the same.
pub type Digest = u128;

/// The digest of a text's words.
pub fn digest(words: &Words) -> Digest {
    let mut hasher = Sha256::new();
    for word in words.iter() {
        hasher.update(word.as_bytes());
        // No word has it.
        hasher.update(b" ");
    }
    let bytes = hasher.finalize();
    u128::from_be_bytes(bytes[..16].try_into().expect("SHA-256 has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Digest {
        let mut words = Words::new();
        words.read(text);
        digest(&words)
    }

    #[test]
    fn the_same_words_have_the_same_digest() {
        assert_eq!(of("Name three primary colours."), of("name  three\nPRIMARY colours"));
        assert_ne!(of("What is 3 + 4?"), of("What is 3 - 4?"));
        assert_ne!(of("ab c"), of("a bc"));
        assert_ne!(of("a b"), of("b a"));
    }
}
