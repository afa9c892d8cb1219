//! Low-rank adapters: their arena, their part of the pass, and PEFT's files.

pub mod lora;
pub mod peft;

pub use lora::{Lora, LoraConfig};
