//! How work reaches a GPU.

use std::sync::Arc;

use crate::cuda::attention;
use crate::cuda::cudnn::Cudnn;
use crate::cuda::device::{CudaKernels, LONGEST_NORM, PackedTables};
use crate::cuda::graphs::CudaGraphs;
use crate::cuda::modules::{Attention, attention_defines};
use crate::cuda::no_experts;
use crate::cuda::plan;
use crate::cuda::rows::{CudaRows, Grouping};
use crate::cuda::state::CudaAccumulator;
use crate::{Demands, DeviceError, Precision, Queue, Rows, Totals, Usage};

impl Queue for CudaKernels {
    type Staged = CudaRows;
    type Accumulator = CudaAccumulator;
    type Graphs = CudaGraphs;

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
        let Demands { attention: shape, window, widest_norm: widest, is_packed, has_experts } = demands;
        let device = &*self.0;
        let unsupported =
            |reason: String| Err(DeviceError::Unsupported { device: device.context.name.clone(), reason });
        if has_experts {
            return Err(no_experts(device.context.name.clone()));
        }
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

    fn stage(&self, rows: Rows<'_>, staged: &mut Option<CudaRows>) {
        let device = &self.0;
        let group = |length: usize| device.group(length);
        let grouping: Option<Grouping<'_>> = device.attention.get().map(|&(shape, ..)| (shape, &group as _));
        staged.get_or_insert_with(|| CudaRows::new(device)).put(&rows, attention::TILES, grouping);
    }

    fn weigh(&self, weights: &[f32], scale: f32, rows: &mut CudaRows) {
        rows.weigh(weights, scale);
    }

    fn replay(&self, graphs: &mut CudaGraphs, rows: &CudaRows, key: u64, mut work: impl FnMut()) {
        self.replayed(graphs, rows, key, &mut work);
    }

    fn accumulator(&self) -> CudaAccumulator {
        let pointer = self.0.context.alloc(CudaAccumulator::BYTES);
        let mut accumulator = CudaAccumulator { device: Arc::clone(&self.0), pointer };
        self.clear(&mut accumulator);
        accumulator
    }

    fn clear(&self, accumulator: &mut CudaAccumulator) {
        self.0.context.zero(accumulator.pointer, CudaAccumulator::BYTES);
    }

    fn totals(&self, accumulator: &CudaAccumulator) -> Totals {
        let mut sums = [0.0; 2];
        self.0.context.read(accumulator.pointer, size_of_val(&sums), |_, bytes| {
            for (sum, &bytes) in sums.iter_mut().zip(bytes.as_chunks().0) {
                *sum = f64::from_ne_bytes(bytes);
            }
        });
        Totals { loss_sum: sums[0], squares: sums[1] }
    }
}
