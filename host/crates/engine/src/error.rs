//! What can go wrong in the compute half, as facts; the host turns them into words for the user.

use std::path::PathBuf;

use crate::architecture::config::ConfigError;
use crate::kernels::DeviceError;
use crate::weights::WeightsError;

/// Why an adapter directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PeftError {
    /// A file cannot be read.
    #[error("cannot read `{path}`: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it must be.
    #[error("`{path}` is not a valid adapter file: {reason}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It asks for something that this trainer does not have.
    #[error("`{path}` asks for `{feature}`, which is not supported", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key and value.
        feature: String,
    },
    /// It is not the adapter that is asked for.
    #[error("`{path}` is of another adapter than the one asked for: {reason}", path = path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// It is an adapter for another model.
    #[error("`{path}` does not fit the model: {reason}", path = path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
}

/// Any failure of this crate.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The model's `config.json` cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The model's weights cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// An adapter on disk cannot be used.
    #[error(transparent)]
    Peft(#[from] PeftError),
    /// The device could not do what was asked.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A batch does not fit together.
    #[error("the batch does not fit together: {reason}")]
    Batch {
        /// What does not fit.
        reason: String,
    },
    /// The options do not fit the model.
    #[error("{reason}")]
    Options {
        /// What does not fit.
        reason: String,
    },
    /// The loss or a gradient is not a number; the parameters are those of the step before.
    #[error("the gradient of {count} tensors is not finite, `{first}` first")]
    NonFiniteGradient {
        /// The first such tensor.
        first: String,
        /// How many there are.
        count: usize,
    },
    /// A step has no target that weighs anything.
    #[error("nothing of the step is to be learned: its targets weigh nothing")]
    NothingToLearn,
    /// The model does not say in training what it said when it sampled.
    #[error(
        "{tokens} tokens have another probability in training than where they were sampled: the first {learned} nats, not {sampled}"
    )]
    OffPolicy {
        /// How many.
        tokens: usize,
        /// What the first had where it was sampled, in nats.
        sampled: f32,
        /// What it has in training.
        learned: f32,
    },
    /// A saved state does not belong to this trainer.
    #[error("the saved state does not fit: {reason}")]
    State {
        /// What does not fit.
        reason: String,
    },
    /// A file could not be written.
    #[error("cannot write `{path}`: {source}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
