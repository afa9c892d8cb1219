//! The host's side of the wall: what it does with a stranger's results, files and words is bounded, and nothing of the
//! user's is lost to it. What a guest may try inside is in `hostile.rs`.

use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use crate::support::{CONFIG, Project, guest};

/// The messages of a run whose loader does `deed`.
fn greedy(project: &Project, deed: &str, limits: &str) -> String {
    let directory = guest("greedy");
    let loader = format!("ds_type: {{name: 'test:greedy', config: {{deed: {deed}}}}}\n    type: alpaca");
    let config = CONFIG.replace("type: alpaca", &loader);
    project.write("host.yml", format!("{config}plugins: [{{name: 'test:greedy', limits: {{{limits}}}}}]\n"));
    project.failure(&["train", "host.yml", "--plugins", directory.to_str().unwrap()])
}

/// A config whose strategy does `deed`.
fn strategy(deed: &str, more: &str) -> String {
    let strategy = format!("type: {{name: 'test:hostile', config: {{deed: {deed}}}}}");
    CONFIG.replace("type: alpaca", &strategy) + more
}

#[test]
fn a_loader_without_end_is_stopped() {
    let project = Project::new();
    guest("greedy"); // Its build is no part of the time.
    let start = Instant::now();
    let messages = greedy(&project, "endless", "");
    assert!(messages.contains("error[plugin::limit]: plugin `test:greedy` gave 73 MiB of rows"), "{messages}");
    assert!(messages.contains("limits: {rows_mb: 292}"), "{messages}");
    let messages = greedy(&project, "endless", "rows_mb: 1");
    assert!(messages.contains("gave 9 MiB of rows"), "{messages}");
    let messages = greedy(&project, "endless-bad", "");
    assert!(messages.contains("9996 more rows of `train.jsonl` are bad"), "{messages}");
    let messages = greedy(&project, "slow", "call_ms: 400");
    assert!(messages.contains("without a row that can be used") || messages.contains("took more than"), "{messages}");
    assert!(start.elapsed() < Duration::from_mins(1));
}

#[test]
fn a_row_that_is_too_large_is_a_bad_row() {
    let messages = greedy(&Project::new(), "one-large", "");
    assert!(messages.contains("error[data::bad-row]: it has 34 MiB; a row may have 32"), "{messages}");
}

#[test]
fn words_of_a_loader_stay_in_their_place() {
    let messages = greedy(&Project::new(), "forge", "");
    assert!(messages.contains("odd error[run::exists]: forged help: paste this (field `f field`)"), "{messages}");
    assert!(!messages.lines().any(|line| line.starts_with("error[run") || line.starts_with("done")), "{messages}");
    assert!(!messages.contains('\u{1b}'), "{messages}");
}

#[test]
fn pipes_and_links_of_a_data_directory_stay_closed() {
    let project = Project::new();
    std::fs::create_dir(project.path("data")).unwrap();
    project.write("data/a.jsonl", "{}\n");
    project.write("secret.jsonl", "{}\n");
    symlink("../secret.jsonl", project.path("data/out.jsonl")).unwrap();
    let pipe = project.path("data/pipe.jsonl");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let directory = guest("greedy");
    let loader = "ds_type: {name: 'test:greedy', config: {deed: open}}\n    type: alpaca";
    project.write("host.yml", CONFIG.replace("type: alpaca", loader).replace("path: train.jsonl", "path: data"));
    let outcome = project.success(&["train", "host.yml", "--dry-run", "--plugins", directory.to_str().unwrap()]);
    assert!(outcome.stderr.contains("pipe.jsonl: Err("), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("out.jsonl: Err("), "{}", outcome.stderr);
}

#[test]
fn results_of_a_strategy_take_no_more_than_a_sequence_needs() {
    let directory = guest("hostile");
    for (deed, more) in [("long-text", ""), ("many-turns", "chat_template: chatml\n")] {
        let project = Project::new();
        project.write("train.jsonl", "{\"instruction\": \"i\", \"input\": \"\", \"output\": \"o\"}\n".repeat(4));
        project.write("host.yml", strategy(deed, more));
        let start = Instant::now();
        let messages = project.failure(&["train", "host.yml", "--plugins", directory.to_str().unwrap()]);
        assert!(messages.contains("longer than `sequence_len`"), "{deed}: {messages}");
        assert!(start.elapsed() < Duration::from_secs(20), "{deed}: {:?}", start.elapsed());
        project.write("host.yml", strategy(deed, &format!("{more}excess_length_strategy: truncate\n")));
        project.success(&["train", "host.yml", "--dry-run", "--plugins", directory.to_str().unwrap()]);
    }
    // A text that is learned as a whole is cut in pieces, none of which is left out: four of 100 000 words.
    let project = Project::new();
    project.write("train.jsonl", "{\"instruction\": \"i\", \"input\": \"\", \"output\": \"o\"}\n".repeat(4));
    project.write("host.yml", strategy("many-segments", ""));
    let start = Instant::now();
    let told = project.success(&["train", "host.yml", "--dry-run", "--plugins", directory.to_str().unwrap()]);
    assert!(told.stderr.contains("800 012 tokens"), "{}", told.stderr);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn what_a_row_becomes_does_not_depend_on_processors() {
    let directory = guest("hostile");
    let project = Project::new();
    project.write("train.jsonl", "{\"instruction\": \"i\", \"input\": \"\", \"output\": \"o\"}\n".repeat(1000));
    let digest = |name: &str, processor: Option<&str>| {
        project.write("host.yml", strategy("remembers", "").replace("output_dir: out", &format!("output_dir: {name}")));
        let mut command = project.command(&["train", "host.yml", "--plugins", directory.to_str().unwrap()]);
        if let Some(processor) = processor {
            let mut bound = std::process::Command::new("taskset");
            bound.args(["-c", processor]).arg(command.get_program()).args(command.get_args());
            bound.current_dir(project.path("."));
            for (name, value) in command.get_envs() {
                if let Some(value) = value {
                    bound.env(name, value);
                }
            }
            command = bound;
        }
        assert!(command.output().unwrap().status.success());
        let run: serde_json::Value = serde_json::from_str(&project.read(&format!("{name}/run.json"))).unwrap();
        run["data_sha256"].as_str().unwrap().to_owned()
    };
    // A container may not have the first processor of its machine.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    let first = allowed.trim().split(['-', ',']).next().unwrap();
    let one = digest("one", Some(first));
    assert_eq!(digest("again", Some(first)), one);
    assert_eq!(digest("all", None), one);
}

#[test]
fn what_no_run_wrote_is_not_replaced() {
    let project = Project::new();
    project.write("host.yml", CONFIG);
    std::fs::create_dir(project.path("out")).unwrap();
    for (name, text) in [("model.safetensors", "a model"), ("README.md", "mine"), ("metrics.jsonl", "{}")] {
        project.write(&format!("out/{name}"), text);
        for more in [&[][..], &["--overwrite"], &["--resume", "auto"]] {
            let messages = project.failure(&[&["train", "host.yml"], more].concat());
            assert!(messages.contains(&format!("error[run::foreign]: `out/{name}` would be replaced")), "{messages}");
            assert_eq!(project.read(&format!("out/{name}")), text);
        }
        std::fs::remove_file(project.path(&format!("out/{name}"))).unwrap();
    }
    project.success(&["train", "host.yml"]);
    // Its description is lost: then nobody knows whose the model is.
    project.write("out/run.json", "{");
    let messages = project.failure(&["train", "host.yml"]);
    assert!(messages.contains("error[run::"), "{messages}");
    let messages = project.failure(&["train", "host.yml", "--overwrite"]);
    assert!(messages.contains("error[run::foreign]"), "{messages}");
}

#[test]
fn a_lock_that_is_a_link_is_not_followed() {
    let project = Project::new();
    project.write("host.yml", CONFIG);
    project.write("precious", "precious");
    std::fs::create_dir(project.path("out")).unwrap();
    symlink("../precious", project.path("out/.lock")).unwrap();
    let messages = project.failure(&["train", "host.yml"]);
    assert!(messages.contains("it is a link"), "{messages}");
    assert_eq!(project.read("precious"), "precious");
}

#[test]
fn an_adapter_does_not_go_on_over_another_base() {
    let project = Project::new();
    project.own_model();
    let adapter = "adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\nsave_steps: 2\n";
    project.write("host.yml", format!("{CONFIG}{adapter}"));
    project.success(&["train", "host.yml", "--set", "max_steps=2"]);
    let mut weights = std::fs::read(project.path("model/model.safetensors")).unwrap();
    // The last bytes of the file are a weight.
    let end = weights.len() - 2;
    weights[end] ^= 1;
    project.write("model/model.safetensors", weights);
    let messages = project.failure(&["train", "host.yml", "--set", "max_steps=4", "--resume", "auto"]);
    assert!(messages.contains("base_model_sha256"), "{messages}");
}

#[test]
fn a_checkpoint_has_what_its_manifest_lists_and_nothing_else() {
    let project = Project::new();
    project.write("host.yml", format!("{CONFIG}save_steps: 2\n"));
    project.success(&["train", "host.yml", "--set", "max_steps=2"]);
    let resume = ["train", "host.yml", "--set", "max_steps=4", "--resume", "auto"];
    std::fs::copy(project.path("out/model.safetensors"), project.path("out/checkpoint-2/z.safetensors")).unwrap();
    let messages = project.failure(&resume);
    assert!(messages.contains("its manifest does not list it"), "{messages}");
    std::fs::remove_file(project.path("out/checkpoint-2/z.safetensors")).unwrap();
    let manifest = project.read("out/checkpoint-2/manifest.json");
    let mut fewer: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    fewer["files"] = serde_json::json!({});
    project.write("out/checkpoint-2/manifest.json", fewer.to_string());
    project.failure(&resume);
    project.write("out/checkpoint-2/manifest.json", manifest);
    project.success(&resume);
}
