//! `host curate` with scores: the numbers, which rows they choose, what is kept between runs, what is refused.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Outcome, Project, lines, root};

/// What transformers says, and with what.
fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures/curation_scores").join(name)
}

fn expected(score: &str) -> Vec<f64> {
    let all: Value = serde_json::from_str(&fs::read_to_string(fixture("expected.json")).unwrap()).unwrap();
    all[score].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

const TOKENS: &str = "\
base_model: model
datasets:
  - path: rows.jsonl
    type:
sequence_len: 64
micro_batch_size: 2
learning_rate: 1e-3
max_steps: 4
output_dir: out
";

/// The fixture's model and rows. `config` stands behind `curation:`, on lines of its own.
fn project(config: &str, curation: &str) -> Project {
    let project = Project::new();
    project.own_model();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture("model").join(file), project.path("model").join(file)).unwrap();
    }
    for file in ["rows.jsonl", "targets.jsonl", "texts.jsonl"] {
        fs::copy(fixture(file), project.path(file)).unwrap();
    }
    project.write("host.yml", format!("{config}curation:\n  near_duplicates: false\n{curation}"));
    project
}

fn texts(curation: &str) -> Project {
    let config = TOKENS.replace("rows.jsonl", "texts.jsonl").replace("type:", "type: alpaca").replace("64", "256");
    project(&config, curation)
}

fn event(outcome: &Outcome) -> Value {
    serde_json::from_str(outcome.stdout.lines().last().unwrap()).unwrap()
}

/// The scores of all rows, as `curation.json` has them.
fn scores(project: &Project) -> Vec<Option<f64>> {
    let record: Value = serde_json::from_str(&project.read("out/curated/curation.json")).unwrap();
    record["scores"].as_array().unwrap().iter().map(Value::as_f64).collect()
}

/// The rows of a reason.
fn dropped(project: &Project, reason: &str) -> Vec<u64> {
    let lines = lines(&project.path("out/curated/dropped.jsonl"));
    let of_reason = lines.iter().filter(|line| line["reason"] == reason);
    of_reason.map(|line| line["row"].as_u64().unwrap()).collect()
}

/// The file of scores in the cache.
fn kept_scores(project: &Project) -> PathBuf {
    let files: Vec<PathBuf> =
        fs::read_dir(project.path(".cache/scores")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = files.as_slice() else { panic!("{files:?}") };
    file.clone()
}

#[track_caller]
fn near(found: &[Option<f64>], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
        let found = found.unwrap();
        // Sums in float32 in another order.
        assert!((found - expected).abs() <= 1e-4 * expected.abs(), "row {row}: {found} {expected}");
    }
}

#[test]
fn scores_of_samples_are_those_of_transformers() {
    for by in ["perplexity", "accuracy"] {
        let project = project(TOKENS, &format!("  score: {{by: {by}}}\n"));
        let done = event(&project.success(&["curate", "host.yml", "--json"]));
        assert_eq!((&done["kept"], &done["score"]["by"], &done["score"]["asked"]), (&json!(8), &json!(by), &json!(8)));
        near(&scores(&project), &expected(by));
    }
}

#[test]
fn similarities_are_those_of_transformers() {
    let project = project(TOKENS, "  score: {by: similarity, like: [targets.jsonl]}\n");
    project.success(&["curate", "host.yml"]);
    near(&scores(&project), &expected("similarity"));
    // Near to itself: the first of the targets, among others.
    let targets = project.read("targets.jsonl");
    project.write("rows.jsonl", &targets);
    project.success(&["curate", "host.yml"]);
    near(&scores(&project), &[1.0; 3]);
    // Other targets are another measure.
    project.write("targets.jsonl", targets.lines().next_back().unwrap());
    let done = event(&project.success(&["curate", "host.yml", "--json"]));
    assert_eq!(done["score"]["asked"], 3);
    assert!(scores(&project)[0].unwrap() < 0.99);
}

#[test]
fn digits_of_a_judge_are_those_of_transformers() {
    let prompt = serde_json::to_string(&fs::read_to_string(fixture("prompt.txt")).unwrap()).unwrap();
    let project = texts(&format!("  score: {{by: judge, prompt: {prompt}}}\n"));
    project.success(&["curate", "host.yml"]);
    near(&scores(&project), &expected("judge"));
    fs::copy(fixture("chat_template.jinja"), project.path("model/chat_template.jinja")).unwrap();
    let done = event(&project.success(&["curate", "host.yml", "--json"]));
    assert_eq!(done["score"]["asked"], 6);
    near(&scores(&project), &expected("judge_chat"));
    // The prompt of the program has other words; its length is not the row's.
    project.success(&["curate", "host.yml", "--set", "curation.score={by: judge}", "--set", "sequence_len=64"]);
    assert!(scores(&project).iter().all(Option::is_some));
    assert!(scores(&project).iter().flatten().all(|digit| (1.0..=5.0).contains(digit)));
    let messages = project.failure(&["curate", "host.yml", "--set", "sequence_len=8"]);
    assert!(messages.contains("6: nothing to score"), "{messages}");
}

#[test]
fn a_judge_needs_digits() {
    let project = texts("  score: {by: judge}\n");
    let path = project.path("model/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let id = vocabulary.remove("3").unwrap();
    vocabulary.insert("three".to_owned(), id);
    let merges = tokenizer["model"]["merges"].as_array_mut().unwrap();
    merges.retain(|merge| !merge.to_string().contains('3'));
    fs::write(&path, tokenizer.to_string()).unwrap();
    let messages = project.failure(&["curate", "host.yml"]);
    assert!(messages.contains("curation::no-digits") && messages.contains("no token that is `3`"), "{messages}");
    assert!(messages.contains("host.yml:12:"), "{messages}");
}

#[test]
fn rows_are_kept_by_their_scores() {
    let project = project(TOKENS, "  score: {by: perplexity, prefer: low}\n  keep: 3\n");
    let told = project.success(&["curate", "host.yml"]).stdout;
    assert!(told.contains("scored    8 rows by perplexity: 15.1 to 3 596, 186 in the middle\n"), "{told}");
    assert!(told.contains("left out  5 rows: not chosen by their score\n"), "{told}");
    // By the expected numbers: rows 5, 0 and 1 are the easiest.
    assert_eq!(dropped(&project, "score"), [2, 3, 4, 6, 7]);
    let line = &lines(&project.path("out/curated/dropped.jsonl"))[0];
    assert_eq!(line["score"], json!(scores(&project)[2].unwrap()));
    let kept = project.read("out/curated/kept.jsonl");
    let all: Vec<String> = project.read("rows.jsonl").lines().map(str::to_owned).collect();
    assert_eq!(kept.lines().collect::<Vec<_>>(), [&all[0], &all[1], &all[5]]);
    let page = project.read("out/curated/index.html");
    assert!(page.contains("<h2>Scores</h2>") && page.contains("<h3>Lowest</h3>"), "{page}");
    project.success(&["curate", "host.yml", "--set", "curation.score.prefer=high", "--set", "curation.keep=0.25"]);
    assert_eq!(dropped(&project, "score"), [0, 1, 4, 5, 6, 7]);
    project.success(&["train", "out/curated/train.yml"]);
}

#[test]
fn what_was_asked_is_not_asked_again() {
    let project = project(TOKENS, "  score: {by: perplexity, prefer: low}\n  keep: 3\n");
    let run = |more: &[&str]| {
        let outcome = event(&project.success(&[&["curate", "host.yml", "--json"], more].concat()));
        assert_eq!(outcome["score"]["rows"], 8);
        outcome["score"]["asked"].as_u64().unwrap()
    };
    assert_eq!(run(&[]), 8);
    let first = scores(&project);
    // Another choice asks nothing.
    assert_eq!(run(&["--set", "curation.keep=5", "--set", "curation.score.prefer=spread"]), 0);
    assert_eq!(dropped(&project, "score").len(), 3);
    assert_eq!(scores(&project), first);
    let told = project.success(&["curate", "host.yml"]).stdout;
    assert!(told.contains("all known from before: the model was not loaded"), "{told}");
    // A run that was killed goes on: of the records of 28 bytes, five are whole.
    let path = kept_scores(&project);
    let whole = fs::read(&path).unwrap();
    assert_eq!(whole.len(), 8 + 8 * 28);
    fs::write(&path, &whole[..8 + 5 * 28 + 11]).unwrap();
    assert_eq!((run(&[]), scores(&project)), (3, first.clone()));
    assert_eq!(fs::read(&path).unwrap(), whole);
    // Of other rows, the new ones are asked about.
    let rows = project.read("rows.jsonl");
    let changed = rows.replacen("\"labels\": [-100, -100, -100,", "\"labels\": [-100, -100, -100, ", 1);
    project.write("rows.jsonl", &changed);
    assert_eq!(run(&[]), 0, "a row that is written otherwise is the same sample");
    let mut values: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (from, to) = (values[4]["input_ids"][30].clone(), json!(77));
    assert_ne!(from, to);
    (values[4]["input_ids"][30], values[4]["labels"][30]) = (to.clone(), to);
    project.write("rows.jsonl", values.iter().map(|value| format!("{value}\n")).collect::<String>());
    assert_eq!(run(&[]), 1);
    assert_ne!(scores(&project)[4], first[4]);
    project.write("rows.jsonl", rows);
    // Another model is asked about all.
    let weights = project.path("model/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 0x40;
    fs::write(&weights, bytes).unwrap();
    assert_eq!(run(&[]), 8);
}

#[test]
fn numbers_do_not_depend_on_threads_and_batches() {
    let project = project(TOKENS, "  score: {by: perplexity}\n");
    let run = |threads: &str, more: &[&str]| {
        let mut command = project.command(&[&["curate", "host.yml"], more].concat());
        command.env("RAYON_NUM_THREADS", threads).env("HOST_NO_AMX", "1");
        let cache = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(
            fs::canonicalize(project.path(".cache/plugins")).unwrap(),
            cache.path().join("plugins"),
        )
        .unwrap();
        command.env("HOST_CACHE_DIR", cache.path());
        let outcome = crate::support::finish(command.spawn().unwrap());
        assert_eq!(outcome.status, 0, "{}", outcome.stderr);
        scores(&project)
    };
    let first = run("1", &[]);
    assert_eq!(first, run("4", &[]));
    assert_eq!(first, run("2", &["--set", "micro_batch_size=1"]));
    assert_eq!(first, run("2", &["--set", "micro_batch_size=16"]));
}

#[test]
fn rows_without_a_sample_have_no_score() {
    let project = project(TOKENS, "  score: {by: accuracy}\n");
    let told = project.success(&["curate", "host.yml", "--set", "sequence_len=32"]).stdout;
    assert!(told.contains("kept      6\nleft out  2 rows: nothing to score\n"), "{told}");
    assert_eq!(dropped(&project, "no_score"), [2, 7]);
    let line = &lines(&project.path("out/curated/dropped.jsonl"))[0];
    assert_eq!((&line["because"], line.get("score")), (&json!("it is longer than `sequence_len`"), None));
    assert_eq!(scores(&project).iter().filter(|score| score.is_none()).count(), 2);
    // Only rows that the other steps leave are asked about.
    let rows = project.read("rows.jsonl");
    let first = json!({ "text": "the same words", "input_ids": [5, 6], "labels": [5, 6] });
    project.write("rows.jsonl", format!("{first}\n{first}\n{rows}"));
    let done = event(&project.success(&["curate", "host.yml", "--json"]));
    assert_eq!((&done["dropped"]["exact_duplicate"], &done["score"]["rows"]), (&json!(1), &json!(9)));
    assert_eq!(scores(&project)[1], None);
}

#[test]
fn rows_of_several_datasets_are_scored_as_each_of_them_says() {
    let more = "    type:\n  - path: texts.jsonl\n    type: alpaca\n";
    let config = TOKENS.replace("    type:\n", more).replace("64", "256");
    let project = project(&config, "  score: {by: perplexity, prefer: high}\n  keep: 5\n");
    project.success(&["curate", "host.yml"]);
    let all = scores(&project);
    near(&all[..8], &expected("perplexity"));
    assert!(all.len() == 14 && all[8..].iter().all(Option::is_some), "{all:?}");
    let rows = |file: &str| project.read(&format!("out/curated/{file}")).lines().count();
    assert_eq!(rows("kept-0.jsonl") + rows("kept-1.jsonl"), 5);
    // Learned as a whole and cut in pieces: one score for all of them.
    let long = json!({ "text": "one two three ".repeat(40) });
    project.write("long.jsonl", format!("{long}\n"));
    let config = TOKENS.replace("rows.jsonl", "long.jsonl").replace("type:", "type: completion");
    project.write("host.yml", format!("{config}curation: {{score: {{by: accuracy}}}}\n"));
    project.success(&["curate", "host.yml"]);
    assert!(matches!(scores(&project)[..], [Some(_)]), "{:?}", scores(&project));
}

#[test]
fn words_need_no_model() {
    let project = texts("  score: {by: words, prefer: high}\n  keep: 2\n");
    fs::remove_file(project.path("model/model.safetensors")).unwrap();
    project.success(&["curate", "host.yml"]);
    let words = [8.0, 21.0, 12.0, 11.0, 11.0];
    let found: Vec<f64> = scores(&project).into_iter().map(Option::unwrap).collect();
    assert_eq!(found[..5], words);
    assert!(!project.path(".cache/scores").exists());
    assert!(!dropped(&project, "score").contains(&1));
}

#[test]
fn wrong_scores_are_told_at_their_place() {
    let project = project(TOKENS, "");
    for (curation, wanted) in [
        ("score: {by: perplexity, prefer: low}", "`prefer` chooses nothing without `curation.keep`"),
        ("score: {by: perplexity}\n  keep: 3", "does not say which"),
        ("score: {prefer: low}\n  keep: 3", "`curation.score.by` is missing"),
        ("score: {by: perplexety}", "did you mean `perplexity`?"),
        ("score: {by: perplexity, prefer: lowest}\n  keep: 3", "write `low`, `high` or `spread`"),
        ("score: {by: words, like: [targets.jsonl]}", "`like` means nothing with `by: words`"),
        ("score: {by: similarity, prompt: '{{ row }}', like: [targets.jsonl]}", "`prompt` means nothing"),
        ("score: {by: judge, prompt: Good?}", "the prompt has no `{{ row }}`"),
        ("score: {by: similarity}", "`curation.score.like` is missing"),
        ("score: {by: similarity, like: [none.jsonl]}", "there is no file or directory `none.jsonl`"),
        ("score: {by: perplexity, threshold: 3}", "unknown key `curation.score.threshold`"),
        ("score: {by: perplexity}\nreinit_weights: true", "`reinit_weights` leaves nothing of it"),
        ("score: {by: accuracy}\nrl: dpo", "not with `rl`"),
        ("score: {by: judge}\nreward_model: true", "not with `reward_model`"),
    ] {
        project.write("host.yml", format!("{TOKENS}curation:\n  {curation}\n"));
        for command in ["check", "curate"] {
            let messages = project.failure(&[command, "host.yml"]);
            assert!(messages.contains(wanted) && messages.contains("host.yml:11:"), "{curation}\n{messages}");
        }
    }
    assert!(!project.path("out").exists());
}

#[test]
fn a_bad_row_is_told() {
    let project = project(TOKENS, "  score: {by: perplexity}\n");
    let rows = project.read("rows.jsonl");
    project.write("rows.jsonl", format!("{rows}{}\n", json!({ "input_ids": [3, 4], "labels": [3] })));
    let messages = project.failure(&["curate", "host.yml"]);
    assert!(messages.contains("`labels` has 1 numbers") && messages.contains("rows.jsonl"), "{messages}");
    assert!(!Path::new(&project.path("out/curated")).exists());
}
