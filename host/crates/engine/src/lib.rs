//! The compute half of the trainer: model, adapters, optimizer and generation, on the devices of [`kernels`].
//!
//! A training step is an explicit forward and backward pass, layer by layer, over flat arenas ([`architecture::layout`]). The
//! schedule is written once against the [`kernels::Kernels`] trait; a device is an implementation of that trait.
//! Batches are documents of any length put end to end ([`Batch`]): nothing is ever padded.

pub mod adapter;
pub mod architecture;
pub mod batch;
pub mod error;
pub mod files;
pub mod generate;
pub mod memory;
pub mod model;
pub mod objective;
pub mod optim;
pub mod options;
mod reference;
mod teacher;
pub mod trainer;
pub mod weights;
pub mod workload;

pub use batch::Batch;
pub use error::{EngineError, PeftError};
pub use kernels::{self, DeviceError, IGNORE, rng};
pub use objective::{
    Cpo, CpoLoss, CrossEntropy, Distill, Kto, KtoLoss, LabelCrossEntropy, Objective, Orpo, PairLoss, Pairs, Preference,
    RewardModel, ScoredPairs, Unpaired, WholePairs,
};
pub use options::{Trainable, TrainerOptions};
pub use trainer::{GradientReport, MemoryUse, StepStats, TrainPass, Trainer};
