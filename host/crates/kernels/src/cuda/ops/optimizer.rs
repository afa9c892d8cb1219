//! The operations of the optimizer on a GPU.

use std::sync::{Arc, Mutex};

use crate::cuda::device::{CudaBuffer, CudaKernels, OPTIMIZER_TILE, SUM_THREADS, THREADS, lock};
use crate::cuda::driver::word;
use crate::cuda::plan;
use crate::cuda::state::{CudaAccumulator, CudaSegments};
use crate::{AdamState, AdamStep, OptimizerOps, Precision, Segment, View};

impl OptimizerOps for CudaKernels {
    type Segments = CudaSegments;

    fn sum_of_squares(&self, len: usize, x: View<'_, CudaBuffer>, accumulator: &mut CudaAccumulator) {
        assert_eq!(x.buffer.kind, Precision::F32, "sums are of f32 elements");
        let (device, x) = (&*self.0, x.pointer(len));
        let blocks = plan::reduction_blocks(device.multiprocessors());
        let partial = device.scratch(blocks * size_of::<f64>());
        let (function, finish) = (device.optimizer.sum_of_squares, device.optimizer.sum_of_squares_finish);
        device.context.launch(function, [blocks, 1], SUM_THREADS, 0, &[x, partial, len as u64]);
        device.context.launch(finish, [1, 1], SUM_THREADS, 0, &[partial, word(blocks), accumulator.squares()]);
    }

    fn clip(&self, max_norm: Option<f64>, accumulator: &mut CudaAccumulator) {
        let max = max_norm.unwrap_or(0.0).to_bits();
        let arguments = [accumulator.pointer, max, u64::from(max_norm.is_some())];
        self.0.context.launch(self.0.optimizer.clip, [1, 1], 1, 0, &arguments);
    }

    fn segments(&self, segments: &[Segment]) -> CudaSegments {
        let context = &self.0.context;
        let mut bytes = Vec::new();
        for &Segment { parameter, gradient, len, decays, rate } in segments {
            let rule = u64::from(decays) | u64::from(rate.to_bits()) << 32;
            let words = [parameter as u64, gradient as u64, len as u64, rule];
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

    fn adamw(
        &self,
        step: AdamStep,
        segments: &CudaSegments,
        accumulator: &CudaAccumulator,
        state: AdamState<'_, CudaBuffer>,
    ) {
        let AdamState { gradients, exp_avg, exp_avg_sq, params, master } = state;
        let AdamStep { lr, beta1, beta2, eps, weight_decay, correction1, correction2_sqrt } = step;
        let constants = [lr, beta1, beta2, eps, weight_decay, correction1, correction2_sqrt];
        lock(&segments.feeder).send(&self.0.context, &constants.map(f32::to_bits), segments.step_at);
        let arguments = [
            params.pointer,
            master.map_or(0, |master| master.pointer),
            gradients.pointer,
            exp_avg.pointer,
            exp_avg_sq.pointer,
            segments.block,
            segments.tiles_at,
            word(segments.tiles),
            segments.step_at,
            accumulator.pointer,
        ];
        self.0.context.launch(self.0.optimizer.adamw, [segments.tiles, 1], THREADS, 0, &arguments);
    }
}
