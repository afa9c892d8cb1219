//! The training step against transformers and peft: losses, gradients and four AdamW steps of the fixtures in
//! `tests/fixtures/parity` (made by `make.py` there; versions in `versions.json`).
//!
//! Tolerances: f32 sums in another order. Measured worst cases are a tenth of what is allowed here, or less.
//!
//! The same on the CUDA backend: with the emulator of `tests/gpu/emulator` on any machine that has g++ and python3, and with
//! the machine's GPU where `HOST_TEST_GPU` is set, which `tests/gpu/verify` does. `HOST_TEST_REPORT` names a file that gets
//! what was found, a line of JSON a case.

mod emulator;
mod fixture;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use engine::adapter::{LoraConfig, Modules, Saved};
use engine::architecture::config::ModelConfig;
use engine::architecture::config::Quantization;
use engine::architecture::tensors::LinearKind;
use engine::kernels::cpu::CpuKernels;
use engine::kernels::{Kernels, Packing, Precision, at};
use engine::model::Model;
use engine::optim::{AdamWConfig, Rate, Rules};
use engine::weights::WeightSource;
use engine::{Batch, IGNORE, Trainable, Trainer, TrainerOptions};
use fixture::fixture;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

/// How far off what is computed may be.
#[derive(Clone, Copy)]
struct Allowed {
    loss: f64,
    gradient: f64,
    /// Of the length of all gradients.
    norm: f64,
    parameter: f64,
}

const EXACT: Allowed = Allowed { loss: 1e-5, gradient: 2e-5, norm: 2e-5, parameter: 2e-5 };

/// How far off it was at most.
#[derive(Debug, Default, Serialize)]
struct Found {
    loss: f64,
    gradients: BTreeMap<String, f64>,
    parameter: f64,
}

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
    quantize: Option<Quantize>,
    #[serde(default)]
    rows: BTreeMap<String, Vec<[usize; 2]>>,
    #[serde(default)]
    rates: Vec<CaseRate>,
}

#[derive(Deserialize)]
struct CaseRate {
    within: String,
    factor: f64,
    keeps: bool,
}

impl Case {
    fn rules(&self) -> Rules {
        let rate = |rate: &CaseRate| Rate { within: rate.within.clone(), factor: rate.factor, keeps: rate.keeps };
        let rows = |(name, rows): (&String, &Vec<[usize; 2]>)| {
            (name.clone(), rows.iter().map(|&[start, end]| start..end).collect())
        };
        Rules { rates: self.rates.iter().map(rate).collect(), rows: self.rows.iter().map(rows).collect() }
    }
}

/// Keys of transformers' `BitsAndBytesConfig`.
#[derive(Deserialize)]
struct Quantize {
    #[serde(default)]
    load_in_8bit: bool,
    #[serde(default)]
    bnb_4bit_quant_type: String,
    #[serde(default)]
    bnb_4bit_use_double_quant: bool,
}

impl Quantize {
    fn quantization(&self) -> Quantization {
        let packing = match self.bnb_4bit_quant_type.as_str() {
            _ if self.load_in_8bit => Packing::Int8,
            "nf4" => Packing::Nf4,
            _ => Packing::Fp4,
        };
        Quantization { packing, is_nested: self.bnb_4bit_use_double_quant }
    }
}

#[derive(Deserialize)]
struct Lora {
    r: usize,
    #[serde(rename = "lora_alpha")]
    alpha: f64,
    target_modules: Vec<String>,
    #[serde(default)]
    target_parameters: Vec<String>,
    #[serde(default)]
    modules_to_save: Vec<String>,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    layers_to_transform: Option<BTreeSet<usize>>,
    #[serde(default)]
    rank_pattern: BTreeMap<String, usize>,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, f64>,
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

fn options(config: &ModelConfig, case: &Case, saved: Saved, gradient_checkpointing: bool) -> TrainerOptions {
    TrainerOptions {
        trainable: case.trainable.clone().map_or(Trainable::All, Trainable::Named),
        lora: case.lora.as_ref().map(|lora| LoraConfig {
            r: lora.r,
            alpha: lora.alpha,
            dropout: 0.0,
            use_rslora: lora.use_rslora,
            use_dora: lora.use_dora,
            modules: Modules::of(lora.target_modules.iter().map(|name| LinearKind::from_name(name).unwrap()))
                .in_layers(lora.layers_to_transform.as_ref())
                .with_parameters(config, &lora.target_parameters)
                .unwrap(),
            saved,
            ranks: lora.rank_pattern.clone(),
            alphas: lora.alpha_pattern.clone(),
        }),
        gradient_checkpointing,
        seed: 1,
        adamw: AdamWConfig {
            beta1: case.betas[0],
            beta2: case.betas[1],
            eps: case.eps,
            weight_decay: case.weight_decay,
        },
        rules: case.rules(),
        ..TrainerOptions::default()
    }
}

fn trainer<K: Kernels>(
    kernels: K,
    directory: &Path,
    case: &Case,
    expected: &Expected,
    gradient_checkpointing: bool,
) -> Trainer<K> {
    let mut config = ModelConfig::from_dir(directory).unwrap();
    config.quantization = case.quantize.as_ref().map(Quantize::quantization);
    let entries = case.lora.as_ref().map_or(&[][..], |lora| &lora.modules_to_save);
    let saved = Saved::new(&mut config, entries).unwrap();
    let weights = WeightSource::Directory(directory.to_owned());
    let options = options(&config, case, saved, gradient_checkpointing);
    let mut trainer = Trainer::on(kernels, config, &weights, options).unwrap();
    if case.lora.is_some() {
        check_magnitudes(&trainer, expected, &directory.display().to_string());
        let mut start: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        trainer
            .visit_state::<engine::EngineError>(&mut |name, _, values| {
                let adapter = name.strip_prefix("param/").filter(|name| name.contains("lora_"));
                let own = adapter.map(|name| expected.floats(&format!("start/{name}")));
                start.insert(name.to_owned(), own.unwrap_or_else(|| values.to_vec()));
                Ok(())
            })
            .unwrap();
        trainer.load_state::<engine::EngineError>(0, &mut |name| Ok(start.get(name).cloned())).unwrap();
    }
    trainer
}

fn check(name: &str, gradient_checkpointing: bool) {
    check_on(CpuKernels, EXACT, name, gradient_checkpointing);
}

/// Holds the lengths that DoRA starts from against PEFT's.
fn check_magnitudes<K: Kernels>(trainer: &Trainer<K>, expected: &Expected, case: &str) {
    for name in expected.names("start/").into_iter().filter(|name| name.ends_with("lora_magnitude_vector")) {
        let error = distance(&trainer.parameter(&name).unwrap(), &expected.floats(&format!("start/{name}")));
        let allowed = if trainer.model().kernels.precision() == Precision::F32 { 1e-6 } else { 4e-3 };
        assert!(error <= allowed, "{case}: the start of {name} is {error:e} off");
    }
}

/// Holds the bytes of the projections that are packed against those of bitsandbytes.
fn check_packed<K: Kernels>(model: &Model<K>, expected: &Expected, name: &str) {
    let names = expected.names("packed/");
    assert_eq!(names.len(), model.layout.packed.len(), "{name}");
    for tensor in names {
        let slot = model.layout.packed.iter().find(|slot| slot.name == tensor).unwrap();
        let mut words = vec![0.0; slot.packed.packing.words(slot.packed.len())];
        model.kernels.download(at(&model.words, slot.packed.codes), &mut words);
        let found: Vec<u8> = words.iter().flat_map(|word: &f32| word.to_bits().to_le_bytes()).collect();
        let tensors = expected.tensors();
        assert!(found == tensors.tensor(&format!("packed/{tensor}")).unwrap().data(), "{name}: bytes of {tensor}");
    }
}

/// The distance over elements whose first gradient is more than what others' rounding is: where AdamW divides one of these by
/// its own size, its sign decides the step. They are few, but for a key's bias: what of it is not rotated, or hardly, adds the
/// same to all scores of a query, so its gradient is nothing but rounding.
fn distance_of_determined(name: &str, found: &[f32], expected: &[f32], gradient: &[f32]) -> f64 {
    let squares: f64 = gradient.iter().map(|&value| f64::from(value).powi(2)).sum();
    let (least, share) = if name.ends_with("k_proj.bias") { (1e-2, 25) } else { (1e-4, 95) };
    let least = least * (squares / gradient.len() as f64).sqrt();
    let is_determined = |index: &usize| f64::from(gradient[*index]).abs() >= least || gradient[*index] == 0.0;
    let elements: Vec<usize> = (0..gradient.len()).filter(is_determined).collect();
    assert!(elements.len() * 100 >= gradient.len() * share, "{name}: {} of {}", elements.len(), gradient.len());
    let of = |values: &[f32]| elements.iter().map(|&index| values[index]).collect::<Vec<_>>();
    distance(&of(found), &of(expected))
}

fn check_on<K: Kernels>(kernels: K, allowed: Allowed, name: &str, gradient_checkpointing: bool) -> Found {
    let directory = fixture(name);
    let case: Case = serde_json::from_slice(&std::fs::read(directory.join("case.json")).unwrap()).unwrap();
    let expected = Expected::open(&directory);
    let mut trainer = trainer(kernels, &directory, &case, &expected, gradient_checkpointing);
    check_packed(trainer.model(), &expected, name);
    let (losses, norms) = (expected.doubles("losses"), expected.doubles("grad_norms"));
    let mut worst = Found::default();
    for step in 0..losses.len() {
        let batches: Vec<Batch> = (0..case.accumulation).map(|micro| expected.batch(step, micro)).collect();
        let targets: usize =
            batches.iter().flat_map(|batch| &batch.targets).filter(|&&target| target != IGNORE).count();
        for (micro, batch) in batches.iter().enumerate() {
            trainer.forward_backward(batch, 1.0 / targets as f64, micro as u32).unwrap();
        }
        let loss = trainer.loss_sum() / targets as f64 + trainer.auxiliary_loss();
        worst.loss = worst.loss.max((loss / losses[step] - 1.0).abs());
        if step == 0 {
            let names = expected.names("grad/");
            assert_eq!(names.len(), trainer.gradient_report().len(), "{name}: as many gradients as torch has");
            for tensor in names {
                let found = trainer.gradient(&tensor).unwrap_or_else(|| panic!("{name}: no gradient for {tensor}"));
                let error = distance(&found, &expected.floats(&format!("grad/{tensor}")));
                assert!(error <= allowed.gradient, "{name}: gradient of {tensor} is {error:e} off");
                worst.gradients.insert(tensor, error);
            }
        }
        let stats = trainer.apply(case.lr, Some(case.max_grad_norm)).unwrap();
        assert!((stats.grad_norm / norms[step] - 1.0).abs() <= allowed.norm, "{name}: grad norm of step {step}");
    }
    for tensor in expected.names("after/") {
        let gradient = expected.floats(&format!("grad/{tensor}"));
        let (found, after) = (trainer.parameter(&tensor).unwrap(), expected.floats(&format!("after/{tensor}")));
        let error = distance_of_determined(&tensor, &found, &after, &gradient);
        assert!(error <= allowed.parameter, "{name}: {tensor} is {error:e} off after four steps");
        worst.parameter = worst.parameter.max(error);
    }
    assert!(worst.loss <= allowed.loss, "{name}: loss is {:e} off", worst.loss);
    worst
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
fn rows_of_parameters_alone() {
    check("rows", false);
    check("rows", true);
}

#[test]
fn learning_rates_of_their_own() {
    check("rates", false);
    check("loraplus", false);
}

#[test]
fn lora_with_ranks_of_its_own_for_some_modules() {
    check("lora-patterns", false);
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
fn dora() {
    for name in ["dora-all", "dora-some"] {
        check(name, false);
    }
}

#[test]
fn weights_trained_beside_an_adapter() {
    for name in ["lora-saved", "lora-saved-tied", "lora-saved-embedding"] {
        check(name, false);
    }
}

#[test]
fn biases_of_all_projections() {
    check("llama-biases", false);
}

#[test]
fn mistral() {
    for name in ["mistral", "ministral"] {
        check(name, false);
    }
}

#[test]
fn qwen2() {
    for name in ["qwen2", "qwen2-yarn", "qwen2-frozen", "qwen2-lora", "qwen2-window"] {
        check(name, false);
    }
}

#[test]
fn qwen3() {
    for name in ["qwen3", "qwen3-frozen", "qwen3-lora"] {
        check(name, false);
    }
}

#[test]
fn gemma() {
    for name in ["gemma", "gemma-lora", "vaultgemma", "vaultgemma-lora"] {
        check(name, false);
    }
}

#[test]
fn hyperclova_x() {
    for name in ["hyperclova-x", "hyperclova-x-lora"] {
        check(name, false);
    }
}

#[test]
fn apertus() {
    for name in ["apertus", "apertus-lora", "apertus-frozen"] {
        check(name, false);
    }
}

#[test]
fn helium() {
    for name in ["helium", "helium-lora"] {
        check(name, false);
    }
}

#[test]
fn cwm() {
    for name in ["cwm", "cwm-lora"] {
        check(name, false);
    }
}

#[test]
fn gemma2() {
    for name in ["gemma2", "gemma2-lora"] {
        check(name, false);
    }
}

#[test]
fn gemma3() {
    for name in ["gemma3", "gemma3-lora", "gemma3-images", "gemma3-images-lora"] {
        check(name, false);
    }
}

#[test]
fn phi3() {
    for name in ["phi3", "phi3-longrope", "phi3-longrope-long", "phi3-lora"] {
        check(name, false);
    }
}

#[test]
fn smollm3() {
    for name in ["smollm3", "smollm3-lora"] {
        check(name, false);
    }
}

#[test]
fn granite() {
    for name in ["granite", "granite-lora", "granite4", "granite4-lora"] {
        check(name, false);
    }
}

#[test]
fn olmo() {
    for name in ["olmo2", "olmo2-lora", "olmo3", "olmo3-lora"] {
        check(name, false);
    }
}

#[test]
fn seed_oss() {
    for name in ["seed-oss", "seed-oss-lora"] {
        check(name, false);
    }
}

#[test]
fn arcee() {
    for name in ["arcee", "arcee-lora"] {
        check(name, false);
    }
}

#[test]
fn ernie() {
    for name in ["ernie", "ernie-lora"] {
        check(name, false);
    }
}

#[test]
fn glm() {
    for name in ["glm", "glm-lora", "glm4", "glm4-lora"] {
        check(name, false);
    }
}

#[test]
fn exaone4() {
    for name in ["exaone4", "exaone4-lora"] {
        check(name, false);
    }
}

#[test]
fn hunyuan() {
    for name in ["hunyuan", "hunyuan-lora"] {
        check(name, false);
    }
}

#[test]
fn ministral3() {
    for name in ["ministral3", "ministral3-lora", "mistral3-images", "mistral3-images-lora"] {
        check(name, false);
    }
}

#[test]
fn experts() {
    for name in EXPERTS {
        check(name, false);
        check(name, true);
    }
}

#[test]
fn adapters_on_quantized_weights() {
    for name in QUANTIZED {
        check(name, false);
        check(name, true);
    }
}

#[test]
fn gradient_checkpointing_changes_nothing() {
    for name in NAMES {
        check(name, true);
    }
}

/// Fixtures of quantized projections.
const QUANTIZED: [&str; 37] = [
    "granite4-nf4",
    "saved-nf4",
    "saved-nested",
    "saved-int8",
    "lora-saved-nf4",
    "dora-nf4",
    "dora-int8",
    "gemma2-dora",
    "llama-int8",
    "llama-nf4",
    "llama-nested",
    "llama-fp4",
    "mistral-nf4",
    "ministral-nf4",
    "qwen2-nf4",
    "qwen3-nf4",
    "gemma2-nf4",
    "gemma3-nf4",
    "phi3-nf4",
    "smollm3-nf4",
    "granite-nf4",
    "olmo2-nf4",
    "olmo3-nf4",
    "seed-oss-nf4",
    "arcee-nf4",
    "ernie-nf4",
    "glm-nf4",
    "glm4-nf4",
    "exaone4-nf4",
    "hunyuan-nf4",
    "ministral3-nf4",
    "gemma-nf4",
    "vaultgemma-nf4",
    "helium-nf4",
    "cwm-nf4",
    "apertus-nf4",
    "hyperclova-x-nf4",
];

/// Fixtures of models of experts, which the CPU alone has.
const EXPERTS: [&str; 15] = [
    "qwen3moe",
    "qwen3moe-idle",
    "qwen3moe-balance",
    "qwen3moe-frozen",
    "qwen3moe-lora",
    "qwen3moe-lora-experts",
    "mixtral",
    "mixtral-balance",
    "mixtral-lora-experts",
    "olmoe",
    "granitemoe",
    "granite4-experts",
    "granite4-lora-experts",
    "olmoe-lora-router",
    "granitemoe-lora-router",
];

/// All other fixtures.
const NAMES: [&str; 76] = [
    "rows",
    "rates",
    "granite4",
    "granite4-lora",
    "gemma3-images",
    "gemma3-images-lora",
    "lora-saved",
    "lora-saved-tied",
    "lora-saved-embedding",
    "dora-all",
    "dora-some",
    "untied",
    "tied",
    "wide-heads-llama3-rope",
    "frozen",
    "lora-all",
    "lora-some-rslora",
    "lora-patterns",
    "llama-biases",
    "mistral",
    "ministral",
    "qwen2",
    "qwen2-yarn",
    "qwen2-frozen",
    "qwen2-lora",
    "qwen2-window",
    "qwen3",
    "qwen3-frozen",
    "qwen3-lora",
    "gemma2",
    "gemma2-lora",
    "gemma3",
    "gemma3-lora",
    "phi3",
    "phi3-longrope",
    "phi3-longrope-long",
    "phi3-lora",
    "smollm3",
    "smollm3-lora",
    "granite",
    "granite-lora",
    "olmo2",
    "olmo2-lora",
    "olmo3",
    "olmo3-lora",
    "seed-oss",
    "seed-oss-lora",
    "arcee",
    "arcee-lora",
    "ernie",
    "ernie-lora",
    "glm",
    "glm-lora",
    "glm4",
    "glm4-lora",
    "exaone4",
    "exaone4-lora",
    "hunyuan",
    "hunyuan-lora",
    "ministral3",
    "ministral3-lora",
    "mistral3-images",
    "mistral3-images-lora",
    "gemma",
    "gemma-lora",
    "vaultgemma",
    "vaultgemma-lora",
    "helium",
    "helium-lora",
    "cwm",
    "cwm-lora",
    "apertus",
    "apertus-lora",
    "apertus-frozen",
    "hyperclova-x",
    "hyperclova-x-lora",
];

/// The CUDA backend.
mod cuda {
    use std::io::Write as _;

    use engine::DeviceError;
    use engine::generate::{GenerateOptions, Request, generate, unobserved};
    use engine::kernels::Precision;

    use super::emulator::device;
    use super::*;

    /// What bfloat16 has: eight bits. `bf16.json` says what torch makes of them. The gradient of a key's bias nearly cancels
    /// (without rotation it would be zero), and Adam makes a whole step of what is left.
    const ROUNDED: Allowed = Allowed { loss: 5e-3, gradient: 2e-1, norm: 1e-1, parameter: 4e-2 };
    const SINGLE: Allowed = Allowed { gradient: 1e-4, norm: 1e-4, parameter: 5e-5, ..EXACT };

    fn check(precision: Precision, allowed: Allowed, name: &str, gradient_checkpointing: bool) -> Option<Found> {
        let kernels = device(precision)?;
        let device = kernels.name().to_owned();
        let found = check_on(kernels, allowed, name, gradient_checkpointing);
        if let Some(path) = std::env::var_os("HOST_TEST_REPORT") {
            let line = serde_json::json!({
                "case": name,
                "device": device,
                "precision": precision.name(),
                "gradient_checkpointing": gradient_checkpointing,
                "found": found,
            });
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
            writeln!(file, "{line}").unwrap();
        }
        Some(found)
    }

    #[test]
    fn float32_is_that_of_transformers_and_peft() {
        for name in NAMES.into_iter().chain(QUANTIZED) {
            check(Precision::F32, SINGLE, name, false);
        }
    }

    #[test]
    fn bfloat16_is_no_farther_off_than_that_of_torch() {
        let text = std::fs::read_to_string(fixture("bf16.json")).unwrap();
        let torch: serde_json::Value = serde_json::from_str(&text).unwrap();
        for name in NAMES {
            let Some(found) = check(Precision::Bf16, ROUNDED, name, false) else { return };
            let (mut own, mut theirs) = (0.0, 0.0);
            for (tensor, error) in found.gradients {
                let other = torch["gradients"][name][&tensor].as_f64().unwrap();
                // How far a single number is off is chance; it is held to what is allowed of all.
                if tensor.contains(".act_fn.") {
                    continue;
                }
                assert!(error <= 2.0 * other, "{name}: gradient of {tensor} is {error:e} off, torch's {other:e}");
                (own, theirs) = (own + error * error, theirs + other * other);
            }
            assert!(own <= 1.2 * theirs, "{name}: the gradients are {own:e} off, torch's {theirs:e}");
        }
    }

    #[test]
    fn adapters_on_quantized_weights_in_bfloat16() {
        for name in QUANTIZED {
            check(Precision::Bf16, ROUNDED, name, false);
        }
    }

    #[test]
    fn gradient_checkpointing_changes_nothing() {
        check(Precision::F32, SINGLE, "tied", true);
        check(Precision::Bf16, ROUNDED, "lora-all", true);
    }

    #[test]
    fn the_same_step_gives_the_same_bits() {
        for precision in [Precision::F32, Precision::Bf16] {
            let run = || {
                let kernels = device(precision)?;
                let directory = fixture("tied");
                let case: Case = serde_json::from_slice(&std::fs::read(directory.join("case.json")).unwrap()).unwrap();
                let expected = Expected::open(&directory);
                let mut trainer = trainer(kernels, &directory, &case, &expected, false);
                for step in 0..2 {
                    trainer.forward_backward(&expected.batch(step, 0), 1.0, 0).unwrap();
                    trainer.apply(1e-3, Some(1.0)).unwrap();
                }
                let mut bits: Vec<u32> = Vec::new();
                let mut keep = |_: &str, _: &[usize], values: &[f32]| {
                    bits.extend(values.iter().map(|value| value.to_bits()));
                    Ok::<(), engine::EngineError>(())
                };
                trainer.visit_state(&mut keep).unwrap();
                Some(bits)
            };
            assert_eq!(run(), run());
        }
    }

    #[test]
    fn text_is_generated_as_on_the_cpu() {
        let Some(kernels) = device(Precision::F32) else { return };
        let directory = fixture("untied");
        let config = ModelConfig::from_dir(&directory).unwrap();
        let weights = WeightSource::Directory(directory.clone());
        let requests = Request::one_each([vec![1, 5, 9, 2, 7], vec![3, 4], vec![8; 17]]);
        let same_kernels = kernels.clone();
        let options = GenerateOptions { max_new_tokens: 6, ..GenerateOptions::default() };
        let on_cpu = Model::load(config.clone(), &weights, None).unwrap();
        let on_gpu = Model::on(kernels, config, &weights, None).unwrap();
        let expected = generate(&on_cpu, &requests, &options, &mut unobserved).unwrap();
        let found = generate(&on_gpu, &requests, &options, &mut unobserved).unwrap();
        let ids = |completions: &[engine::generate::Completion]| -> Vec<Vec<u32>> {
            completions.iter().map(|completion| completion.ids.clone()).collect()
        };
        assert_eq!(ids(&found), ids(&expected));
        // Five steps of three sequences: the first is queued call by call.
        assert_eq!(same_kernels.graph_launches(), 4);
    }

    #[test]
    fn memory_that_is_not_there_is_an_error_that_says_how_much() {
        let Some(kernels) = device(Precision::F32) else { return };
        let directory = fixture("untied");
        let mut config = ModelConfig::from_dir(&directory).unwrap();
        config.vocab_size = 1 << 36;
        let weights = WeightSource::Directory(directory);
        let Err(error) = Model::on(kernels, config, &weights, None) else { panic!("there is not so much memory") };
        match error {
            engine::EngineError::Device(DeviceError::OutOfMemory { wanted, free, total, .. }) => {
                assert!(wanted > total && free <= total && free > 0);
            }
            other => panic!("{other}"),
        }
    }
}
