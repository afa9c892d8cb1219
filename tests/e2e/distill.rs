//! Learning a teacher's distributions where the model itself writes.

use serde_json::Value;

use crate::support::{CONFIG, Project, lines};

fn config(trl: &str, more: &str) -> String {
    format!(
        "{CONFIG}rl: distill\nlr_scheduler: constant\nwarmup_steps: 0\nlogging_steps: 1\ntrl:\n  max_completion_length: 8\n{trl}{more}"
    )
}

const TEACHER: &str = "  teacher_model_name_or_path: teacher\n";

/// A project with a teacher: its model, trained for some steps.
fn project() -> Project {
    let project = Project::new();
    project.write("teacher.yml", CONFIG);
    project.success(&["train", "teacher.yml", "--set", "output_dir=teacher", "--set", "max_steps=40"]);
    project
}

#[test]
fn a_student_comes_near_its_teacher() {
    let project = project();
    let adapter = "adapter: lora\nlora_r: 8\nlora_alpha: 16\nlora_target_linear: true\n";
    let whole: &[&str] = &["0", "0.5", "1"];
    for (name, more, rate, betas) in [("whole", "", "1e-3", whole), ("adapter", adapter, "5e-3", &["1"])] {
        for beta in betas {
            project.write("host.yml", config(&format!("{TEACHER}  beta: {beta}\n"), more));
            let output = format!("{name}-{beta}");
            let keys = [format!("output_dir={output}"), format!("learning_rate={rate}"), "max_steps=40".to_owned()];
            let mut arguments = vec!["train", "host.yml"];
            arguments.extend(keys.iter().flat_map(|key| ["--set", key]));
            project.success(&arguments);
            let steps = lines(&project.path(&output).join("metrics.jsonl"));
            let mean = |steps: &[Value]| steps.iter().map(|step| step["loss"].as_f64().unwrap()).sum::<f64>() / 5.0;
            let (first, last) = (mean(&steps[..5]), mean(&steps[35..]));
            assert!(first > 0.0 && last < 0.75 * first, "{name} {beta}: {first} {last}");
            assert!(steps[0]["entropy"].is_number() && steps[0]["reward"].is_null(), "{}", steps[0]);
            let written = lines(&project.path(&output).join("completions.jsonl"));
            assert!(written[0]["completion"].is_string() && written[0].get("reward").is_none(), "{}", written[0]);
        }
    }
}

#[test]
fn a_run_goes_on_in_the_middle_of_a_generation() {
    let project = project();
    let trl = format!("{TEACHER}  steps_per_generation: 2\n");
    project.write("host.yml", config(&trl, "save_steps: 1\n"));
    let run = |output: &str, more: &[&str]| {
        let set = format!("output_dir={output}");
        project.success(&[&["train", "host.yml", "--set", "max_steps=4", "--set", &set], more].concat());
        std::fs::read(project.path(output).join("model.safetensors")).unwrap()
    };
    let whole = run("one", &[]);
    for step in [1, 2, 3] {
        let from = project.path("one").join(format!("checkpoint-{step}"));
        assert_eq!(from.join("rollouts.safetensors").exists(), step != 2, "{step}");
        let output = format!("from-{step}");
        std::fs::create_dir(project.path(&output)).unwrap();
        assert!(run(&output, &["--resume", from.to_str().unwrap()]) == whole, "{step}");
    }
    // Another teacher is another run.
    project.success(&["train", "teacher.yml", "--set", "output_dir=teacher", "--set", "max_steps=41", "--overwrite"]);
    let from = project.path("one/checkpoint-2");
    let told = project.failure(&[
        "train",
        "host.yml",
        "--set",
        "max_steps=4",
        "--set",
        "output_dir=other",
        "--resume",
        from.to_str().unwrap(),
    ]);
    assert!(told.contains("teacher_sha256"), "{told}");
}

#[test]
fn it_is_judged_by_what_rewards_say() {
    let project = project();
    let more = "test_datasets: [{path: eval.jsonl, type: alpaca}]\neval_reward_funcs: [exact-match]\n";
    project.write("host.yml", config(TEACHER, more));
    let plan = project.success(&["check", "host.yml", "--plan"]).stderr;
    assert!(plan.contains("generation"), "{plan}");
    project.success(&["train", "host.yml", "--set", "max_steps=2"]);
    let last = lines(&project.path("out/metrics.jsonl")).pop().unwrap();
    assert!(last["rewards/exact-match/mean"].is_number() && last["eval_loss"].is_null(), "{last}");
}

#[test]
fn what_cannot_be_learned_from_is_said() {
    let project = project();
    let told = |trl: &str, more: &str| {
        project.write("host.yml", config(trl, more));
        project.failure(&["check", "host.yml"])
    };
    insta::assert_snapshot!(told("", ""));
    insta::assert_snapshot!(told("  teacher_model_name_or_path: Qwen/Qwen3-8B\n  beta: 1.5\n", ""));
    insta::assert_snapshot!(told(&format!("{TEACHER}  reward_funcs: [exact-match]\n  num_generations: 4\n"), ""));
    insta::assert_snapshot!(told(TEACHER, "test_datasets: [{path: eval.jsonl, type: alpaca}]\nsample_packing: true\n"));
    // A cut completion is as good a place to learn from as any.
    let masked = told(&format!("{TEACHER}  mask_truncated_completions: true\n"), "");
    assert!(masked.contains("`trl.mask_truncated_completions` is for `rl: grpo`"), "{masked}");
    // Rows of the embedding that are mere padding are tokens too.
    let path = project.path("teacher/config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut found: Value = serde_json::from_str(&text).unwrap();
    let padded = found["vocab_size"].as_u64().unwrap() + 64;
    found["vocab_size"] = padded.into();
    std::fs::write(&path, found.to_string()).unwrap();
    assert!(told(TEACHER, "").contains("model.embed_tokens.weight"), "the weights have other rows than `config.json`");
    std::fs::write(&path, text).unwrap();
    // The same numbers for other words.
    let path = project.path("teacher/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let (names, ids): (Vec<String>, Vec<Value>) = vocab.clone().into_iter().unzip();
    *vocab = names.into_iter().zip(ids.into_iter().rev()).collect();
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    insta::assert_snapshot!(told(TEACHER, ""));
    project.write("host.yml", CONFIG.to_owned() + "trl:\n" + TEACHER);
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
}
