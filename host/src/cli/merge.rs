//! `host merge`: several models put together as one.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use engine::architecture::config::ModelConfig;
use engine::files::blend::{Blend, blend};
use serde_json::{Value, json};

use super::model::{model_config, place, room};
use super::{say, show};
use crate::checkpoint::directory::PendingDirectory;
use crate::checkpoint::export::ModelFiles;
use crate::commands::generate;
use crate::data::generation::GenerationConfig;
use crate::data::tokenizer::{Changes, Tokenizer};
use crate::diagnostic::{Diagnostic, ExitStatus, Failure};
use crate::report::{Output, emit};

/// How models become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    /// Their mean, with `--weights`
    Linear,
    /// What is `--t` of the way from the first to the second, on the arc between them
    Slerp,
}

#[derive(Debug, Args)]
pub(super) struct MergeArgs {
    /// Directories of models with the same sizes, or their names on the Hugging Face hub; the tokenizer is that of the first
    #[arg(required = true, num_args = 2.., value_name = "MODEL")]
    models: Vec<PathBuf>,
    /// How they become one
    #[arg(long, value_enum, default_value = "linear")]
    method: Method,
    /// `linear`: how much each model counts, in their order: `--weights 1,3`. Without it: all the same
    #[arg(long, value_name = "LIST", value_delimiter = ',', allow_negative_numbers = true)]
    weights: Vec<f64>,
    /// `slerp`: how far from the first model to the second, from 0 to 1. Without it: 0.5
    #[arg(long)]
    t: Option<f64>,
    /// Where the merged model goes
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// One JSON object per line on stdout instead of text
    #[arg(long)]
    json: bool,
}

impl MergeArgs {
    pub(super) fn output(&self) -> Output {
        if self.json { Output::Json } else { Output::Human }
    }

    fn how(&self) -> Result<Blend, Diagnostic> {
        let wrong = |message: String, help: &str| Err(Diagnostic::error("merge::options", message).help(help));
        let count = self.models.len();
        match self.method {
            Method::Linear if self.t.is_some() => {
                wrong("`--t` is of `--method slerp`".to_owned(), "write `--weights` instead, or `--method slerp`")
            }
            Method::Linear if self.weights.is_empty() => Ok(Blend::Linear(vec![1.0; count])),
            Method::Linear => {
                let (all, sum) = (self.weights.len(), self.weights.iter().sum::<f64>());
                if all != count {
                    return wrong(format!("{count} models, but {all} weights"), "write one for each, in their order");
                }
                if !sum.is_finite() || sum.abs() < 1e-9 {
                    return wrong(
                        format!("the weights add up to {sum}"),
                        "the mean is by their sum, which must not be 0",
                    );
                }
                Ok(Blend::Linear(self.weights.clone()))
            }
            Method::Slerp if count != 2 => wrong(
                format!("`--method slerp` is between two models, not {count}"),
                "name two, or write `--method linear`",
            ),
            Method::Slerp if !self.weights.is_empty() => wrong(
                "`--weights` are of `--method linear`".to_owned(),
                "write `--t` instead: how far to the second model",
            ),
            Method::Slerp => match self.t.unwrap_or(0.5) {
                t if (0.0..=1.0).contains(&t) => Ok(Blend::Slerp(t)),
                t => wrong(format!("`--t` is {t}, not from 0 to 1"), "0 is the first model, 1 the second"),
            },
        }
    }
}

/// That a model is computed as the first one is; which tokens begin and end a text are the first one's.
fn same(config: &ModelConfig, first: &Path, model: &Path) -> Result<(), Failure> {
    let (mut other, _) = model_config(model)?;
    other.bos_token_id = config.bos_token_id;
    other.eos_token_id.clone_from(&config.eos_token_id);
    other.pad_token_id = config.pad_token_id;
    if other.is_computed_as(config) {
        return Ok(());
    }
    let (first, model) = (first.display(), model.display());
    Err(Diagnostic::error("merge::unlike", format!("`{model}` is not computed as `{first}` is"))
        .why("their `config.json` differ in sizes, or in what is made of the weights")
        .help("merge models that were trained from the same base")
        .into())
}

pub(super) fn run(args: &MergeArgs) -> Result<ExitStatus, Failure> {
    let how = args.how()?;
    let models = args.models.iter().map(|model| place(model, false)).collect::<Result<Vec<_>, _>>()?;
    let (config, warnings) = model_config(&models[0])?;
    show(&warnings, args.output());
    for model in &models[1..] {
        same(&config, &models[0], model)?;
    }
    if config.stores_packed {
        let message = format!("the weights of `{}` are packed in few bits", models[0].display());
        return Err(Diagnostic::error("merge::packed", message)
            .why("what they stand for is rounded, and a mean of them would be rounded again")
            .help("merge the models that they were made from")
            .into());
    }
    let target = &args.output;
    room(target)?;
    let tokenizer = Tokenizer::load(&models[0], &Changes::default())?;
    let generation = GenerationConfig::read(&models[0])?;
    let pending = PendingDirectory::create(target)?;
    blend(&config, &models, &how, pending.path())?;
    ModelFiles {
        tokenizer: &tokenizer,
        chat_template: None,
        base_model: "",
        generation: generation.raw.map(Value::Object),
    }
    .write_beside(pending.path())?;
    pending.publish()?;
    match args.output() {
        Output::Json => emit("merge", json!({ "path": target.display().to_string() })),
        Output::Human => {
            say(&format!("merged {} models: `{}`", models.len(), target.display()));
            if config.scores.is_none() {
                say(&format!("try it: {} --prompt Hello", generate(target, None)));
            }
        }
    }
    Ok(ExitStatus::Done)
}
