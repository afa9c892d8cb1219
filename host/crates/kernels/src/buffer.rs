//! Device memory as the scheduler of operations sees it: a buffer and an offset, in one of two formats.

/// What the elements of a buffer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The device's working precision ([`crate::Queue::precision`]): activations, and the weights that products read.
    Working,
    /// f32 on every device: gradients, moments, weights that are trained, whatever is summed.
    F32,
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
