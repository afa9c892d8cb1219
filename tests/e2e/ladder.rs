//! That rewards are learned, and that nothing else is: runs of `configs/`, shortened, beside controls whose rewards are dealt out
//! at random.

use serde_json::Value;

use crate::support::{Project, finish, lines, root};

/// A project where the configs to copy are run.
struct Ladder(Project);

impl Ladder {
    /// Runs a config with some keys set; returns the lines of its metrics.
    fn run(&self, config: &str, output: &str, keys: &[&str]) -> Vec<Value> {
        let (path, directory) = (format!("configs/{config}"), self.0.path(output));
        let set = format!("output_dir={}", directory.display());
        let mut arguments = vec!["train", &path, "--set", &set, "--set", "logging_steps=1"];
        arguments.extend(keys.iter().flat_map(|key| ["--set", key]));
        let mut command = self.0.command(&arguments);
        command.current_dir(root().canonicalize().unwrap());
        let outcome = finish(command.spawn().unwrap());
        assert_eq!(outcome.status, 0, "{config}: {}", outcome.stderr);
        lines(&directory.join("metrics.jsonl"))
    }
}

/// The mean reward of some steps.
fn reward(steps: &[Value]) -> f64 {
    steps.iter().map(|step| step["reward"].as_f64().unwrap()).sum::<f64>() / steps.len() as f64
}

#[test]
fn letters_are_learned_from_their_reward_alone() {
    let ladder = Ladder(Project::new());
    for seed in ["seed=42", "seed=1", "seed=2"] {
        let steps = ladder.run("grpo-letters.yml", seed, &[seed]);
        let (first, last) = (reward(&steps[..3]), reward(&steps[45..]));
        assert!(first < 0.2 && last > 0.95, "{seed}: {first} {last}");
    }
    let control = ladder.run("grpo-letters.yml", "control", &["trl.shuffle_rewards=true"]);
    assert!(reward(&control[45..]) <= reward(&control[..3]) + 0.03, "{control:?}");
}

#[test]
fn sequences_are_learned_from_answers_that_nobody_shows() {
    let ladder = Ladder(Project::new());
    ladder.run("grpo-sft.yml", "sft", &["eval_steps=1000"]);
    let base = format!("base_model={}", ladder.0.path("sft").display());
    let short = [base.as_str(), "max_steps=60", "eval_steps=1000", "lr_scheduler=constant"];
    let run = |output: &str, more: &[&str]| {
        let steps = ladder.run("grpo.yml", output, &[&short[..], more].concat());
        let steps: Vec<Value> = steps.into_iter().filter(|step| step["event"] == "train").collect();
        (reward(&steps[..4]), reward(&steps[45..]))
    };
    // The same prompts come in both, so that they can be compared step by step.
    let ((first, last), (_, control)) = (run("rewarded", &[]), run("control", &["trl.shuffle_rewards=true"]));
    assert!(last > first + 0.1 && last > control + 0.15, "{first} {last} {control}");
}
