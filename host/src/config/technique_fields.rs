//! How the keys of techniques are read, and what they need beside them.

use serde_json::Value;

use super::read::{Context, Section, fill, found};
use super::schema::Config;
use super::techniques::LrGroup;
use super::values::{Cadence, Rl, SaveStrategy};
use crate::diagnostic::{Diagnostic, Severity};

/// Groups of learning rates that a config may have.
const GROUPS: usize = 1000;

/// Reads them.
pub(super) fn techniques(top: &Section<'_>, config: &mut Config) {
    let own = &mut config.techniques;
    own.spectrum_top_fraction =
        top.checked("spectrum_top_fraction", "above 0 and below 1", |share: f64| share > 0.0 && share < 1.0);
    own.lisa_n_layers = top.checked("lisa_n_layers", "1 or more", |n: u32| n > 0);
    own.lisa_step_interval = top.checked("lisa_step_interval", "1 or more", |n: u64| n > 0);
    own.neftune_noise_alpha =
        top.checked("neftune_noise_alpha", "from 0 to 1000", |alpha: f64| (0.0..=1000.0).contains(&alpha));
    own.neftune_noise_alpha = own.neftune_noise_alpha.filter(|alpha| *alpha > 0.0);
    let rate = |rate: f64| (0.0..=1000.0).contains(&rate);
    own.embedding_lr = top.checked("embedding_lr", "from 0 to 1000", rate);
    own.embedding_lr_scale = top.checked("embedding_lr_scale", "from 0 to 1000", rate);
    own.loraplus_lr_ratio =
        top.checked("loraplus_lr_ratio", "above 0, and at most 1000000", |ratio: f64| ratio > 0.0 && ratio <= 1e6);
    fill(&mut own.lr_groups, lr_groups(top));
    own.early_stopping_patience = top.checked("early_stopping_patience", "1 or more", |n: u64| n > 0);
    fill(&mut own.load_best_model_at_end, top.read("load_best_model_at_end"));
    own.metric_for_best_model = top.read("metric_for_best_model");
    own.greater_is_better = top.read("greater_is_better");
}

fn lr_groups(top: &Section<'_>) -> Option<Vec<LrGroup>> {
    const KEY: &str = "lr_groups";
    let (cx, value) = (top.cx, top.value(KEY)?);
    let Value::Array(list) = value else {
        let message = format!("`{KEY}` must be a list, found {}", found(value));
        let help = "write each group as an entry: `  - {name: attention, modules: [self_attn], lr: 1e-5}`";
        cx.report(cx.error("wrong-type", KEY, message).help(help));
        return None;
    };
    if list.len() > GROUPS {
        let message = format!("`{KEY}` has more than {GROUPS} entries");
        cx.report(cx.error("out-of-range", KEY, message).help("one group can have many modules"));
        return None;
    }
    let entry = |(index, value)| {
        let entry = Section::of(cx, format!("{KEY}[{index}]"), value, &[])?;
        for key in ["name", "modules", "lr"] {
            if entry.value(key).is_none() {
                cx.missing(&entry.at(key), "a group has a `name`, `modules` and an `lr`");
            }
        }
        let name = entry.read("name").unwrap_or_default();
        let modules: Vec<String> = entry.read("modules").unwrap_or_default();
        if modules.iter().any(String::is_empty) {
            let message = "an empty text is part of every name";
            cx.report(
                cx.error("unsupported-value", &entry.at("modules"), message).help("write a part of names: `self_attn`"),
            );
        }
        let lr = entry.checked("lr", "from 0 to 1000", |rate: f64| (0.0..=1000.0).contains(&rate));
        entry.finish(|_| None);
        Some(LrGroup { name, modules, lr: lr.unwrap_or_default() })
    };
    Some(list.iter().enumerate().filter_map(entry).collect())
}

/// Keys that mean nothing without each other, or that cannot both hold.
pub(super) fn techniques_together(cx: &Context<'_>, config: &Config, is_given: impl Fn(&str) -> bool) {
    let own = &config.techniques;
    let freezing = [
        ("spectrum_top_fraction", own.spectrum_top_fraction.is_some()),
        ("lisa_n_layers", own.lisa_n_layers.is_some()),
    ];
    let others = [
        ("adapter", config.adapter.is_some(), "beside an adapter, no weight of the model is trained"),
        ("unfrozen_parameters", !config.unfrozen_parameters.is_empty(), "both say which weights are trained"),
        ("reinit_weights", config.reinit_weights, "fresh weights hold no signal"),
    ];
    for (key, _) in freezing.into_iter().filter(|(_, is_set)| *is_set) {
        // Which layers are drawn has nothing to do with what is in the weights, nor with what is frozen throughout.
        let others = &others[..if key == "lisa_n_layers" { 1 } else { 3 }];
        for (other, _, why) in others.iter().filter(|(_, is_set, _)| *is_set) {
            let diagnostic = cx.error("conflict", key, format!("`{key}` cannot be had with `{other}`"));
            cx.report(diagnostic.why(*why).help("delete one of them"));
        }
    }
    if own.lisa_n_layers.is_some() != own.lisa_step_interval.is_some() {
        let (key, other) = match own.lisa_n_layers {
            Some(_) => ("lisa_n_layers", "lisa_step_interval"),
            None => ("lisa_step_interval", "lisa_n_layers"),
        };
        if !is_given(other) {
            let example = if other == "lisa_n_layers" { "`lisa_n_layers: 2`" } else { "`lisa_step_interval: 20`" };
            cx.report(cx.error("missing-key", key, format!("`{key}` needs `{other}`")).help(format!("add {example}")));
        }
    }
    if own.embedding_lr.is_some() && own.embedding_lr_scale.is_some() {
        let message = "`embedding_lr` and `embedding_lr_scale` are both set";
        cx.report(cx.error("conflict", "embedding_lr_scale", message).help("delete one of them"));
    }
    if own.loraplus_lr_ratio.is_some() && config.adapter.is_none() {
        let message = "`loraplus_lr_ratio` without `adapter`";
        cx.report(cx.error("conflict", "loraplus_lr_ratio", message).help("add `adapter: lora`, or delete the key"));
    }
    if own.neftune_noise_alpha.is_some() && config.rl.is_some_and(Rl::writes) {
        let message = "`neftune_noise_alpha` cannot be had where the model learns from what it writes";
        let why = "what it writes is without noise, so what it learns would be of another model";
        cx.report(cx.error("conflict", "neftune_noise_alpha", message).why(why).help("delete the line"));
    }
    let keys = [
        ("load_best_model_at_end", own.load_best_model_at_end),
        ("early_stopping_patience", own.early_stopping_patience.is_some()),
        ("save_strategy", config.save_strategy == SaveStrategy::Best),
    ];
    if let Some((key, _)) = keys.into_iter().find(|(_, compares)| *compares) {
        let has_data = !config.val_set_size.is_zero() || !config.test_datasets.is_empty();
        if !has_data {
            let diagnostic =
                cx.error("conflict", key, format!("`{key}` needs evaluations, and there is nothing to evaluate on"));
            cx.report(diagnostic.help("hold some rows back: `val_set_size: 0.05`"));
        } else if config.eval_strategy == Cadence::No {
            let diagnostic =
                cx.error("conflict", key, format!("`{key}` needs evaluations on the way, and `eval_strategy` is `no`"));
            cx.report(diagnostic.help("write `eval_steps`, or `evals_per_epoch`"));
        }
    }
    for key in ["metric_for_best_model", "greater_is_better"] {
        if is_given(key) && !own.compares() && config.save_strategy != SaveStrategy::Best {
            let message = format!("`{key}` has no effect here");
            let warning = Diagnostic { severity: Severity::Warning, ..cx.error("no-effect", key, message) };
            let help = "add `load_best_model_at_end: true`, `save_strategy: best` or `early_stopping_patience`";
            cx.report(warning.why("nothing is made of which evaluation is the best").help(help));
        }
    }
}
