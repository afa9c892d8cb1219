//! The operations of a GPU: which kernels with which sizes. What each kernel takes is said in its source.

mod experts;
mod memory;
mod optimizer;
mod queue;
mod tensor;
