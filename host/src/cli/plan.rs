//! What a run would be and what it would take: `host train --dry-run` and `host check --plan`.

use serde_json::json;

use super::say;
use crate::check::facts::ModelFacts;
use crate::config::LoadedConfig;
use crate::data::filter::FilterReport;
use crate::report::progress::{bytes, whole};
use crate::report::{Output, emit};
use crate::rl::trial::Trial;
use crate::train::cost::Cost;
use crate::train::measure::Time;
use crate::train::plan::Plan;
use crate::train::trial::{On, Tried};

/// Says what the run would be, with the rewards that were tried; `closing` ends it for a person.
pub(super) fn describe(
    loaded: &LoadedConfig,
    model: &ModelFacts,
    plan: &Plan,
    cost: &Cost,
    time: Option<Time>,
    tried: &[Tried],
    output: Output,
    closing: &str,
) {
    match output {
        Output::Json => emit(
            "plan",
            json!({
                "total_steps": plan.total_steps,
                "steps_per_epoch": plan.steps_per_epoch,
                "samples": plan.data.train.len(),
                "eval_samples": plan.data.eval.len(),
                "epoch_samples": plan.epoch_samples,
                "streaming": plan.streams,
                "rows": plan.data.rows,
                "dropped": plan.data.dropped.reasons(),
                "row_filters": plan.data.dropped.filters.iter().map(FilterReport::to_json).collect::<Vec<_>>(),
                "tokens": plan.tokens,
                "trained_tokens": plan.trained_tokens,
                "warmup_steps": plan.schedule.warmup_steps,
                "parameters": model.parameters(),
                "trainable_parameters": cost.trainable_parameters,
                "total_parameters": cost.total_parameters,
                "memory": cost.memory,
                "step_seconds": time.map(|time| time.step_seconds),
                "train_seconds": time.map(|time| time.train_seconds),
                "rewards": tried.iter().map(Tried::to_json).collect::<Vec<_>>(),
                "disk": cost.disk,
                "disk_bytes": cost.disk.total,
                "output_dir": loaded.config.output_dir,
            }),
        ),
        Output::Human => {
            let mut lines = run(loaded, model, plan, cost);
            lines.extend(tried.iter().flat_map(rewards));
            lines.extend(memory(cost));
            lines.push(disk(cost));
            lines.push(duration(time, plan));
            lines.push(closing.to_owned());
            say(&lines.join("\n"));
        }
    }
}

fn run(loaded: &LoadedConfig, model: &ModelFacts, plan: &Plan, cost: &Cost) -> Vec<String> {
    let batch = plan.packing.micro_batch_size * plan.accumulation;
    let mut lines = vec![
        format!(
            "model     {}, {} of {} parameters trained",
            model.config.architecture,
            whole(cost.trainable_parameters as f64),
            whole(cost.total_parameters as f64)
        ),
        format!(
            "data      {}{} samples of {} rows, {} tokens, {} of them learned",
            if plan.streams { "a stream, at first " } else { "" },
            whole(plan.data.train.len() as f64),
            whole(plan.data.rows as f64),
            whole(plan.tokens as f64),
            whole(plan.trained_tokens as f64)
        ),
    ];
    lines.extend(mixed(plan).map(|words| format!("an epoch  {words}")));
    // Of a stream nobody knows how long an epoch is.
    let epoch = if plan.streams { String::new() } else { format!(" {} an epoch,", plan.steps_per_epoch) };
    lines.extend([
        format!("eval      {} samples", whole(plan.data.eval.len() as f64)),
        format!("steps     {} of {batch} samples,{epoch} {} of warm-up", plan.total_steps, plan.schedule.warmup_steps),
        format!("output    {}", loaded.config.output_dir),
    ]);
    let dropped = &plan.data.dropped;
    lines.extend(dropped.filters.iter().map(|filter| format!("filter    {}: {}", filter.plugin, filter.words())));
    lines.extend(dropped.reasons().iter().map(|left_out| format!("left out  {left_out}")));
    lines
}

/// How often the samples of each dataset are seen, where that is not once.
pub(super) fn mixed(plan: &Plan) -> Option<String> {
    let mix = &plan.packing.mix;
    (!mix.is_even()).then(|| {
        let of = |(index, samples, seen)| {
            format!("{} from the {} of datasets[{index}]", whole(seen as f64), whole(f64::from(samples)))
        };
        let each: Vec<String> = mix.datasets().map(of).collect();
        format!("{} samples: {}", whole(plan.epoch_samples as f64), each.join(", "))
    })
}

/// What each reward made of what it was tried on.
fn rewards(tried: &Tried) -> Vec<String> {
    let left_out = match tried.without_reference {
        0 => String::new(),
        1 => "; 1 more has no reference".to_owned(),
        count => format!("; {count} more have no reference"),
    };
    let what = match tried.on {
        On::References => format!("on the references of the first {} samples{left_out}", tried.samples),
        On::Completions if tried.without_sample == 0 => format!("on the first {} completions given", tried.samples),
        On::Completions => format!(
            "on the first {} completions given; {} of them have the prompt of no sample, and no columns of a row",
            tried.samples, tried.without_sample
        ),
        On::NoReferences => "not tried: no sample has a reference; `--completions FILE` gives completions".to_owned(),
        On::NoEpisodes => {
            "not tried: they judge episodes, and a row has none; `--completions FILE` gives some".to_owned()
        }
    };
    let width = tried.rewards.iter().map(|trial| trial.name.chars().count()).max().unwrap_or(0);
    let heading = format!("rewards   {}, {what}", tried.key);
    std::iter::once(heading).chain(tried.rewards.iter().map(|trial| reward(trial, width))).collect()
}

fn reward(trial: &Trial, width: usize) -> String {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
    let [mean, deviation] = trial.moments().map(number);
    let (seen, judged, errors) = (trial.seen(), trial.judged(), trial.errors());
    let failed = if errors > 0 { format!(", failed on {errors}") } else { String::new() };
    let time = trial.seconds_each().map_or_else(String::new, |each| match each {
        each if each < 1e-4 => format!("; {:.0} µs each", 1e6 * each),
        each => format!("; {:.1} ms each", 1e3 * each),
    });
    format!(
        "          {:<width$}  mean {mean}, deviation {deviation}; {judged} of {seen} judged{failed}{time}",
        trial.name
    )
}

/// A row for each part that there is.
fn memory(cost: &Cost) -> Vec<String> {
    let parts = cost.memory.parts().into_iter().filter(|part| part.1 > 0);
    // Where the device has memory of its own, the machine's is another sum.
    let sums = match cost.memory.host {
        host if host == cost.memory.total => vec![("in all", host)],
        host => vec![("on the GPU", cost.memory.total), ("beside it", host)],
    };
    let rows: Vec<(&str, String)> = parts.chain(sums).map(|(name, part)| (name, bytes(part))).collect();
    let width = rows.iter().map(|(_, size)| size.chars().count()).max().unwrap_or(0);
    let row = |(index, (name, size)): (usize, &(&str, String))| {
        let heading = if index == 0 { "memory" } else { "" };
        format!("{heading:<8}  {name:<11}  {size:>width$}")
    };
    rows.iter().enumerate().map(row).collect()
}

fn duration(time: Option<Time>, plan: &Plan) -> String {
    let Some(Time { step_seconds, train_seconds }) = time else {
        return "time      not measured: `host train --dry-run` makes a step, where there is the memory for it"
            .to_owned();
    };
    let beside = if plan.data.eval.is_empty() { "" } else { ", evaluations not counted" };
    let words = match train_seconds {
        seconds if seconds < 10.0 => format!("{seconds:.1} s"),
        seconds if seconds < 120.0 => format!("{seconds:.0} s"),
        seconds if seconds < 7200.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.1} h", seconds / 3600.0),
    };
    format!("time      {words}: {step_seconds:.3} s a step, as measured{beside}")
}

fn disk(cost: &Cost) -> String {
    let disk = cost.disk;
    let checkpoints = match disk.checkpoints {
        0 => "no checkpoint".to_owned(),
        1 => format!("a checkpoint of {}", bytes(disk.checkpoint)),
        count => format!("at most {} checkpoints of {} at a time", whole(count as f64), bytes(disk.checkpoint)),
    };
    format!("disk      {}: {checkpoints}, a model of {}", bytes(disk.total), bytes(disk.model))
}
