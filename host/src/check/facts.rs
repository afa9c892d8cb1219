//! What the model's files say, read without loading a weight: for rules, for plans, for messages.

use std::path::{Path, PathBuf};

use engine::adapter::modules::{NotSaved, Saved};
use engine::architecture::COMPOSITE_ARCHITECTURES;
use engine::architecture::config::Quantization;
use engine::architecture::config::{ConfigError, ModelConfig};
use engine::architecture::rope::RopeScaling;
use engine::architecture::scores::{Classifier, NoScores, SCORE};
use engine::architecture::stored::NewRows;
use engine::kernels::Packing;
use engine::weights::WeightSource;
use serde_json::{Value, json};

use super::model_files::{check_weights, missing_model};
use super::teacher::TeacherFacts;
use crate::config::{Config, LoadedConfig, join};
use crate::data::generation::GenerationConfig;
use crate::data::tokenizer::{Changes, SpecialTokens, Tokenizer, TokenizerError};
use crate::device::Device;
use crate::diagnostic::{Diagnostic, Failure, Severity};

/// Bytes of a chat template that rules get to see; a longer one is not known to them.
const TEMPLATE_LIMIT: usize = 64 << 10;
/// Added tokens that rules get to see; more are not known to them.
const TOKENS_LIMIT: usize = 4096;

/// A model as its files describe it, and as a run of this config leaves it.
#[derive(Debug)]
pub struct ModelFacts {
    /// Sizes and constants, with the token ids that the config sets.
    pub config: ModelConfig,
    /// Weights that are trained beside an adapter (`lora_modules_to_save`).
    pub saved: Saved,
    /// Where its weights come from.
    pub weights: WeightSource,
    /// The directory of its config.
    pub directory: PathBuf,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its `generation_config.json`.
    pub generation: GenerationConfig,
    /// Tokens that end a text by its files and by its tokenizer.
    pub eos_token_ids: Vec<u32>,
    /// The model that it learns from, where there is one and nothing is wrong with it.
    pub teacher: Option<TeacherFacts>,
    /// What its files say that may surprise, warnings and notes, and what is wrong with its teacher.
    pub remarks: Vec<Diagnostic>,
}

impl ModelFacts {
    /// Reads config, weight headers and tokenizer. All that is wrong comes at once.
    pub fn read(loaded: &LoadedConfig) -> Result<Self, Failure> {
        let config = &loaded.config;
        let (mut problems, mut remarks) = (Vec::new(), Vec::new());
        let at = |diagnostic: Diagnostic, key: &str| {
            let key = if loaded.is_given(key) { key } else { "base_model" };
            diagnostic.at(loaded.source.nearest_place(key))
        };
        let directory = loaded.resolve(&config.base_model_config);
        let model = if directory.is_dir() {
            let model = ModelConfig::from_dir(&directory).map_err(|error| at(error.into(), "base_model_config"));
            model.and_then(|model| {
                overridden(model, config, &directory).map_err(|error| at(error.into(), "model_config"))
            })
        } else {
            Err(at(missing_model(&loaded.elsewhere, &config.base_model_config, "base_model"), "base_model_config"))
        };
        let tokenizer = if directory.is_dir() {
            let own = &config.special_tokens;
            let special = SpecialTokens {
                bos_token: own.bos_token.clone(),
                eos_token: own.eos_token.clone(),
                pad_token: own.pad_token.clone(),
                unk_token: own.unk_token.clone(),
            };
            let (tokens, overrides) = (config.tokens.clone(), config.added_tokens_overrides.clone());
            let changes = Changes { special, tokens, overrides };
            load_tokenizer(&loaded.resolve(&config.tokenizer_config), changes, config.reward_model)
                .map_err(|error| {
                    let key = match error {
                        TokenizerError::NotAdded { id, .. } | TokenizerError::Twice { id, .. } => {
                            join("added_tokens_overrides", &id.to_string())
                        }
                        _ => "tokenizer_config".to_owned(),
                    };
                    problems.push(at(error.into(), &key));
                })
                .ok()
        } else {
            None
        };
        let mut model = match model {
            Ok((model, found)) => {
                remarks.extend(found.into_iter().map(|remark| at(remark, "model_config")));
                model
            }
            Err(diagnostic) => {
                problems.insert(0, diagnostic);
                return Err(Failure(problems));
            }
        };
        if model.stores_packed {
            problems.extend(
                packed(config, &model)
                    .map(|problem| at(problem, if config.load_in_4bit { "load_in_4bit" } else { "load_in_8bit" })),
            );
        } else {
            model.quantization = config.quantization();
            if let (Some(reason), Some(_)) = (model.cannot_be_packed(), model.quantization) {
                let key = if config.load_in_4bit { "load_in_4bit" } else { "load_in_8bit" };
                let message = format!("`{key}` is not for a model of experts");
                let help =
                    "delete the line; `adapter: lora` trains little of the model beside weights in full precision";
                problems.push(at(Diagnostic::error("config::unsupported-value", message).why(reason).help(help), key));
            }
        }
        if let Err(problem) = scored(config, &mut model) {
            let key = if config.process_reward_model { "process_reward_model" } else { "reward_model" };
            problems.push(at(problem, key));
        }
        let whole = model.raw.get("architectures").and_then(|names| names.get(0)).and_then(Value::as_str);
        let whole =
            whole.filter(|name| COMPOSITE_ARCHITECTURES.contains(name)).unwrap_or(&model.architecture).to_owned();
        if !model.others.is_empty() {
            let message = format!("of the `{whole}`, the text model is trained; its other parts go along as they are");
            remarks.push(at(Diagnostic::new(Severity::Note, "model::parts", message), "base_model"));
        }
        if let Some(wanted) = config.model_type.as_ref().filter(|wanted| !wanted.starts_with("AutoModel"))
            && *wanted != model.architecture
            && *wanted != whole
        {
            let message = format!("`model_type` is `{wanted}`, but the model is a `{whole}`");
            problems.push(at(Diagnostic::error("model::type", message), "model_type").help("delete the line"));
        }
        problems.extend(dynamic(loaded, &model).map(|problem| at(problem, "sequence_len")));
        if model.has_two_ropes() {
            let message = "`rope_scaling` and `rope_parameters` of the model's `config.json` differ";
            remarks.push(
                at(Diagnostic::warning("model::rope", message), "base_model_config")
                    .why("`rope_scaling` holds, as in transformers 5")
                    .help("delete the one that is not meant from `config.json`"),
            );
        }
        let source = if config.reinit_weights {
            WeightSource::Random { seed: config.seed }
        } else {
            let directory = loaded.resolve(&config.base_model);
            match check_weights(&loaded.elsewhere, &directory, &mut model) {
                Ok(found) => remarks.extend(found.into_iter().map(|remark| at(remark, "base_model"))),
                Err(error) => problems.push(at(error.into(), "base_model")),
            }
            WeightSource::Directory(directory)
        };
        let generation = GenerationConfig::read(&directory)
            .map_err(|error| problems.push(at(error.into(), "base_model_config")))
            .unwrap_or_default();
        let Some(mut tokenizer) = tokenizer else { return Err(Failure(problems)) };
        if let Some(rows) = wanted_rows(config, &tokenizer, &model) {
            remarks.push(at(grown(&tokenizer, &model, rows), "tokens"));
            let new_rows = if config.mean_resizing_embeddings { NewRows::Mean } else { NewRows::Normal(config.seed) };
            model.grow(rows, new_rows);
        }
        if let Err(error) = tokenizer.limit(model.vocab_size) {
            problems.push(at(error.into(), "tokenizer_config"));
        }
        let mut saved = config.lora_modules_to_save.clone();
        // As PEFT does of itself for such models.
        if model.scores.is_some() && config.adapter.is_some() && !saved.iter().any(|name| name == SCORE) {
            saved.push(SCORE.to_owned());
        }
        let saved = Saved::new(&mut model, &saved).unwrap_or_else(|error| {
            problems.push(not_saved(loaded, error));
            Saved::default()
        });
        let notes = tokenizer.remarks().iter().map(|words| Diagnostic::new(Severity::Note, "tokenizer::files", words));
        remarks.extend(notes.map(|note| at(note, "tokenizer_config")));
        let ends = ends(&model, &generation, &[]);
        if let (Some(note), None) = (other_end(&tokenizer, &ends), &config.special_tokens.eos_token) {
            remarks.push(at(note, "tokenizer_config"));
        }
        if config.reward_model && tokenizer.pad().is_none() {
            problems.push(at(no_padding(), "special_tokens"));
        }
        if !problems.is_empty() {
            return Err(Failure(problems));
        }
        let eos_token_ids = self::ends(&model, &generation, tokenizer.eos().as_slice());
        align(&mut model, &tokenizer);
        let teacher = TeacherFacts::read(loaded, &model, &tokenizer).unwrap_or_else(|problem| {
            remarks.push(problem);
            None
        });
        remarks.extend(teacher.iter().flat_map(|teacher| teacher.remarks.iter().cloned()));
        let (config, weights) = (model, source);
        Ok(Self { config, saved, weights, directory, tokenizer, generation, eos_token_ids, teacher, remarks })
    }

    /// Tokens that end what the trained model writes: those of its files, its tokenizer's, and `end_of_turn`.
    pub fn end_tokens(&self, end_of_turn: &[u32]) -> Vec<u32> {
        let mut ends = self.eos_token_ids.clone();
        add_new(&mut ends, end_of_turn);
        ends
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
            "new_rows": config.new_rows(),
            "max_position_embeddings": config.max_position_embeddings,
            "tie_word_embeddings": config.tie_word_embeddings,
            "capabilities": crate::capabilities::of(&config.architecture),
            "tokenizer": {
                "vocab_size": self.tokenizer.vocab_size(),
                "has_bos": self.tokenizer.bos().is_some(),
                "has_eos": self.tokenizer.eos().is_some(),
                "has_pad": self.tokenizer.pad().is_some(),
                "pad_is_eos": self.tokenizer.pad().is_some() && self.tokenizer.pad() == self.tokenizer.eos(),
                "has_chat_template": !self.tokenizer.chat_templates().is_empty(),
                "eos_token": self.tokenizer.name("eos_token"),
                "chat_template": self.tokenizer.chat_template().filter(|text| text.len() <= TEMPLATE_LIMIT),
                "added_tokens": Some(self.tokenizer.added_tokens()).filter(|tokens| tokens.len() <= TOKENS_LIMIT),
            },
        })
    }
}

/// The tokenizer. One of a model that scores needs a token for padding: where it has none, that which ends texts, as in TRL.
fn load_tokenizer(directory: &Path, mut changes: Changes, scores: bool) -> Result<Tokenizer, TokenizerError> {
    let tokenizer = Tokenizer::load(directory, &changes)?;
    let Some(eos) = tokenizer.name("eos_token").filter(|_| scores && tokenizer.pad().is_none()) else {
        return Ok(tokenizer);
    };
    changes.special.pad_token = Some(eos.to_owned());
    Tokenizer::load(directory, &changes)
}

fn no_padding() -> Diagnostic {
    Diagnostic::error("model::no-padding", "the tokenizer has no token for padding, and none that ends texts")
        .why("transformers finds the token at which a text is scored by it")
        .help("name one: `special_tokens: {pad_token: \"<|pad|>\"}`")
}

/// Gives the model the head of scores that the config asks for; says why it cannot have one, or has one that nobody asked for.
fn scored(config: &Config, model: &mut ModelConfig) -> Result<(), Diagnostic> {
    let Some((classifier, labels)) = config.scores() else {
        let Some(scores) = model.scores else { return Ok(()) };
        let (what, key) = match scores.classifier {
            Classifier::Sequence => ("texts", "reward_model"),
            Classifier::Token => ("tokens", "process_reward_model"),
        };
        return Err(Diagnostic::error("model::scores", format!("the model scores {what} and does not write"))
            .why("`architectures` of its `config.json`: it has a head of scores and no output projection")
            .help(format!("write `{key}: true`, or take a language model")));
    };
    let (what, each) = match classifier {
        Classifier::Sequence => ("a reward model", "text"),
        Classifier::Token => ("a process reward model", "token"),
    };
    model.score(classifier, labels, config.seed).map_err(|error| match error {
        NoScores::Class(name) => Diagnostic::error("model::unsupported", format!("a `{name}` cannot be {what}"))
            .why("transformers has no class of that family with such a head of scores, so nothing could read it")
            .help("take a model of another family: `host doctor --capabilities` lists them"),
        NoScores::Other { .. } => Diagnostic::error("model::scores", format!("the model cannot be {what}: {error}"))
            .why(format!("a head of this size is asked for: {labels} for each {each}"))
            .help("take a language model, or one with such a head"),
    })
}

/// What a config asks of a checkpoint that is packed already, and cannot have.
fn packed(config: &Config, model: &ModelConfig) -> Option<Diagnostic> {
    let bits = |quantization: Quantization| if quantization.packing == Packing::Int8 { 8 } else { 4 };
    let own = model.quantization.map(bits)?;
    if config.adapter.is_none() {
        let message = format!("the weights are held in {own} bits, so they cannot be trained");
        return Some(
            Diagnostic::error("model::quantized", message)
                .why("`quantization_config` of `config.json`: bitsandbytes has saved the model so")
                .help("train an adapter beside them (`adapter: lora`), or take the model that they were made from"),
        );
    }
    let asked = config.quantization().map(bits).filter(|asked| *asked != own)?;
    let message = format!("weights of {asked} bits are asked for, and the model has them in {own}");
    Some(
        Diagnostic::error("model::quantized", message)
            .help(format!("write `load_in_{own}bit: true`, or take the model that they were made from")),
    )
}

/// The model with the values that `model_config` has for keys of its `config.json`, and what may surprise about them.
fn overridden(
    model: ModelConfig,
    config: &Config,
    directory: &Path,
) -> Result<(ModelConfig, Vec<Diagnostic>), ConfigError> {
    let (overrides, mut remarks) = (&config.model_config, Vec::new());
    if overrides.is_empty() {
        return Ok((model, remarks));
    }
    let path = directory.join("config.json");
    let own = model.with(overrides, &path)?;
    for (key, value) in overrides {
        let mut others = overrides.clone();
        others.remove(key);
        if model.with(&others, &path).is_ok_and(|other| other.is_computed_as(&own)) {
            let is_same = model.raw.get(key) == Some(value);
            let why = if is_same { "it has this value already" } else { "nothing that is computed here reads it" };
            let message = format!("`{key}` changes nothing of a `{}`", model.architecture);
            remarks.push(Diagnostic::new(Severity::Note, "model::no-effect", message).why(why));
        }
    }
    if config.adapter.is_some() && !own.is_computed_as(&model) {
        let message = "the adapter is of the model with these values, and they are not saved with it";
        remarks.push(
            Diagnostic::warning("model::config", message)
                .why("beside the model as its `config.json` has it, the adapter means something else")
                .help("write them into the model's `config.json`, or use the model that `host merge-lora` writes"),
        );
    }
    Ok((own, remarks))
}

/// Rotations that would grow with the text: within the model's positions they do not.
fn dynamic(loaded: &LoadedConfig, model: &ModelConfig) -> Option<Diagnostic> {
    let is_dynamic = model.ropes.iter().any(|rope| rope.scaling == Some(RopeScaling::Dynamic));
    let (length, positions) = (loaded.config.sequence_len as usize, model.max_position_embeddings);
    (is_dynamic && length > positions).then(|| {
        let message = format!("the model has {positions} positions, `sequence_len` is {length}");
        Diagnostic::error("model::unsupported", message)
            .why("rotary scaling `dynamic` would use other frequencies for each longer text; that is not here")
            .help(format!("set `sequence_len` to {positions} or less"))
    })
}

/// Tokens that end a text: those of `generation_config.json`, of `config.json`, and `more`.
pub fn ends(model: &ModelConfig, generation: &GenerationConfig, more: &[u32]) -> Vec<u32> {
    let mut ends = Vec::new();
    for ids in [&generation.eos_token_id, &model.eos_token_id, more] {
        add_new(&mut ends, ids);
    }
    ends
}

fn add_new(ids: &mut Vec<u32>, more: &[u32]) {
    for id in more {
        if !ids.contains(id) {
            ids.push(*id);
        }
    }
}

/// A tokenizer that ends texts otherwise than the model's files say.
fn other_end(tokenizer: &Tokenizer, ends: &[u32]) -> Option<Diagnostic> {
    let eos = tokenizer.eos().filter(|eos| !ends.is_empty() && !ends.contains(eos))?;
    let name = tokenizer.name("eos_token").unwrap_or_default();
    let message = format!("the tokenizer ends texts with `{name}` ({eos}), the model's config files with {ends:?}");
    Some(
        Diagnostic::new(Severity::Note, "tokenizer::files", message)
            .why("the tokenizer's is what is learned; the model that is written ends at each of them"),
    )
}

/// The token ids of `config.json` follow the tokenizer, as transformers' `Trainer` sees to it.
fn align(model: &mut ModelConfig, tokenizer: &Tokenizer) {
    let is_changed = |name: &str| tokenizer.changed().iter().any(|(changed, _)| *changed == name);
    let bos = tokenizer.bos().filter(|_| is_changed("bos_token"));
    // Where a text is scored depends on it.
    let pad = tokenizer.pad().filter(|_| is_changed("pad_token") || model.scores.is_some());
    let eos = match tokenizer.eos().filter(|eos| !model.eos_token_id.contains(eos)) {
        None => Vec::new(),
        Some(eos) if model.eos_token_id.len() > 1 => [&model.eos_token_id[..], &[eos]].concat(),
        Some(eos) => vec![eos],
    };
    model.set_token_ids(bos, &eos, pad);
}

/// This machine, for rules.
pub fn machine_json(device: &Device) -> Value {
    let mut fields = device.to_json();
    fields["cores"] = json!(std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    fields["host_version"] = json!(env!("CARGO_PKG_VERSION"));
    fields
}

/// Rows that the embedding needs and does not have, where the config asks for them: for new tokens that are looked up, or for
/// `resize_token_embeddings_to_32x`.
fn wanted_rows(config: &Config, tokenizer: &Tokenizer, model: &ModelConfig) -> Option<usize> {
    let is_filler =
        |text: &String| config.special_tokens.pad_token.as_ref() == Some(text) && !config.tokens.contains(text);
    let is_beyond = |(id, text): &(u32, String)| *id as usize >= model.vocab_size && !is_filler(text);
    let to_32x = config.resize_token_embeddings_to_32x;
    let rows = tokenizer.vocab_size();
    let rows = if to_32x { rows.next_multiple_of(32) } else { rows };
    let is_asked = to_32x || tokenizer.new_tokens().iter().any(is_beyond);
    Some(rows).filter(|&rows| is_asked && rows > model.vocab_size)
}

/// Says that the vocabulary grows.
fn grown(tokenizer: &Tokenizer, model: &ModelConfig, rows: usize) -> Diagnostic {
    const SHOWN: usize = 4;
    let new = tokenizer.new_tokens();
    let mut names: Vec<String> = new.iter().take(SHOWN).map(|(_, text)| format!("`{text}`")).collect();
    names.extend((new.len() > SHOWN).then(|| format!("{} more", new.len() - SHOWN)));
    let of = if names.is_empty() { String::new() } else { format!(" for the new tokens {}", names.join(", ")) };
    let own = model.vocab_size;
    Diagnostic::new(Severity::Note, "model::vocabulary", format!("the embedding grows from {own} rows to {rows}{of}"))
}

/// An entry of `lora_modules_to_save` that cannot be had.
fn not_saved(loaded: &LoadedConfig, error: NotSaved) -> Diagnostic {
    let (entry, diagnostic) = match error {
        NotSaved::Nothing(entry) => {
            let message = format!("no module of the model has a name that ends in `{entry}`");
            let help = "modules look like `model.embed_tokens`, `lm_head` and `model.norm`";
            (entry, Diagnostic::error("config::no-match", message).help(help))
        }
        NotSaved::Packed(entry, module) => {
            let message = format!("`{module}` cannot be trained: its weights are held in few bits");
            let help = "name embedding, output projection or norms, or leave `load_in_4bit` and `load_in_8bit` out";
            (entry, Diagnostic::error("config::conflict", message).help(help))
        }
    };
    let index = loaded.config.lora_modules_to_save.iter().position(|own| *own == entry).unwrap_or(0);
    diagnostic.at(loaded.source.nearest_place(&loaded.entry_path("lora_modules_to_save", index)))
}
