//! AdamW with transformers' two groups: weight decay for all but norms and biases.

use crate::kernels::{AdamStep, Kernels, at, at_mut};
use crate::model::layout::Segment;

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
pub struct AdamW<B> {
    config: AdamWConfig,
    /// First moments.
    pub exp_avg: B,
    /// Second moments.
    pub exp_avg_sq: B,
    /// Steps done.
    pub steps: u64,
}

impl<B> AdamW<B> {
    /// Moments of zero for `len` elements.
    pub fn new<K: Kernels<Buffer = B>>(kernels: &K, config: AdamWConfig, len: usize) -> Self {
        Self { config, exp_avg: kernels.alloc(len), exp_avg_sq: kernels.alloc(len), steps: 0 }
    }

    /// One step of all `segments`; the gradients count `gradient_scale` times.
    pub fn step<K: Kernels<Buffer = B>>(
        &mut self,
        kernels: &K,
        lr: f64,
        gradient_scale: f64,
        segments: &[Segment],
        gradients: &B,
        params: &mut B,
    ) {
        self.steps += 1;
        let power = i32::try_from(self.steps).unwrap_or(i32::MAX);
        for segment in segments {
            let step = AdamStep {
                lr: lr as f32,
                beta1: self.config.beta1 as f32,
                beta2: self.config.beta2 as f32,
                eps: self.config.eps as f32,
                weight_decay: if segment.decays { self.config.weight_decay as f32 } else { 0.0 },
                correction1: (1.0 - self.config.beta1.powi(power)) as f32,
                correction2_sqrt: (1.0 - self.config.beta2.powi(power)).sqrt() as f32,
                gradient_scale: gradient_scale as f32,
            };
            kernels.adamw(
                segment.len,
                step,
                at(gradients, segment.gradient),
                at_mut(&mut self.exp_avg, segment.gradient),
                at_mut(&mut self.exp_avg_sq, segment.gradient),
                at_mut(params, segment.parameter),
            );
        }
    }
}
