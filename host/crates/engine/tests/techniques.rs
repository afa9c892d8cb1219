//! Techniques of training beside the plain step, on the CPU and on the CUDA backend: noise of the embedding, layers that are
//! drawn, signals of weights.

mod emulator;
mod fixture;

use std::collections::{BTreeMap, BTreeSet};

use engine::architecture::config::ModelConfig;
use engine::kernels::cpu::CpuKernels;
use engine::kernels::{Kernels, Precision};
use engine::optim::{AdamWConfig, Lisa};
use engine::weights::WeightSource;
use engine::weights::spectrum::signals;
use engine::{Batch, EngineError, IGNORE, Trainable, Trainer, TrainerOptions, rng};
use fixture::fixture;

const SEED: u64 = 5;
const LAYERS: usize = 3;

type State = BTreeMap<String, Vec<f32>>;

fn trainer<K: Kernels>(kernels: K, options: TrainerOptions) -> Trainer<K> {
    let directory = fixture("untied");
    let config = ModelConfig::from_dir(&directory).unwrap();
    assert_eq!(config.num_hidden_layers, LAYERS);
    let adamw = AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let options = TrainerOptions { seed: SEED, adamw, ..options };
    Trainer::on(kernels, config, &WeightSource::Directory(directory), options).unwrap()
}

/// Documents without a token that comes twice.
fn batch(documents: &[u32], index: u32) -> Batch {
    let count: u32 = documents.iter().sum();
    let ids: Vec<u32> = (0..count).map(|at| (at * 5 + index) % 91 + 3).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    let mut targets: Vec<u32> = ids[1..].iter().copied().chain([IGNORE]).collect();
    let mut end = 0;
    for length in documents {
        end += *length as usize;
        targets[end - 1] = IGNORE;
    }
    Batch { ids, targets, weights: None, doc_lens: documents.to_vec() }
}

fn state<K: Kernels>(trainer: &Trainer<K>) -> State {
    let mut state = State::new();
    let mut keep = |name: &str, shape: &[usize], values: &[f32]| {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}");
        state.insert(name.to_owned(), values.to_vec());
        Ok::<(), EngineError>(())
    };
    trainer.visit_state(&mut keep).unwrap();
    let specs: BTreeSet<String> = trainer.state_specs().into_iter().map(|(name, _)| name).collect();
    assert_eq!(specs, state.keys().cloned().collect());
    state
}

fn load<K: Kernels>(trainer: &mut Trainer<K>, steps: u64, state: &State) {
    trainer.load_state::<EngineError>(steps, &mut |name| Ok(state.get(name).cloned())).unwrap();
}

/// The word of NEFTune's stream that decides on an element of a pass.
fn noise_at(step: u64, element: usize, size: f64) -> f32 {
    let [low, high, ..] = rng::block(SEED, rng::stream_of("dropout 0"), step);
    let stream = rng::stream_of("neftune") ^ (u64::from(high) << 32 | u64::from(low));
    let word = rng::block(SEED, stream, element as u64 / 4)[element % 4];
    (2.0 * rng::uniform(word) - 1.0) * size as f32
}

#[test]
fn noise_moves_the_embedding_of_training_alone_by_what_the_paper_says() {
    let (alpha, documents) = (5.0, [7, 20, 30]);
    let batch = batch(&documents, 0);
    let mut plain = trainer(CpuKernels, TrainerOptions::default());
    let h = plain.model().config.hidden_size;
    let (mut moved, mut squares, mut first) = (state(&plain), 0.0, 0);
    let table = moved.get_mut("param/model.embed_tokens.weight").unwrap();
    for &length in &documents {
        let size = alpha / (f64::from(length) * h as f64).sqrt();
        for row in first..first + length as usize {
            for column in 0..h {
                let noise = noise_at(0, row * h + column, size);
                assert!(f64::from(noise.abs()) <= size * 1.000_001);
                squares += (f64::from(noise) / size).powi(2);
                table[batch.ids[row] as usize * h + column] += noise;
            }
        }
        first += length as usize;
    }
    // The variance of a uniform number within -1..1 is a third.
    assert!((squares / (batch.ids.len() * h) as f64 - 1.0 / 3.0).abs() < 0.02, "{squares}");
    load(&mut plain, 0, &moved);
    plain.forward_backward(&batch, 0.01, 0).unwrap();
    let mut noisy = trainer(CpuKernels, TrainerOptions { neftune: Some(alpha), ..TrainerOptions::default() });
    let before = noisy.evaluate(&batch).unwrap();
    noisy.forward_backward(&batch, 0.01, 0).unwrap();
    // The head is another tensor, so that only what it reads has moved.
    assert_eq!(noisy.loss_sum().to_bits(), plain.loss_sum().to_bits());
    assert!((noisy.loss_sum() / before - 1.0).abs() > 1e-3, "{} {before}", noisy.loss_sum());
    assert_eq!(noisy.evaluate(&batch).unwrap().to_bits(), before.to_bits(), "an evaluation has no noise");
    for name in ["model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight", "lm_head.weight"] {
        assert_eq!(noisy.gradient(name), plain.gradient(name), "{name}");
    }
    noisy.forward_backward(&batch, 0.01, 1).unwrap();
    let again = noisy.loss_sum();
    assert!((again - 2.0 * plain.loss_sum()).abs() > 1e-6, "each micro-batch has noise of its own");
    for precision in [Precision::F32, Precision::Bf16] {
        let Some(kernels) = emulator::device(precision) else { return };
        let mut there = trainer(kernels, TrainerOptions { neftune: Some(alpha), ..TrainerOptions::default() });
        // The third time, what is queued comes from graphs.
        for _ in 0..3 {
            there.forward_backward(&batch, 0.01, 0).unwrap();
            let off = (there.loss_sum() / plain.loss_sum() - 1.0).abs();
            assert!(off <= if precision == Precision::F32 { 1e-5 } else { 1e-2 }, "{precision:?}: {off}");
        }
    }
}

fn lisa() -> TrainerOptions {
    TrainerOptions { lisa: Some(Lisa { layers: 1, interval: 3 }), ..TrainerOptions::default() }
}

fn step<K: Kernels>(trainer: &mut Trainer<K>) {
    let index = trainer.optimizer_step() as u32;
    trainer.forward_backward(&batch(&[9, 20], index), 0.05, 0).unwrap();
    trainer.apply(1e-2, Some(1.0)).unwrap();
}

/// Names of the weights that differ.
fn changed(before: &State, after: &State) -> BTreeSet<String> {
    let weights = before.iter().filter(|(name, _)| name.starts_with("param/"));
    weights.filter(|(name, values)| after[*name] != **values).map(|(name, _)| name.clone()).collect()
}

fn layer_of(name: &str) -> Option<usize> {
    name.split_once(".layers.").map(|(_, rest)| rest.split('.').next().unwrap().parse().unwrap())
}

fn layers_are_drawn<K: Kernels>(open: impl Fn() -> K) {
    let mut trainer = trainer(open(), lisa());
    let exact = trainer.model().kernels.precision() == Precision::F32;
    let mut seen = BTreeSet::new();
    let (mut rounds, mut saved) = (Vec::new(), Vec::new());
    for round in 0..5 {
        let drawn = Lisa { layers: 1, interval: 3 }.draw(SEED, round, LAYERS);
        seen.extend(drawn.iter().copied());
        let before = state(&trainer);
        for _ in 0..3 {
            step(&mut trainer);
            saved.push((trainer.optimizer_step(), state(&trainer)));
        }
        let after = state(&trainer);
        let all = changed(&before, &after);
        assert!(all.iter().all(|name| layer_of(name).is_none_or(|layer| drawn.contains(&layer))), "{all:?}");
        let of_layer = all.iter().filter(|name| layer_of(name).is_some()).count();
        let outside = ["param/model.embed_tokens.weight", "param/lm_head.weight", "param/model.norm.weight"];
        assert!(outside.iter().all(|name| all.contains(*name)), "{all:?}");
        assert_eq!(of_layer, 9, "seven projections and two norms of the layer that was drawn");
        let report: BTreeSet<usize> = trainer.gradient_report().iter().filter_map(|own| layer_of(&own.name)).collect();
        assert_eq!(report, drawn);
        rounds.push(after);
    }
    assert!(seen.len() > 1, "other layers in other rounds");
    // From any step on, the same bits come of it.
    for (steps, kept) in &saved {
        let mut again = self::trainer(open(), lisa());
        load(&mut again, *steps, kept);
        assert_eq!(state(&again), *kept, "{steps}");
        while again.optimizer_step() < 15 {
            step(&mut again);
        }
        assert!(state(&again) == rounds[4], "resumed from step {steps}");
    }
    if exact {
        // The first round is training with the other layers frozen.
        let drawn = Lisa { layers: 1, interval: 3 }.draw(SEED, 0, LAYERS);
        let names = saved[0].1.keys().filter_map(|name| name.strip_prefix("param/"));
        let named = names.filter(|name| layer_of(name).is_none_or(|layer| drawn.contains(&layer)));
        let trainable = Trainable::Named(named.map(str::to_owned).collect());
        let mut frozen = self::trainer(open(), TrainerOptions { trainable, ..TrainerOptions::default() });
        for (_, drawn) in saved.iter().take(3) {
            step(&mut frozen);
            assert!(state(&frozen).iter().all(|(name, values)| drawn[name] == *values));
        }
    }
}

#[test]
fn layers_are_drawn_and_a_run_goes_on_from_any_step() {
    layers_are_drawn(|| CpuKernels);
}

#[test]
fn layers_are_drawn_on_the_cuda_backend() {
    for precision in [Precision::F32, Precision::Bf16] {
        if emulator::device(precision).is_some() {
            layers_are_drawn(|| emulator::device(precision).unwrap());
        }
    }
}

#[test]
fn layers_that_are_not_drawn_cost_no_gradients_and_no_moments() {
    let whole = trainer(CpuKernels, TrainerOptions::default()).device_bytes();
    let drawn = trainer(CpuKernels, lisa());
    let (layers, own) = (drawn.trainable_parameters(), drawn.device_bytes());
    assert_eq!((own.gradients, own.optimizer, own.weights), (4 * layers, 8 * layers, whole.weights));
    assert!(own.gradients * 2 < whole.gradients + 4 * 96 * 32 * 2, "{own:?} {whole:?}");
}

#[test]
fn layers_that_cannot_be_drawn_are_refused() {
    let directory = fixture("untied");
    for (lisa, reason) in [
        (Lisa { layers: 4, interval: 1 }, "4 layers are trained at a time, but the model has 3"),
        (Lisa { layers: 1, interval: 0 }, "layers are trained for 0 steps"),
    ] {
        let options = TrainerOptions { lisa: Some(lisa), ..TrainerOptions::default() };
        let config = ModelConfig::from_dir(&directory).unwrap();
        let error = Trainer::new(config, &WeightSource::Directory(directory.clone()), options).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[derive(serde::Deserialize)]
struct Expected {
    signals: BTreeMap<String, BTreeMap<String, f64>>,
}

#[test]
fn signals_are_those_of_numpys_singular_values() {
    let text = std::fs::read(fixture("../spectrum/expected.json")).unwrap();
    let expected: Expected = serde_json::from_slice(&text).unwrap();
    assert_eq!(expected.signals.len(), 4);
    for (model, expected) in expected.signals {
        let directory = fixture(&model);
        let config = ModelConfig::from_dir(&directory).unwrap();
        let mut told = Vec::new();
        let mut progress = |done: usize, all: usize| told.push((done, all));
        let found = signals(&WeightSource::Directory(directory), &config, &mut progress).unwrap();
        assert_eq!(told.last(), Some(&(expected.len(), expected.len())), "{model}");
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{model}");
        for (name, signal) in found {
            assert!(
                (signal / expected[&name] - 1.0).abs() < 1e-6,
                "{model} {name}: {signal} is not {}",
                expected[&name]
            );
        }
    }
}
