//! What a checkpoint has otherwise than the model that is made of it.

/// What a checkpoint has otherwise than its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Rows of its embedding.
    pub vocab_size: usize,
    /// Its output projection is the embedding.
    pub tie_word_embeddings: bool,
    /// What the rows hold that it does not have.
    pub new_rows: NewRows,
}

/// Values of the rows of new tokens (`resize_token_embeddings` of transformers).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewRows {
    /// The mean of all rows that there are (`mean_resizing`; transformers adds noise of a 30000th of their spread).
    Mean,
    /// Normal with the config's `initializer_range`, by this seed.
    Normal(u64),
}
