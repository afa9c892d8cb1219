//! The trained lengths of DoRA, and those that rows have: where they lie.

use crate::architecture::config::ModelConfig;
use crate::kernels::{Format, Kernels};

/// Elements of `s B A` that are there at once.
pub(super) const CHUNK: usize = 1 << 22;

/// How the name of a tensor of lengths ends.
pub(super) const MAGNITUDE: &str = "lora_magnitude_vector";

/// Where the lengths of the rows of one adapted module lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Magnitude {
    /// Those that are trained: first element in the adapter's arena.
    pub m: usize,
    /// Those that the rows have: first element of the buffer of lengths.
    pub norm: usize,
}

/// The lengths of the rows of all adapted modules, and what measuring them takes.
#[derive(Debug)]
pub struct Lengths<B> {
    /// One per row, f32.
    pub(super) norms: B,
    /// A chunk of `s B A`, f32.
    pub(super) added: B,
    /// A projection's weights, unpacked; empty where none are packed.
    pub(super) unpacked: B,
    /// They are those of the adapter as it is.
    pub(super) is_current: bool,
}

impl<B> Lengths<B> {
    /// For `rows` rows in all.
    pub(super) fn alloc<K: Kernels<Buffer = B>>(kernels: &K, config: &ModelConfig, rows: usize) -> Self {
        let sizes = config.linears().map(|kind| kind.shape(config)).map(|(rows, columns)| (rows * columns, columns));
        let (largest, widest) = sizes.fold((0, 0), |most, size| (size.0.max(most.0), size.1.max(most.1)));
        let unpacked = if config.quantization.is_some() { largest } else { 0 };
        Self {
            norms: kernels.alloc(Format::F32, rows),
            added: kernels.alloc(Format::F32, largest.min(CHUNK).max(widest)),
            unpacked: kernels.alloc(Format::Working, unpacked),
            is_current: false,
        }
    }

    /// Its buffers.
    pub(crate) fn buffers(&self) -> impl Iterator<Item = &B> {
        [&self.norms, &self.added, &self.unpacked].into_iter()
    }

    /// The adapter is another one now.
    pub(super) fn outdate(&mut self) {
        self.is_current = false;
    }
}
