//! What a row became: tokens, and where they came from.

use std::ops::Range;
use std::sync::Arc;

use super::tokenize::TokenSample;

/// A row that became tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// What is learned; of a pair, the chosen answer behind its prompt.
    pub tokens: TokenSample,
    /// Of a pair: the rejected answer behind the same prompt.
    pub rejected: Option<TokenSample>,
    /// Of an answer that is judged by itself: whether it is wanted.
    pub desirable: Option<bool>,
    /// Of a pair that is scored: by how much the chosen text is to score higher, where the row says so.
    pub margin: Option<f64>,
    /// Of labelled steps: the labels of the tokens that are learned, in their order; empty otherwise.
    pub labels: Vec<u32>,
    /// The row as it came, for rewards; `{}` for a piece of a longer text.
    pub row_json: Arc<str>,
    /// What it was made of, if the encoder keeps that.
    pub origin: Option<Box<Origin>>,
}

impl Example {
    /// Its texts: one, or the two of a pair.
    pub fn documents(&self) -> impl Iterator<Item = &TokenSample> {
        std::iter::once(&self.tokens).chain(&self.rejected)
    }

    /// Tokens of all its texts.
    pub fn tokens(&self) -> usize {
        self.documents().map(|document| document.ids.len()).sum()
    }

    /// Of those, the ones that are learned.
    pub fn trained_tokens(&self) -> usize {
        self.documents().map(TokenSample::trained_tokens).sum()
    }
}

/// What a sample was made of, for showing it.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    /// What a person finds the row by (`data.jsonl, line 812`).
    pub position: String,
    /// The text of [`Example::tokens`].
    pub written: Written,
    /// That of [`Example::rejected`].
    pub rejected: Option<Written>,
}

/// The text that tokens were made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The text, as far as it is in the sample.
    pub text: String,
    /// For each token, the bytes of the text that it stands for; none for a token that was added.
    pub places: Vec<Range<usize>>,
}
