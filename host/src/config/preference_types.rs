//! Axolotl's prompt strategies for preference data, as a plugin here with a config. Axolotl looks a name up in the folder of the
//! method, so that one name stands for another thing under another `rl`. What each is stands beside the plugin that does them
//! all (`plugins/preference/axolotl.json`).

use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Map, Value};

/// The plugin of preference data.
pub const PREFERENCE: &str = "preference";

#[derive(Deserialize)]
struct Entry {
    method: String,
    r#type: String,
    config: Map<String, Value>,
}

static TABLE: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../plugins/preference/axolotl.json")).expect("a test reads the table")
});

/// What a name of Axolotl's (`datasets[].type`) is under a method: `rl`, or `reward_model`. The keys of the dataset that
/// Axolotl has beside `type` (`field_messages`, `field_chosen`, `message_property_mappings` …) go over this config.
///
/// A module alone is its `default`, as in Axolotl. `ipo`, `simpo` and `cpo` have the names of `dpo`, and so have `orpo` and
/// `reward_model` beside their own.
pub fn preference_strategy(method: &str, name: &str) -> Option<(&'static str, Map<String, Value>)> {
    let named = if name.contains('.') { name.to_owned() } else { format!("{name}.default") };
    let mut folders = folders(method)?.iter();
    let entry =
        folders.find_map(|folder| TABLE.iter().find(|entry| entry.method == *folder && entry.r#type == named))?;
    Some((PREFERENCE, entry.config.clone()))
}

/// The inline shape of a method (`type: {field_prompt: …}`): what it starts from, and the keys that it may have, which are
/// those of the plugin.
pub fn preference_shape(method: &str) -> Option<(&'static str, Map<String, Value>, &'static [&'static str])> {
    const PAIR: &[&str] = &[
        "field_system",
        "field_prompt",
        "field_chosen",
        "field_rejected",
        "prompt_format",
        "chosen_format",
        "rejected_format",
    ];
    const ONE: &[&str] =
        &["field_system", "field_prompt", "field_completion", "field_label", "prompt_format", "completion_format"];
    let (plugin, config) = preference_strategy(method, "user_defined")?;
    Some((plugin, config, if method == "kto" { ONE } else { PAIR }))
}

/// All names under a method, for advice.
pub fn preference_names(method: &str) -> Vec<&'static str> {
    let folders = folders(method).unwrap_or_default();
    TABLE.iter().filter(|entry| folders.contains(&entry.method.as_str())).map(|entry| entry.r#type.as_str()).collect()
}

/// Where Axolotl looks for the strategies of a method.
fn folders(method: &str) -> Option<&'static [&'static str]> {
    match method {
        "dpo" | "ipo" | "simpo" | "cpo" => Some(&["dpo"]),
        "orpo" => Some(&["orpo", "dpo"]),
        "kto" => Some(&["kto"]),
        "reward_model" => Some(&["reward_model", "dpo"]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(method: &str, name: &str) -> Option<Value> {
        preference_strategy(method, name).map(|(_, config)| Value::Object(config))
    }

    #[test]
    fn a_name_is_what_it_is_under_its_method() {
        let intel = json!({"format": "chatml", "field_prompt": "question"});
        for method in ["dpo", "ipo", "simpo", "cpo", "orpo"] {
            assert_eq!(config(method, "chatml.intel"), Some(intel.clone()), "{method}");
        }
        let unpaired = json!({"unpaired": true, "format": "chatml", "field_prompt": "question"});
        assert_eq!(config("kto", "chatml.intel"), Some(unpaired));
        assert_eq!(config("dpo", "chat_template.argilla"), None);
        assert!(config("orpo", "chat_template.argilla").is_some());
        assert!(config("reward_model", "bradley_terry.chat_template").is_some());
        assert_eq!((config("grpo", "chatml.intel"), config("dpo", "alpaca")), (None, None));
    }

    #[test]
    fn a_module_alone_is_its_default() {
        assert_eq!(config("dpo", "chatml"), config("dpo", "chatml.default"));
        assert_eq!(config("dpo", "passthrough"), Some(json!({})));
        assert_eq!(config("kto", "chatml"), None, "Axolotl's KTO has no such function");
    }

    #[test]
    fn inline_shapes_have_the_keys_of_their_method() {
        let (plugin, config, keys) = preference_shape("simpo").unwrap();
        assert_eq!((plugin, config.len(), keys.contains(&"field_chosen")), (PREFERENCE, 0, true));
        let (_, config, keys) = preference_shape("kto").unwrap();
        assert_eq!((Value::Object(config), keys.contains(&"field_label")), (json!({"unpaired": true}), true));
        assert!(preference_shape("reward_model").unwrap().2.contains(&"field_chosen"));
    }

    #[test]
    fn every_name_is_there_once() {
        for method in ["dpo", "orpo", "kto", "reward_model"] {
            let mut names = preference_names(method);
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert!(count > 0 && count == names.len(), "{method}");
        }
        assert_eq!(preference_names("grpo"), [""; 0]);
    }
}
