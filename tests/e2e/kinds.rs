//! Row filters, schedules and run health: what they do to a run, and what is said when they cannot.

use std::fs;

use serde_json::{Value, json};

use crate::support::{CONFIG, Project, guest, lines, root, without_sizes};

/// Trains with `more` lines and a guest of `tests/fixtures/plugins`; the messages.
fn failing(guest_name: &str, more: &str) -> String {
    let project = Project::new();
    let directory = guest(guest_name);
    project.write("host.yml", format!("{CONFIG}logging_steps: 1\n{more}"));
    let messages = project.failure(&["train", "host.yml", "--plugins", directory.to_str().unwrap()]);
    assert!(!messages.contains('\u{1b}'), "{messages:?}");
    timeless(&messages)
}

/// Without what differs from run to run.
fn timeless(messages: &str) -> String {
    let numbers = regex::Regex::new(r"[\d ]+ tok/s").unwrap();
    numbers.replace_all(messages, " N tok/s").into_owned()
}

/// From the first message that starts with `start`.
fn from(messages: &str, start: &str) -> String {
    messages.lines().skip_while(|line| !line.starts_with(start)).map(|line| format!("{line}\n")).collect()
}

fn events(stdout: &str, kind: &str) -> Vec<Value> {
    let events = stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["event"] == kind).collect()
}

const ROWS: &str = "\
{\"instruction\": \"Say hi.\", \"input\": \"\", \"output\": \"hi\"}
{\"instruction\": \"Say  HI.\", \"input\": \"\", \"output\": \"Hi\"}
{\"instruction\": \"Say hi.\", \"input\": \"\", \"output\": \"hello there\"}
{\"instruction\": \"x\", \"input\": \"\", \"output\": \"y\"}
{\"instruction\": \"Cheer.\", \"input\": \"\", \"output\": \"go go go go go go go go\"}
{\"instruction\": \"Say bye.\", \"input\": \"\", \"output\": \"bye\"}
";
const CURATE: &str = "row_filters: [{name: curate, config: {min_chars: 5, max_repetition: 0.5}}]\n";

#[test]
fn a_filter_leaves_rows_out_and_says_why() {
    let project = Project::new();
    project.write("train.jsonl", ROWS);
    project.write("host.yml", format!("{CONFIG}{CURATE}test_datasets: [{{path: train.jsonl, type: alpaca}}]\n"));
    let outcome = project.success(&["train", "host.yml", "--dry-run"]);
    insta::assert_snapshot!(without_sizes(&outcome.stderr));
    let plan = &events(&project.success(&["train", "host.yml", "--dry-run", "--json"]).stdout, "plan")[0];
    assert_eq!((&plan["samples"], &plan["eval_samples"]), (&json!(3), &json!(6)), "only `datasets` are filtered");
    assert_eq!(plan["dropped"][0], json!({"reason": "duplicate of an earlier row", "rows": 1, "plugin": "curate"}));

    let outcome = project.success(&["train", "host.yml", "--json", "--set", "max_steps=1"]);
    let summary = &events(&outcome.stdout, "summary")[0];
    assert_eq!((&summary["row_filters"][0]["rows"], &summary["row_filters"][0]["kept"]), (&json!(6), &json!(3)));
    assert!(summary["row_filters"][0]["mean_score"].as_f64().is_some_and(|mean| mean > 0.8 && mean < 1.0));
    let run: Value = serde_json::from_str(&project.read("out/run.json")).unwrap();
    assert!(run["plugins"].as_array().unwrap().iter().any(|plugin| plugin["name"] == "curate"), "{run}");

    // Another filter would be another run.
    insta::assert_snapshot!(project.failure(&[
        "train",
        "host.yml",
        "--resume",
        "out/checkpoint-1",
        "--set",
        "row_filters=[]"
    ]));
}

#[test]
fn filters_of_one_dataset_come_after_those_of_all() {
    let project = Project::new();
    project.write("train.jsonl", ROWS);
    let own = "    row_filters: [{name: curate, min_score: 0.9, config: {dedup: false}}]\n";
    let text = CONFIG.replace("    type: alpaca\n", &format!("    type: alpaca\n{own}"));
    project.write("host.yml", format!("{text}row_filters: curate\n"));
    let outcome = project.success(&["train", "host.yml", "--dry-run"]);
    insta::assert_snapshot!(without_sizes(&outcome.stderr));
}

#[test]
fn a_filter_that_leaves_nothing_is_said() {
    let project = Project::new();
    let edit = |config: &str| format!("{config}row_filters: [{{name: curate, config: {{fields: [answer]}}}}]\n");
    insta::assert_snapshot!(project.train_failure(edit));
}

#[test]
fn a_minimum_score_needs_scores() {
    insta::assert_snapshot!(failing(
        "bad-filter",
        "row_filters:\n  - name: test:bad-filter\n    config: {fault: silent}\n    min_score: 0.5\n"
    ));
}

#[test]
fn reasons_are_short_lines_and_not_without_end() {
    let project = Project::new();
    let directory = guest("bad-filter");
    project.write(
        "host.yml",
        format!("{CONFIG}row_filters: [{{name: 'test:bad-filter', config: {{fault: many-reasons}}}}]\n"),
    );
    let outcome = project.success(&["train", "host.yml", "--dry-run", "--plugins", directory.to_str().unwrap()]);
    assert!(!outcome.stderr.contains('\u{1b}'));
    assert_eq!(outcome.stderr.matches("left out").count(), 21);
    assert!(outcome.stderr.contains("left out  20 rows: other reasons (test:bad-filter)"), "{}", outcome.stderr);
}

#[test]
fn bad_filters() {
    for fault in ["too-few", "nan-score", "trap"] {
        let more = format!("row_filters: [{{name: 'test:bad-filter', config: {{fault: {fault}}}}}]\n");
        insta::assert_snapshot!(format!("bad_filter_{fault}"), failing("bad-filter", &more));
    }
}

#[test]
fn a_schedule_plugin_gives_the_learning_rate() {
    let project = Project::new();
    let text = CONFIG.replace("max_steps: 4", "max_steps: 12\nlogging_steps: 1\nwarmup_steps: 3");
    project.write("host.yml", format!("{text}lr_scheduler: {{name: wsd, config: {{num_decay_steps: 4}}}}\n"));
    project.success(&["train", "host.yml"]);
    let rates: Vec<f64> =
        lines(&project.path("out/metrics.jsonl")).iter().map(|line| line["learning_rate"].as_f64().unwrap()).collect();
    // transformers 5.24.0, `get_wsd_schedule` with these numbers.
    let decay = [0.853_553_390_593_273_7, 0.5, 0.146_446_609_406_727_26];
    let factors = [0.0, 1.0 / 3.0, 2.0 / 3.0].into_iter().chain([1.0; 6]).chain(decay);
    let wanted: Vec<f64> = factors.map(|factor| 1e-3 * factor).collect();
    assert_eq!(rates.len(), wanted.len());
    assert!(rates.iter().zip(&wanted).all(|(rate, wanted)| (rate - wanted).abs() < 1e-17), "{rates:?} {wanted:?}");

    // Another schedule would be another run.
    let other = ["train", "host.yml", "--resume", "out/checkpoint-12", "--set", "lr_scheduler=linear"];
    assert!(project.failure(&other).contains("`lr_scheduler`: now \"linear\", then {\"name\":\"wsd\""));
}

#[test]
fn a_schedule_that_cannot_be_is_said_at_its_key() {
    let check = |more: &str| {
        let project = Project::new();
        project.write("host.yml", format!("{CONFIG}{more}"));
        project.failure(&["check", "host.yml"])
    };
    insta::assert_snapshot!(check("lr_scheduler:\n  name: wsd\n  config:\n    decay_type: square\n"));
    insta::assert_snapshot!(check("lr_scheduler:\n  name: wsd\n  config:\n    num_decay_steps: 40\n"));
    insta::assert_snapshot!(check("lr_scheduler: {name: wsd, config: {num_decay_step: 4}}\n"));
    insta::assert_snapshot!(check("lr_scheduler: acme:steps\n"));
    insta::assert_snapshot!(check("lr_scheduler: {name: curate}\n"));
    insta::assert_snapshot!(check("lr_scheduler: wds\n"));
    // Without `max_steps`, only the data tells how long the run is.
    let project = Project::new();
    let text = CONFIG.replace("max_steps: 4\n", "");
    project.write("host.yml", format!("{text}lr_scheduler: {{name: wsd, config: {{num_decay_steps: 40}}}}\n"));
    project.success(&["check", "host.yml"]);
    insta::assert_snapshot!(project.failure(&["train", "host.yml"]));
}

#[test]
fn bad_schedules() {
    for fault in ["nan", "negative", "trap"] {
        let more = format!("lr_scheduler: {{name: 'test:bad-schedule', config: {{fault: {fault}}}}}\n");
        insta::assert_snapshot!(format!("bad_schedule_{fault}"), failing("bad-schedule", &more));
    }
}

#[test]
fn a_warning_is_shown_once_and_counted() {
    let project = Project::new();
    let watch = "run_health: [{name: loss-watch, config: {grad_norm_max: 0.001}}]\n";
    project.write("host.yml", format!("{CONFIG}logging_steps: 1\n{watch}"));
    let outcome = project.success(&["train", "host.yml"]);
    assert_eq!(outcome.stderr.matches("warning[health::grad-norm]").count(), 1, "{}", outcome.stderr);
    let shown = from(&outcome.stderr, "warning");
    let shown = regex::Regex::new(r"norm \d+\.\d+").unwrap().replace_all(&shown, "norm N").into_owned();
    insta::assert_snapshot!(shown.lines().take(3).collect::<Vec<_>>().join("\n"));
    assert!(outcome.stderr.contains("4 times, first at step 1 (loss-watch)"), "{}", outcome.stderr);

    let outcome = project.success(&["train", "host.yml", "--overwrite", "--json"]);
    let found = events(&outcome.stdout, "health");
    assert_eq!(found.len(), 4);
    let keys: Vec<&str> = found[0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["event", "v", "plugin", "id", "advice", "step", "message", "why", "help"]);
    let summary = &events(&outcome.stdout, "summary")[0];
    assert_eq!(summary["health"], json!([{"plugin": "loss-watch", "id": "grad-norm", "times": 4, "first_step": 1}]));
}

#[test]
fn a_stop_saves_the_state_and_the_run_can_go_on() {
    let project = Project::new();
    let text = CONFIG.replace("max_steps: 4", "max_steps: 8\nlogging_steps: 1");
    project.write("whole.yml", text.replace("output_dir: out", "output_dir: whole"));
    project.success(&["train", "whole.yml"]);
    let watch = "run_health:\n  - name: loss-watch\n    config: {threshold: 0.001, patience: 3}\n";
    project.write("host.yml", format!("{text}{watch}"));
    let messages = project.failure(&["train", "host.yml"]);
    let messages = regex::Regex::new(r"loss \d+\.\d+").unwrap().replace_all(&messages, "loss N").into_owned();
    insta::assert_snapshot!(from(&messages, "error"));
    assert!(!project.path("out/model.safetensors").exists());
    let run: Value = serde_json::from_str(&project.read("out/run.json")).unwrap();
    assert_eq!((&run["status"], &run["step"]), (&json!("stopped"), &json!(3)));
    assert_eq!(run["stopped_by"], json!({"plugin": "loss-watch", "id": "loss-threshold"}));

    // The watch saw the earlier lines again, without a word about them, and was as patient as before.
    let outcome = project.host(&["train", "host.yml", "--resume", "auto", "--json"]);
    assert_eq!(outcome.status, 1, "{}", outcome.stderr);
    let found = events(&outcome.stdout, "health");
    assert_eq!((found.len(), &found[0]["step"], &found[0]["advice"]), (1, &json!(6), &json!("stop")));
    let diagnostic = &events(&outcome.stdout, "diagnostic")[0];
    assert_eq!((&diagnostic["code"], &diagnostic["plugin"]), (&json!("health::loss-threshold"), &json!("loss-watch")));
    assert_eq!(events(&outcome.stdout, "stopped")[0]["path"], "out/checkpoint-6");

    project.success(&["train", "host.yml", "--resume", "auto", "--set", "run_health=[]"]);
    let model = |output: &str| fs::read(project.path(output).join("model.safetensors")).unwrap();
    assert!(model("out") == model("whole"), "a stop and two resumes change nothing");
}

#[test]
fn a_stop_at_the_last_step_stops_nothing() {
    let project = Project::new();
    let watch = "run_health: [{name: loss-watch, config: {threshold: 0.001, patience: 4}}]\n";
    project.write("host.yml", format!("{CONFIG}logging_steps: 1\n{watch}"));
    let outcome = project.success(&["train", "host.yml"]);
    assert!(
        outcome.stderr.contains("warning[health::loss-threshold]: plugin `loss-watch` at step 4"),
        "{}",
        outcome.stderr
    );
    assert!(project.path("out/model.safetensors").exists());
}

#[test]
fn bad_health_plugins_end_the_run_with_its_state_saved() {
    for fault in ["trap", "bad-id", "flood"] {
        let more = format!("run_health: [{{name: 'test:bad-health', config: {{fault: {fault}}}}}]\n");
        let messages = failing("bad-health", &more);
        insta::assert_snapshot!(format!("bad_health_{fault}"), from(&messages, "error"));
    }
    let project = Project::new();
    project.write("host.yml", format!("{CONFIG}run_health: [{{name: loss-watch, config: {{patience: 0}}}}]\n"));
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
}

#[test]
fn the_config_with_all_three_trains() {
    let project = Project::new();
    let root = root().canonicalize().unwrap();
    let output = project.path("out");
    let set = format!("output_dir={}", output.display());
    let mut command = project.command(&["train", "configs/curated.yml", "--json", "--set", &set]);
    command.current_dir(&root);
    let outcome = crate::support::finish(command.spawn().unwrap());
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    let summary = &events(&outcome.stdout, "summary")[0];
    assert!(summary["row_filters"][0]["mean_score"].is_number(), "{summary}");
    let names: Vec<&str> =
        summary["plugins"].as_array().unwrap().iter().map(|plugin| plugin["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["alpaca", "axolotl-compat", "curate", "jsonl", "loss-watch", "practice", "wsd"]);
    let (first, last) = (summary["first_loss"].as_f64().unwrap(), summary["final_loss"].as_f64().unwrap());
    assert!(last < first, "{first} {last}");
}
