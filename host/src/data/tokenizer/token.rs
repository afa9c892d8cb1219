//! A token of a text.

/// One token of an encoded text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Row of the embedding.
    pub id: u32,
    /// First byte of the text that it stands for. Special tokens that the tokenizer adds stand for nothing (start = end).
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
}

impl Token {
    /// The same, in a text where its word begins at `place`.
    pub(super) fn at(self, place: usize) -> Self {
        Self { id: self.id, start: place + self.start, end: place + self.end }
    }
}
