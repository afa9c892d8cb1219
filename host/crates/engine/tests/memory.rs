//! What training remembers: less with activation checkpointing, nothing for what is frozen.

mod emulator;
mod fixture;

use std::collections::{BTreeMap, BTreeSet};

use engine::adapter::{LoraConfig, Modules, Saved};
use engine::architecture::config::ModelConfig;
use engine::architecture::tensors::LinearKind;
use engine::kernels::Precision;
use engine::kernels::counting::Profile;
use engine::kernels::cpu::CpuKernels;
use engine::memory::footprint;
use engine::optim::AdamWConfig;
use engine::weights::WeightSource;
use engine::workload::{BatchShape, Workload};
use engine::{Batch, MemoryUse, Trainable, Trainer, TrainerOptions};
use fixture::fixture;

/// Bytes after one step of the three-layer fixture, with `trainable` parameters by prefix (none: all of them).
fn memory(trainable: Option<&[&str]>, gradient_checkpointing: bool) -> MemoryUse {
    let directory = fixture("untied");
    let config = ModelConfig::from_dir(&directory).unwrap();
    let (vocabulary, length) = (config.vocab_size as u32, 200);
    let weights = WeightSource::Directory(directory);
    let all = Trainer::new(config.clone(), &weights, options(Trainable::All, false)).unwrap();
    let named = trainable.map_or(Trainable::All, |prefixes| {
        let names = all.gradient_report().into_iter().map(|report| report.name);
        Trainable::Named(names.filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix))).collect())
    });
    let mut trainer = Trainer::new(config, &weights, options(named, gradient_checkpointing)).unwrap();
    let ids: Vec<u32> = (0..length).map(|index| (index * 7 + 3) % vocabulary).collect();
    let targets = ids.iter().map(|id| (id + 1) % vocabulary).collect();
    let batch = Batch { ids, targets, weights: None, doc_lens: vec![length] };
    trainer.forward_backward(&batch, 1.0 / f64::from(length), 0).unwrap();
    trainer.apply(1e-3, Some(1.0)).unwrap();
    trainer.device_bytes()
}

fn options(trainable: Trainable, gradient_checkpointing: bool) -> TrainerOptions {
    TrainerOptions {
        trainable,
        lora: None,
        gradient_checkpointing,
        seed: 1,
        adamw: AdamWConfig::default(),
        ..TrainerOptions::default()
    }
}

/// An adapter of two projections.
fn adapter(layers: Option<BTreeSet<usize>>) -> LoraConfig {
    let modules = Modules::of([LinearKind::QProj, LinearKind::DownProj]).in_layers(layers.as_ref());
    LoraConfig {
        r: 4,
        alpha: 8.0,
        dropout: 0.1,
        use_rslora: false,
        use_dora: false,
        modules,
        saved: Saved::default(),
        ranks: BTreeMap::new(),
        alphas: BTreeMap::new(),
    }
}

#[test]
fn activation_checkpointing_keeps_one_layer_instead_of_all() {
    let (kept, again) = (memory(None, false), memory(None, true));
    assert!(3 * again.activations < 2 * kept.activations, "{} of {}", again.activations, kept.activations);
    assert_eq!(MemoryUse { activations: 0, ..kept }, MemoryUse { activations: 0, ..again });
}

#[test]
fn a_frozen_prefix_keeps_no_activations_and_frozen_weights_no_gradients() {
    let all = memory(None, false);
    let last = memory(Some(&["model.layers.2.", "model.norm.", "lm_head."]), false);
    assert!(2 * last.activations < all.activations, "{} of {}", last.activations, all.activations);
    assert!(2 * last.gradients < all.gradients, "{} of {}", last.gradients, all.gradients);
    assert_eq!(last.optimizer, 2 * last.gradients);
    // One trained tensor at the bottom: a backward pass through every layer, and the gradient of that tensor alone.
    let lowest = memory(Some(&["model.layers.0.mlp.down_proj.weight"]), false);
    assert_eq!(lowest.gradients, 4 * 32 * 48);
    assert!(lowest.activations > last.activations);
}

#[test]
fn a_footprint_is_what_a_trainer_takes() {
    for name in ["untied", "qwen3moe", "mixtral-balance", "granite4-experts"] {
        check_footprint(name);
    }
}

fn check_footprint(name: &str) {
    let directory = fixture(name);
    let config = ModelConfig::from_dir(&directory).unwrap();
    let weights = WeightSource::Directory(directory);
    let last = Trainable::Named(["lm_head.weight".to_owned()].into());
    let head = LoraConfig { modules: Modules::default().with_head(), ..adapter(None) };
    for (trainable, lora) in [
        (Trainable::All, None),
        (last, None),
        (Trainable::All, Some(adapter(Some([0, 1].into())))),
        (Trainable::All, Some(head.clone())),
    ] {
        for gradient_checkpointing in [false, true] {
            let options = TrainerOptions { lora: lora.clone(), ..options(trainable.clone(), gradient_checkpointing) };
            let shape = |tokens| BatchShape { tokens, targets: tokens / 2, longest: 40 };
            let work = Workload {
                train: shape(200),
                accumulates: true,
                eval: Some(shape(300)),
                reference: Some(shape(150)),
                generation: None,
            };
            // An adapter of the output projection learns from no teacher.
            let teacher = (lora.as_ref() != Some(&head)).then_some(&config);
            let counted = footprint(Profile::Cpu, &config, &options, &work, teacher).unwrap();

            let mut trainer = Trainer::new(config.clone(), &weights, options).unwrap();
            trainer.reserve(&work).unwrap();
            trainer.keep_reference(shape(150));
            if teacher.is_some() {
                trainer.load_teacher(CpuKernels, config.clone(), &weights, shape(200)).unwrap();
            }
            let reserved = trainer.device_bytes();
            for tokens in [80, 200, 40] {
                trainer.forward_backward(&batch(&vec![40; tokens as usize / 40]), 1.0, 0).unwrap();
                trainer.evaluate(&batch(&vec![40; tokens as usize / 40 + 2])).unwrap();
                trainer.reference_outputs(&batch(&[40; 3])).unwrap();
            }
            let used = trainer.device_bytes();
            assert_eq!(used, reserved, "the largest batches fit into what was reserved");
            assert_eq!(
                (counted.weights, counted.gradients, counted.optimizer),
                (used.weights, used.gradients, used.optimizer)
            );
            // What threads keep for products and scores is not the trainer's.
            assert!(counted.activations >= used.activations);
            assert_eq!(counted.trainable_parameters, trainer.trainable_parameters());
            assert_eq!(counted.total_parameters, trainer.total_parameters());
        }
    }
}

/// The device's memory is the process's, so no other test of this program may use it.
#[test]
fn a_footprint_is_what_a_gpu_gives() {
    let mut cases = Vec::new();
    for precision in [Precision::F32, Precision::Bf16] {
        let head = LoraConfig { modules: adapter(None).modules.with_head(), ..adapter(None) };
        for lora in [None, Some(adapter(None)), Some(head)] {
            for gradient_checkpointing in [false, true] {
                cases.push((precision, "tied", lora.clone(), gradient_checkpointing, [40; 2].as_slice()));
            }
        }
    }
    cases.push((Precision::Bf16, "llama-biases", None, false, [40; 2].as_slice()));
    cases.push((Precision::F32, "qwen2", Some(adapter(None)), true, [40; 2].as_slice()));
    // Long enough for cuDNN.
    cases.push((Precision::Bf16, "wide-heads-llama3-rope", None, false, [300; 1].as_slice()));
    for (precision, name, lora, gradient_checkpointing, documents) in cases {
        let config = ModelConfig::from_dir(&fixture(name)).unwrap();
        let weights = WeightSource::Directory(fixture(name));
        let Some(kernels) = emulator::device(precision) else { return };
        let (longest, tokens) = (documents[0], documents.iter().sum());
        let (multiprocessors, fused_attention) = (kernels.multiprocessors(), longest > 256);
        let profile = Profile::Cuda { precision, multiprocessors, fused_attention };
        let train = BatchShape { tokens, targets: tokens, longest };
        let work = Workload { train, accumulates: false, eval: None, reference: None, generation: None };
        let options = TrainerOptions { lora, ..options(Trainable::All, gradient_checkpointing) };
        let counted = footprint(profile, &config, &options, &work, None).unwrap();
        let what = format!("{precision:?} {name} {:?} {gradient_checkpointing}", options.lora);
        let (before, _) = kernels.memory();
        let mut trainer = Trainer::on(kernels, config, &weights, options).unwrap();
        trainer.reserve(&work).unwrap();
        trainer.forward_backward(&batch(documents), 1.0, 0).unwrap();
        trainer.apply(1e-3, Some(1.0)).unwrap();
        let (after, _) = trainer.model().kernels.memory();
        assert_eq!(
            trainer.model().kernels.attention().iter().any(|line| line.contains("forward by cuDNN")),
            fused_attention
        );
        // The matrix library's room is there before; tables of rows and segments are not counted.
        let parts = counted.weights + counted.gradients + counted.optimizer + counted.activations + counted.logits;
        let (used, counted) = (before - after, parts - (32 << 20));
        let what = format!("{what}: {used} bytes, {counted} were counted");
        // What cuDNN asks for is known once it is asked: room for it is counted, and is there only if it is wanted.
        assert!(used < counted + (128 << 10) && (used >= counted || fused_attention), "{what}");
    }
}

/// Documents of so many tokens.
fn batch(documents: &[usize]) -> Batch {
    let ids = vec![1; documents.iter().sum()];
    Batch {
        targets: ids.clone(),
        ids,
        weights: None,
        doc_lens: documents.iter().map(|&length| length as u32).collect(),
    }
}
