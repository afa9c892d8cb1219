//! How work reaches a device.

use super::memory::Memory;
use crate::buffer::Precision;
use crate::error::DeviceError;
use crate::operands::{Demands, Rows, Totals, Usage};

/// How work reaches a device: what it knows of the rows of a pass, stretches of work that come again, and sums that come
/// back.
pub trait Queue: Memory {
    /// The rows of a pass, where the device reads them.
    type Staged: Send + Sync + std::fmt::Debug;

    /// Sums that stay on the device until they are asked for.
    type Accumulator: Send + Sync + std::fmt::Debug;

    /// Stretches of work that the device keeps, to do them again; see [`Self::replay`].
    type Graphs: Default + Send + Sync + std::fmt::Debug;

    /// Runs a stretch of work where its operations start fastest; on the CPU, on a thread of the pool that they use.
    fn within<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        work()
    }

    /// What [`Format::Working`](crate::Format::Working) is.
    fn precision(&self) -> Precision {
        Precision::F32
    }

    /// What it was used for; none for the CPU.
    fn usage(&self) -> Option<Usage> {
        None
    }

    /// Rows that a pass over `rows` takes. Where products are fast in some sizes only, it is more; the rows beyond are a
    /// document of their own, without targets.
    fn padded(&self, rows: usize) -> usize {
        rows
    }

    /// True if documents may continue others ([`Rows::continues`]).
    fn continues_documents(&self) -> bool {
        false
    }

    /// Makes ready for a model, before any memory is asked for.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] where the device cannot run it.
    fn prepare(&self, _demands: Demands) -> Result<(), DeviceError> {
        Ok(())
    }

    /// What has gone wrong, memory that could not be had first of all.
    ///
    /// # Errors
    /// [`DeviceError`], the same one from then on.
    fn check(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Puts the rows of a pass where the device reads them, in the room of earlier rows where there is some.
    fn stage(&self, rows: Rows<'_>, staged: &mut Option<Self::Staged>);

    /// Gives rows that were staged with weights of their targets others, one a row, and another factor of the gradients.
    fn weigh(&self, weights: &[f32], scale: f32, rows: &mut Self::Staged);

    /// Does `work`, which asks for operations of `rows` and for nothing else: with the same buffers and numbers whenever
    /// `key` is the same. A device may keep what rows of some layout come to and do that the next time, without `work`.
    /// The buffers must live as long as `graphs`.
    fn replay(&self, _graphs: &mut Self::Graphs, _rows: &Self::Staged, _key: u64, mut work: impl FnMut()) {
        work();
    }

    /// Sums of zero.
    fn accumulator(&self) -> Self::Accumulator;

    /// Sets the sums to zero.
    fn clear(&self, accumulator: &mut Self::Accumulator);

    /// The sums, after all that was asked for before.
    fn totals(&self, accumulator: &Self::Accumulator) -> Totals;
}
