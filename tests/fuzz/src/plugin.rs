//! Plugin files: what they are is read before anything in them is compiled or run.

use std::sync::LazyLock;

use plugin_runtime::{Inspection, Kind, Limits, Manifest, PluginHost, RuntimeOptions, inspect, pack};

use crate::guest::component as puppet;
use crate::{directory, files, told};

/// A file that says it is a plugin.
pub(crate) fn component(bytes: &[u8]) {
    match inspect(bytes, "x.wasm") {
        Ok(inspection) => sound(&inspection),
        Err(error) => told(error),
    }
}

fn sound(inspection: &Inspection) {
    let manifest = &inspection.manifest;
    assert!(manifest.name.len() <= 129 && manifest.name.is_ascii(), "{}", manifest.name);
    assert!(manifest.description.chars().count() <= 2000);
}

static REWARD: LazyLock<Vec<u8>> = LazyLock::new(|| puppet(Kind::Reward));

/// A manifest that is put into a component, and a config that is held against its schema.
pub(crate) fn manifest(bytes: &[u8]) {
    let [manifest, config] = files(bytes);
    let Ok(manifest) = serde_json::from_slice::<Manifest>(manifest) else { return };
    let (packed, inspection) = match pack(&REWARD, &manifest, "x.wasm") {
        Ok(packed) => packed,
        Err(error) => return told(error),
    };
    sound(&inspection);
    assert_eq!(inspection.manifest, manifest);
    let folder = directory(&[("x.wasm", &packed)]);
    let options = RuntimeOptions {
        cache_dir: None,
        compiler: None,
        limits: Limits::default(),
        log: std::sync::Arc::new(|_, _, _| {}),
    };
    let mut plugins = PluginHost::new(options).expect("an engine");
    plugins.add_file(&folder.path().join("x.wasm")).expect("it was inspected a moment ago");
    let Ok(config) = std::str::from_utf8(config) else { return };
    for problem in plugins.config_problems(&manifest.name, manifest.kind, config) {
        told(problem);
    }
}
