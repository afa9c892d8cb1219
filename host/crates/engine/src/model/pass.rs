//! What the layers of a pass share, and where their results go.

use super::rope::RopeTables;
use crate::adapter::Lora;
use crate::architecture::config::ModelConfig;
use crate::architecture::layout::LayerGradients;
use crate::kernels::Kernels;

/// What all layers of a pass share.
#[derive(Debug)]
pub struct Pass<'a, K: Kernels> {
    /// The device.
    pub kernels: &'a K,
    /// Sizes.
    pub config: &'a ModelConfig,
    /// The weight arena.
    pub params: &'a K::Buffer,
    /// Words of the weights that are packed.
    pub words: &'a K::Buffer,
    /// The adapter.
    pub lora: Option<&'a Lora<K::Buffer>>,
    /// Rotations by position.
    pub rope: &'a RopeTables<K::Buffer>,
    /// Tokens.
    pub n: usize,
    /// What the device knows of them.
    pub rows: &'a K::Staged,
    /// The seed of the adapter's dropout, in training.
    pub dropout: Option<u64>,
    /// Weights in a form that few rows are multiplied with faster, in generation.
    pub compact: Option<&'a K::Compact>,
}

/// Keys and values of one layer, `[slots, capacity, kv_heads * head_dim]` each.
#[derive(Debug)]
pub struct LayerCache<'a, B> {
    /// Keys.
    pub keys: &'a mut B,
    /// Values.
    pub values: &'a mut B,
    /// Entries of a slot.
    pub capacity: usize,
    /// Rows are the newest of their texts and look into the cache; else they are whole texts, which fill it.
    pub is_read: bool,
}

/// Where the gradients of a layer go.
#[derive(Debug)]
pub struct LayerGrads<'a, B> {
    /// The gradient arena of the weights.
    pub weights: &'a mut B,
    /// Places in it.
    pub places: &'a LayerGradients,
    /// The gradient arena of the adapter.
    pub adapter: Option<&'a mut B>,
    /// Factor of what the arenas held: 0 for the first micro-batch.
    pub beta: f32,
}
