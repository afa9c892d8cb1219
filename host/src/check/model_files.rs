//! The files of a model's directory, as they are: is it there, and are its weights those that its config describes?

use std::path::Path;

use engine::architecture::config::ModelConfig;
use engine::weights::{self, WeightsError, twice};

use super::data_path::is_hub_name;
use crate::commands::download_model;
use crate::diagnostic::Diagnostic;

/// Looks at the headers, and at the tensors that the config has no use for.
pub(super) fn check_weights(directory: &Path, model: &mut ModelConfig) -> Result<Vec<Diagnostic>, WeightsError> {
    let headers = weights::read_headers(directory)?;
    let mut remarks = Vec::new();
    if twice::has_own_head(&headers, model)? {
        model.untie();
        remarks.push(own_head());
    }
    weights::check_headers(directory, &headers, model)?;
    if let Some(name) = twice::other_frequencies(&headers, model)? {
        let message = format!("`{name}` of the weights has other frequencies than the model's `config.json` gives");
        remarks.push(
            Diagnostic::warning("model::rope", message)
                .why("they are computed from `config.json`, as in transformers")
                .help("see that `rope_theta` and `rope_scaling` in `config.json` are those of the model"),
        );
    }
    Ok(remarks)
}

/// What to say of a model whose weights contradict `tie_word_embeddings`.
pub fn own_head() -> Diagnostic {
    let message = "`lm_head.weight` of the weights is not the embedding, though `config.json` ties the two";
    Diagnostic::warning("model::tied", message)
        .why("the weights hold, as in transformers 5: the head is used as it is")
        .help("write `\"tie_word_embeddings\": false` into `config.json`")
}

/// That there is no directory of a model; `key` names it.
pub(super) fn missing_model(name: &str, key: &str) -> Diagnostic {
    let diagnostic = Diagnostic::error("model::missing", format!("there is no model directory `{name}`"));
    if is_hub_name(name) {
        let local = format!("models/{}", name.rsplit('/').next().unwrap_or(name));
        return diagnostic.why("models are not downloaded").help(format!(
            "if it is on the Hugging Face hub: `{}`, then `{key}: {local}`",
            download_model(name, &local)
        ));
    }
    diagnostic.help(format!("`{key}` is a directory with `config.json`, `tokenizer.json` and safetensors weights"))
}
