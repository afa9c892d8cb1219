//! A linear unit of a decoder layer: the projections that read the same input, computed as one product, with the adapters
//! beside them. The decoder says what goes in and where the result goes; what the weights are, and what of them is trained,
//! is known here alone.

use super::decoder::{LayerGrads, Pass};
use super::tensors::LinearKind;
use crate::adapter::lora::UnitPass;
use crate::kernels::{Format, Gemm, Kernels, at, at_mut};

/// Projections that read the same input, in the order of the arena.
pub type Unit = &'static [LinearKind];
/// Query, key and value.
pub const QKV: Unit = &[LinearKind::QProj, LinearKind::KProj, LinearKind::VProj];
/// Attention output.
pub const O: Unit = &[LinearKind::OProj];
/// Gate and up.
pub const GATE_UP: Unit = &[LinearKind::GateProj, LinearKind::UpProj];
/// Feed-forward output.
pub const DOWN: Unit = &[LinearKind::DownProj];
/// All units of a layer, in the order of the arena.
pub const UNITS: [Unit; 4] = [QKV, O, GATE_UP, DOWN];

/// Memory that adapters work in, one unit after the other.
#[derive(Debug)]
pub struct AdapterScratch<B> {
    /// Gradients of `A(x)`, `[n, width]`.
    pub small: B,
    /// Inputs with dropout, `[n, widest input]`; empty without dropout.
    pub dropped: B,
    /// Gradients of the input before the mask of dropout, like `dropped`.
    pub spread: B,
}

impl<B> AdapterScratch<B> {
    /// For `n` tokens, adapters of so many columns (`Lora::width`), and inputs of so many elements with dropout.
    pub fn alloc<K: Kernels<Buffer = B>>(kernels: &K, n: usize, width: usize, dropped: usize) -> Self {
        let working = |len| kernels.alloc(Format::Working, len);
        Self { small: working(n * width), dropped: working(n * dropped), spread: working(n * dropped) }
    }

    /// Its buffers.
    pub fn buffers(&self) -> [&B; 3] {
        [&self.small, &self.dropped, &self.spread]
    }
}

/// A unit of one layer in one pass.
#[derive(Debug)]
pub struct Linear<'a, K: Kernels> {
    pass: &'a Pass<'a, K>,
    layer: usize,
    unit: Unit,
    /// First element of the weights, `[out, input]` row by row of the unit's projections.
    weight: usize,
    input: usize,
    out: usize,
}

impl<'a, K: Kernels> Linear<'a, K> {
    pub(super) fn new(pass: &'a Pass<'a, K>, layer: usize, unit: Unit, weight: usize) -> Self {
        let input = unit[0].shape(pass.config).1;
        let out = unit.iter().map(|kind| kind.shape(pass.config).0).sum();
        Self { pass, layer, unit, weight, input, out }
    }

    /// `y[n, out] = x[n, input] W^T`, plus `residual` where there is one. Keeps the adapters' `A(x)` in `kept`.
    pub fn forward(
        &self,
        x: &K::Buffer,
        residual: Option<&K::Buffer>,
        y: &mut K::Buffer,
        kept: &mut K::Buffer,
        scratch: &mut AdapterScratch<K::Buffer>,
    ) {
        let Pass { kernels, n, params, .. } = *self.pass;
        let beta = if residual.is_some() { 1.0 } else { 0.0 };
        let product = Gemm::new([n, self.out, self.input], (false, true), [self.input, self.input, self.out], beta);
        let (x_view, weight) = (at(x, 0), at(params, self.weight));
        match residual {
            Some(residual) => kernels.gemm_onto(product, x_view, weight, at(residual, 0), at_mut(y, 0)),
            None => kernels.gemm(product, x_view, weight, at_mut(y, 0)),
        }
        if let Some(lora) = self.pass.lora {
            lora.forward(kernels, &self.adapters(), x, y, kept, scratch);
        }
    }

    /// True if something of it is trained: then [`Self::learn`] reads its input.
    pub fn learns(&self, grads: &LayerGrads<'_, K::Buffer>) -> bool {
        let is_adapted = |kind: &LinearKind| self.pass.lora.is_some_and(|lora| lora.place(self.layer, *kind).is_some());
        self.unit.iter().any(|kind| grads.places.linears[*kind as usize].is_some() || is_adapted(kind))
    }

    /// Gradients of what is trained, from its input `x [n, input]` and the gradient of its output `dy [n, out]`.
    pub fn learn(
        &self,
        x: &K::Buffer,
        dy: &K::Buffer,
        kept: &K::Buffer,
        grads: &mut LayerGrads<'_, K::Buffer>,
        scratch: &mut AdapterScratch<K::Buffer>,
    ) {
        self.weight_gradients(x, dy, grads);
        if let (Some(lora), Some(adapter)) = (self.pass.lora, grads.adapter.as_deref_mut()) {
            lora.learn(self.pass.kernels, &self.adapters(), x, dy, kept, grads.beta, adapter, scratch);
        }
    }

    /// `dx[n, input] = dy[n, out] W`, and the adapters' part, for which [`Self::learn`] has left something in `scratch`. Behind
    /// it, `dx` may be the buffer that the input was in.
    pub fn input_gradient(
        &self,
        dy: &K::Buffer,
        dx: &mut K::Buffer,
        grads: &LayerGrads<'_, K::Buffer>,
        scratch: &mut AdapterScratch<K::Buffer>,
    ) {
        let Pass { kernels, n, params, .. } = *self.pass;
        let product = Gemm::new([n, self.input, self.out], (false, false), [self.out, self.input, self.input], 0.0);
        kernels.gemm(product, at(dy, 0), at(params, self.weight), at_mut(dx, 0));
        if let Some(lora) = self.pass.lora.filter(|_| grads.adapter.is_some()) {
            lora.add_input_gradient(kernels, &self.adapters(), dx, scratch);
        }
    }

    /// Gradients of the trained weights; neighbours in the gradient arena are one product.
    fn weight_gradients(&self, x: &K::Buffer, dy: &K::Buffer, grads: &mut LayerGrads<'_, K::Buffer>) {
        // First column of `dy`, rows of the weight, first element of the gradient.
        let mut runs: Vec<(usize, usize, usize)> = Vec::new();
        let mut column = 0;
        for &kind in self.unit {
            let rows = kind.shape(self.pass.config).0;
            if let Some(place) = grads.places.linears[kind as usize] {
                match runs.last_mut() {
                    Some((first, count, start))
                        if *first + *count == column && *start + *count * self.input == place =>
                    {
                        *count += rows;
                    }
                    _ => runs.push((column, rows, place)),
                }
            }
            column += rows;
        }
        for (first, rows, place) in runs {
            let leading = [self.out, self.input, self.input];
            let product = Gemm::new([rows, self.input, self.pass.n], (true, false), leading, grads.beta);
            self.pass.kernels.gemm(product, at(dy, first), at(x, 0), at_mut(grads.weights, place));
        }
    }

    fn adapters(&self) -> UnitPass<'a, K::Staged> {
        let Pass { rows, n, dropout, config, .. } = *self.pass;
        UnitPass { rows, layer: self.layer, unit: self.unit, n, input: self.input, stride: self.out, dropout, config }
    }
}
