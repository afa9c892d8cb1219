//! The CPU: `gemm` for large products, and fused loops compiled for AVX-512, AVX2 and the baseline, chosen at run time.
//! One rayon pool. Every sum has an order that does not depend on how many threads there are.

mod adamw;
#[cfg(target_arch = "x86_64")]
mod amx;
pub(super) mod attention;
mod cache;
pub(super) mod compact;
pub(super) mod cross_entropy;
mod direction;
mod documents;
mod elementwise;
pub(super) mod experts;
mod few_rows;
pub(super) mod matmul;
mod norm;
mod packed;
mod pages;
mod scores;
mod simd;
mod threads;
mod xielu;

use super::{
    Activation, AdamState, AdamStep, Attended, AttentionShape, Cache, CacheMut, Combine, DropoutKey, ExpertColumns,
    ExpertOps, ExpertProduct, ExpertWeights, Format, Gemm, Head, LayerAttention, LossGradients, Memory, Norm, Normed,
    OptimizerOps, Packed, Queue, Rotation, Routing, Rows, Scaled, Segment, Targets, TensorOps, Totals, View, ViewMut,
    XieluGradients,
};
use crate::operands::extent;
use pages::prefer_huge_pages;

/// The CPU as a device.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuKernels;

/// Instruction sets beyond the baseline that are used on this machine.
pub fn instructions() -> Vec<&'static str> {
    let mut names = match simd::level() {
        0 => Vec::new(),
        1 => vec!["AVX2"],
        _ => vec!["AVX2", "AVX-512"],
    };
    #[cfg(target_arch = "x86_64")]
    if amx::is_available() {
        names.push("AMX");
    }
    names
}

/// Host memory of f32. Fresh memory is zero and takes no room until it is written.
#[derive(Debug, Default)]
pub struct CpuBuffer {
    data: Vec<f32>,
}

impl CpuBuffer {
    /// The elements.
    pub fn as_slice(&self) -> &[f32] {
        &self.data
    }

    /// The elements, to write.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.data
    }
}

/// Replaces logits `z` by `cap * tanh(z / cap)`, as [`TensorOps::linear_log_probs`] does.
pub fn cap_logits(logits: &mut [f32], cap: f32) {
    cross_entropy::cap_row(logits, cap, &mut []);
}

/// Replaces logits `z` by `exp(scale * z - largest)`; returns `largest`, that of the scaled logits, and the sum. With the
/// operations and in the order of [`TensorOps::linear_log_probs`], so that `scale * z - (largest + sum.ln())` is the same bits.
pub fn exponentials(logits: &mut [f32], scale: f32) -> (f32, f32) {
    simd::exp_row(logits, scale)
}

impl<'a> View<'a, CpuBuffer> {
    fn slice(self, len: usize) -> &'a [f32] {
        &self.buffer.data[self.offset..self.offset + len]
    }

    fn rest(self) -> &'a [f32] {
        &self.buffer.data[self.offset..]
    }
}

impl<'a> ViewMut<'a, CpuBuffer> {
    fn slice(self, len: usize) -> &'a mut [f32] {
        &mut self.buffer.data[self.offset..self.offset + len]
    }

    fn rest(self) -> &'a mut [f32] {
        &mut self.buffer.data[self.offset..]
    }
}

/// The rows of a pass.
#[derive(Debug)]
pub struct CpuRows {
    ids: Vec<u32>,
    positions: Vec<u32>,
    doc_lens: Vec<u32>,
    continues: Vec<u32>,
    targets: Vec<u32>,
    weights: Option<Vec<f32>>,
    scale: f32,
    slots: Vec<u32>,
    lens: Vec<u32>,
    dropout: u64,
    noise: Vec<f32>,
}

impl CpuRows {
    fn targets(&self) -> Targets<'_> {
        Targets { tokens: &self.targets, weights: self.weights.as_deref(), scale: self.scale }
    }
}

/// Sums, and what was made of them.
#[derive(Debug)]
pub struct CpuAccumulator {
    totals: Totals,
    factor: f32,
}

impl Memory for CpuKernels {
    type Buffer = CpuBuffer;

    fn alloc(&self, _: Format, len: usize) -> CpuBuffer {
        let data = vec![0.0; len];
        prefer_huge_pages(&data);
        CpuBuffer { data }
    }

    fn bytes(&self, buffer: &CpuBuffer) -> u64 {
        size_of_val(buffer.data.as_slice()) as u64
    }

    fn upload(&self, source: &[f32], target: ViewMut<'_, CpuBuffer>) {
        target.slice(source.len()).copy_from_slice(source);
    }

    fn put_words(&self, source: &[u32], target: ViewMut<'_, CpuBuffer>) {
        for (target, &word) in target.slice(source.len()).iter_mut().zip(source) {
            *target = f32::from_bits(word);
        }
    }

    fn download(&self, source: View<'_, CpuBuffer>, target: &mut [f32]) {
        target.copy_from_slice(source.slice(target.len()));
    }

    fn copy(&self, len: usize, source: View<'_, CpuBuffer>, target: ViewMut<'_, CpuBuffer>) {
        elementwise::copy(source.slice(len), target.slice(len));
    }

    fn copy_within(&self, len: usize, buffer: &mut CpuBuffer, source: usize, target: usize) {
        buffer.data.copy_within(source..source + len, target);
    }

    fn zero(&self, len: usize, target: ViewMut<'_, CpuBuffer>) {
        elementwise::zero(target.slice(len));
    }
}

impl Queue for CpuKernels {
    type Staged = CpuRows;
    type Accumulator = CpuAccumulator;
    type Graphs = ();

    fn within<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        rayon::scope(|_| work())
    }

    fn continues_documents(&self) -> bool {
        true
    }

    fn stage(&self, rows: Rows<'_>, staged: &mut Option<CpuRows>) {
        let (targets, cached) = (rows.targets, rows.cached);
        *staged = Some(CpuRows {
            ids: rows.ids.to_vec(),
            positions: rows.positions.to_vec(),
            doc_lens: rows.doc_lens.to_vec(),
            continues: rows.continues.to_vec(),
            targets: targets.map_or_else(Vec::new, |targets| targets.tokens.to_vec()),
            weights: targets.and_then(|targets| targets.weights).map(<[f32]>::to_vec),
            scale: targets.map_or(0.0, |targets| targets.scale),
            slots: cached.map_or_else(Vec::new, |cached| cached.slots.to_vec()),
            lens: cached.map_or_else(Vec::new, |cached| cached.lens.to_vec()),
            dropout: rows.dropout,
            noise: rows.noise.map_or_else(Vec::new, <[f32]>::to_vec),
        });
    }

    fn weigh(&self, weights: &[f32], scale: f32, rows: &mut CpuRows) {
        let own = rows.weights.as_mut().expect("the rows were staged with weights");
        own.copy_from_slice(weights);
        rows.scale = scale;
    }

    fn accumulator(&self) -> CpuAccumulator {
        CpuAccumulator { totals: Totals::default(), factor: 1.0 }
    }

    fn clear(&self, accumulator: &mut CpuAccumulator) {
        *accumulator = self.accumulator();
    }

    fn totals(&self, accumulator: &CpuAccumulator) -> Totals {
        accumulator.totals
    }
}

impl TensorOps for CpuKernels {
    type Compact = compact::Compact;

    fn compact(&self, buffer: &CpuBuffer, matrices: &[(usize, [usize; 2])]) -> Option<compact::Compact> {
        if few_rows::reads_halves() { compact::Compact::new(&buffer.data, matrices) } else { None }
    }

    fn gemm_compact(
        &self,
        gemm: Gemm,
        a: View<'_, CpuBuffer>,
        b: View<'_, CpuBuffer>,
        compact: &compact::Compact,
        c: ViewMut<'_, CpuBuffer>,
    ) {
        matmul::gemm_compact(gemm, a.rest(), b.rest(), compact.panels(b.offset, [gemm.n, gemm.k]), c.rest());
    }

    fn unpack(&self, packed: Packed, words: &CpuBuffer, out: ViewMut<'_, CpuBuffer>) {
        packed::unpack(packed, &words.data, out.slice(packed.len()));
    }

    fn gemm(&self, gemm: Gemm, a: View<'_, CpuBuffer>, b: View<'_, CpuBuffer>, c: ViewMut<'_, CpuBuffer>) {
        matmul::gemm(gemm, a.rest(), b.rest(), c.rest(), threads::Threads::All);
    }

    fn embed(&self, h: usize, rows: &CpuRows, table: View<'_, CpuBuffer>, out: ViewMut<'_, CpuBuffer>) {
        elementwise::embed(h, &rows.ids, table.rest(), out.slice(rows.ids.len() * h));
    }

    fn noise(&self, h: usize, rows: &CpuRows, seed: u64, stream: u64, x: ViewMut<'_, CpuBuffer>) {
        elementwise::noise(h, seed, stream ^ rows.dropout, &rows.noise, x.slice(rows.noise.len() * h));
    }

    fn embed_backward(&self, h: usize, rows: &CpuRows, dy: View<'_, CpuBuffer>, dtable: ViewMut<'_, CpuBuffer>) {
        elementwise::embed_backward(h, &rows.ids, dy.slice(rows.ids.len() * h), dtable.rest());
    }

    fn scale(&self, len: usize, factor: f32, x: ViewMut<'_, CpuBuffer>) {
        elementwise::scale(factor, x.slice(len));
    }

    fn copy_columns(
        &self,
        rows: usize,
        width: usize,
        stride: usize,
        source: View<'_, CpuBuffer>,
        target: ViewMut<'_, CpuBuffer>,
    ) {
        let len = extent(rows, width, stride);
        elementwise::copy_columns(rows, width, stride, source.slice(len), target.slice(len));
    }

    fn rmsnorm(
        &self,
        norm: Norm,
        x: View<'_, CpuBuffer>,
        w: View<'_, CpuBuffer>,
        residual: Option<View<'_, CpuBuffer>>,
        y: ViewMut<'_, CpuBuffer>,
        r: ViewMut<'_, CpuBuffer>,
    ) {
        let (len, w, r) = (norm.extent(), w.slice(norm.width), r.slice(norm.count()));
        norm::forward(norm, x.slice(len), w, residual.map(|residual| residual.slice(len)), y.slice(len), r);
    }

    fn rmsnorm_again(&self, norm: Norm, normed: Normed<'_, CpuBuffer>, y: ViewMut<'_, CpuBuffer>) {
        let len = norm.extent();
        let Normed { x, w, r } = normed;
        norm::again(norm, x.slice(len), w.slice(norm.width), r.slice(norm.count()), y.slice(len));
    }

    fn rmsnorm_backward(
        &self,
        norm: Norm,
        normed: Normed<'_, CpuBuffer>,
        dy: Option<View<'_, CpuBuffer>>,
        dx: ViewMut<'_, CpuBuffer>,
        dw: Option<(ViewMut<'_, CpuBuffer>, f32)>,
    ) {
        let len = norm.extent();
        let (dy, dw) = (dy.map(|dy| dy.slice(len)), dw.map(|(dw, beta)| (dw.slice(norm.width), beta)));
        let Normed { x, w, r } = normed;
        norm::backward(norm, x.slice(len), w.slice(norm.width), r.slice(norm.count()), dy, dx.slice(len), dw);
    }

    fn row_norms(
        &self,
        rows: usize,
        width: usize,
        w: View<'_, CpuBuffer>,
        added: View<'_, CpuBuffer>,
        norms: ViewMut<'_, CpuBuffer>,
    ) {
        direction::row_norms(width, w.slice(rows * width), added.slice(rows * width), norms.slice(rows));
    }

    fn add_scaled(
        &self,
        scaled: Scaled,
        factors: Option<(View<'_, CpuBuffer>, View<'_, CpuBuffer>)>,
        z: View<'_, CpuBuffer>,
        beta: f32,
        y: ViewMut<'_, CpuBuffer>,
    ) {
        let (len, width) = (scaled.extent(), scaled.width);
        let factors = factors.map(|(m, norms)| (m.slice(width), norms.slice(width)));
        direction::add_scaled(scaled, factors, z.slice(len), beta, y.slice(len));
    }

    fn add_scaled_backward(
        &self,
        scaled: Scaled,
        (m, norms): (View<'_, CpuBuffer>, View<'_, CpuBuffer>),
        dy: View<'_, CpuBuffer>,
        z: ViewMut<'_, CpuBuffer>,
        (dm, beta): (ViewMut<'_, CpuBuffer>, f32),
    ) {
        let (len, width) = (scaled.extent(), scaled.width);
        let (factors, dm) = ((m.slice(width), norms.slice(width)), (dm.slice(width), beta));
        direction::add_scaled_backward(scaled, factors, dy.slice(len), z.slice(len), dm);
    }

    fn rope(
        &self,
        rotation: Rotation,
        rows: &CpuRows,
        table: View<'_, CpuBuffer>,
        backward: bool,
        x: ViewMut<'_, CpuBuffer>,
    ) {
        let positions = &rows.positions;
        let x = x.slice(extent(positions.len(), rotation.heads * rotation.head_dim, rotation.stride));
        elementwise::rope(rotation, positions, table.rest(), backward, x);
    }

    fn attention(
        &self,
        attention: LayerAttention,
        rows: &CpuRows,
        qkv: View<'_, CpuBuffer>,
        out: ViewMut<'_, CpuBuffer>,
        lse: ViewMut<'_, CpuBuffer>,
    ) {
        let LayerAttention { shape, window } = attention;
        let n = rows.ids.len();
        let (qkv, out, lse) =
            (qkv.slice(n * shape.packed()), out.slice(n * shape.output()), lse.slice(n * shape.heads));
        attention::forward(shape, window, (&rows.doc_lens, &rows.continues), qkv, out, lse);
    }

    fn attention_backward(
        &self,
        attention: LayerAttention,
        rows: &CpuRows,
        attended: Attended<'_, CpuBuffer>,
        dout: View<'_, CpuBuffer>,
        dqkv: ViewMut<'_, CpuBuffer>,
    ) {
        let LayerAttention { shape, window } = attention;
        let n = rows.ids.len();
        let saved = attention::Saved {
            qkv: attended.qkv.slice(n * shape.packed()),
            out: attended.out.slice(n * shape.output()),
            lse: attended.lse.slice(n * shape.heads),
        };
        let (dout, dqkv) = (dout.slice(n * shape.output()), dqkv.slice(n * shape.packed()));
        attention::backward(shape, window, (&rows.doc_lens, &rows.continues), &saved, dout, dqkv);
    }

    fn append(&self, shape: AttentionShape, rows: &CpuRows, qkv: View<'_, CpuBuffer>, cache: CacheMut<'_, CpuBuffer>) {
        let CacheMut { capacity, keys, values } = cache;
        let qkv = qkv.slice(rows.slots.len() * shape.packed());
        cache::append(shape, capacity, &rows.slots, &rows.lens, qkv, keys.rest(), values.rest());
    }

    fn attention_cached(
        &self,
        attention: LayerAttention,
        rows: &CpuRows,
        qkv: View<'_, CpuBuffer>,
        cache: Cache<'_, CpuBuffer>,
        out: ViewMut<'_, CpuBuffer>,
    ) {
        let LayerAttention { shape, window } = attention;
        let b = rows.slots.len();
        let (qkv, out) = (qkv.slice(b * shape.packed()), out.slice(b * shape.output()));
        let cache = cache::Cache { capacity: cache.capacity, keys: cache.keys.rest(), values: cache.values.rest() };
        cache::attention(shape, window, &rows.slots, &rows.lens, &cache, qkv, out);
    }

    fn glu(&self, activation: Activation, n: usize, ffn: usize, gu: View<'_, CpuBuffer>, a: ViewMut<'_, CpuBuffer>) {
        elementwise::glu(activation, ffn, gu.slice(n * activation.inputs() * ffn), a.slice(n * ffn));
    }

    fn glu_backward(
        &self,
        activation: Activation,
        n: usize,
        ffn: usize,
        da: View<'_, CpuBuffer>,
        gu: ViewMut<'_, CpuBuffer>,
    ) {
        elementwise::glu_backward(activation, ffn, da.slice(n * ffn), gu.slice(n * activation.inputs() * ffn));
    }

    fn xielu(
        &self,
        n: usize,
        ffn: usize,
        weights: View<'_, CpuBuffer>,
        u: View<'_, CpuBuffer>,
        a: ViewMut<'_, CpuBuffer>,
    ) {
        xielu::forward(weights.slice(4), ffn, u.slice(n * ffn), a.slice(n * ffn));
    }

    fn xielu_backward(
        &self,
        n: usize,
        ffn: usize,
        weights: View<'_, CpuBuffer>,
        da: View<'_, CpuBuffer>,
        u: ViewMut<'_, CpuBuffer>,
        dw: XieluGradients<'_, CpuBuffer>,
    ) {
        let found = xielu::backward(weights.slice(4), ffn, da.slice(n * ffn), u.slice(n * ffn));
        for (found, place) in found.into_iter().zip(dw.places) {
            if let Some(place) = place {
                let held = &mut dw.buffer.data[place];
                *held = if dw.beta == 0.0 { found } else { dw.beta * *held + found };
            }
        }
    }

    fn dropout(
        &self,
        rows: &CpuRows,
        len: usize,
        key: DropoutKey,
        add: bool,
        x: View<'_, CpuBuffer>,
        y: ViewMut<'_, CpuBuffer>,
    ) {
        let key = DropoutKey { stream: key.stream ^ rows.dropout, ..key };
        elementwise::dropout(key, add, x.slice(len), y.slice(len));
    }

    fn linear_log_probs(
        &self,
        head: Head,
        rows: &CpuRows,
        x: View<'_, CpuBuffer>,
        w: View<'_, CpuBuffer>,
        log_probs: ViewMut<'_, CpuBuffer>,
        gradients: Option<LossGradients<'_, CpuBuffer>>,
    ) {
        let (n, Head { width: h, vocabulary: v, .. }) = (rows.ids.len(), head);
        let gradients = gradients.map(|LossGradients { dx, dw, idle }| {
            let (dw, lent) = match dw {
                None => (None, None),
                Some((dw, beta)) => {
                    let parts = dw.buffer.data.get_disjoint_mut([dw.offset..dw.offset + v * h, idle]);
                    let [dw, lent] = parts.expect("the gradient and the idle elements are inside their buffer, apart");
                    (Some((dw, beta)), Some(lent))
                }
            };
            cross_entropy::Gradients { dx: dx.slice(n * h), dw, lent }
        });
        let (x, w, log_probs) = (x.slice(n * h), w.slice(v * h), log_probs.slice(n));
        cross_entropy::linear_log_probs(head, x, w, rows.targets(), log_probs, gradients);
    }

    fn add_loss(&self, rows: &CpuRows, log_probs: View<'_, CpuBuffer>, accumulator: &mut CpuAccumulator) {
        accumulator.totals.loss_sum += cross_entropy::loss(rows.targets(), log_probs.slice(rows.ids.len()));
    }
}

impl ExpertOps for CpuKernels {
    fn route(
        &self,
        routing: Routing,
        router: ViewMut<'_, CpuBuffer>,
        routes: ViewMut<'_, CpuBuffer>,
        weights: ViewMut<'_, CpuBuffer>,
    ) {
        let router = router.slice(routing.rows * routing.experts);
        experts::route(routing, router, routes.slice(routing.words()), weights.slice(routing.assigned()));
    }

    fn count_routes(
        &self,
        routing: Routing,
        probabilities: View<'_, CpuBuffer>,
        routes: View<'_, CpuBuffer>,
        counts: ViewMut<'_, CpuBuffer>,
        sums: ViewMut<'_, CpuBuffer>,
    ) {
        let probabilities = probabilities.slice(routing.rows * routing.experts);
        let (counts, sums) = (counts.slice(routing.experts), sums.slice(routing.experts));
        experts::count(routing, probabilities, routes.slice(routing.words()), counts, sums);
    }

    fn balance(
        &self,
        routing: Routing,
        layers: usize,
        coefficient: f32,
        counts: View<'_, CpuBuffer>,
        slopes: ViewMut<'_, CpuBuffer>,
    ) {
        let (counts, slopes) = (counts.slice(layers * routing.experts), slopes.slice(routing.experts));
        experts::balance(routing, layers, coefficient, counts, slopes);
    }

    fn dispatch(
        &self,
        routing: Routing,
        width: usize,
        routes: View<'_, CpuBuffer>,
        x: View<'_, CpuBuffer>,
        out: ViewMut<'_, CpuBuffer>,
    ) {
        let (routes, x) = (routes.slice(routing.words()), x.slice(routing.rows * width));
        experts::dispatch(routing, width, routes, x, out.slice(routing.assigned() * width));
    }

    fn combine(
        &self,
        routing: Routing,
        combine: Combine,
        routes: View<'_, CpuBuffer>,
        weights: Option<View<'_, CpuBuffer>>,
        x: View<'_, CpuBuffer>,
        residual: Option<View<'_, CpuBuffer>>,
        y: ViewMut<'_, CpuBuffer>,
    ) {
        let len = routing.rows * combine.width;
        let (weights, residual) =
            (weights.map(|weights| weights.slice(routing.assigned())), residual.map(|residual| residual.slice(len)));
        let (routes, x) = (routes.slice(routing.words()), x.slice(routing.assigned() * combine.width));
        experts::combine(routing, combine, routes, weights, x, residual, y.slice(len));
    }

    fn expert_products(
        &self,
        routing: Routing,
        product: ExpertProduct,
        routes: View<'_, CpuBuffer>,
        x: View<'_, CpuBuffer>,
        weights: View<'_, CpuBuffer>,
        compact: Option<&compact::Compact>,
        y: ViewMut<'_, CpuBuffer>,
    ) {
        let ExpertProduct { out, inner, .. } = product;
        let (first, size) = (weights.offset, out * inner);
        let panels = |expert: usize| compact?.panels(first + expert * size, [out, inner]);
        let (x, weights) = (x.slice(routing.assigned() * inner), weights.slice(routing.experts * size));
        let (routes, y) = (routes.slice(routing.words()), y.slice(routing.assigned() * out));
        experts::products(routing, product, routes, x, weights, panels, y);
    }

    fn expert_gradients(
        &self,
        routing: Routing,
        [out, input]: [usize; 2],
        routes: View<'_, CpuBuffer>,
        dy: View<'_, CpuBuffer>,
        x: View<'_, CpuBuffer>,
        parts: &[ExpertWeights],
        beta: f32,
        gradients: ViewMut<'_, CpuBuffer>,
    ) {
        let operands = (dy.slice(routing.assigned() * out), x.slice(routing.assigned() * input));
        let routes = routes.slice(routing.words());
        experts::gradients(routing, [out, input], routes, operands, parts, beta, gradients.rest());
    }

    fn split_columns(&self, columns: ExpertColumns, all: View<'_, CpuBuffer>, apart: ViewMut<'_, CpuBuffer>) {
        let len = columns.experts * columns.out * columns.rank;
        experts::split_columns(columns, all.slice(len), apart.slice(len));
    }

    fn join_columns(&self, columns: ExpertColumns, beta: f32, apart: View<'_, CpuBuffer>, all: ViewMut<'_, CpuBuffer>) {
        let len = columns.experts * columns.out * columns.rank;
        experts::join_columns(columns, beta, apart.slice(len), all.slice(len));
    }

    fn weigh_experts(
        &self,
        routing: Routing,
        width: usize,
        alpha: f32,
        routes: View<'_, CpuBuffer>,
        weights: View<'_, CpuBuffer>,
        da: ViewMut<'_, CpuBuffer>,
        a: ViewMut<'_, CpuBuffer>,
        dweights: ViewMut<'_, CpuBuffer>,
    ) {
        let assigned = routing.assigned();
        let operands = (da.slice(assigned * width), a.slice(assigned * width));
        let (routes, weights) = (routes.slice(routing.words()), weights.slice(assigned));
        experts::weigh(routing, width, alpha, routes, weights, operands, dweights.slice(assigned));
    }

    fn route_backward(
        &self,
        routing: Routing,
        probabilities: View<'_, CpuBuffer>,
        routes: View<'_, CpuBuffer>,
        dweights: View<'_, CpuBuffer>,
        slopes: Option<View<'_, CpuBuffer>>,
        dlogits: ViewMut<'_, CpuBuffer>,
    ) {
        let len = routing.rows * routing.experts;
        let (routes, dweights) = (routes.slice(routing.words()), dweights.slice(routing.assigned()));
        let slopes = slopes.map(|slopes| slopes.slice(routing.experts));
        experts::route_backward(routing, probabilities.slice(len), routes, dweights, slopes, dlogits.slice(len));
    }
}

impl OptimizerOps for CpuKernels {
    type Segments = Vec<Segment>;

    fn sum_of_squares(&self, len: usize, x: View<'_, CpuBuffer>, accumulator: &mut CpuAccumulator) {
        accumulator.totals.squares += elementwise::sum_of_squares(x.slice(len));
    }

    fn clip(&self, max_norm: Option<f64>, accumulator: &mut CpuAccumulator) {
        let norm = accumulator.totals.squares.sqrt();
        accumulator.factor = max_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0)) as f32;
    }

    fn segments(&self, segments: &[Segment]) -> Vec<Segment> {
        segments.to_vec()
    }

    fn adamw(
        &self,
        step: AdamStep,
        segments: &Vec<Segment>,
        accumulator: &CpuAccumulator,
        state: AdamState<'_, CpuBuffer>,
    ) {
        if !accumulator.totals.squares.is_finite() {
            return;
        }
        let AdamState { gradients, exp_avg, exp_avg_sq, params, .. } = state;
        for &Segment { parameter, gradient, len, decays, rate } in segments {
            let step = AdamStep { lr: step.lr * rate, ..step };
            let (own, decay) = (gradient..gradient + len, if decays { step.weight_decay } else { 0.0 });
            adamw::step(
                step,
                accumulator.factor,
                decay,
                &gradients.data[own.clone()],
                &mut exp_avg.data[own.clone()],
                &mut exp_avg_sq.data[own],
                &mut params.data[parameter..parameter + len],
            );
        }
    }
}
