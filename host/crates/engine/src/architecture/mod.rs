//! What a model is, as data: sizes and constants of its `config.json`, its tensors, and where each lies in an arena.
//! Whatever differs from family to family is here.

pub mod config;
mod families;
mod from_json;
mod head;
pub mod layout;
mod read;
mod read_experts;
mod read_rope;
pub mod rope;
pub mod scores;
pub mod stored;
pub mod tensors;
#[cfg(test)]
mod tests;

pub use config::{ConfigError, ModelConfig};
pub use families::{ARCHITECTURES, COMPOSITE_ARCHITECTURES};
