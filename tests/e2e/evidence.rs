//! What a run leaves of how it ended, how that is shared, and what `host check` makes of it.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{CONFIG, Project, finish};

/// The record in `run.json`.
fn record(project: &Project) -> Value {
    serde_json::from_str::<Value>(&project.read("out/run.json")).unwrap()["outcome"].take()
}

/// Records of runs like that of [`CONFIG`], each with an id of its own.
fn runs(outcome: &str, learning_rate: f64, count: usize) -> String {
    let line = |index: usize| {
        let id = format!("{outcome}{learning_rate}{index}").replace(['-', '.'], "");
        let record = json!({"event": "outcome", "v": 1, "id": id, "host_version": "0.1.0",
            "setup": {"architecture": "LlamaForCausalLM", "parameters": 900_000, "device": "cpu",
                "techniques": ["cosine-schedule", "full"], "learning_rate": learning_rate, "batch_size": 4,
                "sequence_len": 128},
            "steps": 100, "outcome": outcome});
        format!("{record}\n")
    };
    (0..count).map(line).collect()
}

#[test]
fn a_run_leaves_how_it_was_set_up_and_how_it_ended_and_nothing_of_its_owner() {
    let project = Project::new();
    project.success(&["train", "host.yml"]);
    let exported = project.success(&["evidence", "export", "out"]).stdout;
    let mut exported: Value = serde_json::from_str(&exported).unwrap();
    assert_eq!(exported, record(&project));
    assert_eq!(exported["id"].as_str().unwrap().len(), 16);
    exported["id"] = "ID".into();
    exported["host_version"] = "VERSION".into();
    insta::assert_snapshot!(serde_json::to_string_pretty(&exported).unwrap());
}

#[test]
fn a_run_that_goes_on_is_one_run_and_one_that_breaks_says_how() {
    let project = Project::new();
    project.write("host.yml", CONFIG.replace("max_steps: 4", "max_steps: 4\nsave_steps: 2"));
    project.success(&["train", "host.yml", "--set", "max_steps=2"]);
    let id = |record: &Value| record["id"].as_str().unwrap().to_owned();
    let first = record(&project);
    project.success(&["evidence", "import", "out"]);
    project.success(&["train", "host.yml", "--resume", "auto"]);
    let second = record(&project);
    assert_eq!((id(&first), &first["steps"]), (id(&second), &json!(2)));
    assert_eq!(second["steps"], 4);
    let imported = project.success(&["evidence", "import", "out", "out", "--json"]).stdout;
    let imported: Value = serde_json::from_str(&imported).unwrap();
    assert_eq!([&imported["new"], &imported["changed"], &imported["known"]], [&json!(0), &json!(1), &json!(1)]);
    let off = "rules=[{name: practice, severity: {H28: off}}]";
    let rate = ["--set", "learning_rate=1e30", "--set", "max_grad_norm=0", "--set", off];
    project.failure(&[&["train", "host.yml", "--overwrite"][..], &rate].concat());
    let broken = record(&project);
    assert_ne!(id(&broken), id(&second));
    assert_eq!(broken["outcome"], "not-finite");
}

#[test]
fn a_run_that_is_killed_has_said_so_beforehand() {
    let project = Project::new();
    project.write("host.yml", CONFIG.replace("max_steps: 4", "max_steps: 100000"));
    let mut child = project.command(&["train", "host.yml"]).spawn().unwrap();
    let start = Instant::now();
    while fs::read_to_string(project.path("out/metrics.jsonl")).unwrap_or_default().is_empty() {
        assert!(start.elapsed() < Duration::from_mins(1), "no step was done");
        std::thread::sleep(Duration::from_millis(20));
    }
    let messages = project.failure(&["evidence", "export", "out"]);
    assert!(messages.contains("in use by another run"), "{messages}");
    child.kill().unwrap();
    finish(child);
    let killed: Value = serde_json::from_str(&project.success(&["evidence", "export", "out"]).stdout).unwrap();
    assert_eq!(killed["outcome"], "killed");
}

#[test]
fn a_config_is_held_against_what_came_of_others() {
    let project = Project::new();
    project
        .write("theirs.jsonl", runs("diverged", 1e-3, 6) + &runs("not-finite", 2e-3, 3) + &runs("finished", 1e-3, 5));
    assert_eq!(
        project.success(&["check", "host.yml"]).stderr,
        "host.yml: no errors, no warnings\n",
        "nothing imported"
    );
    project.success(&["evidence", "import", "theirs.jsonl"]);
    insta::assert_snapshot!(project.success(&["check", "host.yml"]).stderr);
    insta::assert_snapshot!(
        project.success(&["evidence", "show"]).stdout.replace(project.path("").to_str().unwrap(), "HOME/")
    );
    project.write("more.jsonl", runs("finished", 2e-4, 8));
    project.success(&["evidence", "import", "more.jsonl"]);
    let help = "help: all 8 runs went well with `learning_rate: 0.0002`";
    assert!(project.success(&["check", "host.yml"]).stderr.contains(help));
    let calm = project.success(&["check", "host.yml", "--set", "learning_rate=2e-4"]).stderr;
    assert_eq!(calm, "host.yml: no errors, no warnings\n");
    let other = project.success(&["check", "host.yml", "--set", "sample_packing=true"]).stderr;
    assert!(!other.contains("rule::E"), "another combination: {other}");
    let silent = "rules=[{name: practice, severity: {E1: off}}]";
    assert_eq!(project.success(&["check", "host.yml", "--set", silent]).stderr, calm);
}

#[test]
fn records_come_through_a_pipe_and_broken_ones_are_refused_whole() {
    let project = Project::new();
    let good = runs("finished", 1e-3, 1);
    let import = |text: &str| {
        project.write("in.jsonl", text);
        let input = fs::File::open(project.path("in.jsonl")).unwrap();
        let mut command: Command = project.command(&["evidence", "import", "-"]);
        finish(command.stdin(input).spawn().unwrap())
    };
    let bad = [
        "{\"event\": \"outcome\"\n".to_owned(),
        good.replace("\"v\":1", "\"v\":9"),
        good.replace("LlamaForCausalLM", "\\u001b[31m"),
        good.replace("\"outcome\":\"finished\"", "\"outcome\":\"wonderful\""),
        good.replace("0.001", "-1"),
    ];
    let outcome = import(&format!("{good}\n{}", bad.concat()));
    assert_eq!(outcome.status, 1);
    insta::assert_snapshot!(outcome.stderr);
    assert!(!project.path(".data/outcomes.jsonl").exists());
    assert!(import(&good).stderr.starts_with("1 new, 0 changed, 0 known already"));
    // A table that someone edited does not stop a check.
    project.write(".data/outcomes.jsonl", format!("{good}oops\n"));
    let checked = project.success(&["check", "host.yml"]).stderr.replace(project.path("").to_str().unwrap(), "HOME/");
    insta::assert_snapshot!(checked);
}

#[test]
fn what_is_no_run_has_no_outcome() {
    let project = Project::new();
    fs::create_dir(project.path("empty")).unwrap();
    insta::assert_snapshot!(project.failure(&["evidence", "export", "empty", "nowhere"]));
    let told = project.host(&["evidence", "export", "empty", "--json"]);
    let told: Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!((&told["event"], &told["code"]), (&json!("diagnostic"), &json!("evidence::no-run")), "to programs too");
    let shown = project.success(&["evidence", "show"]).stderr;
    assert!(shown.starts_with("no outcomes were imported yet"), "{shown}");
}
