//! What a device must be able to do ([`ops`]), and the devices that do it: [`cpu`], [`cuda`], and [`counting`], which only
//! adds up what would be needed. Matrices are row-major; `[n, h]` has `n` rows of `h`.

pub mod buffer;
pub mod counting;
pub mod cpu;
pub mod cuda;
mod error;
mod operands;
pub mod ops;
mod packing;
pub mod rng;

pub use buffer::{Format, Precision, View, ViewMut, at, at_mut};
pub use error::DeviceError;
pub use operands::{
    ALONE, Activation, AdamState, AdamStep, Attended, AttentionShape, CACHE_BLOCK, Cache, CacheMut, Cached, Combine,
    Demands, DropoutKey, ExpertColumns, ExpertProduct, ExpertWeights, Gemm, Head, IGNORE, LayerAttention,
    LossGradients, Norm, Normed, Rotation, Routing, Rows, Scaled, Segment, Targets, Totals, Usage, XieluGradients,
};
pub use ops::{ExpertOps, Kernels, Memory, OptimizerOps, Queue, TensorOps};
pub use packing::{Packed, Packing, scale_values};
