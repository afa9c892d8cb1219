//! What a device could not do, as a fact.

/// What a device could not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// There is not enough memory.
    #[error("`{device}` has no {wanted} bytes of memory left: {free} of {total} are free")]
    OutOfMemory {
        /// The device's name.
        device: String,
        /// Bytes that were asked for.
        wanted: u64,
        /// Bytes that were free.
        free: u64,
        /// Bytes there are.
        total: u64,
    },
    /// The device cannot do what the model needs.
    #[error("`{device}` cannot do it: {reason}")]
    Unsupported {
        /// The device's name.
        device: String,
        /// What it lacks.
        reason: String,
    },
    /// A call of the driver or of a library failed.
    #[error("`{call}` failed on `{device}`: {reason}")]
    Failed {
        /// The device's name.
        device: String,
        /// What was called.
        call: String,
        /// What it answered.
        reason: String,
    },
}
