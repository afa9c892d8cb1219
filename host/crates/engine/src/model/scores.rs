//! The head of scores: a few numbers for each token, `s = x W^T + b`, in f32. Products are label-major, `[labels, n]`, so that
//! their rows are long however few labels there are.

use crate::architecture::config::ModelConfig;
use crate::architecture::layout::Layout;
use crate::kernels::{Format, Gemm, Kernels, at, at_mut};

/// What a pass keeps of the scores, for the host and for the backward pass.
#[derive(Debug)]
pub(super) struct ScoresScratch<B> {
    /// Scores, `[labels, n]`, f32.
    scores: B,
    /// Derivatives of the loss with respect to them, `[labels, n]`.
    slopes: B,
    /// Ones, `[n]`, where the head has a bias: what it is multiplied with.
    ones: Option<B>,
}

/// Where the head's gradients go, each with the arena's first element of it; none for one that is frozen.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScorePlaces {
    /// Of the weight.
    pub(super) weight: Option<usize>,
    /// Of the bias.
    pub(super) bias: Option<usize>,
}

impl<B> ScoresScratch<B> {
    /// For `n` tokens; none for a model without such a head.
    pub(super) fn alloc<K: Kernels<Buffer = B>>(kernels: &K, config: &ModelConfig, n: usize) -> Option<Self> {
        let head = config.scores?;
        let ones = head.has_bias.then(|| {
            let mut ones = kernels.alloc(Format::Working, n);
            kernels.upload(&vec![1.0; n], at_mut(&mut ones, 0));
            ones
        });
        let len = n * head.labels;
        Some(Self { scores: kernels.alloc(Format::F32, len), slopes: kernels.alloc(Format::Working, len), ones })
    }

    /// Its buffers.
    pub(super) fn buffers(&self) -> impl Iterator<Item = &B> {
        [&self.scores, &self.slopes].into_iter().chain(&self.ones)
    }

    /// Scores of `x [n, h]`.
    pub(super) fn forward<K: Kernels<Buffer = B>>(
        &mut self,
        kernels: &K,
        config: &ModelConfig,
        layout: &Layout,
        params: &B,
        n: usize,
        x: &B,
    ) {
        let (h, labels) = (config.hidden_size, config.outputs());
        let bias = layout.head_bias.zip(self.ones.as_ref());
        if let Some((bias, ones)) = bias {
            let rows = Gemm::new([labels, n, 1], (false, false), [1, n, n], 0.0);
            kernels.gemm(rows, at(params, bias), at(ones, 0), at_mut(&mut self.scores, 0));
        }
        let beta = if bias.is_some() { 1.0 } else { 0.0 };
        let product = Gemm::new([labels, n, h], (false, true), [h, h, n], beta);
        kernels.gemm(product, at(params, layout.head), at(x, 0), at_mut(&mut self.scores, 0));
    }

    /// Takes the derivatives of the loss with respect to the scores, `[tokens, labels]`, as `-scale` times `weights`; the rows
    /// behind them, up to `n`, have none.
    pub(super) fn take<K: Kernels<Buffer = B>>(
        &mut self,
        kernels: &K,
        labels: usize,
        n: usize,
        weights: &[f32],
        scale: f32,
    ) {
        let mut slopes = vec![0.0; labels * n];
        for (index, weight) in weights.iter().enumerate() {
            slopes[index % labels * n + index / labels] = -scale * weight;
        }
        kernels.upload(&slopes, at_mut(&mut self.slopes, 0));
    }

    /// From the derivatives that were taken and `x [n, h]`: the gradient of `x` into `dx`, and those of the head over `beta`
    /// times what `grads` held.
    pub(super) fn backward<K: Kernels<Buffer = B>>(
        &self,
        kernels: &K,
        config: &ModelConfig,
        layout: &Layout,
        params: &B,
        n: usize,
        x: &B,
        dx: &mut B,
        places: ScorePlaces,
        grads: &mut B,
        beta: f32,
    ) {
        let (h, labels) = (config.hidden_size, config.outputs());
        let slopes = || at(&self.slopes, 0);
        let through = Gemm::new([n, h, labels], (true, false), [n, h, h], 0.0);
        kernels.gemm(through, slopes(), at(params, layout.head), at_mut(dx, 0));
        if let Some(place) = places.weight {
            let of_weight = Gemm::new([labels, h, n], (false, false), [n, h, h], beta);
            kernels.gemm(of_weight, slopes(), at(x, 0), at_mut(grads, place));
        }
        if let Some((place, ones)) = places.bias.zip(self.ones.as_ref()) {
            let of_bias = Gemm::new([1, labels, n], (false, true), [n, n, labels], beta);
            kernels.gemm(of_bias, at(ones, 0), slopes(), at_mut(grads, place));
        }
    }

    /// A copy of the scores of the first `tokens` of `n` rows, `[tokens, labels]`. Waits for the device.
    pub(super) fn outputs<K: Kernels<Buffer = B>>(
        &self,
        kernels: &K,
        labels: usize,
        n: usize,
        tokens: usize,
    ) -> Vec<f32> {
        let mut scores = vec![0.0; labels * n];
        kernels.download(at(&self.scores, 0), &mut scores);
        (0..tokens * labels).map(|index| scores[index % labels * n + index / labels]).collect()
    }
}
