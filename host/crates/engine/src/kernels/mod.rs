//! What a device must be able to do. Everything is f32. Matrices are row-major; `[n, h]` has `n` rows of `h`.
//!
//! The schedule in [`crate::model`] sees device memory only through [`View`] and [`ViewMut`]: a buffer and an offset.
//! Sizes are the caller's; an implementation checks them against its buffers.

pub mod counting;
pub mod cpu;

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

/// Sizes of grouped-query attention over a packed row of `q_heads` queries, then `kv_heads` keys, then `kv_heads` values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Factor of the scores, `1 / sqrt(head_dim)`.
    pub scale: f32,
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

/// One AdamW step of a stretch of parameters (Loshchilov and Hutter, "Decoupled weight decay regularization", as torch
/// computes it).
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
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// `1 - beta1^t`.
    pub correction1: f32,
    /// `sqrt(1 - beta2^t)`.
    pub correction2_sqrt: f32,
    /// Factor of the gradient: below 1 when it is clipped.
    pub gradient_scale: f32,
}

/// Which mask a dropout uses; the same key gives the same mask in forward and backward.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DropoutKey {
    /// Of the run.
    pub seed: u64,
    /// One per place in the model and micro-batch.
    pub stream: u64,
    /// Share of elements that are dropped; the others grow by `1 / (1 - probability)`.
    pub probability: f32,
}

/// Targets of a fused projection and cross-entropy.
#[derive(Debug, Clone, Copy)]
pub struct Targets<'a> {
    /// Token per row, or [`crate::IGNORE`].
    pub tokens: &'a [u32],
    /// Weight per row; none means 1.
    pub weights: Option<&'a [f32]>,
    /// Factor of the gradients (not of the returned loss).
    pub scale: f32,
}

/// Where the gradients of a fused projection and cross-entropy go.
#[derive(Debug)]
pub struct LossGradients<'a, B> {
    /// Gradient of the input, `[n, h]`, overwritten.
    pub dx: ViewMut<'a, B>,
    /// Gradient of the weight, `[v, h]`, and the factor of what it held; none for a frozen weight.
    pub dw: Option<(ViewMut<'a, B>, f32)>,
    /// Elements of the buffer of `dw`, outside of it, whose contents nobody needs: room for logits.
    pub idle: std::ops::Range<usize>,
}

/// The operations of a device.
pub trait Kernels: Send + Sync {
    /// Device memory of f32.
    type Buffer: Send + Sync + std::fmt::Debug;

    /// Runs a stretch of work where its operations start fastest; on the CPU, on a thread of the pool that they use.
    fn within<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        work()
    }

    /// Memory of `len` zeros.
    fn alloc(&self, len: usize) -> Self::Buffer;
    /// Elements of a buffer.
    fn len(&self, buffer: &Self::Buffer) -> usize;
    /// Copies from the host.
    fn upload(&self, source: &[f32], target: ViewMut<'_, Self::Buffer>);
    /// Copies to the host.
    fn download(&self, source: View<'_, Self::Buffer>, target: &mut [f32]);
    /// Copies `len` elements.
    fn copy(&self, len: usize, source: View<'_, Self::Buffer>, target: ViewMut<'_, Self::Buffer>);
    /// Copies `rows` rows of `width` between matrices of different row lengths.
    fn copy_rows(
        &self,
        rows: usize,
        width: usize,
        source: View<'_, Self::Buffer>,
        source_stride: usize,
        target: ViewMut<'_, Self::Buffer>,
        target_stride: usize,
    );
    /// Sets `len` elements to zero.
    fn zero(&self, len: usize, target: ViewMut<'_, Self::Buffer>);

    /// Matrix product; see [`Gemm`].
    fn gemm(&self, gemm: Gemm, a: View<'_, Self::Buffer>, b: View<'_, Self::Buffer>, c: ViewMut<'_, Self::Buffer>);

    /// Rows `ids` of `table [v, h]` into `out [n, h]`.
    fn embed(&self, h: usize, ids: &[u32], table: View<'_, Self::Buffer>, out: ViewMut<'_, Self::Buffer>);
    /// Adds row `i` of `dy [n, h]` to row `ids[i]` of `dtable`, in order.
    fn embed_backward(&self, h: usize, ids: &[u32], dy: View<'_, Self::Buffer>, dtable: ViewMut<'_, Self::Buffer>);

    /// `y = x * r * w` with `r = 1 / sqrt(mean(x^2) + eps)` per row; keeps `r [n]` (Zhang and Sennrich, "Root mean square
    /// layer normalization").
    fn rmsnorm(
        &self,
        n: usize,
        h: usize,
        eps: f32,
        x: View<'_, Self::Buffer>,
        w: View<'_, Self::Buffer>,
        y: ViewMut<'_, Self::Buffer>,
        r: ViewMut<'_, Self::Buffer>,
    );
    /// The same from a kept `r`.
    fn rmsnorm_again(
        &self,
        n: usize,
        h: usize,
        x: View<'_, Self::Buffer>,
        w: View<'_, Self::Buffer>,
        r: View<'_, Self::Buffer>,
        y: ViewMut<'_, Self::Buffer>,
    );
    /// Adds the gradient of the input to `dx`; puts that of the weight into `dw`, over `beta` times what it held.
    fn rmsnorm_backward(
        &self,
        n: usize,
        h: usize,
        x: View<'_, Self::Buffer>,
        w: View<'_, Self::Buffer>,
        r: View<'_, Self::Buffer>,
        dy: View<'_, Self::Buffer>,
        dx: ViewMut<'_, Self::Buffer>,
        dw: Option<(ViewMut<'_, Self::Buffer>, f32)>,
    );

    /// Rotates the first `heads` heads of each row of `stride` elements (Su et al., "RoFormer"; halves as in transformers'
    /// `rotate_half`). `table` holds per position `head_dim / 2` cosines, then as many sines. `backward` turns the other way.
    fn rope(
        &self,
        heads: usize,
        head_dim: usize,
        stride: usize,
        positions: &[u32],
        table: View<'_, Self::Buffer>,
        backward: bool,
        x: ViewMut<'_, Self::Buffer>,
    );

    /// Causal attention inside each document. `qkv [n, packed]` in, `out [n, output]` and the log-sum-exp of each row's
    /// scores `lse [n, heads]` out.
    fn attention(
        &self,
        shape: AttentionShape,
        doc_lens: &[u32],
        qkv: View<'_, Self::Buffer>,
        out: ViewMut<'_, Self::Buffer>,
        lse: ViewMut<'_, Self::Buffer>,
    );
    /// Gradient of the packed rows, overwritten (Dao et al., "FlashAttention", algorithm 4, by blocks of queries).
    fn attention_backward(
        &self,
        shape: AttentionShape,
        doc_lens: &[u32],
        qkv: View<'_, Self::Buffer>,
        out: View<'_, Self::Buffer>,
        lse: View<'_, Self::Buffer>,
        dout: View<'_, Self::Buffer>,
        dqkv: ViewMut<'_, Self::Buffer>,
    );
    /// One query per sequence against its cache. `qkv [b, packed]`; `keys` and `values` are
    /// `[slots, capacity, kv_heads * head_dim]`; row `i` reads the first `lens[i]` entries of slot `slots[i]`.
    fn attention_cached(
        &self,
        shape: AttentionShape,
        slots: &[u32],
        lens: &[u32],
        capacity: usize,
        qkv: View<'_, Self::Buffer>,
        keys: View<'_, Self::Buffer>,
        values: View<'_, Self::Buffer>,
        out: ViewMut<'_, Self::Buffer>,
    );

    /// `a = silu(g) * u` from `gu [n, 2 * ffn]` (gates, then ups) (Shazeer, "GLU variants improve transformer").
    fn swiglu(&self, n: usize, ffn: usize, gu: View<'_, Self::Buffer>, a: ViewMut<'_, Self::Buffer>);
    /// Replaces `gu` by its gradient, given that of `a`.
    fn swiglu_backward(&self, n: usize, ffn: usize, da: View<'_, Self::Buffer>, gu: ViewMut<'_, Self::Buffer>);

    /// `y = x * mask / (1 - p)`, or with `add`, `y +=` that.
    fn dropout(&self, len: usize, key: DropoutKey, add: bool, x: View<'_, Self::Buffer>, y: ViewMut<'_, Self::Buffer>);

    /// Projection by `w [v, h]` and cross-entropy of `x [n, h]`, never holding more than a chunk of the logits. Returns
    /// the weighted sum of the losses in nats.
    fn linear_cross_entropy(
        &self,
        n: usize,
        h: usize,
        v: usize,
        x: View<'_, Self::Buffer>,
        w: View<'_, Self::Buffer>,
        targets: Targets<'_>,
        gradients: Option<LossGradients<'_, Self::Buffer>>,
    ) -> f64;

    /// Sum of squares of `len` elements, in f64, in an order that does not depend on threads.
    fn sum_of_squares(&self, len: usize, x: View<'_, Self::Buffer>) -> f64;
    /// One optimizer step of `len` parameters with gradient `g` and moments `m`, `v`.
    fn adamw(
        &self,
        len: usize,
        step: AdamStep,
        g: View<'_, Self::Buffer>,
        m: ViewMut<'_, Self::Buffer>,
        v: ViewMut<'_, Self::Buffer>,
        p: ViewMut<'_, Self::Buffer>,
    );
}
