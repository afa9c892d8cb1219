//! `host generate`: a model and prompts in, text out.

use std::io::{BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use engine::generate::{GenerateOptions, generate};
use engine::kernels::Kernels;
use engine::kernels::cpu::CpuKernels;
use engine::model::Model;
use engine::model::config::ModelConfig;
use engine::model::weights::WeightSource;
use plugin_runtime::types::{Conversation, Message};
use serde::Deserialize;

use crate::config::{AutoBool, DeviceChoice};
use crate::data::template::{ChatTemplate, Now};
use crate::data::tokenizer::{SpecialTokens, Tokenizer};
use crate::device::Device;
use crate::diagnostic::{Diagnostic, ExitStatus, Failure, Place};
use crate::report::{Output, emit};

#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    /// Directory of the model
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Directory of a LoRA adapter for it
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// What the model is asked; as a user's turn where the model has a chat template. Without it and without --messages,
    /// each line of stdin is a JSON object with `prompt` or `messages`
    #[arg(long, conflicts_with = "messages")]
    prompt: Option<String>,
    /// JSON file with a list of messages: `[{"role": "user", "content": "…"}]`
    #[arg(long, value_name = "FILE")]
    messages: Option<PathBuf>,
    /// Give the model the prompt as it is, without a chat template
    #[arg(long)]
    raw: bool,
    /// Tokens that are written at most
    #[arg(long, default_value_t = 128)]
    max_new_tokens: usize,
    /// Sample instead of taking the likeliest token
    #[arg(long)]
    do_sample: bool,
    /// Sampling: below 1 bolder in what is likely, above 1 more even
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
    /// Sampling: only the k likeliest tokens; 0 for all
    #[arg(long, default_value_t = 50)]
    top_k: usize,
    /// Sampling: only the likeliest tokens that together have this probability
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// Above 1: tokens that are already there become less likely
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f64,
    /// Seed of the sampling
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Where the model runs: `cpu`, `cuda:N`, or `auto` for the first GPU that is there, else the CPU
    #[arg(long, value_name = "auto|cpu|cuda:N", default_value = "auto", value_parser = device)]
    device: DeviceChoice,
    /// One JSON object per line on stdout instead of text
    #[arg(long)]
    json: bool,
}

fn device(word: &str) -> Result<DeviceChoice, String> {
    word.parse().map_err(|()| "write `auto`, `cpu`, `cuda` or `cuda:N`".to_owned())
}

/// A line of stdin.
#[derive(Debug, Deserialize)]
struct Request {
    prompt: Option<String>,
    messages: Option<Vec<Turn>>,
}

#[derive(Debug, Deserialize)]
struct Turn {
    role: String,
    content: String,
}

impl GenerateArgs {
    pub(super) fn output(&self) -> Output {
        if self.json { Output::Json } else { Output::Human }
    }
}

pub(super) fn run(args: &GenerateArgs) -> Result<ExitStatus, Failure> {
    let requests = requests(args)?;
    let config = if args.model.is_dir() {
        ModelConfig::from_dir(&args.model).map_err(Diagnostic::from)?
    } else {
        return Err(Diagnostic::error(
            "model::missing",
            format!("there is no model directory `{}`", args.model.display()),
        )
        .help("`--model` is a directory with `config.json`, `tokenizer.json` and safetensors weights")
        .into());
    };
    // An adapter is trained with its own tokenizer files, which lie beside it.
    let with_tokenizer = args.adapter.as_deref().filter(|adapter| adapter.join("tokenizer.json").is_file());
    let tokenizer = Tokenizer::load(with_tokenizer.unwrap_or(&args.model), &SpecialTokens::default())?;
    let template = if args.raw { None } else { chat_template(&tokenizer)? };
    let starts_with_bos = tokenizer.starts_with_bos()?;
    let mut eos_token_ids = config.eos_token_id.clone();
    eos_token_ids.extend(tokenizer.eos());
    eos_token_ids.extend(generation_eos(&args.model));
    let mut prompts = Vec::with_capacity(requests.len());
    for request in &requests {
        let (text, is_template) = match (request, &template) {
            (Request { messages: Some(messages), .. }, Some(template)) => {
                (template.prompt(&conversation(messages))?, true)
            }
            (Request { messages: Some(_), .. }, None) => {
                return Err(Diagnostic::error("data::template", "the model has no chat template for messages")
                    .help("give the text itself with `--prompt`")
                    .into());
            }
            (Request { prompt, .. }, Some(template)) => {
                let turn = Turn { role: "user".to_owned(), content: prompt.clone().unwrap_or_default() };
                (template.prompt(&conversation(&[turn]))?, true)
            }
            (Request { prompt, .. }, None) => (prompt.clone().unwrap_or_default(), false),
        };
        let mut ids: Vec<u32> = tokenizer.encode(&text)?.into_iter().map(|token| token.id).collect();
        if let (false, true, Some(bos)) = (is_template, starts_with_bos, tokenizer.bos())
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        prompts.push(ids);
    }
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        do_sample: args.do_sample,
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        repetition_penalty: args.repetition_penalty,
        eos_token_ids,
        seed: args.seed,
    };
    match Device::choose_for(args.device, AutoBool::Auto)? {
        Device::Cpu => complete(CpuKernels, config, args, &tokenizer, &prompts, &options),
        Device::Cuda(gpu, precision) => {
            complete(Device::open(&gpu, precision)?, config, args, &tokenizer, &prompts, &options)
        }
    }
}

/// Loads the model on a device and says what it writes.
fn complete<K: Kernels>(
    kernels: K,
    config: ModelConfig,
    args: &GenerateArgs,
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
) -> Result<ExitStatus, Failure> {
    let weights = WeightSource::Directory(args.model.clone());
    let model = Model::on(kernels, config, &weights, args.adapter.as_deref())?;
    let streams = args.output() == Output::Human && prompts.len() == 1;
    let mut stream = Stream { tokenizer, ids: Vec::new(), written: 0 };
    let completions = generate(&model, prompts, options, &mut |_, id| {
        if streams {
            stream.push(id);
        }
    })?;
    for (index, completion) in completions.iter().enumerate() {
        let text = tokenizer.decode(&completion.ids)?;
        match args.output() {
            Output::Json => emit(
                "completion",
                serde_json::json!({
                    "index": index,
                    "completion": text,
                    "completion_tokens": completion.ids.len(),
                    "finished": completion.finished,
                }),
            ),
            Output::Human => {
                let rest = if streams { text.get(stream.written..).unwrap_or_default() } else { &text };
                let _ = writeln!(std::io::stdout(), "{rest}");
            }
        }
    }
    Ok(ExitStatus::Done)
}

/// Writes text while it grows: a piece is held back as long as it may be half a character.
struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    written: usize,
}

impl Stream<'_> {
    fn push(&mut self, id: u32) {
        self.ids.push(id);
        let Ok(text) = self.tokenizer.decode(&self.ids) else { return };
        if text.ends_with('\u{fffd}') {
            return;
        }
        if let Some(piece) = text.get(self.written..) {
            let mut stdout = std::io::stdout().lock();
            let _ = stdout.write_all(piece.as_bytes());
            let _ = stdout.flush();
            self.written = text.len();
        }
    }
}

fn requests(args: &GenerateArgs) -> Result<Vec<Request>, Failure> {
    if let Some(prompt) = &args.prompt {
        return Ok(vec![Request { prompt: Some(prompt.clone()), messages: None }]);
    }
    if let Some(path) = &args.messages {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Diagnostic::error("data::unreadable", format!("`{}` cannot be read", path.display())).why(error.to_string())
        })?;
        let messages: Vec<Turn> = serde_json::from_str(&text).map_err(|error| {
            Diagnostic::error("data::bad-row", "the messages are not a JSON list of `{role, content}`")
                .at(Place::in_text(path, &text, error.line(), error.column().max(1), 1))
                .why(error.to_string())
        })?;
        return Ok(vec![Request { prompt: None, messages: Some(messages) }]);
    }
    if std::io::stdin().is_terminal() {
        return Err(Diagnostic::error("cli::no-prompt", "there is nothing to answer")
            .help("give `--prompt TEXT`, `--messages FILE`, or JSON lines on stdin")
            .into());
    }
    read_stdin()
}

fn read_stdin() -> Result<Vec<Request>, Failure> {
    let mut requests = Vec::new();
    // 1 GiB of prompts is a mistake.
    let stdin = std::io::stdin().lock().take(1 << 30);
    for (index, line) in stdin.lines().enumerate() {
        let bad = |why: String| {
            Diagnostic::error("data::bad-row", "a line of stdin is not a request")
                .at(Place::new("stdin", index + 1, 1))
                .why(why)
                .help(r#"write one JSON object per line: `{"prompt": "…"}` or `{"messages": [{"role": "user", "content": "…"}]}`"#)
        };
        let line = line.map_err(|error| bad(error.to_string()))?;
        if line.trim().is_empty() {
            continue;
        }
        let request: Request = serde_json::from_str(&line).map_err(|error| bad(error.to_string()))?;
        if request.prompt.is_some() == request.messages.is_some() {
            return Err(bad("it needs either `prompt` or `messages`".to_owned()).into());
        }
        requests.push(request);
    }
    if requests.is_empty() {
        let diagnostic = Diagnostic::error("cli::no-prompt", "stdin is empty");
        return Err(diagnostic.help("give `--prompt TEXT`, or JSON lines on stdin").into());
    }
    Ok(requests)
}

fn conversation(turns: &[Turn]) -> Conversation {
    let message = |turn: &Turn| Message {
        role: turn.role.clone(),
        content: turn.content.clone(),
        train: None,
        spans: Vec::new(),
        extra_json: None,
    };
    Conversation { messages: turns.iter().map(message).collect(), tools_json: None, train_on_eos: None }
}

fn chat_template(tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>, Failure> {
    let Some(source) = tokenizer.chat_template() else { return Ok(None) };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    Ok(Some(ChatTemplate::new(source, &tokenizer.special_tokens(), Now(now))?))
}

/// Stop tokens of `generation_config.json`, where there is one.
fn generation_eos(model: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(model.join("generation_config.json")).unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let id = |value: &serde_json::Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match &value["eos_token_id"] {
        serde_json::Value::Array(ids) => ids.iter().filter_map(id).collect(),
        other => id(other).into_iter().collect(),
    }
}
