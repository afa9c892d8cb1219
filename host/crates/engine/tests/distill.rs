//! Distillation beside TRL's: losses, entropy and gradients (`tests/fixtures/distill/make.py`), and what does not depend on how
//! texts are divided, on the device or on threads.

mod emulator;
mod fixture;
mod trl;

use std::collections::BTreeMap;

use engine::adapter::{LoraConfig, Modules, Saved};
use engine::architecture::config::ModelConfig;
use engine::architecture::tensors::LinearKind;
use engine::kernels::cpu::CpuKernels;
use engine::kernels::{Kernels, Precision};
use engine::model::divergence::Divergence;
use engine::objective::{Distill, Rollouts, accumulate, evaluate};
use engine::optim::AdamWConfig;
use engine::weights::WeightSource;
use engine::workload::BatchShape;
use engine::{Batch, EngineError, IGNORE, Trainable, Trainer, TrainerOptions};
use fixture::fixture;
use safetensors::SafeTensors;
use serde::Deserialize;
use trl::{agree, distance, integers, trainer_of, trainer_with};

#[derive(Deserialize)]
struct Case {
    model: String,
    teacher: String,
    beta: f64,
    temperature: f64,
    metrics: BTreeMap<String, f64>,
}

impl Case {
    fn objective(&self) -> Distill {
        Distill { divergence: Divergence { beta: self.beta } }
    }

    fn trainer(&self) -> Trainer {
        let mut trainer = trainer_of(fixture(&self.model));
        trainer.set_temperature(self.temperature).unwrap();
        teach(&mut trainer, CpuKernels, &self.teacher).unwrap();
        trainer
    }
}

const SHAPE: BatchShape = BatchShape { tokens: 64, targets: 64, longest: 20 };

fn teach<K: Kernels>(trainer: &mut Trainer<K>, kernels: K, teacher: &str) -> Result<(), EngineError> {
    let directory = fixture(teacher);
    let config = ModelConfig::from_dir(&directory).unwrap();
    trainer.load_teacher(kernels, config, &WeightSource::Directory(directory), SHAPE)
}

/// Some of the fixture's texts; the targets are what stands behind the prompt.
fn rollouts(tensors: &SafeTensors<'_>, texts: std::ops::Range<usize>) -> Rollouts {
    let [ids, lens, prompts] = ["ids", "lens", "prompts"].map(|name| integers(tensors, name));
    let width = ids.len() / lens.len();
    let mut batch = Batch::default();
    for text in texts {
        let own = &ids[text * width..][..lens[text] as usize];
        batch.ids.extend(own);
        let target = |index: usize| if index + 1 < prompts[text] as usize { IGNORE } else { own[index + 1] };
        batch.targets.extend((0..own.len() - 1).map(target).chain([IGNORE]));
        batch.doc_lens.push(lens[text]);
    }
    Rollouts { advantages: vec![0.0; batch.doc_lens.len()], batch, ..Rollouts::default() }
}

fn with_fixture(check: impl Fn(&SafeTensors<'_>, &str, &Case)) {
    trl::with_fixture("distill", check);
}

#[test]
fn losses_and_gradients_are_those_of_trl() {
    with_fixture(|tensors, name, case| {
        let (mut trainer, all) = (case.trainer(), [rollouts(tensors, 0..4)]);
        let (judged, metrics) = evaluate(&mut trainer, &case.objective(), &all).unwrap().unwrap();
        let found = accumulate(&mut trainer, &case.objective(), &all).unwrap();
        agree(tensors, name, &trainer, &found, &case.metrics, [1e-3, 1e-3]);
        // Without gradients it is the same.
        assert_eq!((judged, &metrics), (found.loss, &found.metrics), "{name}");
    });
}

#[test]
fn texts_count_the_same_however_they_are_divided() {
    with_fixture(|tensors, name, case| {
        let (mut whole, mut parts) = (case.trainer(), case.trainer());
        let at_once = accumulate(&mut whole, &case.objective(), &[rollouts(tensors, 0..4)]).unwrap();
        let apart = [rollouts(tensors, 0..1), rollouts(tensors, 1..4)];
        let apart = accumulate(&mut parts, &case.objective(), &apart).unwrap();
        assert!((at_once.loss - apart.loss).abs() <= 1e-6 * at_once.loss.abs(), "{name}");
        for weight in ["model.norm.weight", "model.layers.0.self_attn.q_proj.weight"] {
            let off = distance(&parts.gradient(weight).unwrap(), &whole.gradient(weight).unwrap());
            assert!(off < 1e-6, "{name}: {weight} {off}");
        }
    });
}

fn lora(head: bool) -> LoraConfig {
    let modules = Modules::of(LinearKind::ALL);
    LoraConfig {
        r: 4,
        alpha: 16.0,
        dropout: 0.0,
        use_rslora: false,
        use_dora: false,
        modules: if head { modules.with_head() } else { modules },
        saved: Saved::default(),
        ranks: BTreeMap::new(),
        alphas: BTreeMap::new(),
    }
}

#[test]
fn a_student_comes_near_its_teacher() {
    with_fixture(|tensors, name, case| {
        let batch = [rollouts(tensors, 0..4)];
        for adapter in [None, Some(lora(false))] {
            let mut trainer = trainer_with(fixture(&case.model), adapter);
            trainer.set_temperature(case.temperature).unwrap();
            teach(&mut trainer, CpuKernels, &case.teacher).unwrap();
            let losses: Vec<f64> = (0..30)
                .map(|_| {
                    let found = accumulate(&mut trainer, &case.objective(), &batch).unwrap();
                    trainer.apply(1e-2, Some(1.0)).unwrap();
                    found.loss
                })
                .collect();
            assert!(losses[29] < 0.8 * losses[0], "{name}: {losses:?}");
        }
    });
}

#[test]
fn a_gpu_computes_the_same() {
    with_fixture(|tensors, name, case| {
        let device = || emulator::device(Precision::F32);
        let Some((kernels, theirs)) = device().zip(device()) else { return };
        let directory = fixture(&case.model);
        let config = ModelConfig::from_dir(&directory).unwrap();
        let adamw = AdamWConfig { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.0 };
        let options = TrainerOptions {
            trainable: Trainable::All,
            lora: None,
            gradient_checkpointing: false,
            seed: 0,
            adamw,
            ..TrainerOptions::default()
        };
        let weights = WeightSource::Directory(directory);
        let mut gpu = Trainer::on(kernels, config, &weights, options).unwrap();
        gpu.set_temperature(case.temperature).unwrap();
        teach(&mut gpu, theirs, &case.teacher).unwrap();
        let (mut cpu, batch) = (case.trainer(), [rollouts(tensors, 0..4)]);
        // The third time, what is queued comes from graphs.
        for _ in 0..3 {
            let there = accumulate(&mut gpu, &case.objective(), &batch).unwrap();
            let here = accumulate(&mut cpu, &case.objective(), &batch).unwrap();
            assert!((there.loss - here.loss).abs() <= 1e-5 * here.loss.abs(), "{name}: {} {}", there.loss, here.loss);
            let weight = "model.layers.0.self_attn.q_proj.weight";
            let off = distance(&gpu.gradient(weight).unwrap(), &cpu.gradient(weight).unwrap());
            assert!(off < 1e-4, "{name}: {off}");
            cpu.apply(1e-3, None).unwrap();
            gpu.apply(1e-3, None).unwrap();
        }
    });
}

#[test]
fn what_does_not_go_together_is_said() {
    let reason = |error: EngineError| match error {
        EngineError::Options { reason } => reason,
        other => panic!("{other}"),
    };
    let batch = Rollouts {
        batch: Batch { ids: vec![3, 4], targets: vec![4, IGNORE], weights: None, doc_lens: vec![2] },
        advantages: vec![0.0],
        ..Rollouts::default()
    };
    let objective = Distill { divergence: Divergence { beta: 1.0 } };
    let mut trainer = trainer_of(fixture("untied"));
    let none = accumulate(&mut trainer, &objective, &[batch]).unwrap_err();
    assert_eq!(reason(none), "there is no teacher to learn from");
    let mut with_head = trainer_with(fixture("untied"), Some(lora(true)));
    let adapted = teach(&mut with_head, CpuKernels, "tied").unwrap_err();
    assert_eq!(reason(adapted), "with a teacher, the output projection cannot have an adapter");
    let directory = fixture("untied");
    let mut larger = ModelConfig::from_dir(&directory).unwrap();
    larger.vocab_size += 32;
    let other = trainer.load_teacher(CpuKernels, larger, &WeightSource::Random { seed: 1 }, SHAPE).unwrap_err();
    assert_eq!(reason(other), "the teacher has a vocabulary of 128 tokens, and the model one of 96");
}
