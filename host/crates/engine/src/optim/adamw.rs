//! AdamW with transformers' two groups: weight decay for all but norms and biases.

use crate::kernels::{AdamState, AdamStep, Format, Kernels, Segment};

/// Constants of AdamW; the learning rate comes with each step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment (`adam_beta1`).
    pub beta1: f64,
    /// Decay of the second moment (`adam_beta2`).
    pub beta2: f64,
    /// Added to the root of the second moment (`adam_epsilon`).
    pub eps: f64,
    /// Decoupled decay per unit of learning rate (`weight_decay`).
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    /// transformers' defaults.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// The optimizer: two moments per trained element, laid out as the gradients are.
#[derive(Debug)]
pub struct AdamW<K: Kernels> {
    config: AdamWConfig,
    segments: K::Segments,
    /// First moments.
    pub exp_avg: K::Buffer,
    /// Second moments.
    pub exp_avg_sq: K::Buffer,
    /// Steps done.
    pub steps: u64,
}

impl<K: Kernels> AdamW<K> {
    /// Moments of zero for the elements of `segments`, `len` in all.
    pub fn new(kernels: &K, config: AdamWConfig, segments: &[Segment], len: usize) -> Self {
        let alloc = || kernels.alloc(Format::Exact, len);
        Self { config, segments: kernels.segments(segments), exp_avg: alloc(), exp_avg_sq: alloc(), steps: 0 }
    }

    /// Asks for a step of all segments. It counts when it is known to have been done: [`Self::done`].
    pub fn step(
        &mut self,
        kernels: &K,
        lr: f64,
        tally: &K::Tally,
        gradients: &K::Buffer,
        params: &mut K::Buffer,
        exact: Option<&mut K::Buffer>,
    ) {
        let power = i32::try_from(self.steps + 1).unwrap_or(i32::MAX);
        let step = AdamStep {
            lr: lr as f32,
            beta1: self.config.beta1 as f32,
            beta2: self.config.beta2 as f32,
            eps: self.config.eps as f32,
            weight_decay: self.config.weight_decay as f32,
            correction1: (1.0 - self.config.beta1.powi(power)) as f32,
            correction2_sqrt: (1.0 - self.config.beta2.powi(power)).sqrt() as f32,
        };
        let Self { exp_avg, exp_avg_sq, .. } = self;
        let state = AdamState { gradients, exp_avg, exp_avg_sq, params, exact };
        kernels.adamw(step, &self.segments, tally, state);
    }

    /// Counts the step that was asked for.
    pub fn done(&mut self) {
        self.steps += 1;
    }
}
