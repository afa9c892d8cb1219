//! Attention on a device, both ways, on numbers made up.

use engine::kernels::{Attended, AttentionShape, Demands, Format, Kernels, LayerAttention, Rows, Targets, at, at_mut};
use engine::rng::normal_at;

pub(super) struct Found {
    pub(super) out: Vec<f32>,
    pub(super) lse: Vec<f32>,
    pub(super) gradients: Vec<f32>,
}

/// Values that bfloat16 has, so that both begin with the same.
fn values(stream: u64, len: usize) -> Vec<f32> {
    (0..len as u64).map(|index| f32::from_bits(normal_at(3, stream, index).to_bits() & 0xffff_0000)).collect()
}

pub(super) fn attend<K: Kernels>(
    kernels: &K,
    shape: AttentionShape,
    window: Option<usize>,
    documents: &[u32],
) -> Found {
    let demands = Demands { attention: shape, window, widest_norm: 64, is_packed: false, has_experts: false };
    kernels.prepare(demands).unwrap();
    let rows: usize = documents.iter().map(|&length| length as usize).sum();
    let n = kernels.padded(rows);
    let upload = |format, width: usize, stream| {
        let mut buffer = kernels.alloc(format, n * width);
        kernels.upload(&values(stream, rows * width), at_mut(&mut buffer, 0));
        buffer
    };
    let (qkv, dout) = (upload(Format::Working, shape.packed(), 1), upload(Format::Working, shape.output(), 2));
    let mut out = kernels.alloc(Format::Working, n * shape.output());
    let mut gradients = kernels.alloc(Format::Working, n * shape.packed());
    let mut lse = kernels.alloc(Format::F32, n * shape.heads);
    let (ids, positions): (Vec<u32>, Vec<u32>) =
        (vec![0; rows], documents.iter().flat_map(|&length| 0..length).collect());
    let targets = Some(Targets { tokens: &ids, weights: None, scale: 1.0 });
    let mut staged = None;
    let batch = Rows { ids: &ids, positions: &positions, doc_lens: documents, targets, ..Rows::default() };
    kernels.stage(batch, &mut staged);
    let staged = staged.unwrap();
    let own = LayerAttention { shape, window };
    kernels.attention(own, &staged, at(&qkv, 0), at_mut(&mut out, 0), at_mut(&mut lse, 0));
    let attended = Attended { qkv: at(&qkv, 0), out: at(&out, 0), lse: at(&lse, 0) };
    kernels.attention_backward(own, &staged, attended, at(&dout, 0), at_mut(&mut gradients, 0));
    let download = |buffer: &K::Buffer, width: usize| {
        let mut values = vec![0.0; rows * width];
        kernels.download(at(buffer, 0), &mut values);
        values
    };
    let found = Found {
        out: download(&out, shape.output()),
        lse: download(&lse, shape.heads),
        gradients: download(&gradients, shape.packed()),
    };
    kernels.check().unwrap();
    found
}

/// Length of the difference as a share of the length.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (difference / expected.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>()).sqrt()
}

/// Heads with the usual scale.
pub(super) fn heads(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionShape {
    AttentionShape { heads, kv_heads, head_dim, scale: (1.0 / (head_dim as f64).sqrt()) as f32, cap: None }
}

/// Holds what was found against what is right.
pub(super) fn assert_near(found: &Found, expected: &Found, allowed: f64, what: &str) {
    for (part, found, expected) in [
        ("output", &found.out, &expected.out),
        ("log-sum-exp", &found.lse, &expected.lse),
        ("gradient", &found.gradients, &expected.gradients),
    ] {
        let error = distance(found, expected);
        assert!(error <= allowed, "{what}: the {part} is {error:e} off");
    }
}
