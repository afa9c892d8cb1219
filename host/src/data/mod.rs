//! From a dataset's bytes to micro-batches: source → strategy → template and tokenizer → epoch plan → batches.

pub mod batches;
pub mod cursor;
pub mod dataset;
pub mod dropped;
pub mod example;
mod failure;
pub mod filter;
pub mod generation;
mod jinja;
pub mod mix;
pub mod packing;
pub mod render;
pub mod set;
pub mod shuffle;
pub mod slices;
pub mod source;
pub mod steps;
pub mod store;
pub mod strategy;
pub mod template;
pub mod tokenize;
pub mod tokenized;
pub mod tokenizer;
pub mod unpaired;
