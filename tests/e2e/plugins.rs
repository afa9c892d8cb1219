//! Plugins that are not what they should be, and one that is.

use crate::support::{CONFIG, Project, guest};

/// Trains with a guest of `tests/fixtures/plugins` as prompt strategy.
fn strategy(guest_name: &str, plugin: &str, more: &str) -> String {
    let project = Project::new();
    let directory = guest(guest_name);
    project.write("host.yml", CONFIG.replace("alpaca", plugin) + more);
    project.failure(&["train", "host.yml", "--plugins", directory.to_str().unwrap()])
}

#[test]
fn an_unknown_name() {
    let project = Project::new();
    insta::assert_snapshot!(project.train_failure(|config| config.replace("alpaca", "alpacca")));
    insta::assert_snapshot!(project.train_failure(|config| config.replace("alpaca", "acme:dialogue")));
    insta::assert_snapshot!(project.train_failure(|config| config.replace("alpaca", "exact-match")));
}

#[test]
fn a_core_module_and_other_files() {
    let project = Project::new();
    std::fs::create_dir(project.path("plugins")).unwrap();
    project.write("plugins/core.wasm", b"\0asm\x01\0\0\0");
    insta::assert_snapshot!(project.failure(&["plugin", "list", "--plugins", "plugins"]));
    project.write("plugins/core.wasm", "hello");
    insta::assert_snapshot!(project.failure(&["train", "host.yml", "--plugins", "plugins"]));
    insta::assert_snapshot!(project.failure(&["plugin", "list", "--plugins", "nowhere"]));
}

#[test]
fn a_loop_is_stopped() {
    insta::assert_snapshot!(strategy(
        "looping",
        "test:looping",
        "plugins: [{name: 'test:looping', limits: {call_ms: 100}}]\n"
    ));
}

#[test]
fn a_trap_tells_its_panic() {
    insta::assert_snapshot!(strategy("trapping", "test:trapping", ""));
}

#[test]
fn a_memory_bomb_is_stopped() {
    insta::assert_snapshot!(strategy(
        "memory-bomb",
        "test:memory-bomb",
        "plugins: [{name: 'test:memory-bomb', limits: {memory_mb: 32}}]\n"
    ));
}

#[test]
fn too_many_and_too_few_results() {
    // A call has as many rows as there are for each core.
    let numbers = regex::Regex::new(r"gave \d+ results for \d+ rows").unwrap();
    for (name, plugin) in [("too-few", "test:too-few"), ("too-many", "test:too-many")] {
        let messages = strategy(name, plugin, "");
        insta::assert_snapshot!(numbers.replace(&messages, "gave N results for M rows"));
    }
}

#[test]
fn a_reward_that_is_not_a_number() {
    let project = Project::new();
    let directory = guest("nan-reward");
    project.write("host.yml", format!("{CONFIG}test_datasets: [{{path: eval.jsonl, type: alpaca}}]\neval_reward_funcs: ['test:nan-reward']\neval_max_new_tokens: 1\n"));
    let messages = project.failure(&["train", "host.yml", "--plugins", directory.to_str().unwrap()]);
    let messages =
        messages.lines().filter(|line| !line.contains("the completion was") && !line.contains("parameters trained"));
    insta::assert_snapshot!(messages.collect::<Vec<_>>().join("\n"));
}

#[test]
fn words_of_a_plugin_cannot_forge_the_terminal() {
    let project = Project::new();
    let directory = guest("deep-log");
    project.write("host.yml", CONFIG.replace("alpaca", "test:deep-log"));
    let outcome = project.success(&["train", "host.yml", "--plugins", directory.to_str().unwrap()]);
    assert!(!outcome.stderr.contains('\u{1b}') && !outcome.stderr.contains('\u{202e}'));
    assert!(outcome.stderr.len() < 1 << 20, "{} bytes of messages", outcome.stderr.len());
}

#[test]
fn a_strangers_strategy_is_used_by_name() {
    let project = Project::new();
    let directory = guest("reverse");
    let plugins = directory.to_str().unwrap();
    project.write("host.yml", CONFIG.replace("alpaca", "{name: 'acme:reverse', config: {field: output}}"));
    project.success(&["train", "host.yml", "--plugins", plugins]);
    let run: serde_json::Value = serde_json::from_str(&project.read("out/run.json")).unwrap();
    let names: Vec<&str> =
        run["plugins"].as_array().unwrap().iter().map(|plugin| plugin["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["acme:reverse", "axolotl-compat", "jsonl", "practice"]);

    project.write("host.yml", CONFIG.replace("alpaca", "{name: 'acme:reverse', config: {feild: output}}"));
    insta::assert_snapshot!(project.failure(&["check", "host.yml", "--plugins", plugins]));
    project.write(
        "host.yml",
        CONFIG.replace("alpaca", "{name: 'acme:reverse', config: {field: output}}")
            + "plugins: [{name: 'acme:reverse', version: '9.1'}]\n",
    );
    insta::assert_snapshot!(project.failure(&["check", "host.yml", "--plugins", plugins]));

    let listed = project.success(&["plugin", "list", "--plugins", plugins, "--json"]).stdout;
    assert_eq!(listed.lines().count(), 26);
    let inspected = project.success(&["plugin", "inspect", "acme:reverse", "--plugins", plugins]).stdout;
    assert!(
        inspected.contains("kind         prompt-strategy")
            && inspected.contains("memory_mb: 256")
            && inspected.contains("compile_ms: 60000"),
        "{inspected}"
    );
}
