//! Values that Axolotl takes for a key and this trainer does not, with what to write instead.

use super::preference_types::preference_names;
use super::supervised_types::{styles, supervised_names};
use crate::commands::word;

/// Values that Axolotl takes for a key and we do not, with what to write instead.
pub(super) fn value_advice(key: &str, word: &str) -> Option<&'static str> {
    match (key, word) {
        ("rl", "ebft") => Some("write `rl: dpo`, `ipo`, `simpo`, `cpo` or `orpo`, which learn from pairs of answers"),
        ("loss_type", "sapo" | "luspo" | "vespo") => Some("write `dapo`, or leave the line out"),
        ("adapter", "llama-adapter") => Some("write `adapter: lora`"),
        ("optimizer", word) if word.contains("adam") || word.contains("lion") || word.contains("8bit") => {
            Some("write `optimizer: adamw_torch`")
        }
        (
            "optimizer",
            "muon" | "sgd" | "adafactor" | "rmsprop" | "adagrad" | "came_pytorch" | "optimi_adamw" | "dion" | "sinkgd"
            | "polora" | "flash_sgd" | "flash_sgdw",
        ) => Some("write `optimizer: adamw_torch`; AdamW is the one here"),
        (
            "lr_scheduler",
            "one_cycle"
            | "log_sweep"
            | "rex"
            | "polynomial"
            | "inverse_sqrt"
            | "cosine_with_restarts"
            | "reduce_lr_on_plateau",
        ) => Some("write `lr_scheduler: cosine`, `linear`, `constant` or `constant_with_warmup`"),
        ("lr_scheduler", "warmup_stable_decay") => Some(
            "write `lr_scheduler: {name: wsd, config: {num_decay_steps: …}}`; the config has the keys of Axolotl's `lr_scheduler_kwargs`",
        ),
        _ => None,
    }
}

/// Prompt strategies of Axolotl that are not here, each with the same in the words of this trainer. The first that is the
/// name, or the part of it before a `.` or `:`, counts.
#[rustfmt::skip]
const STRATEGIES: &[(&str, &str)] = &[
    ("sharegpt", "write `type: sharegpt`"),
    ("chat_template", "write `type: chat_template`; pairs of answers are for `rl: dpo`"),
    ("messages", "write `type: chat_template`"),
    ("creative_acr.load_critique", YAML),
    ("creative_acr.load_revise", YAML),
    ("bradley_terry", "pairs of answers under this name are for `reward_model: true`; write that too, with `type: bradley_terry.chat_template`"),
];
const YAML: &str = "its texts hold scores as Python's YAML writes them, which no plugin here does; put them into a column, and write `type: {field_instruction: …, field_output: …, format: …}`";
/// That which only a plugin can be.
const SYNTHETIC: &str = "_synthetic";

/// What to write instead of a prompt strategy that Axolotl has and no plugin here provides.
pub fn strategy_advice(name: &str) -> Option<String> {
    let family = name.split(['.', ':']).next().unwrap_or(name);
    // Axolotl's way of writing a function of a module, and the one that people try.
    let dotted = name.replace(':', ".");
    let said =
        |wanted: &str| STRATEGIES.iter().find(|(known, _)| *known == wanted).map(|(_, advice)| (*advice).to_owned());
    if let Some(advice) = said(&dotted) {
        return Some(advice);
    }
    if supervised_names(family).any(|known| known == dotted) {
        return Some(format!("write `type: {dotted}`"));
    }
    let styles = styles(family);
    if !styles.is_empty() {
        return Some(format!(
            "write `type: {family}`, alone or with a style: `{family}:{}`",
            styles.join(&format!("`, `{family}:"))
        ));
    }
    let known: Vec<&str> = supervised_names(family).collect();
    if !known.is_empty() {
        return Some(format!("write `type: {}`", known.join("`, `")));
    }
    if let Some(advice) = said(family) {
        return Some(advice);
    }
    if preference_names("dpo").iter().any(|name| *name == dotted || name.starts_with(&format!("{family}."))) {
        return Some("pairs of answers are for `rl: dpo`, under which the name is known; write that too".to_owned());
    }
    (family == SYNTHETIC)
        .then(|| "a prompt-strategy plugin can do this: see `plugin-sdk/README.md`, then `--plugins DIR`".to_owned())
}

/// What makes JSON lines of a file in a format that `datasets` reads for Axolotl and no loader here does.
pub(super) fn ds_type_advice(ds_type: &str, path: &str) -> Option<String> {
    let stem = path.rsplit_once('.').map_or(path, |(stem, end)| if end.contains('/') { path } else { stem });
    // Never onto the file that is read.
    let to = if format!("{stem}.jsonl") == path { format!("{stem}-rows.jsonl") } else { format!("{stem}.jsonl") };
    let (from, to) = (word(path), word(&to));
    let by_datasets = |format: &str| {
        format!(
            "python3 -c 'import datasets, sys; datasets.load_dataset(\"{format}\", data_files=sys.argv[1], split=\"train\").to_json(sys.argv[2])' {from} {to}"
        )
    };
    let command = match ds_type {
        "xml" | "webdataset" | "hdf5" | "lance" => by_datasets(ds_type),
        _ => return None,
    };
    Some(format!("`{command}`, then `path: {to}` without `ds_type`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies_have_their_own_advice_or_that_of_their_family() {
        let advice = |name: &str| strategy_advice(name).unwrap();
        assert_eq!(advice("alpaca_chat:load_qa"), "write `type: alpaca_chat.load_qa`");
        assert_eq!(
            advice("oasst:acme"),
            "write `type: oasst`, alone or with a style: `oasst:instruct`, `oasst:chat`, `oasst:chatml`, `oasst:phi`"
        );
        assert!(advice("creative_acr.load_critique").starts_with("its texts hold scores"));
        assert!(advice("context_qa.load_v3").starts_with("write `type: context_qa`, `context_qa.load`, "));
        assert!(strategy_advice("chat_template.default").unwrap().contains("`type: chat_template`"));
        assert!(strategy_advice("sharegpt.load_role").unwrap().contains("`type: sharegpt`"));
        assert_eq!(strategy_advice("dialogue"), None);
    }

    #[test]
    fn a_format_comes_with_the_command_that_converts_it() {
        let advice = ds_type_advice("xml", "my data/a.b/train.xml").unwrap();
        assert!(advice.contains("'my data/a.b/train.xml' 'my data/a.b/train.jsonl'"), "{advice}");
        assert!(ds_type_advice("hdf5", "data.v1/train").unwrap().contains("data.v1/train data.v1/train.jsonl"));
        assert!(ds_type_advice("lance", "a.jsonl").unwrap().contains("a.jsonl a-rows.jsonl"));
        assert_eq!(ds_type_advice("acme", "x"), None);
    }
}
