//! A device that computes nothing and counts what another would take: a model, a step or a generation that runs on it
//! says how much memory it needs, from the very code that asks for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cpu::{attention, compact, cross_entropy, experts, matmul};
use super::cuda::plan;
use super::{
    Activation, AdamState, AdamStep, Attended, AttentionShape, Cache, CacheMut, Combine, Demands, DeviceError,
    DropoutKey, ExpertColumns, ExpertOps, ExpertProduct, ExpertWeights, Format, Gemm, Head, LayerAttention,
    LossGradients, Memory, Norm, Normed, OptimizerOps, Packed, Precision, Queue, Rotation, Routing, Rows, Scaled,
    Segment, TensorOps, Totals, View, ViewMut, XieluGradients,
};
use crate::IGNORE;

/// Whose memory is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Profile {
    /// That of the CPU.
    #[default]
    Cpu,
    /// That of a GPU.
    Cuda {
        /// What it works in.
        precision: Precision,
        /// Streaming multiprocessors.
        multiprocessors: usize,
        /// cuDNN computes attention of long documents.
        fused_attention: bool,
    },
}

impl Profile {
    fn precision(self) -> Precision {
        match self {
            Self::Cpu => Precision::F32,
            Self::Cuda { precision, .. } => precision,
        }
    }
}

/// The device; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Counting {
    profile: Profile,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    buffers: AtomicU64,
    most: AtomicU64,
    logits: AtomicU64,
    products: AtomicU64,
    scores: AtomicU64,
}

/// A buffer without memory.
#[derive(Debug)]
pub struct Counted {
    bytes: u64,
    counters: Arc<Counters>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counters.buffers.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn bytes(elements: usize) -> u64 {
    4 * elements as u64
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Counting {
    /// Counts for a device.
    pub fn new(profile: Profile) -> Self {
        Self { profile, counters: Arc::default() }
    }

    /// Bytes that `work` has in buffers at its peak, beyond those that are there before.
    pub fn beyond<R>(&self, work: impl FnOnce() -> R) -> (R, u64) {
        let before = read(&self.counters.buffers);
        self.counters.most.store(before, Ordering::Relaxed);
        let result = work();
        (result, read(&self.counters.most) - before)
    }

    /// Bytes that the output projection keeps for logits and what belongs to them; on a GPU, what all operations keep,
    /// which it is nearly all of.
    pub fn logits(&self) -> u64 {
        read(&self.counters.logits)
    }

    /// Bytes that each thread keeps for packed operands and attention scores.
    pub fn thread(&self) -> u64 {
        read(&self.counters.products) + read(&self.counters.scores)
    }

    /// Bytes that are there before anything is asked for.
    pub fn fixed(&self) -> u64 {
        if self.profile == Profile::Cpu { 0 } else { super::cuda::WORKSPACE as u64 }
    }

    /// The room that an operation of a GPU works in.
    fn scratch(&self, bytes: impl FnOnce(Precision, usize) -> usize) {
        if let Profile::Cuda { precision, multiprocessors, .. } = self.profile {
            self.counters.logits.fetch_max(bytes(precision, multiprocessors) as u64, Ordering::Relaxed);
        }
    }

    /// The room of documents that cuDNN computes.
    fn fused(&self, shape: AttentionShape, window: Option<usize>, doc_lens: &[u32]) {
        if let Profile::Cuda { fused_attention: true, .. } = self.profile {
            let doc_lens = doc_lens.iter().filter(|&&length| plan::is_fused(length as usize, shape, window));
            let groups = doc_lens.filter_map(|&length| plan::fused_group(length as usize, shape));
            let most = groups.map(|group| plan::fused_bytes(group, shape)).max().unwrap_or(0);
            self.scratch(|_, _| most);
        }
    }

    /// What each thread keeps for a product.
    fn product(&self, gemm: Gemm) {
        if self.profile == Profile::Cpu {
            self.counters.products.fetch_max(matmul::scratch_bytes(gemm) as u64, Ordering::Relaxed);
        }
    }

    fn scores(&self, doc_lens: &[u32], backward: bool) {
        if self.profile != Profile::Cpu {
            return;
        }
        let longest = doc_lens.iter().max().map_or(0, |&length| length as usize);
        self.counters.scores.fetch_max(bytes(attention::scratch_len(longest, backward)), Ordering::Relaxed);
    }
}

type Read<'a> = View<'a, Counted>;
type Write<'a> = ViewMut<'a, Counted>;

/// The rows of a pass, as far as they take memory.
#[derive(Debug)]
pub struct CountedRows {
    doc_lens: Vec<u32>,
    rows: usize,
    targets: usize,
}

impl Memory for Counting {
    type Buffer = Counted;

    fn alloc(&self, format: Format, len: usize) -> Counted {
        let kind = if format == Format::F32 { Precision::F32 } else { self.profile.precision() };
        let bytes = (len * kind.bytes()) as u64;
        let now = self.counters.buffers.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.counters.most.fetch_max(now, Ordering::Relaxed);
        Counted { bytes, counters: Arc::clone(&self.counters) }
    }

    fn bytes(&self, buffer: &Counted) -> u64 {
        buffer.bytes
    }

    fn download(&self, _: Read<'_>, _: &mut [f32]) {}

    fn upload(&self, _: &[f32], _: Write<'_>) {}

    fn put_words(&self, _: &[u32], _: Write<'_>) {}

    fn copy(&self, _: usize, _: Read<'_>, _: Write<'_>) {}

    fn copy_within(&self, _: usize, _: &mut Counted, _: usize, _: usize) {}

    fn zero(&self, _: usize, _: Write<'_>) {}
}

impl Queue for Counting {
    type Staged = CountedRows;
    type Accumulator = ();
    type Graphs = ();

    fn precision(&self) -> Precision {
        self.profile.precision()
    }

    fn prepare(&self, demands: Demands) -> Result<(), DeviceError> {
        if demands.has_experts && self.profile != Profile::Cpu {
            return Err(super::cuda::no_experts("CUDA".into()));
        }
        Ok(())
    }

    fn padded(&self, rows: usize) -> usize {
        if self.profile == Profile::Cpu { rows } else { plan::padded(rows) }
    }

    fn stage(&self, rows: Rows<'_>, staged: &mut Option<CountedRows>) {
        let targets = rows.targets.map_or(&[][..], |targets| targets.tokens);
        *staged = Some(CountedRows {
            doc_lens: rows.doc_lens.to_vec(),
            rows: rows.ids.len(),
            targets: targets.iter().filter(|&&target| target != IGNORE).count(),
        });
    }

    fn accumulator(&self) {}

    fn clear(&self, (): &mut ()) {}

    fn totals(&self, (): &()) -> Totals {
        Totals::default()
    }

    fn weigh(&self, _: &[f32], _: f32, _: &mut CountedRows) {}
}

impl TensorOps for Counting {
    type Compact = Counted;

    /// As if all weights were bfloat16 numbers: what there is at most.
    fn compact(&self, _: &Counted, matrices: &[(usize, [usize; 2])]) -> Option<Counted> {
        let halves: usize = matrices.iter().map(|&(_, sizes)| compact::len(sizes)).sum();
        (self.profile == Profile::Cpu).then(|| self.alloc(Format::F32, halves.div_ceil(2)))
    }

    fn gemm_compact(&self, gemm: Gemm, a: Read<'_>, b: Read<'_>, _: &Counted, c: Write<'_>) {
        self.gemm(gemm, a, b, c);
    }

    fn gemm(&self, gemm: Gemm, _: Read<'_>, _: Read<'_>, _: Write<'_>) {
        self.product(gemm);
    }

    fn attention(&self, attention: LayerAttention, rows: &CountedRows, _: Read<'_>, _: Write<'_>, _: Write<'_>) {
        let LayerAttention { shape, window } = attention;
        self.scores(&rows.doc_lens, false);
        self.fused(shape, window, &rows.doc_lens);
    }

    fn attention_backward(
        &self,
        attention: LayerAttention,
        rows: &CountedRows,
        _: Attended<'_, Counted>,
        _: Read<'_>,
        _: Write<'_>,
    ) {
        let LayerAttention { shape, window } = attention;
        self.scores(&rows.doc_lens, true);
        self.fused(shape, window, &rows.doc_lens);
        self.scratch(|_, _| plan::attention_bytes(plan::padded(rows.rows), shape.heads));
    }

    fn linear_log_probs(
        &self,
        head: Head,
        rows: &CountedRows,
        _: Read<'_>,
        _: Read<'_>,
        _: Write<'_>,
        gradients: Option<LossGradients<'_, Counted>>,
    ) {
        let (h, v) = (head.width, head.vocabulary);
        if self.profile != Profile::Cpu {
            let n = plan::padded(rows.rows);
            return self.scratch(|precision, _| plan::LossScratch::new(n, rows.targets, h, v, precision).bytes);
        }
        // As on the CPU: idle memory comes with the gradient of the weight.
        let lent = gradients.filter(|gradients| gradients.dw.is_some()).map_or(0, |gradients| gradients.idle.len());
        let scratch = cross_entropy::ScratchSize::new(rows.targets, rows.rows, h, v, lent);
        self.counters.logits.fetch_max(bytes(scratch.len()), Ordering::Relaxed);
    }

    fn add_loss(&self, _: &CountedRows, _: Read<'_>, (): &mut ()) {}

    fn unpack(&self, _: Packed, _: &Counted, _: Write<'_>) {}

    fn embed(&self, _: usize, _: &CountedRows, _: Read<'_>, _: Write<'_>) {}

    fn embed_backward(&self, h: usize, rows: &CountedRows, _: Read<'_>, _: Write<'_>) {
        self.scratch(|_, _| plan::embedding_bytes(plan::padded(rows.rows), h));
    }

    fn scale(&self, _: usize, _: f32, _: Write<'_>) {}

    fn copy_columns(&self, _: usize, _: usize, _: usize, _: Read<'_>, _: Write<'_>) {}

    fn rmsnorm(&self, _: Norm, _: Read<'_>, _: Read<'_>, _: Option<Read<'_>>, _: Write<'_>, _: Write<'_>) {}

    fn rmsnorm_again(&self, _: Norm, _: Normed<'_, Counted>, _: Write<'_>) {}

    fn rmsnorm_backward(
        &self,
        norm: Norm,
        _: Normed<'_, Counted>,
        _: Option<Read<'_>>,
        _: Write<'_>,
        dw: Option<(Write<'_>, f32)>,
    ) {
        if dw.is_some() {
            self.scratch(|_, multiprocessors| plan::norm_bytes(norm.count(), norm.width, multiprocessors));
        }
    }

    fn row_norms(&self, _: usize, _: usize, _: Read<'_>, _: Read<'_>, _: Write<'_>) {}

    fn add_scaled(&self, _: Scaled, _: Option<(Read<'_>, Read<'_>)>, _: Read<'_>, _: f32, _: Write<'_>) {}

    fn add_scaled_backward(&self, _: Scaled, _: (Read<'_>, Read<'_>), _: Read<'_>, _: Write<'_>, _: (Write<'_>, f32)) {}

    fn rope(&self, _: Rotation, _: &CountedRows, _: Read<'_>, _: bool, _: Write<'_>) {}

    fn append(&self, _: AttentionShape, _: &CountedRows, _: Read<'_>, _: CacheMut<'_, Counted>) {}

    fn attention_cached(&self, _: LayerAttention, _: &CountedRows, _: Read<'_>, _: Cache<'_, Counted>, _: Write<'_>) {}

    fn glu(&self, _: Activation, _: usize, _: usize, _: Read<'_>, _: Write<'_>) {}

    fn glu_backward(&self, _: Activation, _: usize, _: usize, _: Read<'_>, _: Write<'_>) {}

    fn noise(&self, _: usize, _: &CountedRows, _: u64, _: u64, _: Write<'_>) {}

    fn xielu(&self, _: usize, _: usize, _: Read<'_>, _: Read<'_>, _: Write<'_>) {}

    fn xielu_backward(
        &self,
        n: usize,
        _: usize,
        _: Read<'_>,
        _: Read<'_>,
        _: Write<'_>,
        dw: XieluGradients<'_, Counted>,
    ) {
        if dw.places.iter().any(Option::is_some) {
            self.scratch(|_, _| plan::xielu_bytes(n));
        }
    }

    fn dropout(&self, _: &CountedRows, _: usize, _: DropoutKey, _: bool, _: Read<'_>, _: Write<'_>) {}
}

impl ExpertOps for Counting {
    fn route(&self, _: Routing, _: Write<'_>, _: Write<'_>, _: Write<'_>) {}

    fn count_routes(&self, _: Routing, _: Read<'_>, _: Read<'_>, _: Write<'_>, _: Write<'_>) {}

    fn balance(&self, _: Routing, _: usize, _: f32, _: Read<'_>, _: Write<'_>) {}

    fn dispatch(&self, _: Routing, _: usize, _: Read<'_>, _: Read<'_>, _: Write<'_>) {}

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
    }

    fn expert_products(
        &self,
        routing: Routing,
        product: ExpertProduct,
        _: Read<'_>,
        _: Read<'_>,
        _: Read<'_>,
        _: Option<&Counted>,
        _: Write<'_>,
    ) {
        self.product(experts::largest_product(routing, product));
    }

    fn expert_gradients(
        &self,
        routing: Routing,
        sizes: [usize; 2],
        _: Read<'_>,
        _: Read<'_>,
        _: Read<'_>,
        _: &[ExpertWeights],
        _: f32,
        _: Write<'_>,
    ) {
        self.product(experts::largest_gradient(routing, sizes));
    }

    fn split_columns(&self, _: ExpertColumns, _: Read<'_>, _: Write<'_>) {}

    fn join_columns(&self, _: ExpertColumns, _: f32, _: Read<'_>, _: Write<'_>) {}

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
    }

    fn route_backward(&self, _: Routing, _: Read<'_>, _: Read<'_>, _: Read<'_>, _: Option<Read<'_>>, _: Write<'_>) {}
}

impl OptimizerOps for Counting {
    type Segments = ();

    fn sum_of_squares(&self, _: usize, _: Read<'_>, (): &mut ()) {}

    fn clip(&self, _: Option<f64>, (): &mut ()) {}

    fn segments(&self, _: &[Segment]) {}

    fn adamw(&self, _: AdamStep, (): &(), (): &(), _: AdamState<'_, Counted>) {}
}
