//! What is asked for, what comes of it, and how much of it there is at a time.

use std::ops::ControlFlow;

use super::options::GenerateOptions;
use crate::architecture::config::ModelConfig;

/// What is asked for: some completions of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Tokens of the prompt.
    pub prompt: Vec<u32>,
    /// How many completions of it; the prompt is read once for all of them.
    pub completions: usize,
}

impl Request {
    /// One completion of each prompt.
    pub fn one_each(prompts: impl IntoIterator<Item = Vec<u32>>) -> Vec<Self> {
        prompts.into_iter().map(|prompt| Self { prompt, completions: 1 }).collect()
    }
}

/// What a prompt got.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The tokens, without the one that ended them.
    pub ids: Vec<u32>,
    /// The token that ended them; none at the length limit, and where the caller ended them.
    pub end: Option<u32>,
    /// The caller ended them.
    pub stopped: bool,
    /// Natural logarithm of each token's probability in the distribution that it was drawn from, that of `end` last.
    pub log_probs: Vec<f32>,
    /// Where it is wanted, the entropy of the distribution that each of the same tokens was chosen from, in nats, before top-k,
    /// top-p and min-p cut it; empty otherwise.
    pub entropies: Vec<f32>,
}

impl Completion {
    /// True unless it was cut off at the length limit.
    pub fn finished(&self) -> bool {
        self.stopped || self.end.is_some()
    }
}

/// A token that was just written.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    /// The number of its completion: those of the first request come first.
    pub sequence: usize,
    /// The tokens of the completion, this one last.
    pub ids: &'a [u32],
}

/// What sees every token as it comes, but those that end a completion; with `Break`, its completion ends with that token.
pub type OnToken<'a> = &'a mut (dyn FnMut(Written<'_>) -> ControlFlow<()> + Send);

/// For [`OnToken`]: nobody looks at single tokens.
pub fn unobserved(_: Written<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Completions that are asked for.
pub(super) fn sequences(requests: &[Request]) -> usize {
    requests.iter().map(|request| request.completions).sum()
}

/// Sequences that grow at the same time.
pub(super) fn slots(requests: &[Request], options: &GenerateOptions) -> usize {
    options.slots.min(sequences(requests))
}

/// Tokens that a sequence may have.
pub(super) fn capacity(config: &ModelConfig, requests: &[Request], options: &GenerateOptions) -> usize {
    let longest = requests.iter().map(|request| request.prompt.len()).max().unwrap_or(0);
    longest.saturating_add(options.max_new_tokens).min(config.max_position_embeddings)
}
