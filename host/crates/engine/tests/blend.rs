//! Models put together as one, against mergekit's own arithmetic (`tests/fixtures/blend`, made by `make.py` there).

mod fixture;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use engine::architecture::config::ModelConfig;
use engine::files::blend::{Blend, blend};
use fixture::fixture;
use safetensors::SafeTensors;

type Values = BTreeMap<String, Vec<f32>>;

fn values(file: &Path) -> Values {
    let bytes = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |data: &[u8]| data.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect();
    tensors.tensors().into_iter().map(|(name, view)| (name, floats(view.data()))).collect()
}

fn models() -> [PathBuf; 2] {
    ["first", "second"].map(|name| fixture("../blend").join(name))
}

fn blended(models: &[PathBuf], how: &Blend) -> Values {
    let directory = tempfile::tempdir().unwrap();
    let config = ModelConfig::from_dir(&models[0]).unwrap();
    let files = blend(&config, models, how, directory.path()).unwrap();
    assert_eq!(files.len(), 2);
    assert_eq!(ModelConfig::from_dir(directory.path()).unwrap(), config);
    values(&directory.path().join("model.safetensors"))
}

#[test]
fn means_and_arcs_are_mergekits() {
    let models = models();
    let cases = [
        ("linear", vec![models[0].clone(), models[1].clone()], Blend::Linear(vec![1.0, 3.0])),
        ("slerp", models.to_vec(), Blend::Slerp(0.3)),
    ];
    for (name, models, how) in cases {
        let expected = values(&fixture("../blend").join(format!("{name}.safetensors")));
        let found = blended(&models, &how);
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (tensor, values) in found {
            let off = values.iter().zip(&expected[&tensor]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off <= 2e-7, "{name} {tensor}: {off}");
        }
    }
}

#[test]
fn the_ends_of_a_blend_are_the_models() {
    let models = models();
    for (how, end) in [
        (Blend::Slerp(0.0), 0),
        (Blend::Slerp(1.0), 1),
        (Blend::Linear(vec![1.0, 0.0]), 0),
        (Blend::Linear(vec![0.0, 2.0]), 1),
    ] {
        assert!(blended(&models, &how) == values(&models[end].join("model.safetensors")), "{how:?}");
    }
    let twice = [models[0].clone(), models[0].clone()];
    assert!(blended(&twice, &Blend::Slerp(0.5)) == values(&models[0].join("model.safetensors")));
}

#[test]
fn a_model_of_other_sizes_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let config = ModelConfig::from_dir(&models()[0]).unwrap();
    let others = [models()[0].clone(), fixture("tied")];
    let error = blend(&config, &others, &Blend::Slerp(0.5), directory.path()).unwrap_err();
    assert!(error.to_string().contains("tensor"), "{error}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
