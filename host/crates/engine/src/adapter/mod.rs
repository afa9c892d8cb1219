//! Low-rank adapters: their arena, and their part of the pass.

pub mod dora;
pub mod head;
pub mod lora;
pub mod magnitude;
pub mod modules;
pub mod scratch;

pub use lora::{Lora, LoraConfig};
pub use modules::{Modules, Saved};
