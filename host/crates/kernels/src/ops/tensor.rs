//! Operations of the model.

use super::queue::Queue;
use crate::buffer::{View, ViewMut, at_mut};
use crate::operands::{
    Activation, Attended, AttentionShape, Cache, CacheMut, DropoutKey, Gemm, Head, LayerAttention, LossGradients, Norm,
    Normed, Rotation, Scaled, XieluGradients,
};
use crate::packing::Packed;

/// Operations of the model, forward and backward.
pub trait TensorOps: Queue {
    /// See [`Self::compact`].
    type Compact: Send + Sync + std::fmt::Debug;

    /// Weights from words that [`put_words`](crate::Memory::put_words) has put, `[rows, columns]`, from the start of `words` on.
    fn unpack(&self, packed: Packed, words: &Self::Buffer, out: ViewMut<'_, Self::Buffer>);

    /// Matrix product; see [`Gemm`]. `A` and `B` are of one format, `C` of that or f32.
    fn gemm(&self, gemm: Gemm, a: View<'_, Self::Buffer>, b: View<'_, Self::Buffer>, c: ViewMut<'_, Self::Buffer>);

    /// Some matrices of a buffer in a form that products of few rows read faster, each by its first element and its rows and
    /// columns; none where there is no such form that has the same values. What is written to the buffer later is not in it.
    fn compact(&self, _buffer: &Self::Buffer, _matrices: &[(usize, [usize; 2])]) -> Option<Self::Compact> {
        None
    }

    /// [`Self::gemm`] with `B` stored `[n, k]`, whose values `compact` has too: the same bits.
    fn gemm_compact(
        &self,
        gemm: Gemm,
        a: View<'_, Self::Buffer>,
        b: View<'_, Self::Buffer>,
        compact: &Self::Compact,
        c: ViewMut<'_, Self::Buffer>,
    );

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

    /// Adds noise to `x [n, h]`: to each element of row `i` a number that is uniform within `-noise[i]..noise[i]`, where the rows
    /// were staged with some. Word `i` of the stream, with the bits of the pass, decides on element `i`.
    fn noise(&self, h: usize, rows: &Self::Staged, seed: u64, stream: u64, x: ViewMut<'_, Self::Buffer>);

    /// Adds row `i` of `dy [n, h]` to row `ids[i]` of `dtable` (f32), in order.
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

    /// See [`Norm`]; with `residual`, `y` is the sum of both. Keeps `r [rows * parts]`, f32.
    fn rmsnorm(
        &self,
        norm: Norm,
        x: View<'_, Self::Buffer>,
        w: View<'_, Self::Buffer>,
        residual: Option<View<'_, Self::Buffer>>,
        y: ViewMut<'_, Self::Buffer>,
        r: ViewMut<'_, Self::Buffer>,
    );

    /// The same from kept roots, without a residual.
    fn rmsnorm_again(&self, norm: Norm, normed: Normed<'_, Self::Buffer>, y: ViewMut<'_, Self::Buffer>);

    /// Adds the gradient of the input to `dx`; without `dy`, `dx` holds that of the output, whose place it takes. Puts that of
    /// the weight into `dw` (f32), over `beta` times what it held.
    fn rmsnorm_backward(
        &self,
        norm: Norm,
        normed: Normed<'_, Self::Buffer>,
        dy: Option<View<'_, Self::Buffer>>,
        dx: ViewMut<'_, Self::Buffer>,
        dw: Option<(ViewMut<'_, Self::Buffer>, f32)>,
    );

    /// Lengths of the rows of `w + added`, `[rows, width]` both, into `norms [rows]`; `added` and `norms` are f32.
    fn row_norms(
        &self,
        rows: usize,
        width: usize,
        w: View<'_, Self::Buffer>,
        added: View<'_, Self::Buffer>,
        norms: ViewMut<'_, Self::Buffer>,
    );

    /// `y += alpha * z * m / norms`, column by column, or `y = ` that where `beta` is 0; `beta` is 0 or 1. Without `factors`
    /// `(m, norms)`, f32, these are 1. A column of length 0 gets 0.
    fn add_scaled(
        &self,
        scaled: Scaled,
        factors: Option<(View<'_, Self::Buffer>, View<'_, Self::Buffer>)>,
        z: View<'_, Self::Buffer>,
        beta: f32,
        y: ViewMut<'_, Self::Buffer>,
    );

    /// From the `z` of [`Self::add_scaled`] and the gradient of its `y`: puts the gradient of `m` into `dm` (f32), over
    /// `beta` times what it held, and `dy * m / norms`, which is not times `alpha`, into the place of `z`.
    fn add_scaled_backward(
        &self,
        scaled: Scaled,
        factors: (View<'_, Self::Buffer>, View<'_, Self::Buffer>),
        dy: View<'_, Self::Buffer>,
        z: ViewMut<'_, Self::Buffer>,
        dm: (ViewMut<'_, Self::Buffer>, f32),
    );

    /// Rotates heads in place; see [`Rotation`] and [`Rows::positions`](crate::Rows::positions). `table` (f32) holds per
    /// position `rotary_dim / 2` cosines, then as many sines. `backward` turns the other way.
    fn rope(
        &self,
        rotation: Rotation,
        rows: &Self::Staged,
        table: View<'_, Self::Buffer>,
        backward: bool,
        x: ViewMut<'_, Self::Buffer>,
    );

    /// See [`LayerAttention`]: `qkv [n, packed]` in, `out [n, output]` and the log-sum-exp of each row's scores `lse [n,
    /// heads]` (f32) out.
    fn attention(
        &self,
        attention: LayerAttention,
        rows: &Self::Staged,
        qkv: View<'_, Self::Buffer>,
        out: ViewMut<'_, Self::Buffer>,
        lse: ViewMut<'_, Self::Buffer>,
    );

    /// Gradient of the packed rows, overwritten (Dao et al., "FlashAttention", algorithm 4, by blocks of queries).
    fn attention_backward(
        &self,
        attention: LayerAttention,
        rows: &Self::Staged,
        attended: Attended<'_, Self::Buffer>,
        dout: View<'_, Self::Buffer>,
        dqkv: ViewMut<'_, Self::Buffer>,
    );

    /// Puts the keys and values of `qkv [b, packed]` where the rows stand in a cache (`lens[i] - 1` of slot `slots[i]`).
    fn append(
        &self,
        shape: AttentionShape,
        rows: &Self::Staged,
        qkv: View<'_, Self::Buffer>,
        cache: CacheMut<'_, Self::Buffer>,
    );

    /// One query per sequence against its cache: row `i` reads the first `lens[i]` entries of slot `slots[i]`, or with a window
    /// the last of these.
    fn attention_cached(
        &self,
        attention: LayerAttention,
        rows: &Self::Staged,
        qkv: View<'_, Self::Buffer>,
        cache: Cache<'_, Self::Buffer>,
        out: ViewMut<'_, Self::Buffer>,
    );

    /// `a = act(g) * u` from `gu [n, 2 * ffn]` (gates, then ups), or `a = act(u)` from `gu [n, ffn]` where the activation has no
    /// gates.
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

    /// `a = xielu(u)`, `[n, ffn]` both (Huang and Schlag, "Deriving activation functions using integration"): `p x^2 + beta x`
    /// above zero and `(beta + q) (e^min(x, eps) - 1 - x) + beta x` below, where `weights` are two of which softplus makes `p`
    /// and `q`, then `beta` and `eps`.
    fn xielu(
        &self,
        n: usize,
        ffn: usize,
        weights: View<'_, Self::Buffer>,
        u: View<'_, Self::Buffer>,
        a: ViewMut<'_, Self::Buffer>,
    );

    /// Replaces `u` by its gradient, given that of `a`, and puts the gradients of the first two weights where they go.
    fn xielu_backward(
        &self,
        n: usize,
        ffn: usize,
        weights: View<'_, Self::Buffer>,
        da: View<'_, Self::Buffer>,
        u: ViewMut<'_, Self::Buffer>,
        dw: XieluGradients<'_, Self::Buffer>,
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

    /// Projection of `x [n, width]` by `w [vocabulary, width]`, never holding more than a chunk of the logits: the
    /// log-probability of each row's target into `log_probs [n]` (f32), 0 for a row without a target; and the gradients of
    /// the loss that [`Self::add_loss`] sums.
    fn linear_log_probs(
        &self,
        head: Head,
        rows: &Self::Staged,
        x: View<'_, Self::Buffer>,
        w: View<'_, Self::Buffer>,
        log_probs: ViewMut<'_, Self::Buffer>,
        gradients: Option<LossGradients<'_, Self::Buffer>>,
    );

    /// Adds the loss to the accumulator: the sum over the rows' targets of weight times negative log-probability.
    fn add_loss(&self, rows: &Self::Staged, log_probs: View<'_, Self::Buffer>, accumulator: &mut Self::Accumulator);
}
