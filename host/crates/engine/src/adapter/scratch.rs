//! What adapters work in.

use crate::kernels::{Format, Kernels};

/// Memory that adapters work in, one after the other.
#[derive(Debug)]
pub struct AdapterScratch<B> {
    /// Gradients of `A(x)`, `[n, width]`.
    pub small: B,
    /// Inputs with dropout, `[n, widest input]`; empty without dropout.
    pub dropped: B,
    /// Gradients of the input before the mask of dropout, like `dropped`.
    pub spread: B,
}

impl<B> AdapterScratch<B> {
    /// For `n` tokens, adapters of so many columns (`Lora::width`), and inputs of so many elements with dropout.
    pub fn alloc<K: Kernels<Buffer = B>>(kernels: &K, n: usize, width: usize, dropped: usize) -> Self {
        let working = |len| kernels.alloc(Format::Working, len);
        Self { small: working(n * width), dropped: working(n * dropped), spread: working(n * dropped) }
    }

    /// Its buffers.
    pub fn buffers(&self) -> impl Iterator<Item = &B> {
        [&self.small, &self.dropped, &self.spread].into_iter()
    }
}
