//! The trainer.

pub mod config;
pub mod diagnostic;
