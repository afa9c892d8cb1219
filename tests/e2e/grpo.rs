//! Learning from rewards: groups of completions, what they are worth, and a run that goes on in the middle of a generation.

use serde_json::Value;

use crate::support::{CONFIG, Project, finish, lines};

/// The quickstart's rows and model; more lines of `trl`, and more keys.
fn config(trl: &str, more: &str) -> String {
    let base = CONFIG.replace("micro_batch_size: 4", "micro_batch_size: 8");
    format!(
        "{base}rl: grpo\nlr_scheduler: constant\nwarmup_steps: 0\ntrl:\n  num_generations: 4\n  max_completion_length: 8\n{trl}{more}"
    )
}

/// Rewards of which each completion of a tiny model has another one.
const LENGTH: &str = "  reward_funcs: [{name: length, config: {max: 2, falloff: 8}}]\n";

fn model(project: &Project, output: &str) -> Vec<u8> {
    std::fs::read(project.path(output).join("model.safetensors")).unwrap()
}

/// Trains without the processor's matrix unit, which sums large products in an order of its own: training then says of each
/// token exactly what sampling said.
fn train_exactly(project: &Project, more: &[&str]) {
    let mut command = project.command(&[&["train", "host.yml"], more].concat());
    let outcome = finish(command.env("HOST_NO_AMX", "1").spawn().unwrap());
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
}

/// The mean ratio of a step's tokens to what they were sampled with, to the bit.
fn ratio(line: &Value) -> u64 {
    line["sampling/importance_sampling_ratio/mean"].as_f64().unwrap().to_bits()
}

/// That of a policy that has not moved.
const ONE: u64 = 1.0_f64.to_bits();

#[test]
fn completions_are_sampled_judged_and_learned() {
    let project = Project::new();
    let more = "test_datasets: [{path: eval.jsonl, type: alpaca}]\nlogging_steps: 1\n";
    project.write("host.yml", config(&format!("{LENGTH}  num_completions_to_log: 3\n"), more));
    train_exactly(&project, &["--set", "max_steps=3"]);
    let metrics = lines(&project.path("out/metrics.jsonl"));
    let train: Vec<&Value> = metrics.iter().filter(|line| line["event"] == "train").collect();
    assert_eq!(train.len(), 3);
    for line in &train {
        // The policy that learns is the one that sampled, to the bit.
        assert_eq!(ratio(line), ONE, "{line}");
        for name in [
            "reward",
            "reward_std",
            "entropy",
            "frac_reward_zero_std",
            "rewards/length/mean",
            "completions/mean_length",
        ] {
            assert!(line[name].is_number(), "{name}: {line}");
        }
    }
    let eval: Vec<&Value> = metrics.iter().filter(|line| line["event"] == "eval").collect();
    assert!(eval[0]["rewards/length/mean"].is_number() && eval[0].get("eval_loss").is_none(), "{}", eval[0]);
    let completions = lines(&project.path("out/completions.jsonl"));
    assert_eq!(
        completions.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(),
        [1, 1, 1, 2, 2, 2, 3, 3, 3]
    );
    let first = &completions[0];
    assert!(first["prompt"].as_str().unwrap().ends_with("### Response:\n"), "{first}");
    assert!(first["advantage"].is_number() && first["rewards"]["length"]["value"].is_number(), "{first}");
}

#[test]
fn a_run_goes_on_in_the_middle_of_a_generation() {
    let project = Project::new();
    // Two steps of a generation, each learned from twice: a checkpoint after every step.
    let trl = format!("{LENGTH}  steps_per_generation: 2\n  num_iterations: 2\n");
    project.write("host.yml", config(&trl, "save_steps: 1\nlogging_steps: 1\n"));
    let run = |output: &str, more: &[&str]| {
        let output = format!("output_dir={output}");
        train_exactly(&project, &[&["--set", "max_steps=6", "--set", &output], more].concat());
    };
    run("whole", &[]);
    let steps = lines(&project.path("whole/metrics.jsonl"));
    let is_one: Vec<bool> = steps.iter().map(|step| ratio(step) == ONE).collect();
    assert!(is_one[0] && !is_one[3] && is_one[4], "{steps:?}");
    for step in [1, 2, 3, 4, 5] {
        let from = project.path("whole").join(format!("checkpoint-{step}"));
        assert_eq!(from.join("rollouts.safetensors").exists(), step != 4, "{step}");
        let output = format!("from-{step}");
        std::fs::create_dir(project.path(&output)).unwrap();
        run(&output, &["--resume", from.to_str().unwrap()]);
        assert!(model(&project, &output) == model(&project, "whole"), "{step}");
    }
}

#[test]
fn threads_and_parts_of_a_step_give_the_same_completions() {
    let project = Project::new();
    project.write("host.yml", config(LENGTH, "logging_steps: 1\n"));
    let completions = |output: &str, threads: &str, more: &[&str]| {
        let set = format!("output_dir={output}");
        let mut command =
            project.command(&[&["train", "host.yml", "--set", "max_steps=2", "--set", &set], more].concat());
        assert!(command.env("RAYON_NUM_THREADS", threads).output().unwrap().status.success());
        lines(&project.path(output).join("completions.jsonl"))
    };
    let one = completions("one", "1", &[]);
    assert_eq!(one, completions("two", "2", &[]));
    assert!(model(&project, "one") == model(&project, "two"));
    // Gradients are summed in another order then, which moves the last bits alone.
    let parts = completions("parts", "2", &["--set", "micro_batch_size=4", "--set", "gradient_accumulation_steps=2"]);
    assert_eq!(one[..8], parts[..8]);
}

#[test]
fn a_step_of_several_generations_tells_of_all_of_them() {
    let project = Project::new();
    let trl = format!("{LENGTH}  steps_per_generation: 1\n");
    project.write("host.yml", config(&trl, "gradient_accumulation_steps: 3\nlogging_steps: 1\n"));
    project.success(&["train", "host.yml", "--set", "max_steps=1", "--set", "trl.num_completions_to_log=30"]);
    let completions = lines(&project.path("out/completions.jsonl"));
    assert_eq!(completions.len(), 24);
    let mean = completions.iter().map(|line| line["reward"].as_f64().unwrap()).sum::<f64>() / 24.0;
    let told = lines(&project.path("out/metrics.jsonl"))[0]["reward"].as_f64().unwrap();
    assert!((told - mean).abs() < 1e-9, "{told} {mean}");
    project.success(&[
        "train",
        "host.yml",
        "--set",
        "max_steps=1",
        "--set",
        "trl.num_completions_to_log=10",
        "--overwrite",
    ]);
    assert_eq!(lines(&project.path("out/completions.jsonl")).len(), 10);
}

#[test]
fn a_control_has_nothing_to_learn_from() {
    let project = Project::new();
    project.write("host.yml", config(&format!("{LENGTH}  shuffle_rewards: true\n"), "logging_steps: 1\n"));
    project.success(&["train", "host.yml", "--set", "max_steps=1"]);
    project.write("host.yml", config(LENGTH, "logging_steps: 1\n"));
    project.success(&["train", "host.yml", "--set", "max_steps=1", "--set", "output_dir=plain"]);
    let of = |output: &str| {
        let all = lines(&project.path(output).join("completions.jsonl"));
        let mut rewards: Vec<String> = all.iter().map(|line| line["reward"].to_string()).collect();
        let texts: Vec<String> = all.iter().map(|line| line["completion"].to_string()).collect();
        let dealt = rewards.clone();
        rewards.sort();
        (texts, rewards, dealt)
    };
    let (control, run) = (of("out"), of("plain"));
    assert_eq!((&control.0, &control.1), (&run.0, &run.1), "the same completions and the same rewards");
    assert_ne!(control.2, run.2, "but not together");
}

#[test]
fn a_temperature_is_that_of_sampling_and_of_learning() {
    let project = Project::new();
    project.write("host.yml", config(&format!("{LENGTH}  temperature: 0.7\n"), "logging_steps: 1\n"));
    train_exactly(&project, &["--set", "max_steps=2"]);
    let metrics = lines(&project.path("out/metrics.jsonl"));
    assert!(metrics.iter().all(|line| ratio(line) == ONE), "{metrics:?}");
}

/// With a reference, a run is drawn back to where it began, and goes on byte for byte in the middle of a generation.
#[test]
fn a_reference_is_the_model_as_training_began() {
    let adapter = "adapter: lora\nlora_r: 4\nlora_alpha: 64\nlora_target_linear: true\n";
    for (name, more) in [("whole", ""), ("adapter", adapter)] {
        let project = Project::new();
        let trl = format!("{LENGTH}  beta: 0.5\n  steps_per_generation: 1\n  num_iterations: 2\n");
        let more = format!("{more}save_steps: 1\nlogging_steps: 1\nlearning_rate: 0.01\n");
        let config = config(&trl, "").replace("learning_rate: 1e-3\n", "") + &more;
        project.write("host.yml", config);
        let run = |output: &str, more: &[&str]| {
            let set = format!("output_dir={output}");
            train_exactly(&project, &[&["--set", "max_steps=5", "--set", &set], more].concat());
            lines(&project.path(output).join("metrics.jsonl"))
        };
        let steps = run("one", &[]);
        let kl = |step: usize| steps[step]["kl"].as_f64().unwrap();
        assert_eq!(kl(0).to_bits(), 0.0_f64.to_bits(), "{name}: the policy is the reference");
        assert!(kl(4) > 0.0 && (ratio(&steps[0]), ratio(&steps[2])) == (ONE, ONE), "{name}: {steps:?}");
        // Without it, the same run moves elsewhere.
        let free = run("free", &["--set", "trl.beta=0"]);
        assert!(free[0]["kl"].is_null() && free[4]["loss"] != steps[4]["loss"], "{name}: {free:?}");
        let file = if name == "adapter" { "adapter_model.safetensors" } else { "model.safetensors" };
        let written = |output: &str| std::fs::read(project.path(output).join(file)).unwrap();
        for step in [1, 2, 3] {
            let from = project.path("one").join(format!("checkpoint-{step}"));
            std::fs::create_dir(project.path(&format!("from-{step}"))).unwrap();
            run(&format!("from-{step}"), &["--resume", from.to_str().unwrap()]);
            assert_eq!(written(&format!("from-{step}")), written("one"), "{name}: from step {step}");
        }
    }
}

#[test]
fn what_cannot_be_sampled_or_judged_is_said() {
    let project = Project::new();
    let told = |trl: &str, more: &str| {
        project.write("host.yml", config(trl, more));
        project.failure(&["check", "host.yml"])
    };
    insta::assert_snapshot!(told("  num_iterations: 2\n", ""));
    insta::assert_snapshot!(told("  reward_funcs: [exact-match]\n  reward_weights: [1.0, 0.5]\n", ""));
    insta::assert_snapshot!(told("  reward_funcs: [exact-match]\n  top_p: 0.9\n  beta: -1\n", ""));
    insta::assert_snapshot!(told("  reward_funcs: [exact-match]\n  delta: 1.1\n", "sample_packing: true\n"));
    insta::assert_snapshot!(told("  reward_funcs: [exact-match]\n  num_generation: 4\n", ""));
    project.write("host.yml", config(LENGTH, "").replace("micro_batch_size: 8", "micro_batch_size: 6"));
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
    project.write("host.yml", config(LENGTH, "").replace("max_completion_length: 8", "max_completion_length: 128"));
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
    project.write("host.yml", config(LENGTH, "").replace("micro_batch_size: 8", "micro_batch_size: 400"));
    insta::assert_snapshot!(project.failure(&["train", "host.yml"]));
    project.write("host.yml", CONFIG.replace("learning_rate", "rl: grpo\nlearning_rate"));
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
    // Prompts that leave no room for a completion.
    project.write("host.yml", config(LENGTH, "").replace("sequence_len: 128", "sequence_len: 12"));
    insta::assert_snapshot!(project.failure(&["train", "host.yml"]));
}
