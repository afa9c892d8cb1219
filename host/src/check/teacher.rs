//! The model that another one learns from (`rl: distill`), as its files describe it.

use std::path::PathBuf;

use engine::architecture::config::ModelConfig;
use engine::weights::WeightSource;

use super::model_files::{check_weights, missing_model};
use crate::config::LoadedConfig;
use crate::data::tokenizer::{Changes, Tokenizer};
use crate::diagnostic::Diagnostic;

/// Its key.
const KEY: &str = "trl.teacher_model_name_or_path";
/// Of so many tokens one may differ: names of special ones that nobody writes.
const ONE_OF: usize = 100;

/// A model that another one learns from.
#[derive(Debug)]
pub struct TeacherFacts {
    /// Sizes and constants.
    pub config: ModelConfig,
    /// Its directory.
    pub directory: PathBuf,
    /// What may surprise.
    pub remarks: Vec<Diagnostic>,
}

impl TeacherFacts {
    /// Reads config, weight headers and tokenizer of the teacher of a model; none without one.
    ///
    /// # Errors
    /// A teacher that is not there or cannot be read, or that says other tokens than the model.
    pub fn read(loaded: &LoadedConfig, model: &ModelConfig, own: &Tokenizer) -> Result<Option<Self>, Diagnostic> {
        let teacher = loaded.config.trl.as_ref().and_then(|trl| trl.teacher_model_name_or_path.as_ref());
        let Some(path) = teacher else { return Ok(None) };
        let directory = loaded.resolve(path);
        let at = |diagnostic: Diagnostic| diagnostic.at(loaded.source.nearest_place(KEY));
        if !directory.is_dir() {
            return Err(at(missing_model(&loaded.elsewhere, path, KEY)));
        }
        let mut config = ModelConfig::from_dir(&directory).map_err(|error| at(error.into()))?;
        let mut remarks =
            check_weights(&loaded.elsewhere, &directory, &mut config).map_err(|error| at(error.into()))?;
        let (theirs, ours) = (config.vocab_size, model.vocab_size);
        if theirs != ours {
            let message = format!("the teacher has a vocabulary of {theirs} tokens, and the model one of {ours}");
            let why = "distributions over the same tokens are compared; rows that are mere padding count too";
            let help = "take a teacher of the same family, with an embedding of as many rows";
            return Err(at(Diagnostic::error("rl::teacher", message).why(why).help(help)));
        }
        if directory.join("tokenizer.json").is_file() {
            let tokenizer = Tokenizer::load(&directory, &Changes::default()).map_err(|error| at(error.into()))?;
            remarks.extend(other_tokens(&tokenizer, own, ours).map_err(at)?);
        }
        let remarks = remarks.into_iter().map(at).collect();
        Ok(Some(Self { config, directory, remarks }))
    }

    /// Where its weights come from.
    pub fn weights(&self) -> WeightSource {
        WeightSource::Directory(self.directory.clone())
    }
}

/// That the two mean other tokens by the same numbers: an error, or where they are few a warning.
fn other_tokens(teacher: &Tokenizer, model: &Tokenizer, count: usize) -> Result<Option<Diagnostic>, Diagnostic> {
    let differs = |id: &u32| teacher.piece(*id) != model.piece(*id);
    let different: Vec<u32> = (0..count as u32).filter(differs).collect();
    let Some(&first) = different.first() else { return Ok(None) };
    let (theirs, ours) = (teacher.piece(first), model.piece(first));
    let message = format!(
        "{} of {count} tokens are others to the teacher: {first} is `{}` to it, and `{}` to the model",
        different.len(),
        theirs.escape_debug(),
        ours.escape_debug()
    );
    if different.len() * ONE_OF > count {
        let why = "it would teach the model to say other words than it means";
        return Err(Diagnostic::error("rl::teacher", message)
            .why(why)
            .help("take a teacher with the same tokenizer, or `tokenizer_config` of the teacher"));
    }
    Ok(Some(Diagnostic::warning("rl::teacher", message).why("fine where no text has them")))
}
