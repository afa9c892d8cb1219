//! Learning rate, warm-up and AdamW.

use plugin_sdk::rules::{Facts, Rule, Severity, Violation};

pub(crate) const RULES: &[Rule] = &[
    Rule {
        id: "H9",
        severity: Severity::Error,
        summary: "the warm-up ends before the run does",
        evidence: "otherwise the learning rate never reaches the value that was chosen",
        check: endless_warmup,
    },
    Rule {
        id: "H10",
        severity: Severity::Warning,
        summary: "lr_scheduler: constant has no warm-up",
        evidence: "transformers' get_constant_schedule ignores warm-up steps",
        check: constant_warmup,
    },
    Rule {
        id: "H11",
        severity: Severity::Warning,
        summary: "the learning rate is in the band that works for the method",
        evidence: "published recipes: up to 1e-4 for all weights, 1e-5 to 1e-3 for LoRA (Biderman et al. 2024, arXiv 2405.09673)",
        check: unusual_rate,
    },
    Rule {
        id: "H18",
        severity: Severity::Warning,
        summary: "cosine_min_lr_ratio comes with a cosine",
        evidence: "Axolotl reads it for `lr_scheduler: cosine` alone",
        check: ratio_without_cosine,
    },
    Rule {
        id: "H19",
        severity: Severity::Warning,
        summary: "adam_beta1 is below the square root of adam_beta2",
        evidence: "Zhang et al. 2022, arXiv 2208.09632: Adam converges there, and can diverge elsewhere",
        check: betas,
    },
    Rule {
        id: "H28",
        severity: Severity::Error,
        summary: "the learning rate is below 1",
        evidence: "a step of Adam moves each parameter by about the rate (Kingma and Ba 2014, arXiv 1412.6980, section 2.1)",
        check: rate_of_one,
    },
    Rule {
        id: "H29",
        severity: Severity::Warning,
        summary: "weight_decay is at most 1, adam_epsilon at most 1e-3",
        evidence: "published recipes: a weight_decay up to 0.3, an adam_epsilon from 1e-15 to 1e-5",
        check: lost_signs,
    },
];

/// Models below this size are trained with much higher rates.
const SMALL: f64 = 100e6;
/// What is trained, the rates that work for it, and one that does.
const BANDS: [(Method, f64, f64, &str); 2] =
    [(Method::Lora, 1e-5, 1e-3, "2e-4"), (Method::AllWeights, 0.0, 1e-4, "2e-5")];

#[derive(PartialEq)]
enum Method {
    Lora,
    AllWeights,
}

fn endless_warmup(facts: &Facts) -> Option<Violation> {
    if facts.text("lr_scheduler") == Some("constant") {
        return None;
    }
    let why = "the learning rate would never reach `learning_rate`";
    if let Some(ratio) = facts.number("warmup_ratio").filter(|ratio| *ratio >= 1.0) {
        let message = format!("`warmup_ratio` {ratio} is the whole run");
        return Some(Violation::at("warmup_ratio", message, why).help("set `warmup_ratio: 0.03`"));
    }
    let warmup = facts.number("warmup_steps")?;
    // Without `max_steps`, the length of the run is known once the data is read.
    let steps = facts.number("max_steps").or_else(|| facts.data("total_steps").as_f64())?;
    (warmup >= steps && steps >= 1.0).then(|| {
        Violation::at("warmup_steps", format!("the warm-up takes {warmup} steps, the run {steps}"), why)
            .and(if facts.is_given("max_steps") { "max_steps" } else { "num_epochs" })
            .help(format!("set `warmup_steps: {}`", (steps * 0.03).ceil().min(steps - 1.0)))
    })
}

fn constant_warmup(facts: &Facts) -> Option<Violation> {
    let key = ["warmup_steps", "warmup_ratio"].into_iter().find(|key| facts.is_set(key))?;
    (facts.text("lr_scheduler") == Some("constant")).then(|| {
        Violation::at(
            key,
            format!("`{key}` has no effect with `lr_scheduler: constant`"),
            "that schedule has no warm-up",
        )
        .and("lr_scheduler")
        .help("write `lr_scheduler: constant_with_warmup`")
        .set("lr_scheduler", "constant_with_warmup")
    })
}

/// Says nothing of models that are tiny or start from random weights: theirs are higher.
fn unusual_rate(facts: &Facts) -> Option<Violation> {
    let (rate, parameters) = (facts.number("learning_rate")?, facts.model("parameters").as_f64()?);
    let method = if facts.is_set("adapter") { Method::Lora } else { Method::AllWeights };
    let (_, low, high, usual) = BANDS.iter().find(|band| band.0 == method)?;
    // Rule H28 has the word from 1 on.
    if parameters < SMALL
        || facts.flag("reinit_weights")
        || !(0.0..1.0).contains(&rate)
        || (*low..=*high).contains(&rate)
    {
        return None;
    }
    let what = if method == Method::Lora { "an adapter" } else { "a model's own weights" };
    let (word, why) =
        if rate > *high { ("high", "training usually diverges there") } else { ("low", "it hardly learns there") };
    Some(
        Violation::at(
            "learning_rate",
            format!(
                "`learning_rate` {rate:e} is {word} for training {what} of {:.0} million parameters",
                parameters / 1e6
            ),
            why,
        )
        .help(format!(
            "`{usual}` is usual; silence this rule with `rules: [{{name: practice, severity: {{H11: off}}}}]`"
        )),
    )
}

/// Whatever the model: the first step would replace all that it knows.
fn rate_of_one(facts: &Facts) -> Option<Violation> {
    let rate = facts.number("learning_rate").filter(|rate| *rate >= 1.0)?;
    let why = "a step of AdamW moves each weight by about the learning rate, and weights are far smaller than 1";
    let usual = if facts.is_set("adapter") { "2e-4" } else { "2e-5" };
    let help =
        with_sign(rate).map_or_else(|| format!("learning_rate: {usual}"), |meant| format!("learning_rate: {meant}"));
    Some(Violation::at("learning_rate", format!("`learning_rate` {rate:e} destroys any model"), why).help(help))
}

fn lost_signs(facts: &Facts) -> Option<Violation> {
    for (key, most, why) in [
        ("weight_decay", 1.0, "each step would take away `learning_rate` times that much of every weight"),
        (
            "adam_epsilon",
            1e-3,
            "it is far larger than the root of a second moment, so hardly anything would be learned",
        ),
    ] {
        let Some(value) = facts.number(key).filter(|value| *value > most) else { continue };
        let usual = if key == "weight_decay" { "0.01" } else { "1e-8" };
        let meant = with_sign(value).unwrap_or_else(|| usual.to_owned());
        let message = format!("`{key}` {value:e} is larger than any that is used");
        return Some(Violation::at(key, message, why).help(format!("{key}: {meant}")));
    }
    None
}

/// The number that was meant where the sign of its exponent was lost: 2e4 for 2e-4.
fn with_sign(value: f64) -> Option<String> {
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e')?;
    let exponent: i32 = exponent.parse().ok().filter(|exponent| (1..=15).contains(exponent))?;
    (digits.len() <= 4).then(|| format!("{digits}e-{exponent}"))
}

fn ratio_without_cosine(facts: &Facts) -> Option<Violation> {
    let scheduler = facts.text("lr_scheduler").unwrap_or("a plugin");
    (facts.is_set("cosine_min_lr_ratio") && scheduler != "cosine").then(|| {
        Violation::at(
            "cosine_min_lr_ratio",
            "`cosine_min_lr_ratio` has no effect",
            format!("it is where a cosine ends; `lr_scheduler` is {scheduler}"),
        )
        .and("lr_scheduler")
        .help("delete it, or write `lr_scheduler: cosine`")
    })
}

fn betas(facts: &Facts) -> Option<Violation> {
    let (beta1, beta2) = (facts.number("adam_beta1")?, facts.number("adam_beta2")?);
    (beta2 >= 0.0 && beta1 >= beta2.sqrt()).then(|| {
        let key = if facts.is_given("adam_beta2") { "adam_beta2" } else { "adam_beta1" };
        Violation::at(
            key,
            format!("`adam_beta1` {beta1} is not below the square root of `adam_beta2` {beta2}"),
            "the step size is then steadied less than the step, and grows where gradients are rare",
        )
        .help("`adam_beta1: 0.9` with `adam_beta2: 0.95` or `0.999` is usual")
    })
}

#[cfg(test)]
mod tests {
    use plugin_sdk::serde_json::{Value, json};

    use plugin_sdk::rules::CompatRules as _;

    use super::*;
    use crate::Practice;
    use crate::tests::fired;

    fn check(config: Value) -> Vec<String> {
        fired(config, json!({"parameters": 1e9}))
    }

    #[test]
    fn h9_the_warm_up_ends() {
        assert_eq!(check(json!({"warmup_steps": 10})), [""; 0]);
        assert_eq!(check(json!({"warmup_steps": 10, "max_steps": 10})), ["H9"]);
        assert_eq!(check(json!({"warmup_steps": 9, "max_steps": 10})), [""; 0]);
        let read = |config: Value| {
            let facts = Facts::of(json!({"lr_scheduler": "cosine"}), config).with_data(json!({"total_steps": 5}));
            endless_warmup(&facts).is_some()
        };
        assert_eq!([read(json!({"warmup_steps": 5})), read(json!({"warmup_steps": 4}))], [true, false]);
        assert!(!read(json!({"warmup_steps": 5, "max_steps": 10})));
        assert_eq!(check(json!({"warmup_ratio": 1})), ["H9"]);
        assert_eq!(check(json!({"warmup_ratio": 0.1, "max_steps": 10})), [""; 0]);
    }

    #[test]
    fn h10_constant_from_the_start() {
        assert_eq!(check(json!({"warmup_steps": 10, "lr_scheduler": "constant"})), ["H10"]);
        assert_eq!(check(json!({"warmup_steps": 10, "max_steps": 5, "lr_scheduler": "constant"})), ["H10"]);
        assert_eq!(check(json!({"warmup_steps": 0, "lr_scheduler": "constant"})), [""; 0]);
    }

    #[test]
    fn h11_rates_that_work() {
        let all = |rate: f64| check(json!({"learning_rate": rate}));
        assert_eq!((all(2e-4), all(1e-4), all(1e-7)), (vec!["H11".to_owned()], vec![], vec![]));
        let lora = |rate: f64| check(json!({"learning_rate": rate, "adapter": "lora"}));
        assert_eq!([lora(2e-3), lora(1e-6)], [["H11"], ["H11"]]);
        assert_eq!([lora(1e-3), lora(1e-5)], [[""; 0], [""; 0]]);
        assert_eq!(fired(json!({"learning_rate": 1e-2}), json!({"parameters": 99e6})), [""; 0]);
        assert_eq!(fired(json!({"learning_rate": 1e-2}), Value::Null), [""; 0]);
        assert_eq!(check(json!({"learning_rate": 1e-3, "reinit_weights": true})), [""; 0]);
    }

    #[test]
    fn h18_the_end_of_a_cosine() {
        assert_eq!(check(json!({"cosine_min_lr_ratio": 0.1, "lr_scheduler": "linear"})), ["H18"]);
        assert_eq!(check(json!({"cosine_min_lr_ratio": 0.1, "lr_scheduler": {"name": "wsd"}})), ["H18"]);
        assert_eq!(check(json!({"cosine_min_lr_ratio": 0.1})), [""; 0]);
    }

    #[test]
    fn h28_a_rate_that_lost_its_sign() {
        let found =
            |rate: f64, parameters: f64| fired(json!({"learning_rate": rate}), json!({"parameters": parameters}));
        for parameters in [1e3, 1e9] {
            assert_eq!(found(2e4, parameters), ["H28"]);
            assert_eq!(found(1.0, parameters), ["H28"]);
        }
        assert_eq!(fired(json!({"learning_rate": 2e4, "reinit_weights": true}), Value::Null), ["H28"]);
        assert_eq!(found(0.5, 1e3), [""; 0]);
        let help = |rate: f64| {
            let found = Practice.check(&Facts::of(json!({}), json!({"learning_rate": rate}))).unwrap();
            found.into_iter().find_map(|finding| finding.help).unwrap()
        };
        assert_eq!(
            [help(2e4), help(1.5e5), help(3.0)],
            ["2e-4", "1.5e-5", "2e-5"].map(|meant| format!("learning_rate: {meant}"))
        );
    }

    #[test]
    fn h29_other_numbers_that_lost_their_sign() {
        assert_eq!(check(json!({"weight_decay": 1e2})), ["H29"]);
        assert_eq!(check(json!({"adam_epsilon": 1e8})), ["H29"]);
        assert_eq!(check(json!({"weight_decay": 0.1, "adam_epsilon": 1e-8})), [""; 0]);
    }

    #[test]
    fn h19_moments_of_adam() {
        assert_eq!(check(json!({"adam_beta2": 0.8})), ["H19"]);
        assert_eq!(check(json!({"adam_beta2": 0.95})), [""; 0]);
    }
}
