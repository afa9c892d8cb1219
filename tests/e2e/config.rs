//! Bad configs: one clear message each, at its place.

use crate::support::{CONFIG, Project, finish, root};

fn check(text: impl AsRef<[u8]>) -> String {
    let project = Project::new();
    project.write("host.yml", text);
    project.failure(&["check", "host.yml"])
}

#[test]
fn a_good_config_has_no_problems() {
    let project = Project::new();
    let outcome = project.success(&["check"]);
    insta::assert_snapshot!(outcome.stderr);
    let outcome = project.success(&["check", "host.yml", "--json"]);
    assert_eq!(outcome.stdout, "{\"event\":\"check\",\"v\":1,\"errors\":0,\"warnings\":0}\n");
}

#[test]
fn unknown_misspelled_and_duplicate_keys() {
    insta::assert_snapshot!(check(format!(
        "{CONFIG}micro_batchsize: 3\nseed: 1\nseed: 2\nquantum: true\nload_in_4bit: true\n"
    )));
}

#[test]
fn wrong_types_and_numbers_that_are_none() {
    insta::assert_snapshot!(check(CONFIG.replace("sequence_len: 128", "sequence_len: long").replace("1e-3", ".nan")));
}

#[test]
fn two_documents() {
    insta::assert_snapshot!(check(format!("{CONFIG}---\nseed: 1\n")));
}

#[test]
fn an_empty_file() {
    insta::assert_snapshot!(check(""));
}

#[test]
fn a_file_that_is_not_yaml() {
    insta::assert_snapshot!(check("base_model: [\n"));
    insta::assert_snapshot!(check(b"base_model: \xff\xfe\n"));
}

#[test]
fn a_missing_file() {
    insta::assert_snapshot!(Project::new().failure(&["train", "no.yml"]));
}

/// The talk's own rule: layer freezing with activation checkpointing needs the non-reentrant kind.
#[test]
fn g1_is_caught_with_its_place() {
    let text = format!(
        "{CONFIG}unfrozen_parameters: ['model\\.layers\\.1\\.']\ngradient_checkpointing: true\ngradient_checkpointing_kwargs:\n  use_reentrant: true\n"
    );
    insta::assert_snapshot!(check(&text));
    let project = Project::new();
    project.write("host.yml", &text);
    let outcome = project.host(&["check", "host.yml", "--json"]);
    let first: serde_json::Value = serde_json::from_str(outcome.stdout.lines().next().unwrap()).unwrap();
    assert_eq!((outcome.status, &first["code"]), (1, &serde_json::json!("rule::G1")));
    assert_eq!((&first["line"], &first["column"]), (&serde_json::json!(13), &serde_json::json!(18)));
}

#[test]
fn a_rule_can_be_silenced_or_made_an_error() {
    let project = Project::new();
    let config = |severity: &str| {
        project.write("host.yml", format!("{CONFIG}test_datasets: [{{path: eval.jsonl, type: alpaca}}]\neval_batch_size: 9\nrules: [{{name: axolotl-compat, severity: {{D16: {severity}}}}}]\n"));
    };
    config("off");
    assert!(!project.success(&["check", "host.yml"]).stderr.contains("D16"));
    config("error");
    assert!(project.failure(&["check", "host.yml"]).contains("error[rule::D16]"));
    project.write("host.yml", format!("{CONFIG}rules: [{{name: axolotl-compat, severity: {{D61: off}}}}]\n"));
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
}

#[test]
fn both_sets_of_rules_are_always_on() {
    let project = Project::new();
    let lines = "test_datasets: [{path: ./train.jsonl, type: alpaca}]\neval_batch_size: 9\n";
    let check = |rules: &str| {
        project.write("host.yml", format!("{CONFIG}{lines}{rules}"));
        project.success(&["check", "host.yml"]).stderr
    };
    insta::assert_snapshot!(check(""));
    assert!(check("rules: [{name: practice, severity: {H20: off}}]\n").contains("warning[rule::D16]"));
    assert!(check("rules: [{name: axolotl-compat, severity: {D16: off}}]\n").contains("warning[rule::H20]"));
    let rules = "rules: [{name: practice, severity: {H20: off}}, {name: axolotl-compat, severity: {D16: off}}]\n";
    assert_eq!(check(rules), "host.yml: no errors, no warnings\n");
    // A rule of the other plugin is not here, and the message says where it is.
    project.write("host.yml", format!("{CONFIG}rules: [{{name: axolotl-compat, severity: {{H20: off}}}}]\n"));
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
}

#[test]
fn findings_are_annotations_of_a_pull_request() {
    let project = Project::new();
    project.write("host.yml", format!("{CONFIG}sede: 1\nflash_attention: true\nwarmup_steps: 40\n"));
    std::fs::rename(project.path("host.yml"), project.path("a,b:c 5%.yml")).unwrap();
    let outcome = project.host(&["check", "a,b:c 5%.yml", "--github"]);
    assert_eq!(outcome.status, 1);
    assert!(outcome.stderr.contains("error[rule::H9]"), "people read on as before: {}", outcome.stderr);
    insta::assert_snapshot!(outcome.stdout);
}

#[test]
fn a_rule_of_a_stranger_is_named_in_its_finding_and_those_that_are_bundled_stay_on() {
    let project = Project::new();
    let plugins = root().join("tests/fixtures/api/v0.1/compat-rules");
    let check = ["check", "host.yml", "--plugins", plugins.to_str().unwrap()];
    let lines = "save_total_limit: 9   # plenty\nwarmup_steps: 40\nrules: [{name: 'old:compat-rules', config: {max_checkpoints: 2}}]\n";
    project.write("host.yml", format!("{CONFIG}{lines}"));
    insta::assert_snapshot!(project.failure(&check));
    let json = project.host(&[&check[..], &["--json"]].concat()).stdout;
    let finding = json.lines().find(|line| line.contains("HOUSE1")).unwrap();
    let finding: serde_json::Value = serde_json::from_str(finding).unwrap();
    assert_eq!((&finding["code"], &finding["plugin"]), (&"rule::HOUSE1".into(), &"old:compat-rules".into()));
    assert_eq!(finding["fix"], serde_json::json!([{"set": "save_total_limit", "to": "2"}]));
    // Without the name in the config it has no say.
    project.write("host.yml", CONFIG.to_owned() + "save_total_limit: 9\n");
    assert_eq!(project.success(&check).stderr, "host.yml: no errors, no warnings\n");
}

#[test]
fn conversations_need_a_template_with_an_end() {
    let text = CONFIG.replace("alpaca", "chat_template");
    insta::assert_snapshot!(check(&text));
    let project = Project::new();
    project.write("host.yml", format!("{text}chat_template: chatml\n"));
    insta::assert_snapshot!(project.success(&["check", "host.yml"]).stderr);
    let own = "chat_template_jinja: '{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}'\n";
    project.write("host.yml", format!("{text}{own}eot_tokens: ['<pad>']\n"));
    insta::assert_snapshot!(project.success(&["check", "host.yml"]).stderr);
    project.write("host.yml", format!("{text}chat_template: alpaca\n"));
    assert_eq!(project.success(&["check", "host.yml"]).stderr, "host.yml: no errors, no warnings\n");
}

#[test]
fn rules_see_the_data_once_it_is_read() {
    let project = Project::new();
    project.write("host.yml", format!("{CONFIG}gradient_accumulation_steps: 16\n"));
    assert!(!project.success(&["check", "host.yml"]).stderr.contains("rule::"));
    let messages = project.success(&["train", "host.yml", "--dry-run"]).stderr;
    assert!(messages.contains("warning[rule::H26]: all 48 samples do not fill one step of 64"), "{messages}");
    // A warning of before is not said again; an error ends the run.
    let lines = "test_datasets: [{path: train.jsonl, type: alpaca}]\nwarmup_steps: 12\n";
    project.write("host.yml", CONFIG.replace("max_steps: 4\n", "") + lines);
    insta::assert_snapshot!(project.failure(&["train", "host.yml"]));
    assert!(!project.path("out").exists());
}

#[test]
fn the_configs_to_copy_break_no_rule() {
    let project = Project::new();
    let root = root().canonicalize().unwrap();
    for name in [
        "quickstart/config.yml",
        "lora.yml",
        "freeze.yml",
        "curated.yml",
        "code.yml",
        "dpo.yml",
        "grpo-letters.yml",
        "grpo-sft.yml",
    ] {
        let path = format!("configs/{name}");
        let mut command = project.command(&["check", &path]);
        command.current_dir(&root);
        let outcome = finish(command.spawn().unwrap());
        assert_eq!((outcome.status, outcome.stderr), (0, format!("{path}: no errors, no warnings\n")));
    }
}

#[test]
fn many_problems_come_at_once_in_file_order() {
    let text = CONFIG
        .replace("base_model: model", "base_model: HuggingFaceTB/SmolLM2-135M")
        .replace("train.jsonl", "missing.jsonl")
        .replace("alpaca", "alpacca")
        .replace("max_steps: 4", "max_step: 4");
    insta::assert_snapshot!(check(text));
}

#[test]
fn overrides_are_part_of_the_config() {
    let project = Project::new();
    insta::assert_snapshot!(project.failure(&["check", "host.yml", "--set", "seed=x", "--set", "nonsense"]));
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    assert_eq!(Project::new().host(&["train", "--no-such-flag"]).status, 2);
    assert_eq!(Project::new().host(&["frobnicate"]).status, 2);
}
