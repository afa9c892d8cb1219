//! Files and paths that hold no JSON lines: what they are is said once, with how to go on.

use std::fs;

use crate::support::{CONFIG, Project};

const ROW: &str = "{\"instruction\": \"Say hi.\", \"input\": \"\", \"output\": \"hi\"}\n";

/// What `check` and `train` say of data.
fn told(edit: impl Fn(&Project), path: &str) -> String {
    let project = Project::new();
    edit(&project);
    project.train_failure(|config| config.replace("train.jsonl", path))
}

#[test]
fn other_formats_come_with_the_command_that_converts_them() {
    let csv = told(|project| project.write("d.jsonl", "instruction,output\na,b\n"), "d.jsonl");
    insta::assert_snapshot!(csv);
    let pretty = told(|project| project.write("pretty.jsonl", "{\n  \"instruction\": \"a\"\n}\n"), "pretty.jsonl");
    insta::assert_snapshot!(pretty);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
    insta::assert_snapshot!(told(|project| project.write("lfs.jsonl", pointer), "lfs.jsonl"));
    let wide: Vec<u8> = [0xff, 0xfe].into_iter().chain(ROW.bytes().flat_map(|byte| [byte, 0])).collect();
    insta::assert_snapshot!(told(|project| project.write("u16.jsonl", &wide), "u16.jsonl"));
}

#[test]
fn null_is_not_missing() {
    insta::assert_snapshot!(told(
        |project| project.write("d.jsonl", "{\"instruction\": \"a\", \"output\": null}\n"),
        "d.jsonl"
    ));
}

#[test]
fn numbers_of_python_that_are_not_finite_are_null() {
    let project = Project::new();
    project.write("train.jsonl", ROW.replace("\"output\"", "\"score\": NaN, \"input\": NaN, \"output\"").repeat(8));
    project.success(&["train", "host.yml"]);
}

#[test]
fn files_of_a_directory_that_are_not_read_are_named_once() {
    let project = Project::new();
    fs::create_dir(project.path("dd")).unwrap();
    for (name, text) in [("a.jsonl", ROW), ("b.JSONL", ROW), ("c.md", "a,b\n"), ("state.json", "{}"), ("d.ndjson", ROW)]
    {
        project.write(&format!("dd/{name}"), text);
    }
    project.write("host.yml", CONFIG.replace("train.jsonl", "dd"));
    let line = "plugin jsonl: in `dd`, 2 files are passed over: `c.md`, `state.json` (which describe a dataset); rows are in .jsonl, .json, .ndjson, .jsonlines";
    for command in [&["check", "host.yml"][..], &["train", "host.yml", "--dry-run"], &["train", "host.yml"]] {
        let outcome = project.success(command);
        assert_eq!(outcome.stderr.lines().filter(|told| *told == line).count(), 1, "{}", outcome.stderr);
    }
    assert!(project.read("out/run.json").contains("\"status\": \"finished\""));
    fs::remove_dir_all(project.path("out")).unwrap();
    for name in ["a.jsonl", "b.JSONL", "d.ndjson"] {
        fs::remove_file(project.path("dd").join(name)).unwrap();
    }
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
}

#[test]
fn paths_that_are_none_say_what_they_seem_to_be() {
    for path in ["tatsu-lab/alpaca", "data/*.jsonl", "https://example.org/d.jsonl"] {
        let message = told(|_| {}, path);
        insta::assert_snapshot!(message);
    }
}

#[test]
fn formats_and_strategies_of_axolotl_come_with_what_to_do_here() {
    let check = |edit: &str, by: &str| {
        let project = Project::new();
        project.write("host.yml", CONFIG.replace(edit, by));
        project.failure(&["check", "host.yml"])
    };
    insta::assert_snapshot!(check(
        "type: alpaca",
        "type: alpaca
    ds_type: webdataset"
    ));
    for name in ["sharegpt.load_role", "chat_template.default", "alpaca_chat:load_qa", "oasst:acme"] {
        insta::assert_snapshot!(check("type: alpaca", &format!("type: {name}")));
    }
}

#[test]
fn a_template_that_is_not_built_in_is_refused_in_one_message() {
    let project = Project::new();
    project.write("host.yml", format!("{}chat_template: deepseek_v9\n", CONFIG.replace("alpaca", "chat_template")));
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
}

#[test]
fn no_limit_of_steps_is_none() {
    let project = Project::new();
    project.write("host.yml", CONFIG.replace("max_steps: 4", "max_steps: -1"));
    assert!(project.success(&["train", "host.yml", "--dry-run"]).stderr.contains("steps     12 of 4 samples"));
    project.write("host.yml", CONFIG.replace("max_steps: 4", "max_steps: 0"));
    insta::assert_snapshot!(project.success(&["check", "host.yml"]).stderr);
    project.write("host.yml", CONFIG.replace("max_steps: 4", "max_steps: -2"));
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
}

#[test]
fn an_output_directory_that_cannot_be_made_is_told_by_check() {
    let project = Project::new();
    project.write("a", "file");
    for path in ["a", "a/b/c"] {
        project.write("host.yml", CONFIG.replace("output_dir: out", &format!("output_dir: {path}")));
        let checked = project.failure(&["check", "host.yml"]);
        assert!(!project.failure(&["train", "host.yml"]).contains("os error"));
        insta::assert_snapshot!(checked);
    }
}

#[test]
fn a_rate_that_lost_its_sign_is_an_error_for_any_model() {
    let project = Project::new();
    project.write("host.yml", CONFIG.replace("1e-3", "2e4"));
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
}
