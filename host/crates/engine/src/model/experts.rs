//! The experts of a layer, forward and backward:
//!
//! ```text
//! x ─ router ─ softmax ─ the largest ─ weights
//! x ─ rows by expert ─ gate,up ─ act(gate) * up ─ down ─ times weights ─ sum ─(+residual)─ y
//! ```
//! Each expert's rows lie together, and every row goes to all of its experts, however many rows an expert gets. Forward keeps
//! the router's probabilities, who goes where, the weights, and gates and ups. What went to the experts is gathered again in
//! backward, and what they gave is not needed: the gradient of a weight is the product of what came back to the expert's inner
//! row and that row.
//!
//! An adapter of the router is one like that of any projection. An adapter of the experts (PEFT's `target_parameters`) has an `A` and a `B` for each, beside its own weight: `y += s B (A x)`
//! for the rows of that expert. What is between the two is cheap, and is computed again in backward.

use super::pass::{LayerGrads, Pass};
use crate::EngineError;
use crate::adapter::Lora;
use crate::adapter::lora::Place;
use crate::architecture::config::{Experts, ModelConfig};
use crate::architecture::layout::ExpertOffsets;
use crate::architecture::tensors::{ExpertKind, ExpertTensor};
use crate::kernels::{
    Combine, ExpertColumns, ExpertProduct, ExpertWeights, Format, Gemm, Kernels, Routing, at, at_mut,
};

/// What the experts of a layer keep for their backward pass. `n` is the tokens of the batch, `k` the experts of a token.
#[derive(Debug)]
pub struct KeptExperts<B> {
    /// Probabilities of all experts, `[n, experts]`, f32.
    probabilities: B,
    /// Who goes where; see [`Routing::words`].
    routes: B,
    /// Weights of each token's experts, `[n, k]`, f32.
    weights: B,
    /// Gates and ups, `[n * k, 2 * width]`; backward turns them into their gradients.
    gate_up: B,
}

/// Workspace of experts, and what a pass counts of them.
#[derive(Debug)]
pub struct ExpertScratch<B> {
    /// Rows of the residual stream's width, `[n * k, h]`: inputs, outputs and their gradients.
    rows: B,
    /// Products of gate and up, `[n * k, width]`.
    product: B,
    /// Their gradients, `[n * k, width]`.
    dproduct: B,
    /// Gradients of the weights, `[n, k]`, f32.
    dweights: B,
    /// Gradients of the router's logits, `[n, experts]`.
    dlogits: B,
    /// Tokens of each expert in this pass, `[layers of experts, experts]`, f32.
    counts: B,
    /// Sums of its probabilities, likewise.
    sums: B,
    /// What the load-balancing loss adds to the derivative by each expert's probability, `[experts]`, f32.
    slopes: B,
    /// For an adapter of the experts.
    adapter: Option<AdapterScratch<B>>,
}

/// What an adapter of experts works in.
#[derive(Debug)]
struct AdapterScratch<B> {
    /// `s A x`, `[n * k, rank]`.
    small: B,
    /// Its gradient, likewise.
    dsmall: B,
    /// `B` of each expert, `[experts, out, rank]`.
    columns: B,
    /// Its gradient, likewise, f32.
    dcolumns: B,
}

/// How the tokens of a pass went to the experts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Routed {
    /// Tokens of each expert, `[layers of experts, experts]`.
    pub(crate) tokens: Vec<u64>,
    /// The load-balancing loss, before its coefficient: `experts` times the sum over the experts of the share of tokens that go
    /// to one and the mean of its probability, of all layers together (`load_balancing_loss_func` of transformers).
    pub(crate) loss: f64,
}

impl<B> KeptExperts<B> {
    /// For `n` tokens.
    pub(super) fn alloc<K: Kernels<Buffer = B>>(kernels: &K, experts: Experts, n: usize) -> Self {
        let routing = routing(experts, n);
        let single = |len| kernels.alloc(Format::F32, len);
        Self {
            probabilities: single(n * experts.count),
            routes: single(routing.words()),
            weights: single(routing.assigned()),
            gate_up: kernels.alloc(Format::Working, routing.assigned() * 2 * experts.width),
        }
    }

    /// Its buffers.
    pub(super) fn buffers(&self) -> impl Iterator<Item = &B> {
        let Self { probabilities, routes, weights, gate_up } = self;
        [probabilities, routes, weights, gate_up].into_iter()
    }
}

impl<B> ExpertScratch<B> {
    /// For `n` tokens; none for a model without experts.
    pub(super) fn alloc<K: Kernels<Buffer = B>>(
        kernels: &K,
        config: &ModelConfig,
        n: usize,
        lora: Option<&Lora<B>>,
    ) -> Option<Self> {
        let experts = config.experts?;
        let (assigned, all) = (routing(experts, n).assigned(), config.expert_layers() * experts.count);
        let (working, single) = (|len| kernels.alloc(Format::Working, len), |len| kernels.alloc(Format::F32, len));
        Some(Self {
            rows: working(assigned * config.hidden_size),
            product: working(assigned * experts.width),
            dproduct: working(assigned * experts.width),
            dweights: single(assigned),
            dlogits: working(n * experts.count),
            counts: single(all),
            sums: single(all),
            slopes: single(experts.count),
            adapter: lora.map(Lora::expert_rank).filter(|&rank| rank > 0).map(|rank| {
                let out =
                    ExpertTensor::ALL.map(|tensor| tensor.shape(config, experts)[0]).into_iter().max().unwrap_or(0);
                let columns = experts.count * out * rank;
                AdapterScratch {
                    small: working(assigned * rank),
                    dsmall: working(assigned * rank),
                    columns: working(columns),
                    dcolumns: single(columns),
                }
            }),
        })
    }

    /// Its buffers.
    pub(super) fn buffers(&self) -> impl Iterator<Item = &B> {
        let Self { rows, product, dproduct, dweights, dlogits, counts, sums, slopes, adapter } = self;
        let adapter = adapter.iter().flat_map(|AdapterScratch { small, dsmall, columns, dcolumns }| {
            [small, dsmall, columns, dcolumns].into_iter()
        });
        [rows, product, dproduct, dweights, dlogits, counts, sums, slopes].into_iter().chain(adapter)
    }

    /// What the last pass, which was over `n` tokens, has counted. Waits for the device.
    pub(super) fn routed<K: Kernels<Buffer = B>>(&self, kernels: &K, config: &ModelConfig, n: usize) -> Option<Routed> {
        let (experts, layers) = (config.experts?.count, config.expert_layers());
        let [counts, sums] = [&self.counts, &self.sums].map(|buffer| {
            let mut values = vec![0.0; layers * experts];
            kernels.download(at(buffer, 0), &mut values);
            values
        });
        let rows = (n * layers) as f64;
        let mean = |values: &[f32], expert: usize| {
            values.iter().skip(expert).step_by(experts).map(|&value| f64::from(value)).sum::<f64>() / rows
        };
        let shares = (0..experts).map(|expert| mean(&counts, expert) * mean(&sums, expert));
        let loss = experts as f64 * shares.sum::<f64>();
        Some(Routed { tokens: counts.into_iter().map(|count| count as u64).collect(), loss })
    }
}

fn routing(experts: Experts, n: usize) -> Routing {
    let Experts { count, per_token, renormalizes, .. } = experts;
    Routing { rows: n, experts: count, per_row: per_token, renormalizes }
}

/// The products of an expert, by how its weights lie.
struct Products {
    /// `[n * k, 2 * width]` from `[n * k, h]`.
    gate_up: ExpertProduct,
    /// `[n * k, h]` from `[n * k, width]`.
    down: ExpertProduct,
}

impl Products {
    fn new(h: usize, width: usize) -> Self {
        Self { gate_up: forward(2 * width, h), down: forward(h, width) }
    }

    /// From the gradient of the output to that of the input.
    fn back(product: ExpertProduct) -> ExpertProduct {
        let ExpertProduct { out, inner, .. } = product;
        ExpertProduct { out: inner, inner: out, is_transposed: false, ..product }
    }
}

/// A product with weights that are stored `[out, inner]`.
fn forward(out: usize, inner: usize) -> ExpertProduct {
    ExpertProduct { out, inner, is_transposed: true, alpha: 1.0, beta: 0.0 }
}

/// The adapter of one tensor of a layer's experts in one pass.
struct ExpertAdapter<'a, K: Kernels> {
    kernels: &'a K,
    params: &'a K::Buffer,
    routing: Routing,
    place: Place,
    out: usize,
    input: usize,
}

impl<K: Kernels> ExpertAdapter<'_, K> {
    /// `s A x` of the experts' rows, into `small`, and each expert's `B`.
    fn down(&self, routes: &K::Buffer, x: &K::Buffer, scratch: &mut AdapterScratch<K::Buffer>) {
        let Self { kernels, params, routing, place, out, input } = *self;
        let product = ExpertProduct { alpha: place.scale, ..forward(place.r, input) };
        let small = at_mut(&mut scratch.small, 0);
        kernels.expert_products(routing, product, at(routes, 0), at(x, 0), at(params, place.a), None, small);
        let columns = ExpertColumns { experts: routing.experts, out, rank: place.r };
        kernels.split_columns(columns, at(params, place.b), at_mut(&mut scratch.columns, 0));
    }

    /// Adds its part to `y [n * k, out]`.
    fn forward(&self, routes: &K::Buffer, x: &K::Buffer, y: &mut K::Buffer, scratch: &mut AdapterScratch<K::Buffer>) {
        self.down(routes, x, scratch);
        let product = ExpertProduct { beta: 1.0, ..forward(self.out, self.place.r) };
        let (small, columns) = (at(&scratch.small, 0), at(&scratch.columns, 0));
        self.kernels.expert_products(self.routing, product, at(routes, 0), small, columns, None, at_mut(y, 0));
    }

    /// The gradient of `s A x` from that of the output, into `dsmall`.
    fn back(&self, routes: &K::Buffer, dy: &K::Buffer, scratch: &mut AdapterScratch<K::Buffer>) {
        let Self { kernels, params, routing, place, out, .. } = *self;
        let columns = ExpertColumns { experts: routing.experts, out, rank: place.r };
        kernels.split_columns(columns, at(params, place.b), at_mut(&mut scratch.columns, 0));
        let through = ExpertProduct { alpha: place.scale, ..Products::back(forward(out, place.r)) };
        let (columns, dsmall) = (at(&scratch.columns, 0), at_mut(&mut scratch.dsmall, 0));
        kernels.expert_products(routing, through, at(routes, 0), at(dy, 0), columns, None, dsmall);
    }

    /// Adds its part of the input's gradient to `dx [n * k, input]`, behind [`Self::back`].
    fn add_input_gradient(&self, routes: &K::Buffer, dx: &mut K::Buffer, scratch: &AdapterScratch<K::Buffer>) {
        let Self { kernels, params, routing, place, input, .. } = *self;
        let through = ExpertProduct { beta: 1.0, ..Products::back(forward(place.r, input)) };
        let (dsmall, a) = (at(&scratch.dsmall, 0), at(params, place.a));
        kernels.expert_products(routing, through, at(routes, 0), dsmall, a, None, at_mut(dx, 0));
    }

    /// Gradients of `A` and `B`, behind [`Self::back`], from the input and the gradient of the output, of which one is times
    /// the rows' weights.
    fn learn(
        &self,
        routes: &K::Buffer,
        x: &K::Buffer,
        dy: &K::Buffer,
        (gradients, beta): (&mut K::Buffer, f32),
        scratch: &mut AdapterScratch<K::Buffer>,
    ) {
        self.down(routes, x, scratch);
        let Self { kernels, routing, place, out, input, .. } = *self;
        let (rank, count) = (place.r, routing.experts);
        let all = |rows: usize, size: usize, first: usize| -> Vec<ExpertWeights> {
            let part = |expert| ExpertWeights { expert, column: 0, rows, place: first + expert * size };
            (0..count).map(part).collect()
        };
        let (parts, dcolumns) = (all(out, out * rank, 0), at_mut(&mut scratch.dcolumns, 0));
        let small = at(&scratch.small, 0);
        kernels.expert_gradients(routing, [out, rank], at(routes, 0), at(dy, 0), small, &parts, 0.0, dcolumns);
        let columns = ExpertColumns { experts: count, out, rank };
        kernels.join_columns(columns, beta, at(&scratch.dcolumns, 0), at_mut(gradients, place.b));
        let parts = all(rank, rank * input, place.a);
        let (dsmall, gradients) = (at(&scratch.dsmall, 0), at_mut(gradients, 0));
        kernels.expert_gradients(routing, [rank, input], at(routes, 0), dsmall, at(x, 0), &parts, beta, gradients);
    }
}

/// The adapter of a layer's router in one pass.
struct RouterAdapter<'a, K: Kernels> {
    kernels: &'a K,
    params: &'a K::Buffer,
    place: Place,
    /// Rows, experts, width of the input.
    sizes: [usize; 3],
}

impl<K: Kernels> RouterAdapter<'_, K> {
    /// `s A x` into `small [n, rank]`.
    fn down(&self, x: &K::Buffer, small: &mut K::Buffer) {
        let (Place { a, r, scale, .. }, [n, _, h]) = (self.place, self.sizes);
        let product = Gemm { alpha: scale, ..Gemm::new([n, r, h], (false, true), [h, h, r], 0.0) };
        self.kernels.gemm(product, at(x, 0), at(self.params, a), at_mut(small, 0));
    }

    /// Adds its part to the logits, `[n, experts]`.
    fn forward(&self, x: &K::Buffer, logits: &mut K::Buffer, scratch: &mut AdapterScratch<K::Buffer>) {
        self.down(x, &mut scratch.small);
        let (Place { b, r, .. }, [n, count, _]) = (self.place, self.sizes);
        let product = Gemm::new([n, count, r], (false, true), [r, r, count], 1.0);
        self.kernels.gemm(product, at(&scratch.small, 0), at(self.params, b), at_mut(logits, 0));
    }

    /// From the gradient of the logits to those of `A` and `B`, over `beta` times what was there, and its part of the input's,
    /// which is added to `dx`.
    fn backward(
        &self,
        x: &K::Buffer,
        dlogits: &K::Buffer,
        dx: &mut K::Buffer,
        (gradients, beta): (&mut K::Buffer, f32),
        scratch: &mut AdapterScratch<K::Buffer>,
    ) {
        self.down(x, &mut scratch.small);
        let (kernels, params) = (self.kernels, self.params);
        let (Place { a, b, r, scale, .. }, [n, count, h]) = (self.place, self.sizes);
        let AdapterScratch { small, dsmall, .. } = scratch;
        let of_b = Gemm::new([count, r, n], (true, false), [count, r, r], beta);
        kernels.gemm(of_b, at(dlogits, 0), at(&*small, 0), at_mut(gradients, b));
        let through = Gemm { alpha: scale, ..Gemm::new([n, r, count], (false, false), [count, r, r], 0.0) };
        kernels.gemm(through, at(dlogits, 0), at(params, b), at_mut(dsmall, 0));
        let of_a = Gemm::new([r, h, n], (true, false), [r, h, h], beta);
        kernels.gemm(of_a, at(&*dsmall, 0), at(x, 0), at_mut(gradients, a));
        let through = Gemm::new([n, h, r], (false, false), [r, h, h], 1.0);
        kernels.gemm(through, at(&*dsmall, 0), at(params, a), at_mut(dx, 0));
    }
}

impl<K: Kernels> Pass<'_, K> {
    /// The adapter of a layer's router, where it has one.
    fn router_adapter(&self, layer: usize, experts: Experts) -> Option<RouterAdapter<'_, K>> {
        let (lora, sizes) = (self.lora?, [self.n, experts.count, self.config.hidden_size]);
        let place = lora.router_place(layer)?;
        Some(RouterAdapter { kernels: self.kernels, params: &lora.params, place, sizes })
    }

    /// Which of the layers with experts this one is.
    fn number_of_experts_layer(&self, layer: usize) -> usize {
        self.config.layers[..layer].iter().filter(|layer| layer.has_experts).count()
    }

    /// The adapter of a tensor of a layer's experts, where it has one.
    fn expert_adapter(&self, layer: usize, experts: Experts, tensor: ExpertTensor) -> Option<ExpertAdapter<'_, K>> {
        let lora = self.lora?;
        let (place, [out, input]) = (lora.expert_place(layer, tensor)?, tensor.shape(self.config, experts));
        let (kernels, routing) = (self.kernels, routing(experts, self.n));
        Some(ExpertAdapter { kernels, params: &lora.params, routing, place, out, input })
    }

    /// `y [n, h]` from `x [n, h]`, plus `residual` where there is one, or over `beta` times what `y` held.
    pub(super) fn experts(
        &self,
        (layer, experts): (usize, Experts),
        offsets: ExpertOffsets,
        x: &K::Buffer,
        (residual, beta): (Option<&K::Buffer>, f32),
        y: &mut K::Buffer,
        kept: &mut KeptExperts<K::Buffer>,
        scratch: &mut ExpertScratch<K::Buffer>,
    ) {
        let (kernels, params, n, h) = (self.kernels, self.params, self.n, self.config.hidden_size);
        let (routing, count, width) = (routing(experts, n), experts.count, experts.width);
        let KeptExperts { probabilities, routes, weights, gate_up } = kept;
        let ExpertScratch { rows, product, counts, sums, adapter, .. } = scratch;
        let adapted = |tensor| self.expert_adapter(layer, experts, tensor);
        let logits = Gemm::new([n, count, h], (false, true), [h, h, count], 0.0);
        kernels.gemm(logits, at(x, 0), at(params, offsets.router), at_mut(probabilities, 0));
        if let Some((own, scratch)) = self.router_adapter(layer, experts).zip(adapter.as_mut()) {
            own.forward(x, probabilities, scratch);
        }
        kernels.route(routing, at_mut(probabilities, 0), at_mut(routes, 0), at_mut(weights, 0));
        let place = self.number_of_experts_layer(layer) * count;
        let (counts, sums) = (at_mut(counts, place), at_mut(sums, place));
        kernels.count_routes(routing, at(probabilities, 0), at(routes, 0), counts, sums);
        let products = Products::new(h, width);
        kernels.dispatch(routing, h, at(routes, 0), at(x, 0), at_mut(rows, 0));
        let weight = at(params, offsets.gate_up);
        kernels.expert_products(
            routing,
            products.gate_up,
            at(routes, 0),
            at(rows, 0),
            weight,
            self.compact,
            at_mut(gate_up, 0),
        );
        if let Some((own, scratch)) = adapted(ExpertTensor::GateUp).zip(adapter.as_mut()) {
            own.forward(routes, rows, gate_up, scratch);
        }
        kernels.glu(self.config.activation, routing.assigned(), width, at(gate_up, 0), at_mut(product, 0));
        let weight = at(params, offsets.down);
        kernels.expert_products(
            routing,
            products.down,
            at(routes, 0),
            at(product, 0),
            weight,
            self.compact,
            at_mut(rows, 0),
        );
        if let Some((own, scratch)) = adapted(ExpertTensor::Down).zip(adapter.as_mut()) {
            own.forward(routes, product, rows, scratch);
        }
        let combine = Combine { width: h, alpha: self.config.residual_scale, beta };
        let (weights, residual) = (Some(at(weights, 0)), residual.map(|residual| at(residual, 0)));
        kernels.combine(routing, combine, at(routes, 0), weights, at(rows, 0), residual, at_mut(y, 0));
    }

    /// Makes what the load-balancing loss adds to the gradients of all layers, where training adds it: from what the forward
    /// pass has counted of all of them.
    pub(super) fn balance(&self, scratch: Option<&mut ExpertScratch<K::Buffer>>) {
        let (Some(experts), Some(coefficient), Some(scratch)) = (self.config.experts, self.config.balance(), scratch)
        else {
            return;
        };
        let (routing, layers) = (routing(experts, self.n), self.config.expert_layers());
        let (counts, slopes) = (at(&scratch.counts, 0), at_mut(&mut scratch.slopes, 0));
        self.kernels.balance(routing, layers, coefficient, counts, slopes);
    }

    /// From the gradient `dy [n, h]` of the output of [`Self::experts`] to that of its input `x`, over `beta` times what `dx`
    /// held; and the gradients of what is trained.
    pub(super) fn experts_backward(
        &self,
        (layer, experts): (usize, Experts),
        offsets: ExpertOffsets,
        x: &K::Buffer,
        dy: &K::Buffer,
        (dx, beta): (&mut K::Buffer, f32),
        kept: &mut KeptExperts<K::Buffer>,
        scratch: &mut ExpertScratch<K::Buffer>,
        grads: &mut LayerGrads<'_, K::Buffer>,
    ) {
        let (kernels, params, n, h) = (self.kernels, self.params, self.n, self.config.hidden_size);
        let (routing, count, width) = (routing(experts, n), experts.count, experts.width);
        let (products, activation) = (Products::new(h, width), self.config.activation);
        let KeptExperts { probabilities, routes, weights, gate_up } = kept;
        let who = &*routes;
        let routes = || at(who, 0);
        let ExpertScratch { rows, product, dproduct, dweights, dlogits, slopes, adapter, .. } = scratch;
        let adapted = |tensor| self.expert_adapter(layer, experts, tensor).filter(|_| grads.adapter.is_some());
        let [of_gate_up, of_down] = ExpertTensor::ALL.map(adapted);
        kernels.dispatch(routing, h, routes(), at(dy, 0), at_mut(rows, 0));
        let weight = at(params, offsets.down);
        let back = Products::back(products.down);
        kernels.expert_products(routing, back, routes(), at(rows, 0), weight, None, at_mut(dproduct, 0));
        if let Some((own, scratch)) = of_down.as_ref().zip(adapter.as_mut()) {
            own.back(who, rows, scratch);
            own.add_input_gradient(who, dproduct, scratch);
        }
        kernels.glu(activation, routing.assigned(), width, at(gate_up, 0), at_mut(product, 0));
        let (da, a, dw) = (at_mut(dproduct, 0), at_mut(product, 0), at_mut(dweights, 0));
        kernels.weigh_experts(routing, width, self.config.residual_scale, routes(), at(weights, 0), da, a, dw);
        if let (Some(own), Some(scratch), Some(gradients)) = (&of_down, adapter.as_mut(), grads.adapter.as_deref_mut())
        {
            own.learn(who, product, rows, (gradients, grads.beta), scratch);
        }
        let parts = parts(grads, [width, h], |kind| kind == ExpertKind::Down);
        if !parts.is_empty() {
            let gradients = at_mut(grads.weights, 0);
            let (dy, x) = (at(rows, 0), at(product, 0));
            kernels.expert_gradients(routing, [h, width], routes(), dy, x, &parts, grads.beta, gradients);
        }
        kernels.glu_backward(activation, routing.assigned(), width, at(dproduct, 0), at_mut(gate_up, 0));
        let parts = self::parts(grads, [width, h], |kind| kind != ExpertKind::Down);
        if !parts.is_empty() || of_gate_up.is_some() {
            kernels.dispatch(routing, h, routes(), at(x, 0), at_mut(rows, 0));
        }
        if !parts.is_empty() {
            let gradients = at_mut(grads.weights, 0);
            let (dy, x) = (at(gate_up, 0), at(rows, 0));
            kernels.expert_gradients(routing, [2 * width, h], routes(), dy, x, &parts, grads.beta, gradients);
        }
        if let (Some(own), Some(scratch), Some(gradients)) =
            (&of_gate_up, adapter.as_mut(), grads.adapter.as_deref_mut())
        {
            own.back(who, gate_up, scratch);
            own.learn(who, rows, gate_up, (gradients, grads.beta), scratch);
        }
        let weight = at(params, offsets.gate_up);
        let back = Products::back(products.gate_up);
        kernels.expert_products(routing, back, routes(), at(gate_up, 0), weight, None, at_mut(rows, 0));
        if let Some((own, scratch)) = of_gate_up.as_ref().zip(adapter.as_mut()) {
            own.add_input_gradient(who, rows, scratch);
        }
        let combine = Combine { width: h, alpha: 1.0, beta };
        kernels.combine(routing, combine, routes(), None, at(rows, 0), None, at_mut(dx, 0));
        let slopes = self.config.balance().map(|_| at(&*slopes, 0));
        let (probabilities, dlogits_out) = (at(&*probabilities, 0), at_mut(dlogits, 0));
        kernels.route_backward(routing, probabilities, routes(), at(&*dweights, 0), slopes, dlogits_out);
        if let Some(place) = grads.places.router {
            let of_router = Gemm::new([count, h, n], (true, false), [count, h, h], grads.beta);
            kernels.gemm(of_router, at(&*dlogits, 0), at(x, 0), at_mut(grads.weights, place));
        }
        let through = Gemm::new([n, h, count], (false, false), [count, h, h], 1.0);
        kernels.gemm(through, at(&*dlogits, 0), at(params, offsets.router), at_mut(dx, 0));
        let own = self.router_adapter(layer, experts);
        if let (Some(own), Some(scratch), Some(gradients)) = (own, adapter.as_mut(), grads.adapter.as_deref_mut()) {
            own.backward(x, dlogits, dx, (gradients, grads.beta), scratch);
        }
    }
}

/// The trained weights of some kinds, `[width, h]` each gate and input; an expert's gate and input are one where both are
/// trained.
fn parts<B>(
    grads: &LayerGrads<'_, B>,
    [width, h]: [usize; 2],
    is_wanted: impl Fn(ExpertKind) -> bool,
) -> Vec<ExpertWeights> {
    let mut parts: Vec<ExpertWeights> = Vec::new();
    for &(expert, kind, place) in grads.places.experts.iter().filter(|&&(_, kind, _)| is_wanted(kind)) {
        let (column, rows) = match kind {
            ExpertKind::Gate => (0, width),
            ExpertKind::Up => (width, width),
            ExpertKind::Down => (0, h),
        };
        match parts.last_mut() {
            Some(last) if kind == ExpertKind::Up && last.expert == expert && last.place + width * h == place => {
                last.rows += rows;
            }
            _ => parts.push(ExpertWeights { expert, column, rows, place }),
        }
    }
    parts
}

impl ModelConfig {
    /// That its weights may be packed, if they are to be: those of experts are not.
    ///
    /// # Errors
    /// [`EngineError::Options`] for a model of experts that is to be quantized.
    pub(crate) fn check_packing(&self) -> Result<(), EngineError> {
        match self.cannot_be_packed().filter(|_| self.quantization.is_some()) {
            Some(reason) => Err(EngineError::Options { reason: reason.into() }),
            None => Ok(()),
        }
    }
}
