//! AdamW with transformers' two kinds of parameters: weight decay for all but norms and biases.

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

/// The optimizer: what it keeps of each group of trained elements.
#[derive(Debug)]
pub struct AdamW<K: Kernels> {
    config: AdamWConfig,
    groups: Vec<Group<K>>,
    /// Steps done.
    pub steps: u64,
}

/// Trained elements of one arena that have been trained for equally long.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Where they are.
    pub segments: Vec<Segment>,
    /// Steps that were done when their moments were zero.
    pub since: u64,
}

/// Trained elements of one arena: two moments each, laid out as their gradients are.
#[derive(Debug)]
struct Group<K: Kernels> {
    parts: Vec<(K::Segments, u64)>,
    state: [K::Buffer; 2],
}

/// Where a group's elements are.
#[derive(Debug)]
pub struct Elements<'a, B> {
    /// Their gradients.
    pub gradients: &'a B,
    /// The arena that they are in.
    pub params: &'a mut B,
    /// The same in f32, laid out like the gradients, where the arena is rounded.
    pub master: Option<&'a mut B>,
}

impl<K: Kernels> AdamW<K> {
    /// What is kept of each trained element, as torch names it.
    pub const STATE: [&'static str; 2] = ["exp_avg", "exp_avg_sq"];

    /// Moments of zero for groups, each of some parts and so many elements in all.
    pub fn new(kernels: &K, config: AdamWConfig, groups: &[(Vec<Part>, usize)]) -> Self {
        let group = |(parts, len): &(Vec<Part>, usize)| Group {
            parts: parts.iter().map(|part| (kernels.segments(&part.segments), part.since)).collect(),
            state: Self::STATE.map(|_| kernels.alloc(Format::F32, *len)),
        };
        Self { config, groups: groups.iter().map(group).collect(), steps: 0 }
    }

    /// Gives a group other parts, whose moments are where those of the earlier ones were.
    pub fn set_parts(&mut self, kernels: &K, group: usize, parts: &[Part]) {
        self.groups[group].parts = parts.iter().map(|part| (kernels.segments(&part.segments), part.since)).collect();
    }

    /// Gives a group moments of zero for `len` elements; returns those that it had.
    pub fn clear(&mut self, kernels: &K, group: usize, len: usize) -> [K::Buffer; 2] {
        std::mem::replace(&mut self.groups[group].state, Self::STATE.map(|_| kernels.alloc(Format::F32, len)))
    }

    /// What is kept of a group, in the order of [`Self::STATE`].
    pub fn state(&self, group: usize) -> &[K::Buffer] {
        &self.groups[group].state
    }

    /// The same, to overwrite it.
    pub fn state_mut(&mut self, group: usize) -> &mut [K::Buffer] {
        &mut self.groups[group].state
    }

    /// All that is kept.
    pub fn buffers(&self) -> impl Iterator<Item = &K::Buffer> {
        self.groups.iter().flat_map(|group| &group.state)
    }

    /// Asks for a step of all groups, given in their order. It counts when it is known to have been done: [`Self::done`].
    pub fn step<'a>(
        &mut self,
        kernels: &K,
        lr: f64,
        accumulator: &K::Accumulator,
        elements: impl IntoIterator<Item = Elements<'a, K::Buffer>>,
    ) where
        K::Buffer: 'a,
    {
        let (config, steps) = (self.config, self.steps);
        let step = |since: u64| {
            let power = i32::try_from(steps - since.min(steps) + 1).unwrap_or(i32::MAX);
            AdamStep {
                lr: lr as f32,
                beta1: config.beta1 as f32,
                beta2: config.beta2 as f32,
                eps: config.eps as f32,
                weight_decay: config.weight_decay as f32,
                correction1: (1.0 - config.beta1.powi(power)) as f32,
                correction2_sqrt: (1.0 - config.beta2.powi(power)).sqrt() as f32,
            }
        };
        for (group, Elements { gradients, params, mut master }) in self.groups.iter_mut().zip(elements) {
            let Group { parts, state: [exp_avg, exp_avg_sq] } = group;
            for (segments, since) in parts {
                let (params, master) = (&mut *params, master.as_deref_mut());
                let (exp_avg, exp_avg_sq) = (&mut *exp_avg, &mut *exp_avg_sq);
                let state = AdamState { gradients, exp_avg, exp_avg_sq, params, master };
                kernels.adamw(step(*since), segments, accumulator, state);
            }
        }
    }

    /// Counts the step that was asked for.
    pub fn done(&mut self) {
        self.steps += 1;
    }
}
