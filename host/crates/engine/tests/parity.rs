//! The training step against transformers and peft: losses, gradients and four AdamW steps of the fixtures in
//! `tests/fixtures/parity` (made by `make.py` there; versions in `versions.json`).
//!
//! Tolerances: f32 sums in another order. Measured worst cases are a tenth of what is allowed here, or less.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use engine::adapter::LoraConfig;
use engine::model::config::ModelConfig;
use engine::model::layout::LinearKind;
use engine::model::weights::WeightSource;
use engine::optim::AdamWConfig;
use engine::{Batch, IGNORE, Trainable, Trainer, TrainerOptions};
use safetensors::SafeTensors;
use serde::Deserialize;

const LOSS: f64 = 1e-5;
const GRADIENT: f64 = 2e-5;
const PARAMETER: f64 = 2e-5;

#[derive(Deserialize)]
struct Case {
    lr: f64,
    weight_decay: f64,
    betas: [f64; 2],
    eps: f64,
    max_grad_norm: f64,
    accumulation: usize,
    trainable: Option<BTreeSet<String>>,
    lora: Option<Lora>,
}

#[derive(Deserialize)]
struct Lora {
    r: usize,
    #[serde(rename = "lora_alpha")]
    alpha: f64,
    target_modules: Vec<String>,
    #[serde(default)]
    use_rslora: bool,
    layers_to_transform: Option<BTreeSet<usize>>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/fixtures/parity").join(name)
}

struct Expected {
    bytes: Vec<u8>,
}

impl Expected {
    fn open(directory: &Path) -> Self {
        Self { bytes: std::fs::read(directory.join("expected.safetensors")).unwrap() }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let tensors = self.tensors();
        let view = tensors.tensor(name).unwrap();
        view.data().chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    fn doubles(&self, name: &str) -> Vec<f64> {
        let tensors = self.tensors();
        let view = tensors.tensor(name).unwrap();
        view.data().chunks_exact(8).map(|word| f64::from_le_bytes(word.try_into().unwrap())).collect()
    }

    fn ints(&self, name: &str) -> Vec<i32> {
        let tensors = self.tensors();
        let view = tensors.tensor(name).unwrap();
        view.data().chunks_exact(4).map(|word| i32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    fn names(&self, prefix: &str) -> Vec<String> {
        self.tensors().names().into_iter().filter_map(|name| name.strip_prefix(prefix)).map(String::from).collect()
    }

    /// The rows of a padded micro-batch as documents end to end.
    fn batch(&self, step: usize, micro: usize) -> Batch {
        let key = |part: &str| format!("steps/{step}/{micro}/{part}");
        let (ids, labels, lens) = (self.ints(&key("ids")), self.ints(&key("labels")), self.ints(&key("lens")));
        let width = ids.len() / lens.len();
        let mut batch = Batch::default();
        for (row, &length) in lens.iter().enumerate() {
            let length = length as usize;
            let at = row * width;
            batch.ids.extend(ids[at..at + length].iter().map(|&id| id as u32));
            let next = labels[at + 1..at + length].iter();
            batch.targets.extend(next.map(|&label| if label < 0 { IGNORE } else { label as u32 }));
            batch.targets.push(IGNORE);
            batch.doc_lens.push(length as u32);
        }
        batch
    }
}

fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    let size: f64 = expected.iter().map(|b| f64::from(*b).powi(2)).sum();
    (difference / size.max(1e-30)).sqrt()
}

fn options(case: &Case, gradient_checkpointing: bool) -> TrainerOptions {
    TrainerOptions {
        trainable: case.trainable.clone().map_or(Trainable::All, Trainable::Named),
        lora: case.lora.as_ref().map(|lora| LoraConfig {
            r: lora.r,
            alpha: lora.alpha,
            dropout: 0.0,
            use_rslora: lora.use_rslora,
            target_modules: lora.target_modules.iter().map(|name| LinearKind::from_name(name).unwrap()).collect(),
            layers: lora.layers_to_transform.clone(),
        }),
        gradient_checkpointing,
        seed: 1,
        adamw: AdamWConfig {
            beta1: case.betas[0],
            beta2: case.betas[1],
            eps: case.eps,
            weight_decay: case.weight_decay,
        },
    }
}

fn trainer(directory: &Path, case: &Case, expected: &Expected, gradient_checkpointing: bool) -> Trainer {
    let config = ModelConfig::from_dir(directory).unwrap();
    let weights = WeightSource::Directory(directory.to_owned());
    let mut trainer = Trainer::new(config, &weights, options(case, gradient_checkpointing)).unwrap();
    if case.lora.is_some() {
        let mut start: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        trainer
            .visit_state::<engine::EngineError>(&mut |name, _, values| {
                let own = name.strip_prefix("param/").map(|name| expected.floats(&format!("start/{name}")));
                start.insert(name.to_owned(), own.unwrap_or_else(|| values.to_vec()));
                Ok(())
            })
            .unwrap();
        trainer.load_state::<engine::EngineError>(0, &mut |name| Ok(start.get(name).cloned())).unwrap();
    }
    trainer
}

fn check(name: &str, gradient_checkpointing: bool) {
    let directory = fixture(name);
    let case: Case = serde_json::from_slice(&std::fs::read(directory.join("case.json")).unwrap()).unwrap();
    let expected = Expected::open(&directory);
    let mut trainer = trainer(&directory, &case, &expected, gradient_checkpointing);
    let (losses, norms) = (expected.doubles("losses"), expected.doubles("grad_norms"));
    let (mut worst_loss, mut worst_gradient, mut worst_parameter) = (0.0f64, 0.0f64, 0.0f64);
    for step in 0..losses.len() {
        let batches: Vec<Batch> = (0..case.accumulation).map(|micro| expected.batch(step, micro)).collect();
        let targets: usize =
            batches.iter().flat_map(|batch| &batch.targets).filter(|&&target| target != IGNORE).count();
        for (micro, batch) in batches.iter().enumerate() {
            trainer.forward_backward(batch, 1.0 / targets as f64, micro as u32).unwrap();
        }
        let loss = trainer.loss_sum();
        worst_loss = worst_loss.max((loss / targets as f64 / losses[step] - 1.0).abs());
        if step == 0 {
            let names = expected.names("grad/");
            assert_eq!(names.len(), trainer.gradient_report().len(), "{name}: as many gradients as torch has");
            for tensor in names {
                let found = trainer.gradient(&tensor).unwrap_or_else(|| panic!("{name}: no gradient for {tensor}"));
                let error = distance(&found, &expected.floats(&format!("grad/{tensor}")));
                assert!(error <= GRADIENT, "{name}: gradient of {tensor} is {error:e} off");
                worst_gradient = worst_gradient.max(error);
            }
        }
        let stats = trainer.apply(case.lr, Some(case.max_grad_norm)).unwrap();
        assert!((stats.grad_norm / norms[step] - 1.0).abs() <= GRADIENT, "{name}: grad norm of step {step}");
    }
    for tensor in expected.names("after/") {
        let error = distance(&trainer.parameter(&tensor).unwrap(), &expected.floats(&format!("after/{tensor}")));
        assert!(error <= PARAMETER, "{name}: {tensor} is {error:e} off after four steps");
        worst_parameter = worst_parameter.max(error);
    }
    assert!(worst_loss <= LOSS, "{name}: loss is {worst_loss:e} off");
}

#[test]
fn full_untied() {
    check("untied", false);
}

#[test]
fn full_tied_with_accumulation() {
    check("tied", false);
}

#[test]
fn wide_heads_and_llama3_rope() {
    check("wide-heads-llama3-rope", false);
}

#[test]
fn partly_frozen() {
    check("frozen", false);
}

#[test]
fn lora_on_all_projections() {
    check("lora-all", false);
}

#[test]
fn rank_stabilized_lora_on_some_layers() {
    check("lora-some-rslora", false);
}

#[test]
fn gradient_checkpointing_changes_nothing() {
    for name in ["untied", "tied", "wide-heads-llama3-rope", "frozen", "lora-all", "lora-some-rslora"] {
        check(name, true);
    }
}
