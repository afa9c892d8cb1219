//! What operations take beside their buffers: sizes, strides, factors, and what a pass knows of its rows.

use std::ops::Range;

use serde::Serialize;

use crate::buffer::{View, ViewMut};

/// A position whose next token is not learned.
pub const IGNORE: u32 = u32::MAX;

/// A document that continues no other.
pub const ALONE: u32 = u32::MAX;

/// `C[m, n] = alpha * op(A)[m, k] * op(B)[k, n] + beta * C`. With `beta` 0, what `C` held is ignored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gemm {
    /// Rows of `C`.
    pub m: usize,
    /// Columns of `C`.
    pub n: usize,
    /// The summed dimension.
    pub k: usize,
    /// `A` is stored `[k, m]`.
    pub transpose_a: bool,
    /// `B` is stored `[n, k]`.
    pub transpose_b: bool,
    /// Elements from one stored row of `A` to the next.
    pub lda: usize,
    /// Elements from one stored row of `B` to the next.
    pub ldb: usize,
    /// Elements from one row of `C` to the next.
    pub ldc: usize,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of what `C` held.
    pub beta: f32,
}

impl Gemm {
    /// A product of `[m, k]` and `[k, n]`, with factor 1. `transposed` says which operands are stored the other way round;
    /// `strides` are `lda`, `ldb` and `ldc`.
    pub fn new(
        [m, n, k]: [usize; 3],
        (transpose_a, transpose_b): (bool, bool),
        [lda, ldb, ldc]: [usize; 3],
        beta: f32,
    ) -> Self {
        Self { m, n, k, transpose_a, transpose_b, lda, ldb, ldc, alpha: 1.0, beta }
    }
}

/// Elements of a matrix of `rows` rows of `width`, `stride` apart.
pub(crate) fn extent(rows: usize, width: usize, stride: usize) -> usize {
    if rows == 0 { 0 } else { (rows - 1) * stride + width }
}

/// Sizes of grouped-query attention over a packed row of `q_heads` queries, then `kv_heads` keys, then `kv_heads` values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Factor of the scores, mostly `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Scores `s` become `cap * tanh(s / cap)` (Gemma 2).
    pub cap: Option<f32>,
}

impl AttentionShape {
    /// Elements of a packed row.
    pub fn packed(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Elements of an output row.
    pub fn output(&self) -> usize {
        self.heads * self.head_dim
    }
}

/// Attention of one layer: causal, inside each document.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerAttention {
    /// Its sizes.
    pub shape: AttentionShape,
    /// A row sees itself and the `window - 1` rows before it; none sees the whole document.
    pub window: Option<usize>,
}

/// What attention's backward pass needs of its forward pass.
#[derive(Debug)]
pub struct Attended<'a, B> {
    /// The packed rows, `[n, packed]`.
    pub qkv: View<'a, B>,
    /// What it gave, `[n, output]`.
    pub out: View<'a, B>,
    /// Log-sum-exp of each row's scores, `[n, heads]`, f32.
    pub lse: View<'a, B>,
}

/// Entries of a cache that lie together: what a slot holds can be copied in multiples of so many, from its start on.
pub const CACHE_BLOCK: usize = 16;

/// Keys and values of one layer that are kept for later rows.
#[derive(Debug)]
pub struct Cache<'a, B> {
    /// Entries of a slot, a multiple of [`CACHE_BLOCK`].
    pub capacity: usize,
    /// `[slots, capacity, kv_heads * head_dim]` elements; how those of a block lie is the device's own.
    pub keys: View<'a, B>,
    /// Like `keys`.
    pub values: View<'a, B>,
}

/// The same, to write.
#[derive(Debug)]
pub struct CacheMut<'a, B> {
    /// Entries of a slot, a multiple of [`CACHE_BLOCK`].
    pub capacity: usize,
    /// `[slots, capacity, kv_heads * head_dim]` elements.
    pub keys: ViewMut<'a, B>,
    /// Like `keys`.
    pub values: ViewMut<'a, B>,
}

/// What a model asks of a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demands {
    /// Its attention.
    pub attention: AttentionShape,
    /// The smallest window of any layer.
    pub window: Option<usize>,
    /// Elements of its widest norm.
    pub widest_norm: usize,
    /// Some of its weights are packed.
    pub is_packed: bool,
    /// Some of its layers have experts.
    pub has_experts: bool,
}

/// How the rows of a pass go to the experts of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routing {
    /// Rows of the pass.
    pub rows: usize,
    /// Experts of the layer.
    pub experts: usize,
    /// Experts that a row goes to.
    pub per_row: usize,
    /// The weights of a row's experts are divided by their sum.
    pub renormalizes: bool,
}

impl Routing {
    /// Rows of all experts together.
    pub fn assigned(&self) -> usize {
        self.rows * self.per_row
    }

    /// Words that say which rows are whose: the expert of each of a row's places, `[rows, per_row]`; where among the experts'
    /// rows it lies; the place of each of the experts' rows; where each expert's rows begin, and where the last one's end.
    pub fn words(&self) -> usize {
        3 * self.assigned() + self.experts + 1
    }
}

/// Products of experts' rows: `y [rows of the expert, out] = alpha * x [rows of the expert, inner] W^T + beta * y`, or with `x W`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertProduct {
    /// Elements of a row of `y`.
    pub out: usize,
    /// Elements of a row of `x`.
    pub inner: usize,
    /// A weight is stored `[out, inner]`; else `[inner, out]`.
    pub is_transposed: bool,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of what `y` held; with 0, that is ignored.
    pub beta: f32,
}

/// An adapter's `B` of all experts, as PEFT has it: `[out, rank * experts]`, the columns of one rank next to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertColumns {
    /// Experts.
    pub experts: usize,
    /// Rows.
    pub out: usize,
    /// Columns of an expert.
    pub rank: usize,
}

/// Rows of one expert's weight that have a gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertWeights {
    /// Which expert.
    pub expert: usize,
    /// First column of `dy`.
    pub column: usize,
    /// How many there are.
    pub rows: usize,
    /// First element of their gradient.
    pub place: usize,
}

/// Sums over the experts of a row: `y = beta * y + alpha * sum`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Combine {
    /// Elements of a row.
    pub width: usize,
    /// Factor of the sum.
    pub alpha: f32,
    /// Factor of what `y` held, 0 or 1; of no account with a residual.
    pub beta: f32,
}

/// Norms of parts of rows, `y = gain * x * r * (w + offset)` with `r = 1 / sqrt(mean(x^2) + eps)` for each part (Zhang and
/// Sennrich, "Root mean square layer normalization").
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// Rows.
    pub rows: usize,
    /// Parts of a row, next to each other, each with a norm of its own and the same weight.
    pub parts: usize,
    /// Elements of a part, and of the weight.
    pub width: usize,
    /// Elements from one row to the next, of the input as of the output.
    pub stride: usize,
    /// Added to the mean square.
    pub eps: f32,
    /// Added to the weight: one where a model keeps the difference to one.
    pub offset: f32,
    /// Factor of the output.
    pub gain: f32,
}

impl Norm {
    /// Norms of whole rows of `width` elements.
    pub fn whole(rows: usize, width: usize, eps: f32) -> Self {
        Self { rows, parts: 1, width, stride: width, eps, offset: 0.0, gain: 1.0 }
    }

    /// Norms that there are: elements of `r`.
    pub fn count(&self) -> usize {
        self.rows * self.parts
    }

    /// Elements from the first of the first row to the last of the last.
    pub(crate) fn extent(&self) -> usize {
        extent(self.rows, self.parts * self.width, self.stride)
    }
}

/// What a norm has read, and what it has kept.
#[derive(Debug)]
pub struct Normed<'a, B> {
    /// The rows.
    pub x: View<'a, B>,
    /// The weight, `[width]`.
    pub w: View<'a, B>,
    /// The roots, `[rows * parts]`, f32.
    pub r: View<'a, B>,
}

/// Rotations of the heads of rows (Su et al., "RoFormer").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// Heads, at the start of each row.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Elements of a head that are rotated, its first.
    pub rotary_dim: usize,
    /// Elements from one row to the next.
    pub stride: usize,
    /// Neighbours are turned together, `2 i` with `2 i + 1`, as in the paper; else element `i` of the first half with element
    /// `i` of the second, as in `rotate_half` of most classes of transformers.
    pub is_interleaved: bool,
}

/// Columns of rows, scaled each by a factor of its own (Liu et al., "DoRA: weight-decomposed low-rank adaptation").
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaled {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub width: usize,
    /// Elements from one row to the next, of all operands.
    pub stride: usize,
    /// Factor of all columns.
    pub alpha: f32,
}

impl Scaled {
    /// Elements from the first of the first row to the last of the last.
    pub(crate) fn extent(&self) -> usize {
        extent(self.rows, self.width, self.stride)
    }
}

/// What is between the products of a feed-forward layer: what its gates go through (Shazeer, "GLU variants improve
/// transformer"), or its ups where it has no gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`, torch's `gelu` with `approximate="tanh"`.
    GeluTanh,
    /// `max(x, 0)^2`, without gates (So et al., "Primer: searching for efficient transformers for language modeling").
    Relu2,
    /// Without gates, and with weights of its own; see [`TensorOps::xielu`](crate::TensorOps::xielu).
    Xielu,
}

impl Activation {
    /// Rows of so many inner widths go in: gates and ups, or ups alone.
    pub fn inputs(self) -> usize {
        match self {
            Self::Silu | Self::GeluTanh => 2,
            Self::Relu2 | Self::Xielu => 1,
        }
    }
}

/// Where the gradients of the trained weights of xIELU go.
#[derive(Debug)]
pub struct XieluGradients<'a, B> {
    /// The buffer, f32.
    pub buffer: &'a mut B,
    /// The elements of the first and of the second weight; none for a frozen one.
    pub places: [Option<usize>; 2],
    /// Factor of what they held.
    pub beta: f32,
}

/// Sizes of an output projection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Head {
    /// Elements of an input row.
    pub width: usize,
    /// Rows of the weight.
    pub vocabulary: usize,
    /// Logits `z` become `cap * tanh(z / cap)` (Gemma 2).
    pub cap: Option<f32>,
}

/// A stretch of trained weights with one rule of decay and one learning rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Segment {
    /// First element in the weight arena.
    pub parameter: usize,
    /// First element in the gradient arena.
    pub gradient: usize,
    /// Elements.
    pub len: usize,
    /// Weight decay applies.
    pub decays: bool,
    /// Factor of the step's learning rate.
    pub rate: f32,
}

/// Constants of one AdamW step (Loshchilov and Hutter, "Decoupled weight decay regularization", as torch computes it).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamStep {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay, of the segments that decay.
    pub weight_decay: f32,
    /// `1 - beta1^t`.
    pub correction1: f32,
    /// `sqrt(1 - beta2^t)`.
    pub correction2_sqrt: f32,
}

/// Where an AdamW step works.
#[derive(Debug)]
pub struct AdamState<'a, B> {
    /// Gradients, laid out as the segments say.
    pub gradients: &'a B,
    /// First moments, laid out like the gradients.
    pub exp_avg: &'a mut B,
    /// Second moments, laid out like the gradients.
    pub exp_avg_sq: &'a mut B,
    /// The weights that products read.
    pub params: &'a mut B,
    /// The same weights in f32, laid out like the gradients, where `params` are rounded.
    pub master: Option<&'a mut B>,
}

/// Which mask a dropout uses; the same key and rows give the same mask in forward and backward.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DropoutKey {
    /// Of the run.
    pub seed: u64,
    /// One per place in the model; with that of the rows it says which numbers are drawn.
    pub stream: u64,
    /// Share of elements that are dropped; the others grow by `1 / (1 - probability)`.
    pub probability: f32,
}

/// Targets of the rows of a pass.
#[derive(Debug, Clone, Copy)]
pub struct Targets<'a> {
    /// Token per row, or [`crate::IGNORE`].
    pub tokens: &'a [u32],
    /// Weight per row; none means 1.
    pub weights: Option<&'a [f32]>,
    /// Factor of the gradients, not of the loss.
    pub scale: f32,
}

/// Where the rows of a pass stand in a cache of keys and values.
#[derive(Debug, Clone, Copy)]
pub struct Cached<'a> {
    /// Slot per row.
    pub slots: &'a [u32],
    /// Entries of the slot that the row sees, its own last.
    pub lens: &'a [u32],
}

/// What a pass knows of its rows beside their activations.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rows<'a> {
    /// Token per row.
    pub ids: &'a [u32],
    /// Row of each row in the table of rotations: its position in its document, mostly.
    pub positions: &'a [u32],
    /// Rows of each document, in order; empty where attention goes through a cache.
    pub doc_lens: &'a [u32],
    /// For each document another one before it, whose rows it sees before its own, or [`ALONE`]; the other is itself alone. Empty
    /// where all are. See [`Queue::continues_documents`](crate::Queue::continues_documents).
    pub continues: &'a [u32],
    /// What the rows are to say.
    pub targets: Option<Targets<'a>>,
    /// The rows' places in a cache.
    pub cached: Option<Cached<'a>>,
    /// Random bits of the pass: no two passes of a run drop the same elements.
    pub dropout: u64,
    /// Size of the noise that is added to each row's embedding; none where there is no noise.
    pub noise: Option<&'a [f32]>,
}

/// What a device added up; see [`crate::Queue::totals`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    /// Weighted sum of the losses, in nats.
    pub loss_sum: f64,
    /// Sum of squares.
    pub squares: f64,
}

/// What a device with memory of its own was used for so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// The most bytes of its memory that were taken at once.
    pub peak_memory_bytes: u64,
    /// Stretches of work that were launched as one graph; see [`crate::Queue::replay`].
    pub graph_launches: u64,
    /// What was used beside this trainer's own kernels and what was not, with the reasons.
    pub remarks: Vec<String>,
}

/// Where the gradients of the output projection go, for the loss times the factor of [`Targets`].
#[derive(Debug)]
pub struct LossGradients<'a, B> {
    /// Gradient of the input, `[n, h]`, overwritten.
    pub dx: ViewMut<'a, B>,
    /// Gradient of the weight, `[v, h]`, f32, and the factor of what it held; none for a frozen weight.
    pub dw: Option<(ViewMut<'a, B>, f32)>,
    /// Elements of the buffer of `dw`, outside of it, whose contents nobody needs: room for logits.
    pub idle: Range<usize>,
}
