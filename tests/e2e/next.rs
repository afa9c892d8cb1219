//! Commands that the program suggests: each one works when it is pasted into a shell.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{CONFIG, Outcome, Project, finish};

/// What a run suggests at its end.
fn suggested(outcome: &Outcome) -> Vec<String> {
    let lines = outcome.stderr.lines().skip_while(|line| *line != "next").skip(1);
    lines.take_while(|line| line.starts_with("  ")).map(|line| line.trim().to_owned()).collect()
}

/// Runs a command as a shell does, with this program on its path.
fn paste(project: &Project, command: &str) -> Outcome {
    let program = project.command(&[]);
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).current_dir(project.path(""));
    for (name, value) in program.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    let directory = Path::new(env!("CARGO_BIN_EXE_host")).parent().unwrap().display();
    shell.env("PATH", format!("{directory}:{}", std::env::var("PATH").unwrap()));
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(shell.spawn().unwrap())
}

/// Every command of a run, each run once.
fn all_work(project: &Project, arguments: &[&str]) -> Vec<String> {
    let commands = suggested(&project.success(arguments));
    assert_eq!(commands.len(), 2, "{commands:?}");
    for command in &commands {
        let outcome = paste(project, command);
        assert_eq!(outcome.status, 0, "{command}\n{}", outcome.stderr);
        assert!(!outcome.stdout.is_empty(), "{command}");
    }
    commands
}

const CHAT: &str = "{\"messages\": [{\"role\": \"user\", \"content\": \"it's hi\"}, {\"role\": \"assistant\", \"content\": \"ho\"}]}\n";

fn chat(project: &Project, rows: &str, output: &str) {
    project.write("chat.jsonl", rows.repeat(8));
    project.write(
        "host.yml",
        CONFIG
            .replace("train.jsonl", "chat.jsonl")
            .replace("alpaca", "chat_template")
            .replace("output_dir: out", &format!("output_dir: {output}\nchat_template: alpaca")),
    );
}

#[test]
fn paths_and_prompts_are_quoted() {
    let project = Project::new();
    project.write("host.yml", CONFIG.replace("output_dir: out", "output_dir: my 'own' out"));
    let commands = all_work(&project, &["train", "host.yml"]);
    assert!(commands[0].contains(r"--model 'my '\''own'\'' out' --raw"), "{commands:?}");
    assert_eq!(commands[1], r"cat 'my '\''own'\'' out/metrics.jsonl'");
}

#[test]
fn a_model_of_conversations_is_asked_through_its_template() {
    let project = Project::new();
    chat(&project, CHAT, "my out");
    let commands = all_work(&project, &["train", "host.yml"]);
    assert_eq!(commands[0], r"host generate --model 'my out' --prompt 'it'\''s hi'");
    let several = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"user\", \"content\": \"b\\nc\"}, {\"role\": \"assistant\", \"content\": \"d\"}]}\n";
    chat(&project, several, "out");
    let commands = all_work(&project, &["train", "host.yml", "--overwrite"]);
    assert!(
        commands[0].starts_with("printf '%s\\n' '{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},"),
        "{commands:?}"
    );
}

#[test]
fn an_adapter_is_named_with_its_model() {
    let project = Project::new();
    let lora = "adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\n";
    std::fs::create_dir(project.path("sub")).unwrap();
    std::fs::rename(project.path("model"), project.path("sub/my model")).unwrap();
    project.write("sub/host.yml", format!("{CONFIG}{lora}").replace("base_model: model", "base_model: my model"));
    let commands = all_work(&project, &["train", "sub/host.yml"]);
    assert!(commands[0].contains("--model 'sub/my model' --adapter out"), "{commands:?}");
}

#[test]
fn a_text_that_is_learned_as_a_whole_is_begun() {
    let project = Project::new();
    project.write("train.jsonl", "{\"body\": \"Once upon a time there was a model that learned\"}\n".repeat(8));
    project.write("host.yml", CONFIG.replace("type: alpaca", "type: completion\n    field: body"));
    let commands = all_work(&project, &["train", "host.yml"]);
    assert_eq!(commands[0], "host generate --model out --raw --prompt 'Once upon a time there was a model that'");
}

#[test]
fn a_finished_run_that_is_to_go_on_stays_as_it_is() {
    let project = Project::new();
    project.write("host.yml", format!("{CONFIG}save_steps: 2\n"));
    project.success(&["train", "host.yml"]);
    let files = ["run.json", "metrics.jsonl", "config.resolved.yml", "model.safetensors", "README.md"];
    let read = || files.map(|file| std::fs::read(project.path("out").join(file)).unwrap());
    let before = read();
    for arguments in [
        &["--resume", "auto"][..],
        &["--resume", "out/checkpoint-4"],
        &["--set", "auto_resume_from_checkpoints=true"],
        &["--set", "resume_from_checkpoint=out/checkpoint-4"],
    ] {
        let outcome = project.success(&[&["train", "host.yml"], arguments].concat());
        assert!(
            outcome.stderr.contains("`out` is finished at step 4; nothing was trained or changed"),
            "{}",
            outcome.stderr
        );
        assert!(read() == before, "{arguments:?} changed a file");
    }
    let json = project.success(&["train", "host.yml", "--resume", "auto", "--json"]).stdout;
    assert!(json.contains("\"event\":\"finished\""), "{json}");
    // Without a checkpoint too; but another config is another run.
    for step in [2, 4] {
        std::fs::remove_dir_all(project.path(&format!("out/checkpoint-{step}"))).unwrap();
    }
    project.success(&["train", "host.yml", "--resume", "auto"]);
    assert!(read() == before);
    let refused = project.failure(&["train", "host.yml", "--resume", "auto", "--set", "max_steps=6"]);
    assert!(refused.contains("holds a finished run without a checkpoint"), "{refused}");
    assert!(read() == before);
}

#[test]
fn a_finished_run_with_more_steps_goes_on_and_sums_up_the_whole() {
    let project = Project::new();
    project.write("host.yml", format!("{CONFIG}save_steps: 2\nlogging_steps: 1\n"));
    let summary = || -> serde_json::Value {
        serde_json::from_str::<serde_json::Value>(&project.read("out/run.json")).unwrap()["summary"].clone()
    };
    project.success(&["train", "host.yml", "--set", "max_steps=6"]);
    let whole = summary();
    project.success(&["train", "host.yml", "--overwrite"]);
    let half = summary();
    let outcome = project.success(&["train", "host.yml", "--resume", "auto", "--set", "max_steps=6"]);
    assert!(outcome.stderr.contains("going on at step 4"), "{}", outcome.stderr);
    let both = summary();
    assert_eq!((&both["first_loss"], &both["tokens"]), (&half["first_loss"], &whole["tokens"]));
    assert_eq!(both["steps"], 6);
}
