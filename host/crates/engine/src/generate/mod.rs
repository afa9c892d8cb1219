//! Generation: prompts in, tokens with their log-probabilities out.
//!
//! A fixed number of sequences grow at the same time, each in a slot of a cache of keys and values (`decoder`). Where one
//! ends, the next of the queue takes its slot at once (`schedule`). Completions of one prompt share the reading of it.
//!
//! What a sequence becomes depends on the model, its prompt, the options and its number, and on nothing that grows beside it:
//! on the CPU, a row of a pass gets the same bits whatever the other rows are, and a draw has random numbers of its own
//! (`sampling`). For the same reason, on the CPU in f32, the log-probability of a token is the same bits as
//! [`Trainer::outputs`](crate::Trainer::outputs) gives for it, with these exceptions:
//! - temperature, top-k, top-p, min-p and a repetition penalty make another distribution, of which training knows nothing;
//! - where the processor has a matrix unit (AMX), large products are summed in its own order, and those of a step of
//!   generation are too small for it (`HOST_NO_AMX=1` leaves it out);
//! - a model whose long texts have rotations of their own reads a text as a long one from its first token on, once it is one;
//!   what was drawn before was drawn from the short text's distribution.

mod decoder;
mod options;
mod request;
mod sampling;
mod schedule;

pub use options::GenerateOptions;
pub use request::{Completion, OnToken, Request, Written, unobserved};

use self::decoder::Decoder;
use self::request::{capacity, sequences, slots};
use self::schedule::Schedule;
use crate::EngineError;
use crate::architecture::config::ModelConfig;
use crate::kernels::{CACHE_BLOCK, Kernels};
use crate::model::Model;
use crate::model::rope::RopeTables;

/// Completes the prompts of all requests. The result has the completions of the first request, then those of the second, and
/// so on.
///
/// # Errors
/// [`EngineError::Options`] for a prompt that is empty, too long or not of the vocabulary, and for options out of range;
/// [`EngineError::Device`] for a device that fails.
pub fn generate<K: Kernels>(
    model: &Model<K>,
    requests: &[Request],
    options: &GenerateOptions,
    on_token: OnToken<'_>,
) -> Result<Vec<Completion>, EngineError> {
    check(&model.config, requests.iter().map(|request| request.prompt.as_slice()), options)?;
    if options.max_new_tokens == 0 {
        let empty =
            Completion { ids: Vec::new(), end: None, stopped: false, log_probs: Vec::new(), entropies: Vec::new() };
        return Ok(vec![empty; sequences(requests)]);
    }
    model.kernels.within(|| Schedule::new(model, requests, options).run(on_token))
}

/// Bytes that completing these requests keeps of the tokens that were read and written, at most: keys, values, and the table of
/// rotations.
pub fn cache_bytes(config: &ModelConfig, requests: &[Request], options: &GenerateOptions) -> u64 {
    let capacity = capacity(config, requests, options) as u64;
    let token = 2 * 4 * (config.num_hidden_layers * config.num_key_value_heads * config.head_dim) as u64;
    let tokens = capacity.next_multiple_of(CACHE_BLOCK as u64).saturating_mul(slots(requests, options) as u64);
    token.saturating_mul(tokens).saturating_add(RopeTables::<()>::bytes(config, capacity))
}

/// Bytes of logits on the host while so many sequences grow: those of a step, those that wait for the rest of a group, and
/// a copy on each thread.
pub(crate) fn logits_bytes(sequences: usize, options: &GenerateOptions, vocab_size: usize) -> u64 {
    let rows = sequences.min(options.slots) + 1 + rayon::current_num_threads();
    4 * (rows as u64) * vocab_size as u64
}

/// Logits of the token that follows a prompt, one per token of the vocabulary.
///
/// # Errors
/// [`EngineError::Options`] for a prompt that is empty, too long or not of the vocabulary.
pub fn next_logits<K: Kernels>(model: &Model<K>, prompt: &[u32]) -> Result<Vec<f32>, EngineError> {
    check(&model.config, [prompt], &GenerateOptions::default())?;
    let logits =
        model.kernels.within(|| Decoder::new(model, 1, prompt.len(), prompt.len(), 1).prefill(&[(prompt, 0)]).to_vec());
    model.kernels.check()?;
    Ok(logits)
}

fn check<'a>(
    config: &ModelConfig,
    prompts: impl IntoIterator<Item = &'a [u32]>,
    options: &GenerateOptions,
) -> Result<(), EngineError> {
    let wrong = |reason: String| Err(EngineError::Options { reason });
    if config.scores.is_some() {
        return wrong("the model scores texts and has no output projection, so it cannot write".into());
    }
    if options.do_sample && !(options.temperature > 0.0 && options.temperature.is_finite()) {
        return wrong(format!("`temperature` is {}; it must be above 0", options.temperature));
    }
    if !(options.top_p > 0.0 && options.top_p <= 1.0) {
        return wrong(format!("`top_p` is {}; it must be above 0 and at most 1", options.top_p));
    }
    if !(0.0..=1.0).contains(&options.min_p) {
        return wrong(format!("`min_p` is {}; it must be at least 0 and at most 1", options.min_p));
    }
    if !(options.repetition_penalty > 0.0 && options.repetition_penalty.is_finite()) {
        return wrong(format!("`repetition_penalty` is {}; it must be above 0", options.repetition_penalty));
    }
    if options.slots == 0 {
        return wrong("`slots` is 0; at least one sequence must grow".into());
    }
    for prompt in prompts {
        if prompt.is_empty() {
            return wrong("a prompt has no tokens".into());
        }
        if prompt.len() > config.max_position_embeddings {
            let limit = config.max_position_embeddings;
            return wrong(format!("a prompt has {} tokens; the model has {limit} positions", prompt.len()));
        }
        if let Some(id) = prompt.iter().find(|&&id| id as usize >= config.vocab_size) {
            return wrong(format!("token {id} is not one of the model's {}", config.vocab_size));
        }
    }
    Ok(())
}
