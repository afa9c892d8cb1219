//! Generation: prompts in, tokens out, many sequences of any length at a time over a cache of keys and values.

mod options;
mod sampling;

pub use options::GenerateOptions;

use crate::EngineError;
use crate::adapter::head::add_logits;
use crate::adapter::scratch::AdapterScratch;
use crate::architecture::config::ModelConfig;
use crate::kernels::{Cached, Format, Gemm, Kernels, Rows, at, at_mut};
use crate::model::Model;
use crate::model::decoder::{Saved, Scratch};
use crate::model::linear::LinearScratch;
use crate::model::pass::LayerCache;
use crate::model::rope::RopeTables;

/// Sequences that are generated together.
const GROUP: usize = 64;

/// What a prompt got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// The tokens, without the one that ended them.
    pub ids: Vec<u32>,
    /// True if an end token came; false at the length limit.
    pub finished: bool,
}

/// A sequence that is still growing.
struct Sequence {
    /// Its place in the result.
    index: usize,
    /// Its place in the cache.
    slot: u32,
    /// Prompt and completion.
    ids: Vec<u32>,
    prompt: usize,
}

/// Completes each prompt; `on_token` sees every token as it comes, with its prompt's number.
///
/// # Errors
/// [`EngineError::Options`] for a prompt that is empty, too long or not of the vocabulary, and for options out of range.
pub fn generate<K: Kernels>(
    model: &Model<K>,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    on_token: &mut dyn FnMut(usize, u32),
) -> Result<Vec<Completion>, EngineError> {
    check(&model.config, prompts, options)?;
    let mut completions = vec![Completion { ids: Vec::new(), finished: false }; prompts.len()];
    for (group, prompts) in prompts.chunks(GROUP).enumerate() {
        complete(model, prompts, group * GROUP, options, on_token, &mut completions)?;
    }
    Ok(completions)
}

/// Bytes that completing these prompts keeps of the tokens that were read and written, at most: keys, values, and the table of
/// rotations.
pub fn cache_bytes(config: &ModelConfig, prompts: &[Vec<u32>], options: &GenerateOptions) -> u64 {
    let capacity = capacity(config, prompts, options) as u64;
    let token = 2 * 4 * (config.num_hidden_layers * config.num_key_value_heads * config.head_dim) as u64;
    let tokens = capacity.saturating_mul(prompts.len().min(GROUP) as u64);
    token.saturating_mul(tokens).saturating_add(RopeTables::<()>::bytes(config, capacity))
}

/// Tokens that a sequence may have.
fn capacity(config: &ModelConfig, prompts: &[Vec<u32>], options: &GenerateOptions) -> usize {
    let positions = config.max_position_embeddings;
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    longest.saturating_add(options.max_new_tokens).min(positions)
}

/// Bytes of logits on the host while `prompts` are completed: the rows of a step, and what they are cut from.
pub(crate) fn logits_bytes(prompts: usize, vocab_size: usize) -> u64 {
    2 * 4 * prompts.min(GROUP) as u64 * vocab_size as u64
}

/// Logits of the token that follows a prompt, one per token of the vocabulary.
///
/// # Errors
/// [`EngineError::Options`] for a prompt that is empty, too long or not of the vocabulary.
pub fn next_logits<K: Kernels>(model: &Model<K>, prompt: &[u32]) -> Result<Vec<f32>, EngineError> {
    check(&model.config, std::slice::from_ref(&prompt.to_vec()), &GenerateOptions::default())?;
    let sequence = Sequence { index: 0, slot: 0, ids: prompt.to_vec(), prompt: prompt.len() };
    let logits = Decoder::new(model, 1, prompt.len()).prefill(&sequence);
    model.kernels.check()?;
    Ok(logits)
}

fn check(config: &ModelConfig, prompts: &[Vec<u32>], options: &GenerateOptions) -> Result<(), EngineError> {
    let wrong = |reason: String| Err(EngineError::Options { reason });
    if options.do_sample && !(options.temperature > 0.0 && options.temperature.is_finite()) {
        return wrong(format!("`temperature` is {}; it must be above 0", options.temperature));
    }
    if !(options.top_p > 0.0 && options.top_p <= 1.0) {
        return wrong(format!("`top_p` is {}; it must be above 0 and at most 1", options.top_p));
    }
    if !(options.repetition_penalty > 0.0 && options.repetition_penalty.is_finite()) {
        return wrong(format!("`repetition_penalty` is {}; it must be above 0", options.repetition_penalty));
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

fn complete<K: Kernels>(
    model: &Model<K>,
    prompts: &[Vec<u32>],
    first: usize,
    options: &GenerateOptions,
    on_token: &mut dyn FnMut(usize, u32),
    completions: &mut [Completion],
) -> Result<(), EngineError> {
    let capacity = capacity(&model.config, prompts, options);
    let mut decoder = Decoder::new(model, prompts.len(), capacity);
    let mut growing: Vec<Sequence> = prompts
        .iter()
        .enumerate()
        .map(|(slot, ids)| Sequence { index: first + slot, slot: slot as u32, ids: ids.clone(), prompt: ids.len() })
        .collect();
    // Logits of each sequence's next token, in the order of `growing`.
    let mut logits: Vec<Vec<f32>> =
        model.kernels.within(|| growing.iter().map(|sequence| decoder.prefill(sequence)).collect());
    while !growing.is_empty() {
        model.kernels.check()?;
        let mut kept = Vec::with_capacity(growing.len());
        for (mut sequence, logits) in growing.into_iter().zip(logits) {
            let written = sequence.ids.len() - sequence.prompt;
            if written >= options.max_new_tokens {
                continue;
            }
            let draw = (sequence.index as u64, written as u64);
            let id = sampling::next_token(logits, &sequence.ids, options, draw);
            let completion = &mut completions[sequence.index];
            if options.eos_token_ids.contains(&id) {
                completion.finished = true;
                continue;
            }
            completion.ids.push(id);
            on_token(sequence.index, id);
            sequence.ids.push(id);
            if written + 1 < options.max_new_tokens && sequence.ids.len() < capacity {
                kept.push(sequence);
            }
        }
        growing = kept;
        logits = model.kernels.within(|| decoder.advance(&growing));
    }
    Ok(model.kernels.check()?)
}

/// The cache and the scratch memory of one step.
struct Decoder<'a, K: Kernels> {
    model: &'a Model<K>,
    capacity: usize,
    keys: Vec<K::Buffer>,
    values: Vec<K::Buffer>,
    rope: RopeTables<K::Buffer>,
    memory: StepScratch<K::Buffer>,
    staged: Option<K::Staged>,
    graphs: K::Graphs,
}

/// Buffers for a pass over some tokens.
struct StepScratch<B> {
    x: B,
    out: B,
    saved: Saved<B>,
    scratch: Scratch<B>,
    root: B,
    logits: B,
}

impl<B: std::fmt::Debug> StepScratch<B> {
    fn new<K: Kernels<Buffer = B>>(model: &Model<K>, tokens: usize, rows: usize) -> Self {
        let (kernels, config) = (&model.kernels, &model.config);
        let tokens = kernels.padded(tokens);
        Self {
            x: kernels.alloc(Format::Working, tokens * config.hidden_size),
            out: kernels.alloc(Format::Working, tokens * config.hidden_size),
            saved: Saved::alloc(kernels, config, tokens, model.lora.as_ref()),
            scratch: Scratch::alloc(kernels, config, tokens, model.lora.as_ref()),
            root: kernels.alloc(Format::F32, rows),
            logits: kernels.alloc(Format::F32, rows * config.vocab_size),
        }
    }
}

impl<'a, K: Kernels> Decoder<'a, K> {
    fn new(model: &'a Model<K>, slots: usize, capacity: usize) -> Self {
        let (kernels, config) = (&model.kernels, &model.config);
        let width = config.num_key_value_heads * config.head_dim;
        let layer = |_| kernels.alloc(Format::Working, slots * capacity * width);
        let cache = || (0..config.num_hidden_layers).map(layer).collect();
        Self {
            model,
            capacity,
            keys: cache(),
            values: cache(),
            rope: RopeTables::new(kernels, config, capacity),
            memory: StepScratch::new(model, slots, slots),
            staged: None,
            graphs: K::Graphs::default(),
        }
    }

    /// Fills a sequence's cache from its prompt; returns the logits of the next token.
    fn prefill(&mut self, sequence: &Sequence) -> Vec<f32> {
        let (model, h) = (self.model, self.model.config.hidden_size);
        let kernels = &model.kernels;
        let n = sequence.ids.len();
        let mut memory = StepScratch::new(model, n, 1);
        let positions: Vec<u32> = (0..n as u32).map(|position| self.rope.row(position, n)).collect();
        let (slots, lens): (Vec<u32>, Vec<u32>) = (vec![sequence.slot; n], (1..=n as u32).collect());
        let cached = Some(Cached { slots: &slots, lens: &lens });
        let doc_lens = [n as u32];
        let rows = Rows { ids: &sequence.ids, positions: &positions, doc_lens: &doc_lens, cached, ..Rows::default() };
        kernels.stage(rows, &mut self.staged);
        let Some(rows) = &self.staged else { unreachable!("rows were staged") };
        let pass = model.pass(&self.rope, kernels.padded(n), rows, None);
        model.embed(kernels.padded(n), rows, &mut memory.x);
        for (layer, offsets) in model.layout.layers.iter().enumerate() {
            let (keys, values, capacity) = (&mut self.keys[layer], &mut self.values[layer], self.capacity);
            let cache = Some(LayerCache { keys, values, capacity, is_read: false });
            pass.layer(layer, offsets, &memory.x, &mut memory.saved, &mut memory.scratch, &mut memory.out, cache);
            std::mem::swap(&mut memory.x, &mut memory.out);
        }
        let last = (n - 1) * h;
        project_logits(model, 1, &memory.x, last, &mut memory.scratch, &mut memory.root, &mut memory.logits);
        read_logits(model, 1, &memory.logits)
    }

    /// Gives each sequence its newest token; returns the logits of the next one.
    fn advance(&mut self, growing: &[Sequence]) -> Vec<Vec<f32>> {
        // What grows long is rotated otherwise from its first token on, so its cache is made anew (as transformers does).
        let limit = self.model.config.rope_limit();
        let grows_long = |sequence: &Sequence| limit.is_some_and(|limit| sequence.ids.len() == limit + 1);
        let others: Vec<&Sequence> = growing.iter().filter(|sequence| !grows_long(sequence)).collect();
        let mut stepped = self.step(&others).into_iter();
        let next = |sequence| if grows_long(sequence) { Some(self.prefill(sequence)) } else { stepped.next() };
        growing.iter().filter_map(next).collect()
    }

    /// The same for sequences that go on as they began.
    fn step(&mut self, growing: &[&Sequence]) -> Vec<Vec<f32>> {
        if growing.is_empty() {
            return Vec::new();
        }
        let &mut Self { model, capacity, ref mut keys, ref mut values, ref rope, ref mut memory, .. } = self;
        let (kernels, v) = (&model.kernels, model.config.vocab_size);
        let newest: Vec<u32> = growing.iter().filter_map(|sequence| sequence.ids.last().copied()).collect();
        let row = |sequence: &&Sequence| rope.row(sequence.ids.len() as u32 - 1, sequence.ids.len());
        let positions: Vec<u32> = growing.iter().map(row).collect();
        let lens: Vec<u32> = growing.iter().map(|sequence| sequence.ids.len() as u32).collect();
        let slots: Vec<u32> = growing.iter().map(|sequence| sequence.slot).collect();
        let cached = Some(Cached { slots: &slots, lens: &lens });
        let rows = Rows { ids: &newest, positions: &positions, cached, ..Rows::default() };
        kernels.stage(rows, &mut self.staged);
        let Some(rows) = &self.staged else { unreachable!("rows were staged") };
        let n = kernels.padded(growing.len());
        let pass = model.pass(rope, n, rows, None);
        let StepScratch { x, out, saved, scratch, root, logits } = memory;
        kernels.replay(&mut self.graphs, rows, 0, || {
            let (mut x, mut out) = (&mut *x, &mut *out);
            model.embed(n, rows, x);
            for (layer, offsets) in model.layout.layers.iter().enumerate() {
                let (keys, values) = (&mut keys[layer], &mut values[layer]);
                let cache = Some(LayerCache { keys, values, capacity, is_read: true });
                pass.layer(layer, offsets, x, saved, scratch, out, cache);
                (x, out) = (out, x);
            }
            project_logits(model, growing.len(), x, 0, scratch, root, logits);
        });
        let all = read_logits(model, growing.len(), logits);
        all.chunks(v).map(<[f32]>::to_vec).collect()
    }
}

/// Last norm and output projection of `rows` rows of `x` from `offset`.
fn project_logits<K: Kernels>(
    model: &Model<K>,
    rows: usize,
    x: &K::Buffer,
    offset: usize,
    scratch: &mut Scratch<K::Buffer>,
    root: &mut K::Buffer,
    logits: &mut K::Buffer,
) {
    let Scratch { normed, linear: LinearScratch { adapter: AdapterScratch { small, .. }, .. }, .. } = scratch;
    let (kernels, config) = (&model.kernels, &model.config);
    let (h, v) = (config.hidden_size, config.vocab_size);
    let (norm, weight) = (model.last_norm(rows), at(&model.params, model.layout.norm));
    kernels.rmsnorm(norm, at(x, offset), weight, None, at_mut(normed, 0), at_mut(root, 0));
    let product = Gemm::new([rows, v, h], (false, true), [h, h, v], 0.0);
    kernels.gemm(product, at(normed, 0), at(&model.params, model.layout.head), at_mut(logits, 0));
    if let Some(lora) = &model.lora {
        add_logits(kernels, config, lora, rows, normed, small, logits);
    }
}

/// Logits of `rows` rows, once they are computed.
fn read_logits<K: Kernels>(model: &Model<K>, rows: usize, logits: &K::Buffer) -> Vec<f32> {
    let mut values = vec![0.0; rows * model.config.vocab_size];
    model.kernels.download(at(logits, 0), &mut values);
    if let Some(cap) = model.config.logits_cap {
        for value in &mut values {
            *value = cap * (*value / cap).tanh();
        }
    }
    values
}
