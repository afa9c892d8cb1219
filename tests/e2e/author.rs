//! The life cycle of a plugin's author: new, build, pack, test, lock, and a failed call made again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::support::{CONFIG, Outcome, Project, finish, guest};

/// The cache of compiled dependencies is one for all projects.
static BUILDING: Mutex<()> = Mutex::new(());

fn build(project: &Project, dir: &str) -> Outcome {
    let _one_at_a_time = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = project.command(&["plugin", "build", dir]);
    command.env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("../plugins-authored"));
    finish(command.spawn().unwrap())
}

/// A guest's file.
fn file(guest_name: &str) -> PathBuf {
    guest(guest_name).join(format!("{}.wasm", guest_name.replace('-', "_")))
}

/// A guest's file without a manifest, in the project: its section gets another name.
fn unpacked(project: &Project, guest_name: &str) {
    let mut bytes = fs::read(file(guest_name)).unwrap();
    let section = b"trainer:plugin-manifest";
    let at = bytes.windows(section.len()).position(|window| window == section).unwrap();
    bytes[at + section.len() - 1] = b'_';
    project.write("component.wasm", bytes);
}

/// Digests change with every change of the SDK.
fn without_digests(text: &str) -> String {
    regex::Regex::new("[0-9a-f]{64}").unwrap().replace_all(text, "[sha256]").into_owned()
}

/// Without what cargo says, and without sizes.
fn own_words(text: &str) -> String {
    let cargo =
        regex::Regex::new(r"(?m)^ +(Compiling|Updating|Locking|Downloading|Downloaded|Finished|Adding|Blocking) .*\n")
            .unwrap();
    regex::Regex::new(r"\d+ KiB").unwrap().replace_all(&cargo.replace_all(text, ""), "N KiB").into_owned()
}

/// Each kind: a project that builds at once, passes its own test, and is used by name in a run.
#[test]
fn every_kind_from_nothing_to_a_run() {
    for (kind, more) in [
        (
            "reward",
            "test_datasets: [{path: eval.jsonl, type: alpaca}]\neval_max_new_tokens: 1\neval_reward_funcs: [{name: 'acme:own', config: {max_words: 3}}]\n",
        ),
        ("prompt-strategy", ""),
        ("dataset-loader", ""),
        ("row-filter", "row_filters: [{name: 'acme:own', config: {min_words: 1}}]\n"),
        ("compat-rules", "rules: [{name: 'acme:own', config: {max_checkpoints: 2}}]\n"),
        ("schedule", "lr_scheduler: {name: 'acme:own', config: {drops: 1}}\n"),
        ("run-health", "run_health: [{name: 'acme:own', config: {times: 9}}]\n"),
        (
            "environment",
            "chat_template: chatml\nrl: grpo\ntrl: {num_generations: 2, max_completion_length: 8}\nenvironment: {name: 'acme:own', config: {highest: 20}, max_turns: 2}\n",
        ),
    ] {
        let project = Project::new();
        let wrote = project.success(&["plugin", "new", "acme:own", "--kind", kind]).stderr;
        let built = build(&project, "own");
        assert_eq!(built.status, 0, "{kind}: {}", built.stderr);
        let tested = project.success(&["plugin", "test", "own"]).stderr;
        if kind == "reward" {
            insta::assert_snapshot!(format!("{wrote}{}{tested}", own_words(&built.stderr)));
        }
        let config = match kind {
            "prompt-strategy" => {
                project.write("train.jsonl", "{\"question\": \"1+1?\", \"answer\": \"2\"}\n".repeat(8));
                CONFIG.replace("alpaca", "{name: 'acme:own', config: {ask: 'Q: '}}")
            }
            "dataset-loader" => {
                project.write("train.txt", "Add 1 and 1.|2\n".repeat(8));
                let ds_type = "train.txt\n    ds_type: {name: 'acme:own', config: {separator: '|'}}";
                CONFIG.replace("train.jsonl", ds_type)
            }
            "environment" => {
                project.write("train.jsonl", "{\"number\": \"7\"}\n".repeat(8));
                let text = CONFIG.replace("alpaca", "{name: completion, config: {field: number}}");
                text.replace("sequence_len: 128", "sequence_len: 512")
            }
            _ => CONFIG.to_owned(),
        };
        project.write("host.yml", format!("{config}{more}"));
        let run = ["train", "host.yml", "--plugins", "own/dist", "--set", "max_steps=1"];
        let outcome = project.success(&run);
        let used: Value = serde_json::from_str(&project.read("out/run.json")).unwrap();
        let names: Vec<&str> =
            used["plugins"].as_array().unwrap().iter().filter_map(|used| used["name"].as_str()).collect();
        assert!(names.contains(&"acme:own"), "{kind}: {names:?}");
        assert_eq!(outcome.stderr.contains("HOUSE1"), kind == "compat-rules", "{}", outcome.stderr);
    }
}

#[test]
fn a_project_is_not_put_just_anywhere() {
    let project = Project::new();
    insta::assert_snapshot!(project.failure(&["plugin", "new", "style", "--kind", "reward"]));
    insta::assert_snapshot!(project.failure(&["plugin", "new", "acme:my style", "--kind", "reward"]));
    insta::assert_snapshot!(project.failure(&["plugin", "new", "acme:lr", "--kind", "schedule", "--lang", "python"]));
    fs::create_dir(project.path("style")).unwrap();
    project.write("style/notes.txt", "mine");
    insta::assert_snapshot!(project.failure(&["plugin", "new", "acme:style", "--kind", "reward"]));
    assert_eq!(fs::read_dir(project.path("style")).unwrap().count(), 1);
    assert_eq!(project.host(&["plugin", "new", "acme:x", "--kind", "rewards"]).status, 2);
}

#[test]
fn what_cannot_be_built_is_said() {
    let project = Project::new();
    insta::assert_snapshot!(project.failure(&["plugin", "build", "nowhere"]));
    fs::create_dir(project.path("empty")).unwrap();
    insta::assert_snapshot!(project.failure(&["plugin", "build", "empty"]));
    project.success(&["plugin", "new", "acme:style", "--kind", "reward", "--lang", "js", "--dir", "js"]);
    insta::assert_snapshot!(project.failure(&["plugin", "build", "js"]));
    insta::assert_snapshot!(project.failure(&["plugin", "test", "js"]));
    project.success(&["plugin", "new", "acme:style", "--kind", "reward", "--lang", "python", "--dir", "py"]);
    let mut command = project.command(&["plugin", "build", "py"]);
    let outcome = finish(command.env("PATH", project.path("nowhere")).spawn().unwrap());
    assert_eq!(outcome.status, 1);
    insta::assert_snapshot!(outcome.stderr);
    project.success(&["plugin", "new", "acme:style", "--kind", "reward", "--dir", "rust"]);
    project.write("rust/src/lib.rs", "fn broken(");
    let messages = build(&project, "rust");
    assert_eq!(messages.status, 1);
    insta::assert_snapshot!(messages.stderr.split_once("error[plugin::build]").unwrap().1);
}

#[test]
fn a_component_becomes_a_plugin() {
    let project = Project::new();
    unpacked(&project, "reverse");
    let manifest =
        json!({"name": "acme:backwards", "version": "2.0", "kind": "prompt-strategy", "description": "Backwards"});
    project.write("plugin.json", manifest.to_string());
    fs::create_dir(project.path("plugins")).unwrap();
    let pack = ["plugin", "pack", "component.wasm", "--manifest", "plugin.json", "-o", "plugins/backwards.wasm"];
    insta::assert_snapshot!(project.success(&pack).stderr);
    project.write("host.yml", CONFIG.replace("alpaca", "{name: 'acme:backwards', config: {field: output}}"));
    project.success(&["train", "host.yml", "--plugins", "plugins", "--set", "max_steps=1"]);
    // The same again changes nothing.
    let before = fs::read(project.path("plugins/backwards.wasm")).unwrap();
    project.success(&["plugin", "pack", "plugins/backwards.wasm", "--manifest", "plugin.json"]);
    assert_eq!(fs::read(project.path("plugins/backwards.wasm")).unwrap(), before);
}

#[test]
fn what_cannot_be_packed() {
    let project = Project::new();
    unpacked(&project, "reverse");
    let refused = |file: &str, manifest: &str| {
        project.write("plugin.json", manifest);
        let before = fs::read(project.path(file)).unwrap();
        let messages = project.failure(&["plugin", "pack", file, "--manifest", "plugin.json"]);
        assert_eq!(fs::read(project.path(file)).unwrap(), before, "a refused file stays as it is");
        messages
    };
    let manifest =
        |kind: &str, more: &str| format!("{{\"name\": \"acme:x\", \"version\": \"1.0\", \"kind\": \"{kind}\"{more}}}");
    project.write("core.wasm", b"\0asm\x01\0\0\0");
    fs::copy(file("reverse"), project.path("reverse.wasm")).unwrap();
    insta::assert_snapshot!(refused("core.wasm", &manifest("reward", "")));
    insta::assert_snapshot!(refused("reverse.wasm", &manifest("prompt-strategy", "")));
    insta::assert_snapshot!(refused("component.wasm", &manifest("reward", "")));
    insta::assert_snapshot!(refused("component.wasm", &manifest("prompt-strategy", ", \"kinds\": []")));
    insta::assert_snapshot!(refused(
        "component.wasm",
        &manifest("prompt-strategy", ", \"config_schema\": {\"$ref\": \"https://example.org/x\"}")
    ));
    insta::assert_snapshot!(refused(
        "component.wasm",
        &manifest("prompt-strategy", ", \"config_schema\": {\"type\": \"strnig\"}")
    ));
    insta::assert_snapshot!(refused("component.wasm", &manifest("prompt-strategy", "").replace("acme:x", "acme x")));
    insta::assert_snapshot!(refused("component.wasm", "{\n  \"name\": \"acme:x\",\n}"));
    insta::assert_snapshot!(project.failure(&["plugin", "pack", "component.wasm", "--manifest", "no.json"]));
}

fn unsteady(config: &str) -> String {
    format!(
        "{CONFIG}test_datasets: [{{path: eval.jsonl, type: alpaca}}]\neval_reward_funcs:\n  - name: test:unsteady\n    config:\n{config}"
    )
}

#[test]
fn a_config_is_held_against_its_schema() {
    let project = Project::new();
    let plugins = guest("unsteady");
    let plugins = plugins.to_str().unwrap();
    project.write(
        "host.yml",
        unsteady("      fault: sometimes\n      shaer: 0.5\n      share: 2\n      words:\n        - {text: ok, weight: 1}\n        - {text: N0, wieght: 1}\n        - 3\n"),
    );
    insta::assert_snapshot!(project.failure(&["check", "host.yml", "--plugins", plugins]));
    project.write("host.yml", unsteady("      share: 1\n"));
    insta::assert_snapshot!(project.failure(&["train", "host.yml", "--plugins", plugins]));
    project.write("host.yml", unsteady("      fault: none\n"));
    insta::assert_snapshot!(project.failure(&[
        "check",
        "host.yml",
        "--plugins",
        plugins,
        "--set",
        "eval_reward_funcs[0].config.share=no"
    ]));
    project.success(&["check", "host.yml", "--plugins", plugins]);
}

#[test]
fn a_plugin_is_shown_without_running_it() {
    let project = Project::new();
    let bytes = regex::Regex::new(r"\d+ bytes").unwrap();
    let shown = |name: &str, guest_name: &str| {
        let plugins = guest(guest_name);
        let text = project.success(&["plugin", "inspect", name, "--plugins", plugins.to_str().unwrap()]).stdout;
        bytes.replace(&without_digests(&text), "N bytes").into_owned()
    };
    insta::assert_snapshot!(shown("test:unsteady", "unsteady"));
    let json = project.success(&["plugin", "inspect", file("unsteady").to_str().unwrap(), "--json"]).stdout;
    let event: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&event["event"], &event["v"], &event["limits"]["file_mb"]), (&json!("plugin"), &json!(1), &json!(32)));
    assert_eq!(event["config_schema"]["required"], json!(["fault"]));
}

/// A project directory for a guest: its file, and one case.
fn cases(guest_name: &str, config: &str, input: &str) -> Project {
    let project = Project::new();
    fs::copy(file(guest_name), project.path("plugin.wasm")).unwrap();
    fs::create_dir_all(project.path("tests/basic")).unwrap();
    project.write("tests/basic/config.json", config);
    project.write("tests/basic/input.jsonl", input);
    project
}

const ITEMS: &str = "{\"completion\": \"one\"}\n{\"completion\": \"two boom\"}\n\n{\"completion\": \"three\"}\n";

#[test]
fn results_are_held_against_golden_files() {
    let project = cases("reverse", "{\"field\": \"text\"}", "{\"text\": \"abc\"}\n{\"text\": \"\"}\n{\"other\": 1}\n");
    insta::assert_snapshot!(project.failure(&["plugin", "test", "plugin.wasm"]));
    assert!(!project.path("tests/basic/golden.jsonl").exists());
    insta::assert_snapshot!(project.success(&["plugin", "test", "plugin.wasm", "--bless"]).stderr);
    let golden = project.read("tests/basic/golden.jsonl");
    assert_eq!(golden.lines().nth(1), Some("{\"skipped\":true}"));
    insta::assert_snapshot!(project.success(&["plugin", "test", "plugin.wasm"]).stderr);
    let json = project.success(&["plugin", "test", "plugin.wasm", "--json"]).stdout;
    assert_eq!(
        json.lines().last(),
        Some("{\"event\":\"test\",\"v\":1,\"plugin\":\"acme:reverse\",\"cases\":1,\"passed\":1}")
    );
    project.write(
        "tests/basic/golden.jsonl",
        golden.replace("cba", "bca").replace("{\"skipped\":true}", "{\"skipped\":false}"),
    );
    insta::assert_snapshot!(project.failure(&["plugin", "test", "plugin.wasm"]));
    project.write("tests/basic/golden.jsonl", golden.lines().next().unwrap());
    insta::assert_snapshot!(project.failure(&["plugin", "test", "plugin.wasm"]));
}

#[test]
fn results_depend_on_their_row_alone() {
    let flagged = |fault: &str| {
        let project = cases("unsteady", &format!("{{\"fault\": \"{fault}\"}}"), ITEMS);
        let messages = project.failure(&["plugin", "test", "plugin.wasm", "--bless"]);
        assert!(!project.path("tests/basic/golden.jsonl").exists(), "what is not steady is not kept");
        messages
    };
    insta::assert_snapshot!(flagged("counts"));
    insta::assert_snapshot!(flagged("looks-around"));
    insta::assert_snapshot!(flagged("traps"));
    insta::assert_snapshot!(flagged("unknown"));
}

#[test]
fn cases_that_are_none() {
    let failing = |name: &str, input: &str| {
        cases(name, "{\"fault\": \"none\"}", input).failure(&["plugin", "test", "plugin.wasm"])
    };
    insta::assert_snapshot!(failing("unsteady", "{\"completion\": 3}\n"));
    insta::assert_snapshot!(failing("unsteady", "{\"completion\": \"x\"}\n{\"completion\"\n"));
    insta::assert_snapshot!(failing("unsteady", "\n"));
    let project = Project::new();
    fs::copy(file("unsteady"), project.path("plugin.wasm")).unwrap();
    insta::assert_snapshot!(project.failure(&["plugin", "test", "plugin.wasm"]));
    insta::assert_snapshot!(project.failure(&["plugin", "test", "acme:nothing"]));
}

#[test]
fn a_failed_call_is_kept_and_made_again() {
    let project = Project::new();
    let plugins = guest("picky");
    let plugins = plugins.to_str().unwrap();
    let rows = project.read("train.jsonl");
    project.write("train.jsonl", format!("{rows}{{\"instruction\": \"a\", \"output\": \"boom\"}}\n"));
    project.write("host.yml", CONFIG.replace("alpaca", "test:picky"));
    insta::assert_snapshot!(project.failure(&["train", "host.yml", "--plugins", plugins, "--dry-run"]));
    assert!(!project.path("out").exists());
    insta::assert_snapshot!(project.failure(&["train", "host.yml", "--plugins", plugins]));
    let kept = project.read("out/failed-call.json");
    insta::assert_snapshot!(without_digests(&kept));
    let replay = ["plugin", "test", "test:picky", "--plugins", plugins, "--replay", "out/failed-call.json"];
    insta::assert_snapshot!(project.failure(&replay));
    // Mended, as it were.
    project.write("out/failed-call.json", kept.replace("boom", "fine"));
    insta::assert_snapshot!(project.success(&replay).stderr);
    let mut other: Value = serde_json::from_str(&kept).unwrap();
    other["sha256"] = "0".repeat(64).into();
    project.write("out/failed-call.json", other.to_string());
    insta::assert_snapshot!(without_digests(&project.failure(&replay)));
    project.write("out/failed-call.json", "{}");
    insta::assert_snapshot!(project.failure(&replay));
    // A run that goes well leaves none.
    project.write("train.jsonl", rows);
    project.success(&["train", "host.yml", "--plugins", plugins, "--set", "max_steps=1"]);
    assert!(!project.path("out/failed-call.json").exists());
}

/// Ten thousand rows, and the plugin crashes on the last but one: the message names it, and the call that is kept is small.
#[test]
fn a_late_row_is_named() {
    let project = Project::new();
    let plugins = guest("picky");
    let plugins = plugins.to_str().unwrap();
    let fine = "{\"instruction\": \"a\", \"output\": \"fine\"}\n";
    project
        .write("train.jsonl", format!("{}{{\"instruction\": \"a\", \"output\": \"boom\"}}\n{fine}", fine.repeat(9998)));
    project.write("host.yml", CONFIG.replace("alpaca", "test:picky"));
    insta::assert_snapshot!(project.failure(&["train", "host.yml", "--plugins", plugins]));
    let kept: Value = serde_json::from_str(&project.read("out/failed-call.json")).unwrap();
    assert_eq!(kept["input"], json!([{"instruction": "a", "output": "boom"}]));
}

#[test]
fn a_filter_fails_after_the_rows_before() {
    let project = Project::new();
    let plugins = guest("bad-filter");
    let plugins = plugins.to_str().unwrap();
    project.write("host.yml", format!("{CONFIG}row_filters: [{{name: 'test:bad-filter', config: {{fault: trap}}}}]\n"));
    let messages = project.failure(&["train", "host.yml", "--plugins", plugins]);
    assert!(messages.contains("it fails in `judge` on line 4, after the 3 rows before it"), "{messages}");
    let kept: Value = serde_json::from_str(&project.read("out/failed-call.json")).unwrap();
    assert_eq!(kept["input"].as_array().map(Vec::len), Some(4));
    project.failure(&["plugin", "test", "test:bad-filter", "--plugins", plugins, "--replay", "out/failed-call.json"]);
}

#[test]
fn plugins_are_locked() {
    let project = Project::new();
    fs::create_dir(project.path("plugins")).unwrap();
    fs::copy(file("reverse"), project.path("plugins/reverse.wasm")).unwrap();
    project.write("host.yml", CONFIG.replace("alpaca", "{name: 'acme:reverse', config: {field: output}}"));
    let check = ["check", "host.yml", "--plugins", "plugins", "--locked"];
    insta::assert_snapshot!(project.failure(&check));
    insta::assert_snapshot!(project.failure(&["plugin", "lock"]));
    insta::assert_snapshot!(project.success(&["plugin", "lock", "--plugins", "plugins"]).stderr);
    let lock = project.read("plugins.lock");
    insta::assert_snapshot!(without_digests(&lock));
    project.success(&check);
    project.success(&["train", "host.yml", "--plugins", "plugins", "--locked", "--set", "max_steps=1"]);

    // Another file of that name.
    let digest = lock.lines().find_map(|line| line.strip_prefix("sha256 = \"")).unwrap().trim_end_matches('"');
    project.write("plugins.lock", lock.replace(digest, &"0".repeat(64)));
    insta::assert_snapshot!(without_digests(&project.failure(&check)));
    let train = ["train", "host.yml", "--plugins", "plugins", "--overwrite", "--set", "max_steps=1"];
    let warned = project.success(&train).stderr;
    assert!(warned.contains("warning[plugin::lock]: plugin `acme:reverse` is not the one that is locked"), "{warned}");
    let locked = [&train[..], &["--locked"]].concat();
    assert!(project.failure(&locked).contains("error[plugin::lock]"));

    project.write("plugins.lock", lock.replace("acme:reverse", "acme:other"));
    insta::assert_snapshot!(project.failure(&check));
    project.write("plugins.lock", "version = 1\n[[plugin]]\nname = 3\n");
    insta::assert_snapshot!(project.failure(&check));
    project.write("plugins.lock", "version = 9\n");
    insta::assert_snapshot!(project.failure(&check));
}
