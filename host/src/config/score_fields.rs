//! The keys of the config for models that score (`reward_model`).

use super::read::{Context, Section, fill};
use super::schema::Config;

/// `model_type` of a model that scores texts.
pub(super) const SCORING_TYPE: &str = "AutoModelForSequenceClassification";

/// Reads them.
pub(super) fn scores(top: &Section<'_>, config: &mut Config) {
    fill(&mut config.reward_model, top.read("reward_model"));
    config.center_rewards_coefficient =
        top.checked("center_rewards_coefficient", "0 or more", |n: f64| n >= 0.0 && n.is_finite());
    config.num_labels = top.read("num_labels");
}

/// What means nothing without `reward_model`, or not beside it. Defaults are filled in.
pub(super) fn scores_together(cx: &Context<'_>, config: &Config, is_given: &impl Fn(&str) -> bool) {
    if !config.reward_model {
        let own = [
            ("center_rewards_coefficient", config.center_rewards_coefficient.is_some()),
            ("num_labels", config.num_labels.is_some()),
            ("model_type", config.model_type.as_deref() == Some(SCORING_TYPE)),
        ];
        for (key, _) in own.into_iter().filter(|(_, is_set)| *is_set) {
            let message = match key {
                "model_type" => format!("`model_type: {SCORING_TYPE}` is for models that score"),
                _ => format!("`{key}` is for models that score"),
            };
            let help = "write `reward_model: true`, or delete the line";
            cx.report(cx.error("conflict", key, message).help(help));
        }
        return;
    }
    let conflict = |key: &str, why: &str| {
        let message = format!("`{key}` has no meaning with `reward_model: true`");
        cx.report(cx.error("conflict", key, message).why(why).help("delete one of the two"));
    };
    if is_given("rl") {
        conflict("rl", "a reward model learns to score answers, and `rl` says how a model learns to write them");
    }
    if config.train_on_inputs {
        conflict("train_on_inputs", "a text is scored as a whole, and none of its tokens is learned");
    }
    if !config.eval_reward_funcs.is_empty() && config.trl.is_none() {
        conflict("eval_reward_funcs", "a reward model cannot write what they would judge");
    }
    if let Some(labels) = config.num_labels.filter(|&labels| labels != 1) {
        let message = format!("`num_labels` is {labels}, and a reward model gives one score");
        cx.report(cx.error("conflict", "num_labels", message).help("write `num_labels: 1`, or delete the line"));
    }
    if let Some(name) =
        config.model_type.as_deref().filter(|&name| name != SCORING_TYPE && name.ends_with("ForCausalLM"))
    {
        let message = format!("`model_type` is `{name}`, and a reward model does not write");
        let help = format!("write `model_type: {SCORING_TYPE}`, or delete the line");
        cx.report(cx.error("conflict", "model_type", message).help(help));
    }
}
