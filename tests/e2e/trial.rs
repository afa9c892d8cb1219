//! Rewards tried before a run (`host check --plan`): on the references of its data, or on completions that are given.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::support::{Project, guest, without_sizes};

fn config(rewards: &str, more: &str) -> String {
    format!(
        "base_model: model\ndatasets: [{{path: rows.jsonl, type: alpaca}}]\nsequence_len: 128\nmicro_batch_size: 4\n\
         learning_rate: 1e-3\nmax_steps: 2\noutput_dir: out\nrl: grpo\ntrl:\n  num_generations: 4\n  \
         max_completion_length: 8\n  num_completions_to_log: 4\n  reward_funcs: [{rewards}]\n{more}"
    )
}

/// Eight rows, of which the second and the sixth have words for an answer.
fn project() -> Project {
    let project = Project::new();
    let answers = ["4", "twenty", "7", "1 000", "-2", "none\u{1b}[2J\nof it", "8", "9"];
    let rows = answers.iter().enumerate().fold(String::new(), |mut rows, (index, answer)| {
        let _ = writeln!(rows, "{}", json!({ "instruction": format!("Question {index}?"), "output": answer }));
        rows
    });
    project.write("rows.jsonl", rows);
    project
}

/// What `check --plan` says, up to the plan's memory.
fn told(project: &Project, more: &[&str]) -> (i32, String) {
    let outcome = project.host(&[&["check", "host.yml", "--plan"], more].concat());
    assert!(!outcome.stderr.contains('\u{1b}') && !project.path("out/metrics.jsonl").exists(), "{}", outcome.stderr);
    let text = without_sizes(&outcome.stderr);
    (outcome.status, text.split("\nmemory ").next().unwrap().to_owned())
}

/// The plan for a program, and the codes of what was found.
fn planned(project: &Project, more: &[&str]) -> (Value, Vec<String>) {
    let outcome = project.success(&[&["check", "host.yml", "--plan", "--json"], more].concat());
    let events: Vec<Value> = outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found = events.iter().filter(|event| event["event"] == "diagnostic");
    let codes = found.map(|event| event["code"].as_str().unwrap().to_owned()).collect();
    (events.last().unwrap()["rewards"].clone(), codes)
}

#[test]
fn rewards_are_tried_on_the_references() {
    let project = project();
    let rewards = "exact-match, {name: format, config: {pattern: '[0-9 -]+'}}, {name: json-schema, config: {field: schema}}, \
                   {name: length, config: {unit: words, max: 2}}";
    project.write("host.yml", config(rewards, ""));
    let (status, text) = told(&project, &[]);
    assert_eq!(status, 0, "{text}");
    insta::assert_snapshot!(text);

    let (rewards, codes) = planned(&project, &[]);
    assert_eq!(codes, ["rl::reference", "rl::abstains"]);
    let [tried] = &rewards.as_array().unwrap()[..] else { panic!("{rewards}") };
    assert_eq!((&tried["key"], &tried["on"]), (&json!("trl.reward_funcs"), &json!("references")));
    assert_eq!((&tried["samples"], &tried["without_reference"]), (&json!(8), &json!(0)));
    let names: Vec<&Value> = tried["rewards"].as_array().unwrap().iter().map(|reward| &reward["name"]).collect();
    assert_eq!(names, ["exact-match", "format", "json-schema", "length"]);
    let reward = |index: usize| &tried["rewards"][index];
    assert_eq!((&reward(0)["mean"], &reward(0)["std"], &reward(0)["judged"]), (&json!(1.0), &json!(0.0), &json!(8)));
    assert_eq!((&reward(1)["mean"], &reward(1)["errors"]), (&json!(0.75), &json!(0)));
    assert!(reward(1)["std"].as_f64().unwrap() > 0.4 && reward(1)["seconds_per_item"].as_f64().unwrap() > 0.0);
    assert_eq!(
        (&reward(2)["mean"], &reward(2)["judged"], &reward(2)["not_judged"]),
        (&json!(null), &json!(0), &json!(8))
    );
}

#[test]
fn a_reward_that_fails_on_a_reference_is_said() {
    let project = project();
    let plugins = guest("trapping-reward");
    let plugins = ["--plugins", plugins.to_str().unwrap()];
    for (name, on_error, wanted) in [("ends", "fail", 1), ("skips", "skip", 0)] {
        let reward = format!("{{name: 'test:trapping-reward', config: {{panic_on: twenty}}, on_error: {on_error}}}");
        project.write("host.yml", config(&reward, ""));
        let (status, text) = told(&project, &plugins);
        assert_eq!(status, wanted, "{text}");
        insta::assert_snapshot!(format!("a_reward_that_fails_on_a_reference_{name}"), text);
    }
    let (rewards, codes) = planned(&project, &plugins);
    assert_eq!(codes, ["rl::reward-failed"]);
    let reward = &rewards[0]["rewards"][0];
    assert_eq!((&reward["judged"], &reward["errors"], &reward["not_judged"]), (&json!(7), &json!(1), &json!(0)));
}

#[test]
fn rewards_of_evaluations_are_tried_on_the_evaluation_set() {
    let project = project();
    let eval =
        "test_datasets: [{path: eval.jsonl, type: alpaca}]\neval_max_new_tokens: 4\neval_reward_funcs: [exact-match]\n";
    let texts = config("length", eval).split("rl: grpo").next().unwrap().to_owned();
    project.write("host.yml", format!("{texts}{eval}"));
    let (rewards, codes) = planned(&project, &[]);
    assert_eq!(codes, Vec::<String>::new());
    let tried = &rewards[0];
    assert_eq!((&tried["key"], &tried["samples"]), (&json!("eval_reward_funcs"), &json!(8)));
    assert_eq!(tried["rewards"][0]["mean"], 1.0);
    // By default they are those that are learned from, which are tried once.
    project.write("host.yml", config("exact-match", "test_datasets: [{path: eval.jsonl, type: alpaca}]\n"));
    assert_eq!(planned(&project, &[]).0.as_array().unwrap().len(), 1);
    project.write("host.yml", config("number-match", eval));
    assert_eq!(planned(&project, &[]).0.as_array().unwrap().len(), 2);
}

#[test]
fn where_there_is_nothing_to_try_them_on_it_is_said() {
    let project = project();
    let last = |text: String| text.lines().last().unwrap().to_owned();
    let strategy = guest("hostile");
    let prompts =
        config("exact-match", "").replace("type: alpaca", "type: {name: 'test:hostile', config: {deed: prompt}}");
    project.write("host.yml", prompts);
    let (status, text) = told(&project, &["--plugins", strategy.to_str().unwrap()]);
    assert_eq!(status, 0, "{text}");
    insta::assert_snapshot!(last(text));
    let environment = guest("vowels");
    project.write("host.yml", config("exact-match", "environment: 'test:vowels'\nchat_template: chatml\n"));
    let (status, text) = told(&project, &["--plugins", environment.to_str().unwrap()]);
    assert_eq!(status, 0, "{text}");
    insta::assert_snapshot!(last(text));
}

#[test]
fn given_completions_are_judged_in_their_place() {
    let project = project();
    project.write("host.yml", config("exact-match, number-match", ""));
    let row = |row: Value| format!("{row}\n");
    let given = [
        row(json!({ "completion": "5", "reference": "5" })),
        row(json!({ "completion": "5", "reference": "6" })),
        row(json!({ "prompt": "asked of nobody", "completion": "no reference" })),
    ];
    project.write("given.jsonl", given.concat());
    let (status, text) = told(&project, &["--completions", "given.jsonl"]);
    assert_eq!(status, 0, "{text}");
    insta::assert_snapshot!(
        text.lines().skip_while(|line| !line.starts_with("rewards")).collect::<Vec<_>>().join("\n")
    );

    // A run's own file: the prompts are those of samples, and rewards say again what they said.
    project.write(
        "host.yml",
        config("{name: length, config: {max: 2, falloff: 8}}", "").replace("_dir: out", "_dir: run"),
    );
    project.success(&["train", "host.yml"]);
    let lines: Vec<Value> =
        project.read("run/completions.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mean = lines.iter().map(|line| line["reward"].as_f64().unwrap()).sum::<f64>() / lines.len() as f64;
    let (rewards, _) = planned(&project, &["--completions", "run/completions.jsonl"]);
    let tried = &rewards[0];
    assert_eq!((&tried["on"], &tried["samples"]), (&json!("completions"), &json!(8)));
    assert_eq!(tried["without_sample"], 0, "{tried}");
    assert!((tried["rewards"][0]["mean"].as_f64().unwrap() - mean).abs() < 0.1, "{tried}: {mean}");
}

#[test]
fn a_file_that_is_no_completions_is_said_in_one_message() {
    let project = project();
    project.write("host.yml", config("exact-match", ""));
    let told = |bytes: &[u8]| {
        project.write("given.jsonl", bytes);
        let (status, text) = told(&project, &["--completions", "given.jsonl"]);
        assert_eq!(status, 1, "{text}");
        text
    };
    insta::assert_snapshot!(told(
        b"{\"completion\": \"a\"}\n{\"completion\": \"\x1b[2J\", \"prompt\": [\"\\u001b[2J\"]}\n"
    ));
    insta::assert_snapshot!(told(&vec![b'['; 3 << 20]));
    insta::assert_snapshot!(told(b"\n"));
    std::fs::remove_file(project.path("given.jsonl")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", project.path("given.jsonl")).unwrap();
    let (status, text) = self::told(&project, &["--completions", "given.jsonl"]);
    assert_eq!(status, 1);
    insta::assert_snapshot!(text);
    // Nothing would read it.
    std::fs::remove_file(project.path("given.jsonl")).unwrap();
    project.write("given.jsonl", "{\"completion\": \"a\"}\n");
    project.write("host.yml", config("exact-match", "").split("rl: grpo").next().unwrap());
    let (status, text) = self::told(&project, &["--completions", "given.jsonl"]);
    assert_eq!(status, 1);
    insta::assert_snapshot!(text);
}
