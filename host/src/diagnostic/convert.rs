//! Other rooms' errors as diagnostics: this is where facts become words for the user.

use engine::PeftError;
use engine::spec::config::ConfigError;
use engine::weights::WeightsError;
use engine::{DeviceError, EngineError};
use plugin_runtime::PluginError;

use super::{Diagnostic, Failure, Place};
use crate::checkpoint::CheckpointError;
use crate::data::dataset::{BadRow, DatasetError};
use crate::data::generation::GenerationError;
use crate::data::template::TemplateError;
use crate::data::tokenizer::TokenizerError;
use crate::train::lock::LockError;

impl From<Diagnostic> for Failure {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

impl From<Vec<Diagnostic>> for Failure {
    fn from(diagnostics: Vec<Diagnostic>) -> Self {
        Self(diagnostics)
    }
}

macro_rules! fails_as_diagnostic {
    ($($error:ty),+ $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Diagnostic::from(error).into()
            }
        }
    )+};
}

fails_as_diagnostic!(
    PluginError,
    EngineError,
    CheckpointError,
    TokenizerError,
    GenerationError,
    TemplateError,
    LockError
);

impl From<PluginError> for Diagnostic {
    fn from(error: PluginError) -> Self {
        let mut diagnostic = Self::error(error.code, error.message);
        diagnostic.why = error.why;
        diagnostic.help = error.help;
        diagnostic.notes = error.notes;
        diagnostic.plugin = error.plugin;
        diagnostic.failed_call = error.failed;
        diagnostic
    }
}

impl From<EngineError> for Diagnostic {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Config(error) => error.into(),
            EngineError::Weights(error) => error.into(),
            EngineError::Peft(error) => error.into(),
            EngineError::Device(ref device) => match device {
                DeviceError::OutOfMemory { .. } => Self::error("device::memory", error.to_string()).help(
                    "lower `micro_batch_size` (raise `gradient_accumulation_steps` by as much) or `sequence_len`, or write `gradient_checkpointing: true`",
                ),
                DeviceError::Unsupported { .. } => {
                    Self::error("device::unsupported", error.to_string()).help("write `device: cpu`")
                }
                DeviceError::Failed { .. } => Self::error("device::failed", error.to_string())
                    .why("the driver or a kernel gave up; what was computed since the last checkpoint is lost")
                    .help("go on from the last checkpoint with `--resume auto`; if it fails at the same place, compare with `device: cpu`"),
            },
            EngineError::Batch { .. } => Self::error("train::batch", error.to_string()),
            EngineError::Options { .. } => Self::error("model::options", error.to_string()),
            EngineError::NonFiniteGradient { .. } => Self::error("train::not-finite", error.to_string())
                .why("the loss or a gradient became infinite or NaN in this step; the update was not made")
                .help("use a lower `learning_rate`, a longer warm-up (`warmup_steps`), or clip gradients (`max_grad_norm: 1.0`)"),
            EngineError::NothingToLearn => Self::error("train::nothing-to-learn", error.to_string()),
            EngineError::State { .. } => Self::error("checkpoint::mismatch", error.to_string()),
            EngineError::Write { ref source, .. } => written(Self::error("io::write", error.to_string()), source),
        }
    }
}

impl From<ConfigError> for Diagnostic {
    fn from(error: ConfigError) -> Self {
        match &error {
            ConfigError::Read { .. } => Self::error("model::missing", error.to_string())
                .help("`base_model` is a directory with `config.json`, `tokenizer.json` and safetensors weights"),
            ConfigError::Invalid { .. } => Self::error("model::config", error.to_string()),
            ConfigError::Unsupported { .. } => Self::error("model::unsupported", error.to_string())
                .help("`host doctor --capabilities` shows what can be trained"),
        }
    }
}

impl From<WeightsError> for Diagnostic {
    fn from(error: WeightsError) -> Self {
        let diagnostic = |code: &str| Self::error(code, error.to_string());
        match &error {
            WeightsError::Missing { .. } => diagnostic("model::missing")
                .help("download the model's safetensors files into it, or start from fresh weights with `reinit_weights: true`"),
            WeightsError::Pickle { .. } => diagnostic("model::pickle")
                .why("a pickle file can run code when it is read")
                .help("convert it where you trust it: `AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT)`"),
            WeightsError::Read { .. } => diagnostic("model::unreadable"),
            WeightsError::Invalid { .. } | WeightsError::BadIndex { .. } => {
                diagnostic("model::corrupt").help("download or copy the file again; it may have been cut short")
            }
            WeightsError::Packed { .. } => diagnostic("model::quantized")
                .help("take the model that it was made from, and quantize it when it is loaded: `load_in_4bit: true`"),
            WeightsError::NotFinite { .. } => diagnostic("model::not-finite")
                .why("a model with such weights gives NaN losses")
                .help("use an earlier checkpoint of the model"),
            WeightsError::MissingTensor { count, .. } | WeightsError::UnexpectedTensor { count, .. } => {
                let diagnostic = diagnostic("model::weights").help("are `config.json` and the weights from the same model?");
                if *count > 1 { diagnostic.note(format!("{count} tensors are concerned")) } else { diagnostic }
            }
            _ => diagnostic("model::weights").help("are `config.json` and the weights from the same model?"),
        }
    }
}

impl From<PeftError> for Diagnostic {
    fn from(error: PeftError) -> Self {
        let diagnostic = Self::error("adapter::invalid", error.to_string());
        if matches!(error, PeftError::Other { .. }) {
            return diagnostic.help("ask for what its `adapter_config.json` says, or leave `lora_model_dir` out");
        }
        diagnostic.help("an adapter is a directory with PEFT's `adapter_config.json` and `adapter_model.safetensors`, for this base model")
    }
}

impl From<CheckpointError> for Diagnostic {
    fn from(error: CheckpointError) -> Self {
        match &error {
            CheckpointError::Write { source, .. } => {
                written(Self::error("checkpoint::write", error.to_string()), source)
            }
            CheckpointError::Read { .. } => Self::error("checkpoint::unreadable", error.to_string()),
            CheckpointError::Incomplete { .. } => Self::error("checkpoint::incomplete", error.to_string()).help(
                "name a `checkpoint-N` directory of an earlier run, or `--resume auto` for the newest complete one",
            ),
            CheckpointError::Corrupt { .. } => Self::error("checkpoint::corrupt", error.to_string())
                .help("resume from an older checkpoint: `--resume DIR`"),
            CheckpointError::Mismatch { differences, .. } => Self::error("checkpoint::mismatch", error.to_string())
                .why(differences.join("\n"))
                .help("use the config of that run, or another `output_dir` for a new one"),
        }
    }
}

impl From<TokenizerError> for Diagnostic {
    fn from(error: TokenizerError) -> Self {
        let diagnostic = |code: &str| Self::error(code, error.to_string());
        match &error {
            TokenizerError::Missing { .. } => diagnostic("tokenizer::missing")
                .help("download `tokenizer.json` of the model, or name a directory that has one in `tokenizer_config`"),
            TokenizerError::NoRow { .. } => diagnostic("model::vocabulary")
                .why("a token without a row cannot be looked up")
                .help("use the tokenizer that belongs to the model, or write `resize_token_embeddings_to_32x: true`"),
            TokenizerError::NotAdded { .. } => diagnostic("tokenizer::override")
                .help("name reserved tokens in `added_tokens_overrides`; a new token belongs into `tokens`"),
            TokenizerError::Twice { .. } => {
                diagnostic("tokenizer::override").help("use the token that is there, or write another text")
            }
            _ => diagnostic("tokenizer::invalid"),
        }
    }
}

impl From<GenerationError> for Diagnostic {
    fn from(error: GenerationError) -> Self {
        Self::error("model::config", error.to_string()).help("mend the file, or delete it: `config.json` says enough")
    }
}

impl From<TemplateError> for Diagnostic {
    fn from(error: TemplateError) -> Self {
        Self::error("data::template", error.to_string())
            .help("set `chat_template` to one that fits, or mend the model's own")
    }
}

impl From<LockError> for Diagnostic {
    fn from(error: LockError) -> Self {
        match &error {
            LockError::InUse { owner, .. } => Self::error("run::in-use", error.to_string())
                .why(if owner.is_empty() {
                    "its lock file is held".to_owned()
                } else {
                    format!("{owner} holds its lock file")
                })
                .help("wait for it, stop it, or use another `output_dir`"),
            LockError::Write { source, .. } => written(Self::error("io::write", error.to_string()), source),
        }
    }
}

/// What a failed write means for the user.
fn written(diagnostic: Diagnostic, source: &std::io::Error) -> Diagnostic {
    use std::io::ErrorKind;
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => diagnostic
            .help("make room, or set `save_total_limit`; then go on with `--resume auto`")
            .note("what was complete before is untouched"),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            diagnostic.help("use an `output_dir` that you may write to")
        }
        _ => diagnostic,
    }
}

/// A dataset's failure; bad rows each with its place in the file.
pub fn dataset(error: DatasetError) -> Failure {
    match error {
        DatasetError::Plugin(error) | DatasetError::Filter { error, .. } => error.into(),
        DatasetError::NoScores { ref plugin, .. } => Diagnostic::error("data::no-scores", error.to_string())
            .why("rows without a score are kept, so `min_score` would do nothing")
            .help("delete `min_score`, or set what makes the filter give scores in its `config`")
            .plugin(plugin)
            .into(),
        DatasetError::BadRows { path, rows, total } => {
            let shown = rows.len() as u64;
            let mut all: Vec<Diagnostic> = rows.iter().map(|row| bad_row(&path, row)).collect();
            if let Some(last) = all.last_mut() {
                if total > shown {
                    last.notes.push(format!("{} more rows of `{}` are bad", total - shown, path.display()));
                }
                last.help = Some("mend or delete the rows; nothing was trained".to_owned());
            }
            Failure(all)
        }
        DatasetError::Empty { .. } => Diagnostic::error("data::empty", error.to_string())
            .help("check `path`; an empty file teaches nothing")
            .into(),
        DatasetError::NothingLeft { ref dropped, .. } => {
            let reasons: Vec<String> = dropped.reasons().iter().map(ToString::to_string).collect();
            let by_filters = dropped.filters.last().is_some_and(|last| last.kept == 0);
            Diagnostic::error("data::nothing-left", error.to_string())
                .why(reasons.join("\n"))
                .help(if by_filters {
                    "loosen or delete the `row_filters` that leave them out".to_owned()
                } else if dropped.no_turn.0.rows > 0 {
                    "say whose messages are learned, `roles_to_train: [NAME]`, or what the data calls them, `roles: {assistant: [NAME]}`".to_owned()
                } else if dropped.too_long.rows > 0 || dropped.cut.rows > 0 {
                    "raise `sequence_len`".to_owned()
                } else {
                    "nothing of these rows is marked as learned: look at the prompt strategy (`type`) and at the chat template".to_owned()
                })
                .into()
        }
    }
}

fn bad_row(path: &std::path::Path, row: &BadRow) -> Diagnostic {
    let message = match &row.field {
        Some(field) => format!("{} (field `{field}`)", row.message),
        None => row.message.clone(),
    };
    let (file, line, column) = position(path, &row.position);
    match line {
        Some(line) => Diagnostic::error("data::bad-row", message).at(Place::new(file, line, column)),
        None => Diagnostic::error("data::bad-row", format!("`{}`, {}: {message}", path.display(), row.position)),
    }
}

fn is_inside(file: &str) -> bool {
    use std::path::Component;
    std::path::Path::new(file).components().all(|part| matches!(part, Component::Normal(_)))
}

/// `line 7`, `line 7, column 3` or `part.jsonl line 7` as a place.
fn position(path: &std::path::Path, position: &str) -> (std::path::PathBuf, Option<usize>, usize) {
    let (file, rest) = match position.split_once("line ") {
        Some(("", rest)) => (path.to_owned(), rest),
        // A plugin's words: what leads out of the dataset is no place in it.
        Some((file, _)) if !is_inside(file.trim()) => return (path.to_owned(), None, 1),
        Some((file, rest)) => (path.join(file.trim()), rest),
        None => return (path.to_owned(), None, 1),
    };
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty()).map(str::parse);
    let line = numbers.next().and_then(Result::ok);
    let column = numbers.next().and_then(Result::ok).unwrap_or(1);
    (file, line, column)
}
