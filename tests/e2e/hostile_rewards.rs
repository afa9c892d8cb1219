//! A reward that fails on one completion of a run of `rl: grpo`: the run ends as `on_error` says, and nothing else is lost.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{CONFIG, Project, guest, lines};

/// What a reward may do, and the code of the message that it gets.
const DEEDS: [(&str, &str); 4] = [
    ("loop_on", "plugin::limit"),
    ("fill_on", "plugin::limit"),
    ("nan_on", "plugin::bad-result"),
    ("panic_on", "plugin::trap"),
];
const LIMITS: &str = "plugins: [{name: 'test:trapping-reward', limits: {call_ms: 1000, memory_mb: 32}}]\n";

/// A run of four steps with checkpoints, judged by a reward that fails on some completions.
fn config(output_dir: &str, reward: &Value) -> String {
    let base = CONFIG.replace("micro_batch_size: 4", "micro_batch_size: 8").replace("output_dir: out\n", "");
    format!(
        "{base}output_dir: {output_dir}\nrl: grpo\nlr_scheduler: constant\nwarmup_steps: 0\nsave_steps: 1\n\
         logging_steps: 1\ntrl:\n  num_generations: 4\n  max_completion_length: 8\n  num_completions_to_log: 8\n  \
         reward_funcs: [{reward}]\n{LIMITS}"
    )
}

/// A reward that does `deed` on `completion`.
fn reward(deed: &str, completion: &str, on_error: &str) -> Value {
    json!({ "name": "test:trapping-reward", "config": { "by_length": true, deed: completion }, "on_error": on_error })
}

/// A project, where its plugins are, and the run that nothing goes wrong in: its completions of the third step, and the first of
/// them that no other step has.
struct Attack {
    project: Project,
    plugins: String,
    completions: Vec<Value>,
    completion: String,
}

impl Attack {
    fn new() -> Self {
        let (project, plugins) = (Project::new(), guest("trapping-reward").to_str().unwrap().to_owned());
        project.write("host.yml", config("good", &reward("panic_on", "no completion is this", "fail")));
        project.success(&["train", "host.yml", "--plugins", &plugins]);
        let lines: Vec<Value> = lines(&project.path("good/completions.jsonl"));
        let mut times: BTreeMap<&str, usize> = BTreeMap::new();
        for line in &lines {
            *times.entry(line["completion"].as_str().unwrap()).or_default() += 1;
        }
        let completions: Vec<Value> = lines.iter().filter(|line| line["step"] == 3).cloned().collect();
        let once = completions.iter().map(|line| line["completion"].as_str().unwrap());
        let completion = once.filter(|text| times[text] == 1 && !text.is_empty()).max_by_key(|text| text.len());
        let completion = completion.expect("a completion that comes once").to_owned();
        Self { project, plugins, completions, completion }
    }

    fn write(&self, output_dir: &str, deed: &str, on_error: &str) {
        self.project.write("host.yml", config(output_dir, &reward(deed, &self.completion, on_error)));
    }

    /// Where the completion stands among those of its step.
    fn index(&self) -> usize {
        self.completions.iter().position(|line| line["completion"] == self.completion.as_str()).unwrap()
    }
}

#[test]
fn a_run_that_a_reward_ends_keeps_its_last_checkpoint() {
    let attack = Attack::new();
    let project = &attack.project;
    for (deed, code) in DEEDS {
        attack.write(deed, deed, "fail");
        let messages = project.failure(&["train", "host.yml", "--plugins", &attack.plugins]);
        let of = |part: &str| assert!(messages.contains(part), "{deed}: {part}: {messages}");
        assert_eq!(messages.matches("error[").count(), 1, "{deed}: {messages}");
        of(&format!("error[{code}]: plugin `test:trapping-reward`"));
        of("the completion was");
        of("`{name: test:trapping-reward, on_error: skip}`");
        of(&format!("the state of step 2 is in `{deed}/checkpoint-2`"));
        assert!(!messages.contains('\u{1b}'), "{messages}");
        let weights =
            |output: &str| std::fs::read(project.path(output).join("checkpoint-2/model.safetensors")).unwrap();
        assert!(weights(deed) == weights("good"), "{deed}");
        let run: Value = serde_json::from_str(&project.read(&format!("{deed}/run.json"))).unwrap();
        assert_eq!(run["status"], "failed", "{deed}");
        assert!(!project.path(deed).join("checkpoint-3").exists());
    }
}

/// What the message says: with another `on_error` the run goes on, to where it would have come with it from the start.
#[test]
fn a_run_that_a_reward_ended_goes_on_with_another_on_error() {
    let attack = Attack::new();
    let project = &attack.project;
    attack.write("ended", "panic_on", "fail");
    project.failure(&["train", "host.yml", "--plugins", &attack.plugins]);
    attack.write("ended", "panic_on", "skip");
    project.success(&["train", "host.yml", "--plugins", &attack.plugins, "--resume", "auto"]);
    attack.write("whole", "panic_on", "skip");
    project.success(&["train", "host.yml", "--plugins", &attack.plugins]);
    let model = |output: &str| std::fs::read(project.path(output).join("model.safetensors")).unwrap();
    assert!(model("ended") == model("whole"));
    // Its config is another matter.
    attack.write("whole", "nan_on", "skip");
    let messages = project.failure(&["train", "host.yml", "--plugins", &attack.plugins, "--resume", "auto"]);
    assert!(messages.contains("trl"), "{messages}");
}

#[test]
fn a_completion_that_a_reward_fails_on_is_not_judged_and_the_run_goes_on() {
    let attack = Attack::new();
    let project = &attack.project;
    let bad = attack.index();
    let own = bad / 4 * 4..bad / 4 * 4 + 4;
    for (deed, _) in DEEDS {
        attack.write(deed, deed, "skip");
        project.success(&["train", "host.yml", "--plugins", &attack.plugins]);
        let completions = lines(&project.path(&format!("{deed}/completions.jsonl")));
        let step: Vec<&Value> = completions.iter().filter(|line| line["step"] == 3).collect();
        let score = |line: &Value| line["rewards"]["test:trapping-reward"]["value"].clone();
        for (index, (line, good)) in step.iter().zip(&attack.completions).enumerate() {
            assert_eq!(line["completion"], good["completion"], "{deed}: the same is sampled");
            if index == bad {
                assert_eq!((score(line), &line["reward"]), (Value::Null, &Value::Null), "{deed}: {line}");
                assert_eq!(line["advantage"], 0.0, "{deed}: {line}");
                let note = line["rewards"]["test:trapping-reward"]["note"].as_str().unwrap();
                assert!(note.contains("plugin `test:trapping-reward`") && note.len() < 400, "{note}");
            } else {
                assert_eq!(score(line), score(good), "{deed}: {line}");
            }
            // Of another group nothing changes.
            assert!(own.contains(&index) || line["advantage"] == good["advantage"], "{deed}: {line}");
        }
        // The others are compared with each other alone.
        let group = own.clone().filter(|&index| index != bad).map(|index| step[index]);
        let sum: f64 = group.map(|line| line["advantage"].as_f64().unwrap()).sum();
        assert!(sum.abs() < 1e-5, "{deed}: {sum}");
        let metrics = lines(&project.path(&format!("{deed}/metrics.jsonl")));
        let train: Vec<&Value> = metrics.iter().filter(|line| line["event"] == "train").collect();
        let errors: Vec<&Value> = train.iter().map(|line| &line["rewards/test:trapping-reward/errors"]).collect();
        assert_eq!(errors[..3], [&json!(0.0), &json!(0.0), &json!(1.0)], "{deed}");
        // A fresh instance judges what comes after it.
        assert!(train[3]["rewards/test:trapping-reward/mean"].is_number(), "{deed}: {}", train[3]);
        assert!(project.path(deed).join("model.safetensors").exists(), "{deed}");
    }
}

#[test]
fn a_completion_may_score_nothing_instead() {
    let attack = Attack::new();
    for deed in ["nan_on", "panic_on"] {
        attack.write(deed, deed, "zero");
        attack.project.success(&["train", "host.yml", "--plugins", &attack.plugins]);
        let completions = lines(&attack.project.path(&format!("{deed}/completions.jsonl")));
        let line = completions.iter().filter(|line| line["step"] == 3).nth(attack.index()).unwrap();
        assert_eq!(line["reward"], 0.0, "{deed}: {line}");
        // By length, nothing is worse.
        assert!(line["advantage"].as_f64().unwrap() < 0.0, "{deed}: {line}");
    }
}

/// The message of an evaluation in the middle of a run says what is not lost, too.
#[test]
fn an_evaluation_that_a_reward_ends_keeps_the_last_checkpoint() {
    let project = Project::new();
    let plugins = guest("trapping-reward").to_str().unwrap().to_owned();
    for from_step in [2, 4] {
        let config = json!({ "panic_on": "instruction", "from_step": from_step });
        let eval = "test_datasets: [{path: eval.jsonl, type: alpaca}]\neval_max_new_tokens: 1\neval_steps: 2\n";
        let reward = json!({ "name": "test:trapping-reward", "config": config });
        project.write("host.yml", format!("{CONFIG}{eval}save_steps: 1\neval_reward_funcs: [{reward}]\n"));
        let messages = project.failure(&["train", "host.yml", "--overwrite", "--plugins", &plugins]);
        // The evaluation of a step comes before its checkpoint, that of the last one behind it.
        let saved = if from_step == 4 { 4 } else { 1 };
        let note = format!("note: the state of step {saved} is in `out/checkpoint-{saved}`");
        assert!(messages.contains(&note), "{messages}");
        assert!(project.path(&format!("out/checkpoint-{saved}/model.safetensors")).exists());
    }
}

/// What a reward says of a completion is kept with it, but not without measure.
#[test]
fn a_note_without_end_is_cut() {
    let (project, plugins) = (Project::new(), guest("trapping-reward").to_str().unwrap().to_owned());
    let reward = json!({ "name": "test:trapping-reward", "config": { "talks": true } });
    project.write("host.yml", config("out", &reward));
    let outcome = project.success(&["train", "host.yml", "--set", "max_steps=1", "--plugins", &plugins]);
    assert!(!outcome.stderr.contains('\u{1b}') && !outcome.stderr.contains("\nhost: done"), "{}", outcome.stderr);
    for line in lines(&project.path("out/completions.jsonl")) {
        let note = line["rewards"]["test:trapping-reward"]["note"].as_str().unwrap();
        assert_eq!(note.chars().count(), 2001, "2000 characters, and that there were more");
    }
}
