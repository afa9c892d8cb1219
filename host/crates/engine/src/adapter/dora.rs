//! DoRA (Liu et al., "DoRA: weight-decomposed low-rank adaptation"): `y = m / |W + s B A| * (W + s B A) x`, where `m` has a
//! trained length for each row of the weight and `|…|` the length that the row has. As in PEFT, no gradient goes through that
//! length. Lengths change with the weights only, so they are measured once a step, not once a pass.

use super::lora::{Lora, Place};
use crate::kernels::{Format, Gemm, Kernels, View, at, at_mut};
use crate::model::config::ModelConfig;
use crate::model::layout::{Layout, Weight};
use crate::model::tensors::{LinearKind, Unit};

/// Elements of `s B A` that are there at once.
const CHUNK: usize = 1 << 22;

/// How the name of a tensor of lengths ends.
pub(super) const MAGNITUDE: &str = "lora_magnitude_vector";

/// Where the lengths of the rows of one adapted module lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Magnitude {
    /// Those that are trained: first element in the adapter's arena.
    pub m: usize,
    /// Those that the rows have: first element of the buffer of lengths.
    pub norm: usize,
}

/// The lengths of the rows of all adapted modules, and what measuring them takes.
#[derive(Debug)]
pub struct Lengths<B> {
    /// One per row, exact.
    pub(super) norms: B,
    /// A chunk of `s B A`, exact.
    added: B,
    /// A projection's weights, unpacked; empty where none are packed.
    unpacked: B,
    /// They are those of the adapter as it is.
    is_current: bool,
}

impl<B> Lengths<B> {
    /// For `rows` rows in all.
    pub(super) fn alloc<K: Kernels<Buffer = B>>(kernels: &K, config: &ModelConfig, rows: usize) -> Self {
        let sizes = config.linears().map(|kind| kind.shape(config)).map(|(rows, columns)| (rows * columns, columns));
        let (largest, widest) = sizes.fold((0, 0), |most, size| (size.0.max(most.0), size.1.max(most.1)));
        let unpacked = if config.quantization.is_some() { largest } else { 0 };
        Self {
            norms: kernels.alloc(Format::Exact, rows),
            added: kernels.alloc(Format::Exact, largest.min(CHUNK).max(widest)),
            unpacked: kernels.alloc(Format::Working, unpacked),
            is_current: false,
        }
    }

    /// Its buffers.
    pub(crate) fn buffers(&self) -> impl Iterator<Item = &B> {
        [&self.norms, &self.added, &self.unpacked].into_iter()
    }

    /// The adapter is another one now.
    pub(super) fn outdate(&mut self) {
        self.is_current = false;
    }
}

impl<B> Lora<B> {
    /// The lengths of an adapted module's rows, those that they shall have and those that they have, both exact; none where
    /// the adapter has none.
    pub(crate) fn factors(&self, place: Place) -> Option<(View<'_, B>, View<'_, B>)> {
        let (lengths, magnitude) = (self.lengths.as_ref()?, place.magnitude?);
        assert!(lengths.is_current, "lengths are measured again whenever the adapter has changed");
        let m = at(self.exact.as_ref().unwrap_or(&self.params), magnitude.m);
        Some((m, at(&lengths.norms, magnitude.norm)))
    }

    /// True if some projection of a unit has lengths of its own, in the layer or in any.
    pub(crate) fn scales(&self, layer: Option<usize>, unit: Unit, config: &ModelConfig) -> bool {
        let mut layers = layer.map_or(0..config.num_hidden_layers, |layer| layer..layer + 1);
        let is_scaled = |layer, kind| self.place(layer, kind).is_some_and(|place| place.magnitude.is_some());
        self.lengths.is_some() && layers.any(|layer| unit.kinds(config).iter().any(|&kind| is_scaled(layer, kind)))
    }

    /// Measures the rows of `W + s B A` of every adapted module. Nothing to do for an adapter without lengths.
    pub(crate) fn measure<K: Kernels<Buffer = B>>(
        &mut self,
        kernels: &K,
        config: &ModelConfig,
        layout: &Layout,
        params: &B,
        words: &B,
    ) {
        let modules = self.scaled_modules(config);
        let Some(Lengths { norms, added, unpacked, is_current }) = &mut self.lengths else { return };
        *is_current = true;
        for (layer, kind, Place { a, b, r, scale, .. }, norm) in modules {
            let (rows, columns) = kind.shape(config);
            let (weight, start) = match layout.linear(config, layer, kind) {
                Weight::At(start) => (params, start),
                Weight::Packed(packed) => {
                    kernels.unpack(packed, words, at_mut(unpacked, 0));
                    (&*unpacked, 0)
                }
            };
            let step = (CHUNK / columns).max(1);
            for first in (0..rows).step_by(step) {
                let count = step.min(rows - first);
                let product = Gemm::new([count, columns, r], (false, false), [r, columns, columns], 0.0);
                let product = Gemm { alpha: scale, ..product };
                let (b, a) = (at(&self.params, b + first * r), at(&self.params, a));
                kernels.gemm(product, b, a, at_mut(added, 0));
                let weight = at(weight, start + first * columns);
                kernels.row_norms(count, columns, weight, at(added, 0), at_mut(norms, norm + first));
            }
        }
    }

    /// Gives the lengths that are trained their start: those that the rows have, which must be measured.
    pub(crate) fn start_magnitudes<K: Kernels<Buffer = B>>(&mut self, kernels: &K, config: &ModelConfig) {
        for (layer, kind, place, norm) in self.scaled_modules(config) {
            let (Some(lengths), Some(magnitude)) = (&self.lengths, place.magnitude) else { continue };
            let mut values = vec![0.0; kind.shape(config).0];
            kernels.download(at(&lengths.norms, norm), &mut values);
            let slot = self.slots().iter().find(|slot| slot.offset == magnitude.m).cloned();
            let slot = slot.unwrap_or_else(|| unreachable!("layer {layer} has a tensor for its lengths"));
            self.put(kernels, &slot, &values);
        }
        if let Some(lengths) = &mut self.lengths {
            // The rows are what they were: only what they shall be is new.
            lengths.is_current = true;
        }
    }

    /// Adapted modules with the first element of the lengths of their rows.
    fn scaled_modules(&self, config: &ModelConfig) -> Vec<(usize, LinearKind, Place, usize)> {
        let modules = (0..config.num_hidden_layers).flat_map(|layer| config.linears().map(move |kind| (layer, kind)));
        let scaled = |(layer, kind)| {
            let place = self.place(layer, kind)?;
            Some((layer, kind, place, place.magnitude?.norm))
        };
        modules.filter_map(scaled).collect()
    }
}
