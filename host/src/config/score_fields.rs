//! The keys of the config for models that score (`reward_model`, `process_reward_model`).

use super::read::{Context, Section, fill};
use super::schema::{Config, DatasetConfig};

/// `model_type` of a model that scores: texts, or tokens, in the order of `Classifier`.
pub(super) const SCORING_TYPES: [&str; 2] = ["AutoModelForSequenceClassification", "AutoModelForTokenClassification"];
/// Labels that a head of scores has at most.
const MOST_LABELS: u32 = 1 << 16;

/// Reads them.
pub(super) fn scores(top: &Section<'_>, config: &mut Config) {
    fill(&mut config.reward_model, top.read("reward_model"));
    fill(&mut config.process_reward_model, top.read("process_reward_model"));
    config.center_rewards_coefficient =
        top.checked("center_rewards_coefficient", "0 or more", |n: f64| n >= 0.0 && n.is_finite());
    config.num_labels = top.checked("num_labels", "from 1 to 65536", |n: u32| (1..=MOST_LABELS).contains(&n));
}

/// What means nothing without them, or not beside them. Defaults are filled in.
pub(super) fn scores_together(cx: &Context<'_>, config: &Config, is_given: &impl Fn(&str) -> bool) {
    if config.center_rewards_coefficient.is_some() && !config.reward_model {
        let message = "`center_rewards_coefficient` is for `reward_model: true`";
        let help = "write `reward_model: true`, or delete the line";
        cx.report(cx.error("conflict", "center_rewards_coefficient", message).help(help));
    }
    let step_key = |dataset: &DatasetConfig| {
        let own = [
            ("step_separator", dataset.step_separator.is_some()),
            ("max_completion_length", dataset.max_completion_length.is_some()),
            ("train_on_last_step_only", dataset.train_on_last_step_only),
        ];
        own.into_iter().find(|(_, is_set)| *is_set).map(|(key, _)| key)
    };
    for (list, datasets) in [("datasets", &config.datasets), ("test_datasets", &config.test_datasets)] {
        let keys = datasets.iter().enumerate().filter_map(|(index, dataset)| Some((index, step_key(dataset)?)));
        for (index, key) in keys.filter(|_| !config.process_reward_model) {
            let message = format!("`{key}` is for `process_reward_model: true`");
            let help = "write `process_reward_model: true`, or delete the line";
            cx.report(cx.error("conflict", &format!("{list}[{index}].{key}"), message).help(help));
        }
    }
    match (config.reward_model, config.process_reward_model) {
        (false, false) => without(cx, config),
        (true, true) => {
            let message = "`reward_model` and `process_reward_model` are both true";
            let why = "the one scores whole answers, the other their steps";
            cx.report(cx.error("conflict", "process_reward_model", message).why(why).help("delete one of them"));
        }
        (true, false) => beside(cx, config, "reward_model", SCORING_TYPES[0], is_given),
        (false, true) => beside(cx, config, "process_reward_model", SCORING_TYPES[1], is_given),
    }
}

/// What is for models that score, in a run that trains none.
fn without(cx: &Context<'_>, config: &Config) {
    let scores = config.model_type.as_deref().filter(|name| SCORING_TYPES.contains(name));
    let own = [("num_labels", config.num_labels.is_some()), ("model_type", scores.is_some())];
    for (key, _) in own.into_iter().filter(|(_, is_set)| *is_set) {
        let message = match scores.filter(|_| key == "model_type") {
            Some(name) => format!("`model_type: {name}` is for models that score"),
            None => format!("`{key}` is for models that score"),
        };
        let help = "write `reward_model: true` or `process_reward_model: true`, or delete the line";
        cx.report(cx.error("conflict", key, message).help(help));
    }
}

/// What does not go with `method`, whose model is of this type.
fn beside(cx: &Context<'_>, config: &Config, method: &str, model_type: &str, is_given: &impl Fn(&str) -> bool) {
    let conflict = |key: &str, why: &str| {
        let message = format!("`{key}` has no meaning with `{method}: true`");
        cx.report(cx.error("conflict", key, message).why(why).help("delete one of the two"));
    };
    if is_given("rl") {
        conflict("rl", "this model learns to score answers, and `rl` says how a model learns to write them");
    }
    if config.train_on_inputs {
        conflict("train_on_inputs", "a text is scored, and none of its tokens is learned");
    }
    if !config.eval_reward_funcs.is_empty() && config.trl.is_none() {
        conflict("eval_reward_funcs", "a model that scores cannot write what they would judge");
    }
    let fits = |labels: u32| if config.reward_model { labels == 1 } else { labels > 1 };
    if let Some(labels) = config.num_labels.filter(|&labels| !fits(labels)) {
        let (wanted, help) = if config.reward_model { ("gives one score", 1) } else { ("tells labels apart", 2) };
        let message = format!("`num_labels` is {labels}, and a model of `{method}` {wanted}");
        let help = format!("write `num_labels: {help}`, or delete the line");
        cx.report(cx.error("conflict", "num_labels", message).help(help));
    }
    let is_other = |name: &&str| *name != model_type && (name.ends_with("ForCausalLM") || SCORING_TYPES.contains(name));
    if let Some(name) = config.model_type.as_deref().filter(is_other) {
        let message = format!("`model_type` is `{name}`, and `{method}: true` trains another kind of model");
        let help = format!("write `model_type: {model_type}`, or delete the line");
        cx.report(cx.error("conflict", "model_type", message).help(help));
    }
}
