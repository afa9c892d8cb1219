//! Models and adapters as files that transformers and PEFT read.

pub mod blend;
pub mod export;
pub mod load;
pub mod merge;
pub mod peft;
