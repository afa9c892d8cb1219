//! Checkpoints that a stranger wrote, or that were damaged after they were saved.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use engine::architecture::config::ModelConfig;
use engine::optim::AdamWConfig;
use engine::weights::WeightSource;
use engine::{Trainable, Trainer, TrainerOptions};
use host::checkpoint::directory::{FileRecord, Manifest};
use host::checkpoint::load::{Checkpoint, newest};
use host::data::cursor::Cursor;
use host::data::mix::Mix;
use host::data::packing::BatchOptions;
use host::digest::hex;
use serde_json::Map;
use sha2::{Digest as _, Sha256};

use crate::{all_told, directory, files, root, told};

thread_local! {
    /// The trainer that goes on, of the fixture that is smallest.
    static TRAINER: RefCell<Trainer> = RefCell::new({
        let directory = root().join("tests/fixtures/parity/tied");
        let config = ModelConfig::from_dir(&directory).expect("a model");
        let norms: Vec<String> =
            config.parameters().into_iter().map(|spec| spec.name).filter(|name| name.ends_with("norm.weight")).collect();
        let options = TrainerOptions {
            trainable: Trainable::Named(norms.into_iter().collect()),
            lora: None,
            gradient_checkpointing: false,
            seed: 0,
            adamw: AdamWConfig::default(),
            ..TrainerOptions::default()
        };
        Trainer::new(config, &WeightSource::Directory(directory), options).expect("a trainer")
    });
}

/// `trainer_state.json`, `optimizer.safetensors`, `model.safetensors`, and `manifest.json`. Without the last one, there is
/// one that fits: whoever made the files can make that.
pub(crate) fn checkpoint(bytes: &[u8]) {
    let [state, optimizer, model, manifest] = files(bytes);
    let folder = directory(&[]);
    let path = folder.path().join("checkpoint-3");
    std::fs::create_dir(&path).expect("a directory");
    let parts = [("trainer_state.json", state), ("optimizer.safetensors", optimizer), ("model.safetensors", model)];
    for (name, bytes) in parts {
        std::fs::write(path.join(name), bytes).expect("a file");
    }
    let manifest = if manifest.is_empty() { honest(&parts) } else { manifest.to_vec() };
    std::fs::write(path.join("manifest.json"), manifest).expect("a file");
    resume(&path);
    if let Ok((_, broken)) = newest(folder.path()) {
        broken.into_iter().for_each(told);
    }
}

fn honest(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let files: BTreeMap<String, FileRecord> = parts
        .iter()
        .map(|(name, bytes)| {
            let sha256 = hex(&Sha256::digest(bytes));
            ((*name).to_owned(), FileRecord { bytes: bytes.len() as u64, sha256 })
        })
        .collect();
    serde_json::to_vec(&Manifest { v: 1, host: "0.1.0".to_owned(), files }).expect("a manifest")
}

fn resume(path: &Path) {
    let found = match Checkpoint::open(path, &Map::new()) {
        Ok(found) => found,
        Err(error) => return told(error),
    };
    let options = BatchOptions {
        sequence_len: 8,
        micro_batch_size: 2,
        sample_packing: false,
        shuffle: true,
        mix: Mix::default(),
        seed: 1,
    };
    let mut cursor = Cursor::new(vec![3, 4, 5], options, found.state.position);
    for _ in 0..3 {
        assert!(cursor.next_step(2).iter().flatten().all(|&sample| sample < 3));
    }
    TRAINER.with_borrow_mut(|trainer| {
        if let Err(failure) = found.restore(trainer) {
            return all_told(&failure);
        }
        assert_eq!(trainer.optimizer_step(), found.state.global_step);
    });
}
