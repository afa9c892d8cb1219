//! Model directories: configs, weights and adapters.

use std::sync::LazyLock;

use engine::architecture::config::ModelConfig;
use engine::architecture::layout::Layout;
use engine::files::peft;
use engine::kernels::cpu::CpuKernels;
use engine::weights::packed::PackedTensor;
use engine::weights::{self, WeightSource};
use host::data::generation::GenerationConfig;

use crate::{directory, files, root, told};

/// Elements of a model that the targets make room for.
const SMALL: u64 = 1 << 20;

fn parameters(config: &ModelConfig) -> u64 {
    config.parameters().iter().map(|spec| spec.shape.iter().map(|&size| size as u64).product::<u64>()).sum()
}

/// `config.json` and `generation_config.json`.
pub(crate) fn model(bytes: &[u8]) {
    let [config, generation] = files(bytes);
    let folder = directory(&[("config.json", config), ("generation_config.json", generation)]);
    match GenerationConfig::read(folder.path()) {
        Ok(found) => assert!(found.unheeded().len() < 100, "{found:?}"),
        Err(error) => told(error),
    }
    match ModelConfig::from_dir(folder.path()) {
        Ok(config) => {
            assert!(parameters(&config) <= 1 << 40, "{config:?}");
            assert_eq!(config.num_attention_heads % config.num_key_value_heads, 0);
            if parameters(&config) < SMALL {
                let layout = Layout::new(&config);
                let packed = layout.packed.iter().map(|slot| slot.packed.len() as u64);
                let all = layout.slots().iter().map(|slot| slot.len as u64).chain(packed);
                assert_eq!(all.sum::<u64>(), parameters(&config));
                assert!(layout.slots().iter().all(|slot| slot.offset + slot.len <= layout.len));
            }
        }
        Err(error) => told(error),
    }
}

/// `config.json`, `model.safetensors.index.json`, and up to two weight files: one is `model.safetensors`, unless there is an
/// index.
pub(crate) fn weights(bytes: &[u8]) {
    let [config, index, first, second] = files(bytes);
    let name = if index.is_empty() { "model.safetensors" } else { "first.safetensors" };
    let index_name = "model.safetensors.index.json";
    let parts = [("config.json", config), (index_name, index), (name, first), ("second.safetensors", second)];
    let folder = directory(&parts);
    let headers = match weights::read_headers(folder.path()) {
        Ok(headers) => headers,
        Err(error) => return told(error),
    };
    if let Err(error) = weights::digest(folder.path()) {
        told(error);
    }
    let Ok(config) = ModelConfig::from_dir(folder.path()) else { return };
    if parameters(&config) > SMALL {
        return;
    }
    let fits = weights::check_headers(folder.path(), &headers, &config);
    let layout = Layout::new(&config);
    let mut seen = vec![false; layout.len];
    let source = WeightSource::Directory(folder.path().to_owned());
    let mut plain = |name: &str, start: usize, values: &[f32]| {
        let slot = layout.slot(name).expect("a tensor of the model");
        let place = slot.offset + start;
        assert!(start + values.len() <= slot.len && values.iter().all(|value| value.is_finite()), "{slot:?} {start}");
        seen[place..place + values.len()].fill(true);
    };
    let mut packed = std::collections::BTreeSet::new();
    let mut whole = |name: &str, _: PackedTensor| {
        packed.insert(name.to_owned());
    };
    let loaded = weights::load(&source, &config, &mut plain, &mut whole);
    match (fits, loaded) {
        // A tensor that is not read would keep what was in memory before.
        (Ok(()), Ok(())) => assert!(
            layout.slots().iter().all(|slot| seen[slot.offset..slot.offset + slot.len].iter().all(|&seen| seen))
                && (!config.stores_packed || layout.packed.iter().all(|slot| packed.contains(&slot.name)))
        ),
        (Err(error), loaded) => {
            assert!(loaded.is_err(), "loaded in spite of {error}");
            told(error);
        }
        (Ok(()), Err(error)) => told(error),
    }
}

/// The model of the fixture that is smallest.
static TIED: LazyLock<ModelConfig> =
    LazyLock::new(|| ModelConfig::from_dir(&root().join("tests/fixtures/parity/tied")).expect("a model"));

/// `adapter_config.json` and `adapter_model.safetensors`, for the model of `tests/fixtures/parity/tied`.
pub(crate) fn adapter(bytes: &[u8]) {
    let [config, weights] = files(bytes);
    let folder = directory(&[("adapter_config.json", config), ("adapter_model.safetensors", weights)]);
    let mut model = TIED.clone();
    let loaded = peft::fit(&mut model, folder.path()).and_then(|()| peft::load(&CpuKernels, &model, folder.path()));
    match loaded {
        Ok(peft::Adapter { lora, given }) => {
            assert!(given.values().flatten().all(|value| value.is_finite()));
            let config = lora.config();
            for module in config.modules.names(&model) {
                let (r, scale) = config.of(&module);
                assert!(r > 0 && scale.is_finite(), "{config:?}");
            }
            for slot in lora.slots() {
                assert!(lora.get(&CpuKernels, slot).iter().all(|value| value.is_finite()), "{slot:?}");
            }
        }
        Err(error) => told(error),
    }
}
