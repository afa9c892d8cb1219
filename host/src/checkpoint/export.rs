//! The finished model as Hugging Face files: weights or adapter, tokenizer, chat template, model card. Each file is
//! written beside its final name and renamed, so that a crash leaves the old one or the new one.

use std::fs;
use std::path::Path;

use engine::architecture::config::{ModelConfig, one_or_list};
use engine::files::export::{SHARD_BYTES, export_model, write_json};
use engine::files::peft::export_adapter;
use engine::kernels::Kernels;
use engine::model::Model;
use serde_json::{Map, Value};

use super::directory::{files_of, name_of, sync_directory};
use super::{CheckpointError, tokenizer_files};
use crate::data::generation::GenerationConfig;
use crate::data::tokenizer::Tokenizer;
use crate::diagnostic::Failure;

/// What belongs to a model beside its weights.
#[derive(Debug, Clone)]
pub struct ModelFiles<'a> {
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The chat template that was trained with.
    pub chat_template: Option<&'a str>,
    /// What an adapter names as its base.
    pub base_model: &'a str,
    /// `generation_config.json`: [`generation_config`]; none for a model that does not write.
    pub generation: Option<Value>,
}

impl ModelFiles<'_> {
    /// Bytes of what goes along with the weights.
    pub fn other_bytes(&self) -> u64 {
        tokenizer_files::bytes(self.tokenizer, self.chat_template)
    }

    /// Writes model and tokenizer into an empty directory.
    pub fn write<K: Kernels>(&self, model: &Model<K>, directory: &Path) -> Result<(), Failure> {
        if model.lora.is_some() {
            export_adapter(model, directory, self.base_model)?;
        } else {
            export_model(model, directory, SHARD_BYTES)?;
        }
        self.write_beside(directory)
    }

    /// Writes what goes along with the weights.
    pub fn write_beside(&self, directory: &Path) -> Result<(), Failure> {
        // An adapter has it too: how its turns end is learned with it.
        if let Some(generation) = &self.generation {
            write_json(directory, "generation_config.json", generation)?;
        }
        Ok(tokenizer_files::write(self.tokenizer, self.chat_template, directory)?)
    }

    /// Puts the finished model into `output_dir`, with `card` as its `README.md`. Before a file gets its name there, `claim`
    /// is told all of them; what it gives back are names of an earlier model, which go.
    pub fn publish<K: Kernels>(
        &self,
        model: &Model<K>,
        output_dir: &Path,
        card: &str,
        claim: &mut dyn FnMut(&[String]) -> Result<Vec<String>, Failure>,
    ) -> Result<(), Failure> {
        let temporary = output_dir.join(format!(".model.tmp-{}", std::process::id()));
        let written = self.write_and_move(model, &temporary, output_dir, card, claim);
        if temporary.exists() {
            let _ = fs::remove_dir_all(&temporary);
        }
        written
    }

    fn write_and_move<K: Kernels>(
        &self,
        model: &Model<K>,
        temporary: &Path,
        output_dir: &Path,
        card: &str,
        claim: &mut dyn FnMut(&[String]) -> Result<Vec<String>, Failure>,
    ) -> Result<(), Failure> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| CheckpointError::Write { path, source }
        };
        fs::create_dir_all(temporary).map_err(failed(temporary))?;
        self.write(model, temporary)?;
        fs::write(temporary.join("README.md"), card).map_err(failed(temporary))?;
        let files = files_of(temporary)?;
        for from in &files {
            fs::File::open(from).and_then(|file| file.sync_all()).map_err(failed(from))?;
        }
        let names: Vec<String> = files.iter().map(|path| name_of(path)).collect();
        let stale = claim(&names)?;
        for (from, name) in files.iter().zip(&names) {
            let to = output_dir.join(name);
            fs::rename(from, &to).map_err(failed(&to))?;
        }
        // A template or tokens that are not this model's would be read with it.
        for name in stale {
            let path = output_dir.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(&path)(error).into()),
                _ => {}
            }
        }
        Ok(sync_directory(output_dir)?)
    }
}

/// The `generation_config.json` of a trained model: the base model's, with every token that ends a text.
pub fn generation_config(model: &ModelConfig, base: &GenerationConfig, tokenizer: &Tokenizer, ends: Vec<u32>) -> Value {
    let mut generation = base.raw.clone().unwrap_or_else(|| {
        let mut made = Map::new();
        // transformers would write it anew from `config.json`, which lacks the ends of turns.
        if ends == model.eos_token_id {
            made.insert("_from_model_config".into(), true.into());
        }
        made
    });
    let ids = [("bos_token", "bos_token_id", model.bos_token_id), ("pad_token", "pad_token_id", model.pad_token_id)];
    for (name, key, id) in ids {
        let is_changed = tokenizer.changed().iter().any(|(changed, _)| *changed == name);
        if let Some(id) = id.filter(|_| is_changed || base.raw.is_none()) {
            generation.insert(key.into(), id.into());
        }
    }
    if let Some(ids) = one_or_list(&ends).filter(|_| ends != base.eos_token_id) {
        generation.insert("eos_token_id".into(), ids);
    }
    Value::Object(generation)
}
