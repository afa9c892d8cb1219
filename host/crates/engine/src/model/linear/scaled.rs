//! A unit with projections whose rows have a trained length (DoRA): `y = alpha * m / |…| * z`, where `z` is what the projection
//! and the adapter beside it make of the input. In a pass with dropout, only what the adapter adds sees the input with
//! dropout, as in PEFT: `y = alpha * (x W^T + m / |…| * z - d W^T)` with `z` of that input `d`.

use super::{Kept, Linear, LinearScratch, Part};
use crate::adapter::Lora;
use crate::adapter::lora::{Place, UnitPass};
use crate::architecture::tensors::LinearKind;
use crate::kernels::{Gemm, Kernels, Scaled, at, at_mut};
use crate::model::pass::LayerGrads;

/// A projection of the unit.
#[derive(Debug, Clone, Copy)]
struct Piece {
    kind: LinearKind,
    part: Part,
    /// Its adapter.
    place: Option<Place>,
}

impl<K: Kernels> Linear<'_, K> {
    /// The adapter, where it gives rows of this unit a length.
    pub(super) fn scaling(&self) -> Option<&Lora<K::Buffer>> {
        self.pass.lora.filter(|lora| lora.scales(Some(self.layer), self.unit, self.pass.config))
    }

    fn pieces(&self, lora: &Lora<K::Buffer>) -> Vec<Piece> {
        let mut column = 0;
        let piece = |&kind: &LinearKind| {
            let rows = kind.shape(self.pass.config).0;
            column += rows;
            let part = Part { column: column - rows, rows, packed: self.packed[kind as usize] };
            Piece { kind, part, place: lora.place(self.layer, kind) }
        };
        self.unit.kinds(self.pass.config).iter().map(piece).collect()
    }

    fn columns(&self, part: Part, alpha: f32) -> Scaled {
        Scaled { rows: self.pass.n, width: part.rows, stride: self.out, alpha }
    }

    /// [`Linear::forward`]; keeps `z`.
    pub(super) fn forward_scaled(
        &self,
        lora: &Lora<K::Buffer>,
        x: &K::Buffer,
        residual: Option<&K::Buffer>,
        y: &mut K::Buffer,
        kept: &mut Kept<K::Buffer>,
        scratch: &mut LinearScratch<K::Buffer>,
    ) {
        let (kernels, n) = (self.pass.kernels, self.pass.n);
        let pass = UnitPass { alpha: 1.0, ..self.adapters() };
        let (pieces, drops) = (self.pieces(lora), lora.drops(&pass));
        let Kept { adapted, scaled } = kept;
        let z = &mut scaled[self.unit as usize];
        let mut beta = 1.0;
        if drops {
            self.base(x, residual, y, scratch);
            for Piece { kind, part, .. } in pieces.iter().copied().filter(|piece| piece.place.is_some()) {
                lora.drop_into(kernels, &pass, kind, false, x, &mut scratch.adapter.dropped);
                let product =
                    Gemm::new([n, part.rows, self.input], (false, true), [self.input, self.input, self.out], 0.0);
                let weight = self.weight(part, &mut scratch.unpacked);
                kernels.gemm(product, at(&scratch.adapter.dropped, 0), weight, at_mut(z, part.column));
                let taken = self.columns(part, -self.alpha);
                kernels.add_scaled(taken, None, at(z, part.column), 1.0, at_mut(y, part.column));
            }
        } else {
            self.products(1.0, x, None, z, false, scratch);
            match (self.offsets.bias, residual) {
                (Some(bias), residual) => self.bias(bias, residual, y, scratch),
                (None, Some(residual)) => kernels.copy(n * self.out, at(residual, 0), at_mut(y, 0)),
                (None, None) => beta = 0.0,
            }
        }
        lora.forward(kernels, &pass, x, z, adapted, &mut scratch.adapter);
        for Piece { part, place, .. } in pieces.into_iter().filter(|piece| piece.place.is_some() || !drops) {
            let factors = place.and_then(|place| lora.factors(place));
            let columns = self.columns(part, self.alpha);
            kernels.add_scaled(columns, factors, at(z, part.column), beta, at_mut(y, part.column));
        }
    }

    /// [`Linear::learn`]; leaves the gradient of `z` in its place.
    pub(super) fn learn_scaled(
        &self,
        lora: &Lora<K::Buffer>,
        x: &K::Buffer,
        dy: &K::Buffer,
        kept: &mut Kept<K::Buffer>,
        grads: &mut LayerGrads<'_, K::Buffer>,
        scratch: &mut LinearScratch<K::Buffer>,
    ) {
        let (kernels, pass) = (self.pass.kernels, self.adapters());
        let Some(adapter) = grads.adapter.as_deref_mut() else { unreachable!("an adapter that scales is trained") };
        let Kept { adapted, scaled } = kept;
        let z = &mut scaled[self.unit as usize];
        for Piece { part, place, .. } in self.pieces(lora) {
            let (dy, z) = (at(dy, part.column), at_mut(z, part.column));
            let magnitude = place.and_then(|place| place.magnitude.zip(lora.factors(place)));
            if let Some((magnitude, factors)) = magnitude {
                let dm = (at_mut(adapter, magnitude.m), grads.beta);
                kernels.add_scaled_backward(self.columns(part, self.alpha), factors, dy, z, dm);
            } else {
                kernels.copy_columns(self.pass.n, part.rows, self.out, dy, z);
            }
        }
        lora.learn(kernels, &pass, x, z, adapted, grads.beta, adapter, &mut scratch.adapter);
    }

    /// [`Linear::input_gradient`] behind [`Self::learn_scaled`].
    pub(super) fn input_gradient_scaled(
        &self,
        lora: &Lora<K::Buffer>,
        dy: &K::Buffer,
        dx: &mut K::Buffer,
        beta: f32,
        kept: &mut Kept<K::Buffer>,
        scratch: &mut LinearScratch<K::Buffer>,
    ) {
        let (kernels, n, pass) = (self.pass.kernels, self.pass.n, self.adapters());
        let z = &mut kept.scaled[self.unit as usize];
        if !lora.drops(&pass) {
            self.base_input_gradient(z, dx, beta, scratch);
            return lora.add_input_gradient(kernels, &pass, dx, &mut scratch.adapter);
        }
        self.base_input_gradient(dy, dx, beta, scratch);
        lora.add_input_gradient(kernels, &pass, dx, &mut scratch.adapter);
        for Piece { kind, part, .. } in self.pieces(lora).into_iter().filter(|piece| piece.place.is_some()) {
            let taken = self.columns(part, -1.0);
            kernels.add_scaled(taken, None, at(dy, part.column), 1.0, at_mut(z, part.column));
            let leading = [self.out, self.input, self.input];
            let product = Gemm::new([n, self.input, part.rows], (false, false), leading, 0.0);
            let product = Gemm { alpha: self.alpha, ..product };
            let weight = self.weight(part, &mut scratch.unpacked);
            kernels.gemm(product, at(z, part.column), weight, at_mut(&mut scratch.adapter.spread, 0));
            lora.drop_into(kernels, &pass, kind, true, &scratch.adapter.spread, dx);
        }
    }
}
