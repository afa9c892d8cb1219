//! Operations of layers whose feed-forward part is a choice of experts (Shazeer et al., "Outrageously large neural networks").
//!
//! Rows are sorted by their experts: each expert's rows lie together, and each is there as often as it has experts. No row is
//! dropped, however many an expert gets.

use super::tensor::TensorOps;
use crate::buffer::{View, ViewMut};
use crate::operands::{Combine, ExpertColumns, ExpertProduct, ExpertWeights, Routing};

/// Operations of layers of experts, forward and backward. `routes` are what [`Self::route`] has put there, f32 in format and
/// words in content ([`Routing::words`]).
pub trait ExpertOps: TensorOps {
    /// Chooses the experts of each row: the `per_row` largest of its logits, of equal ones the first. `router [rows, experts]`
    /// (f32) holds logits and gets their softmax; `weights [rows, per_row]` (f32) gets that of the chosen ones.
    fn route(
        &self,
        routing: Routing,
        router: ViewMut<'_, Self::Buffer>,
        routes: ViewMut<'_, Self::Buffer>,
        weights: ViewMut<'_, Self::Buffer>,
    );

    /// Rows that each expert got, into `counts [experts]`, and the sum of its probabilities over all rows, into `sums
    /// [experts]`; f32 both.
    fn count_routes(
        &self,
        routing: Routing,
        probabilities: View<'_, Self::Buffer>,
        routes: View<'_, Self::Buffer>,
        counts: ViewMut<'_, Self::Buffer>,
        sums: ViewMut<'_, Self::Buffer>,
    );

    /// The derivative of `coefficient` times the load-balancing loss with respect to the probability of each expert, the same
    /// for every row of every layer, into `slopes [experts]`, from the `counts [layers, experts]` of all layers; f32 both.
    fn balance(
        &self,
        routing: Routing,
        layers: usize,
        coefficient: f32,
        counts: View<'_, Self::Buffer>,
        slopes: ViewMut<'_, Self::Buffer>,
    );

    /// Rows of `x [rows, width]` as the experts take them, `[assigned, width]`.
    fn dispatch(
        &self,
        routing: Routing,
        width: usize,
        routes: View<'_, Self::Buffer>,
        x: View<'_, Self::Buffer>,
        out: ViewMut<'_, Self::Buffer>,
    );

    /// Sums of what a row's experts gave it, `x [assigned, width]`; see [`Combine`]. With `weights [rows, per_row]` (f32) each
    /// is multiplied by its own; with `residual`, `y [rows, width]` is the sum of both.
    fn combine(
        &self,
        routing: Routing,
        combine: Combine,
        routes: View<'_, Self::Buffer>,
        weights: Option<View<'_, Self::Buffer>>,
        x: View<'_, Self::Buffer>,
        residual: Option<View<'_, Self::Buffer>>,
        y: ViewMut<'_, Self::Buffer>,
    );

    /// The product of each expert's rows with its own weight; see [`ExpertProduct`]. `compact` may have the values of each
    /// expert's weight too, stored `[out, inner]`; see [`TensorOps::compact`].
    fn expert_products(
        &self,
        routing: Routing,
        product: ExpertProduct,
        routes: View<'_, Self::Buffer>,
        x: View<'_, Self::Buffer>,
        weights: View<'_, Self::Buffer>,
        compact: Option<&Self::Compact>,
        y: ViewMut<'_, Self::Buffer>,
    );

    /// Gradients of experts' weights, `dW = dy^T x` over the rows of each, into `gradients` (f32), over `beta` times what was
    /// there; an expert without rows adds zeros. With `sizes` `[out, input]`, `dy` is `[assigned, out]` and `x` `[assigned,
    /// input]`.
    fn expert_gradients(
        &self,
        routing: Routing,
        sizes: [usize; 2],
        routes: View<'_, Self::Buffer>,
        dy: View<'_, Self::Buffer>,
        x: View<'_, Self::Buffer>,
        parts: &[ExpertWeights],
        beta: f32,
        gradients: ViewMut<'_, Self::Buffer>,
    );

    /// Columns of all experts as each expert's own matrix, `[experts, out, rank]`.
    fn split_columns(&self, columns: ExpertColumns, all: View<'_, Self::Buffer>, apart: ViewMut<'_, Self::Buffer>);

    /// The other way round, f32 both, over `beta` times what `all` held.
    fn join_columns(
        &self,
        columns: ExpertColumns,
        beta: f32,
        apart: View<'_, Self::Buffer>,
        all: ViewMut<'_, Self::Buffer>,
    );

    /// From `da`, the gradient that an expert's product of gate and up `a` would have if its row weighed 1, `[assigned, width]`
    /// both: that of the weights into `dweights [rows, per_row]` (f32); then multiplies `da` and `a` by the rows' weights. All
    /// three times `alpha`.
    fn weigh_experts(
        &self,
        routing: Routing,
        width: usize,
        alpha: f32,
        routes: View<'_, Self::Buffer>,
        weights: View<'_, Self::Buffer>,
        da: ViewMut<'_, Self::Buffer>,
        a: ViewMut<'_, Self::Buffer>,
        dweights: ViewMut<'_, Self::Buffer>,
    );

    /// The gradient of the router's logits, `[rows, experts]`, from that of the weights and, with `slopes`, of the probabilities
    /// themselves.
    fn route_backward(
        &self,
        routing: Routing,
        probabilities: View<'_, Self::Buffer>,
        routes: View<'_, Self::Buffer>,
        dweights: View<'_, Self::Buffer>,
        slopes: Option<View<'_, Self::Buffer>>,
        dlogits: ViewMut<'_, Self::Buffer>,
    );
}
