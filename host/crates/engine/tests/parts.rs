//! A model of several parts: what is saved has all of them, under the names that they had.

mod fixture;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use engine::adapter::lora::Lora;
use engine::adapter::{LoraConfig, Modules, Saved};
use engine::architecture::config::ModelConfig;
use engine::architecture::stored::NewRows;
use engine::architecture::tensors::LinearKind;
use engine::files::export::export_model;
use engine::files::merge::merge;
use engine::files::peft::{self, export_adapter};
use engine::kernels::cpu::CpuKernels;
use engine::model::Model;
use engine::weights::{WeightSource, bytes_of_others, read_headers};
use fixture::fixture;
use safetensors::SafeTensors;

/// The bytes of each tensor of a directory, by its name in the file.
fn tensors(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for file in read_headers(directory).unwrap().files {
        let bytes = std::fs::read(file).unwrap();
        let read = SafeTensors::deserialize(&bytes).unwrap();
        all.extend(read.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())));
    }
    all
}

fn is_text(name: &str) -> bool {
    name.starts_with("language_model.")
}

#[test]
fn an_export_has_all_parts() {
    for name in ["gemma3-images", "mistral3-images"] {
        export_has_all_parts(&fixture(name));
    }
}

fn export_has_all_parts(source: &Path) {
    let config = ModelConfig::from_dir(source).unwrap();
    let model = Model::load(config, &WeightSource::Directory(source.to_owned()), None).unwrap();
    for shard_bytes in [1 << 30, 20_000] {
        let directory = tempfile::tempdir().unwrap();
        export_model(&model, directory.path(), shard_bytes).unwrap();
        let (before, after) = (tensors(source), tensors(directory.path()));
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        assert!(before == after, "nothing was trained");
        assert!(before.keys().any(|name| name.starts_with("vision_tower.")));
        let others: usize = before.iter().filter(|(name, _)| !is_text(name)).map(|(_, bytes)| bytes.len()).sum();
        let foreseen = bytes_of_others(&WeightSource::Directory(source.to_owned()), &model.config);
        assert!(others > 0 && foreseen == others as u64, "{foreseen} of {others}");
        let config = ModelConfig::from_dir(directory.path()).unwrap();
        assert_eq!(config.raw["architectures"], model.config.raw["architectures"]);
        assert!(config.is_computed_as(&model.config));
    }
}

#[test]
fn a_merged_model_has_all_parts_and_new_rows_in_its_text_config() {
    let source = fixture("gemma3-images");
    let mut config = ModelConfig::from_dir(&source).unwrap();
    let rows = config.vocab_size + 3;
    config.grow(rows, NewRows::Mean);
    let saved = Saved::new(&mut config, &["lm_head".to_owned()]).unwrap();
    let lora = LoraConfig {
        r: 2,
        alpha: 4.0,
        dropout: 0.0,
        use_rslora: false,
        use_dora: false,
        modules: Modules::of([LinearKind::QProj]),
        saved,
        ranks: BTreeMap::new(),
        alphas: BTreeMap::new(),
    };
    let mut model = Model::load(config.clone(), &WeightSource::Directory(source.clone()), None).unwrap();
    model.lora = Some(Lora::new(&CpuKernels, &config, lora, 1));
    let [adapter, merged] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    export_adapter(&model, adapter.path(), "base").unwrap();
    let mut config = ModelConfig::from_dir(&source).unwrap();
    peft::fit(&mut config, adapter.path()).unwrap();
    let loaded = peft::load(&CpuKernels, &config, adapter.path()).unwrap();
    merge(&config, &source, &loaded, merged.path()).unwrap();
    let (before, after) = (tensors(&source), tensors(merged.path()));
    let added: BTreeSet<&String> = after.keys().filter(|name| !before.contains_key(*name)).collect();
    assert_eq!(added.into_iter().collect::<Vec<_>>(), ["language_model.lm_head.weight"]);
    assert!(before.iter().filter(|(name, _)| !is_text(name)).all(|(name, bytes)| after[name] == *bytes));
    let merged = ModelConfig::from_dir(merged.path()).unwrap();
    assert_eq!((merged.vocab_size, merged.tie_word_embeddings), (rows, false));
    assert_eq!(merged.raw["text_config"]["vocab_size"], rows);
}
