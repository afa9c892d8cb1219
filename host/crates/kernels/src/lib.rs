//! What a device must be able to do, and the devices that do it: [`cpu`], [`cuda`], and [`counting`], which only adds up
//! what would be needed. Matrices are row-major; `[n, h]` has `n` rows of `h`.
//!
//! Who schedules the operations sees device memory only through [`View`] and [`ViewMut`]: a buffer and an offset.
//! Sizes are the caller's; an implementation checks them against its buffers. Operations may be queued: they happen in the
//! order in which they are asked for, and the host waits only in `download` and `totals`. What went wrong in between is
//! kept, nothing that follows is done, and [`Kernels::check`] tells.

pub mod counting;
pub mod cpu;
pub mod cuda;
mod error;
pub mod rng;

use std::ops::Range;

use serde::Serialize;

pub use error::DeviceError;

/// A position whose next token is not learned.
pub const IGNORE: u32 = u32::MAX;

/// What the elements of a buffer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The device's working precision ([`Kernels::precision`]): activations, and the weights that products read.
    Working,
    /// f32 on every device: gradients, moments, weights that are trained, whatever is summed.
    Exact,
}

/// A working precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Precision {
    /// IEEE single precision.
    F32,
    /// bfloat16, summed in f32; trained weights are kept in f32 beside the rounded ones.
    Bf16,
}

impl Precision {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// As torch and transformers name it: `float32`, `bfloat16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
        }
    }
}

/// A place in device memory to read from.
#[derive(Debug)]
pub struct View<'a, B> {
    /// The memory.
    pub buffer: &'a B,
    /// First element.
    pub offset: usize,
}

/// A place in device memory to write to.
#[derive(Debug)]
pub struct ViewMut<'a, B> {
    /// The memory.
    pub buffer: &'a mut B,
    /// First element.
    pub offset: usize,
}

impl<B> Clone for View<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for View<'_, B> {}

/// Reads from `offset` on.
pub fn at<B>(buffer: &B, offset: usize) -> View<'_, B> {
    View { buffer, offset }
}

/// Writes from `offset` on.
pub fn at_mut<B>(buffer: &mut B, offset: usize) -> ViewMut<'_, B> {
    ViewMut { buffer, offset }
}

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
fn extent(rows: usize, width: usize, stride: usize) -> usize {
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
    fn extent(&self) -> usize {
        extent(self.rows, self.parts * self.width, self.stride)
    }
}

/// Rotations of the heads of rows (Su et al., "RoFormer"; halves as in transformers' `rotate_half`).
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
}

/// What the gates of a feed-forward layer go through (Shazeer, "GLU variants improve transformer").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`, torch's `gelu` with `approximate="tanh"`.
    GeluTanh,
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

/// How weights are packed, as bitsandbytes does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packing {
    /// Four bits: the quantiles of a normal distribution (Dettmers et al., "QLoRA").
    Nf4,
    /// Four bits: a sign, two bits of exponent, one of fraction.
    Fp4,
    /// Eight bits, linear from the largest of a row to its negative (Dettmers et al., "LLM.int8()").
    Int8,
}

impl Packing {
    /// Elements that share a scale, of four bits; of [`Self::Int8`] a row does.
    pub const BLOCK: usize = 64;
    /// Scales that share a scale of their own where they are packed too.
    pub const NESTED_BLOCK: usize = 256;

    /// Words of 32 bits that `elements` take.
    pub fn words(self, elements: usize) -> usize {
        match self {
            Self::Nf4 | Self::Fp4 => elements.div_ceil(8),
            Self::Int8 => elements.div_ceil(4),
        }
    }

    /// Scales of a matrix.
    pub fn scales(self, rows: usize, columns: usize) -> usize {
        match self {
            Self::Nf4 | Self::Fp4 => (rows * columns).div_ceil(Self::BLOCK),
            Self::Int8 => rows,
        }
    }

    /// What the codes of four bits stand for, between -1 and 1.
    pub fn values(self) -> [f32; 16] {
        match self {
            Self::Nf4 | Self::Int8 => NF4,
            Self::Fp4 => FP4.map(|value| value / 12.0),
        }
    }
}

/// The quantiles of `create_normal_map` of bitsandbytes.
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Values by their bits, times twelve.
const FP4: [f32; 16] = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0, -0.0, -0.0625, -8.0, -12.0, -4.0, -6.0, -2.0, -3.0];

/// What the codes of scales stand for, where they are packed too: 256 values between -1 and 1, ascending, dense near zero
/// (Dettmers, "8-bit approximations for parallelism in deep learning"; `create_dynamic_map` of bitsandbytes).
pub fn scale_values() -> &'static [f32; 256] {
    static VALUES: std::sync::OnceLock<[f32; 256]> = std::sync::OnceLock::new();
    VALUES.get_or_init(|| {
        const EXPONENTS: i32 = 7;
        let mut values = vec![0.0, 1.0];
        for exponent in 0..EXPONENTS {
            let (steps, unit) = (1_usize << exponent, 10.0_f64.powi(exponent + 1 - EXPONENTS) as f32);
            // `torch.linspace(0.1, 1, steps + 1)`, which goes from both ends and rounds once.
            let step = (1.0_f32 - 0.1) / steps as f32;
            let bound = |index: usize| {
                if index < steps.div_ceil(2) {
                    step.mul_add(index as f32, 0.1)
                } else {
                    (-step).mul_add((steps - index) as f32, 1.0)
                }
            };
            for index in 0..steps {
                let mean = unit * f32::midpoint(bound(index), bound(index + 1));
                values.extend([mean, -mean]);
            }
        }
        values.sort_unstable_by(f32::total_cmp);
        values.try_into().expect("254 values, zero and one")
    })
}

/// Packed weights, `[rows, columns]`, in a buffer of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// How.
    pub packing: Packing,
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub columns: usize,
    /// First word of the codes, element by element from the lowest byte; of four bits, the first of two has the upper half.
    pub codes: usize,
    /// First word of the scales: an f32 each, or a byte each where they are packed.
    pub scales: usize,
    /// Where they are: the word of the f32 that is added to all scales; behind it those of the blocks of scales.
    pub nested: Option<usize>,
}

impl Packed {
    /// Lays a matrix out from word `start` on; returns the word behind it too.
    pub fn new(packing: Packing, [rows, columns]: [usize; 2], is_nested: bool, start: usize) -> (Self, usize) {
        let scales = start + packing.words(rows * columns);
        let count = packing.scales(rows, columns);
        if !is_nested {
            return (Self { packing, rows, columns, codes: start, scales, nested: None }, scales + count);
        }
        let nested = scales + count.div_ceil(4);
        let end = nested + 1 + count.div_ceil(Packing::NESTED_BLOCK);
        (Self { packing, rows, columns, codes: start, scales, nested: Some(nested) }, end)
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// True for a matrix without elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A stretch of trained weights with one rule of decay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First element in the weight arena.
    pub parameter: usize,
    /// First element in the gradient arena.
    pub gradient: usize,
    /// Elements.
    pub len: usize,
    /// Weight decay applies.
    pub decays: bool,
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
    pub exact: Option<&'a mut B>,
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
    /// Factor of the gradients (not of the loss).
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
    /// What the rows are to say.
    pub targets: Option<Targets<'a>>,
    /// The rows' places in a cache.
    pub cached: Option<Cached<'a>>,
    /// Random bits of the pass: no two passes of a run drop the same elements.
    pub dropout: u64,
}

/// What a device added up; see [`Kernels::totals`].
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
    /// Stretches of work that were launched as one graph; see [`Kernels::repeat`].
    pub graph_launches: u64,
    /// What was used beside this trainer's own kernels and what was not, with the reasons.
    pub remarks: Vec<String>,
}

/// Where the gradients of a fused projection and cross-entropy go.
#[derive(Debug)]
pub struct LossGradients<'a, B> {
    /// Gradient of the input, `[n, h]`, overwritten.
    pub dx: ViewMut<'a, B>,
    /// Gradient of the weight, `[v, h]`, exact, and the factor of what it held; none for a frozen weight.
    pub dw: Option<(ViewMut<'a, B>, f32)>,
    /// Elements of the buffer of `dw`, outside of it, whose contents nobody needs: room for logits.
    pub idle: Range<usize>,
}

/// The operations of a device.
pub trait Kernels: Send + Sync {
    /// Device memory.
    type Buffer: Send + Sync + std::fmt::Debug;
    /// The rows of a pass, where the device reads them.
    type Staged: Send + Sync + std::fmt::Debug;
    /// Sums that stay on the device until they are asked for.
    type Tally: Send + Sync + std::fmt::Debug;
    /// Segments, where the device reads them.
    type Segments: Send + Sync + std::fmt::Debug;
    /// Stretches of work that the device keeps, to do them again; see [`Self::repeat`].
    type Repeats: Default + Send + Sync + std::fmt::Debug;

    /// Runs a stretch of work where its operations start fastest; on the CPU, on a thread of the pool that they use.
    fn within<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        work()
    }

    /// What [`Format::Working`] is.
    fn precision(&self) -> Precision {
        Precision::F32
    }

    /// What it was used for; none for the CPU.
    fn usage(&self) -> Option<Usage> {
        None
    }

    /// Rows that a pass over `rows` takes. Where products are fast in some sizes only, it is more; the rows beyond are a
    /// document of their own, without targets.
    fn padded(&self, rows: usize) -> usize {
        rows
    }

    /// Makes ready for a model, before any memory is asked for.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] where the device cannot run it.
    fn prepare(&self, _demands: Demands) -> Result<(), DeviceError> {
        Ok(())
    }

    /// What has gone wrong, memory that could not be had first of all.
    ///
    /// # Errors
    /// [`DeviceError`], the same one from then on.
    fn check(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Memory of `len` zeros.
    fn alloc(&self, format: Format, len: usize) -> Self::Buffer;
    /// Bytes of a buffer.
    fn bytes(&self, buffer: &Self::Buffer) -> u64;
    /// Copies from the host, rounding to the format of the buffer.
    fn upload(&self, source: &[f32], target: ViewMut<'_, Self::Buffer>);
    /// Copies words of 32 bits as they are into an exact buffer.
    fn put_words(&self, source: &[u32], target: ViewMut<'_, Self::Buffer>);
    /// Weights from words that [`Self::put_words`] has put, `[rows, columns]`, from the start of `words` on.
    fn unpack(&self, packed: Packed, words: &Self::Buffer, out: ViewMut<'_, Self::Buffer>);
    /// Copies to the host, after all that was asked for before.
    fn download(&self, source: View<'_, Self::Buffer>, target: &mut [f32]);
    /// Copies `len` elements between buffers of one format.
    fn copy(&self, len: usize, source: View<'_, Self::Buffer>, target: ViewMut<'_, Self::Buffer>);
    /// Sets `len` elements to zero.
    fn zero(&self, len: usize, target: ViewMut<'_, Self::Buffer>);

    /// Puts the rows of a pass where the device reads them, in the room of earlier rows where there is some.
    fn stage(&self, rows: Rows<'_>, staged: &mut Option<Self::Staged>);

    /// Does `work`, which asks for operations of `rows` and for nothing else: with the same buffers and numbers whenever
    /// `same` is the same. A device may keep what rows of some layout come to and do that the next time, without `work`.
    /// The buffers must live as long as `repeats`.
    fn repeat(&self, _repeats: &mut Self::Repeats, _rows: &Self::Staged, _same: u64, mut work: impl FnMut()) {
        work();
    }

    /// Sums of zero.
    fn tally(&self) -> Self::Tally;
    /// Sets the sums to zero.
    fn clear(&self, tally: &mut Self::Tally);
    /// The sums, after all that was asked for before.
    fn totals(&self, tally: &Self::Tally) -> Totals;

    /// Matrix product; see [`Gemm`]. `A` and `B` are of one format, `C` of that or exact.
    fn gemm(&self, gemm: Gemm, a: View<'_, Self::Buffer>, b: View<'_, Self::Buffer>, c: ViewMut<'_, Self::Buffer>);

    /// Matrix product onto another matrix of one shape: `C = alpha * op(A) * op(B) + beta * D`, rows of `D` and `C` alike.
    fn gemm_onto(
        &self,
        gemm: Gemm,
        a: View<'_, Self::Buffer>,
        b: View<'_, Self::Buffer>,
        d: View<'_, Self::Buffer>,
        c: ViewMut<'_, Self::Buffer>,
    ) {
        let ViewMut { buffer, offset } = c;
        self.copy(gemm.m * gemm.ldc, d, at_mut(buffer, offset));
        self.gemm(gemm, a, b, at_mut(buffer, offset));
    }

    /// Rows of `table [v, h]` by the rows' ids into `out [n, h]`.
    fn embed(&self, h: usize, rows: &Self::Staged, table: View<'_, Self::Buffer>, out: ViewMut<'_, Self::Buffer>);
    /// Adds row `i` of `dy [n, h]` to row `ids[i]` of `dtable` (exact), in order.
    fn embed_backward(
        &self,
        h: usize,
        rows: &Self::Staged,
        dy: View<'_, Self::Buffer>,
        dtable: ViewMut<'_, Self::Buffer>,
    );

    /// Multiplies `len` elements by a factor.
    fn scale(&self, len: usize, factor: f32, x: ViewMut<'_, Self::Buffer>);
    /// Copies the first `width` elements of `rows` rows, `stride` apart in both buffers, which are of one format.
    fn copy_columns(
        &self,
        rows: usize,
        width: usize,
        stride: usize,
        source: View<'_, Self::Buffer>,
        target: ViewMut<'_, Self::Buffer>,
    );

    /// See [`Norm`]; with `residual`, `y` is the sum of both. Keeps `r [rows * parts]`, exact.
    fn rmsnorm(
        &self,
        norm: Norm,
        x: View<'_, Self::Buffer>,
        w: View<'_, Self::Buffer>,
        residual: Option<View<'_, Self::Buffer>>,
        y: ViewMut<'_, Self::Buffer>,
        r: ViewMut<'_, Self::Buffer>,
    );
    /// The same from a kept `r`, without a residual.
    fn rmsnorm_again(
        &self,
        norm: Norm,
        x: View<'_, Self::Buffer>,
        w: View<'_, Self::Buffer>,
        r: View<'_, Self::Buffer>,
        y: ViewMut<'_, Self::Buffer>,
    );
    /// Adds the gradient of the input to `dx`; without `dy`, `dx` holds that of the output, whose place it takes. Puts that of
    /// the weight into `dw` (exact), over `beta` times what it held.
    fn rmsnorm_backward(
        &self,
        norm: Norm,
        x: View<'_, Self::Buffer>,
        w: View<'_, Self::Buffer>,
        r: View<'_, Self::Buffer>,
        dy: Option<View<'_, Self::Buffer>>,
        dx: ViewMut<'_, Self::Buffer>,
        dw: Option<(ViewMut<'_, Self::Buffer>, f32)>,
    );

    /// Rotates heads in place; see [`Rotation`] and [`Rows::positions`]. `table` (exact) holds per position `rotary_dim / 2`
    /// cosines, then as many sines. `backward` turns the other way.
    fn rope(
        &self,
        rotation: Rotation,
        rows: &Self::Staged,
        table: View<'_, Self::Buffer>,
        backward: bool,
        x: ViewMut<'_, Self::Buffer>,
    );

    /// Causal attention inside each document; with a window, a row sees itself and the `window - 1` rows before it.
    /// `qkv [n, packed]` in, `out [n, output]` and the log-sum-exp of each row's scores `lse [n, heads]` (exact) out.
    fn attention(
        &self,
        shape: AttentionShape,
        window: Option<usize>,
        rows: &Self::Staged,
        qkv: View<'_, Self::Buffer>,
        out: ViewMut<'_, Self::Buffer>,
        lse: ViewMut<'_, Self::Buffer>,
    );
    /// Gradient of the packed rows, overwritten (Dao et al., "FlashAttention", algorithm 4, by blocks of queries).
    fn attention_backward(
        &self,
        shape: AttentionShape,
        window: Option<usize>,
        rows: &Self::Staged,
        qkv: View<'_, Self::Buffer>,
        out: View<'_, Self::Buffer>,
        lse: View<'_, Self::Buffer>,
        dout: View<'_, Self::Buffer>,
        dqkv: ViewMut<'_, Self::Buffer>,
    );
    /// Puts the keys and values of `qkv [b, packed]` where the rows stand in a cache (`lens[i] - 1` of slot `slots[i]`).
    /// `keys` and `values` are `[slots, capacity, kv_heads * head_dim]`.
    fn append(
        &self,
        shape: AttentionShape,
        rows: &Self::Staged,
        capacity: usize,
        qkv: View<'_, Self::Buffer>,
        keys: ViewMut<'_, Self::Buffer>,
        values: ViewMut<'_, Self::Buffer>,
    );
    /// One query per sequence against its cache: row `i` reads the first `lens[i]` entries of slot `slots[i]`, or with a window
    /// the last of these.
    fn attention_cached(
        &self,
        shape: AttentionShape,
        window: Option<usize>,
        rows: &Self::Staged,
        capacity: usize,
        qkv: View<'_, Self::Buffer>,
        keys: View<'_, Self::Buffer>,
        values: View<'_, Self::Buffer>,
        out: ViewMut<'_, Self::Buffer>,
    );

    /// `a = act(g) * u` from `gu [n, 2 * ffn]` (gates, then ups).
    fn glu(
        &self,
        activation: Activation,
        n: usize,
        ffn: usize,
        gu: View<'_, Self::Buffer>,
        a: ViewMut<'_, Self::Buffer>,
    );
    /// Replaces `gu` by its gradient, given that of `a`.
    fn glu_backward(
        &self,
        activation: Activation,
        n: usize,
        ffn: usize,
        da: View<'_, Self::Buffer>,
        gu: ViewMut<'_, Self::Buffer>,
    );

    /// `y = x * mask / (1 - p)`, or with `add`, `y +=` that.
    fn dropout(
        &self,
        rows: &Self::Staged,
        len: usize,
        key: DropoutKey,
        add: bool,
        x: View<'_, Self::Buffer>,
        y: ViewMut<'_, Self::Buffer>,
    );

    /// Projection by `w [vocabulary, width]` and cross-entropy of `x [n, width]` with the rows' targets, never holding more than a chunk of
    /// the logits. Adds the weighted sum of the losses to the tally.
    fn linear_cross_entropy(
        &self,
        head: Head,
        rows: &Self::Staged,
        x: View<'_, Self::Buffer>,
        w: View<'_, Self::Buffer>,
        gradients: Option<LossGradients<'_, Self::Buffer>>,
        tally: &mut Self::Tally,
    );

    /// Puts the sum of squares of `len` exact elements into the tally: in f64, in an order that does not depend on threads.
    fn sum_of_squares(&self, len: usize, x: View<'_, Self::Buffer>, tally: &mut Self::Tally);
    /// Makes the factor that keeps gradients with the tally's squares within `max_norm`, as torch's `clip_grad_norm_` does.
    fn clip(&self, max_norm: Option<f64>, tally: &mut Self::Tally);
    /// Puts segments where the device reads them.
    fn segments(&self, segments: &[Segment]) -> Self::Segments;
    /// One optimizer step of all segments, the gradients times the tally's factor. Nothing is changed where the tally's
    /// squares are not finite.
    fn adamw(&self, step: AdamStep, segments: &Self::Segments, tally: &Self::Tally, state: AdamState<'_, Self::Buffer>);
}
