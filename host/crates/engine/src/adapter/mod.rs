//! Low-rank adapters: their arena, their part of the pass, and PEFT's files.

pub mod dora;
pub mod head;
pub mod lora;
pub mod modules;
pub mod peft;

pub use lora::{Lora, LoraConfig};
pub use modules::{Modules, Saved};
