//! The CPU: `gemm` for large products, and fused loops compiled for AVX-512, AVX2 and the baseline, chosen at run time.
//! One rayon pool. Every sum has an order that does not depend on how many threads there are.

mod adamw;
#[cfg(target_arch = "x86_64")]
mod amx;
pub(super) mod attention;
pub(super) mod cross_entropy;
mod elementwise;
pub(super) mod matmul;
mod norm;
mod simd;

use super::{AdamStep, AttentionShape, DropoutKey, Gemm, Kernels, LossGradients, Targets, View, ViewMut};

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

/// Asks for large pages where memory is large and not yet written: walking down a column of a matrix touches a page a row,
/// and with small pages that is a table walk a row. Refusal costs nothing but speed.
fn prefer_huge_pages<T>(memory: &[T]) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 2 << 20;
        let bytes = size_of_val(memory);
        let start = memory.as_ptr().cast::<u8>().align_offset(PAGE);
        if let Some(whole) = bytes.checked_sub(start).map(|rest| rest / PAGE * PAGE).filter(|&whole| whole > 0) {
            let from = memory.as_ptr().cast::<u8>().wrapping_add(start).cast_mut();
            // SAFETY: whole pages inside the slice; the advice changes no contents.
            unsafe { libc::madvise(from.cast(), whole, libc::MADV_HUGEPAGE) };
        }
    }
}

/// Elements of a matrix of `rows` rows of `width`, `stride` apart.
fn extent(rows: usize, width: usize, stride: usize) -> usize {
    if rows == 0 { 0 } else { (rows - 1) * stride + width }
}

impl Kernels for CpuKernels {
    type Buffer = CpuBuffer;

    fn within<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        rayon::scope(|_| work())
    }

    fn alloc(&self, len: usize) -> CpuBuffer {
        let data = vec![0.0; len];
        prefer_huge_pages(&data);
        CpuBuffer { data }
    }

    fn len(&self, buffer: &CpuBuffer) -> usize {
        buffer.data.len()
    }

    fn upload(&self, source: &[f32], target: ViewMut<'_, CpuBuffer>) {
        target.slice(source.len()).copy_from_slice(source);
    }

    fn download(&self, source: View<'_, CpuBuffer>, target: &mut [f32]) {
        target.copy_from_slice(source.slice(target.len()));
    }

    fn copy(&self, len: usize, source: View<'_, CpuBuffer>, target: ViewMut<'_, CpuBuffer>) {
        elementwise::copy(source.slice(len), target.slice(len));
    }

    fn copy_rows(
        &self,
        rows: usize,
        width: usize,
        source: View<'_, CpuBuffer>,
        source_stride: usize,
        target: ViewMut<'_, CpuBuffer>,
        target_stride: usize,
    ) {
        let source = source.slice(extent(rows, width, source_stride));
        let target = target.slice(extent(rows, width, target_stride));
        for row in 0..rows {
            target[row * target_stride..][..width].copy_from_slice(&source[row * source_stride..][..width]);
        }
    }

    fn zero(&self, len: usize, target: ViewMut<'_, CpuBuffer>) {
        elementwise::zero(target.slice(len));
    }

    fn gemm(&self, gemm: Gemm, a: View<'_, CpuBuffer>, b: View<'_, CpuBuffer>, c: ViewMut<'_, CpuBuffer>) {
        matmul::gemm(gemm, a.rest(), b.rest(), c.rest(), matmul::Threads::All);
    }

    fn embed(&self, h: usize, ids: &[u32], table: View<'_, CpuBuffer>, out: ViewMut<'_, CpuBuffer>) {
        elementwise::embed(h, ids, table.rest(), out.slice(ids.len() * h));
    }

    fn embed_backward(&self, h: usize, ids: &[u32], dy: View<'_, CpuBuffer>, dtable: ViewMut<'_, CpuBuffer>) {
        elementwise::embed_backward(h, ids, dy.slice(ids.len() * h), dtable.rest());
    }

    fn rmsnorm(
        &self,
        n: usize,
        h: usize,
        eps: f32,
        x: View<'_, CpuBuffer>,
        w: View<'_, CpuBuffer>,
        y: ViewMut<'_, CpuBuffer>,
        r: ViewMut<'_, CpuBuffer>,
    ) {
        norm::forward(h, eps, x.slice(n * h), w.slice(h), y.slice(n * h), r.slice(n));
    }

    fn rmsnorm_again(
        &self,
        n: usize,
        h: usize,
        x: View<'_, CpuBuffer>,
        w: View<'_, CpuBuffer>,
        r: View<'_, CpuBuffer>,
        y: ViewMut<'_, CpuBuffer>,
    ) {
        norm::again(h, x.slice(n * h), w.slice(h), r.slice(n), y.slice(n * h));
    }

    fn rmsnorm_backward(
        &self,
        n: usize,
        h: usize,
        x: View<'_, CpuBuffer>,
        w: View<'_, CpuBuffer>,
        r: View<'_, CpuBuffer>,
        dy: View<'_, CpuBuffer>,
        dx: ViewMut<'_, CpuBuffer>,
        dw: Option<(ViewMut<'_, CpuBuffer>, f32)>,
    ) {
        let dw = dw.map(|(dw, beta)| (dw.slice(h), beta));
        norm::backward(h, x.slice(n * h), w.slice(h), r.slice(n), dy.slice(n * h), dx.slice(n * h), dw);
    }

    fn rope(
        &self,
        heads: usize,
        head_dim: usize,
        stride: usize,
        positions: &[u32],
        table: View<'_, CpuBuffer>,
        backward: bool,
        x: ViewMut<'_, CpuBuffer>,
    ) {
        let x = x.slice(extent(positions.len(), heads * head_dim, stride));
        elementwise::rope(heads, head_dim, stride, positions, table.rest(), backward, x);
    }

    fn attention(
        &self,
        shape: AttentionShape,
        doc_lens: &[u32],
        qkv: View<'_, CpuBuffer>,
        out: ViewMut<'_, CpuBuffer>,
        lse: ViewMut<'_, CpuBuffer>,
    ) {
        let n: usize = doc_lens.iter().map(|&length| length as usize).sum();
        let (qkv, out, lse) =
            (qkv.slice(n * shape.packed()), out.slice(n * shape.output()), lse.slice(n * shape.heads));
        attention::forward(shape, doc_lens, qkv, out, lse);
    }

    fn attention_backward(
        &self,
        shape: AttentionShape,
        doc_lens: &[u32],
        qkv: View<'_, CpuBuffer>,
        out: View<'_, CpuBuffer>,
        lse: View<'_, CpuBuffer>,
        dout: View<'_, CpuBuffer>,
        dqkv: ViewMut<'_, CpuBuffer>,
    ) {
        let n: usize = doc_lens.iter().map(|&length| length as usize).sum();
        let saved = attention::Saved {
            qkv: qkv.slice(n * shape.packed()),
            out: out.slice(n * shape.output()),
            lse: lse.slice(n * shape.heads),
        };
        attention::backward(shape, doc_lens, &saved, dout.slice(n * shape.output()), dqkv.slice(n * shape.packed()));
    }

    fn attention_cached(
        &self,
        shape: AttentionShape,
        slots: &[u32],
        lens: &[u32],
        capacity: usize,
        qkv: View<'_, CpuBuffer>,
        keys: View<'_, CpuBuffer>,
        values: View<'_, CpuBuffer>,
        out: ViewMut<'_, CpuBuffer>,
    ) {
        let (qkv, out) = (qkv.slice(slots.len() * shape.packed()), out.slice(slots.len() * shape.output()));
        let cache = attention::Cache { capacity, keys: keys.rest(), values: values.rest() };
        attention::cached(shape, slots, lens, &cache, qkv, out);
    }

    fn swiglu(&self, n: usize, ffn: usize, gu: View<'_, CpuBuffer>, a: ViewMut<'_, CpuBuffer>) {
        elementwise::swiglu(ffn, gu.slice(n * 2 * ffn), a.slice(n * ffn));
    }

    fn swiglu_backward(&self, n: usize, ffn: usize, da: View<'_, CpuBuffer>, gu: ViewMut<'_, CpuBuffer>) {
        elementwise::swiglu_backward(ffn, da.slice(n * ffn), gu.slice(n * 2 * ffn));
    }

    fn dropout(&self, len: usize, key: DropoutKey, add: bool, x: View<'_, CpuBuffer>, y: ViewMut<'_, CpuBuffer>) {
        elementwise::dropout(key, add, x.slice(len), y.slice(len));
    }

    fn linear_cross_entropy(
        &self,
        n: usize,
        h: usize,
        v: usize,
        x: View<'_, CpuBuffer>,
        w: View<'_, CpuBuffer>,
        targets: Targets<'_>,
        gradients: Option<LossGradients<'_, CpuBuffer>>,
    ) -> f64 {
        let gradients = gradients.map(|LossGradients { dx, dw, idle }| {
            let (dw, room) = match dw {
                None => (None, None),
                Some((dw, beta)) => {
                    let parts = dw.buffer.data.get_disjoint_mut([dw.offset..dw.offset + v * h, idle]);
                    let [dw, room] = parts.expect("the gradient and the idle elements are inside their buffer, apart");
                    (Some((dw, beta)), Some(room))
                }
            };
            cross_entropy::Gradients { dx: dx.slice(n * h), dw, room }
        });
        cross_entropy::linear_cross_entropy(h, v, x.slice(n * h), w.slice(v * h), targets, gradients)
    }

    fn sum_of_squares(&self, len: usize, x: View<'_, CpuBuffer>) -> f64 {
        elementwise::sum_of_squares(x.slice(len))
    }

    fn adamw(
        &self,
        len: usize,
        step: AdamStep,
        g: View<'_, CpuBuffer>,
        m: ViewMut<'_, CpuBuffer>,
        v: ViewMut<'_, CpuBuffer>,
        p: ViewMut<'_, CpuBuffer>,
    ) {
        adamw::step(step, g.slice(len), m.slice(len), v.slice(len), p.slice(len));
    }
}
