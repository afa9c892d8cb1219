//! Optimizers over flat arenas.

pub mod adamw;

pub use adamw::{AdamW, AdamWConfig, Elements};
