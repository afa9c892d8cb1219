//! Layers of experts, which this backend does not have: `prepare` refuses a model with them, so nothing here is asked for. If
//! it were, the device would fail, as it does when a call of the driver fails.

use crate::cuda::device::{CudaBuffer, CudaKernels};
use crate::{Combine, ExpertColumns, ExpertOps, ExpertProduct, ExpertWeights, Routing, TensorOps, View, ViewMut};

type Read<'a> = View<'a, CudaBuffer>;
type Write<'a> = ViewMut<'a, CudaBuffer>;

impl CudaKernels {
    fn has_no_experts(&self, operation: &str) {
        self.0.context.fail(operation, "this backend has no layers of experts".into());
    }
}

impl ExpertOps for CudaKernels {
    fn route(&self, _: Routing, _: Write<'_>, _: Write<'_>, _: Write<'_>) {
        self.has_no_experts("route");
    }

    fn count_routes(&self, _: Routing, _: Read<'_>, _: Read<'_>, _: Write<'_>, _: Write<'_>) {
        self.has_no_experts("count_routes");
    }

    fn balance(&self, _: Routing, _: usize, _: f32, _: Read<'_>, _: Write<'_>) {
        self.has_no_experts("balance");
    }

    fn dispatch(&self, _: Routing, _: usize, _: Read<'_>, _: Read<'_>, _: Write<'_>) {
        self.has_no_experts("dispatch");
    }

    fn combine(
        &self,
        _: Routing,
        _: Combine,
        _: Read<'_>,
        _: Option<Read<'_>>,
        _: Read<'_>,
        _: Option<Read<'_>>,
        _: Write<'_>,
    ) {
        self.has_no_experts("combine");
    }

    fn expert_products(
        &self,
        _: Routing,
        _: ExpertProduct,
        _: Read<'_>,
        _: Read<'_>,
        _: Read<'_>,
        _: Option<&<Self as TensorOps>::Compact>,
        _: Write<'_>,
    ) {
        self.has_no_experts("expert_products");
    }

    fn expert_gradients(
        &self,
        _: Routing,
        _: [usize; 2],
        _: Read<'_>,
        _: Read<'_>,
        _: Read<'_>,
        _: &[ExpertWeights],
        _: f32,
        _: Write<'_>,
    ) {
        self.has_no_experts("expert_gradients");
    }

    fn split_columns(&self, _: ExpertColumns, _: Read<'_>, _: Write<'_>) {
        self.has_no_experts("split_columns");
    }

    fn join_columns(&self, _: ExpertColumns, _: f32, _: Read<'_>, _: Write<'_>) {
        self.has_no_experts("join_columns");
    }

    fn weigh_experts(
        &self,
        _: Routing,
        _: usize,
        _: f32,
        _: Read<'_>,
        _: Read<'_>,
        _: Write<'_>,
        _: Write<'_>,
        _: Write<'_>,
    ) {
        self.has_no_experts("weigh_experts");
    }

    fn route_backward(&self, _: Routing, _: Read<'_>, _: Read<'_>, _: Read<'_>, _: Option<Read<'_>>, _: Write<'_>) {
        self.has_no_experts("route_backward");
    }
}
