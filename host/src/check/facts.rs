//! What the model's files say, read without loading a weight: for rules, for plans, for messages.

use std::path::PathBuf;

use engine::model::config::ModelConfig;
use engine::model::weights::{self, WeightSource};
use serde_json::{Value, json};

use crate::config::LoadedConfig;
use crate::data::tokenizer::{SpecialTokens, Tokenizer};
use crate::device::Device;
use crate::diagnostic::{Diagnostic, Failure};

/// Bytes of a chat template that rules get to see; a longer one is not known to them.
const TEMPLATE_LIMIT: usize = 64 << 10;
/// Added tokens that rules get to see; more are not known to them.
const TOKENS_LIMIT: usize = 4096;

/// A model as its files describe it.
#[derive(Debug)]
pub struct ModelFacts {
    /// Sizes and constants.
    pub config: ModelConfig,
    /// Where its weights come from.
    pub weights: WeightSource,
    /// The directory of its config.
    pub directory: PathBuf,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

impl ModelFacts {
    /// Reads config, weight headers and tokenizer. All that is wrong comes at once.
    pub fn read(loaded: &LoadedConfig) -> Result<Self, Failure> {
        let config = &loaded.config;
        let mut problems = Vec::new();
        let at = |diagnostic: Diagnostic, key: &str| {
            let key = if loaded.is_given(key) { key } else { "base_model" };
            diagnostic.at(loaded.source.nearest_place(key))
        };
        let directory = loaded.resolve(&config.base_model_config);
        let model = if directory.is_dir() {
            ModelConfig::from_dir(&directory).map_err(|error| at(error.into(), "base_model_config"))
        } else {
            Err(at(missing_model(&config.base_model_config), "base_model_config"))
        };
        let tokenizer = if directory.is_dir() {
            let own = &config.special_tokens;
            let special = SpecialTokens {
                bos_token: own.bos_token.clone(),
                eos_token: own.eos_token.clone(),
                pad_token: own.pad_token.clone(),
                unk_token: own.unk_token.clone(),
            };
            Tokenizer::load(&loaded.resolve(&config.tokenizer_config), &special)
                .map_err(|error| problems.push(at(error.into(), "tokenizer_config")))
                .ok()
        } else {
            None
        };
        let model = match model {
            Ok(model) => model,
            Err(diagnostic) => {
                problems.insert(0, diagnostic);
                return Err(Failure(problems));
            }
        };
        if let Some(wanted) = config.model_type.as_ref().filter(|wanted| *wanted != "AutoModelForCausalLM")
            && *wanted != model.architecture
        {
            let message = format!("`model_type` is `{wanted}`, but the model is a `{}`", model.architecture);
            problems.push(at(Diagnostic::error("model::type", message), "model_type").help("delete the line"));
        }
        let source = if config.reinit_weights {
            WeightSource::Random { seed: config.seed }
        } else {
            let directory = loaded.resolve(&config.base_model);
            let headers = weights::read_headers(&directory);
            let checked = headers.and_then(|headers| weights::check_headers(&directory, &headers, &model));
            if let Err(error) = checked {
                problems.push(at(error.into(), "base_model"));
            }
            WeightSource::Directory(directory)
        };
        if let Some(tokenizer) = &tokenizer
            && tokenizer.vocab_size() > model.vocab_size
        {
            let (tokens, rows) = (tokenizer.vocab_size(), model.vocab_size);
            let message = format!("the tokenizer has {tokens} tokens, the model's embedding {rows} rows");
            let why = "a token without a row cannot be looked up";
            problems.push(
                at(Diagnostic::error("model::vocabulary", message), "tokenizer_config")
                    .why(why)
                    .help("use the tokenizer that belongs to the model; new tokens cannot be added"),
            );
        }
        match tokenizer {
            Some(tokenizer) if problems.is_empty() => Ok(Self { config: model, weights: source, directory, tokenizer }),
            _ => Err(Failure(problems)),
        }
    }

    /// Elements of all weights.
    pub fn parameters(&self) -> u64 {
        self.config.parameters().iter().map(|spec| spec.shape.iter().product::<usize>() as u64).sum()
    }

    /// For rules.
    pub fn to_json(&self) -> Value {
        let config = &self.config;
        json!({
            "architecture": config.architecture,
            "parameters": self.parameters(),
            "parameter_names": config.parameters().into_iter().map(|spec| spec.name).collect::<Vec<_>>(),
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.max_position_embeddings,
            "tie_word_embeddings": config.tie_word_embeddings,
            "capabilities": crate::capabilities::of(&config.architecture),
            "tokenizer": {
                "vocab_size": self.tokenizer.vocab_size(),
                "has_bos": self.tokenizer.bos().is_some(),
                "has_eos": self.tokenizer.eos().is_some(),
                "has_pad": self.tokenizer.pad().is_some(),
                "pad_is_eos": self.tokenizer.pad().is_some() && self.tokenizer.pad() == self.tokenizer.eos(),
                "has_chat_template": self.tokenizer.chat_template().is_some(),
                "eos_token": self.tokenizer.names().eos_token,
                "chat_template": self.tokenizer.chat_template().filter(|text| text.len() <= TEMPLATE_LIMIT),
                "added_tokens": Some(self.tokenizer.added_tokens()).filter(|tokens| tokens.len() <= TOKENS_LIMIT),
            },
        })
    }
}

/// This machine, for rules.
pub fn machine_json(device: &Device) -> Value {
    let mut fields = device.to_json();
    fields["cores"] = json!(std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    fields["host_version"] = json!(env!("CARGO_PKG_VERSION"));
    fields
}

fn missing_model(name: &str) -> Diagnostic {
    let diagnostic = Diagnostic::error("model::missing", format!("there is no model directory `{name}`"));
    let is_hub_name = name.split('/').count() == 2 && !name.starts_with(['.', '/', '~']);
    if is_hub_name {
        let local = name.rsplit('/').next().unwrap_or(name);
        return diagnostic.why("models are not downloaded").help(format!(
            "if it is on the Hugging Face hub: `hf download {name} --local-dir models/{local}`, then `base_model: models/{local}`"
        ));
    }
    diagnostic.help("`base_model` is a directory with `config.json`, `tokenizer.json` and safetensors weights")
}
