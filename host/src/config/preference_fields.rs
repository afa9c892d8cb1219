//! The keys of the config for learning from preferences (`rl`).

use engine::objective::PairLoss;
use serde_json::Value;

use super::defaults;
use super::read::{Context, Section, fill, unknown_word};
use super::schema::Config;
use super::values::Rl;

/// Keys that only some methods look at, and those methods.
const OWN: [(&str, &[Rl]); 10] = [
    ("dpo_loss_type", &[Rl::Dpo, Rl::Ipo]),
    ("dpo_loss_weights", &[Rl::Dpo, Rl::Ipo]),
    ("dpo_label_smoothing", &[Rl::Dpo, Rl::Ipo]),
    ("rpo_alpha", &[Rl::Dpo, Rl::Ipo]),
    ("simpo_gamma", &[Rl::Simpo]),
    ("cpo_alpha", &[Rl::Simpo, Rl::Cpo]),
    ("orpo_alpha", &[Rl::Orpo]),
    ("kto_desirable_weight", &[Rl::Kto]),
    ("kto_undesirable_weight", &[Rl::Kto]),
    ("kto_loss_type", &[Rl::Kto]),
];
/// Those that are another way to write another key: a loaded config never has them.
const OTHER_WAYS: [&str; 2] = ["rpo_alpha", "orpo_alpha"];

/// Reads them.
pub(super) fn preferences(top: &Section<'_>, config: &mut Config) {
    const SMOOTHING: &str = "from 0 up to but not including 0.5";
    let not_negative = |n: f64| n >= 0.0 && n.is_finite();
    config.rl = top.choice("rl");
    config.rl_beta = top.checked("rl_beta", "above 0", |n: f64| n > 0.0 && n.is_finite());
    fill(&mut config.dpo_loss_type, losses(top));
    fill(&mut config.dpo_loss_weights, top.read("dpo_loss_weights"));
    fill(
        &mut config.dpo_label_smoothing,
        top.checked("dpo_label_smoothing", SMOOTHING, |n: f64| (0.0..0.5).contains(&n)),
    );
    config.rpo_alpha = top.checked("rpo_alpha", "0 or more", not_negative);
    fill(&mut config.simpo_gamma, top.checked("simpo_gamma", "0 or more", not_negative));
    fill(&mut config.cpo_alpha, top.checked("cpo_alpha", "0 or more", not_negative));
    config.orpo_alpha = top.checked("orpo_alpha", "above 0", |n: f64| n > 0.0 && n.is_finite());
    fill(&mut config.kto_desirable_weight, top.checked("kto_desirable_weight", "0 or more", not_negative));
    fill(&mut config.kto_undesirable_weight, top.checked("kto_undesirable_weight", "0 or more", not_negative));
    fill(&mut config.kto_loss_type, top.choice("kto_loss_type"));
}

fn losses(top: &Section<'_>) -> Option<Vec<String>> {
    const KEY: &str = "dpo_loss_type";
    let names: Vec<String> = top.read(KEY)?;
    let is_list = top.value(KEY).is_some_and(Value::is_array);
    let known = |(index, name): (usize, &String)| {
        let is_known = PairLoss::named(name).is_some();
        if !is_known {
            let path = if is_list { format!("{KEY}[{index}]") } else { KEY.to_owned() };
            unknown_word(top.cx, &path, name, PairLoss::ALL.iter().map(|loss| loss.name()));
        }
        is_known
    };
    // Every unknown name is told.
    let all = names.iter().enumerate().map(known).collect::<Vec<_>>();
    all.into_iter().all(|known| known).then_some(names)
}

/// What means nothing without `rl`, or not beside it. Defaults are filled in.
pub(super) fn preferences_together(cx: &Context<'_>, config: &Config, is_given: &impl Fn(&str) -> bool) {
    if config.rl.is_none() && is_given("rl") {
        return;
    }
    // A resolved config has the defaults of all methods.
    let (default, now) = (serde_json::to_value(defaults::config()), serde_json::to_value(config));
    let differs = |key: &str| match (&default, &now) {
        (Ok(default), Ok(now)) => default.get(key) != now.get(key),
        _ => true,
    };
    let says = |key: &str| is_given(key) && (OTHER_WAYS.contains(&key) || differs(key));
    for (key, methods) in OWN.into_iter().filter(|(key, _)| says(key)) {
        if config.rl.is_none_or(|rl| !methods.contains(&rl)) {
            let names: Vec<String> = methods.iter().map(|rl| format!("`rl: {}`", rl.name())).collect();
            let now = config.rl.map_or("this run has no `rl`".to_owned(), |rl| format!("`rl` is `{}`", rl.name()));
            let message = format!("`{key}` is for {}", names.join(" and "));
            cx.report(cx.error("conflict", key, message).why(now).help("delete the line, or set `rl`"));
        }
    }
    let Some(rl) = config.rl.filter(|rl| !rl.writes()) else {
        if is_given("rl_beta") {
            let message = "`rl_beta` is for learning from preferences";
            cx.report(cx.error("conflict", "rl_beta", message).help("add `rl: dpo`, or delete the line"));
        }
        return;
    };
    if config.train_on_inputs {
        let message = format!("`train_on_inputs` has no meaning with `rl: {}`", rl.name());
        let why = match rl {
            Rl::Orpo => "the prompt of a chosen answer is learned always, that of a rejected one never",
            Rl::Kto => "answers are judged; their prompt is never learned",
            _ => "answers are compared; their prompt is the same and never learned",
        };
        cx.report(cx.error("conflict", "train_on_inputs", message).why(why).help("delete the line"));
    }
    if is_given("orpo_alpha") && is_given("rl_beta") {
        let message = "`orpo_alpha` and `rl_beta` are both set";
        let why = "they are two names of the weight of the odds ratio";
        cx.report(cx.error("conflict", "orpo_alpha", message).why(why).help("delete one of them"));
    }
    if config.kto_desirable_weight <= 0.0 && config.kto_undesirable_weight <= 0.0 {
        let message = "`kto_desirable_weight` and `kto_undesirable_weight` are both 0";
        let why = "nothing would be learned of any answer";
        cx.report(cx.error("conflict", "kto_undesirable_weight", message).why(why).help("give one of them a weight"));
    }
    let (losses, weights) = (config.dpo_loss_type.len(), config.dpo_loss_weights.len());
    if losses != weights {
        let message = format!("`dpo_loss_weights` has {weights} entries, and `dpo_loss_type` {losses}");
        cx.report(cx.error("conflict", "dpo_loss_weights", message).help("give each loss a weight"));
    }
    let smoothed = ["robust", "exo_pair"];
    let is_smoothed = config.dpo_loss_type.iter().any(|loss| smoothed.contains(&loss.as_str()));
    if config.dpo_label_smoothing > 0.0 && !is_smoothed {
        let message = "`dpo_label_smoothing` has no effect on these losses";
        let why = format!("`robust` and `exo_pair` look at it; `dpo_loss_type` is {}", config.dpo_loss_type.join(", "));
        let help = "write `dpo_loss_type: robust`, or delete the line";
        cx.report(cx.error("conflict", "dpo_label_smoothing", message).why(why).help(help));
    }
    if config.dpo_label_smoothing <= 0.0 && config.dpo_loss_type.iter().any(|loss| loss == "exo_pair") {
        let message = "`dpo_loss_type: exo_pair` needs `dpo_label_smoothing` above 0";
        let why = "the loss has the logarithm of it";
        cx.report(cx.error("missing-key", "dpo_loss_type", message).why(why).help("`dpo_label_smoothing: 0.001`"));
    }
}
