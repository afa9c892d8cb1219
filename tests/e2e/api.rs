//! Plugins that were built for a released API (`tests/fixtures/api`) or released with the program (`ci/released`) go on
//! working.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::{CONFIG, Project, root};

/// The directories of the plugins of an API, one for each kind.
fn kinds(api: &str) -> Vec<PathBuf> {
    let directory = root().canonicalize().unwrap().join("tests/fixtures/api").join(api);
    let mut kinds: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    kinds.retain(|path| path.is_dir());
    kinds.sort();
    kinds
}

#[test]
fn plugins_of_api_0_1_give_the_results_of_then() {
    let project = Project::new();
    let kinds = kinds("v0.1");
    assert_eq!(kinds.len(), 8);
    for kind in &kinds {
        let file = kind.join("plugin.wasm");
        let tested = project.success(&["plugin", "test", file.to_str().unwrap()]).stderr;
        assert!(tested.contains("1 of 1 cases passed"), "{tested}");
    }
}

#[test]
fn plugins_of_api_0_1_work_in_one_run() {
    let project = Project::new();
    project.write("train.txt", "Add 1 and 1.|2\n".repeat(8));
    project.write("questions.jsonl", "{\"question\": \"1+1?\", \"answer\": \"2\"}\n".repeat(8));
    let datasets = "train.txt\n    ds_type: {name: 'old:dataset-loader', config: {separator: '|'}}\n    type: alpaca\n    row_filters: [{name: 'old:row-filter', config: {min_words: 1}}]\n  - path: questions.jsonl\n    type: {name: 'old:prompt-strategy', config: {ask: 'Q: '}}\n";
    let config = CONFIG.replace("train.jsonl\n    type: alpaca\n", datasets);
    assert_ne!(config, CONFIG);
    let more = "test_datasets: [{path: eval.jsonl, type: alpaca}]\neval_max_new_tokens: 1\n\
        eval_reward_funcs: [{name: 'old:reward', config: {max_words: 3}}]\n\
        rules: [{name: 'old:compat-rules', config: {max_checkpoints: 2}}]\n\
        lr_scheduler: {name: 'old:schedule', config: {drops: 1}}\n\
        run_health: [{name: 'old:run-health', config: {times: 9}}]\n";
    project.write("host.yml", format!("{config}{more}"));
    let mut arguments = vec!["train".to_owned(), "host.yml".to_owned(), "--set".to_owned(), "max_steps=2".to_owned()];
    arguments.extend(kinds("v0.1").iter().map(|kind| format!("--plugins={}", kind.display())));
    project.success(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let run: Value = serde_json::from_str(&project.read("out/run.json")).unwrap();
    let costs = run["summary"]["plugins"].as_array().unwrap();
    let called: Vec<&str> = costs.iter().filter_map(|cost| cost["name"].as_str()?.strip_prefix("old:")).collect();
    assert_eq!(
        called,
        ["compat-rules", "dataset-loader", "prompt-strategy", "reward", "row-filter", "run-health", "schedule"]
    );
}

#[test]
fn bundled_plugins_of_a_release_give_the_results_of_then() {
    let project = Project::new();
    let directories = |path: PathBuf| -> Vec<PathBuf> {
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir()).collect()
    };
    let released = directories(root().canonicalize().unwrap().join("ci/released"));
    let plugins: Vec<PathBuf> = released.into_iter().flat_map(directories).collect();
    assert!(!plugins.is_empty());
    for plugin in plugins {
        // The program of today has one of that name itself.
        let name = plugin.file_name().unwrap().to_str().unwrap();
        let file = plugin.join(format!("{name}.wasm"));
        let tested = project.success(&["plugin", "test", file.to_str().unwrap()]).stderr;
        let cases = directories(plugin.join("tests")).len();
        assert!(tested.contains(&format!("{cases} of {cases} cases passed")), "{tested}");
    }
}
