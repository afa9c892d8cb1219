//! Checkpoints whose projections bitsandbytes has saved packed: what is wrong with them is named, and an adapter is merged into
//! what their bytes stand for. That they are trained beside is held against peft in `parity.rs`.

mod fixture;

use std::collections::BTreeMap;
use std::path::Path;

use engine::adapter::lora::Lora;
use engine::adapter::{LoraConfig, Modules, Saved};
use engine::architecture::config::ModelConfig;
use engine::files::merge::merge;
use engine::files::peft::{self, export_adapter};
use engine::generate::next_logits;
use engine::kernels::cpu::CpuKernels;
use engine::model::Model;
use engine::weights::{WeightSource, check_headers, read_headers};
use fixture::fixture;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize};

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A copy of a fixture whose tensors and config are edited.
fn edited(name: &str, edit: impl Fn(&mut Tensors), config: impl Fn(&mut serde_json::Value)) -> tempfile::TempDir {
    let (source, directory) = (fixture(name), tempfile::tempdir().unwrap());
    let bytes = std::fs::read(source.join("model.safetensors")).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let own =
        |(name, view): (String, TensorView<'_>)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()));
    let mut tensors: Tensors = read.tensors().into_iter().map(own).collect();
    edit(&mut tensors);
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    std::fs::write(directory.path().join("model.safetensors"), serialize(views, None).unwrap()).unwrap();
    let mut value = serde_json::from_slice(&std::fs::read(source.join("config.json")).unwrap()).unwrap();
    config(&mut value);
    std::fs::write(directory.path().join("config.json"), value.to_string()).unwrap();
    directory
}

fn load(directory: &Path) -> Result<Model, String> {
    let config = ModelConfig::from_dir(directory).map_err(|error| error.to_string())?;
    let source = WeightSource::Directory(directory.to_owned());
    let headers = read_headers(directory).map_err(|error| error.to_string())?;
    let told = check_headers(directory, &headers, &config);
    let loaded = Model::load(config, &source, None).map_err(|error| error.to_string());
    assert!(told.is_ok() || loaded.is_err(), "what the headers tell is told when it is loaded");
    loaded
}

#[test]
fn what_is_wrong_with_a_packed_tensor_is_named() {
    const Q: &str = "model.layers.0.self_attn.q_proj.weight";
    let state = format!("{Q}.quant_state.bitsandbytes__nf4");
    let state = state.as_str();
    let set = |name: String, change: fn(&mut Vec<u8>)| {
        move |tensors: &mut Tensors| change(&mut tensors.get_mut(&name).unwrap().2)
    };
    let gone = |name: String| move |tensors: &mut Tensors| drop(tensors.remove(&name));
    let replaced = |from: &'static str, to: &'static str| {
        let state = state.to_owned();
        move |tensors: &mut Tensors| {
            let (_, shape, data) = tensors.get_mut(&state).unwrap();
            *data = String::from_utf8(data.clone()).unwrap().replace(from, to).into_bytes();
            *shape = vec![data.len()];
        }
    };
    let cases: Vec<(Box<dyn Fn(&mut Tensors)>, &str)> = vec![
        (
            Box::new(gone(format!("{Q}.absmax"))),
            "there is no `model.layers.0.self_attn.q_proj.weight.absmax` beside it",
        ),
        (Box::new(gone(state.to_owned())), "quant_state.bitsandbytes__nf4` beside it"),
        (Box::new(gone(Q.to_owned())), "is missing"),
        (Box::new(set(format!("{Q}.quant_map"), |bytes| bytes[0] ^= 1)), "is not the table of nf4"),
        (Box::new(set(format!("{Q}.nested_quant_map"), |bytes| bytes[40] ^= 1)), "is another table"),
        (Box::new(set(format!("{Q}.nested_absmax"), |bytes| bytes[..4].fill(255))), "not finite"),
        (Box::new(set(state.to_owned(), |bytes| bytes[0] = b'x')), "is no description"),
        (Box::new(replaced("\"blocksize\": 64", "\"blocksize\": 128")), "blocks of another size"),
        (Box::new(replaced("\"nf4\"", "\"fp4\"")), "is packed otherwise"),
        (Box::new(replaced("[64, 64]", "[32, 128]")), "is packed otherwise"),
        (Box::new(replaced("\"nested_offset\"", "\"offset\"")), "has no `nested_offset`"),
        (
            Box::new(|tensors: &mut Tensors| {
                let elements = tensors[Q].2.len() * 2;
                tensors.insert(Q.to_owned(), (Dtype::F32, vec![64, 64], vec![0; elements * 4]));
            }),
            "that it is packed, as U8",
        ),
        (
            Box::new(|tensors: &mut Tensors| {
                let half = tensors[Q].2.len() / 2;
                tensors.insert(Q.to_owned(), (Dtype::U8, vec![half, 1], vec![0; half]));
            }),
            "has shape [1024, 1]",
        ),
        (
            Box::new(|tensors: &mut Tensors| {
                tensors.insert("model.norm.weight.absmax".into(), (Dtype::U8, vec![1], vec![0]));
            }),
            "that the model does not",
        ),
    ];
    for (edit, words) in cases {
        let directory = edited("saved-nested", edit, |_| {});
        let told = load(directory.path()).map(|_| "loaded").unwrap_err();
        assert!(told.contains(words), "{told} does not say `{words}`");
    }
    for (change, words) in [
        (serde_json::json!({"quant_method": "bitsandbytes"}), "four or in eight bits"),
        (
            serde_json::json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf8"}),
            "nf4 or fp4",
        ),
        (
            serde_json::json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_storage": "bfloat16"}),
            "`uint8`",
        ),
        (serde_json::json!({"quant_method": "bitsandbytes", "load_in_8bit": true}), "that it is packed, as I8"),
        (
            serde_json::json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}),
            "64 elements of F32",
        ),
    ] {
        let directory = edited("saved-nested", |_| {}, |config| config["quantization_config"] = change.clone());
        let told = load(directory.path()).map(|_| "loaded").unwrap_err();
        assert!(told.contains(words), "{told} does not say `{words}`");
    }
}

#[test]
fn an_adapter_is_merged_into_what_the_bytes_stand_for() {
    for name in ["saved-nf4", "saved-nested", "saved-int8"] {
        let base = fixture(name);
        let config = ModelConfig::from_dir(&base).unwrap();
        let lora = LoraConfig {
            r: 3,
            alpha: 6.0,
            dropout: 0.0,
            use_rslora: false,
            use_dora: true,
            modules: Modules::of(config.linears()),
            saved: Saved::default(),
            ranks: BTreeMap::new(),
            alphas: BTreeMap::new(),
        };
        let source = WeightSource::Directory(base.clone());
        let mut model = Model::load(config.clone(), &source, None).unwrap();
        let mut lora = Lora::new(&CpuKernels, &config, lora, 3);
        for slot in lora.slots().to_vec() {
            if !slot.name.contains("lora_A") {
                let values: Vec<f32> =
                    (0..slot.len).map(|index| 0.3 + ((index * 37 % 19) as f32 - 9.0) * 0.01).collect();
                lora.put(&CpuKernels, &slot, &values);
            }
        }
        model.lora = Some(lora);
        let adapter = tempfile::tempdir().unwrap();
        export_adapter(&model, adapter.path(), "base").unwrap();
        let beside = Model::load(config.clone(), &source, Some(adapter.path())).unwrap();
        let merged = tempfile::tempdir().unwrap();
        merge(&config, &base, &peft::load(&CpuKernels, &config, adapter.path()).unwrap(), merged.path()).unwrap();
        let own = ModelConfig::from_dir(merged.path()).unwrap();
        assert!(own.quantization.is_none() && !own.raw.contains_key("quantization_config"));
        let merged = Model::load(own, &WeightSource::Directory(merged.path().to_owned()), None).unwrap();
        let [found, expected] = [&merged, &beside].map(|model| next_logits(model, &[5, 9, 33, 60]).unwrap());
        let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let error = found.iter().zip(&expected).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(error <= 1e-4 * largest, "{name}: {error} of {largest}");
    }
}
