//! Techniques that recipes name: what is trained of a model, at which rate, and which weights of a run are its result.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::support::{CONFIG, Project};

type Tensors = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

fn tensors(project: &Project, file: &str) -> Tensors {
    let bytes = fs::read(project.path(file)).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let tensor = |(name, entry): (String, Value)| {
        let at = |index: usize| 8 + length + entry["data_offsets"][index].as_u64().unwrap() as usize;
        let shape = entry["shape"].as_array().unwrap().iter().map(|size| size.as_u64().unwrap() as usize).collect();
        let values = &bytes[at(0)..at(1)];
        // The upper half of a float is what bfloat16 has of it.
        let wide = |half: &[u8]| [0, 0, half[0], half[1]];
        let is_half = entry["dtype"] == "BF16";
        (name, (shape, if is_half { values.chunks(2).flat_map(wide).collect() } else { values.to_vec() }))
    };
    header.into_iter().filter(|(name, _)| name != "__metadata__").map(tensor).collect()
}

/// The rows of each tensor that a run has changed, of vectors one; what the base model has in bfloat16 is float32 in the run's.
fn changed(project: &Project, output: &str) -> BTreeMap<String, BTreeSet<usize>> {
    let (before, after) =
        (tensors(project, "model/model.safetensors"), tensors(project, &format!("{output}/model.safetensors")));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    let mut all = BTreeMap::new();
    for (name, (shape, old)) in before {
        let rows = if shape.len() == 2 { shape[0] } else { 1 };
        let width = old.len() / rows;
        let new = &after[&name].1;
        assert_eq!(old.len(), new.len(), "{name}");
        let differs = |row: &usize| old[row * width..][..width] != new[row * width..][..width];
        let rows: BTreeSet<usize> = (0..rows).filter(differs).collect();
        if !rows.is_empty() {
            all.insert(name, rows);
        }
    }
    all
}

fn run_json(project: &Project, output: &str) -> Value {
    serde_json::from_str(&project.read(&format!("{output}/run.json"))).unwrap()
}

/// A run that becomes worse on rows that it does not learn from.
const OVERFITS: &str = "\
test_datasets: [{path: eval.jsonl, type: alpaca}]
eval_steps: 2
logging_steps: 2
lr_scheduler: constant
warmup_steps: 0
";

fn overfits(more: &str) -> String {
    CONFIG
        .replace("1e-3", "1e-2")
        .replace("max_steps: 4", "max_steps: 200")
        .replace("micro_batch_size: 4", "micro_batch_size: 16")
        + OVERFITS
        + more
}

#[test]
fn a_run_ends_when_it_becomes_no_better_and_its_best_is_the_result() {
    let project = Project::new();
    let more = "early_stopping_patience: 2\nload_best_model_at_end: true\nsave_steps: 2\nsave_total_limit: 1\n";
    project.write("host.yml", overfits(more));
    let told = project.success(&["train", "host.yml"]);
    let run = run_json(&project, "out");
    let (steps, best) = (run["step"].as_u64().unwrap(), run["summary"]["best"].clone());
    let evals = project.metrics("out", "eval");
    let losses: Vec<(u64, f64)> = evals
        .iter()
        .map(|line| (line["step"].as_u64().unwrap(), line["eval_loss"].as_f64().unwrap()))
        .filter(|(step, _)| *step > 0)
        .collect();
    let lowest = losses.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert_eq!((best["step"].as_u64(), best["value"].as_f64()), (Some(lowest.0), Some(lowest.1)));
    assert_eq!((steps, losses.last().unwrap().0), (lowest.0 + 4, lowest.0 + 4), "two evaluations after the best");
    assert!(steps < 200, "{steps}");
    assert_eq!(
        (&run["stopped_early"], &best["is_result"], &run["status"]),
        (&true.into(), &true.into(), &"finished".into())
    );
    assert_eq!(run["summary"]["eval_after"]["eval_loss"].as_f64(), Some(lowest.1));
    let line = format!(
        "  eval_loss {:.4} after step {}, which is the result; the run ended as none after it was better",
        lowest.1, lowest.0
    );
    assert!(told.stderr.contains(&line), "{}", told.stderr);
    // The best is kept beside the newest one, and is what was written.
    let kept: BTreeSet<String> = fs::read_dir(project.path("out"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("checkpoint-"))
        .collect();
    assert_eq!(kept, [format!("checkpoint-{}", lowest.0), format!("checkpoint-{steps}")].into());
    let model = |directory: &str| tensors(&project, &format!("{directory}/model.safetensors"));
    assert!(model("out") == model(&format!("out/checkpoint-{}", lowest.0)));
    assert!(model("out") != model(&format!("out/checkpoint-{steps}")));
    // There is nothing left to do.
    let again = project.success(&["train", "host.yml", "--resume", "auto"]);
    assert!(again.stderr.contains("finished"), "{}", again.stderr);
    assert_eq!(run_json(&project, "out")["step"], steps);

    // From a checkpoint on the way, the same comes of it.
    let from = lowest.0 + 2;
    let whole = more.replace("save_total_limit: 1\n", "");
    project.write("host.yml", overfits(&whole).replace("output_dir: out", "output_dir: all"));
    project.success(&["train", "host.yml"]);
    let copy = |step: u64, output: &str| {
        let from = project.path(&format!("all/checkpoint-{step}"));
        let to = project.path(&format!("{output}/checkpoint-{step}"));
        fs::create_dir_all(&to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    };
    copy(lowest.0, "again");
    copy(from, "again");
    project.success(&["train", "host.yml", "--set", "output_dir=again", "--resume", "auto"]);
    assert_eq!(run_json(&project, "again")["step"], steps);
    assert!(model("again") == model("out"));

    // Without its best, it does not begin.
    copy(from, "lost");
    let messages = project.failure(&["train", "host.yml", "--set", "output_dir=lost", "--resume", "auto"]);
    assert!(messages.contains("delete `load_best_model_at_end`"), "{messages}");
}

#[test]
fn each_best_is_saved_and_the_end_is_the_result_where_nobody_asked_for_the_best() {
    let project = Project::new();
    project.write(
        "host.yml",
        overfits("save_strategy: best\nmetric_for_best_model: perplexity\n").replace("max_steps: 200", "max_steps: 12"),
    );
    project.success(&["train", "host.yml"]);
    let best = run_json(&project, "out")["summary"]["best"].clone();
    assert_eq!((&best["metric"], &best["is_result"]), (&"eval_perplexity".into(), &false.into()));
    let (mut lowest, mut expected) = (f64::INFINITY, BTreeSet::new());
    for line in project.metrics("out", "eval").iter().filter(|line| line["step"].as_u64() > Some(0)) {
        if line["eval_perplexity"].as_f64().unwrap() < lowest {
            lowest = line["eval_perplexity"].as_f64().unwrap();
            expected.insert(format!("checkpoint-{}", line["step"]));
        }
    }
    let kept: BTreeSet<String> = fs::read_dir(project.path("out"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("checkpoint-"))
        .collect();
    assert_eq!(kept, expected);
}

#[test]
fn what_evaluations_are_held_against_each_other_by_must_be_there() {
    let project = Project::new();
    project.write("host.yml", overfits("early_stopping_patience: 2\nmetric_for_best_model: accuracy\n"));
    let messages = project.failure(&["train", "host.yml"]);
    let (_, error) = messages.split_once("error[").unwrap();
    insta::assert_snapshot!(error);
    let failure = |lines: &str| {
        project.write("host.yml", format!("{CONFIG}{lines}"));
        project.failure(&["check", "host.yml"])
    };
    insta::assert_snapshot!(failure("early_stopping_patience: 2\n"));
    insta::assert_snapshot!(failure("load_best_model_at_end: true\nval_set_size: 0.2\neval_strategy: no\n"));
    insta::assert_snapshot!(failure("early_stopping_patience: 0\nsave_strategy: worst\n"));
}

#[test]
fn rows_of_parameters_are_trained_and_others_stay() {
    let project = Project::new();
    let more = "weight_decay: 0.1\nunfrozen_parameters:\n  - ^model.embed_tokens.weight$[:100]\n  - ^model.embed_tokens.weight$[300:310]\n  - model.layers.1.mlp.up_proj\n";
    project.write("host.yml", format!("{CONFIG}{more}"));
    project.success(&["train", "host.yml"]);
    let changed = changed(&project, "out");
    let names: Vec<&str> = changed.keys().map(String::as_str).collect();
    assert_eq!(names, ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"]);
    let rows = &changed["model.embed_tokens.weight"];
    assert_eq!(*rows, (0..100).chain(300..310).collect(), "the head is the embedding, so each of its rows learns");
    let failure = |lines: &str| {
        project.write("host.yml", format!("{CONFIG}{lines}"));
        project.failure(&["check", "host.yml"])
    };
    insta::assert_snapshot!(failure(
        "unfrozen_parameters: ['model.norm.weight[5:5]', 'model.embed_tokens[:99999999999999999999999]']\n"
    ));
    insta::assert_snapshot!(failure("unfrozen_parameters: ['model.embed_tokens', 'model.embed_tokens.weight[1:2]']\n"));
}

#[test]
fn parameters_have_learning_rates_of_their_own() {
    let project = Project::new();
    let more = "embedding_lr: 0\nlr_groups:\n  - {name: still, modules: [o_proj, layers.2.], lr: 0}\n  - {name: fast, modules: [layers.2.mlp, q_proj], lr: 5e-3}\n";
    project.write("host.yml", format!("{CONFIG}weight_decay: 0.1\n{more}"));
    project.success(&["train", "host.yml"]);
    let names: BTreeSet<String> = changed(&project, "out").into_keys().collect();
    let still = |name: &str| name.contains("embed_tokens") || name.contains("o_proj") || name.contains("layers.2.");
    let all = tensors(&project, "model/model.safetensors");
    let moving: BTreeSet<String> = all.into_keys().filter(|name| !still(name)).collect();
    assert_eq!(names, moving);
    // As fast as the run: nothing is said of the others.
    project.write("host.yml", format!("{CONFIG}lr_groups: [{{name: all, modules: [model], lr: 1e-3}}]\n"));
    project.success(&["train", "host.yml", "--set", "output_dir=all"]);
    project.write("host.yml", CONFIG);
    project.success(&["train", "host.yml", "--set", "output_dir=plain"]);
    let model = |output: &str| fs::read(project.path(output).join("model.safetensors")).unwrap();
    assert!(model("all") == model("plain"));
    let failure = |lines: &str| {
        project.write("host.yml", format!("{CONFIG}{lines}"));
        project.failure(&["check", "host.yml"])
    };
    insta::assert_snapshot!(failure("lr_groups: [{name: a, modules: ['']}]\nembedding_lr: 1\nembedding_lr_scale: 2\n"));
    insta::assert_snapshot!(failure("loraplus_lr_ratio: 16\nneftune_noise_alpha: -1\n"));
}

#[test]
fn half_of_the_projections_are_trained_by_their_signal() {
    let project = Project::new();
    project.write("host.yml", format!("{CONFIG}spectrum_top_fraction: 0.5\n"));
    let told = project.success(&["train", "host.yml"]);
    assert!(told.stderr.contains("`spectrum_top_fraction` trains 14 of 28 projections"), "{}", told.stderr);
    let names: BTreeSet<String> = changed(&project, "out").into_keys().collect();
    assert_eq!(names.len(), 15);
    assert!(names.contains("model.embed_tokens.weight"));
    for kind in ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"] {
        assert_eq!(names.iter().filter(|name| name.contains(kind)).count(), 2, "{names:?}");
    }
    // What was measured is kept, and a broken file of it is measured again.
    let kept: Vec<_> =
        fs::read_dir(project.path(".cache/spectrum")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 1);
    let whole = fs::read(&kept[0]).unwrap();
    let mut signals: Value = serde_json::from_slice(&whole).unwrap();
    for (name, signal) in signals["signals"].as_object_mut().unwrap() {
        // The layers the other way round.
        *signal = (-signal.as_f64().unwrap()).into();
        assert!(name.ends_with(".weight"));
    }
    fs::write(&kept[0], serde_json::to_vec(&signals).unwrap()).unwrap();
    project.success(&["train", "host.yml", "--set", "output_dir=turned"]);
    let turned: BTreeSet<String> = changed(&project, "turned").into_keys().collect();
    assert_eq!(turned.intersection(&names).collect::<Vec<_>>(), ["model.embed_tokens.weight"]);
    fs::write(&kept[0], &whole[..whole.len() / 2]).unwrap();
    project.success(&["train", "host.yml", "--overwrite"]);
    assert_eq!(changed(&project, "out").into_keys().collect::<BTreeSet<_>>(), names);
    assert_eq!(fs::read(&kept[0]).unwrap(), whole);
    let failure = |lines: &str| {
        project.write("host.yml", format!("{CONFIG}{lines}"));
        project.failure(&["check", "host.yml", "--plan"])
    };
    insta::assert_snapshot!(failure("spectrum_top_fraction: 0.2\n"));
    insta::assert_snapshot!(failure("spectrum_top_fraction: 1\n"));
    insta::assert_snapshot!(failure(
        "spectrum_top_fraction: 0.5\nunfrozen_parameters: [lm_head]\nreinit_weights: true\n"
    ));
}

#[test]
fn layers_that_are_drawn_learn_and_a_run_goes_on_with_them() {
    let project = Project::new();
    let more = "lisa_n_layers: 1\nlisa_step_interval: 3\nsave_steps: 2\nlr_scheduler: constant\nwarmup_steps: 0\nlogging_steps: 1\n";
    let config = CONFIG.replace("max_steps: 4", "max_steps: 10");
    project.write("host.yml", format!("{config}{more}"));
    project.success(&["train", "host.yml"]);
    let layers = |output: &str| -> BTreeSet<String> {
        let names = changed(&project, output).into_keys();
        names.filter_map(|name| Some(name.split_once(".layers.")?.1.split('.').next()?.to_owned())).collect()
    };
    let early = layers("out/checkpoint-2");
    assert_eq!(early.len(), 1);
    assert!(layers("out").len() > 1);
    let model = |output: &str| fs::read(project.path(output).join("model.safetensors")).unwrap();
    for step in [2, 4, 6, 8] {
        let (from, output) = (format!("out/checkpoint-{step}"), format!("output_dir=from-{step}"));
        project.success(&["train", "host.yml", "--resume", &from, "--set", &output]);
        assert!(model("out") == model(&format!("from-{step}")), "from step {step}");
    }
    let failure = |lines: &str| {
        project.write("host.yml", format!("{CONFIG}{lines}"));
        project.failure(&["check", "host.yml", "--plan"])
    };
    insta::assert_snapshot!(failure("lisa_n_layers: 5\nlisa_step_interval: 3\n"));
    insta::assert_snapshot!(failure(
        "lisa_n_layers: 1\nadapter: lora\nlora_r: 2\nlora_alpha: 2\nlora_target_linear: true\n"
    ));
}

#[test]
fn noise_is_of_the_seed_and_goes_on() {
    let project = Project::new();
    let more = "neftune_noise_alpha: 5\nlogging_steps: 1\nsave_steps: 2\nlr_scheduler: constant\nwarmup_steps: 0\n";
    project.write("host.yml", format!("{CONFIG}{more}"));
    project.success(&["train", "host.yml"]);
    project.success(&["train", "host.yml", "--set", "output_dir=plain", "--set", "neftune_noise_alpha=0"]);
    project.success(&["train", "host.yml", "--set", "output_dir=from", "--resume", "out/checkpoint-2"]);
    let model = |output: &str| fs::read(project.path(output).join("model.safetensors")).unwrap();
    assert!(model("out") == model("from") && model("out") != model("plain"));
    let first = |output: &str| project.metrics(output, "train")[0]["loss"].as_f64().unwrap();
    let off = (first("out") / first("plain") - 1.0).abs();
    assert!(off > 1e-6 && off < 0.5, "{off}");
    let other = project.failure(&[
        "train",
        "host.yml",
        "--set",
        "output_dir=other",
        "--set",
        "neftune_noise_alpha=6",
        "--resume",
        "out/checkpoint-2",
    ]);
    assert!(other.contains("`neftune_noise_alpha`: now 6.0, then 5.0"), "{other}");
}

#[test]
fn models_are_put_together() {
    let project = Project::new();
    project.write("host.yml", CONFIG);
    project.success(&["train", "host.yml"]);
    let told = project.success(&["merge", "model", "out", "--method", "slerp", "--t", "0.25", "--output", "both"]);
    assert!(told.stdout.is_empty() && told.stderr.contains("try it: host generate --model both"), "{}", told.stderr);
    project.success(&["generate", "--model", "both", "--raw", "--prompt", "The", "--max-new-tokens", "3"]);
    let [a, b, both] = ["model", "out", "both"].map(|name| tensors(&project, &format!("{name}/model.safetensors")));
    assert_eq!(a.keys().collect::<Vec<_>>(), both.keys().collect::<Vec<_>>());
    assert!(both != a && both != b);
    project.success(&["merge", "out", "model", "--weights", "2,0", "--output", "both"]);
    assert!(tensors(&project, "both/model.safetensors") == b, "what was merged before is replaced");
    let failure = |arguments: &[&str]| project.failure(&[&["merge"], arguments].concat());
    insta::assert_snapshot!(failure(&["model", "out", "--weights", "1", "--output", "x"]));
    insta::assert_snapshot!(failure(&["model", "out", "--weights", "1,-1", "--output", "x"]));
    insta::assert_snapshot!(failure(&["model", "out", "--method", "slerp", "--t", "2", "--output", "x"]));
    insta::assert_snapshot!(failure(&["model", "out", "out", "--method", "slerp", "--output", "x"]));
    insta::assert_snapshot!(failure(&["model", "nowhere", "--output", "x"]));
    insta::assert_snapshot!(failure(&["model", "out", "--output", "model"]));
    fs::create_dir(project.path("wide")).unwrap();
    let config = project.read("model/config.json").replace("\"attention_bias\": false", "\"attention_bias\": true");
    project.write("wide/config.json", config);
    fs::copy(project.path("model/model.safetensors"), project.path("wide/model.safetensors")).unwrap();
    insta::assert_snapshot!(failure(&["model", "wide", "--output", "x"]));
    assert!(!project.path("x").exists());
}
