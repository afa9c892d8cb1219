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
mod operands;
mod packing;
pub mod rng;

pub use error::DeviceError;
use operands::extent;
pub use operands::{
    Activation, AdamState, AdamStep, AttentionShape, Cached, Demands, DropoutKey, Gemm, Head, LossGradients, Norm,
    Rotation, Rows, Scaled, Segment, Targets, Totals, Usage,
};
pub use packing::{Packed, Packing, scale_values};

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

    /// Gives rows that were staged with weights of their targets others, one a row, and another factor of the gradients.
    fn weigh(&self, weights: &[f32], scale: f32, rows: &mut Self::Staged);

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

    /// Lengths of the rows of `w + added`, `[rows, width]` both, into `norms [rows]`; `added` and `norms` are exact.
    fn row_norms(
        &self,
        rows: usize,
        width: usize,
        w: View<'_, Self::Buffer>,
        added: View<'_, Self::Buffer>,
        norms: ViewMut<'_, Self::Buffer>,
    );
    /// `y += alpha * z * m / norms`, column by column, or `y = ` that where `beta` is 0; `beta` is 0 or 1. Without `factors`
    /// `(m, norms)`, exact, these are 1. A column of length 0 gets 0.
    fn add_scaled(
        &self,
        scaled: Scaled,
        factors: Option<(View<'_, Self::Buffer>, View<'_, Self::Buffer>)>,
        z: View<'_, Self::Buffer>,
        beta: f32,
        y: ViewMut<'_, Self::Buffer>,
    );
    /// From the `z` of [`Self::add_scaled`] and the gradient of its `y`: puts the gradient of `m` into `dm` (exact), over
    /// `beta` times what it held, and `dy * m / norms`, which is not times `alpha`, into the place of `z`.
    fn add_scaled_backward(
        &self,
        scaled: Scaled,
        factors: (View<'_, Self::Buffer>, View<'_, Self::Buffer>),
        dy: View<'_, Self::Buffer>,
        z: ViewMut<'_, Self::Buffer>,
        dm: (ViewMut<'_, Self::Buffer>, f32),
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

    /// Projection of `x [n, width]` by `w [vocabulary, width]`, never holding more than a chunk of the logits: the
    /// log-probability of each row's target into `log_probs [n]` (exact), 0 for a row without a target; and the gradients of
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
    /// Adds the loss to the tally: the sum over the rows' targets of weight times negative log-probability.
    fn add_loss(&self, rows: &Self::Staged, log_probs: View<'_, Self::Buffer>, tally: &mut Self::Tally);

    /// Adds the sum of squares of `len` exact elements to the tally: in f64, in an order that does not depend on threads.
    fn sum_of_squares(&self, len: usize, x: View<'_, Self::Buffer>, tally: &mut Self::Tally);
    /// Makes the factor that keeps gradients with the tally's squares within `max_norm`, as torch's `clip_grad_norm_` does.
    fn clip(&self, max_norm: Option<f64>, tally: &mut Self::Tally);
    /// Puts segments where the device reads them.
    fn segments(&self, segments: &[Segment]) -> Self::Segments;
    /// One optimizer step of all segments, the gradients times the tally's factor. Nothing is changed where the tally's
    /// squares are not finite.
    fn adamw(&self, step: AdamStep, segments: &Self::Segments, tally: &Self::Tally, state: AdamState<'_, Self::Buffer>);
}
