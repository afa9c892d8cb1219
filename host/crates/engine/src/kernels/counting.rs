//! A device that computes nothing and counts what the CPU would take: a model, a step or a generation that runs on it
//! says how much memory it needs, from the very code that asks for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cpu::{attention, cross_entropy, matmul};
use super::{AdamStep, AttentionShape, DropoutKey, Gemm, Kernels, LossGradients, Targets, View, ViewMut};
use crate::IGNORE;

/// The device; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Counting(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    buffers: AtomicU64,
    most: AtomicU64,
    logits: AtomicU64,
    products: AtomicU64,
    scores: AtomicU64,
}

/// A buffer without memory.
#[derive(Debug)]
pub struct Counted {
    len: usize,
    counters: Arc<Counters>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counters.buffers.fetch_sub(bytes(self.len), Ordering::Relaxed);
    }
}

fn bytes(elements: usize) -> u64 {
    4 * elements as u64
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Counting {
    /// Bytes that `work` has in buffers at its peak, beyond those that are there before.
    pub fn beyond<R>(&self, work: impl FnOnce() -> R) -> (R, u64) {
        let before = read(&self.0.buffers);
        self.0.most.store(before, Ordering::Relaxed);
        let result = work();
        (result, read(&self.0.most) - before)
    }

    /// Bytes that the output projection keeps for logits and what belongs to them.
    pub fn logits(&self) -> u64 {
        read(&self.0.logits)
    }

    /// Bytes that each thread keeps for packed operands and attention scores.
    pub fn thread(&self) -> u64 {
        read(&self.0.products) + read(&self.0.scores)
    }

    fn scores(&self, doc_lens: &[u32], backward: bool) {
        let longest = doc_lens.iter().max().map_or(0, |&length| length as usize);
        self.0.scores.fetch_max(bytes(attention::scratch_len(longest, backward)), Ordering::Relaxed);
    }
}

type Read<'a> = View<'a, Counted>;
type Write<'a> = ViewMut<'a, Counted>;

impl Kernels for Counting {
    type Buffer = Counted;

    fn alloc(&self, len: usize) -> Counted {
        let now = self.0.buffers.fetch_add(bytes(len), Ordering::Relaxed) + bytes(len);
        self.0.most.fetch_max(now, Ordering::Relaxed);
        Counted { len, counters: Arc::clone(&self.0) }
    }

    fn len(&self, buffer: &Counted) -> usize {
        buffer.len
    }

    fn gemm(&self, gemm: Gemm, _: Read<'_>, _: Read<'_>, _: Write<'_>) {
        self.0.products.fetch_max(matmul::scratch_bytes(gemm) as u64, Ordering::Relaxed);
    }

    fn attention(&self, _: AttentionShape, doc_lens: &[u32], _: Read<'_>, _: Write<'_>, _: Write<'_>) {
        self.scores(doc_lens, false);
    }

    fn attention_backward(
        &self,
        _: AttentionShape,
        doc_lens: &[u32],
        _: Read<'_>,
        _: Read<'_>,
        _: Read<'_>,
        _: Read<'_>,
        _: Write<'_>,
    ) {
        self.scores(doc_lens, true);
    }

    fn linear_cross_entropy(
        &self,
        n: usize,
        h: usize,
        v: usize,
        _: Read<'_>,
        _: Read<'_>,
        targets: Targets<'_>,
        gradients: Option<LossGradients<'_, Counted>>,
    ) -> f64 {
        let rows = targets.tokens.iter().filter(|&&target| target != IGNORE).count();
        // As on the CPU: idle memory comes with the gradient of the weight.
        let lent = gradients.filter(|gradients| gradients.dw.is_some()).map_or(0, |gradients| gradients.idle.len());
        let room = cross_entropy::Room::new(rows, n, h, v, lent);
        self.0.logits.fetch_max(bytes(room.len()), Ordering::Relaxed);
        0.0
    }

    fn sum_of_squares(&self, _: usize, _: Read<'_>) -> f64 {
        0.0
    }

    fn download(&self, _: Read<'_>, _: &mut [f32]) {}
    fn upload(&self, _: &[f32], _: Write<'_>) {}
    fn copy(&self, _: usize, _: Read<'_>, _: Write<'_>) {}
    fn copy_rows(&self, _: usize, _: usize, _: Read<'_>, _: usize, _: Write<'_>, _: usize) {}
    fn zero(&self, _: usize, _: Write<'_>) {}
    fn embed(&self, _: usize, _: &[u32], _: Read<'_>, _: Write<'_>) {}
    fn embed_backward(&self, _: usize, _: &[u32], _: Read<'_>, _: Write<'_>) {}
    fn rmsnorm(&self, _: usize, _: usize, _: f32, _: Read<'_>, _: Read<'_>, _: Write<'_>, _: Write<'_>) {}
    fn rmsnorm_again(&self, _: usize, _: usize, _: Read<'_>, _: Read<'_>, _: Read<'_>, _: Write<'_>) {}
    fn rmsnorm_backward(
        &self,
        _: usize,
        _: usize,
        _: Read<'_>,
        _: Read<'_>,
        _: Read<'_>,
        _: Read<'_>,
        _: Write<'_>,
        _: Option<(Write<'_>, f32)>,
    ) {
    }
    fn rope(&self, _: usize, _: usize, _: usize, _: &[u32], _: Read<'_>, _: bool, _: Write<'_>) {}
    fn attention_cached(
        &self,
        _: AttentionShape,
        _: &[u32],
        _: &[u32],
        _: usize,
        _: Read<'_>,
        _: Read<'_>,
        _: Read<'_>,
        _: Write<'_>,
    ) {
    }
    fn swiglu(&self, _: usize, _: usize, _: Read<'_>, _: Write<'_>) {}
    fn swiglu_backward(&self, _: usize, _: usize, _: Read<'_>, _: Write<'_>) {}
    fn dropout(&self, _: usize, _: DropoutKey, _: bool, _: Read<'_>, _: Write<'_>) {}
    fn adamw(&self, _: usize, _: AdamStep, _: Read<'_>, _: Write<'_>, _: Write<'_>, _: Write<'_>) {}
}
