//! Optimizers over flat arenas.

pub mod adamw;
pub mod lisa;
pub mod rules;

pub use adamw::{AdamW, AdamWConfig, Elements, Part};
pub use lisa::Lisa;
pub use rules::{Rate, Rules};
