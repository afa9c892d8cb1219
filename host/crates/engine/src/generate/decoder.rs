//! The model over a cache: prompts read into slots, and sequences given one token each.

use crate::adapter::head::{HeadPass, HeadScratch};
use crate::architecture::tensors::{ExpertTensor, Unit};
use crate::kernels::{CACHE_BLOCK, Cached, Format, Gemm, Kernels, Rows, at, at_mut};
use crate::model::Model;
use crate::model::decoder::{Saved, Scratch};
use crate::model::pass::{LayerCache, Pass};
use crate::model::rope::RopeTables;

/// Steps from which on it pays to make frozen weights compact, which takes about as long as three. Those that are trained have
/// more bits.
const STEPS: usize = 16;

/// A cache of keys and values, and the memory of a pass. All of it is taken at once and kept.
pub(super) struct Decoder<'a, K: Kernels> {
    model: &'a Model<K>,
    /// Entries of a slot.
    capacity: usize,
    keys: Vec<K::Buffer>,
    values: Vec<K::Buffer>,
    rope: RopeTables<K::Buffer>,
    memory: PassMemory<K::Buffer>,
    /// The weights once more, where that makes steps faster.
    compact: Option<K::Compact>,
    staged: Option<K::Staged>,
    graphs: K::Graphs,
    /// Logits on the host, `[slots, vocabulary]`.
    logits: Vec<f32>,
}

/// Buffers of a pass: over some tokens, of which some rows go on to the output projection.
struct PassMemory<B> {
    x: B,
    out: B,
    saved: Saved<B>,
    scratch: Scratch<B>,
    /// The rows that go on, `[rows, h]`.
    last: B,
    root: B,
    logits: B,
    /// For an adapter of the output projection: the same joined operands as in training, for the same bits.
    head: Option<HeadScratch<B>>,
}

impl<B: std::fmt::Debug> PassMemory<B> {
    fn new<K: Kernels<Buffer = B>>(model: &Model<K>, tokens: usize, rows: usize) -> Self {
        let Model { kernels, config, lora, params, layout, .. } = model;
        let (tokens, rows) = (kernels.padded(tokens), kernels.padded(rows));
        let head = lora.as_ref().filter(|lora| lora.head().is_some()).map(|lora| {
            let mut head = HeadScratch::alloc(kernels, config, lora, params, layout.head, rows, false);
            head.join_weight(kernels, config, lora);
            head
        });
        Self {
            x: kernels.alloc(Format::Working, tokens * config.hidden_size),
            out: kernels.alloc(Format::Working, tokens * config.hidden_size),
            saved: Saved::alloc(kernels, config, tokens, lora.as_ref(), 0..config.num_hidden_layers),
            scratch: Scratch::alloc(kernels, config, tokens, lora.as_ref()),
            last: kernels.alloc(Format::Working, rows * config.hidden_size),
            root: kernels.alloc(Format::F32, rows),
            logits: kernels.alloc(Format::F32, rows * config.vocab_size),
            head,
        }
    }
}

/// What a step gives a sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Newest {
    /// Its newest token.
    pub(super) id: u32,
    /// Its tokens, that one counted.
    pub(super) tokens: usize,
    pub(super) slot: u32,
}

impl<'a, K: Kernels> Decoder<'a, K> {
    /// With `slots` slots of up to `capacity` tokens; a pass reads up to `tokens` tokens of prompts, and there will be about so
    /// many steps.
    pub(super) fn new(model: &'a Model<K>, slots: usize, capacity: usize, tokens: usize, steps: usize) -> Self {
        let (kernels, config) = (&model.kernels, &model.config);
        let width = config.num_key_value_heads * config.head_dim;
        let entries = capacity.next_multiple_of(CACHE_BLOCK);
        let layer = |_| kernels.alloc(Format::Working, slots * entries * width);
        let cache = || (0..config.num_hidden_layers).map(layer).collect();
        Self {
            model,
            capacity: entries,
            keys: cache(),
            values: cache(),
            rope: RopeTables::new(kernels, config, capacity),
            memory: PassMemory::new(model, tokens.max(slots), slots),
            compact: if steps >= STEPS && model.is_frozen { compact(model) } else { None },
            staged: None,
            graphs: K::Graphs::default(),
            logits: vec![0.0; slots * config.vocab_size],
        }
    }

    /// Fills slots from the texts that stand before them, in one pass; returns the logits of each text's next token, `[texts,
    /// vocabulary]`.
    pub(super) fn prefill(&mut self, texts: &[(&[u32], u32)]) -> &mut [f32] {
        let (model, h) = (self.model, self.model.config.hidden_size);
        let kernels = &model.kernels;
        let (mut ids, mut positions, mut slots, mut lens) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for &(text, slot) in texts {
            ids.extend_from_slice(text);
            positions.extend((0..text.len() as u32).map(|position| self.rope.row(position, text.len())));
            slots.extend(std::iter::repeat_n(slot, text.len()));
            lens.extend(1..=text.len() as u32);
        }
        let doc_lens: Vec<u32> = texts.iter().map(|(text, _)| text.len() as u32).collect();
        let cached = Some(Cached { slots: &slots, lens: &lens });
        let rows = Rows { ids: &ids, positions: &positions, doc_lens: &doc_lens, cached, ..Rows::default() };
        kernels.stage(rows, &mut self.staged);
        let Some(rows) = &self.staged else { unreachable!("rows were staged") };
        let n = kernels.padded(ids.len());
        let pass = Pass { compact: self.compact.as_ref(), ..model.pass(&self.rope, n, rows, None) };
        let memory = &mut self.memory;
        model.embed(n, rows, &mut memory.x);
        for (layer, offsets) in model.layout.layers.iter().enumerate() {
            let (keys, values, capacity) = (&mut self.keys[layer], &mut self.values[layer], self.capacity);
            let cache = Some(LayerCache { keys, values, capacity, is_read: false });
            pass.layer(layer, offsets, &memory.x, &mut memory.saved, &mut memory.scratch, &mut memory.out, cache);
            std::mem::swap(&mut memory.x, &mut memory.out);
        }
        let mut end = 0;
        for (row, (text, _)) in texts.iter().enumerate() {
            end += text.len();
            kernels.copy(h, at(&memory.x, (end - 1) * h), at_mut(&mut memory.last, row * h));
        }
        // Graphs of steps have these buffers where they were.
        if model.layout.layers.len() % 2 == 1 {
            std::mem::swap(&mut memory.x, &mut memory.out);
        }
        project(&pass, model, texts.len(), memory, true);
        self.read(texts.len())
    }

    /// Gives each sequence its newest token; returns the logits of the next one, `[sequences, vocabulary]`.
    pub(super) fn step(&mut self, newest: &[Newest]) -> &mut [f32] {
        let &mut Self { model, capacity, ref mut keys, ref mut values, ref rope, ref mut memory, ref compact, .. } =
            self;
        let kernels = &model.kernels;
        let ids: Vec<u32> = newest.iter().map(|newest| newest.id).collect();
        let row = |newest: &Newest| rope.row(newest.tokens as u32 - 1, newest.tokens);
        let positions: Vec<u32> = newest.iter().map(row).collect();
        let lens: Vec<u32> = newest.iter().map(|newest| newest.tokens as u32).collect();
        let slots: Vec<u32> = newest.iter().map(|newest| newest.slot).collect();
        let cached = Some(Cached { slots: &slots, lens: &lens });
        let rows = Rows { ids: &ids, positions: &positions, cached, ..Rows::default() };
        kernels.stage(rows, &mut self.staged);
        let Some(rows) = &self.staged else { unreachable!("rows were staged") };
        let n = kernels.padded(newest.len());
        let pass = Pass { compact: compact.as_ref(), ..model.pass(rope, n, rows, None) };
        kernels.replay(&mut self.graphs, rows, 0, || {
            let PassMemory { x, out, saved, scratch, .. } = &mut *memory;
            let (mut x, mut out) = (x, out);
            model.embed(n, rows, x);
            for (layer, offsets) in model.layout.layers.iter().enumerate() {
                let (keys, values) = (&mut keys[layer], &mut values[layer]);
                let cache = Some(LayerCache { keys, values, capacity, is_read: true });
                pass.layer(layer, offsets, x, saved, scratch, out, cache);
                (x, out) = (out, x);
            }
            project(&pass, model, newest.len(), memory, false);
        });
        self.read(newest.len())
    }

    /// Copies the first `tokens` entries of a slot to another.
    pub(super) fn copy_slot(&mut self, tokens: usize, source: u32, target: u32) {
        if source == target {
            return;
        }
        let (kernels, config) = (&self.model.kernels, &self.model.config);
        let width = config.num_key_value_heads * config.head_dim;
        let place = |slot: u32| slot as usize * self.capacity * width;
        let len = tokens.next_multiple_of(CACHE_BLOCK) * width;
        for buffer in self.keys.iter_mut().chain(&mut self.values) {
            kernels.copy_within(len, buffer, place(source), place(target));
        }
    }

    /// Logits of the first `rows` rows, once they are computed.
    fn read(&mut self, rows: usize) -> &mut [f32] {
        let logits = &mut self.logits[..rows * self.model.config.vocab_size];
        self.model.kernels.download(at(&self.memory.logits, 0), logits);
        logits
    }
}

/// Last norm and output projection of the first `count` rows: of those that were put together (`is_gathered`), else of what
/// the last layer gave.
fn project<K: Kernels>(
    pass: &Pass<'_, K>,
    model: &Model<K>,
    count: usize,
    memory: &mut PassMemory<K::Buffer>,
    is_gathered: bool,
) {
    let PassMemory { x, out, scratch, last, root, logits, head, .. } = memory;
    let Model { kernels, config, params, layout, lora, .. } = model;
    let of_layers = if layout.layers.len().is_multiple_of(2) { &*x } else { &*out };
    let x = if is_gathered { &*last } else { of_layers };
    let (norm, weight) = (model.last_norm(count), at(params, layout.norm));
    kernels.rmsnorm(norm, at(x, 0), weight, None, at_mut(&mut scratch.normed, 0), at_mut(root, 0));
    if let Some((lora, head)) = lora.as_ref().zip(head.as_mut()) {
        let pass = HeadPass { kernels, config, lora, rows: pass.rows, n: count, dropout: None };
        return head.logits(pass, &scratch.normed, &mut scratch.linear.adapter, logits);
    }
    let (h, v) = (config.hidden_size, config.vocab_size);
    let product = Gemm::new([count, v, h], (false, true), [h, h, v], 0.0);
    let (x, weight, logits) = (at(&scratch.normed, 0), at(params, layout.head), at_mut(logits, 0));
    match pass.compact {
        Some(compact) => kernels.gemm_compact(product, x, weight, compact, logits),
        None => kernels.gemm(product, x, weight, logits),
    }
}

/// What the products of a step read, in a form that they read faster. An adapted output projection has operands of its own.
fn compact<K: Kernels>(model: &Model<K>) -> Option<K::Compact> {
    let Model { kernels, config, params, layout, lora, .. } = model;
    let mut matrices = Vec::new();
    for (layer, offsets) in layout.layers.iter().enumerate() {
        for unit in Unit::ALL {
            let kinds = unit.kinds_in(config, layer);
            let sizes = kinds.iter().map(|kind| kind.shape(config)).reduce(|all, one| (all.0 + one.0, one.1));
            if let Some((rows, columns)) = sizes
                && kinds.iter().all(|&kind| offsets.packed[kind as usize].is_none())
            {
                matrices.push((offsets.units[unit as usize].weight, [rows, columns]));
            }
        }
        if let (Some(experts), Some(places)) = (config.experts_of(layer), offsets.experts) {
            for (tensor, first) in ExpertTensor::ALL.into_iter().zip([places.gate_up, places.down]) {
                let sizes = tensor.shape(config, experts);
                matrices.extend((0..experts.count).map(|expert| (first + expert * sizes[0] * sizes[1], sizes)));
            }
        }
    }
    if lora.as_ref().is_none_or(|lora| lora.head().is_none()) {
        matrices.push((layout.head, [config.vocab_size, config.hidden_size]));
    }
    kernels.compact(params, &matrices)
}
