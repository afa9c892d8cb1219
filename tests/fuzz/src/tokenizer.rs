//! Tokenizers: the files of a model, and what they make of a text.

use host::data::tokenizer::{Changes, Tokenizer};

use crate::{directory, files, told};

/// `tokenizer.json`, `tokenizer_config.json`, and a text to encode.
pub(crate) fn tokenizer(bytes: &[u8]) {
    let [tokenizer, names, text] = files(bytes);
    let folder = directory(&[("tokenizer.json", tokenizer), ("tokenizer_config.json", names)]);
    let tokenizer = match Tokenizer::load(folder.path(), &Changes::default()) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return told(error),
    };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let _ = tokenizer.vocab_size();
    match tokenizer.encode(text) {
        Ok(tokens) => {
            let mut last = 0;
            for token in &tokens {
                // The mask is found by halving: tokens stand in the order of the text.
                assert!(token.start <= token.end && token.end <= text.len(), "{token:?} of {text:?}");
                assert!(token.start >= last, "{token:?} begins before {last} of {text:?}");
                last = token.start;
                let _ = tokenizer.piece(token.id);
            }
            let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
            if let Err(error) = tokenizer.decode(&ids) {
                told(error);
            }
        }
        Err(error) => told(error),
    }
}
