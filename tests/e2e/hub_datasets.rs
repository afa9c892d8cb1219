//! Datasets by their names on the hub: which of their files are fetched, when, and what is said where there are none.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use crate::hub::{failure, run};
use crate::hub_server::{COMMIT, Reply, Repositories, Server};
use crate::support::{CONFIG, Project};

const CARD: &str = "\
---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.jsonl
  - split: test
    path: data/test.jsonl
- config_name: small
  data_files: 'small/**'
---
# Sentences
";

/// The config of a project whose data is on a hub alone, with more keys of its dataset.
fn config(keys: &str) -> String {
    CONFIG.replace("path: train.jsonl", &format!("path: org/data{keys}"))
}

fn project(keys: &str) -> Project {
    let project = Project::new();
    project.write("host.yml", config(keys));
    project
}

/// Rows of the quickstart from `start` on.
fn rows(start: usize, count: usize) -> Vec<u8> {
    let text = fs::read_to_string(crate::support::root().join("configs/quickstart/train.jsonl")).unwrap();
    text.lines().skip(start).take(count).map(|line| format!("{line}\n")).collect::<String>().into_bytes()
}

/// A dataset of two configs, with files that nobody may fetch.
fn files(card: &str) -> BTreeMap<String, Vec<u8>> {
    [
        ("README.md", card.as_bytes().to_vec()),
        ("convert.py", b"print('hello')".to_vec()),
        ("data/cache.pkl", vec![0; 100]),
        ("data/test.jsonl", rows(500, 10)),
        ("data/train-0.jsonl", rows(0, 40)),
        ("data/train-1.jsonl", rows(40, 40)),
        ("small/a[1].jsonl", rows(80, 20)),
        ("small/a1.jsonl", rows(100, 20)),
    ]
    .map(|(name, content)| (name.to_owned(), content))
    .into()
}

fn serve(files: BTreeMap<String, Vec<u8>>) -> Server {
    let all = Repositories::default().with("datasets/org/data", files);
    Server::new(move |request| all.answer(request, None))
}

/// What was fetched as a whole, by name.
fn fetched(server: &Server) -> Vec<String> {
    let whole = server.requests().into_iter().filter(|request| request.range().is_none());
    let mut names: Vec<String> = whole
        .filter_map(|request| Some(request.path.split_once(&format!("/resolve/{COMMIT}/"))?.1.to_owned()))
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn a_check_reads_the_card_and_a_run_brings_the_files_of_its_split() {
    let (project, server) = (project(""), serve(files(CARD)));
    let checked = run(&project, &server, &["check", "host.yml"]);
    assert_eq!(checked.status, 0, "{}", checked.stderr);
    assert!(
        checked.stderr.contains("note[hub::data]: rows of `org/data` are not looked at: 2 files"),
        "{}",
        checked.stderr
    );
    assert_eq!(fetched(&server), ["README.md"]);

    let trained = run(&project, &server, &["train", "host.yml"]);
    assert_eq!(trained.status, 0, "{}", trained.stderr);
    assert_eq!(fetched(&server), ["README.md", "data/train-0.jsonl", "data/train-1.jsonl"]);
    let record: Value = serde_json::from_str(&project.read("out/run.json")).unwrap();
    let pin = serde_json::json!({"key": "datasets[0].path", "name": "org/data", "revision": "main", "commit": COMMIT});
    assert_eq!(record["hub"], serde_json::json!([pin]));
    let folder = project.path(".hf/hub/datasets--org--data");
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), COMMIT);
    assert!(folder.join("snapshots").join(COMMIT).join("data/train-0.jsonl").is_symlink());

    // The same rows from a file give the same weights, and what is here needs no network.
    project.success(&["train", "host.yml", "--set", "output_dir=again"]);
    project.write("train.jsonl", rows(0, 80));
    project.write("local.yml", CONFIG);
    project.success(&["train", "local.yml", "--set", "output_dir=local"]);
    let weights = |output: &str| fs::read(project.path(output).join("model.safetensors")).unwrap();
    assert_eq!(weights("again"), weights("out"));
    assert_eq!(weights("local"), weights("out"));
    project.success(&["preprocess", "host.yml", "--set", "datasets[0].split=train[:10]"]);
    let commit = format!("datasets[0].revision={COMMIT}");
    let before = server.requests().len();
    assert_eq!(run(&project, &server, &["check", "host.yml", "--set", &commit]).status, 0);
    assert_eq!(server.requests().len(), before, "a commit is asked for by nobody");

    // What is not here is not taken for what there is.
    let messages = project.failure(&["check", "host.yml", "--set", "datasets[0].split=test"]);
    insta::assert_snapshot!(messages);
}

#[test]
fn a_config_and_a_slice_of_it_are_read_by_name() {
    let (project, server) = (project("\n    name: small\n    split: train[30:]"), serve(files(CARD)));
    let shown = run(&project, &server, &["preprocess", "host.yml", "--show", "20", "--json"]);
    assert_eq!(shown.status, 0, "{}", shown.stderr);
    assert_eq!(fetched(&server), ["README.md", "small/a1.jsonl", "small/a[1].jsonl"]);
    // Rows 30 and on of both are the last ten of the second, in the order of names.
    assert!(shown.stdout.contains("\"rows\":10,"), "{}", shown.stdout);
    let first = String::from_utf8(rows(90, 1)).unwrap();
    let first: Value = serde_json::from_str(first.trim()).unwrap();
    assert!(shown.stdout.contains(&serde_json::to_string(&first["output"]).unwrap()[1..9]), "{}", shown.stdout);
    assert!(shown.stdout.contains("a[1].jsonl line 11"), "{}", shown.stdout);

    // A plan knows the rows, so it brings them; tests have their own split.
    let tests = "test_datasets: [{path: org/data, split: test, type: alpaca}]\n";
    project.write("host.yml", config("\n    split: train[:50%]") + tests);
    let planned = run(&project, &server, &["check", "host.yml", "--plan"]);
    assert_eq!(planned.status, 0, "{}", planned.stderr);
    assert!(!planned.stderr.contains("hub::data"), "{}", planned.stderr);
    assert!(fetched(&server).contains(&"data/test.jsonl".to_owned()));
}

#[test]
fn what_a_dataset_does_not_have_is_said() {
    let said = |keys: &str, files: BTreeMap<String, Vec<u8>>| {
        let project = project(keys);
        failure(&project, &serve(files), &["check", "host.yml"])
    };
    insta::assert_snapshot!("no_config", said("\n    name: smal", files(CARD)));
    insta::assert_snapshot!("several_configs", said("", files(&CARD.replace("default", "large"))));
    insta::assert_snapshot!("no_split", said("\n    split: validation", files(CARD)));
    insta::assert_snapshot!(
        "pattern",
        said(
            "",
            files(
                &CARD
                    .replace("data/test", "data/../../test")
                    .replace("split: test", "split: x")
                    .replace("split: train\n    path: data/train-*", "split: train\n    path: ../../../*")
            )
        )
    );
    insta::assert_snapshot!("bad_card", said("", files(&CARD.replace("- config_name: small", "- [\n"))));
    insta::assert_snapshot!("no_file", said("\n    data_files: [data/train-2.jsonl]", files(CARD)));
    let script = BTreeMap::from([
        ("README.md".to_owned(), b"# A script".to_vec()),
        ("data.py".to_owned(), b"import os".to_vec()),
    ]);
    insta::assert_snapshot!("script", said("", script));
    let pickle = BTreeMap::from([("rows.pkl".to_owned(), vec![0; 10]), ("rows.csv.xz".to_owned(), vec![0; 10])]);
    insta::assert_snapshot!("no_rows", said("", pickle));
}

#[test]
fn a_dataset_that_cannot_be_had_is_said() {
    let all = Repositories::default().with("datasets/org/data", files(CARD));
    let server = Server::new(move |request| {
        let is_data = request.path.contains("/resolve/") && request.path.contains("/data/");
        if is_data { Reply::new(401, "").header("x-error-code", "GatedRepo") } else { all.answer(request, None) }
    });
    insta::assert_snapshot!("gated_dataset", failure(&project(""), &server, &["check", "host.yml"]));
    let said = |reply: Reply| {
        let server = Server::new(move |_| reply.clone());
        failure(&project(""), &server, &["check", "host.yml"])
    };
    insta::assert_snapshot!("no_dataset", said(Reply::new(404, "").header("x-error-code", "RepoNotFound")));
    insta::assert_snapshot!("too_many", said(Reply::new(429, "").header("retry-after", 100_000)));
    let offline = project("").host(&["check", "host.yml"]);
    assert_eq!(offline.status, 1);
    insta::assert_snapshot!("dataset_offline", offline.stderr);
}

#[test]
fn files_of_several_formats_are_read_by_the_loader_of_most() {
    let mut files = files("# No configs");
    files.retain(|name, _| name.starts_with("data/train"));
    files.insert("data/train.csv".to_owned(), b"instruction,output\na,b\n".to_vec());
    let (project, server) = (project(""), serve(files));
    let checked = run(&project, &server, &["check", "host.yml", "--plan"]);
    assert_eq!(checked.status, 0, "{}", checked.stderr);
    assert!(
        checked.stderr.contains("warning[hub::left-out]: of `org/data`, 1 file is not read: `data/train.csv`"),
        "{}",
        checked.stderr
    );
    assert_eq!(fetched(&server), ["data/train-0.jsonl", "data/train-1.jsonl"]);
    let csv = run(&project, &server, &["check", "host.yml", "--plan", "--set", "datasets[0].ds_type=csv"]);
    assert_eq!(csv.status, 0, "{}", csv.stderr);
    assert!(fetched(&server).contains(&"data/train.csv".to_owned()));
}

#[test]
fn the_branch_of_converted_files_has_configs_and_splits_as_folders() {
    let files = BTreeMap::from([
        ("en/train/0000.jsonl".to_owned(), rows(0, 20)),
        ("de/train/0000.jsonl".to_owned(), rows(20, 20)),
        ("de/test/0000.jsonl".to_owned(), rows(40, 20)),
    ]);
    let (project, server) = (project("\n    revision: refs/convert/parquet\n    name: de"), serve(files));
    let planned = run(&project, &server, &["check", "host.yml", "--plan"]);
    assert_eq!(planned.status, 0, "{}", planned.stderr);
    assert_eq!(fetched(&server), ["de/train/0000.jsonl"]);
}

#[test]
fn keys_of_the_hub_have_no_effect_beside_a_path() {
    let project = Project::new();
    let set = ["check", "host.yml", "--set", "datasets[0].revision=v1", "--set", "datasets[0].name=en"];
    let checked = project.success(&set);
    assert!(
        checked.stderr.contains("warning[hub::revision]") && checked.stderr.contains("warning[hub::config]"),
        "{}",
        checked.stderr
    );
}

#[test]
fn plain_texts_of_the_hub_are_pretrained_on() {
    let files = BTreeMap::from([
        ("en/a.txt".to_owned(), b"one line\nanother line\n".repeat(20)),
        ("README.md".to_owned(), b"---\nconfigs: [{config_name: en, data_dir: en}, {config_name: de}]\n---\n".to_vec()),
    ]);
    let (project, server) = (Project::new(), serve(files));
    let texts = "pretraining_dataset:\n  - {path: org/data, name: en}\n";
    project.write("host.yml", CONFIG.replace("datasets:\n  - path: train.jsonl\n    type: alpaca\n", texts));
    let planned = run(&project, &server, &["check", "host.yml", "--plan"]);
    assert_eq!(planned.status, 0, "{}", planned.stderr);
    assert_eq!(fetched(&server), ["README.md", "en/a.txt"]);
}
