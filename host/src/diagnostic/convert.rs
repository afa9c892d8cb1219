//! Errors of the engine and of the plugin runtime as diagnostics: this is where their facts become words for the user.

use engine::PeftError;
use engine::architecture::config::ConfigError;
use engine::weights::WeightsError;
use engine::{DeviceError, EngineError};
use plugin_runtime::PluginError;

use super::{Diagnostic, Failure};

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

/// Lets `?` turn errors that have the words of a [`Diagnostic`] into a [`Failure`].
macro_rules! fails_as_diagnostic {
    ($($error:ty),+ $(,)?) => {$(
        impl From<$error> for $crate::diagnostic::Failure {
            fn from(error: $error) -> Self {
                $crate::diagnostic::Diagnostic::from(error).into()
            }
        }
    )+};
}
pub(crate) use fails_as_diagnostic;

fails_as_diagnostic!(PluginError, EngineError);

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
            EngineError::OffPolicy { .. } => Self::error("rl::off-policy", error.to_string())
                .why("the same weights and the same kernels wrote them and learn from them, so each ratio must be exactly 1")
                .help("this is a fault of the trainer; report it with the config and the model"),
            EngineError::NothingToLearn => Self::error("train::nothing-to-learn", error.to_string()),
            EngineError::State { .. } => Self::error("checkpoint::mismatch", error.to_string()),
            EngineError::Write { ref source, .. } => Self::error("io::write", error.to_string()).written(source),
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

impl Diagnostic {
    /// How to go on after a failed write, and that nothing complete was lost.
    #[must_use]
    pub fn written(self, source: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => self
                .help("make room, or set `save_total_limit`; then go on with `--resume auto`")
                .note("what was complete before is untouched"),
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                self.help("use an `output_dir` that you may write to")
            }
            _ => self,
        }
    }
}
