//! `host generate`: a model and prompts in, text out.

mod answers;
mod requests;
mod settings;
mod stop;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use engine::architecture::config::ModelConfig;
use engine::files::peft;
use engine::generate::{GenerateOptions, Request, cache_bytes, generate};
use engine::kernels::Kernels;
use engine::kernels::cpu::CpuKernels;
use engine::model::Model;
use engine::weights::WeightSource;

use self::answers::Answers;
use self::settings::{Sampling, Settings};
use self::stop::Watched;
use super::model::{model_config, place};
use super::{say, show};
use crate::check::{facts, selection};
use crate::config::{AutoBool, DeviceChoice};
use crate::data::generation::GenerationConfig;
use crate::data::template::{ChatTemplate, Now};
use crate::data::tokenizer::{Changes, Tokenizer};
use crate::device::Device;
use crate::diagnostic::{Diagnostic, ExitStatus, Failure};
use crate::memory::largest_memory_bytes;
use crate::report::Output;
use crate::report::progress::bytes;
use crate::terminal::print_words;

#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    /// Directory of the model, or its name on the Hugging Face hub
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Directory of a LoRA adapter for it, or its name on the hub
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// What the model is asked; as a user's turn where the model has a chat template. Without it, --messages and --prompts,
    /// each line of stdin is a JSON object with `prompt` or `messages`
    #[arg(long, conflicts_with_all = ["messages", "prompts"])]
    prompt: Option<String>,
    /// JSON file with a list of messages, `[{"role": "user", "content": "…"}]`, or with `{"messages": […], "tools": […]}`;
    /// read as a row of a `chat_template` dataset is
    #[arg(long, value_name = "FILE", conflicts_with = "prompts")]
    messages: Option<PathBuf>,
    /// JSONL file, each line an object with `prompt` or `messages`
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// JSONL file for the answers, in the order of the prompts, in place of stdout; what it holds is overwritten
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Answers to each prompt, one after the other; each with random numbers of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    num_return_sequences: u32,
    /// A text that ends an answer; the answer has what is before it, as with a server's `stop`. More than one may be given
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    stop: Vec<String>,
    /// Give the model the prompt as it is, without a chat template
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    sampling: Sampling,
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

impl GenerateArgs {
    pub(super) fn output(&self) -> Output {
        if self.json { Output::Json } else { Output::Human }
    }
}

pub(super) fn run(args: &GenerateArgs) -> Result<ExitStatus, Failure> {
    let given = [&args.prompts, &args.messages].into_iter().flatten();
    if let Some(path) = &args.output
        && given
            .filter_map(|given| given.canonicalize().ok())
            .any(|given| path.canonicalize().is_ok_and(|to| to == given))
    {
        let message = format!("`--output` is the file of the prompts, `{}`", path.display());
        return Err(Diagnostic::error("cli::same-file", message)
            .why("it would be overwritten by the answers")
            .help("write the answers to a file of their own")
            .into());
    }
    let requests = requests::read(args.prompt.as_deref(), args.messages.as_deref(), args.prompts.as_deref())?;
    let model = place(&args.model, false)?;
    let adapter = args.adapter.as_deref().map(|adapter| place(adapter, true)).transpose()?;
    let (mut config, warnings) = model_config(&model)?;
    if let Some(adapter) = &adapter {
        peft::fit(&mut config, adapter).map_err(Diagnostic::from)?;
    }
    show(&warnings, args.output());
    if config.scores.is_some() {
        let at = adapter.as_ref().unwrap_or(&model).display();
        return Err(Diagnostic::error("model::scores", format!("`{at}` scores texts and cannot write"))
            .why("it has a head of scores and no output projection")
            .help("take a language model; transformers gives the scores: `AutoModelForSequenceClassification`")
            .into());
    }
    // An adapter is trained with its own tokenizer files, which lie beside it; so does what ends its texts.
    let beside = |name: &str| adapter.as_deref().filter(|adapter| adapter.join(name).is_file());
    let with_tokenizer = beside("tokenizer.json").unwrap_or(&model);
    let with_generation = beside("generation_config.json").unwrap_or(&model);
    let mut tokenizer = Tokenizer::load(with_tokenizer, &Changes::default())?;
    tokenizer.limit(config.vocab_size)?;
    let template = if args.raw { None } else { chat_template(&tokenizer)? };
    let generation = GenerationConfig::read(with_generation)?;
    let eos = facts::ends(&config, &generation, tokenizer.eos().as_slice());
    let Settings { options, told, warnings } = args.sampling.settle(&generation, with_generation, eos);
    show(&warnings, args.output());
    let prompts = requests::tokens(requests, &tokenizer, template.as_ref())?;
    let completions = args.num_return_sequences as usize;
    let requests: Vec<Request> = prompts.into_iter().map(|prompt| Request { prompt, completions }).collect();
    if let Some(line) = &told {
        say(line);
    }
    // Before the work, so that none is lost.
    let answers = Answers::open(args.output.as_deref(), args.output(), args.num_return_sequences)?;
    let files = (&WeightSource::Directory(model), adapter.as_deref());
    match Device::choose_for(args.device, AutoBool::Auto)? {
        Device::Cpu => {
            within_memory(&config, &requests, &options)?;
            complete(CpuKernels, config, files, args, &tokenizer, &requests, &options, answers)
        }
        Device::Cuda(gpu, precision) => {
            complete(Device::open(&gpu, precision)?, config, files, args, &tokenizer, &requests, &options, answers)
        }
    }
}

/// Loads the model on a device and says what it writes.
fn complete<K: Kernels>(
    kernels: K,
    config: ModelConfig,
    (weights, adapter): (&WeightSource, Option<&Path>),
    args: &GenerateArgs,
    tokenizer: &Tokenizer,
    requests: &[Request],
    options: &GenerateOptions,
    mut answers: Answers,
) -> Result<ExitStatus, Failure> {
    let model = Model::on(kernels, config, weights, adapter)?;
    let count = requests.len() * args.num_return_sequences as usize;
    let streams = answers.is_text() && count == 1;
    let mut watched: Vec<Watched<'_>> = (0..count).map(|_| Watched::new(tokenizer, &args.stop)).collect();
    let mut streamed = 0;
    let completions = generate(&model, requests, options, &mut |written| {
        if !streams && args.stop.is_empty() {
            return ControlFlow::Continue(());
        }
        let watched = &mut watched[written.sequence];
        let flow = watched.push(written.ids);
        if streams && let Some(piece) = watched.settled().get(streamed..) {
            // A disk that is full is told at the end.
            let _ = print_words(piece);
            streamed += piece.len();
        }
        flow
    })?;
    for (index, completion) in completions.iter().enumerate() {
        let text = tokenizer.decode(&completion.ids)?;
        let text = if completion.stopped { watched[index].before_stop(&text) } else { &text };
        if streams {
            print_words(&format!("{}\n", text.get(streamed..).unwrap_or_default()))?;
        } else {
            answers.write(index, text, completion)?;
        }
    }
    answers.close()?;
    Ok(ExitStatus::Done)
}

/// Room for as many tokens as may be written is taken at once; a file beside the model may ask for any number.
fn within_memory(config: &ModelConfig, requests: &[Request], options: &GenerateOptions) -> Result<(), Failure> {
    let cache = cache_bytes(config, requests, options);
    let Some(most) = largest_memory_bytes().filter(|&most| cache > most) else { return Ok(()) };
    let tokens = options.max_new_tokens;
    let message = format!("{tokens} new tokens need {} of memory; this machine has {}", bytes(cache), bytes(most));
    let help = "give fewer: `--max-new-tokens 512`";
    Err(Diagnostic::error("generate::memory", message).help(help).into())
}

fn chat_template(tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>, Failure> {
    if tokenizer.chat_template().is_none() && !tokenizer.chat_templates().is_empty() {
        return Err(selection::no_default(tokenizer).help("give the text itself with `--raw --prompt`").into());
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    Ok(ChatTemplate::own(tokenizer, Now(now))?)
}
