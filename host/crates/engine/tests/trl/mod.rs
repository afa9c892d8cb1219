//! What tests beside TRL share: its fixtures, and the model that they are of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use engine::adapter::LoraConfig;
use engine::architecture::config::ModelConfig;
use engine::objective::Accumulated;
use engine::optim::AdamWConfig;
use engine::weights::WeightSource;
use engine::{Trainable, Trainer, TrainerOptions};
use safetensors::SafeTensors;
use serde::Deserialize;
use serde::de::DeserializeOwned;

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

/// A trainer of all of a model.
pub(super) fn trainer_of(directory: PathBuf) -> Trainer {
    trainer_with(directory, None)
}

/// A trainer of a model, or of an adapter beside it.
pub(super) fn trainer_with(directory: PathBuf, lora: Option<LoraConfig>) -> Trainer {
    let adamw = AdamWConfig { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.0 };
    let options = TrainerOptions {
        trainable: Trainable::All,
        lora,
        gradient_checkpointing: false,
        seed: 0,
        adamw,
        ..TrainerOptions::default()
    };
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

#[derive(Deserialize)]
struct Cases<C> {
    cases: BTreeMap<String, C>,
}

/// Gives each case of a folder of `tests/fixtures` to `check`, with the fixture's tensors and its name.
pub(super) fn with_fixture<C: DeserializeOwned>(folder: &str, check: impl Fn(&SafeTensors<'_>, &str, &C)) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/fixtures").join(folder);
    let bytes = std::fs::read(directory.join("expected.safetensors")).unwrap();
    let cases: Cases<C> = serde_json::from_slice(&std::fs::read(directory.join("cases.json")).unwrap()).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for (name, case) in &cases.cases {
        check(&tensors, name, case);
    }
}

/// Holds the loss of a case, what is told of it and the gradients of the fixture's weights against TRL's. What is less than
/// the floors, of the loss and of metrics, may be as far off as those.
pub(super) fn agree(
    tensors: &SafeTensors<'_>,
    name: &str,
    trainer: &Trainer,
    found: &Accumulated,
    metrics: &BTreeMap<String, f64>,
    [least_loss, least_metric]: [f64; 2],
) {
    let expected = f64::from_le_bytes(tensors.tensor(&format!("{name}/loss")).unwrap().data().as_chunks().0[0]);
    let off = (found.loss - expected).abs();
    assert!(off <= 1e-5 * expected.abs().max(least_loss), "{name}: loss {} {expected}", found.loss);
    // TRL has nothing that stands for the engine that samples, unless it is another one.
    let told = found.metrics.means().filter(|(name, _)| !name.starts_with("sampling/"));
    let told: BTreeMap<&str, f64> = told.collect();
    assert_eq!(told.len(), metrics.len(), "{name}: {told:?}");
    for (metric, expected) in metrics {
        let off = (told[metric.as_str()] - expected).abs();
        assert!(
            off <= 1e-5 * expected.abs().max(least_metric),
            "{name}: {metric} {} {expected}",
            told[metric.as_str()]
        );
    }
    let prefix = format!("{name}/grad/");
    let weights: Vec<&str> = tensors.names().into_iter().filter_map(|key| key.strip_prefix(&prefix)).collect();
    assert!(weights.len() >= 2, "{name}: gradients are compared");
    for weight in weights {
        let gradient = floats(tensors, &format!("{prefix}{weight}"));
        let off = distance(&trainer.gradient(weight).unwrap(), &gradient);
        assert!(off <= 2e-5, "{name}: the gradient of {weight} is {off:e} off");
    }
}
