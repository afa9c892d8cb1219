//! Memory of a device.

use crate::buffer::{Format, View, ViewMut};

/// Memory of a device. Copies are queued like operations.
pub trait Memory: Send + Sync {
    /// Device memory.
    type Buffer: Send + Sync + std::fmt::Debug;

    /// Memory of `len` zeros.
    fn alloc(&self, format: Format, len: usize) -> Self::Buffer;

    /// Bytes of a buffer.
    fn bytes(&self, buffer: &Self::Buffer) -> u64;

    /// Copies from the host, rounding to the format of the buffer.
    fn upload(&self, source: &[f32], target: ViewMut<'_, Self::Buffer>);

    /// Copies words of 32 bits as they are into an f32 buffer.
    fn put_words(&self, source: &[u32], target: ViewMut<'_, Self::Buffer>);

    /// Copies to the host, after all that was asked for before.
    fn download(&self, source: View<'_, Self::Buffer>, target: &mut [f32]);

    /// Copies `len` elements between buffers of one format.
    fn copy(&self, len: usize, source: View<'_, Self::Buffer>, target: ViewMut<'_, Self::Buffer>);

    /// Copies `len` elements from one place of a buffer to another, which do not overlap.
    fn copy_within(&self, len: usize, buffer: &mut Self::Buffer, source: usize, target: usize);

    /// Sets `len` elements to zero.
    fn zero(&self, len: usize, target: ViewMut<'_, Self::Buffer>);
}
