//! What can go wrong in the compute half, as facts; the host turns them into words for the user.

use std::path::PathBuf;

use crate::adapter::peft::PeftError;
use crate::kernels::DeviceError;
use crate::model::config::ConfigError;
use crate::model::weights::WeightsError;

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
