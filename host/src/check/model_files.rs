//! The files of a model's directory, as they are: is it there, and are its weights those that its config describes?

use std::path::Path;

use engine::architecture::config::ModelConfig;
use engine::weights::{self, WeightsError, twice};

use crate::config::Elsewhere;
use crate::diagnostic::Diagnostic;

/// Looks at the headers, and at the tensors that the config has no use for. Of weights that are not here yet, `elsewhere` has the
/// headers: what is told by values is told once they are.
pub(super) fn check_weights(
    elsewhere: &Elsewhere,
    directory: &Path,
    model: &mut ModelConfig,
) -> Result<Vec<Diagnostic>, WeightsError> {
    if let Some(headers) = elsewhere.headers.get(directory) {
        weights::check_headers(directory, headers, model)?;
        return Ok(Vec::new());
    }
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
pub(super) fn missing_model(elsewhere: &Elsewhere, name: &str, key: &str) -> Diagnostic {
    if let Some(told) = elsewhere.missing.get(name) {
        return told.clone();
    }
    let diagnostic = Diagnostic::error("model::missing", format!("there is no model directory `{name}`"));
    diagnostic.help(format!("`{key}` is a directory with `config.json`, `tokenizer.json` and safetensors weights"))
}
