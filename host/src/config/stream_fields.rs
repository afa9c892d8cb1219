//! How the config's keys of streams are read.

use super::read::{Context, Section, fill};
use super::schema::Config;
use super::values::{Cadence, SaveStrategy};

/// Reads them.
pub(super) fn read(top: &Section<'_>, config: &mut Config) {
    fill(&mut config.streaming, top.read("streaming"));
    let window =
        top.checked("streaming_multipack_buffer_size", "from 1 to 10000000", |n: u32| (1..=10_000_000).contains(&n));
    fill(&mut config.streaming_multipack_buffer_size, window);
}

/// What cannot be had of samples that are made as they are learned from.
pub(super) fn together(cx: &Context<'_>, config: &Config, is_given: impl Fn(&str) -> bool) {
    if !config.streaming {
        return;
    }
    let weighted = config.datasets.iter().position(|dataset| (dataset.weight - 1.0).abs() > 0.0);
    let weight = weighted.map(|index| format!("datasets[{index}].weight"));
    let scores = [
        ("rl", config.rl.is_some()),
        ("reward_model", config.reward_model),
        ("process_reward_model", config.process_reward_model),
    ];
    let scores = scores.into_iter().find_map(|(key, is_set)| is_set.then_some(key));
    let epochs = "how many steps an epoch has is not known before it is over";
    let problems = [
        ("max_steps", config.max_steps.is_none(), "say how long the run is", "how many rows a stream has is not known"),
        (
            "val_set_size",
            !config.val_set_size.is_zero(),
            "name rows to evaluate on in `test_datasets`",
            "what is held back is drawn from all rows",
        ),
        (
            "datasets",
            config.datasets.len() > 1,
            "put the rows into one dataset, or delete `streaming`",
            "rows of several streams have no order among them",
        ),
        (
            weight.as_deref().unwrap_or_default(),
            weight.is_some(),
            "delete the line, or `streaming`",
            "one dataset is all that a pass sees",
        ),
        (
            scores.unwrap_or_default(),
            scores.is_some(),
            "delete `streaming`",
            "samples are kept where a model is asked about them or writes answers to them",
        ),
        (
            "eval_strategy",
            is_given("eval_strategy") && config.eval_strategy == Cadence::Epoch,
            "write `eval_steps`",
            epochs,
        ),
        (
            "save_strategy",
            is_given("save_strategy") && config.save_strategy == SaveStrategy::Epoch,
            "write `save_steps`",
            epochs,
        ),
        ("evals_per_epoch", config.evals_per_epoch.is_some(), "write `eval_steps`", epochs),
        ("saves_per_epoch", config.saves_per_epoch.is_some(), "write `save_steps`", epochs),
    ];
    for (key, _, help, why) in problems.into_iter().filter(|(_, is_there, ..)| *is_there) {
        let message = match key {
            "max_steps" => "`streaming` needs `max_steps`".to_owned(),
            "datasets" => "`streaming` takes one dataset".to_owned(),
            key => format!("`{key}` cannot be had with `streaming`"),
        };
        let place = if key == "max_steps" { "streaming" } else { key };
        cx.report(cx.error("conflict", place, message).why(why).help(help));
    }
}
