//! The finished model as Hugging Face files: weights or adapter, tokenizer, chat template, model card. Each file is
//! written beside its final name and renamed, so that a crash leaves the old one or the new one.

use std::fs;
use std::path::{Path, PathBuf};

use engine::adapter::peft::export_adapter;
use engine::kernels::Kernels;
use engine::model::Model;
use engine::model::export::{SHARD_BYTES, export_model};

use super::CheckpointError;
use super::directory::{files_of, name_of, sync_directory};
use crate::diagnostic::Failure;

/// Tokenizer files that go along unchanged where the base model has them.
const TOKENIZER_FILES: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];

/// What belongs to a model beside its weights.
#[derive(Debug, Clone)]
pub struct ModelFiles<'a> {
    /// The directory of the tokenizer.
    pub tokenizer: &'a Path,
    /// The chat template that was trained with.
    pub chat_template: Option<&'a str>,
    /// What an adapter names as its base.
    pub base_model: &'a str,
}

impl ModelFiles<'_> {
    /// Bytes of what goes along with the weights.
    pub fn other_bytes(&self) -> u64 {
        let size = |name: &&str| Some(self.tokenizer.join(name).metadata().ok()?.len());
        let template = self.chat_template.map_or(0, |template| template.len() as u64);
        TOKENIZER_FILES.iter().filter_map(size).sum::<u64>() + template
    }

    /// Writes model and tokenizer into an empty directory.
    pub fn write<K: Kernels>(&self, model: &Model<K>, directory: &Path) -> Result<(), Failure> {
        if model.lora.is_some() {
            export_adapter(model, directory, self.base_model)?;
        } else {
            export_model(model, directory, SHARD_BYTES)?;
        }
        for name in TOKENIZER_FILES {
            let (from, to) = (self.tokenizer.join(name), directory.join(name));
            match fs::copy(&from, &to) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(CheckpointError::Write { path: to, source }.into()),
            }
        }
        if let Some(template) = self.chat_template {
            let path = directory.join("chat_template.jinja");
            fs::write(&path, template).map_err(|source| CheckpointError::Write { path, source })?;
        }
        Ok(())
    }

    /// Puts the finished model into `output_dir`, with `card` as its `README.md`.
    pub fn publish<K: Kernels>(
        &self,
        model: &Model<K>,
        output_dir: &Path,
        card: &str,
    ) -> Result<Vec<PathBuf>, Failure> {
        let temporary = output_dir.join(format!(".model.tmp-{}", std::process::id()));
        let written = self.write_and_move(model, &temporary, output_dir, card);
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
    ) -> Result<Vec<PathBuf>, Failure> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| CheckpointError::Write { path, source }
        };
        fs::create_dir_all(temporary).map_err(failed(temporary))?;
        self.write(model, temporary)?;
        fs::write(temporary.join("README.md"), card).map_err(failed(temporary))?;
        let mut moved = Vec::new();
        for from in files_of(temporary)? {
            fs::File::open(&from).and_then(|file| file.sync_all()).map_err(failed(&from))?;
            let to = output_dir.join(name_of(&from));
            fs::rename(&from, &to).map_err(failed(&to))?;
            moved.push(to);
        }
        sync_directory(output_dir)?;
        Ok(moved)
    }
}
