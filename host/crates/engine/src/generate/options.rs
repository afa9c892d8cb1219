//! How to generate.

/// How to generate, by the names of transformers' `GenerationConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// Tokens that are written at most.
    pub max_new_tokens: usize,
    /// Draw from the distribution instead of taking its top.
    pub do_sample: bool,
    /// Sampling: logits are divided by this; above 0.
    pub temperature: f64,
    /// Sampling: only the k likeliest tokens; 0 for all.
    pub top_k: usize,
    /// Sampling: only the likeliest tokens that together have this probability; above 0, at most 1.
    pub top_p: f64,
    /// Sampling: only tokens that have at least this share of the likeliest one's probability; at least 0, at most 1.
    pub min_p: f64,
    /// Logits of tokens that are there already are divided by this (multiplied where negative); above 0.
    pub repetition_penalty: f64,
    /// Tokens that end a sequence.
    pub eos_token_ids: Vec<u32>,
    /// The same seed gives the same text, whatever is generated at the same time.
    pub seed: u64,
    /// Say of each token how open its choice was ([`Completion::entropies`](super::Completion::entropies)).
    pub tells_entropy: bool,
    /// Sequences that grow at the same time, at most; each has room in the cache for the longest. At least 1.
    pub slots: usize,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 128,
            do_sample: false,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            eos_token_ids: Vec::new(),
            seed: 0,
            tells_entropy: false,
            slots: 64,
        }
    }
}
