//! Models of experts: what a step tells of them, what is refused, and what is saved. That their numbers are transformers' is in
//! `parity.rs`.

mod emulator;
mod fixture;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use engine::adapter::modules::NotSaved;
use engine::adapter::{LoraConfig, Modules, Saved};
use engine::architecture::config::{ModelConfig, Quantization};
use engine::architecture::tensors::{LinearKind, TensorSpec};
use engine::files::export::{SHARD_BYTES, export_model};
use engine::files::merge::merge;
use engine::files::peft;
use engine::generate::{GenerateOptions, Request, generate, unobserved};
use engine::kernels::counting::Profile;
use engine::kernels::cpu::{CpuKernels, instructions};
use engine::kernels::{Packing, Precision};
use engine::memory::footprint;
use engine::model::Model;
use engine::objective::{accumulate, evaluate};
use engine::optim::AdamWConfig;
use engine::weights::{WeightSource, read_headers};
use engine::workload::{BatchShape, Workload};
use engine::{Batch, CrossEntropy, EngineError, GradientReport, IGNORE, Trainable, Trainer, TrainerOptions};
use fixture::fixture;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

fn config(name: &str) -> ModelConfig {
    ModelConfig::from_dir(&fixture(name)).unwrap()
}

fn source(name: &str) -> WeightSource {
    WeightSource::Directory(fixture(name))
}

fn options(lora: Option<LoraConfig>) -> TrainerOptions {
    TrainerOptions {
        trainable: Trainable::All,
        lora,
        gradient_checkpointing: false,
        seed: 3,
        adamw: AdamWConfig::default(),
        ..TrainerOptions::default()
    }
}

fn lora(modules: Modules) -> LoraConfig {
    LoraConfig {
        r: 4,
        alpha: 8.0,
        dropout: 0.0,
        use_rslora: false,
        use_dora: false,
        modules,
        saved: Saved::default(),
        ranks: BTreeMap::new(),
        alphas: BTreeMap::new(),
    }
}

fn trainer(name: &str) -> Trainer {
    Trainer::new(config(name), &source(name), options(None)).unwrap()
}

/// Documents of so many tokens, all of which are learned but the last.
fn batch(lengths: &[u32], seed: u32) -> Batch {
    let mut batch = Batch::default();
    for (document, &length) in lengths.iter().enumerate() {
        let id = |place: u32| 3 + (place * place * 5 + place * 11 + seed * 17 + document as u32 * 29) % 90;
        batch.ids.extend((0..length).map(id));
        batch.targets.extend((1..length).map(id).chain([IGNORE]));
        batch.doc_lens.push(length);
    }
    batch
}

#[test]
fn an_expert_without_a_token_has_no_gradient_and_is_counted() {
    let mut trainer = trainer("qwen3moe-idle");
    trainer.forward_backward(&batch(&[4, 3], 0), 1.0 / 5.0, 0).unwrap();
    // Two layers of twelve experts, two of them a token.
    let tokens = trainer.expert_tokens().to_vec();
    assert_eq!((tokens.len(), tokens.iter().sum::<u64>()), (24, 2 * 2 * 7));
    let idle = tokens.iter().filter(|&&tokens| tokens == 0).count();
    assert!(idle > 0, "the documents are short enough");
    let reports = trainer.gradient_report();
    let is_idle = |report: &GradientReport| {
        let (layer, rest) = report.name.strip_prefix("model.layers.").unwrap().split_once(".mlp.experts.").unwrap();
        let expert: usize = rest.split('.').next().unwrap().parse().unwrap();
        tokens[layer.parse::<usize>().unwrap() * 12 + expert] == 0
    };
    let (of_experts, others): (Vec<_>, Vec<_>) = reports.iter().partition(|report| trainer.is_of_expert(&report.name));
    assert!(others.iter().all(|report| report.norm > 0.0));
    assert!(of_experts.iter().all(|report| report.finite && (report.norm == 0.0 || !is_idle(report))));
    assert_eq!(of_experts.iter().filter(|report| is_idle(report)).count(), 3 * idle);
    // Gradients of a step before are gone; those of the step's other micro-batch are not.
    trainer.apply(1e-3, Some(1.0)).unwrap();
    trainer.forward_backward(&batch(&[4, 3], 1), 1.0 / 5.0, 0).unwrap();
    let norms = |trainer: &Trainer| -> BTreeMap<String, f64> {
        trainer.gradient_report().into_iter().map(|report| (report.name, report.norm)).collect()
    };
    let first = norms(&trainer);
    let before: BTreeMap<_, _> = reports.into_iter().map(|report| (report.name, report.norm)).collect();
    assert!(first.iter().any(|(name, &norm)| norm == 0.0 && before[name] > 0.0), "another expert is idle");
    trainer.forward_backward(&batch(&[2], 2), 1.0 / 5.0, 1).unwrap();
    assert_eq!(trainer.expert_tokens().iter().sum::<u64>(), 2 * 2 * 9);
    assert!(norms(&trainer).iter().all(|(name, &norm)| norm > 0.0 || first[name] == 0.0));
    let tokens = trainer.expert_tokens().to_vec();
    let stats = trainer.apply(1e-3, Some(1.0)).unwrap();
    assert_eq!(stats.idle_experts, tokens.iter().filter(|&&tokens| tokens == 0).count());
}

#[test]
fn a_step_of_a_model_without_experts_tells_nothing_of_them() {
    let mut trainer = trainer("untied");
    trainer.forward_backward(&batch(&[4, 3], 0), 1.0 / 5.0, 0).unwrap();
    assert_eq!((trainer.expert_tokens(), trainer.auxiliary_loss()), (&[][..], 0.0));
    assert!(!trainer.is_of_expert("model.layers.0.mlp.gate_proj.weight"));
    assert_eq!(trainer.apply(1e-3, Some(1.0)).unwrap().idle_experts, 0);
}

#[test]
fn the_loss_of_a_step_has_the_load_balancing_loss_where_the_config_turns_it_on() {
    let batches = [batch(&[9, 5], 1), batch(&[7], 2)];
    let mut on = trainer("mixtral-balance");
    let found = accumulate(&mut on, &CrossEntropy, &batches).unwrap();
    let metrics: BTreeMap<_, _> = found.metrics.means().collect();
    // The coefficient is 0.5; each micro-batch has its own, which are summed. The least that there may be of one is the
    // experts of a token, two of three.
    let mean = metrics["aux_loss"];
    assert!((found.loss - 0.5 * 2.0 * mean).abs() < 1e-12 && (2.0..3.0).contains(&mean), "{} {mean}", found.loss);
    assert!((found.loss - on.auxiliary_loss()).abs() < 1e-12);
    let (loss, metrics) = evaluate(&mut on, &CrossEntropy, &batches).unwrap().unwrap();
    assert!((loss - found.scale * on.loss_sum()).abs() < 1e-6, "an evaluation is of the targets alone");
    assert_eq!(metrics.means().count(), 0);
    // Off, the same model has the same loss of targets and another gradient.
    let mut raw = serde_json::Map::new();
    raw.insert("output_router_logits".into(), false.into());
    let off = config("mixtral-balance").with(&raw, Path::new("config.json")).unwrap();
    let mut off = Trainer::new(off, &source("mixtral-balance"), options(None)).unwrap();
    let without = accumulate(&mut off, &CrossEntropy, &batches).unwrap();
    assert_eq!((without.loss, without.metrics.means().count(), off.auxiliary_loss()), (0.0, 0, 0.0));
    assert_eq!(off.loss_sum().to_bits(), on.loss_sum().to_bits());
    let router = "model.layers.0.block_sparse_moe.gate.weight";
    assert_ne!(off.gradient(router), on.gradient(router));
}

#[test]
fn the_load_balancing_loss_is_of_every_position_though_documents_begin_alike() {
    let mut documents = batch(&[20, 20, 20], 1);
    let first = documents.ids[..20].to_vec();
    for document in documents.ids.chunks_exact_mut(20) {
        document[..16].copy_from_slice(&first[..16]);
    }
    for (place, target) in documents.targets.iter_mut().enumerate() {
        *target = if place % 20 < 16 { IGNORE } else { *target };
    }
    for (name, positions) in [("mixtral-balance", 60), ("mixtral", 60 - 2 * 16)] {
        let mut trainer = trainer(name);
        trainer.forward_backward(&documents, 1.0, 0).unwrap();
        assert_eq!(trainer.expert_tokens().iter().sum::<u64>(), 2 * 2 * positions, "{name}");
    }
}

#[test]
fn what_experts_cannot_have_is_refused_with_the_reason() {
    let name = "qwen3moe";
    let mut packed = config(name);
    packed.quantization = Some(Quantization { packing: Packing::Nf4, is_nested: false });
    let adapter = || Some(lora(Modules::of([LinearKind::QProj])));
    let refused = [
        Trainer::new(packed.clone(), &source(name), options(adapter())).map(drop),
        Model::load(packed.clone(), &source(name), None).map(drop),
    ];
    for refused in refused {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("weights of experts cannot be quantized"), "{error}");
    }
    let work = Workload {
        train: BatchShape { tokens: 8, targets: 8, longest: 8 },
        accumulates: false,
        eval: None,
        reference: None,
        generation: None,
    };
    let profile = Profile::Cuda { precision: Precision::Bf16, multiprocessors: 132, fused_attention: false };
    let error = footprint(profile, &config(name), &options(None), &work, None).unwrap_err().to_string();
    assert!(error.contains("models that have them are trained on the CPU"), "{error}");
    // Experts have no modules of their own in transformers.
    let modules = Modules::of([LinearKind::GateProj]);
    let error = Trainer::new(config("mixtral"), &source("mixtral"), options(Some(lora(modules)))).unwrap_err();
    assert!(error.to_string().contains("the adapter has no target modules"), "{error}");
}

#[test]
fn a_gpu_says_that_it_has_no_experts() {
    let Some(kernels) = emulator::device(Precision::F32) else { return };
    let error = Trainer::on(kernels, config("mixtral"), &source("mixtral"), options(None)).unwrap_err();
    assert!(matches!(error, EngineError::Device(_)), "{error}");
    assert!(error.to_string().contains("models that have them are trained on the CPU"), "{error}");
}

/// PEFT takes the names of projections of a feed-forward layer for those of experts, which are named by their tensors.
#[test]
fn adapters_are_of_attention_and_of_tensors_of_experts() {
    let config = config("qwen3moe");
    let list = |entries: &[&str]| entries.iter().map(ToString::to_string).collect::<Vec<String>>();
    let names = |entries: &[&str]| Modules::listed(&config, &list(entries), None).names(&config);
    assert_eq!(names(&["q_proj"]).len(), 3);
    assert_eq!(names(&["gate_proj", "down_proj", "experts.0.gate_proj", "gate", "w1", "experts"]), [""; 0]);
    let all = Modules::of(config.linears());
    assert_eq!(all.names(&config).len(), 3 * 4);
    assert_eq!(all.to_peft(&config), (list(&["q_proj", "k_proj", "v_proj", "o_proj"]), None));
    // The second of three layers has no experts.
    let with = |entries: &[&str]| Modules::default().with_parameters(&config, &list(entries));
    let path = |layer: usize, name: &str| format!("model.layers.{layer}.mlp.experts.{name}");
    let both = with(&["experts.gate_up_proj", "down_proj"]).unwrap();
    assert_eq!(
        both.names(&config),
        [path(0, "gate_up_proj"), path(0, "down_proj"), path(2, "gate_up_proj"), path(2, "down_proj")]
    );
    assert_eq!(both.to_parameters(&config), ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]);
    let one = with(&["model.layers.2.mlp.experts.down_proj"]).unwrap();
    assert_eq!(one.names(&config), [path(2, "down_proj")]);
    assert_eq!(one.to_parameters(&config), [path(2, "down_proj")]);
    for entry in ["proj", "model.layers.1.mlp.experts.down_proj", "mlp.gate", ""] {
        assert_eq!(with(&[entry]).unwrap_err(), entry);
    }
    assert_eq!(with(&["down_proj"]).unwrap().or(&one, &config).names(&config).len(), 2);
}

#[test]
fn an_adapter_of_experts_is_saved_and_merged_as_it_was_trained() {
    for (name, parameters) in [
        ("qwen3moe", ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
        ("mixtral", ["down_proj", "down_proj"]),
        ("granite4-experts", ["experts.gate_up_proj", "experts.down_proj"]),
        ("olmoe", ["mlp.gate.weight", "experts.down_proj"]),
        ("granitemoe", ["router.weight", "gate_up_proj"]),
    ] {
        let modules = Modules::of([LinearKind::QProj]).with_parameters(&config(name), &parameters.map(String::from));
        let mut adapter = lora(modules.unwrap());
        if name == "qwen3moe" {
            adapter.ranks.insert("model.layers.0.mlp.experts.gate_up_proj".into(), 3);
        }
        let mut trainer = Trainer::new(config(name), &source(name), options(Some(adapter.clone()))).unwrap();
        let batch = batch(&[9, 5], 1);
        for _ in 0..3 {
            trainer.forward_backward(&batch, 0.1, 0).unwrap();
            trainer.apply(3e-2, None).unwrap();
        }
        let room = tempfile::tempdir().unwrap();
        peft::export_adapter(trainer.model(), room.path(), "base").unwrap();
        let mut again = Trainer::new(config(name), &source(name), options(Some(adapter))).unwrap();
        again.start_from(room.path()).unwrap();
        let expected = trainer.outputs(&batch).unwrap();
        assert_eq!(again.outputs(&batch).unwrap(), expected, "{name}");
        let merged = tempfile::tempdir().unwrap();
        let loaded = peft::load(&CpuKernels, &config(name), room.path()).unwrap();
        merge(&config(name), &fixture(name), &loaded, merged.path()).unwrap();
        let whole = ModelConfig::from_dir(merged.path()).unwrap();
        let whole = Trainer::new(whole, &WeightSource::Directory(merged.path().to_owned()), options(None));
        let found = whole.unwrap().outputs(&batch).unwrap();
        assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4), "{name}");
        let base = Trainer::new(config(name), &source(name), options(None)).unwrap().outputs(&batch).unwrap();
        assert!(base.iter().zip(&expected).any(|(a, b)| (a - b).abs() > 1e-2), "{name}: the adapter does something");
    }
}

#[test]
fn an_adapter_of_experts_has_no_dropout_and_no_lengths() {
    let modules = Modules::default().with_parameters(&config("mixtral"), &["down_proj".to_owned()]).unwrap();
    let plain = lora(modules);
    for adapter in [LoraConfig { dropout: 0.1, ..plain.clone() }, LoraConfig { use_dora: true, ..plain.clone() }] {
        let error = Trainer::new(config("mixtral"), &source("mixtral"), options(Some(adapter))).unwrap_err();
        assert!(error.to_string().contains("neither dropout nor lengths of rows"), "{error}");
    }
    assert!(Trainer::new(config("mixtral"), &source("mixtral"), options(Some(plain))).is_ok());
}

#[test]
fn routers_may_be_saved_beside_an_adapter_and_experts_may_not() {
    let saved = |name: &str, entry: &str| Saved::new(&mut config(name), &[entry.to_owned()]);
    let routers = [0, 2].map(|layer| format!("model.layers.{layer}.mlp.gate.weight"));
    assert_eq!(saved("qwen3moe", "mlp.gate").unwrap().parameters, BTreeSet::from(routers));
    for (name, entry) in [
        ("qwen3moe", "experts"),
        ("qwen3moe", "experts.0.up_proj"),
        ("mixtral", "gate"),
        ("granitemoe", "router.layer"),
    ] {
        assert_eq!(saved(name, entry), Err(NotSaved::Nothing(entry.to_owned())), "{name} {entry}");
    }
}

#[test]
fn a_merged_model_says_what_the_adapted_one_said() {
    for name in ["qwen3moe", "mixtral"] {
        let modules = Modules::of(config(name).linears());
        let mut trainer = Trainer::new(config(name), &source(name), options(Some(lora(modules)))).unwrap();
        let batch = batch(&[9, 5], 1);
        for _ in 0..3 {
            trainer.forward_backward(&batch, 0.1, 0).unwrap();
            trainer.apply(1e-2, None).unwrap();
        }
        let room = tempfile::tempdir().unwrap();
        let [adapter, merged] = ["adapter", "merged"].map(|name| room.path().join(name));
        for directory in [&adapter, &merged] {
            std::fs::create_dir(directory).unwrap();
        }
        peft::export_adapter(trainer.model(), &adapter, "base").unwrap();
        let loaded = peft::load(&CpuKernels, &config(name), &adapter).unwrap();
        merge(&config(name), &fixture(name), &loaded, &merged).unwrap();
        let names = |directory: &Path| read_headers(directory).unwrap().tensors.into_keys().collect::<Vec<_>>();
        assert_eq!(names(&merged), names(&fixture(name)));
        let again = ModelConfig::from_dir(&merged).unwrap();
        let mut again = Trainer::new(again, &WeightSource::Directory(merged), options(None)).unwrap();
        let (found, expected) = (again.outputs(&batch).unwrap(), trainer.outputs(&batch).unwrap());
        assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4), "{name}");
        let base = Trainer::new(config(name), &source(name), options(None)).unwrap().outputs(&batch).unwrap();
        assert!(base.iter().zip(&expected).any(|(a, b)| (a - b).abs() > 1e-2), "{name}: the adapter does something");
    }
}

/// Names and shapes as `save_pretrained` of transformers has written those of the fixtures.
#[test]
fn a_model_is_saved_in_the_form_of_transformers() {
    for name in ["qwen3moe", "mixtral", "olmoe", "granitemoe", "granite4-experts"] {
        let room = tempfile::tempdir().unwrap();
        let model = Model::load(config(name), &source(name), None).unwrap();
        export_model(&model, room.path(), SHARD_BYTES).unwrap();
        let shapes = |directory: &Path| -> BTreeMap<String, Vec<usize>> {
            let tensors = read_headers(directory).unwrap().tensors.into_iter();
            tensors.map(|(name, header)| (name, header.shape)).collect()
        };
        assert_eq!(shapes(room.path()), shapes(&fixture(name)), "{name}");
        let found = ModelConfig::from_dir(room.path()).unwrap();
        assert!(found.is_computed_as(&config(name)), "{name}");
    }
}

/// `_init_weights` of transformers: routers and experts are normal with `initializer_range`, each of its own numbers.
#[test]
fn a_random_start_is_that_of_transformers() {
    let model = Model::load(config("qwen3moe"), &WeightSource::Random { seed: 1 }, None).unwrap();
    let mut seen: Vec<Vec<f32>> = Vec::new();
    for spec in model.config.parameters().iter().filter(|spec| spec.name.contains("mlp.")) {
        let values = model.parameter(&spec.name).unwrap();
        let deviation = (values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32).sqrt();
        assert!((deviation / 0.15 - 1.0).abs() < 0.3, "{}: {deviation}", spec.name);
        assert!(seen.iter().all(|other| other[..8] != values[..8]), "{}", spec.name);
        seen.push(values);
    }
    assert_eq!(seen.len(), 2 * (1 + 3 * 5) + 3);
}

/// Frozen weights that are bfloat16 numbers are read in half their bytes while a text grows.
#[test]
fn a_text_has_the_log_probabilities_of_training_from_rounded_weights_too() {
    let room = tempfile::tempdir().unwrap();
    let json = serde_json::json!({
        "model_type": "mixtral", "hidden_size": 96, "intermediate_size": 136, "num_local_experts": 4, "num_experts_per_tok": 2,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 96,
        "max_position_embeddings": 256, "initializer_range": 0.2,
    });
    std::fs::write(room.path().join("config.json"), json.to_string()).unwrap();
    let config = ModelConfig::from_dir(room.path()).unwrap();
    let start = Model::load(config.clone(), &WeightSource::Random { seed: 2 }, None).unwrap();
    let halves = |spec: &TensorSpec| -> Vec<u8> {
        let values = start.parameter(&spec.name).unwrap();
        values.iter().flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes()).collect()
    };
    let tensors: Vec<_> = config.parameters().into_iter().map(|spec| (halves(&spec), spec)).collect();
    let views = tensors
        .iter()
        .map(|(bytes, spec)| (&spec.name, TensorView::new(Dtype::BF16, spec.shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &room.path().join("model.safetensors")).unwrap();
    let weights = WeightSource::Directory(room.path().to_owned());
    let adapter = Some(lora(Modules::of([LinearKind::QProj])));
    let mut trainer = Trainer::new(config, &weights, options(adapter)).unwrap();
    let prompt = vec![5, 9, 33, 60, 2, 71];
    let options = GenerateOptions { max_new_tokens: 30, do_sample: true, seed: 4, ..GenerateOptions::default() };
    let requests = Request::one_each([prompt.clone(), vec![7; 3]]);
    let found = generate(trainer.model(), &requests, &options, &mut unobserved).unwrap();
    let text: Vec<u32> = prompt.iter().chain(&found[0].ids).copied().collect();
    let (ids, targets) = (text[..text.len() - 1].to_vec(), text[1..].to_vec());
    let doc_lens = vec![ids.len() as u32];
    let said = trainer.outputs(&Batch { ids, targets, weights: None, doc_lens }).unwrap();
    let allowed = if instructions().contains(&"AMX") { 2e-5 } else { 0.0 };
    assert_eq!(found[0].ids.len(), 30);
    for (drawn, said) in found[0].log_probs.iter().zip(&said[prompt.len() - 1..]) {
        assert!((drawn - said).abs() <= allowed, "{drawn} and {said}");
    }
}

/// Widths and rows of several tiles, on different numbers of threads.
#[test]
fn any_number_of_threads_gives_the_same_gradients() {
    let json = serde_json::json!({
        "model_type": "qwen3_moe", "hidden_size": 96, "intermediate_size": 64, "moe_intermediate_size": 336, "num_experts": 4,
        "num_experts_per_tok": 2, "norm_topk_prob": true, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 96, "initializer_range": 0.1, "output_router_logits": true,
    });
    let config = ModelConfig::from_json(&json.to_string(), "wide".as_ref()).unwrap();
    let batch = batch(&[700, 411], 5);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut trainer = Trainer::new(config.clone(), &WeightSource::Random { seed: 2 }, options(None)).unwrap();
            trainer.forward_backward(&batch, 1e-3, 0).unwrap();
            let names: Vec<String> = trainer.gradient_report().into_iter().map(|report| report.name).collect();
            names.iter().flat_map(|name| trainer.gradient(name).unwrap()).map(f32::to_bits).collect::<Vec<u32>>()
        })
    };
    let one = run(1);
    assert!(one == run(2), "two threads differ from one");
    assert!(one == run(3), "three threads differ from one");
}
