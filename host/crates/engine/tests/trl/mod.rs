//! What tests beside TRL share: its fixtures, and the model that they are of.

use engine::architecture::config::ModelConfig;
use engine::optim::AdamWConfig;
use engine::weights::WeightSource;
use engine::{Trainable, Trainer, TrainerOptions};
use safetensors::SafeTensors;

use crate::fixture::fixture;

/// The f32 elements of a tensor.
pub(super) fn floats(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = tensors.tensor(name).unwrap_or_else(|_| panic!("no {name}"));
    tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The elements of a tensor of integers.
pub(super) fn integers(tensors: &SafeTensors<'_>, name: &str) -> Vec<u32> {
    let tensor = tensors.tensor(name).unwrap_or_else(|_| panic!("no {name}"));
    tensor.data().as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
}

/// A trainer of all of the parity fixtures' untied Llama.
pub(super) fn trainer() -> Trainer {
    let directory = fixture("untied");
    let adamw = AdamWConfig { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.0 };
    let options =
        TrainerOptions { trainable: Trainable::All, lora: None, gradient_checkpointing: false, seed: 0, adamw };
    let config = ModelConfig::from_dir(&directory).unwrap();
    Trainer::new(config, &WeightSource::Directory(directory), options).unwrap()
}

/// How far values are from what is expected, as a part of its length.
pub(super) fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let off = square(&mut found.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    (off / square(&mut expected.iter().map(|&value| f64::from(value))).max(1e-30)).sqrt()
}
