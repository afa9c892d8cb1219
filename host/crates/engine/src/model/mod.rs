//! The model: its config, the arena that its weights live in, and the schedule of its forward and backward pass.

pub mod bitsandbytes;
mod causal_lm;
pub mod config;
pub mod decoder;
pub mod export;
mod families;
pub mod layout;
pub mod linear;
pub mod merge;
pub mod quantized;
pub mod rope;
pub mod stored;
pub mod tensors;
pub mod twice;
pub mod weights;

pub use causal_lm::{Exact, Grads, Memory, Model, Workspace};
