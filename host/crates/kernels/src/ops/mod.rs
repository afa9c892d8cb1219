//! What a device must be able to do, in five parts.
//!
//! Sizes are the caller's; an implementation checks them against its buffers. Operations may be queued: they happen in the
//! order in which they are asked for, and the host waits only in `download` and `totals`. What went wrong in between is
//! kept, nothing that follows is done, and [`Queue::check`] tells.

pub mod experts;
pub mod memory;
pub mod optimizer;
pub mod queue;
pub mod tensor;

pub use experts::ExpertOps;
pub use memory::Memory;
pub use optimizer::OptimizerOps;
pub use queue::Queue;
pub use tensor::TensorOps;

/// A device that models are trained on.
pub trait Kernels: ExpertOps + OptimizerOps {}

impl<K: ExpertOps + OptimizerOps> Kernels for K {}
