//! The bundled rewards in the real sandbox: what they say of completions, of those that are made to hurt them, and in a run.

use std::path::Path;
use std::time::{Duration, Instant};

use host::check::plugins;
use plugin_runtime::types::{Context, Item, Score};
use serde_json::{Value, json};

use crate::support::{CONFIG, Project};

fn score(name: &str, config: &Value, completions: &[String], reference: &str) -> Vec<Score> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache/plugins");
    let host = plugins::open_with(&[], None, Some(cache)).unwrap();
    let mut scorer = host.scorer(name, &config.to_string()).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    let item = |completion: &String| Item {
        prompt: "How many?".to_owned(),
        completion: completion.clone(),
        completion_tokens: 300,
        finished: true,
        reference: reference.to_owned(),
        row_json: r#"{"schema": {"type": "integer"}}"#.to_owned(),
    };
    let items: Vec<Item> = completions.iter().map(item).collect();
    scorer
        .score(&items, &Context { step: 0, total_steps: 1, seed: 0 })
        .unwrap_or_else(|error| panic!("{name}: {error:?}"))
}

/// Each with a config.
fn rewards() -> Vec<(&'static str, Value)> {
    let tree = json!({"$ref": "#/$defs/t", "$defs": {"t": {"type": ["array", "integer"], "items": {"allOf": [{"$ref": "#/$defs/t"}]}}}});
    vec![
        ("number-match", json!({})),
        ("format", json!({"pattern": "(a*)*b"})),
        ("format", json!({"preset": "think-answer"})),
        ("json-schema", json!({"field": "schema"})),
        ("json-schema", json!({"schema": tree, "fenced": true})),
        ("length", json!({"max_completion_len": 256, "soft_punish_cache": 64})),
        ("length", json!({"min": 5, "max": 9, "falloff": 4, "unit": "words"})),
        ("repetition", json!({})),
        ("repetition", json!({"unit": "characters", "ngram_size": 64})),
    ]
}

#[test]
fn right_and_wrong_completions_are_told_apart() {
    let texts =
        ["<think>7*6</think><answer>42</answer>", "42", "4 4 4 4 4", "It is \\boxed{42}."].map(ToOwned::to_owned);
    let values = |name: &str, config: Value| -> Vec<Option<f64>> {
        score(name, &config, &texts, "42").into_iter().map(|score| score.value).collect()
    };
    assert_eq!(values("number-match", json!({})), [1.0, 1.0, 0.0, 1.0].map(Some));
    assert_eq!(values("format", json!({"preset": "think-answer"})), [1.0, 0.0, 0.0, 0.0].map(Some));
    assert_eq!(values("json-schema", json!({"field": "schema"})), [0.0, 1.0, 0.0, 0.0].map(Some));
    assert_eq!(values("length", json!({"max_completion_len": 310, "soft_punish_cache": 20})), [Some(-0.5); 4]);
    assert_eq!(values("repetition", json!({"ngram_size": 1})), [0.0, 0.0, -0.8, 0.0].map(Some));
    let none = score("number-match", &json!({}), &texts, "forty-two");
    assert_eq!((none[0].value, none[0].note.as_deref()), (None, Some("the reference has no number")));
}

#[test]
fn hostile_completions_get_a_finite_score_in_time() {
    let million = |text: &str| text.repeat(1_000_000 / text.len());
    let parts =
        ["[", "{", "\\boxed{", "<think>", "\0", "9", "1,234", "[1,", "{\"a\":", "a", "a b ", "\u{202e}é", "-", "```"];
    let mut completions: Vec<String> = parts.map(million).into();
    completions.extend(["", "\0", "1e999999", "nan", "[[]]"].map(ToOwned::to_owned));
    completions.push(format!("{}{}", "[".repeat(127), "]".repeat(127)));
    completions.push(format!("[{}0]", "0,".repeat(499_999)));
    for (name, config) in rewards() {
        let start = Instant::now();
        for score in score(name, &config, &completions, "42") {
            assert!(score.value.is_none_or(f64::is_finite), "{name} {config}: {score:?}");
            let is_short = score.note.as_ref().is_none_or(|note| note.len() < 300);
            assert!(is_short, "{name} {config}: {score:?}");
        }
        // A call has 30 s; this is for a machine that is busy otherwise.
        assert!(start.elapsed() < Duration::from_secs(25), "{name} {config}: {:?}", start.elapsed());
    }
}

#[test]
fn one_completion_may_be_as_large_as_a_call_takes() {
    let huge = ["[".repeat(40_000_000)];
    for (name, config) in rewards() {
        let score = score(name, &config, &huge, "42").remove(0);
        assert!(score.value.is_none_or(|value| value <= 0.0), "{name} {config}: {score:?}");
    }
}

#[test]
fn all_of_them_score_generations_of_a_run() {
    let project = Project::new();
    let rewards = "\
test_datasets: [{path: eval.jsonl, type: alpaca}]
eval_max_new_tokens: 8
eval_reward_funcs:
  - exact-match
  - number-match
  - {name: format, config: {pattern: '.*'}}
  - {name: json-schema, config: {schema: {type: object}}}
  - {name: length, config: {max: 4, falloff: 4}}
  - {name: repetition, config: {ngram_size: 2}}
";
    project.write("host.yml", format!("{CONFIG}{rewards}"));
    let outcome = project.success(&["train", "host.yml", "--json"]);
    let mut eval = outcome.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let eval = eval.rfind(|event| event["event"] == "eval").unwrap();
    for name in ["format", "json-schema", "length", "repetition"] {
        assert!(eval[format!("rewards/{name}/mean")].is_number(), "{name}: {eval}");
    }
}

#[test]
fn a_config_that_cannot_work_is_underlined() {
    let project = Project::new();
    let told = |reward: &str| {
        let lines = "test_datasets: [{path: eval.jsonl, type: alpaca}]\neval_max_new_tokens: 8\n";
        project.write("host.yml", format!("{CONFIG}{lines}eval_reward_funcs:\n  - {reward}\n"));
        project.failure(&["train", "host.yml"])
    };
    insta::assert_snapshot!(told("{name: json-schema, config: {schema: {type: object, requried: [name]}}}"));
    insta::assert_snapshot!(told("{name: format, config: {pattern: '(?=a)'}}"));
    insta::assert_snapshot!(told("{name: length, config: {}}"));
    insta::assert_snapshot!(told("{name: number-match, config: {relative_tolerance: -1}}"));
    insta::assert_snapshot!(told("{name: repetition, config: {max_penalty: 1}}"));
}
