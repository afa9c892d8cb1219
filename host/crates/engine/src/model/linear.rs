//! A linear unit of a decoder layer: the projections that read the same input, computed as one product, with the adapters
//! beside them. The decoder says what goes in and where the result goes; what the weights are, and what of them is trained,
//! is known here alone.

mod scaled;

use super::pass::{LayerGrads, Pass};
use crate::adapter::Lora;
use crate::adapter::lora::UnitPass;
use crate::adapter::scratch::AdapterScratch;
use crate::architecture::config::ModelConfig;
use crate::architecture::layout::{LayerGradients, LayerOffsets, UnitOffsets};
use crate::architecture::tensors::{LinearKind, NormKind, Unit};
use crate::kernels::{Format, Gemm, Kernels, Packed, View, ViewMut, at, at_mut};

/// What the adapters of a layer keep from its forward pass to its backward pass.
#[derive(Debug)]
pub struct Kept<B> {
    /// `A(x)`, `[n, width]`.
    adapted: B,
    /// With DoRA, what units give before it is scaled, `[n, out]` each; empty where nothing is.
    scaled: [B; Unit::ALL.len()],
}

impl<B> Kept<B> {
    /// For `n` tokens.
    pub fn alloc<K: Kernels<Buffer = B>>(kernels: &K, config: &ModelConfig, n: usize, lora: Option<&Lora<B>>) -> Self {
        let working = |len| kernels.alloc(Format::Working, len);
        let scaled = Unit::ALL.map(|unit| {
            let out: usize = unit.kinds(config).iter().map(|kind| kind.shape(config).0).sum();
            working(if lora.is_some_and(|lora| lora.scales(None, unit, config)) { n * out } else { 0 })
        });
        Self { adapted: working(n * lora.map_or(0, Lora::width)), scaled }
    }

    /// Its buffers.
    pub fn buffers(&self) -> impl Iterator<Item = &B> {
        std::iter::once(&self.adapted).chain(&self.scaled)
    }
}

/// Memory that units work in, one after the other.
#[derive(Debug)]
pub struct LinearScratch<B> {
    /// Of the adapters.
    pub adapter: AdapterScratch<B>,
    /// A projection's weights, unpacked; empty where none are packed.
    unpacked: B,
    /// Ones, `[n]`, where the model has biases: what a bias is multiplied with.
    ones: Option<B>,
}

impl<B> LinearScratch<B> {
    /// For `n` tokens, adapters of so many columns (`Lora::width`), and inputs of so many elements with dropout.
    pub fn alloc<K: Kernels<Buffer = B>>(
        kernels: &K,
        config: &ModelConfig,
        n: usize,
        width: usize,
        dropped: usize,
    ) -> Self {
        let working = |len| kernels.alloc(Format::Working, len);
        let ones = Unit::ALL.iter().any(|unit| unit.has_bias(config)).then(|| {
            let mut ones = working(n);
            kernels.upload(&vec![1.0; n], at_mut(&mut ones, 0));
            ones
        });
        let packed = config.linears().map(|kind| kind.shape(config)).map(|(rows, columns)| rows * columns).max();
        let unpacked = working(packed.filter(|_| config.quantization.is_some()).unwrap_or(0));
        Self { adapter: AdapterScratch::alloc(kernels, n, width, dropped), unpacked, ones }
    }

    fn ones(&self) -> &B {
        self.ones.as_ref().expect("a model with biases has ones")
    }

    /// Its buffers.
    pub fn buffers(&self) -> impl Iterator<Item = &B> {
        self.adapter.buffers().chain([&self.unpacked]).chain(&self.ones)
    }
}

/// Rows of a unit's weight that are one product.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// First column of the output.
    column: usize,
    /// How many there are.
    rows: usize,
    packed: Option<Packed>,
}

/// A unit of one layer in one pass.
#[derive(Debug)]
pub struct Linear<'a, K: Kernels> {
    pass: &'a Pass<'a, K>,
    layer: usize,
    unit: Unit,
    offsets: UnitOffsets,
    packed: &'a [Option<Packed>; LinearKind::ALL.len()],
    input: usize,
    out: usize,
    /// Factor of the output.
    alpha: f32,
}

impl<'a, K: Kernels> Linear<'a, K> {
    pub(super) fn new(pass: &'a Pass<'a, K>, layer: usize, unit: Unit, offsets: &'a LayerOffsets) -> Self {
        let input = unit.kinds(pass.config)[0].shape(pass.config).1;
        let out = unit.kinds(pass.config).iter().map(|kind| kind.shape(pass.config).0).sum();
        let has_norm = |kind: NormKind| offsets.norms[kind as usize].is_some();
        let alpha = match unit {
            Unit::O if !has_norm(NormKind::AfterAttention) => pass.config.residual_scale,
            Unit::Down if !has_norm(NormKind::AfterFeedForward) => pass.config.residual_scale,
            Unit::Qkv | Unit::O | Unit::GateUp | Unit::Down => 1.0,
        };
        Self { pass, layer, unit, offsets: offsets.units[unit as usize], packed: &offsets.packed, input, out, alpha }
    }

    /// `y[n, out] = alpha (x[n, input] W^T + b)`, plus `residual` where there is one. The adapters keep what they need in `kept`.
    pub fn forward(
        &self,
        x: &K::Buffer,
        residual: Option<&K::Buffer>,
        y: &mut K::Buffer,
        kept: &mut Kept<K::Buffer>,
        scratch: &mut LinearScratch<K::Buffer>,
    ) {
        if let Some(lora) = self.scaling() {
            return self.forward_scaled(lora, x, residual, y, kept, scratch);
        }
        self.base(x, residual, y, scratch);
        if let Some(lora) = self.pass.lora {
            lora.forward(self.pass.kernels, &self.adapters(), x, y, &mut kept.adapted, &mut scratch.adapter);
        }
    }

    /// The same without adapters.
    fn base(
        &self,
        x: &K::Buffer,
        residual: Option<&K::Buffer>,
        y: &mut K::Buffer,
        scratch: &mut LinearScratch<K::Buffer>,
    ) {
        match self.offsets.bias {
            None => self.products(self.alpha, x, residual, y, false, scratch),
            Some(bias) => {
                // First the bias, so that a rounded sum is rounded once more at most.
                self.bias(bias, residual, y, scratch);
                self.products(self.alpha, x, None, y, true, scratch);
            }
        }
    }

    /// `y[n, out] = alpha b`, plus `residual` where there is one.
    fn bias(&self, bias: usize, residual: Option<&K::Buffer>, y: &mut K::Buffer, scratch: &LinearScratch<K::Buffer>) {
        let Pass { kernels, n, params, .. } = *self.pass;
        let out = self.out;
        let (ones, bias) = (at(scratch.ones(), 0), at(params, bias));
        let rows = |beta| Gemm { alpha: self.alpha, ..Gemm::new([n, out, 1], (true, false), [n, out, out], beta) };
        match residual {
            None => kernels.gemm(rows(0.0), ones, bias, at_mut(y, 0)),
            Some(residual) => kernels.gemm_onto(rows(1.0), ones, bias, at(residual, 0), at_mut(y, 0)),
        }
    }

    /// `y[n, out] = alpha x[n, input] W^T`, plus `residual` where there is one, or onto what `y` holds.
    fn products(
        &self,
        alpha: f32,
        x: &K::Buffer,
        residual: Option<&K::Buffer>,
        y: &mut K::Buffer,
        is_onto: bool,
        scratch: &mut LinearScratch<K::Buffer>,
    ) {
        let Pass { kernels, n, .. } = *self.pass;
        let (input, out) = (self.input, self.out);
        for part in self.parts() {
            let weight = self.weight(part, &mut scratch.unpacked);
            let leading = [input, input, out];
            let product = |beta| Gemm { alpha, ..Gemm::new([n, part.rows, input], (false, true), leading, beta) };
            let (x, y) = (at(x, 0), at_mut(y, part.column));
            let beta = if is_onto { 1.0 } else { 0.0 };
            match (self.pass.compact.filter(|_| part.packed.is_none()), residual) {
                (None, Some(residual)) => kernels.gemm_onto(product(1.0), x, weight, at(residual, part.column), y),
                (None, None) => kernels.gemm(product(beta), x, weight, y),
                (Some(compact), residual) => {
                    let beta = if residual.is_some() { 1.0 } else { beta };
                    let ViewMut { buffer, offset } = y;
                    if let Some(residual) = residual {
                        kernels.copy(n * out, at(residual, 0), at_mut(buffer, 0));
                    }
                    kernels.gemm_compact(product(beta), x, weight, compact, at_mut(buffer, offset));
                }
            }
        }
    }

    /// What is one product: the whole unit, or each of its projections where they are packed.
    fn parts(&self) -> impl Iterator<Item = Part> + use<'a, K> {
        let (packed, out) = (self.packed, self.out);
        let mut column = 0;
        let kinds = self.unit.kinds(self.pass.config).iter().filter_map(move |&kind| {
            let packed = packed[kind as usize]?;
            column += packed.rows;
            Some(Part { column: column - packed.rows, rows: packed.rows, packed: Some(packed) })
        });
        let is_packed = self.unit.kinds(self.pass.config).iter().any(|&kind| packed[kind as usize].is_some());
        let whole = (!is_packed).then_some(Part { column: 0, rows: out, packed: None });
        whole.into_iter().chain(kinds)
    }

    /// The weights of a part, where products read them.
    fn weight<'s>(&'s self, part: Part, unpacked: &'s mut K::Buffer) -> View<'s, K::Buffer> {
        let Some(packed) = part.packed else {
            return at(self.pass.params, self.offsets.weight + part.column * self.input);
        };
        self.pass.kernels.unpack(packed, self.pass.words, at_mut(unpacked, 0));
        at(unpacked, 0)
    }

    /// True if something of it is trained: then [`Self::learn`] reads its input.
    pub fn learns(&self, grads: &LayerGrads<'_, K::Buffer>) -> bool {
        let is_adapted = |kind: &LinearKind| self.pass.lora.is_some_and(|lora| lora.place(self.layer, *kind).is_some());
        let LayerGradients { linears, biases, .. } = grads.places;
        let is_trained = |kind: &LinearKind| linears[*kind as usize].or(biases[*kind as usize]).is_some();
        self.unit.kinds(self.pass.config).iter().any(|kind| is_trained(kind) || is_adapted(kind))
    }

    /// Gradients of what is trained, from its input `x [n, input]` and the gradient of its output `dy [n, out]`.
    pub fn learn(
        &self,
        x: &K::Buffer,
        dy: &K::Buffer,
        kept: &mut Kept<K::Buffer>,
        grads: &mut LayerGrads<'_, K::Buffer>,
        scratch: &mut LinearScratch<K::Buffer>,
    ) {
        self.weight_gradients(x, dy, grads);
        self.bias_gradients(dy, grads, scratch);
        if let Some(lora) = self.scaling() {
            return self.learn_scaled(lora, x, dy, kept, grads, scratch);
        }
        if let (Some(lora), Some(adapter)) = (self.pass.lora, grads.adapter.as_deref_mut()) {
            lora.learn(
                self.pass.kernels,
                &self.adapters(),
                x,
                dy,
                &kept.adapted,
                grads.beta,
                adapter,
                &mut scratch.adapter,
            );
        }
    }

    /// `dx[n, input] = alpha dy[n, out] W`, over `beta` times what it held, and the adapters' part, for which [`Self::learn`]
    /// has left something in `kept` and `scratch`. Behind it, `dx` may be the buffer that the input was in.
    pub fn input_gradient(
        &self,
        dy: &K::Buffer,
        dx: &mut K::Buffer,
        beta: f32,
        kept: &mut Kept<K::Buffer>,
        grads: &LayerGrads<'_, K::Buffer>,
        scratch: &mut LinearScratch<K::Buffer>,
    ) {
        if let Some(lora) = self.scaling() {
            return self.input_gradient_scaled(lora, dy, dx, beta, kept, scratch);
        }
        self.base_input_gradient(dy, dx, beta, scratch);
        if let Some(lora) = self.pass.lora.filter(|_| grads.adapter.is_some()) {
            lora.add_input_gradient(self.pass.kernels, &self.adapters(), dx, &mut scratch.adapter);
        }
    }

    /// The same without adapters.
    fn base_input_gradient(
        &self,
        dy: &K::Buffer,
        dx: &mut K::Buffer,
        beta: f32,
        scratch: &mut LinearScratch<K::Buffer>,
    ) {
        let Pass { kernels, n, .. } = *self.pass;
        for part in self.parts() {
            let weight = self.weight(part, &mut scratch.unpacked);
            let leading = [self.out, self.input, self.input];
            let beta = if part.column == 0 { beta } else { 1.0 };
            let product = Gemm::new([n, self.input, part.rows], (false, false), leading, beta);
            kernels.gemm(Gemm { alpha: self.alpha, ..product }, at(dy, part.column), weight, at_mut(dx, 0));
        }
    }

    /// Gradients of the trained weights; neighbours in the gradient arena are one product.
    fn weight_gradients(&self, x: &K::Buffer, dy: &K::Buffer, grads: &mut LayerGrads<'_, K::Buffer>) {
        // First column of `dy`, rows of the weight, first element of the gradient.
        let mut runs: Vec<(usize, usize, usize)> = Vec::new();
        let mut column = 0;
        for &kind in self.unit.kinds(self.pass.config) {
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
            let product = Gemm { alpha: self.alpha, ..product };
            self.pass.kernels.gemm(product, at(dy, first), at(x, 0), at_mut(grads.weights, place));
        }
    }

    /// Gradients of the trained biases: sums over the tokens.
    fn bias_gradients(
        &self,
        dy: &K::Buffer,
        grads: &mut LayerGrads<'_, K::Buffer>,
        scratch: &LinearScratch<K::Buffer>,
    ) {
        let mut column = 0;
        for &kind in self.unit.kinds(self.pass.config) {
            let (rows, n) = (kind.shape(self.pass.config).0, self.pass.n);
            if let Some(place) = grads.places.biases[kind as usize] {
                let sum = Gemm::new([1, rows, n], (false, false), [n, self.out, rows], grads.beta);
                let sum = Gemm { alpha: self.alpha, ..sum };
                let ones = at(scratch.ones(), 0);
                self.pass.kernels.gemm(sum, ones, at(dy, column), at_mut(grads.weights, place));
            }
            column += rows;
        }
    }

    fn adapters(&self) -> UnitPass<'a, K::Staged> {
        let Pass { rows, n, dropout, config, .. } = *self.pass;
        let (layer, unit, input, stride, alpha) = (self.layer, self.unit, self.input, self.out, self.alpha);
        UnitPass { rows, layer, unit, n, input, stride, alpha, dropout, config }
    }
}
