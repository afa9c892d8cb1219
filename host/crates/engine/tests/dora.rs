//! DoRA: gradients against differences of the loss, with dropout and without; the file; the merged weights.

mod fixture;

use std::collections::BTreeMap;

use engine::adapter::{LoraConfig, Modules, Saved};
use engine::architecture::config::ModelConfig;
use engine::architecture::tensors::LinearKind;
use engine::files::merge::merge;
use engine::files::peft::{self, export_adapter};
use engine::kernels::cpu::CpuKernels;
use engine::model::Model;
use engine::optim::AdamWConfig;
use engine::weights::WeightSource;
use engine::{Batch, IGNORE, Trainable, Trainer, TrainerOptions};
use fixture::fixture;

type State = BTreeMap<String, Vec<f32>>;

fn lora(dropout: f64, modules: Modules) -> LoraConfig {
    LoraConfig {
        r: 4,
        alpha: 6.0,
        dropout,
        use_rslora: false,
        use_dora: true,
        modules,
        saved: Saved::default(),
        ranks: BTreeMap::new(),
        alphas: BTreeMap::new(),
    }
}

/// A trainer of some projections of a unit and of all of others, whose adapters all do something.
fn trainer(name: &str, dropout: f64) -> Trainer {
    let directory = fixture(name);
    let kinds = [LinearKind::QProj, LinearKind::VProj, LinearKind::OProj, LinearKind::UpProj, LinearKind::DownProj];
    let options = TrainerOptions {
        trainable: Trainable::All,
        lora: Some(lora(dropout, Modules::of(kinds))),
        gradient_checkpointing: false,
        seed: 5,
        adamw: AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 },
        ..TrainerOptions::default()
    };
    let config = ModelConfig::from_dir(&directory).unwrap();
    let mut trainer = Trainer::new(config, &WeightSource::Directory(directory), options).unwrap();
    let mut state = state(&trainer);
    for (name, values) in &mut state {
        for (index, value) in values.iter_mut().enumerate() {
            let some = (index * 37 % 19) as f32 - 9.0;
            if name.starts_with("param/") && name.contains("lora_B") {
                *value = some * 0.02;
            } else if name.starts_with("param/") && name.contains("magnitude") {
                *value *= 1.0 + some * 0.02;
            }
        }
    }
    load(&mut trainer, &state);
    trainer
}

fn state(trainer: &Trainer) -> State {
    let mut state = State::new();
    let mut keep = |name: &str, _: &[usize], values: &[f32]| {
        state.insert(name.to_owned(), values.to_vec());
        Ok::<(), engine::EngineError>(())
    };
    trainer.visit_state(&mut keep).unwrap();
    state
}

fn load(trainer: &mut Trainer, state: &State) {
    trainer.load_state::<engine::EngineError>(0, &mut |name| Ok(state.get(name).cloned())).unwrap();
}

fn batch(vocabulary: usize) -> Batch {
    let ids: Vec<u32> = (0..24).map(|index| (index * 7 + 3) % vocabulary as u32).collect();
    let mut targets: Vec<u32> = ids[1..].to_vec();
    targets.push(IGNORE);
    targets[3] = IGNORE;
    Batch { ids, targets, weights: None, doc_lens: vec![24] }
}

/// Lengths of the rows of `W + s B A`.
fn norms(state: &State, weight: &[f32], module: &str) -> Vec<f64> {
    let part = |part: &str| &state[&format!("param/base_model.model.{module}.lora_{part}.weight")];
    let (a, b) = (part("A"), part("B"));
    let (r, scale) = (4, 6.0 / 4.0);
    let columns = a.len() / r;
    let row = |row: usize| {
        let element = |column: usize| {
            let added: f64 = (0..r).map(|k| f64::from(b[row * r + k]) * f64::from(a[k * columns + column])).sum();
            f64::from(weight[row * columns + column]) + scale * added
        };
        (0..columns).map(|column| element(column).powi(2)).sum::<f64>().sqrt()
    };
    (0..weight.len() / columns).map(row).collect()
}

#[test]
fn gradients_are_the_slopes_of_the_loss_with_lengths_held() {
    for (name, dropout) in [("llama-biases", 0.0), ("llama-biases", 0.3), ("granite", 0.3), ("gemma2", 0.2)] {
        let mut trainer = trainer(name, dropout);
        let start = state(&trainer);
        let batch = batch(trainer.model().config.vocab_size);
        trainer.forward_backward(&batch, 1.0, 0).unwrap();
        for module in [
            "model.layers.0.self_attn.q_proj",
            "model.layers.1.self_attn.o_proj",
            "model.layers.0.mlp.up_proj",
            "model.layers.1.mlp.down_proj",
        ] {
            let weight = trainer.parameter(&format!("{module}.weight")).unwrap();
            let lengths = norms(&start, &weight, module);
            let magnitude = format!("param/base_model.model.{module}.lora_magnitude_vector");
            for part in ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"] {
                let tensor = format!("base_model.model.{module}.{part}");
                let gradient = trainer.gradient(&tensor).unwrap();
                let length = gradient.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
                // Along the gradient the slope is its length. No gradient goes through the lengths of rows: they stay what they
                // were to the magnitudes.
                let mut loss = |step: f64| {
                    let mut state = start.clone();
                    for (value, slope) in state.get_mut(&format!("param/{tensor}")).unwrap().iter_mut().zip(&gradient) {
                        *value += (step / length * f64::from(*slope)) as f32;
                    }
                    let moved = norms(&state, &weight, module);
                    let magnitudes = state.get_mut(&magnitude).unwrap();
                    for (value, (before, after)) in magnitudes.iter_mut().zip(lengths.iter().zip(&moved)) {
                        *value = (f64::from(*value) * after / before) as f32;
                    }
                    load(&mut trainer, &state);
                    trainer.forward_backward(&batch, 1.0, 0).unwrap();
                    trainer.loss_sum()
                };
                let slope = (loss(1e-2) - loss(-1e-2)) / 2e-2;
                load(&mut trainer, &start);
                trainer.forward_backward(&batch, 1.0, 0).unwrap();
                assert!((slope / length - 1.0).abs() < 1e-2, "{name} {dropout} {tensor}: {slope} is not {length}");
            }
        }
    }
}

#[test]
fn a_file_and_the_merged_weights_give_the_same_loss() {
    for name in ["llama-biases", "tied"] {
        let mut trainer = trainer(name, 0.1);
        let (source, batch) = (fixture(name), batch(trainer.model().config.vocab_size));
        let loss = trainer.evaluate(&batch).unwrap();
        let directory = tempfile::tempdir().unwrap();
        export_adapter(trainer.model(), directory.path(), "base").unwrap();
        let config = ModelConfig::from_dir(&source).unwrap();
        let weights = WeightSource::Directory(source.clone());
        let loaded = Model::load(config.clone(), &weights, Some(directory.path())).unwrap();
        assert!((loss_of(&loaded, &batch) / loss - 1.0).abs() < 1e-6);

        let lora = peft::load(&CpuKernels, &config, directory.path()).unwrap();
        let merged = tempfile::tempdir().unwrap();
        merge(&config, &source, &lora, merged.path()).unwrap();
        let config = ModelConfig::from_dir(merged.path()).unwrap();
        let merged = Model::load(config, &WeightSource::Directory(merged.path().to_owned()), None).unwrap();
        assert!((loss_of(&merged, &batch) / loss - 1.0).abs() < 1e-5);
    }
}

/// Sum of the losses of a batch.
fn loss_of(model: &Model, batch: &Batch) -> f64 {
    use engine::generate::next_logits;
    let mut sum = 0.0;
    for (index, &target) in batch.targets.iter().enumerate().filter(|(_, target)| **target != IGNORE) {
        let logits = next_logits(model, &batch.ids[..=index]).unwrap();
        let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        sum += total.ln() - f64::from(logits[target as usize]);
    }
    sum
}
