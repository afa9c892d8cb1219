//! Generation against transformers, and files out and in again.

mod fixture;

use std::collections::BTreeMap;
use std::path::Path;

use engine::EngineError;
use engine::PeftError;
use engine::adapter::{LoraConfig, Modules, Saved};
use engine::architecture::config::ModelConfig;
use engine::architecture::tensors::LinearKind;
use engine::files::export::{SHARD_BYTES, export_model};
use engine::files::peft::export_adapter;
use engine::kernels::{Memory as _, at};
use engine::model::Model;
use engine::optim::AdamWConfig;
use engine::weights::{WeightSource, WeightsError, check_headers, read_headers};
use engine::{Batch, IGNORE, Trainable, Trainer, TrainerOptions};
use fixture::fixture;

fn config(directory: &Path) -> ModelConfig {
    ModelConfig::from_dir(directory).unwrap()
}

fn model(directory: &Path) -> Model {
    Model::load(config(directory), &WeightSource::Directory(directory.to_owned()), None).unwrap()
}

fn options(lora: bool) -> TrainerOptions {
    TrainerOptions {
        trainable: Trainable::All,
        lora: lora.then(|| LoraConfig {
            r: 4,
            alpha: 8.0,
            dropout: 0.1,
            use_rslora: false,
            use_dora: false,
            modules: Modules::of(LinearKind::ALL),
            saved: Saved::default(),
            ranks: BTreeMap::new(),
            alphas: BTreeMap::new(),
        }),
        gradient_checkpointing: false,
        seed: 5,
        adamw: AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 },
        ..TrainerOptions::default()
    }
}

fn batch(config: &ModelConfig) -> Batch {
    let ids: Vec<u32> = (0..40).map(|index| (index * 7 + 3) % config.vocab_size as u32).collect();
    let mut targets: Vec<u32> = ids[1..].to_vec();
    targets.push(IGNORE);
    targets[14] = IGNORE;
    Batch { ids, targets, weights: None, doc_lens: vec![15, 25] }
}

fn trained(directory: &Path, lora: bool, steps: u32) -> Trainer {
    let config = config(directory);
    let batch = batch(&config);
    let mut trainer = Trainer::new(config, &WeightSource::Directory(directory.to_owned()), options(lora)).unwrap();
    for _ in 0..steps {
        trainer.forward_backward(&batch, 1.0 / 38.0, 0).unwrap();
        trainer.apply(1e-2, Some(1.0)).unwrap();
    }
    trainer
}

/// Every weight and moment as bytes.
fn bytes(trainer: &Trainer) -> Vec<u8> {
    let mut all = Vec::new();
    trainer
        .visit_state::<EngineError>(&mut |_, _, values| {
            all.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            Ok(())
        })
        .unwrap();
    all
}

#[test]
fn a_saved_model_is_the_same_model_in_one_file_or_many() {
    for name in ["untied", "tied", "llama-biases", "qwen2", "glm4", "apertus", "qwen3moe", "mixtral", "granitemoe"] {
        let trainer = trained(&fixture(name), false, 2);
        for limit in [SHARD_BYTES, 20_000] {
            let out = tempfile::tempdir().unwrap();
            let files = export_model(trainer.model(), out.path(), limit).unwrap();
            assert_eq!(files.iter().any(|file| file.ends_with("model.safetensors.index.json")), limit != SHARD_BYTES);
            let again = model(out.path());
            for slot in trainer.model().layout.slots() {
                assert_eq!(again.parameter(&slot.name), trainer.parameter(&slot.name), "{name} {}", slot.name);
            }
        }
    }
}

#[test]
fn a_saved_adapter_is_the_same_adapter() {
    let base = fixture("untied");
    let trainer = trained(&base, true, 2);
    let out = tempfile::tempdir().unwrap();
    export_adapter(trainer.model(), out.path(), "base").unwrap();
    let again = Model::load(config(&base), &WeightSource::Directory(base.clone()), Some(out.path())).unwrap();
    let lora = again.lora.as_ref().unwrap();
    for slot in lora.slots() {
        let mut found = vec![0.0; slot.len];
        again.kernels.download(at(&lora.params, slot.offset), &mut found);
        assert_eq!(Some(found), trainer.parameter(&slot.name), "{}", slot.name);
    }
    let text = std::fs::read_to_string(out.path().join("adapter_config.json")).unwrap();
    let load = |text: String| {
        std::fs::write(out.path().join("adapter_config.json"), text).unwrap();
        match Model::load(config(&base), &WeightSource::Directory(base.clone()), Some(out.path())) {
            Err(EngineError::Peft(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    assert!(
        matches!(load(text.replace("\"none\"", "\"all\"")), PeftError::Unsupported { feature, .. } if feature == "bias: \"all\"")
    );
    assert!(
        matches!(load(text.replace("\"r\": 4", "\"r\": 8")), PeftError::Mismatch { reason, .. } if reason.contains("shape"))
    );
    assert!(matches!(load(text.replace("\"LORA\"", "\"IA3\"")), PeftError::Unsupported { .. }));
    assert!(matches!(load("{".into()), PeftError::Invalid { .. }));
    assert!(export_model(trainer.model(), out.path(), SHARD_BYTES).is_err());
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    for (name, lora) in [("wide-heads-llama3-rope", false), ("wide-heads-llama3-rope", true), ("qwen3moe", false)] {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| bytes(&trained(&fixture(name), lora, 3)))
        };
        let one = run(1);
        assert!(one == run(2), "two threads differ from one");
        assert!(one == run(3), "three threads differ from one");
    }
}

#[test]
fn a_restored_state_goes_on_byte_for_byte() {
    for (name, lora) in [("untied", false), ("untied", true), ("olmoe", false), ("olmoe", true)] {
        let directory = fixture(name);
        let whole = trained(&directory, lora, 4);
        let half = trained(&directory, lora, 2);
        let mut state = std::collections::BTreeMap::new();
        half.visit_state::<EngineError>(&mut |name, _, values| {
            state.insert(name.to_owned(), values.to_vec());
            Ok(())
        })
        .unwrap();
        let mut again = trained(&directory, lora, 0);
        again.load_state::<EngineError>(2, &mut |name| Ok(state.get(name).cloned())).unwrap();
        let batch = batch(&config(&directory));
        for _ in 0..2 {
            again.forward_backward(&batch, 1.0 / 38.0, 0).unwrap();
            again.apply(1e-2, Some(1.0)).unwrap();
        }
        assert!(bytes(&whole) == bytes(&again));
    }
}

/// A copy of a fixture's model that a test may break.
fn copy() -> tempfile::TempDir {
    let out = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("untied").join(name), out.path().join(name)).unwrap();
    }
    out
}

fn error(directory: &Path) -> WeightsError {
    let headers = read_headers(directory).and_then(|headers| check_headers(directory, &headers, &config(directory)));
    match headers {
        Err(error) => error,
        Ok(()) => match Model::load(config(directory), &WeightSource::Directory(directory.to_owned()), None) {
            Err(EngineError::Weights(error)) => error,
            other => panic!("{other:?}"),
        },
    }
}

/// Rewrites the JSON header of the model file.
fn edit_header(directory: &Path, edit: impl Fn(String) -> String) {
    let path = directory.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header = edit(String::from_utf8(bytes[8..8 + length].to_vec()).unwrap()).into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header);
    out.extend(&bytes[8 + length..]);
    std::fs::write(path, out).unwrap();
}

#[test]
fn broken_weight_files_are_named() {
    let dir = copy();
    let file = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 10]).unwrap();
    assert!(matches!(error(dir.path()), WeightsError::Invalid { .. }));
    std::fs::write(&file, [0xff; 16]).unwrap();
    assert!(matches!(error(dir.path()), WeightsError::Invalid { .. }));
    std::fs::write(&file, []).unwrap();
    assert!(matches!(error(dir.path()), WeightsError::Invalid { .. } | WeightsError::Read { .. }));

    let mut nan = bytes.clone();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&file, nan).unwrap();
    assert!(matches!(error(dir.path()), WeightsError::NotFinite { .. }));

    std::fs::write(&file, &bytes).unwrap();
    edit_header(dir.path(), |header| header.replace("model.norm.weight", "model.morn.weight"));
    assert!(matches!(error(dir.path()), WeightsError::MissingTensor { name, .. } if name == "model.norm.weight"));

    std::fs::write(&file, &bytes).unwrap();
    edit_header(dir.path(), |header| header.replacen("[0,", "[4,", 1));
    assert!(matches!(error(dir.path()), WeightsError::Invalid { .. }));

    std::fs::remove_file(&file).unwrap();
    assert!(matches!(error(dir.path()), WeightsError::Missing { .. }));
    std::fs::write(dir.path().join("pytorch_model.bin"), [0]).unwrap();
    assert!(matches!(error(dir.path()), WeightsError::Pickle { .. }));
    let index = dir.path().join("model.safetensors.index.json");
    std::fs::write(&index, r#"{"weight_map": {"model.norm.weight": "../secret.safetensors"}}"#).unwrap();
    assert!(
        matches!(error(dir.path()), WeightsError::BadIndex { reason, .. } if reason.contains("not a file of this directory"))
    );
}

#[test]
fn weights_of_another_shape_are_refused() {
    let dir = copy();
    let path = dir.path().join("config.json");
    let mut raw: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    raw["vocab_size"] = (raw["vocab_size"].as_u64().unwrap() + 1).into();
    std::fs::write(&path, raw.to_string()).unwrap();
    assert!(matches!(error(dir.path()), WeightsError::Shape { name, .. } if name == "model.embed_tokens.weight"));
}

#[test]
fn the_beginning_of_a_file_tells_what_the_whole_file_does() {
    use engine::weights::start::{FileStart, LENGTH, header_end, headers_of};
    let directory = fixture("untied");
    let file = directory.join("model.safetensors");
    let whole = std::fs::read(&file).unwrap();
    let end = header_end(&whole[..LENGTH as usize]).unwrap() as usize;
    let start = |bytes: &[u8], size: usize| FileStart { file: file.clone(), bytes: bytes.to_vec(), size: size as u64 };
    let found = headers_of(&[start(&whole[..end], whole.len())]).unwrap();
    assert_eq!(found, read_headers(&directory).unwrap());
    for broken in [
        start(&whole[..end], whole.len() - 1),
        start(&whole[..end - 1], whole.len()),
        start(&whole[..4], whole.len()),
        start(&[0xff; 64], whole.len()),
    ] {
        assert!(matches!(headers_of(&[broken]), Err(WeightsError::Invalid { .. })));
    }
    let twice = [start(&whole[..end], whole.len()), start(&whole[..end], whole.len())];
    assert!(headers_of(&twice).unwrap_err().to_string().contains("more than one file"));
}
