//! The operations of the model on a GPU.

use std::convert::Infallible;

use crate::cuda::blas::Operand;
use crate::cuda::device::{CudaBuffer, CudaKernels, PackedTables, SUM_THREADS, THREADS};
use crate::cuda::driver::{float, word};
use crate::cuda::plan;
use crate::cuda::plan::LossScratch;
use crate::cuda::rows::CudaRows;
use crate::cuda::state::CudaAccumulator;
use crate::operands::extent;
use crate::{
    Activation, Attended, AttentionShape, Cache, CacheMut, DropoutKey, Gemm, Head, LayerAttention, LossGradients, Norm,
    Normed, Packed, Packing, Precision, Rotation, Scaled, TensorOps, View, ViewMut, XieluGradients, at_mut,
};

impl TensorOps for CudaKernels {
    type Compact = Infallible;

    fn gemm_compact(
        &self,
        _: Gemm,
        _: View<'_, CudaBuffer>,
        _: View<'_, CudaBuffer>,
        compact: &Infallible,
        _: ViewMut<'_, CudaBuffer>,
    ) {
        match *compact {}
    }

    fn unpack(&self, packed: Packed, words: &CudaBuffer, out: ViewMut<'_, CudaBuffer>) {
        let device = &*self.0;
        let Some(&PackedTables { kernels, values }) = device.unpack.get() else {
            return device.context.fail("packed weights", "they were not prepared".to_owned());
        };
        let Packed { packing, rows, columns, codes, scales, nested } = packed;
        let (len, count) = (packed.len(), packing.scales(rows, columns));
        let codes = words.at(codes, packing.words(len));
        let scales = words.at(scales, if nested.is_some() { count.div_ceil(4) } else { count });
        let nested = nested.map_or(0, |nested| words.at(nested, 1 + count.div_ceil(Packing::NESTED_BLOCK)));
        let out = out.pointer(len);
        let scale_values = values + 4 * PackedTables::SCALES as u64;
        match packing {
            Packing::Int8 => {
                let arguments = [codes, scales, out, word(rows), word(columns)];
                device.by_groups(kernels.unpack_8bit, rows, columns, &arguments);
            }
            Packing::Nf4 | Packing::Fp4 => {
                let values = values + if packing == Packing::Fp4 { 64 } else { 0 };
                let arguments = [codes, scales, nested, values, scale_values, out, len as u64];
                device.by_groups(kernels.unpack_4bit, 1, len, &arguments);
            }
        }
    }

    fn gemm(&self, gemm: Gemm, a: View<'_, CudaBuffer>, b: View<'_, CudaBuffer>, c: ViewMut<'_, CudaBuffer>) {
        let c = c.operand(extent(gemm.m, gemm.n, gemm.ldc));
        let (a, b) = operands(gemm, a, b);
        self.product(gemm, a, b, c, c);
    }

    fn gemm_onto(
        &self,
        gemm: Gemm,
        a: View<'_, CudaBuffer>,
        b: View<'_, CudaBuffer>,
        d: View<'_, CudaBuffer>,
        c: ViewMut<'_, CudaBuffer>,
    ) {
        let len = extent(gemm.m, gemm.n, gemm.ldc);
        let (a, b) = operands(gemm, a, b);
        self.product(gemm, a, b, d.operand(len), c.operand(len));
    }

    fn embed(&self, h: usize, rows: &CudaRows, table: View<'_, CudaBuffer>, out: ViewMut<'_, CudaBuffer>) {
        let n = rows.tables.n;
        let (ids, table, out) = (rows.at(rows.tables.ids), table.pointer(h), out.pointer(n * h));
        self.0.by_groups(self.0.embedding.embed, n, h, &[ids, table, out, word(n), word(h)]);
    }

    fn noise(&self, h: usize, rows: &CudaRows, seed: u64, stream: u64, x: ViewMut<'_, CudaBuffer>) {
        let n = rows.tables.n;
        let Some(sizes) = rows.tables.noise else { return };
        let (x, pass, sizes) = (x.pointer(n * h), rows.at(rows.tables.dropout), rows.at(sizes));
        self.0.by_groups(self.0.elementwise.noise, 1, n * h, &[x, (n * h) as u64, word(h), seed, stream, pass, sizes]);
    }

    fn embed_backward(&self, h: usize, rows: &CudaRows, dy: View<'_, CudaBuffer>, dtable: ViewMut<'_, CudaBuffer>) {
        let (device, tables) = (&*self.0, &rows.tables);
        let partials = device.scratch(plan::embedding_bytes(tables.n, h));
        let (dy, dtable) = (dy.pointer(tables.n * h), dtable.pointer(h));
        let (order, segments, count) = (rows.at(tables.order), rows.at(tables.segments), tables.segments.count);
        let arguments = [order, segments, dy, dtable, partials, word(count), word(h)];
        device.by_groups(device.embedding.embed_backward, count, h, &arguments);
        let (runs, count) = (rows.at(tables.runs), tables.runs.count);
        let arguments = [runs, partials, dtable, word(count), word(h)];
        device.by_groups(device.embedding.embed_backward_finish, count, h, &arguments);
    }

    fn scale(&self, len: usize, factor: f32, x: ViewMut<'_, CudaBuffer>) {
        self.0.by_groups(self.0.elementwise.scale, 1, len, &[x.pointer(len), len as u64, float(factor)]);
    }

    fn copy_columns(
        &self,
        rows: usize,
        width: usize,
        stride: usize,
        source: View<'_, CudaBuffer>,
        target: ViewMut<'_, CudaBuffer>,
    ) {
        let len = extent(rows, width, stride);
        let arguments = [source.pointer(len), target.pointer(len), word(rows), word(width), word(stride)];
        self.0.by_groups(self.0.elementwise.copy_columns, rows, width, &arguments);
    }

    fn rmsnorm(
        &self,
        norm: Norm,
        x: View<'_, CudaBuffer>,
        w: View<'_, CudaBuffer>,
        residual: Option<View<'_, CudaBuffer>>,
        y: ViewMut<'_, CudaBuffer>,
        r: ViewMut<'_, CudaBuffer>,
    ) {
        let (n, h, len) = (norm.count(), norm.width, norm.extent());
        let [parts, stride] = [norm.parts, norm.stride].map(word);
        let residual = residual.map_or(0, |residual| residual.pointer(len));
        let (x, w, y, r) = (x.pointer(len), w.pointer(h), y.pointer(len), r.pointer(n));
        let [eps, offset, gain] = [norm.eps, norm.offset, norm.gain].map(float);
        let arguments = [x, w, residual, y, r, word(n), word(h), parts, stride, eps, offset, gain];
        self.0.by_rows(self.0.norm.rmsnorm, n, h, &arguments);
    }

    fn rmsnorm_again(&self, norm: Norm, normed: Normed<'_, CudaBuffer>, y: ViewMut<'_, CudaBuffer>) {
        let (n, h, len) = (norm.count(), norm.width, norm.extent());
        let [parts, stride] = [norm.parts, norm.stride].map(word);
        let Normed { x, w, r } = normed;
        let (x, w, r, y) = (x.pointer(len), w.pointer(h), r.pointer(n), y.pointer(len));
        let [offset, gain] = [norm.offset, norm.gain].map(float);
        self.0.by_rows(self.0.norm.rmsnorm_again, n, h, &[x, w, r, y, word(n), word(h), parts, stride, offset, gain]);
    }

    fn rmsnorm_backward(
        &self,
        norm: Norm,
        normed: Normed<'_, CudaBuffer>,
        dy: Option<View<'_, CudaBuffer>>,
        dx: ViewMut<'_, CudaBuffer>,
        dw: Option<(ViewMut<'_, CudaBuffer>, f32)>,
    ) {
        let device = &*self.0;
        let (n, h, len) = (norm.count(), norm.width, norm.extent());
        let blocks = plan::norm_blocks(n, h, device.multiprocessors());
        let partial = if dw.is_some() { device.scratch(plan::norm_bytes(n, h, device.multiprocessors())) } else { 0 };
        let Normed { x, w, r } = normed;
        let (x, w, r, dx) = (x.pointer(len), w.pointer(h), r.pointer(n), dx.pointer(len));
        let dy = dy.map_or(dx, |dy| dy.pointer(len));
        let [parts, stride] = [norm.parts, norm.stride].map(word);
        let [offset, gain] = [norm.offset, norm.gain].map(float);
        let arguments = [x, w, r, dy, dx, partial, word(n), word(h), parts, stride, offset, gain];
        let threads = plan::norm_threads(h) as u32;
        device.context.launch(device.norm.rmsnorm_backward, [blocks, 1], threads, 0, &arguments);
        if let Some((dw, beta)) = dw {
            let arguments = [partial, dw.pointer(h), word(blocks), word(h), float(beta)];
            let function = device.norm.rmsnorm_weight_gradient;
            device.context.launch(function, [h.div_ceil(32), 1], SUM_THREADS, 0, &arguments);
        }
    }

    fn row_norms(
        &self,
        rows: usize,
        width: usize,
        w: View<'_, CudaBuffer>,
        added: View<'_, CudaBuffer>,
        norms: ViewMut<'_, CudaBuffer>,
    ) {
        let len = rows * width;
        let arguments = [w.pointer(len), f32_pointer(added, len), norms.pointer(rows), word(width)];
        self.0.context.launch(self.0.direction.row_norms, [rows, 1], THREADS, 0, &arguments);
    }

    fn add_scaled(
        &self,
        scaled: Scaled,
        factors: Option<(View<'_, CudaBuffer>, View<'_, CudaBuffer>)>,
        z: View<'_, CudaBuffer>,
        beta: f32,
        y: ViewMut<'_, CudaBuffer>,
    ) {
        let (len, Scaled { rows, width, stride, alpha }) = (scaled.extent(), scaled);
        let (m, norms) = factors.map_or((0, 0), |(m, norms)| (f32_pointer(m, width), f32_pointer(norms, width)));
        let [alpha, beta] = [alpha, beta].map(float);
        let (z, y) = (z.pointer(len), y.pointer(len));
        let arguments = [z, m, norms, y, word(rows), word(width), word(stride), alpha, beta];
        self.0.by_groups(self.0.direction.add_scaled, rows, width, &arguments);
    }

    fn add_scaled_backward(
        &self,
        scaled: Scaled,
        (m, norms): (View<'_, CudaBuffer>, View<'_, CudaBuffer>),
        dy: View<'_, CudaBuffer>,
        z: ViewMut<'_, CudaBuffer>,
        (dm, beta): (ViewMut<'_, CudaBuffer>, f32),
    ) {
        let (len, Scaled { rows, width, stride, alpha }) = (scaled.extent(), scaled);
        let (m, norms, dm) = (f32_pointer(m, width), f32_pointer(norms, width), dm.pointer(width));
        let [alpha, beta] = [alpha, beta].map(float);
        let (dy, z) = (dy.pointer(len), z.pointer(len));
        let arguments = [dy, m, norms, z, dm, word(rows), word(width), word(stride), alpha, beta];
        let function = self.0.direction.add_scaled_backward;
        self.0.context.launch(function, [width.div_ceil(32), 1], SUM_THREADS, 0, &arguments);
    }

    fn rope(
        &self,
        rotation: Rotation,
        rows: &CudaRows,
        table: View<'_, CudaBuffer>,
        backward: bool,
        x: ViewMut<'_, CudaBuffer>,
    ) {
        let Rotation { heads, head_dim, rotary_dim, stride, is_interleaved } = rotation;
        let n = rows.tables.n;
        let (x, table) = (x.pointer(extent(n, heads * head_dim, stride)), table.pointer(rotary_dim));
        let arguments = [
            x,
            rows.at(rows.tables.positions),
            table,
            word(n),
            word(heads),
            word(head_dim),
            word(rotary_dim),
            word(stride),
            float(if backward { -1.0 } else { 1.0 }),
            u64::from(is_interleaved),
        ];
        self.0.by_groups(self.0.elementwise.rope, n * heads, rotary_dim / 2, &arguments);
    }

    fn attention(
        &self,
        attention: LayerAttention,
        rows: &CudaRows,
        qkv: View<'_, CudaBuffer>,
        out: ViewMut<'_, CudaBuffer>,
        lse: ViewMut<'_, CudaBuffer>,
    ) {
        let LayerAttention { shape, window } = attention;
        let Some(launches) = self.launches(shape, window) else { return };
        let n = rows.tables.n;
        let (qkv, out) = (qkv.pointer(n * shape.packed()), out.pointer(n * shape.output()));
        launches.forward(rows, qkv, out, lse.pointer(n * shape.heads));
    }

    fn attention_backward(
        &self,
        attention: LayerAttention,
        rows: &CudaRows,
        attended: Attended<'_, CudaBuffer>,
        dout: View<'_, CudaBuffer>,
        dqkv: ViewMut<'_, CudaBuffer>,
    ) {
        let (LayerAttention { shape, window }, Attended { qkv, out, lse }) = (attention, attended);
        let Some(launches) = self.launches(shape, window) else { return };
        let n = rows.tables.n;
        let (qkv, dqkv) = (qkv.pointer(n * shape.packed()), dqkv.pointer(n * shape.packed()));
        let (out, dout) = (out.pointer(n * shape.output()), dout.pointer(n * shape.output()));
        launches.backward(rows, qkv, out, lse.pointer(n * shape.heads), dout, dqkv);
    }

    fn append(
        &self,
        shape: AttentionShape,
        rows: &CudaRows,
        qkv: View<'_, CudaBuffer>,
        cache: CacheMut<'_, CudaBuffer>,
    ) {
        let Some(launches) = self.launches(shape, None) else { return };
        let qkv = qkv.pointer(rows.tables.slots.count * shape.packed());
        launches.append(rows, cache.capacity, qkv, cache.keys.pointer(0), cache.values.pointer(0));
    }

    fn attention_cached(
        &self,
        attention: LayerAttention,
        rows: &CudaRows,
        qkv: View<'_, CudaBuffer>,
        cache: Cache<'_, CudaBuffer>,
        out: ViewMut<'_, CudaBuffer>,
    ) {
        let LayerAttention { shape, window } = attention;
        let Some(launches) = self.launches(shape, window) else { return };
        let b = rows.tables.slots.count;
        let (qkv, out) = (qkv.pointer(b * shape.packed()), out.pointer(b * shape.output()));
        launches.cached(rows, cache.capacity, qkv, cache.keys.pointer(0), cache.values.pointer(0), out);
    }

    fn glu(&self, activation: Activation, n: usize, ffn: usize, gu: View<'_, CudaBuffer>, a: ViewMut<'_, CudaBuffer>) {
        let (gu, a) = (gu.pointer(n * activation.inputs() * ffn), a.pointer(n * ffn));
        let (function, elementwise) = (kind(activation), &self.0.elementwise);
        self.0.by_groups(elementwise.glu, n, ffn, &[gu, a, word(n), word(ffn), function]);
    }

    fn glu_backward(
        &self,
        activation: Activation,
        n: usize,
        ffn: usize,
        da: View<'_, CudaBuffer>,
        gu: ViewMut<'_, CudaBuffer>,
    ) {
        let (da, gu) = (da.pointer(n * ffn), gu.pointer(n * activation.inputs() * ffn));
        let (function, elementwise) = (kind(activation), &self.0.elementwise);
        self.0.by_groups(elementwise.glu_backward, n, ffn, &[da, gu, word(n), word(ffn), function]);
    }

    fn xielu(
        &self,
        n: usize,
        ffn: usize,
        weights: View<'_, CudaBuffer>,
        u: View<'_, CudaBuffer>,
        a: ViewMut<'_, CudaBuffer>,
    ) {
        let len = n * ffn;
        let arguments = [weights.pointer(4), u.pointer(len), a.pointer(len), len as u64];
        self.0.by_groups(self.0.elementwise.xielu, 1, len, &arguments);
    }

    fn xielu_backward(
        &self,
        n: usize,
        ffn: usize,
        weights: View<'_, CudaBuffer>,
        da: View<'_, CudaBuffer>,
        u: ViewMut<'_, CudaBuffer>,
        dw: XieluGradients<'_, CudaBuffer>,
    ) {
        let (device, len) = (&*self.0, n * ffn);
        let is_trained = dw.places.iter().any(Option::is_some);
        let sums = if is_trained { device.scratch(plan::xielu_bytes(n)) } else { 0 };
        let arguments = [weights.pointer(4), da.pointer(len), u.pointer(len), sums, word(n), word(ffn)];
        device.context.launch(device.elementwise.xielu_backward, [n, 1], THREADS, 0, &arguments);
        for (index, place) in dw.places.into_iter().enumerate() {
            let Some(place) = place else { continue };
            let (sums, dw_place) =
                (sums + (index * n * size_of::<f32>()) as u64, at_mut(&mut *dw.buffer, place).pointer(1));
            let arguments = [sums, dw_place, word(n), word(1), float(dw.beta)];
            device.context.launch(device.norm.rmsnorm_weight_gradient, [1, 1], SUM_THREADS, 0, &arguments);
        }
    }

    fn dropout(
        &self,
        rows: &CudaRows,
        len: usize,
        key: DropoutKey,
        add: bool,
        x: View<'_, CudaBuffer>,
        y: ViewMut<'_, CudaBuffer>,
    ) {
        let (x, y, probability, pass) =
            (x.pointer(len), y.pointer(len), float(key.probability), rows.at(rows.tables.dropout));
        let arguments = [x, y, len as u64, key.seed, key.stream, pass, probability, u64::from(add)];
        self.0.by_groups(self.0.elementwise.dropout, 1, len, &arguments);
    }

    fn linear_log_probs(
        &self,
        head: Head,
        rows: &CudaRows,
        x: View<'_, CudaBuffer>,
        w: View<'_, CudaBuffer>,
        log_probs: ViewMut<'_, CudaBuffer>,
        gradients: Option<LossGradients<'_, CudaBuffer>>,
    ) {
        let Head { width: h, vocabulary: v, cap } = head;
        let (device, tables) = (&*self.0, &rows.tables);
        let (n, context, kind) = (tables.n, &device.context, device.precision);
        let scratch = LossScratch::new(n, tables.active.count, h, v, kind);
        let base = device.scratch(scratch.bytes);
        let log_probs = log_probs.operand(n).pointer;
        context.zero(log_probs, n * size_of::<f32>());
        let (mut inputs, w) = (x.pointer(n * h), Operand { pointer: w.pointer(v * h), kind });
        let (mut dx, dw) = match gradients {
            Some(LossGradients { dx, dw, .. }) => {
                (Some(dx.pointer(n * h)), dw.map(|(dw, beta)| (dw.operand(v * h), beta)))
            }
            None => (None, None),
        };
        let (row_bytes, whole) = (h * kind.bytes(), dx);
        if scratch.gathers {
            // Rows that fill up have no target, and must be numbers all the same.
            let source = std::mem::replace(&mut inputs, base + scratch.inputs as u64);
            let arguments = [source, rows.at(tables.active), inputs, word(scratch.rows), word(n), word(h)];
            device.by_groups(device.elementwise.gather_rows, scratch.rows, h, &arguments);
            dx = dx.map(|_| base + scratch.gradients as u64);
        }
        if scratch.rows == 0
            && let Some((dw, 0.0)) = dw
        {
            context.zero(dw.pointer, v * h * size_of::<f32>());
        }
        let (kept, threads) = if dx.is_some() { device.kept_logits(v) } else { (0, 1024) };
        let logits = Operand { pointer: base + scratch.logits as u64, kind };
        for first in (0..scratch.rows).step_by(scratch.chunk.max(1)) {
            let count = scratch.chunk.min(scratch.rows - first);
            let x = Operand { pointer: inputs + (first * row_bytes) as u64, kind };
            let product = Gemm::new([count, v, h], (false, true), [h, h, scratch.stride], 0.0);
            self.product(product, x, w, logits, logits);
            let active = if scratch.gathers { rows.at(tables.active) + 4 * first as u64 } else { 0 };
            let arguments = [
                logits.pointer,
                active,
                word(first),
                rows.at(tables.targets),
                tables.weights.map_or(0, |weights| rows.at(weights)),
                rows.at(tables.scale),
                log_probs,
                word(v),
                word(scratch.stride),
                word(kept),
                u64::from(dx.is_some()),
                float(cap.unwrap_or(0.0)),
            ];
            let shared = (kept * kind.bytes()) as u32;
            context.launch(device.loss.cross_entropy, [count, 1], threads, shared, &arguments);
            if let Some((dw, beta)) = dw {
                let beta = if first == 0 { beta } else { 1.0 };
                let product = Gemm::new([v, h, count], (true, false), [scratch.stride, h, h], beta);
                self.product(product, logits, x, dw, dw);
            }
            if let Some(dx) = dx {
                let dx = Operand { pointer: dx + (first * row_bytes) as u64, kind };
                let product = Gemm::new([count, h, v], (false, false), [scratch.stride, h, h], 0.0);
                self.product(product, logits, w, dx, dx);
            }
        }
        if let (true, Some(whole), Some(dx)) = (scratch.gathers, whole, dx) {
            context.zero(whole, n * row_bytes);
            let arguments = [dx, rows.at(tables.active), whole, word(scratch.rows), word(n), word(h)];
            device.by_groups(device.elementwise.scatter_rows, scratch.rows, h, &arguments);
        }
    }

    fn add_loss(&self, rows: &CudaRows, log_probs: View<'_, CudaBuffer>, accumulator: &mut CudaAccumulator) {
        let (device, tables) = (&*self.0, &rows.tables);
        let weights = tables.weights.map_or(0, |weights| rows.at(weights));
        let arguments =
            [log_probs.pointer(tables.n), rows.at(tables.targets), weights, word(tables.n), accumulator.loss()];
        device.context.launch(device.loss.add_loss, [1, 1], 1024, 0, &arguments);
    }
}

/// What the kernels know an activation by: `RELU2` and so on in `elementwise.cu`.
fn kind(activation: Activation) -> u64 {
    match activation {
        Activation::Silu => 0,
        Activation::GeluTanh => 1,
        Activation::Relu2 => 2,
        Activation::Xielu => unreachable!("xIELU is an operation of its own"),
    }
}

/// The address of `len` elements that a kernel reads as f32.
fn f32_pointer(view: View<'_, CudaBuffer>, len: usize) -> u64 {
    assert_eq!(view.buffer.kind, Precision::F32, "an f32 buffer");
    view.pointer(len)
}

fn operands(gemm: Gemm, a: View<'_, CudaBuffer>, b: View<'_, CudaBuffer>) -> (Operand, Operand) {
    let of = |transposed: bool, rows, columns, stride| {
        if transposed { extent(columns, rows, stride) } else { extent(rows, columns, stride) }
    };
    (
        a.operand(of(gemm.transpose_a, gemm.m, gemm.k, gemm.lda)),
        b.operand(of(gemm.transpose_b, gemm.k, gemm.n, gemm.ldb)),
    )
}
