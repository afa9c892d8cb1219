//! `host preprocess`: the rows of a config as the model will see them, with what of them is learned.

use std::ops::Range;

use clap::Args;
use serde_json::{Value, json};

use super::plan::mixed;
use super::ready::ready;
use super::words::show;
use super::{ConfigArgs, say};
use crate::author::replay::{self, Keep};
use crate::check::ready::Ready;
use crate::check::selection;
use crate::data::dataset::{Example, Origin, Written};
use crate::data::dropped::LeftOut;
use crate::data::packing::plan_epoch;
use crate::data::store::Sizes;
use crate::data::tokenize::TokenSample;
use crate::data::tokenizer::Tokenizer;
use crate::diagnostic::{ExitStatus, Failure};
use crate::report::progress::whole;
use crate::report::{Output, emit};
use crate::samples::{Preparing, StoreOrigin};
use crate::terminal::{Safe, print};
use crate::train::plan::Plan;

/// Label of a token that is not learned, as transformers has it.
const MASKED: i64 = -100;

#[derive(Debug, Args)]
pub(super) struct PreprocessArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// Refuse plugins that are not exactly those of the config's `plugins.lock`
    #[arg(long)]
    locked: bool,
    /// Print N samples as the model will see them, learned and masked tokens told apart
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "5")]
    show: Option<usize>,
    /// With --show: a line for each token, with its id
    #[arg(long, requires = "show")]
    tokens: bool,
}

pub(super) fn run(args: &PreprocessArgs) -> Result<ExitStatus, Failure> {
    let output = args.config.output();
    let (mut ready, _) = ready(&args.config, args.locked)?;
    ready.bring_data()?;
    let Ready { loaded, plugins, model, .. } = ready;
    let template = selection::template(&loaded, &model)?;
    let kept = |mut failure: Failure| {
        replay::keep(&mut failure, &plugins, Keep::Nothing);
        failure
    };
    let plan = Plan::new(&loaded, &plugins, &model, template.as_ref()).map_err(kept)?;
    show(&plan.data.remarks, output);
    let preparing = Preparing {
        loaded: &loaded,
        plugins: &plugins,
        model: &model,
        template: template.as_ref(),
        learns: plan.method.learns(),
    };
    let shown = preparing.shown(&plan.data, args.show.unwrap_or(0)).map_err(kept)?;
    for (index, example) in shown.iter().enumerate() {
        let Some(origin) = &example.origin else { continue };
        match output {
            Output::Json => emit("sample", sample(index, example, origin)),
            Output::Human => {
                let mut text = Safe::text(&heading(index, &plan, example, origin));
                for (name, tokens, written) in documents(example, origin) {
                    if let Some(name) = name {
                        text.push(&Safe::text(&format!("{name}\n")));
                    }
                    if args.tokens {
                        token_lines(&mut text, tokens, written, &model.tokenizer);
                    } else {
                        run_lines(&mut text, tokens, written, &model.tokenizer);
                    }
                }
                text.push(&Safe::text("\n"));
                print(&text)?;
            }
        }
    }
    summary(&plan, output)?;
    Ok(ExitStatus::Done)
}

/// The texts of a sample; those of a pair have names.
fn documents<'a>(
    example: &'a Example,
    origin: &'a Origin,
) -> impl Iterator<Item = (Option<&'static str>, &'a TokenSample, &'a Written)> {
    let rejected = example.rejected.as_ref().zip(origin.rejected.as_ref());
    let name = rejected.map(|_| "chosen");
    let first = (name, &example.tokens, &origin.written);
    std::iter::once(first).chain(rejected.map(|(tokens, written)| (Some("rejected"), tokens, written)))
}

fn sample(index: usize, example: &Example, origin: &Origin) -> Value {
    let mut fields = json!({ "index": index, "position": origin.position });
    if let Some(desirable) = example.desirable {
        fields["desirable"] = desirable.into();
    }
    for (name, tokens, written) in documents(example, origin) {
        let document = document(tokens, &example.labels, written);
        match (name, document) {
            (Some(name), document) => fields[name] = document,
            (None, Value::Object(document)) => {
                for (key, value) in document {
                    fields[key] = value;
                }
            }
            (None, _) => {}
        }
    }
    fields
}

/// `own` are labels that stand for what is learned, in its order; without, it is the tokens themselves.
fn document(tokens: &TokenSample, own: &[u32], written: &Written) -> Value {
    let mut own = own.iter();
    let labels: Vec<i64> = tokens
        .ids
        .iter()
        .zip(&tokens.trained)
        .map(|(&id, &learned)| if learned { (*own.next().unwrap_or(&id)).into() } else { MASKED })
        .collect();
    let mut fields = json!({
        "tokens": tokens.ids.len(),
        "trained_tokens": tokens.trained_tokens(),
        "text": written.text,
        "input_ids": tokens.ids,
        "labels": labels,
    });
    if let Some(weights) = &tokens.weights {
        fields["weights"] = json!(weights);
    }
    fields
}

fn heading(index: usize, plan: &Plan, example: &Example, origin: &Origin) -> String {
    let (tokens, learned) = (example.tokens(), plan.method.trained_tokens(&Sizes::of(example)));
    let all = plan.data.train.len();
    let position = &origin.position;
    let label = example.desirable.map_or("", |desirable| if desirable { "; wanted" } else { "; not wanted" });
    format!("sample {} of {all}: {position}; {tokens} tokens, {learned} learned{label}\n", index + 1)
}

/// Tokens that are treated alike, one after the other.
struct Stretch {
    tokens: Range<usize>,
    learned: bool,
    weight: f32,
}

fn stretches(tokens: &TokenSample) -> Vec<Stretch> {
    let weight = |index: usize| tokens.weights.as_ref().map_or(1.0, |weights| weights[index]);
    // The first token has nothing before it that it could be predicted from.
    let learned = |index: usize| index > 0 && tokens.trained[index];
    let mut all: Vec<Stretch> = Vec::new();
    for index in 0..tokens.ids.len() {
        match all.last_mut() {
            Some(last) if last.learned == learned(index) && last.weight.to_bits() == weight(index).to_bits() => {
                last.tokens.end = index + 1;
            }
            _ => all.push(Stretch { tokens: index..index + 1, learned: learned(index), weight: weight(index) }),
        }
    }
    all
}

/// The text, line by line, with a mark in front of what is learned.
fn run_lines(out: &mut Safe, tokens: &TokenSample, written: &Written, tokenizer: &Tokenizer) {
    for stretch in stretches(tokens) {
        let label = match (stretch.learned, stretch.weight.to_bits() == 1.0_f32.to_bits()) {
            (true, true) => "learned".to_owned(),
            (true, false) => format!("x {}", stretch.weight),
            (false, _) => String::new(),
        };
        let text = text_of(&stretch.tokens, tokens, written, tokenizer);
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for line in lines {
            let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\u{21b5}"));
            push_line(out, &format!("{label:>9} | "), &format!("{line}{end}"), stretch.learned);
        }
    }
}

fn token_lines(out: &mut Safe, tokens: &TokenSample, written: &Written, tokenizer: &Tokenizer) {
    for stretch in stretches(tokens) {
        for index in stretch.tokens.clone() {
            let label = if stretch.learned { "learned" } else { "" };
            let text = text_of(&(index..index + 1), tokens, written, tokenizer).replace('\n', "\u{21b5}");
            let start = format!("{label:>9} | {:>7}  ", tokens.ids[index]);
            push_line(out, &start, &text, stretch.learned);
        }
    }
}

/// What some tokens stand for: the bytes up to the next token's, and the names of tokens that were added.
fn text_of(places: &Range<usize>, tokens: &TokenSample, written: &Written, tokenizer: &Tokenizer) -> String {
    let mut out = String::new();
    for index in places.clone() {
        let place = &written.places[index];
        if place.is_empty() {
            out.push_str(&tokenizer.piece(tokens.ids[index]));
            continue;
        }
        // Tokens that share a character have it once: the last of them.
        let end = written.places.get(index + 1).map_or(written.text.len(), |next| match next.start {
            _ if next.is_empty() => place.end,
            start => start.max(place.start),
        });
        out.push_str(written.text.get(place.start..end).unwrap_or_default());
    }
    out
}

fn push_line(out: &mut Safe, start: &str, text: &str, learned: bool) {
    let text = Safe::line(text);
    out.push(&Safe::line(start));
    out.push(&if learned { text.green() } else { text });
    out.push(&Safe::text("\n"));
}

fn summary(plan: &Plan, output: Output) -> Result<(), Failure> {
    let lengths = plan.data.train.lengths()?;
    let batches = &plan.packing;
    let packing = batches.sample_packing.then(|| {
        let epoch = plan_epoch(&lengths, batches, 0);
        let filled: u64 = epoch.batches().flatten().map(|sample| u64::from(lengths[sample])).sum();
        let count = epoch.len();
        let room = count * batches.micro_batch_size * batches.sequence_len;
        (count, filled as f64 / room.max(1) as f64)
    });
    let mut sorted = lengths;
    sorted.sort_unstable();
    let (shortest, longest) = (sorted.first().copied().unwrap_or(0), sorted.last().copied().unwrap_or(0));
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
    let left_out = plan.data.dropped.reasons();
    match output {
        Output::Json => emit(
            "preprocess",
            json!({
                "rows": plan.data.rows,
                "samples": plan.data.train.len(),
                "eval_samples": plan.data.eval.len(),
                "epoch_samples": plan.epoch_samples,
                "streaming": plan.streams,
                "tokens": plan.tokens,
                "trained_tokens": plan.trained_tokens,
                "shortest": shortest,
                "median": median,
                "longest": longest,
                "packing_efficiency": packing.map(|(_, share)| share),
                "micro_batches": packing.map(|(count, _)| count),
                "dropped": left_out,
                "kept": plan.data.origins.iter().map(origin_json).collect::<Vec<_>>(),
            }),
        ),
        Output::Human => {
            say(&format!(
                "samples   {} of {} rows, {} tokens, {} of them learned; {} more for evaluation",
                whole(plan.data.train.len() as f64),
                whole(plan.data.rows as f64),
                whole(plan.tokens as f64),
                whole(plan.trained_tokens as f64),
                whole(plan.data.eval.len() as f64),
            ));
            if plan.streams {
                say(
                    "stream    these are the first window of a stream; what is behind it is looked at when the run comes to it",
                );
            }
            say(&format!(
                "lengths   {shortest} to {longest} tokens, the median is {median}; `sequence_len` is {}",
                batches.sequence_len
            ));
            if let Some((count, share)) = packing {
                let (size, length) = (batches.micro_batch_size, batches.sequence_len);
                say(&format!(
                    "packing   {:.1} % of {count} micro-batches of {size} x {length} tokens are filled",
                    100.0 * share
                ));
            }
            if let Some(words) = mixed(plan) {
                say(&format!("an epoch  {words}"));
            }
            for left_out in &left_out {
                say(&format!("left out  {}", with_first(left_out)));
            }
            for (dataset, origin) in &plan.data.origins {
                say(&format!("kept      {dataset}: {}", origin_words(origin)));
            }
        }
    }
    Ok(())
}

fn origin_json((dataset, origin): &(String, StoreOrigin)) -> Value {
    let (path, is_made, changed) = match origin {
        StoreOrigin::Kept(path) => (Some(path), false, &[][..]),
        StoreOrigin::Made(path, changed) => (Some(path), true, &changed[..]),
        StoreOrigin::NotKept => (None, true, &[][..]),
    };
    json!({ "dataset": dataset, "path": path, "made": is_made, "changed": changed })
}

fn origin_words(origin: &StoreOrigin) -> String {
    match origin {
        StoreOrigin::Kept(path) => format!("made before, in {}", path.display()),
        StoreOrigin::Made(path, changed) if changed.is_empty() => format!("in {}", path.display()),
        StoreOrigin::Made(path, changed) => {
            let changed: Vec<String> = changed.iter().map(|name| format!("`{name}`")).collect();
            format!("in {}; made anew, because {} changed", path.display(), changed.join(", "))
        }
        StoreOrigin::NotKept => "nowhere: there is no cache directory; name one in `dataset_prepared_path`".to_owned(),
    }
}

fn with_first(left_out: &LeftOut) -> String {
    let first = left_out.first.as_ref().map(|first| format!("; the first is {first}"));
    format!("{left_out}{}", first.unwrap_or_default())
}
