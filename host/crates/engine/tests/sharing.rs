//! Documents that begin alike: what a batch of them gives is what each gives alone.

mod fixture;

use std::collections::BTreeMap;

use engine::adapter::{LoraConfig, Modules, Saved};
use engine::architecture::config::ModelConfig;
use engine::architecture::tensors::LinearKind;
use engine::optim::AdamWConfig;
use engine::weights::WeightSource;
use engine::{Batch, IGNORE, Trainable, Trainer, TrainerOptions};
use fixture::fixture;

/// Names of models, and how long their prompts are.
const MODELS: [(&str, u32); 14] = [
    ("untied", 20),
    ("tied", 9),
    ("gemma2", 30),
    ("gemma3", 37),
    ("mistral", 30),
    ("olmo2", 12),
    ("qwen3", 20),
    ("qwen3moe", 20),
    ("mixtral", 20),
    ("granite4-experts", 20),
    ("phi3-longrope", 30),
    ("arcee", 12),
    ("hunyuan", 20),
    ("ministral3", 30),
];

fn trainer(name: &str, lora: bool, gradient_checkpointing: bool) -> Trainer {
    let lora = lora.then(|| LoraConfig {
        r: 4,
        alpha: 8.0,
        dropout: 0.0,
        use_rslora: false,
        use_dora: false,
        modules: Modules::of(LinearKind::ALL),
        saved: Saved::default(),
        ranks: BTreeMap::new(),
        alphas: BTreeMap::new(),
    });
    let adamw = AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let options = TrainerOptions {
        trainable: Trainable::All,
        lora,
        gradient_checkpointing,
        seed: 5,
        adamw,
        ..TrainerOptions::default()
    };
    let directory = fixture(name);
    let config = ModelConfig::from_dir(&directory).unwrap();
    Trainer::new(config, &WeightSource::Directory(directory), options).unwrap()
}

/// A document: a prompt, and an answer that is learned.
fn document(prompt: u32, length: u32, seed: u32, answer: u32) -> Batch {
    let of_prompt = (0..length).map(|at| (at * at * 7 + at * 3 + 11 * prompt) % 90 + 3);
    let of_answer = (0..answer).map(|at| (at * 5 + 13 * seed + at * at) % 90 + 3);
    let ids: Vec<u32> = of_prompt.chain(of_answer).collect();
    let next = ids.iter().skip(1).copied().chain([IGNORE]);
    let targets = next.enumerate().map(|(at, next)| if at as u32 + 1 < length { IGNORE } else { next }).collect();
    Batch { doc_lens: vec![ids.len() as u32], ids, targets, weights: None }
}

/// Two prompts with three and two answers, between each other, and one document that is learned from its first token on.
fn documents(length: u32) -> Vec<Batch> {
    let one = |(seed, (prompt, answer)): (usize, (u32, u32))| {
        document(prompt, if prompt == 3 { 1 } else { length }, seed as u32, answer)
    };
    [(1, 9), (2, 1), (1, 14), (3, 6), (2, 20), (1, 3)].into_iter().enumerate().map(one).collect()
}

fn together(documents: &[Batch]) -> Batch {
    let mut all = Batch::default();
    for document in documents {
        all.ids.extend(&document.ids);
        all.targets.extend(&document.targets);
        all.doc_lens.extend(&document.doc_lens);
    }
    all
}

/// Some weight of each target.
fn weights(from: usize, batch: &Batch) -> Vec<f32> {
    let weight = |(index, &target): (usize, &u32)| match target {
        IGNORE => 0.0,
        _ => ((from + index) * 37 % 19) as f32 / 10.0 - 0.9,
    };
    batch.targets.iter().enumerate().map(weight).collect()
}

fn gradients(trainer: &Trainer) -> BTreeMap<String, Vec<f32>> {
    let names = trainer.gradient_report().into_iter().map(|report| report.name);
    names.map(|name| (name.clone(), trainer.gradient(&name).unwrap())).collect()
}

fn distance(found: &[f32], expected: &[f32]) -> f64 {
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let size: f64 = expected.iter().map(|b| f64::from(*b).powi(2)).sum();
    if size == 0.0 { difference.sqrt() } else { (difference / size).sqrt() }
}

/// How far gradients may be from those of single documents, as a share of their length.
const ALLOWED: f64 = 2e-5;

fn check(name: &str, length: u32, lora: bool, checkpoint: bool) {
    let documents = documents(length);
    let (mut alone, mut shared) = (trainer(name, lora, checkpoint), trainer(name, lora, checkpoint));
    let what = format!("{name}, lora {lora}, checkpoint {checkpoint}");
    let (mut said, mut from) = (Vec::new(), 0);
    for (index, document) in documents.iter().enumerate() {
        let pass = alone.forward(document, index as u32).unwrap();
        said.extend_from_slice(pass.outputs());
        pass.backward(&weights(from, document), 0.5).unwrap();
        from += document.ids.len();
    }
    let all = together(&documents);
    let pass = shared.forward(&all, 0).unwrap();
    assert_eq!(pass.outputs(), said, "{what}");
    pass.backward(&weights(0, &all), 0.5).unwrap();
    let (found, expected) = (gradients(&shared), gradients(&alone));
    for (name, expected) in &expected {
        let distance = distance(&found[name], expected);
        assert!(distance < ALLOWED, "{what}: {name} is {distance:e} off");
    }
    assert!(expected.values().flatten().any(|value| *value != 0.0), "{what}: nothing is learned");
    // The loss at once, with the weights of the batch; and without gradients.
    let weighted = |from: usize, batch: &Batch| Batch { weights: Some(weights(from, batch)), ..batch.clone() };
    let mut from = 0;
    for (index, document) in documents.iter().enumerate() {
        alone.forward_backward(&weighted(from, document), 0.5, index as u32).unwrap();
        from += document.ids.len();
    }
    shared.forward_backward(&weighted(0, &all), 0.5, 0).unwrap();
    let (found, expected) = (gradients(&shared), gradients(&alone));
    for (name, expected) in &expected {
        let distance = distance(&found[name], expected);
        assert!(distance < ALLOWED, "{what}: {name} of the loss is {distance:e} off");
    }
    let loss = |trainer: &mut Trainer, batches: &[Batch]| -> f64 {
        batches.iter().map(|batch| trainer.evaluate(batch).unwrap()).sum()
    };
    let (found, expected) = (loss(&mut shared, &[all]), loss(&mut alone, &documents));
    assert!((found - expected).abs() < ALLOWED * expected.abs(), "{what}: a loss of {found}, not {expected}");
}

#[test]
fn what_is_shared_changes_nothing() {
    for (name, length) in MODELS {
        for (lora, checkpoint) in [(false, false), (false, true), (true, false)] {
            check(name, length, lora, checkpoint);
        }
    }
}

#[test]
fn a_prompt_takes_its_room_once() {
    let bytes = |batch: &Batch| {
        let mut trainer = trainer("untied", false, false);
        trainer.forward_backward(batch, 1.0, 0).unwrap();
        trainer.device_bytes().activations
    };
    let group = |prompt: fn(u32) -> u32| {
        let documents: Vec<Batch> = (0..8).map(|seed| document(prompt(seed), 40, seed, 8)).collect();
        together(&documents)
    };
    let (shared, apart) = (bytes(&group(|_| 1)), bytes(&group(|seed| seed)));
    // 39 + 8 * 9 rows instead of 8 * 48.
    assert!(shared < apart / 3, "{shared} bytes, and {apart} without a prompt in common");
}
