//! An NVIDIA GPU. The driver, the compiler and the matrix library are found and opened at run time; nothing of CUDA is
//! linked. Kernels are in `source`, compiled for the device at hand.
//!
//! One stream, and no waiting but where numbers go back to the host. Nothing in it depends on timing: the same inputs on
//! the same device give the same bits.

mod attention;
mod blas;
mod compile;
mod cudnn;
mod device;
mod driver;
mod graphs;
pub mod library;
mod modules;
pub mod nvml;
mod ops;
pub(super) mod plan;
mod rows;
mod state;
mod symbols;
pub mod system;

pub(super) use blas::WORKSPACE;
pub use device::{CudaBuffer, CudaKernels};
pub use graphs::CudaGraphs;
pub use rows::CudaRows;
pub use state::{CudaAccumulator, CudaSegments};

/// What a model of experts is refused with.
pub(super) fn no_experts(device: String) -> crate::DeviceError {
    let reason = "it has no layers of experts; models that have them are trained on the CPU".to_owned();
    crate::DeviceError::Unsupported { device, reason }
}
