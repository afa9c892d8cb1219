//! The model: its config, the arena that its weights live in, and the schedule of its forward and backward pass.

pub mod config;
pub mod decoder;
pub mod export;
pub mod layout;
pub mod linear;
pub mod llama;
pub mod rope;
pub mod tensors;
pub mod twice;
pub mod weights;

pub use llama::Model;
