//! How attention's kernels are launched; what they do is said in `source/attention.cu`, and the sizes here are those there.

use super::rows::Tiles;
use super::{Attention, AttentionShape, CudaRows, Device, Function, Precision, THREADS, float, plan, word};

/// Rows that a block takes.
pub(super) const TILES: Tiles = Tiles { forward: 128, queries: 64, keys: 64 };
/// Threads of a block of `append`.
const APPEND_THREADS: u32 = 128;

/// Bytes of shared memory of a block, of the forward and of the backward pass.
fn shared_bytes(precision: Precision, head_dim: usize) -> (u32, u32) {
    let bytes = match precision {
        Precision::Bf16 => {
            let row = 2 * head_dim.next_multiple_of(16);
            let pitch = if row.is_multiple_of(128) { row } else { row + 16 };
            let (forward, backward) = match head_dim {
                ..=64 => (192, 128),
                65..=128 => (320, 128),
                _ => (96, 192),
            };
            (forward * pitch, backward * pitch)
        }
        Precision::F32 => {
            let row = if head_dim.is_multiple_of(4) { head_dim + 2 } else { head_dim };
            let (forward, backward) = if head_dim <= 128 { (64, 32) } else { (32, 16) };
            (4 * ((forward + 32) * row + 33 * forward), 4 * (4 * backward * row + 2 * backward * (backward + 1)))
        }
    };
    (bytes.0 as u32, bytes.1 as u32)
}

/// Kernels with the shared memory that they need.
pub(super) fn shared(attention: &Attention, precision: Precision, shape: AttentionShape) -> [(Function, u32); 3] {
    let (forward, backward) = shared_bytes(precision, shape.head_dim);
    [
        (attention.attention, forward),
        (attention.attention_backward_keys, backward),
        (attention.attention_backward_queries, backward),
    ]
}

/// The kernels of a shape.
pub(super) struct Launches<'a> {
    pub(super) device: &'a Device,
    pub(super) kernels: Attention,
    pub(super) shape: AttentionShape,
}

impl Launches<'_> {
    pub(super) fn forward(&self, rows: &CudaRows, qkv: u64, out: u64, lse: u64) {
        let (shape, tiles) = (self.shape, rows.tables.forward);
        let threads = if shape.head_dim <= 128 { 128 } else { 256 };
        let shared = shared_bytes(self.device.precision, shape.head_dim).0;
        let arguments = [qkv, out, lse, rows.at(tiles), float(shape.scale)];
        self.device.context.launch(self.kernels.attention, [tiles.count, shape.heads], threads, shared, &arguments);
    }

    pub(super) fn backward(&self, rows: &CudaRows, qkv: u64, out: u64, lse: u64, dout: u64, dqkv: u64) {
        let (device, shape, kernels, n) = (self.device, self.shape, self.kernels, rows.tables.n);
        let delta = device.room(plan::attention_bytes(n, shape.heads));
        let lanes = shape.head_dim.div_ceil(8).next_power_of_two();
        let blocks = (n * shape.heads * lanes).div_ceil(THREADS as usize);
        device.context.launch(kernels.attention_delta, [blocks, 1], THREADS, 0, &[out, dout, delta, word(n)]);
        let threads = if shape.head_dim <= 64 { 64 } else { 128 };
        let shared = shared_bytes(device.precision, shape.head_dim).1;
        for (function, tiles, heads) in [
            (kernels.attention_backward_keys, rows.tables.keys, shape.kv_heads),
            (kernels.attention_backward_queries, rows.tables.queries, shape.heads),
        ] {
            let arguments = [qkv, dout, lse, delta, dqkv, rows.at(tiles), float(shape.scale)];
            device.context.launch(function, [tiles.count, heads], threads, shared, &arguments);
        }
    }

    pub(super) fn append(&self, rows: &CudaRows, capacity: usize, qkv: u64, keys: u64, values: u64) {
        let (slots, lens) = (rows.tables.slots, rows.tables.lens);
        let arguments = [qkv, keys, values, rows.at(slots), rows.at(lens), word(capacity)];
        self.device.context.launch(self.kernels.append, [slots.count, 1], APPEND_THREADS, 0, &arguments);
    }

    pub(super) fn cached(&self, rows: &CudaRows, capacity: usize, qkv: u64, keys: u64, values: u64, out: u64) {
        let (slots, lens) = (rows.tables.slots, rows.tables.lens);
        let scale = float(self.shape.scale);
        let arguments = [qkv, keys, values, out, rows.at(slots), rows.at(lens), word(capacity), scale];
        let grid = [slots.count, self.shape.kv_heads];
        self.device.context.launch(self.kernels.attention_cached, grid, THREADS, 0, &arguments);
    }
}
