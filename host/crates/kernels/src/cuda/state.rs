//! What stays on the device from operation to operation: sums, and the optimizer's segments.

use std::sync::{Arc, Mutex, PoisonError};

use super::device::Device;
use super::rows::Feeder;

/// Sums on the device: the loss and the squares in f64, the factor of the gradients, and whether the squares are finite.
#[derive(Debug)]
pub struct CudaAccumulator {
    pub(super) device: Arc<Device>,
    pub(super) pointer: u64,
}

impl CudaAccumulator {
    pub(super) const BYTES: usize = 24;

    pub(super) fn loss(&self) -> u64 {
        self.pointer
    }

    pub(super) fn squares(&self) -> u64 {
        self.pointer + 8
    }
}

impl Drop for CudaAccumulator {
    fn drop(&mut self) {
        self.device.context.free(self.pointer);
    }
}

/// Segments on the device, cut into tiles, and the constants of the step that is next.
#[derive(Debug)]
pub struct CudaSegments {
    pub(super) device: Arc<Device>,
    /// Segments, tiles, constants.
    pub(super) block: u64,
    pub(super) tiles: usize,
    pub(super) tiles_at: u64,
    pub(super) step_at: u64,
    pub(super) feeder: Mutex<Feeder>,
}

impl Drop for CudaSegments {
    fn drop(&mut self) {
        let context = &self.device.context;
        self.feeder.get_mut().unwrap_or_else(PoisonError::into_inner).close(context);
        context.free(self.block);
    }
}
