//! Which rows of a dataset are read, and from what.

use serde_json::Value;

use crate::support::{CONFIG, Project, root};

/// Positions of the rows that a config of this entry of `datasets` trains on.
fn positions(project: &Project, entry: &str) -> Vec<String> {
    project.write("host.yml", CONFIG.replace("path: train.jsonl", entry));
    let outcome = project.success(&["preprocess", "host.yml", "--json", "--show", "1000"]);
    let lines = outcome.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let position = |line: Value| (line["event"] == "sample").then(|| line["position"].as_str().unwrap().to_owned());
    lines.filter_map(position).map(|position| position.replace("train.jsonl, ", "")).collect()
}

fn lines(range: std::ops::RangeInclusive<u32>) -> Vec<String> {
    range.map(|line| format!("line {line}")).collect()
}

#[test]
fn slices_are_those_of_datasets() {
    let project = Project::new();
    for (split, wanted) in [
        ("train", lines(1..=48)),
        ("train[:10%]", lines(1..=5)),
        ("train[10:20]", lines(11..=20)),
        ("train[-10%:]", lines(44..=48)),
        ("train[:3] + train[-1:]", [lines(1..=3), lines(48..=48)].concat()),
    ] {
        let entry = format!("path: train.jsonl\n    split: {split}");
        assert_eq!(positions(&project, &entry), wanted, "{split}");
    }
}

#[test]
fn rows_behind_a_slice_are_not_looked_at() {
    let project = Project::new();
    project.write("train.jsonl", project.read("train.jsonl") + "broken\n");
    assert_eq!(positions(&project, "path: train.jsonl\n    split: train[:48]"), lines(1..=48));
}

#[test]
fn a_slice_that_cannot_be_had_is_told() {
    let told = |split: &str| {
        Project::new().train_failure(|config| {
            format!("{}\n", config.replace("type: alpaca", &format!("type: alpaca\n    split: {split}")))
        })
    };
    insta::assert_snapshot!(told("train[100:200]"));
    insta::assert_snapshot!(told("train[:1%]"));
    insta::assert_snapshot!(told("train[1%]"));
    let project = Project::new();
    project.write("host.yml", CONFIG.replace("type: alpaca", "type: alpaca\n    split: train[40:100]"));
    let outcome = project.success(&["train", "host.yml", "--dry-run"]);
    let warning = outcome.stderr.find("warning").unwrap();
    insta::assert_snapshot!(outcome.stderr[warning..].split("\n\n").next().unwrap());
}

#[test]
fn shards_are_all_rows_once_and_the_same_ones_again() {
    let project = Project::new();
    let shard = |index| positions(&project, &format!("path: train.jsonl\n    shards: 5\n    shards_idx: {index}"));
    let mut all: Vec<String> = (0..5).flat_map(shard).collect();
    assert_eq!([0, 1, 2, 3, 4].map(|index| shard(index).len()), [10, 10, 10, 9, 9]);
    assert_eq!(shard(3), shard(3));
    all.sort_unstable();
    let mut wanted = lines(1..=48);
    wanted.sort_unstable();
    assert_eq!(all, wanted);
    project.write("host.yml", CONFIG.replace("type: alpaca", "type: alpaca\n    shards: 5\n    shards_idx: 5"));
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
}

/// Losses of steps of a run with these entries of `datasets`, its rows in their order.
fn losses(project: &Project, entries: &str, more: &str) -> Vec<f64> {
    let datasets = CONFIG.replace("  - path: train.jsonl\n    type: alpaca\n", entries);
    let rest = "logging_steps: 1\nshuffle_merged_datasets: false\n";
    project.write("host.yml", format!("{}{rest}{more}", datasets.replace("max_steps: 4\n", "")));
    project.success(&["train", "host.yml", "--overwrite"]);
    let metrics = project.read("out/metrics.jsonl");
    let of = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64();
    metrics.lines().filter_map(of).collect()
}

#[test]
fn a_weight_is_how_often_rows_are_seen_in_an_epoch() {
    let project = Project::new();
    let all = project.read("train.jsonl");
    let (first, second) = all.split_at(all.lines().take(6).map(|line| line.len() + 1).sum());
    let second: String = second.lines().take(12).map(|line| format!("{line}\n")).collect();
    project.write("a.jsonl", first);
    project.write("b.jsonl", &second);
    project.write("twice.jsonl", format!("{first}{first}{second}"));
    let weighted = "  - path: a.jsonl\n    type: alpaca\n    weight: 2\n  - path: b.jsonl\n    type: alpaca\n";
    let twice = losses(&project, "  - path: twice.jsonl\n    type: alpaca\n", "");
    assert_eq!(twice.len(), 6);
    assert_eq!(losses(&project, weighted, ""), twice);
    // Another third each epoch: after three of them every row was seen.
    let third = weighted.replace("weight: 2", "weight: 0.3333");
    assert_eq!(losses(&project, &third, "num_epochs: 3\n").len(), 4 * 3);
    insta::assert_snapshot!(
        project.success(&["train", "host.yml", "--dry-run"]).stderr.split("memory").next().unwrap()
    );
}

#[test]
fn a_weight_that_means_nothing_is_told() {
    let project = Project::new();
    let tested = "test_datasets:\n  - path: eval.jsonl\n    type: alpaca\n    weight: 2\n";
    project.write("host.yml", format!("{}{tested}", CONFIG.replace("type: alpaca", "type: alpaca\n    weight: 0")));
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
    project.write("host.yml", CONFIG.replace("type: alpaca", "type: alpaca\n    weight: 0.5") + "save_steps: 2\n");
    project.success(&["train", "host.yml"]);
    let other = ["--set", "datasets[0].weight=2", "--set", "max_steps=6"];
    insta::assert_snapshot!(
        project.failure(&[&["train", "host.yml", "--resume", "out/checkpoint-2"], &other[..]].concat())
    );
}

#[test]
fn packed_files_are_read_as_what_they_hold() {
    let project = Project::new();
    let fixtures = root().join("tests/fixtures/loaders");
    let plain = positions(&project, "path: train.jsonl\n    split: train[:3]");
    for name in ["rows.jsonl.gz", "rows.jsonl.zst"] {
        std::fs::copy(fixtures.join(name), project.path(name)).unwrap();
        let found = positions(&project, &format!("path: {name}"));
        assert_eq!(found.len(), 3);
        assert_eq!(found.iter().map(|position| position.replace(&format!("{name}, "), "")).collect::<Vec<_>>(), plain);
    }
    let whole = std::fs::read(fixtures.join("rows.jsonl.gz")).unwrap();
    project.write("short.jsonl.gz", &whole[..whole.len() / 2]);
    insta::assert_snapshot!(project.train_failure(|config| config.replace("train.jsonl", "short.jsonl.gz")));
    std::fs::copy(fixtures.join("bomb.jsonl.zst"), project.path("bomb.jsonl.zst")).unwrap();
    insta::assert_snapshot!(project.train_failure(|config| config.replace("train.jsonl", "bomb.jsonl.zst")));
}

#[test]
fn files_of_a_directory_are_chosen_by_split_and_by_name() {
    let project = Project::new();
    std::fs::create_dir_all(project.path("dd/more")).unwrap();
    let row = "{\"instruction\": \"Say hi.\", \"output\": \"hi\"}\n";
    for (name, rows) in [("train-0.jsonl", 2), ("train-1.jsonl", 1), ("more/test.jsonl", 3), ("validation.jsonl", 1)] {
        project.write(&format!("dd/{name}"), row.repeat(rows));
    }
    let of = |more: &str| -> Vec<String> {
        let found = positions(&project, &format!("path: dd\n    {more}"));
        found.into_iter().map(|position| position.replace("dd, ", "")).collect()
    };
    assert_eq!(of("split: train"), ["train-0.jsonl line 1", "train-0.jsonl line 2", "train-1.jsonl line 1"]);
    assert_eq!(of("split: test[1:]"), ["more/test.jsonl line 2", "more/test.jsonl line 3"]);
    assert_eq!(of("split: train[-1:] + validation"), ["train-1.jsonl line 1", "validation.jsonl line 1"]);
    assert_eq!(
        of("data_files: ['*-1.jsonl', dd/validation.jsonl]"),
        ["train-1.jsonl line 1", "validation.jsonl line 1"]
    );
    let told = |more: &str| {
        project.write("host.yml", CONFIG.replace("path: train.jsonl", &format!("path: {more}")));
        project.failure(&["check", "host.yml"])
    };
    insta::assert_snapshot!(told("dd\n    split: dev2"));
    insta::assert_snapshot!(told("dd\n    data_files: [train-0.jsonl, 'x*']"));
    insta::assert_snapshot!(told("train.jsonl\n    split: test"));
}

#[test]
fn tables_in_text_are_rows() {
    let project = Project::new();
    project.write("d.csv", "instruction,input,output\nSay hi.,,hi\n\"Say \"\"ho\"\",\nloud.\",,007\n");
    assert_eq!(positions(&project, "path: d.csv"), ["d.csv, line 2", "d.csv, line 3"]);
    let outcome = project.success(&["preprocess", "host.yml", "--json", "--show", "9"]);
    assert!(outcome.stdout.contains("Say \\\"ho\\\",\\nloud.") && outcome.stdout.contains("007"), "{}", outcome.stdout);
    project.write("d.tsv", "instruction\toutput\nSay, hi.\thi\n");
    assert_eq!(positions(&project, "path: d.tsv"), ["d.tsv, line 2"]);
    project.write("d.dat", "instruction;output\nSay, hi.;hi\n");
    let entry = "path: d.dat\n    ds_type: {name: csv, config: {delimiter: ';'}}";
    assert_eq!(positions(&project, entry), ["d.dat, line 2"]);
    project.write("open.csv", "instruction,output\nSay hi.,hi\nx,\"y\nSay hi.,hi\n");
    insta::assert_snapshot!(project.train_failure(|config| config.replace("train.jsonl", "open.csv")));
    project.write("short.csv", "instruction,output\nSay hi.\nx,y,z\n");
    insta::assert_snapshot!(project.train_failure(|config| config.replace("train.jsonl", "short.csv")));
}

#[test]
fn lines_of_text_are_rows() {
    let project = Project::new();
    project.write("d.txt", "once upon a time\nthere was a line\n");
    project.write(
        "host.yml",
        CONFIG.replace("path: train.jsonl", "path: d.txt").replace("type: alpaca", "type: completion"),
    );
    let outcome = project.success(&["preprocess", "host.yml", "--json", "--show", "9"]);
    assert_eq!(outcome.stdout.matches("\"position\":\"d.txt, line ").count(), 2, "{}", outcome.stdout);
}

#[test]
fn parquet_files_are_rows() {
    let project = Project::new();
    let copy = |name: &str, to: &str| {
        std::fs::copy(root().join("tests/fixtures/loaders").join(name), project.path(to)).unwrap();
    };
    copy("alpaca.parquet", "d.parquet");
    let all: Vec<String> = (1..=6).map(|row| format!("d.parquet, row group 1, row {row}")).collect();
    assert_eq!(positions(&project, "path: d.parquet"), all);
    assert_eq!(positions(&project, "path: d.parquet\n    split: train[-2:]"), all[4..]);
    assert_eq!(
        positions(&project, "path: d.parquet\n    ds_type: {name: parquet, config: {columns: [instruction, output]}}"),
        all
    );
    let shown = project.success(&["preprocess", "host.yml", "--json", "--show", "9"]).stdout;
    assert!(shown.contains("Say rows 5.") && shown.contains("rows 0"), "{shown}");
    std::fs::create_dir(project.path("dd")).unwrap();
    copy("alpaca.parquet", "dd/train-00000-of-00002.parquet");
    copy("alpaca.parquet", "dd/train-00001-of-00002.parquet");
    copy("alpaca.parquet", "dd/test-00000-of-00001.parquet");
    assert_eq!(positions(&project, "path: dd").len(), 12);
    assert_eq!(positions(&project, "path: dd\n    split: train + test[:1]").len(), 13);
    copy("nested.parquet", "dd/train-00001-of-00002.parquet");
    let told = |path: &str| project.train_failure(|config| config.replace("train.jsonl", path));
    insta::assert_snapshot!(told("dd"));
    let whole = std::fs::read(project.path("d.parquet")).unwrap();
    project.write("short.parquet", &whole[..whole.len() - 100]);
    insta::assert_snapshot!(told("short.parquet"));
    let mut broken = whole;
    broken[40] ^= 0xff;
    broken[41] ^= 0xff;
    project.write("broken.parquet", broken);
    insta::assert_snapshot!(told("broken.parquet"));
    copy("brotli.parquet", "brotli.parquet");
    insta::assert_snapshot!(told("brotli.parquet"));
}

#[test]
fn what_save_to_disk_wrote_is_rows() {
    let project = Project::new();
    std::os::unix::fs::symlink(
        root().canonicalize().unwrap().join("tests/fixtures/loaders/saved"),
        project.path("saved"),
    )
    .unwrap();
    let rows = |split: &str, file: &str, rows: std::ops::RangeInclusive<u32>| -> Vec<String> {
        rows.map(|row| format!("saved, {split}/data-{file}.arrow row {row}")).collect()
    };
    let train = [rows("train", "00000-of-00002", 1..=3), rows("train", "00001-of-00002", 1..=2)].concat();
    assert_eq!(positions(&project, "path: saved"), train);
    assert_eq!(positions(&project, "path: saved\n    split: test[1:]"), rows("test", "00000-of-00001", 2..=3));
    let shown = project.success(&["preprocess", "host.yml", "--json", "--show", "9"]).stdout;
    assert!(shown.contains("Say test 2."), "{shown}");
}
