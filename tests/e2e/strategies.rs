//! The bundled strategy of preference data in the real sandbox, by Axolotl's names.

use std::path::Path;

use host::check::plugins;
use host::config::{preference_shape, preference_strategy};
use plugin_runtime::types::{Preference, Sample, Text, Unpaired};
use serde_json::{Map, Value};

use crate::support::{Project, root};

fn segments(text: &Text) -> Option<String> {
    match text {
        Text::Segments(segments) => Some(segments.iter().map(|segment| segment.text.as_str()).collect()),
        Text::Conversation(_) => None,
    }
}

/// The fixture's own crate holds all of it against Axolotl; here is the way from a name to a text.
#[test]
fn axolotls_names_write_axolotls_texts() {
    let text = std::fs::read_to_string(root().join("tests/fixtures/strategies/cases.json")).unwrap();
    let fixture: Value = serde_json::from_str(&text).unwrap();
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache/plugins");
    let plugins = plugins::open_with(&[], None, Some(cache)).unwrap();
    let mut compared = 0;
    for case in fixture["cases"].as_array().unwrap() {
        let method = case["method"].as_str().unwrap();
        let mut over: Map<String, Value> = case["dataset"].as_object().unwrap().clone();
        let (plugin, mut config) = match &case["type"] {
            Value::String(name) => preference_strategy(method, name).unwrap_or_else(|| panic!("{method} {name}")),
            shape => {
                let (plugin, config, keys) = preference_shape(method).unwrap();
                over.extend(shape.as_object().unwrap().clone());
                assert!(shape.as_object().unwrap().keys().all(|key| keys.contains(&key.as_str())), "{case}");
                (plugin, config)
            }
        };
        config.extend(over);
        let mut strategy = plugins.strategy(plugin, &Value::Object(config).to_string()).unwrap();
        let sample = strategy.render(&[case["row"].to_string()]).unwrap().remove(0);
        let expected = |key: &str| case[key].as_str().map(ToOwned::to_owned);
        match sample {
            Ok(Some(Sample::Preference(Preference { prompt, chosen, .. }))) => {
                let (Some(prompt), Some(chosen)) = (segments(&prompt), segments(&chosen)) else { continue };
                assert_eq!((Some(prompt), Some(chosen)), (expected("prompt"), expected("chosen")), "{case}");
                compared += 1;
            }
            Ok(Some(Sample::Unpaired(Unpaired { prompt, completion, .. }))) if case.get("fails").is_none() => {
                let found = (segments(&prompt), segments(&completion));
                assert_eq!(found, (expected("prompt"), expected("completion")), "{case}");
                compared += 1;
            }
            Ok(Some(Sample::Unpaired(_))) => {}
            Err(error) => assert!(error.field.is_some(), "{case}: {}", error.message),
            other => panic!("{case}: {other:?}"),
        }
    }
    assert!(compared > 80, "{compared}");
}

#[test]
fn a_config_that_cannot_work_is_underlined() {
    let project = Project::new();
    let told = |config: &str| {
        let strategy = format!("{{name: preference, config: {config}}}");
        project.train_failure(|lines| lines.replace("alpaca", &strategy))
    };
    insta::assert_snapshot!(told("{prompt_format: 'Q: {question}'}"));
    insta::assert_snapshot!(told("{format: chatml, field_chosen: 'chosen[x]'}"));
    insta::assert_snapshot!(told("{field_choosen: good}"));
}
