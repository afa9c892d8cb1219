//! Sizes of the room that operations use beside their operands. Pure functions, so that what is foreseen and what is taken
//! are the same.

use crate::{AttentionShape, Precision};

/// Documents of up to so many rows are left to this trainer's own attention: there is little to gain.
pub(super) const SHORT: usize = 256;
/// Bytes of room that documents which cuDNN computes together may take, unless one alone takes more.
const FUSED: usize = 512 << 20;
/// Most documents that cuDNN computes together.
const FUSED_DOCUMENTS: usize = 64;

/// Rows of a pass are a multiple of it: products are fast in such sizes, and few sizes are few to look up.
pub(crate) const ROWS: usize = 128;
/// Bytes that logits and their gradients may take.
const LOGITS: usize = 512 << 20;
/// Places in a room start at a multiple of it.
const ALIGNMENT: usize = 256;
/// Rows of one token that one thread adds up (`embedding.cu`).
pub(super) const PIECE: usize = 32;
/// Rows that a block of `rmsnorm_backward` has at least.
const NORM_ROWS: usize = 8;
/// Blocks of a reduction per multiprocessor.
const REDUCTION_BLOCKS: usize = 4;

/// Shares of the usual number of entries of a table by which the number grows.
const SHARES: usize = 8;

/// Entries of a table that has `count`, filled up with some that stand for nothing: passes that differ little have tables of
/// the same sizes then, and are repeated ([`crate::Queue::replay`]). `usual` is the fewest that a large pass has.
pub(super) fn filled(count: usize, usual: usize) -> usize {
    count.next_multiple_of((usual / SHARES).max(SHARES).next_power_of_two())
}

/// Rows that a pass over `rows` takes.
pub(crate) fn padded(rows: usize) -> usize {
    rows.next_multiple_of(ROWS)
}

/// Places one after another.
#[derive(Debug, Default)]
pub(super) struct Places {
    end: usize,
}

impl Places {
    /// A place of `bytes` bytes: how far from the start it is.
    pub(super) fn take(&mut self, bytes: usize) -> usize {
        let start = self.end.next_multiple_of(ALIGNMENT);
        self.end = start + bytes;
        start
    }

    /// Bytes that all places take.
    pub(super) fn bytes(&self) -> usize {
        self.end.next_multiple_of(ALIGNMENT)
    }
}

/// The room of the output projection: which rows are computed together and where their parts lie, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LossScratch {
    /// Rows with a target, filled up to a multiple of [`ROWS`].
    pub(super) rows: usize,
    /// Rows whose logits are there together.
    pub(super) chunk: usize,
    /// Some rows have no target: those that have are gathered.
    pub(super) gathers: bool,
    /// Elements from one row of logits to the next.
    pub(super) stride: usize,
    /// Logits `[chunk, v]`.
    pub(super) logits: usize,
    /// Gathered inputs `[rows, h]`.
    pub(super) inputs: usize,
    /// Gradients of the gathered inputs `[rows, h]`.
    pub(super) gradients: usize,
    /// All of it.
    pub(crate) bytes: usize,
}

impl LossScratch {
    /// For `n` rows of a pass, `targets` of which have one.
    pub(crate) fn new(n: usize, targets: usize, h: usize, v: usize, precision: Precision) -> Self {
        let gathers = padded(targets) < n;
        let rows = if gathers { padded(targets) } else { n };
        // Rows start where the widest loads can.
        let stride = v.next_multiple_of(8);
        let most = (LOGITS / (stride * precision.bytes()).max(1) / ROWS * ROWS).max(ROWS);
        // As even as multiples go.
        let chunk = padded(rows.div_ceil(rows.div_ceil(most).max(1)));
        let mut places = Places::default();
        let logits = places.take(chunk * stride * precision.bytes());
        let matrix = if gathers { rows * h * precision.bytes() } else { 0 };
        let (inputs, gradients) = (places.take(matrix), places.take(matrix));
        Self { rows, chunk, gathers, stride, logits, inputs, gradients, bytes: places.bytes() }
    }
}

/// Blocks that share the rows of a norm's backward pass, each with a sum of its own.
pub(super) fn norm_blocks(n: usize, h: usize, multiprocessors: usize) -> usize {
    let resident = multiprocessors * (512 / norm_threads(h)).clamp(1, 4);
    n.div_ceil(NORM_ROWS).clamp(1, resident)
}

/// Threads of a block of a norm's kernels.
pub(super) fn norm_threads(h: usize) -> usize {
    (h.div_ceil(32).next_multiple_of(32)).clamp(128, 512)
}

/// Bytes of the sums of a norm's backward pass.
pub(crate) fn norm_bytes(n: usize, h: usize, multiprocessors: usize) -> usize {
    norm_blocks(n, h, multiprocessors) * h * 4
}

/// Bytes of the sums of xIELU's backward pass: two a row.
pub(crate) fn xielu_bytes(n: usize) -> usize {
    2 * n * 4
}

/// Bytes of the sums of tokens that are frequent: a token of `count` rows, more than [`PIECE`], has
/// `ceil(count / PIECE)`.
pub(crate) fn embedding_bytes(n: usize, h: usize) -> usize {
    2 * n.div_ceil(PIECE) * h * 4
}

/// Bytes of the sums of attention's backward pass: one a row and head.
pub(crate) fn attention_bytes(n: usize, heads: usize) -> usize {
    n * heads * 4
}

/// How much cuDNN computes at once: some documents, each of up to some rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Group {
    /// Rows of the longest document that fits.
    pub(super) length: usize,
    /// Documents.
    pub(super) documents: usize,
}

/// Something of each pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Passes<T = bool> {
    pub(super) forward: T,
    pub(super) backward: T,
}

/// True for documents that may be cuDNN's: it is asked for attention without a cap that reaches the whole document.
pub(crate) fn is_fused(length: usize, shape: AttentionShape, window: Option<usize>) -> bool {
    shape.cap.is_none() && window.is_none_or(|window| length <= window)
}

/// The group in which cuDNN computes a document of so many rows; none for a short one. Lengths are powers of two, so that
/// there are few groups: each has graphs of its own, whose making takes seconds.
pub(crate) fn fused_group(length: usize, shape: AttentionShape) -> Option<Group> {
    if length <= SHORT {
        return None;
    }
    let length = length.next_power_of_two();
    let documents = FUSED / fused_bytes(Group { length, documents: 1 }, shape);
    let documents = documents.clamp(1, FUSED_DOCUMENTS);
    Some(Group { length, documents: 1 << documents.ilog2() })
}

/// Bytes of room that cuDNN's attention takes for a group at most. Its documentation has no formula: this is what 9.28 asks
/// for on Hopper for groups of 1 to 8 query heads to a key, and up to twice that for one. Plans that ask for more are not
/// used.
pub(crate) fn fused_bytes(group: Group, shape: AttentionShape) -> usize {
    let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
    let width = 3 * heads + heads * heads / kv_heads + 2 * kv_heads;
    4 * group.length * group.documents * head_dim * width + (2 << 20)
}

/// Blocks of a sum over a whole arena.
pub(super) fn reduction_blocks(multiprocessors: usize) -> usize {
    REDUCTION_BLOCKS * multiprocessors
}
