//! Runs: what they leave, how they stop, how they go on.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::{CONFIG, Project, finish, root, without_sizes};

/// Twenty steps that take long enough to be interrupted.
fn long(project: &Project, output: &str) {
    let data = root().canonicalize().unwrap().join("configs/quickstart/train.jsonl");
    let config = CONFIG
        .replace("train.jsonl", data.to_str().unwrap())
        .replace("micro_batch_size: 4", "micro_batch_size: 16\ngradient_accumulation_steps: 2\nlora_dropout: 0")
        .replace("lora_dropout: 0\n", "\n")
        .replace("max_steps: 4", "max_steps: 20\nsave_steps: 10\nlogging_steps: 1")
        .replace("output_dir: out", &format!("output_dir: {output}"));
    project.write(&format!("{output}.yml"), config);
}

fn wait_for(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_mins(1), "it did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn signal(child: &std::process::Child, signal: i32) {
    // SAFETY: sends a signal to a child that has not been waited for, so its id is still its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

/// A signal that the tests are told to ignore, as under `nohup`, would be ignored by their children too.
fn heeds(command: &mut std::process::Command, signal: i32) {
    use std::os::unix::process::CommandExt as _;
    // SAFETY: `signal` may be called between fork and exec.
    unsafe {
        command.pre_exec(move || {
            libc::signal(signal, libc::SIG_DFL);
            Ok(())
        });
    }
}

fn same(project: &Project, file: &str) {
    let read = |output: &str| fs::read(project.path(output).join(file)).unwrap();
    assert!(read("whole") == read("parts"), "{file} differs");
}

#[test]
fn killed_and_resumed_is_the_same_byte_for_byte() {
    let project = Project::new();
    long(&project, "whole");
    long(&project, "parts");
    project.success(&["train", "whole.yml"]);
    let mut child = project.command(&["train", "parts.yml"]).spawn().unwrap();
    wait_for(|| project.path("parts/checkpoint-10").exists());
    signal(&child, libc::SIGKILL);
    assert!(!child.wait().unwrap().success());
    assert!(!project.path("parts/checkpoint-20").exists(), "it was killed before the end");

    let refused = project.failure(&["train", "parts.yml"]);
    assert!(refused.contains("holds an unfinished run, saved at step 10"), "{refused}");
    project.success(&["train", "parts.yml", "--resume", "auto"]);
    for file in ["model.safetensors", "checkpoint-20/model.safetensors", "checkpoint-20/optimizer.safetensors"] {
        same(&project, file);
    }
    let steps = |output: &str| -> Vec<String> {
        let metrics = project.read(&format!("{output}/metrics.jsonl"));
        let line = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            format!("{} {} {}", value["step"], value["loss"], value["grad_norm"])
        };
        metrics.lines().map(line).collect()
    };
    assert_eq!(steps("whole"), steps("parts"));
}

#[test]
fn a_signal_saves_the_state_and_the_run_goes_on() {
    for (number, status) in [(libc::SIGHUP, 129), (libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let project = Project::new();
        long(&project, "whole");
        long(&project, "parts");
        project.success(&["train", "whole.yml"]);
        let stopped = || {
            let mut command = project.command(&["train", "parts.yml", "--overwrite"]);
            heeds(&mut command, number);
            let child = command.spawn().unwrap();
            wait_for(|| {
                fs::read_to_string(project.path("parts/metrics.jsonl")).is_ok_and(|text| text.lines().count() >= 3)
            });
            signal(&child, number);
            if number == libc::SIGHUP {
                // As a closing terminal does: from the shell, then from the kernel.
                signal(&child, number);
            }
            finish(child)
        };
        // On a machine that stalls, a run may end before it is told to.
        let mut outcome = stopped();
        for _ in 0..4 {
            if outcome.status == 0 {
                fs::remove_dir_all(project.path("parts")).unwrap();
                outcome = stopped();
            }
        }
        assert_eq!(outcome.status, status, "{}", outcome.stderr);
        assert!(outcome.stderr.contains("go on with `host train parts.yml --resume auto`"), "{}", outcome.stderr);
        assert!(project.read("parts/run.json").contains("\"stopped\""));
        project.success(&["train", "parts.yml", "--resume", "auto"]);
        same(&project, "model.safetensors");
    }
}

#[test]
fn a_run_under_nohup_outlives_its_terminal() {
    let project = Project::new();
    long(&project, "whole");
    let program = env!("CARGO_BIN_EXE_host");
    let mut shell = std::process::Command::new("sh");
    shell.arg("-c").arg(format!("trap '' HUP; exec '{program}' train whole.yml")).current_dir(project.path(""));
    for (name, value) in project.command(&[]).get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    shell.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = shell.spawn().unwrap();
    wait_for(|| project.path("whole/checkpoint-10").exists());
    signal(&child, libc::SIGHUP);
    let outcome = finish(child);
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    assert!(project.path("whole/checkpoint-20").exists());
}

#[test]
fn a_directory_in_use_is_left_alone() {
    let project = Project::new();
    long(&project, "whole");
    let mut child = project.command(&["train", "whole.yml"]).spawn().unwrap();
    wait_for(|| project.path("whole/run.json").exists());
    let messages = project.failure(&["train", "whole.yml"]);
    let _ = child.kill();
    let _ = child.wait();
    let messages = regex::Regex::new(r"process \d+").unwrap().replace(&messages, "process N").into_owned();
    insta::assert_snapshot!(messages);
}

#[test]
fn a_finished_run_is_not_overwritten() {
    let project = Project::new();
    project.success(&["train", "host.yml"]);
    let before = fs::read(project.path("out/model.safetensors")).unwrap();
    insta::assert_snapshot!(project.failure(&["train", "host.yml"]));
    assert!(before == fs::read(project.path("out/model.safetensors")).unwrap());
    project.success(&["train", "host.yml", "--overwrite", "--set", "seed=7"]);
    assert!(before != fs::read(project.path("out/model.safetensors")).unwrap());
}

#[test]
fn a_full_disk_is_said_and_loses_nothing() {
    let project = Project::new();
    // Files above this size cannot be written; what a shell does for `ulimit -f` without the signal.
    let limited = |blocks: u32, arguments: &str| {
        let program = env!("CARGO_BIN_EXE_host");
        let mut command = project.command(&[]);
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec '{program}' {arguments}");
        let mut shell = std::process::Command::new("sh");
        shell.arg("-c").arg(script).current_dir(project.path(""));
        for (name, value) in command.get_envs() {
            shell.env(name, value.unwrap_or_default());
        }
        command = shell;
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        finish(command.spawn().unwrap())
    };
    let outcome = limited(1000, "train host.yml --set save_steps=2");
    assert_eq!(outcome.status, 1, "{}", outcome.stderr);
    let message: String =
        outcome.stderr.lines().skip_while(|line| !line.starts_with("error")).map(|line| format!("{line}\n")).collect();
    let message = regex::Regex::new(r"tmp-\d+").unwrap().replace_all(&message, "tmp-N").into_owned();
    insta::assert_snapshot!(message);
    assert!(!project.path("out/checkpoint-2").exists() && !project.path("out/model.safetensors").exists());
    project.success(&["train", "host.yml", "--resume", "auto"]);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_or_refused() {
    let project = Project::new();
    project.write("host.yml", format!("{CONFIG}save_steps: 2\n"));
    project.success(&["train", "host.yml"]);
    let file = project.path("out/checkpoint-4/optimizer.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();
    let refused = project.failure(&["train", "host.yml", "--resume", "out/checkpoint-4"]);
    let refused = regex::Regex::new("[0-9a-f]{64}").unwrap().replace_all(&refused, "DIGEST").into_owned();
    insta::assert_snapshot!(refused);
    let outcome = project.success(&["train", "host.yml", "--resume", "auto"]);
    assert!(outcome.stderr.contains("warning[checkpoint::corrupt]"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("going on at step 2"), "{}", outcome.stderr);
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let project = Project::new();
    project.success(&["train", "host.yml"]);
    insta::assert_snapshot!(project.failure(&[
        "train",
        "host.yml",
        "--resume",
        "out/checkpoint-4",
        "--set",
        "seed=7",
        "--set",
        "sequence_len=64"
    ]));
}

#[test]
fn a_dry_run_writes_nothing() {
    let project = Project::new();
    let outcome = project.success(&["train", "host.yml", "--dry-run"]);
    insta::assert_snapshot!(without_sizes(&outcome.stderr));
    assert!(!project.path("out").exists());
}

#[test]
fn lora_checkpointing_freezing_packing_and_evaluation_work_together() {
    let project = Project::new();
    let lora = "adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_dropout: 0.1\nlora_target_linear: true\ngradient_checkpointing: true\nsample_packing: true\n";
    let eval = "test_datasets: [{path: eval.jsonl, type: alpaca}]\neval_reward_funcs: [exact-match]\neval_max_new_tokens: 4\neval_steps: 2\nsave_steps: 4\n";
    project.write("host.yml", format!("{CONFIG}{lora}{eval}"));
    let outcome = project.success(&["train", "host.yml", "--json"]);
    let events: Vec<serde_json::Value> =
        outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["start", "eval", "train", "train", "eval", "train", "train", "checkpoint", "eval", "summary"]);
    assert!(events.iter().all(|event| event["v"] == 1));
    assert!(events[1]["rewards/exact-match/mean"].is_number());
    assert!(project.path("out/adapter_model.safetensors").exists() && !project.path("out/model.safetensors").exists());
    project.success(&[
        "generate",
        "--model",
        "model",
        "--adapter",
        "out",
        "--raw",
        "--prompt",
        "hello",
        "--max-new-tokens",
        "3",
    ]);

    project.write("host.yml", format!("{CONFIG}unfrozen_parameters: ['model\\.layers\\.3\\.', 'model\\.norm']\ngradient_checkpointing: true\nval_set_size: 0.25\n"));
    let outcome = project.success(&["train", "host.yml", "--overwrite"]);
    assert!(outcome.stderr.contains("36 samples"), "{}", outcome.stderr);
    let tensors = |path: &str| fs::read(project.path(path)).unwrap();
    assert!(tensors("out/model.safetensors").len() > 1000);
}

#[test]
fn gradient_accumulation_equals_the_big_batch() {
    let loss = |more: &str| -> Vec<f64> {
        let project = Project::new();
        project.write(
            "host.yml",
            CONFIG.replace("micro_batch_size: 4\n", more) + "logging_steps: 1\nshuffle_merged_datasets: false\n",
        );
        project.success(&["train", "host.yml"]);
        let metrics = project.read("out/metrics.jsonl");
        metrics
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap())
            .collect()
    };
    let (one, parts) = (loss("micro_batch_size: 8\n"), loss("micro_batch_size: 2\ngradient_accumulation_steps: 4\n"));
    assert_eq!(one.len(), 4);
    for (a, b) in one.iter().zip(&parts) {
        assert!((a / b - 1.0).abs() < 1e-4, "{one:?} {parts:?}");
    }
}

/// What the terminal shows of an evaluation: the best and the worst of what the model wrote, safe and short.
#[test]
fn an_evaluation_shows_its_best_and_its_worst_sample() {
    let project = Project::new();
    let eval = "test_datasets: [{path: eval.jsonl, type: alpaca}]\neval_max_new_tokens: 8\n\
                eval_reward_funcs: [{name: length, config: {unit: characters, max: 4, falloff: 40}}, exact-match]\n";
    project.write("host.yml", format!("{CONFIG}{eval}"));
    let outcome = project.success(&["train", "host.yml", "--set", "max_steps=1"]);
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    let evals: Vec<usize> =
        (0..lines.len()).filter(|&at| lines[at].starts_with("step") && lines[at].contains("eval loss")).collect();
    assert_eq!(evals.len(), 2, "{}", outcome.stderr);
    for at in evals {
        assert!(lines[at + 1].starts_with("  best   ") && lines[at + 2].starts_with("  worst  "), "{}", outcome.stderr);
        let reward = |line: &str| line[8..].split_whitespace().next().unwrap().parse::<f64>().unwrap();
        assert!(reward(lines[at + 1]) > reward(lines[at + 2]), "{}", outcome.stderr);
        assert!(lines[at + 1..at + 3].iter().all(|line| line.chars().count() < 140 && line.contains("  (wanted: ")));
    }
    let outcome = project.success(&["train", "host.yml", "--set", "max_steps=1", "--overwrite", "--json"]);
    assert_eq!(outcome.stderr, "");
}
