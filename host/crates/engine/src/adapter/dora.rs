//! DoRA (Liu et al., "DoRA: weight-decomposed low-rank adaptation"): `y = m / |W + s B A| * (W + s B A) x`, where `m` has a
//! trained length for each row of the weight and `|…|` the length that the row has. As in PEFT, no gradient goes through that
//! length. Lengths change with the weights only, so they are measured once a step, not once a pass.

use super::lora::{Lora, Place};
use super::magnitude::{CHUNK, Lengths};
use crate::architecture::config::ModelConfig;
use crate::architecture::layout::{Layout, Weight};
use crate::architecture::tensors::{LinearKind, Unit};
use crate::kernels::{Gemm, Kernels, View, at, at_mut};

impl<B> Lora<B> {
    /// The lengths of an adapted module's rows, those that they shall have and those that they have, both f32; none where
    /// the adapter has none.
    pub(crate) fn factors(&self, place: Place) -> Option<(View<'_, B>, View<'_, B>)> {
        let (lengths, magnitude) = (self.lengths.as_ref()?, place.magnitude?);
        assert!(lengths.is_current, "lengths are measured again whenever the adapter has changed");
        let m = at(self.master.as_ref().unwrap_or(&self.params), magnitude.m);
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
        let modules =
            (0..config.num_hidden_layers).flat_map(|layer| config.adaptable_in(layer).map(move |kind| (layer, kind)));
        let scaled = |(layer, kind)| {
            let place = self.place(layer, kind)?;
            Some((layer, kind, place, place.magnitude?.norm))
        };
        modules.filter_map(scaled).collect()
    }
}
