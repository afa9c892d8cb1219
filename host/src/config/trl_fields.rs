//! The keys of the config for learning from what the model writes (`rl: grpo`, `rl: distill`): `trl`.

use serde_json::Value;

use super::axolotl_keys::TRL;
use super::plugin_fields::rewards;
use super::read::{Context, Section, fill};
use super::schema::{Config, Trl};
use super::values::{Aggregation, PluginRef, Rl, ScaleRewards};

/// Values that leave a distribution as it is: the policy that samples is the one that learns.
const PLAIN: [(&str, f64); 4] = [("top_p", 1.0), ("top_k", 0.0), ("min_p", 0.0), ("repetition_penalty", 1.0)];

/// Keys that a teacher's distributions leave nothing to.
const JUDGED: [&str; 14] = [
    "reward_funcs",
    "reward_weights",
    "num_generations",
    "num_iterations",
    "epsilon",
    "epsilon_high",
    "delta",
    "use_bias_correction_kl",
    "loss_type",
    "importance_sampling_level",
    "scale_rewards",
    "multi_objective_aggregation",
    "mask_truncated_completions",
    "shuffle_rewards",
];

/// The run-health plugin that knows what goes wrong here.
const REWARD_WATCH: &str = "reward-watch";

/// Reads `trl`. What is not given, and follows from other keys, is zero until [`derive`].
pub(super) fn trl(top: &Section<'_>, config: &mut Config) {
    let cx = top.cx;
    let mut trl = Trl { max_completion_length: 0, steps_per_generation: 0, ..Trl::default() };
    let Some(value) = top.value("trl") else {
        // What an environment rewards needs no other reward.
        config.trl = (is_grpo(config) && config.environment.is_some()).then_some(trl);
        return;
    };
    let Some(section) = Section::of(cx, "trl", value, TRL) else { return };
    let is_distill = config.rl == Some(Rl::Distill);
    trl.teacher_model_name_or_path = section.file_path("teacher_model_name_or_path");
    for key in JUDGED.into_iter().filter(|key| is_distill && section.value(key).is_some()) {
        let message = format!("`trl.{key}` is for `rl: grpo`");
        let why = "with `rl: distill` the teacher's distributions are learned, and nothing is judged";
        cx.report(cx.error("conflict", &section.at(key), message).why(why).help("delete the line"));
    }
    fill(&mut trl.reward_funcs, rewards(&section, "reward_funcs"));
    fill(&mut trl.reward_weights, section.read("reward_weights"));
    fill(&mut trl.num_generations, section.checked("num_generations", "2 or more", |n: u32| n > 1));
    fill(&mut trl.max_completion_length, section.checked("max_completion_length", "1 or more", |n: u32| n > 0));
    fill(&mut trl.temperature, section.checked("temperature", "above 0", |n: f64| n > 0.0 && n.is_finite()));
    fill(&mut trl.steps_per_generation, section.checked("steps_per_generation", "1 or more", |n: u32| n > 0));
    fill(&mut trl.num_iterations, section.checked("num_iterations", "1 or more", |n: u32| n > 0));
    fill(
        &mut trl.epsilon,
        section.checked("epsilon", "from 0 up to but not including 1", |n: f64| (0.0..1.0).contains(&n)),
    );
    trl.epsilon_high = section.checked("epsilon_high", "0 or more", |n: f64| n >= 0.0 && n.is_finite());
    trl.delta = section.checked("delta", "above 1", |n: f64| n > 1.0 && n.is_finite());
    let (range, most) = if is_distill { ("from 0 to 1", 1.0) } else { ("0 or more", f64::MAX) };
    trl.beta = if is_distill { 1.0 } else { 0.0 };
    fill(&mut trl.beta, section.checked("beta", range, |n: f64| (0.0..=most).contains(&n)));
    if is_distill {
        trl.num_generations = 1;
    }
    fill(&mut trl.use_bias_correction_kl, section.read("use_bias_correction_kl"));
    fill(&mut trl.loss_type, section.choice("loss_type"));
    fill(&mut trl.importance_sampling_level, section.choice("importance_sampling_level"));
    let scale = match section.value("scale_rewards") {
        Some(Value::Bool(scales)) => Some(if *scales { ScaleRewards::Group } else { ScaleRewards::None }),
        _ => section.choice("scale_rewards"),
    };
    fill(&mut trl.scale_rewards, scale);
    let aggregation = section.choice("multi_objective_aggregation");
    let of_gdpo = (config.rl == Some(Rl::Gdpo)).then_some(Aggregation::NormalizeThenSum);
    fill(&mut trl.multi_objective_aggregation, aggregation.or(of_gdpo));
    fill(&mut trl.mask_truncated_completions, section.read("mask_truncated_completions"));
    fill(&mut trl.shuffle_rewards, section.read("shuffle_rewards"));
    fill(&mut trl.num_completions_to_log, section.read("num_completions_to_log"));
    for (key, plain) in PLAIN {
        if section.read::<f64>(key).is_some_and(|value| (value - plain).abs() > f64::EPSILON) {
            let message = format!("`trl.{key}` is always {plain} here");
            let why = "completions are sampled from the very distribution that learns from them: a cut one has other \
                       probabilities, and ratios would not be 1";
            cx.report(cx.error("unsupported-value", &section.at(key), message).why(why).help("delete the line"));
        }
    }
    section.finish(|_| None);
    config.trl = Some(trl);
}

fn is_grpo(config: &Config) -> bool {
    matches!(config.rl, Some(Rl::Grpo | Rl::Gdpo))
}

/// Fills in what follows from other keys.
pub(super) fn derive(config: &mut Config, is_given: &impl Fn(&str) -> bool) {
    let Some(trl) = &mut config.trl else { return };
    if trl.steps_per_generation == 0 {
        trl.steps_per_generation = config.gradient_accumulation_steps;
    }
    if trl.max_completion_length == 0 {
        trl.max_completion_length = Trl::default().max_completion_length.min(config.sequence_len / 2).max(1);
    }
    if trl.reward_weights.is_empty() {
        trl.reward_weights = vec![1.0; trl.reward_funcs.len()];
    }
    // What is learned is what is evaluated, unless the config says otherwise.
    let evaluates = !config.test_datasets.is_empty() || !config.val_set_size.is_zero();
    if evaluates && !trl.reward_funcs.is_empty() && !is_given("eval_reward_funcs") {
        config.eval_reward_funcs.clone_from(&trl.reward_funcs);
    }
    if !is_given("run_health") {
        config.run_health.push(PluginRef::named(REWARD_WATCH));
    }
    if !is_given("eval_max_new_tokens") {
        config.eval_max_new_tokens = trl.max_completion_length;
    }
}

/// What does not go together. Defaults are filled in.
pub(super) fn trl_together(cx: &Context<'_>, config: &Config) {
    let is_grpo = is_grpo(config);
    if config.environment.is_some() {
        environment_together(cx, config, is_grpo);
    }
    let is_distill = config.rl == Some(Rl::Distill);
    let Some(trl) = &config.trl else {
        if is_distill {
            cx.missing("trl.teacher_model_name_or_path", "name the model to learn from: its directory");
        }
        if is_grpo {
            let message = "`rl: grpo` needs `trl`";
            let help = "say at least what is rewarded: `trl: {reward_funcs: [exact-match]}`";
            cx.report(cx.error("missing-key", "rl", message).help(help));
        }
        return;
    };
    let Some(rl) = config.rl.filter(|rl| rl.writes()) else {
        let help = "write `rl: grpo` or `rl: distill`, or delete the section";
        cx.report(cx.error("conflict", "trl", "`trl` is for `rl: grpo` and `rl: distill`").help(help));
        return;
    };
    let rl = rl.name();
    if config.train_on_inputs {
        let message = format!("`train_on_inputs` has no meaning with `rl: {rl}`");
        let why = "what the model writes is learned, and prompts are given";
        cx.report(cx.error("conflict", "train_on_inputs", message).why(why).help("delete the line"));
    }
    if config.sample_packing {
        let message = format!("`sample_packing` has no meaning with `rl: {rl}`");
        let why = "completions are laid end to end as they come, each with its own positions and attention";
        cx.report(cx.error("conflict", "sample_packing", message).why(why).help("delete the line"));
    }
    if is_distill {
        distill_together(cx, config, trl);
    } else if trl.teacher_model_name_or_path.is_some() {
        let message = "`trl.teacher_model_name_or_path` is for `rl: distill`";
        let help = "write `rl: distill`, or delete the line";
        cx.report(cx.error("conflict", "trl.teacher_model_name_or_path", message).help(help));
    }
    room(cx, config, trl);
    if !is_grpo {
        return;
    }
    let (rewards, weights) = (trl.reward_funcs.len(), trl.reward_weights.len());
    if rewards == 0 && weights == 0 && config.environment.is_some() {
        // The environment rewards.
    } else if rewards == 0 {
        cx.missing("trl.reward_funcs", "name what judges completions: `reward_funcs: [exact-match]`");
    } else if rewards != weights {
        let message = format!("`trl.reward_weights` has {weights} entries, and `trl.reward_funcs` {rewards}");
        cx.report(cx.error("conflict", "trl.reward_weights", message).help("give each reward a weight"));
    }
    if trl.reward_weights.iter().any(|weight| !weight.is_finite()) {
        cx.report(cx.error("out-of-range", "trl.reward_weights", "a weight is a finite number"));
    }
    if trl.delta.is_some_and(|delta| delta <= 1.0 + trl.epsilon) {
        let message = format!("`trl.delta` must be above 1 + `epsilon`, which is {}", 1.0 + trl.epsilon);
        cx.report(cx.error("out-of-range", "trl.delta", message));
    }
    divides(cx, config, trl);
}

/// What a teacher goes with.
fn distill_together(cx: &Context<'_>, config: &Config, trl: &Trl) {
    if trl.teacher_model_name_or_path.is_none() {
        cx.missing("trl.teacher_model_name_or_path", "name the model to learn from: its directory");
    }
    let evaluated =
        [("test_datasets", !config.test_datasets.is_empty()), ("val_set_size", !config.val_set_size.is_zero())];
    let unjudged = config.eval_reward_funcs.is_empty();
    for (key, _) in evaluated.into_iter().filter(|(_, is_set)| *is_set && unjudged) {
        let message = format!("`{key}` with `rl: distill` needs `eval_reward_funcs`");
        let why = "an evaluation is what rewards say of what the model writes";
        cx.report(cx.error("conflict", key, message).why(why).help("`eval_reward_funcs: [exact-match]`, for example"));
    }
}

/// There is room for a prompt and a completion.
fn room(cx: &Context<'_>, config: &Config, trl: &Trl) {
    if trl.max_completion_length >= config.sequence_len {
        let (completion, all) = (trl.max_completion_length, config.sequence_len);
        let message = format!("completions of {completion} tokens leave no room for a prompt");
        let why = format!("`sequence_len` is {all}: prompt and completion together");
        let help = format!("write `sequence_len: {}`, or a lower `trl.max_completion_length`", 2 * completion);
        cx.report(cx.error("conflict", "trl.max_completion_length", message).why(why).help(help));
    }
}

/// What an environment goes with.
fn environment_together(cx: &Context<'_>, config: &Config, is_grpo: bool) {
    if !is_grpo {
        let message = "`environment` is for `rl: grpo`";
        let help = "write `rl: grpo`, or delete the line";
        cx.report(cx.error("conflict", "environment", message).help(help));
        return;
    }
    let evaluated =
        [("test_datasets", !config.test_datasets.is_empty()), ("val_set_size", !config.val_set_size.is_zero())];
    for (key, _) in evaluated.into_iter().filter(|(_, is_set)| *is_set) {
        let message = format!("`{key}` with `environment`: there are no evaluations in an environment yet");
        let why = "an evaluation generates one completion for each prompt, and would tell nothing of episodes";
        let help = "delete the line; `rewards/<name>/mean` of `metrics.jsonl` shows how training goes";
        cx.report(cx.error("conflict", key, message).why(why).help(help));
    }
}

/// Groups must fill a generation.
fn divides(cx: &Context<'_>, config: &Config, trl: &Trl) {
    let (micro, steps, group) = (config.micro_batch_size, trl.steps_per_generation, trl.num_generations);
    let completions = u64::from(micro) * u64::from(steps);
    if completions.is_multiple_of(u64::from(group)) {
        return;
    }
    let message =
        format!("`trl.num_generations` {group} does not divide the {completions} completions of a generation");
    let why =
        format!("`micro_batch_size` {micro} x `trl.steps_per_generation` {steps} completions are sampled together");
    // The smallest batch from the present one on that whole groups fill.
    let next = (micro..=micro.saturating_add(group))
        .find(|micro| (u64::from(*micro) * u64::from(steps)).is_multiple_of(u64::from(group)));
    let help = format!("write `micro_batch_size: {}`", next.unwrap_or(group));
    cx.report(cx.error("conflict", "trl.num_generations", message).why(why).help(help));
}
