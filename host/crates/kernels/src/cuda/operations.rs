//! The operations of a GPU: which kernels with which sizes. What each kernel takes is said in its source.

use half::bf16;
use plan::LossRoom;

use super::rows::Grouping;
use super::{
    Activation, AdamState, AdamStep, Arc, Attention, AttentionShape, CudaBuffer, CudaKernels, CudaRepeats, CudaRows,
    CudaSegments, CudaTally, Cudnn, Demands, DeviceError, DropoutKey, Format, Gemm, Head, Kernels, LONGEST_NORM,
    LossGradients, Mutex, NormShape, OPTIMIZER_TILE, Operand, Packed, PackedTables, Packing, Precision, Rotation, Rows,
    SUM_THREADS, Scaled, Segment, THREADS, Totals, Usage, View, ViewMut, attention, attention_defines, elements,
    extent, float, lock, plan, word,
};

impl Kernels for CudaKernels {
    type Buffer = CudaBuffer;
    type Staged = CudaRows;
    type Tally = CudaTally;
    type Segments = CudaSegments;
    type Repeats = CudaRepeats;

    fn precision(&self) -> Precision {
        self.0.precision
    }

    fn padded(&self, rows: usize) -> usize {
        plan::padded(rows)
    }

    fn check(&self) -> Result<(), DeviceError> {
        self.0.context.check()
    }

    fn usage(&self) -> Option<Usage> {
        let mut remarks: Vec<String> =
            self.attention().into_iter().map(|line| format!("attention of {line}")).collect();
        remarks.extend(self.no_graphs().map(|reason| format!("CUDA graphs are not used: {reason}")));
        let peak_memory_bytes = self.0.context.peak_memory();
        Some(Usage { peak_memory_bytes, graph_launches: self.graph_launches(), remarks })
    }

    fn prepare(&self, demands: Demands) -> Result<(), DeviceError> {
        let Demands { attention: shape, window, widest_norm: widest, is_packed } = demands;
        let device = &*self.0;
        let unsupported =
            |reason: String| Err(DeviceError::Unsupported { device: device.context.name.clone(), reason });
        if widest > LONGEST_NORM {
            return unsupported(format!("norms of {widest} elements: this backend's take up to {LONGEST_NORM}"));
        }
        let multiple = if device.precision == Precision::Bf16 { 8 } else { 2 };
        if shape.head_dim > 256 || !shape.head_dim.is_multiple_of(multiple) {
            let (dim, name) = (shape.head_dim, device.precision.name());
            return unsupported(format!(
                "a head size of {dim}: this backend's attention in {name} takes multiples of {multiple} up to 256"
            ));
        }
        if is_packed && device.unpack.get().is_none() {
            let _ = device.unpack.set(PackedTables::new(device)?);
        }
        if device.attention.get().is_none() {
            let attention = Attention::load(&device.loader(), &attention_defines(device.precision, shape))?;
            for (function, bytes) in attention::shared(&attention, device.precision, shape) {
                device.context.allow_shared(function, bytes);
            }
            let _ = device.attention.set((shape, window, attention));
            let functions = device.cudnn_functions.clone();
            let _ = device.cudnn.set(functions.and_then(|functions| Cudnn::new(functions, &device.context, shape)));
        }
        device.context.check()
    }

    fn alloc(&self, format: Format, len: usize) -> CudaBuffer {
        let kind = if format == Format::Exact { Precision::F32 } else { self.0.precision };
        let bytes = len * kind.bytes();
        let pointer = self.0.context.alloc(bytes);
        self.0.context.zero(pointer, bytes);
        CudaBuffer { device: Arc::clone(&self.0), pointer, len, kind }
    }

    fn bytes(&self, buffer: &CudaBuffer) -> u64 {
        (buffer.len * buffer.kind.bytes()) as u64
    }

    fn upload(&self, source: &[f32], target: ViewMut<'_, CudaBuffer>) {
        let (to, kind) = (target.pointer(source.len()), target.buffer.kind);
        self.0.context.write(source.len() * kind.bytes(), to, |range, bytes| {
            let values = &source[elements(&range, kind)];
            match kind {
                Precision::F32 => {
                    for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
                        *bytes = value.to_ne_bytes();
                    }
                }
                Precision::Bf16 => {
                    for (bytes, &value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
                        *bytes = bf16::from_f32(value).to_ne_bytes();
                    }
                }
            }
        });
    }

    fn put_words(&self, source: &[u32], target: ViewMut<'_, CudaBuffer>) {
        assert_eq!(target.buffer.kind, Precision::F32, "words are put into exact buffers");
        let to = target.pointer(source.len());
        self.0.context.write(size_of_val(source), to, |range, bytes| {
            for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(&source[range.start / 4..]) {
                *bytes = word.to_ne_bytes();
            }
        });
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

    fn download(&self, source: View<'_, CudaBuffer>, target: &mut [f32]) {
        let (from, kind) = (source.pointer(target.len()), source.buffer.kind);
        self.0.context.read(from, target.len() * kind.bytes(), |range, bytes| {
            let values = &mut target[elements(&range, kind)];
            match kind {
                Precision::F32 => {
                    for (&bytes, value) in bytes.as_chunks().0.iter().zip(values) {
                        *value = f32::from_ne_bytes(bytes);
                    }
                }
                Precision::Bf16 => {
                    for (&bytes, value) in bytes.as_chunks().0.iter().zip(values) {
                        *value = bf16::from_ne_bytes(bytes).to_f32();
                    }
                }
            }
        });
    }

    fn copy(&self, len: usize, source: View<'_, CudaBuffer>, target: ViewMut<'_, CudaBuffer>) {
        let kind = source.buffer.kind;
        assert_eq!(kind, target.buffer.kind, "a copy is between buffers of one format");
        self.0.context.copy(source.pointer(len), target.pointer(len), len * kind.bytes());
    }

    fn zero(&self, len: usize, target: ViewMut<'_, CudaBuffer>) {
        self.0.context.zero(target.pointer(len), len * target.buffer.kind.bytes());
    }

    fn stage(&self, rows: Rows<'_>, staged: &mut Option<CudaRows>) {
        let device = &self.0;
        let group = |length: usize| device.group(length);
        let grouping: Option<Grouping<'_>> = device.attention.get().map(|&(shape, ..)| (shape, &group as _));
        staged.get_or_insert_with(|| CudaRows::new(device)).put(&rows, attention::TILES, grouping);
    }

    fn weigh(&self, weights: &[f32], scale: f32, rows: &mut CudaRows) {
        rows.weigh(weights, scale);
    }

    fn repeat(&self, repeats: &mut CudaRepeats, rows: &CudaRows, same: u64, mut work: impl FnMut()) {
        self.repeated(repeats, rows, same, &mut work);
    }

    fn tally(&self) -> CudaTally {
        let pointer = self.0.context.alloc(CudaTally::BYTES);
        let mut tally = CudaTally { device: Arc::clone(&self.0), pointer };
        self.clear(&mut tally);
        tally
    }

    fn clear(&self, tally: &mut CudaTally) {
        self.0.context.zero(tally.pointer, CudaTally::BYTES);
    }

    fn totals(&self, tally: &CudaTally) -> Totals {
        let mut sums = [0.0; 2];
        self.0.context.read(tally.pointer, size_of_val(&sums), |_, bytes| {
            for (sum, &bytes) in sums.iter_mut().zip(bytes.as_chunks().0) {
                *sum = f64::from_ne_bytes(bytes);
            }
        });
        Totals { loss_sum: sums[0], squares: sums[1] }
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

    fn embed_backward(&self, h: usize, rows: &CudaRows, dy: View<'_, CudaBuffer>, dtable: ViewMut<'_, CudaBuffer>) {
        let (device, tables) = (&*self.0, &rows.tables);
        let partials = device.room(plan::embedding_bytes(tables.n, h));
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
        norm: NormShape,
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

    fn rmsnorm_again(
        &self,
        norm: NormShape,
        x: View<'_, CudaBuffer>,
        w: View<'_, CudaBuffer>,
        r: View<'_, CudaBuffer>,
        y: ViewMut<'_, CudaBuffer>,
    ) {
        let (n, h, len) = (norm.count(), norm.width, norm.extent());
        let [parts, stride] = [norm.parts, norm.stride].map(word);
        let (x, w, r, y) = (x.pointer(len), w.pointer(h), r.pointer(n), y.pointer(len));
        let [offset, gain] = [norm.offset, norm.gain].map(float);
        self.0.by_rows(self.0.norm.rmsnorm_again, n, h, &[x, w, r, y, word(n), word(h), parts, stride, offset, gain]);
    }

    fn rmsnorm_backward(
        &self,
        norm: NormShape,
        x: View<'_, CudaBuffer>,
        w: View<'_, CudaBuffer>,
        r: View<'_, CudaBuffer>,
        dy: Option<View<'_, CudaBuffer>>,
        dx: ViewMut<'_, CudaBuffer>,
        dw: Option<(ViewMut<'_, CudaBuffer>, f32)>,
    ) {
        let device = &*self.0;
        let (n, h, len) = (norm.count(), norm.width, norm.extent());
        let blocks = plan::norm_blocks(n, h, device.multiprocessors());
        let partial = if dw.is_some() { device.room(plan::norm_bytes(n, h, device.multiprocessors())) } else { 0 };
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
        let arguments = [w.pointer(len), exact(added, len), norms.pointer(rows), word(width)];
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
        let (m, norms) = factors.map_or((0, 0), |(m, norms)| (exact(m, width), exact(norms, width)));
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
        let (m, norms, dm) = (exact(m, width), exact(norms, width), dm.pointer(width));
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
        let Rotation { heads, head_dim, rotary_dim, stride } = rotation;
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
        ];
        self.0.by_groups(self.0.elementwise.rope, n * heads, rotary_dim / 2, &arguments);
    }

    fn attention(
        &self,
        shape: AttentionShape,
        window: Option<usize>,
        rows: &CudaRows,
        qkv: View<'_, CudaBuffer>,
        out: ViewMut<'_, CudaBuffer>,
        lse: ViewMut<'_, CudaBuffer>,
    ) {
        let Some(launches) = self.launches(shape, window) else { return };
        let n = rows.tables.n;
        let (qkv, out) = (qkv.pointer(n * shape.packed()), out.pointer(n * shape.output()));
        launches.forward(rows, qkv, out, lse.pointer(n * shape.heads));
    }

    fn attention_backward(
        &self,
        shape: AttentionShape,
        window: Option<usize>,
        rows: &CudaRows,
        qkv: View<'_, CudaBuffer>,
        out: View<'_, CudaBuffer>,
        lse: View<'_, CudaBuffer>,
        dout: View<'_, CudaBuffer>,
        dqkv: ViewMut<'_, CudaBuffer>,
    ) {
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
        capacity: usize,
        qkv: View<'_, CudaBuffer>,
        keys: ViewMut<'_, CudaBuffer>,
        values: ViewMut<'_, CudaBuffer>,
    ) {
        let Some(launches) = self.launches(shape, None) else { return };
        let qkv = qkv.pointer(rows.tables.slots.count * shape.packed());
        launches.append(rows, capacity, qkv, keys.pointer(0), values.pointer(0));
    }

    fn attention_cached(
        &self,
        shape: AttentionShape,
        window: Option<usize>,
        rows: &CudaRows,
        capacity: usize,
        qkv: View<'_, CudaBuffer>,
        keys: View<'_, CudaBuffer>,
        values: View<'_, CudaBuffer>,
        out: ViewMut<'_, CudaBuffer>,
    ) {
        let Some(launches) = self.launches(shape, window) else { return };
        let b = rows.tables.slots.count;
        let (qkv, out) = (qkv.pointer(b * shape.packed()), out.pointer(b * shape.output()));
        launches.cached(rows, capacity, qkv, keys.pointer(0), values.pointer(0), out);
    }

    fn glu(&self, activation: Activation, n: usize, ffn: usize, gu: View<'_, CudaBuffer>, a: ViewMut<'_, CudaBuffer>) {
        let (gu, a, gelu) = (gu.pointer(n * 2 * ffn), a.pointer(n * ffn), u64::from(activation != Activation::Silu));
        self.0.by_groups(self.0.elementwise.glu, n, ffn, &[gu, a, word(n), word(ffn), gelu]);
    }

    fn glu_backward(
        &self,
        activation: Activation,
        n: usize,
        ffn: usize,
        da: View<'_, CudaBuffer>,
        gu: ViewMut<'_, CudaBuffer>,
    ) {
        let (da, gu, gelu) = (da.pointer(n * ffn), gu.pointer(n * 2 * ffn), u64::from(activation != Activation::Silu));
        self.0.by_groups(self.0.elementwise.glu_backward, n, ffn, &[da, gu, word(n), word(ffn), gelu]);
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
        let room = LossRoom::new(n, tables.active.count, h, v, kind);
        let base = device.room(room.bytes);
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
        if room.gathers {
            // Rows that fill up have no target, and must be numbers all the same.
            let source = std::mem::replace(&mut inputs, base + room.inputs as u64);
            let arguments = [source, rows.at(tables.active), inputs, word(room.rows), word(n), word(h)];
            device.by_groups(device.elementwise.gather_rows, room.rows, h, &arguments);
            dx = dx.map(|_| base + room.gradients as u64);
        }
        if room.rows == 0
            && let Some((dw, 0.0)) = dw
        {
            context.zero(dw.pointer, v * h * size_of::<f32>());
        }
        let (kept, threads) = if dx.is_some() { device.kept_logits(v) } else { (0, 1024) };
        let logits = Operand { pointer: base + room.logits as u64, kind };
        for first in (0..room.rows).step_by(room.chunk.max(1)) {
            let count = room.chunk.min(room.rows - first);
            let x = Operand { pointer: inputs + (first * row_bytes) as u64, kind };
            let product = Gemm::new([count, v, h], (false, true), [h, h, room.stride], 0.0);
            self.product(product, x, w, logits, logits);
            let active = if room.gathers { rows.at(tables.active) + 4 * first as u64 } else { 0 };
            let arguments = [
                logits.pointer,
                active,
                word(first),
                rows.at(tables.targets),
                tables.weights.map_or(0, |weights| rows.at(weights)),
                rows.at(tables.scale),
                log_probs,
                word(v),
                word(room.stride),
                word(kept),
                u64::from(dx.is_some()),
                float(cap.unwrap_or(0.0)),
            ];
            let shared = (kept * kind.bytes()) as u32;
            context.launch(device.loss.cross_entropy, [count, 1], threads, shared, &arguments);
            if let Some((dw, beta)) = dw {
                let beta = if first == 0 { beta } else { 1.0 };
                let product = Gemm::new([v, h, count], (true, false), [room.stride, h, h], beta);
                self.product(product, logits, x, dw, dw);
            }
            if let Some(dx) = dx {
                let dx = Operand { pointer: dx + (first * row_bytes) as u64, kind };
                let product = Gemm::new([count, h, v], (false, false), [room.stride, h, h], 0.0);
                self.product(product, logits, w, dx, dx);
            }
        }
        if let (true, Some(whole), Some(dx)) = (room.gathers, whole, dx) {
            context.zero(whole, n * row_bytes);
            let arguments = [dx, rows.at(tables.active), whole, word(room.rows), word(n), word(h)];
            device.by_groups(device.elementwise.scatter_rows, room.rows, h, &arguments);
        }
    }

    fn add_loss(&self, rows: &CudaRows, log_probs: View<'_, CudaBuffer>, tally: &mut CudaTally) {
        let (device, tables) = (&*self.0, &rows.tables);
        let weights = tables.weights.map_or(0, |weights| rows.at(weights));
        let arguments = [log_probs.pointer(tables.n), rows.at(tables.targets), weights, word(tables.n), tally.loss()];
        device.context.launch(device.loss.add_loss, [1, 1], 1024, 0, &arguments);
    }

    fn sum_of_squares(&self, len: usize, x: View<'_, CudaBuffer>, tally: &mut CudaTally) {
        assert_eq!(x.buffer.kind, Precision::F32, "sums are of exact elements");
        let (device, x) = (&*self.0, x.pointer(len));
        let blocks = plan::reduction_blocks(device.multiprocessors());
        let partial = device.room(blocks * size_of::<f64>());
        let (function, finish) = (device.optimizer.sum_of_squares, device.optimizer.sum_of_squares_finish);
        device.context.launch(function, [blocks, 1], SUM_THREADS, 0, &[x, partial, len as u64]);
        device.context.launch(finish, [1, 1], SUM_THREADS, 0, &[partial, word(blocks), tally.squares()]);
    }

    fn clip(&self, max_norm: Option<f64>, tally: &mut CudaTally) {
        let max = max_norm.unwrap_or(0.0).to_bits();
        let arguments = [tally.pointer, max, u64::from(max_norm.is_some())];
        self.0.context.launch(self.0.optimizer.clip, [1, 1], 1, 0, &arguments);
    }

    fn segments(&self, segments: &[Segment]) -> CudaSegments {
        let context = &self.0.context;
        let mut bytes = Vec::new();
        for &Segment { parameter, gradient, len, decays } in segments {
            let words = [parameter as u64, gradient as u64, len as u64, u64::from(decays)];
            bytes.extend(words.into_iter().flat_map(u64::to_ne_bytes));
        }
        let tiles_at = bytes.len();
        for (index, segment) in segments.iter().enumerate() {
            for tile in 0..segment.len.div_ceil(OPTIMIZER_TILE) {
                bytes.extend([index as u32, tile as u32].into_iter().flat_map(u32::to_ne_bytes));
            }
        }
        let (tiles, step_at) = ((bytes.len() - tiles_at) / 8, bytes.len());
        let block = context.alloc(step_at + size_of::<[f32; 7]>());
        context.write(bytes.len(), block, |range, pinned| pinned.copy_from_slice(&bytes[range]));
        CudaSegments {
            device: Arc::clone(&self.0),
            block,
            tiles,
            tiles_at: block + tiles_at as u64,
            step_at: block + step_at as u64,
            feeder: Mutex::default(),
        }
    }

    fn adamw(&self, step: AdamStep, segments: &CudaSegments, tally: &CudaTally, state: AdamState<'_, CudaBuffer>) {
        let AdamState { gradients, exp_avg, exp_avg_sq, params, exact } = state;
        let AdamStep { lr, beta1, beta2, eps, weight_decay, correction1, correction2_sqrt } = step;
        let constants = [lr, beta1, beta2, eps, weight_decay, correction1, correction2_sqrt];
        lock(&segments.feeder).send(&self.0.context, &constants.map(f32::to_bits), segments.step_at);
        let arguments = [
            params.pointer,
            exact.map_or(0, |exact| exact.pointer),
            gradients.pointer,
            exp_avg.pointer,
            exp_avg_sq.pointer,
            segments.block,
            segments.tiles_at,
            word(segments.tiles),
            segments.step_at,
            tally.pointer,
        ];
        self.0.context.launch(self.0.optimizer.adamw, [segments.tiles, 1], THREADS, 0, &arguments);
    }
}

/// The address of `len` elements that a kernel reads as f32.
fn exact(view: View<'_, CudaBuffer>, len: usize) -> u64 {
    assert_eq!(view.buffer.kind, Precision::F32, "an exact buffer");
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
