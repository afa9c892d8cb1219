//! Passes that come again are launched as graphs of the driver: that the numbers stay those of single calls, bit by bit,
//! whatever comes between; and that a driver without graphs costs nothing but time. One test, since the emulated driver is
//! told what to fail by the environment.

mod emulator;
mod fixture;

use std::collections::BTreeMap;

use engine::adapter::{LoraConfig, Modules, Saved};
use engine::architecture::config::ModelConfig;
use engine::architecture::scores::Classifier;
use engine::architecture::tensors::LinearKind;
use engine::kernels::cpu::CpuKernels;
use engine::kernels::cuda::CudaKernels;
use engine::kernels::{Kernels, Precision};
use engine::optim::AdamWConfig;
use engine::weights::WeightSource;
use engine::workload::BatchShape;
use engine::{Batch, IGNORE, Trainable, Trainer, TrainerOptions};
use fixture::fixture;

/// Documents' lengths of the batches: some layouts come again and again, some come once, and one needs more room.
const BATCHES: [&[u32]; 9] =
    [&[20, 9], &[30], &[20, 9], &[30], &[17, 40, 3, 30, 30], &[20, 9], &[9, 20], &[30], &[20, 9]];

/// Documents that are long enough for cuDNN, and one that is not.
const LONG: &[u32] = &[270, 12];

fn options(lora: bool, gradient_checkpointing: bool) -> TrainerOptions {
    let lora = lora.then(|| LoraConfig {
        r: 4,
        alpha: 8.0,
        dropout: 0.3,
        use_rslora: false,
        use_dora: false,
        modules: Modules::of([LinearKind::QProj, LinearKind::DownProj]),
        saved: Saved::default(),
        ranks: BTreeMap::new(),
        alphas: BTreeMap::new(),
    });
    let adamw = AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    TrainerOptions {
        trainable: Trainable::All,
        lora,
        gradient_checkpointing,
        seed: 5,
        adamw,
        ..TrainerOptions::default()
    }
}

/// A batch of documents; its numbers differ from those of every other `index`.
fn batch(documents: &[u32], index: u32, vocabulary: u32) -> Batch {
    let (mut ids, mut targets) = (Vec::new(), Vec::new());
    for (document, &length) in documents.iter().enumerate() {
        let token = |at: u32| (at * at * 7 + at * 3 + 11 * index + 5 * document as u32) % vocabulary;
        ids.extend((0..length).map(token));
        // How many rows have a target differs too.
        targets.extend((1..length).map(|at| if (at + index).is_multiple_of(4) { IGNORE } else { token(at) }));
        targets.push(IGNORE);
    }
    let weights = Some((0..ids.len()).map(|at| 0.5 + (at % 3) as f32).collect());
    Batch { ids, targets, weights, doc_lens: documents.to_vec() }
}

/// What is trained.
#[derive(Debug, Clone, Copy)]
struct Case {
    precision: Precision,
    fixture: &'static str,
    lora: bool,
    gradient_checkpointing: bool,
    batches: &'static [&'static [u32]],
}

/// How the gradients of a micro-batch are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// At once.
    Whole,
    /// In two halves, with the weights that the first way takes from the batch.
    Halves,
}

/// All numbers that a run leaves, as bits: the losses that the device has summed, and those of evaluations and the state
/// after all steps of two micro-batches.
fn run(kernels: CudaKernels, case: Case, pass: Pass) -> (Vec<u64>, Vec<u64>) {
    let directory = fixture(case.fixture);
    let config = ModelConfig::from_dir(&directory).unwrap();
    let vocabulary = config.vocab_size as u32;
    let options = options(case.lora, case.gradient_checkpointing);
    let mut trainer = Trainer::on(kernels, config, &WeightSource::Directory(directory), options).unwrap();
    let (mut losses, mut bits) = (Vec::new(), Vec::new());
    trainer.keep_reference(BatchShape { tokens: 23, targets: 23, longest: 13 });
    let asked = batch(&[13, 10], 99, vocabulary);
    let before = trainer.reference_outputs(&asked).unwrap();
    let moved = trainer.outputs(&asked).unwrap();
    assert_eq!(before, moved, "{case:?}");
    for (index, documents) in case.batches.iter().enumerate() {
        let (index, held_out) = (index as u32, batch(&[13, 10], index as u32, vocabulary));
        for micro_batch in 0..2 {
            let batch = batch(documents, 2 * index + micro_batch, vocabulary);
            match pass {
                Pass::Whole => trainer.forward_backward(&batch, 0.01, micro_batch).unwrap(),
                Pass::Halves => {
                    let pass = trainer.forward(&batch, micro_batch).unwrap();
                    pass.backward(batch.weights.as_ref().unwrap(), 0.01).unwrap();
                }
            }
        }
        losses.push(trainer.loss_sum().to_bits());
        trainer.apply(1e-2, Some(1.0)).unwrap();
        assert_eq!(trainer.reference_outputs(&asked).unwrap(), before, "{case:?} {index}");
        assert_ne!(trainer.outputs(&asked).unwrap(), before, "{case:?} {index}");
        if index % 2 == 1 {
            bits.push(trainer.evaluate(&held_out).unwrap().to_bits());
        }
    }
    let mut keep = |_: &str, _: &[usize], values: &[f32]| {
        assert!(values.iter().all(|value| value.is_finite()), "{case:?}");
        bits.extend(values.iter().map(|value| u64::from(value.to_bits())));
        Ok::<(), engine::EngineError>(())
    };
    trainer.visit_state(&mut keep).unwrap();
    (losses, bits)
}

/// What steps of a model with a head of two scores leave: the scores of a batch that was not trained on, the gradients of the
/// head in the last step, and the head.
fn run_scores<K: Kernels>(kernels: K) -> Vec<f32> {
    let directory = fixture("tied");
    let mut config = ModelConfig::from_dir(&directory).unwrap();
    config.score(Classifier::Token, 2, 7).unwrap();
    let vocabulary = config.vocab_size as u32;
    let weights = WeightSource::Directory(directory);
    let mut trainer = Trainer::on(kernels, config, &weights, options(false, false)).unwrap();
    let labelled = |documents: &[u32], index: u32| {
        let batch = batch(documents, index, vocabulary);
        let label = |target: &u32| if *target == IGNORE { IGNORE } else { target % 2 };
        Batch { targets: batch.targets.iter().map(label).collect(), ..batch }
    };
    for (index, documents) in BATCHES.iter().enumerate() {
        for micro_batch in 0..2 {
            let pass = trainer.forward(&labelled(documents, 2 * index as u32 + micro_batch), micro_batch).unwrap();
            let weights: Vec<f32> = pass.outputs().iter().map(|score| 0.5 - score).collect();
            pass.backward(&weights, 0.01).unwrap();
        }
        trainer.apply(1e-3, Some(1.0)).unwrap();
    }
    let mut found = trainer.outputs(&labelled(&[13, 10], 1)).unwrap();
    for name in ["score.weight", "score.bias", "model.norm.weight"] {
        found.extend(trainer.gradient(name).unwrap());
        found.extend(trainer.parameter(name).unwrap());
    }
    found
}

#[test]
fn passes_that_come_again_are_launched_as_graphs_with_the_same_bits() {
    let case = |precision, lora, gradient_checkpointing| {
        let batches: &[&[u32]] = &BATCHES;
        Case { precision, fixture: "tied", lora, gradient_checkpointing, batches }
    };
    let cases = [
        case(Precision::F32, false, false),
        case(Precision::Bf16, false, true),
        case(Precision::Bf16, true, false),
        Case { fixture: "wide-heads-llama3-rope", batches: &[LONG; 3], ..case(Precision::Bf16, false, false) },
    ];
    for case in cases {
        let Some(kernels) = emulator::device(case.precision) else { return };
        let plain = run(kernels.clone().without_graphs(), case, Pass::Whole);
        assert_eq!(kernels.graph_launches(), 0);
        let kernels = emulator::device(case.precision).unwrap();
        assert!(run(kernels.clone(), case, Pass::Whole) == plain, "{case:?}: other bits");
        assert_eq!(kernels.no_graphs(), None);
        // Every layout is queued once and then captured, per first or later micro-batch and anew in a larger room.
        let least = if case.batches.len() < 4 { 4 } else { 10 };
        assert!(kernels.graph_launches() >= least, "{case:?}: {} launches", kernels.graph_launches());
        let halves = emulator::device(case.precision).unwrap();
        // Of halves, the host sums the loss.
        assert!(run(halves.clone(), case, Pass::Halves).1 == plain.1, "{case:?}: halves have other bits");
        assert!(halves.graph_launches() > kernels.graph_launches(), "{case:?}: halves are graphs of their own");
        if std::env::var_os("HOST_TEST_GPU").is_some() {
            continue;
        }
        let by_cudnn = kernels.attention().iter().any(|line| line.contains("forward by cuDNN; backward by cuDNN"));
        assert_eq!(by_cudnn, case.batches.contains(&LONG), "{:?}", kernels.attention());
    }
    for precision in [Precision::F32, Precision::Bf16] {
        let Some(kernels) = emulator::device(precision) else { return };
        let plain = run_scores(kernels.without_graphs());
        let kernels = emulator::device(precision).unwrap();
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert!(bits(&run_scores(kernels.clone())) == bits(&plain), "{precision:?}: other bits");
        assert!(kernels.graph_launches() >= 10, "{} launches", kernels.graph_launches());
        let length = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>().sqrt();
        let on_cpu = run_scores(CpuKernels);
        let off = length(&mut plain.iter().zip(&on_cpu).map(|(a, b)| a - b)) / length(&mut on_cpu.iter().copied());
        assert!(off <= if precision == Precision::F32 { 1e-3 } else { 0.05 }, "{precision:?}: {off} off");
    }
    if std::env::var_os("HOST_TEST_GPU").is_some() {
        return;
    }
    let case = Case { batches: &BATCHES[..3], ..case(Precision::Bf16, true, false) };
    let Some(kernels) = emulator::device(case.precision) else { return };
    let plain = run(kernels.without_graphs(), case, Pass::Whole);
    for failing in ["cuStreamBeginCapture:1", "cuStreamEndCapture:1", "cuGraphInstantiate:1", "cuGraphUpload:1"] {
        // SAFETY: this program has one test, and no other thread reads the environment now.
        unsafe { std::env::set_var("HOST_EMULATOR_FAIL", failing) };
        let kernels = emulator::device(case.precision).unwrap();
        assert!(run(kernels.clone(), case, Pass::Whole) == plain, "{failing}: other bits");
        assert_eq!(kernels.graph_launches(), 0, "{failing}");
        let reason = kernels.no_graphs().unwrap();
        assert!(reason.starts_with(failing.trim_end_matches(":1")), "{failing}: {reason}");
    }
}
