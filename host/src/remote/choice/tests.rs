//! The choice of files, held against `datasets` of Hugging Face.

use super::super::card::subsets;
use super::*;

/// What is chosen of these files, whose card has these configs. Names are sorted, as those of a listing are.
fn choose_of(files: &[&str], configs: &str, wanted: &Wanted<'_>) -> Result<Chosen, Unchosen> {
    let mut names: Vec<String> = files.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    let card = format!("---\n{configs}\n---\n");
    choose(&names, &subsets(Some(card.as_bytes()), None).unwrap(), wanted)
}

/// The files of a split without a card, and their loader.
fn plain(files: &[&str], split: &str) -> Result<(Vec<String>, &'static str), Unchosen> {
    let chosen = choose_of(files, "", &Wanted { splits: vec![split], ..Wanted::default() })?;
    Ok((chosen.splits[0].1.clone(), chosen.ds_type.unwrap()))
}

/// As `load_dataset_builder(directory).config.data_files` of datasets 5.2.0 has them for a directory of such files, but for files
/// that it has twice.
#[test]
fn files_without_a_card_are_those_of_datasets() {
    let of = |files: &[&str], split: &str, chosen: &[&str], loader: &str| {
        let found = plain(files, split).unwrap();
        assert_eq!(found, (chosen.iter().map(ToString::to_string).collect(), loader_name(loader)), "{files:?}");
    };
    of(&["train.csv"], "train", &["train.csv"], "csv");
    of(&["a.jsonl", "b.jsonl"], "train", &["a.jsonl", "b.jsonl"], "json");
    of(&["a.jsonl", "b.csv"], "train", &["a.jsonl"], "json");
    of(&["a.jsonl", "b.csv", "c.csv"], "train", &["b.csv", "c.csv"], "csv");
    of(&["train.csv", "test/b.csv"], "test", &["test/b.csv"], "csv");
    let four = ["train.csv", "valid.csv", "test.csv", "other.csv"];
    of(&four, "train", &["train.csv"], "csv");
    of(&four, "validation", &["valid.csv"], "csv");
    of(&four, "test", &["test.csv"], "csv");
    let shards = [
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
        "data/gen-00000-of-00001.parquet",
        "x.parquet",
    ];
    of(&shards, "train", &shards[..2], "parquet");
    of(&shards, "gen", &shards[2..3], "parquet");
    of(&["my-train/train/x.csv"], "train", &["my-train/train/x.csv"], "csv");
    of(&["train-train-0.csv"], "train", &["train-train-0.csv"], "csv");
    of(&["a.csv", "b.json", "c.csv.gz"], "train", &["a.csv", "c.csv.gz"], "csv");
    of(&["x.csv.gz"], "train", &["x.csv.gz"], "csv");
    of(&[".hidden/train.jsonl", "a.jsonl", "__pycache__/x.jsonl"], "train", &["a.jsonl"], "json");
    of(&["state.json", "data-0.arrow", "dataset_info.json"], "train", &["data-0.arrow"], "arrow");
    of(&["a.py", "name.jsonl"], "train", &["name.jsonl"], "json");
    of(&["Train.jsonl", "x.jsonl"], "train", &["Train.jsonl", "x.jsonl"], "json");
    of(&["x10.json", "x2.json", "X1.json"], "train", &["X1.json", "x10.json", "x2.json"], "json");
    of(&["a.ndjson", "b.txt"], "train", &["b.txt"], "text");
}

fn loader_name(name: &str) -> &'static str {
    FORMATS.iter().find(|(_, loader)| *loader == name).unwrap().1
}

/// Files that `datasets` 5.2.0 has no split or no rows in either.
#[test]
fn what_files_do_not_have_is_told() {
    let no_split = |files: &[&str], split: &str| match plain(files, split).unwrap_err() {
        Unchosen::NoSplit { there, .. } => there,
        other => panic!("{other:?}"),
    };
    // Any file in a folder `test` makes folders tell of splits, a script too.
    assert_eq!(no_split(&["train.csv", "test/script.py", "README.txt"], "train"), ["test"]);
    assert_eq!(no_split(&["train.csv"], "validation"), ["train"]);
    assert_eq!(no_split(&[], "train"), [""; 0]);
    let split = "train-sft".to_owned();
    assert_eq!(plain(&["data/train-sft-00000-of-00001.parquet"], "train"), Err(Unchosen::SplitName { split }));
    let found = plain(&["data.py", "model.pkl", "rows.csv.xz"], "train");
    let there = ["data.py", "model.pkl", "rows.csv.xz"].map(ToOwned::to_owned).to_vec();
    assert_eq!(found, Err(Unchosen::NoRows { split: "train".to_owned(), there }));
}

const TWO: &str = "configs:\n- config_name: a\n  data_files: a/*\n- config_name: b\n  data_files: b/*";

/// As `load_dataset_builder(directory, name, data_files=…)` of datasets 5.2.0 chooses.
#[test]
fn configs_are_chosen_as_datasets_does() {
    let files = ["a/x.jsonl", "b/y.jsonl", "b/z.csv"];
    let of = |configs: &str, name: Option<&str>, data_files: &[&str]| {
        let data_files: Vec<String> = data_files.iter().map(ToString::to_string).collect();
        let wanted = Wanted { name, splits: vec!["train"], data_files: &data_files, loader: None };
        choose_of(&files, configs, &wanted).map(|mut chosen| chosen.splits.remove(0).1)
    };
    let there = || vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(of(TWO, Some("a"), &[]).unwrap(), ["a/x.jsonl"]);
    assert_eq!(of(TWO, None, &[]), Err(Unchosen::Which { there: there() }));
    assert_eq!(of(TWO, Some("c"), &[]), Err(Unchosen::NoSubset { name: "c".to_owned(), there: there() }));
    assert_eq!(of(TWO, None, &["b/y.jsonl"]).unwrap(), ["b/y.jsonl"]);
    assert_eq!(of(TWO, Some("a"), &["b/y.jsonl"]).unwrap(), ["b/y.jsonl"]);
    assert_eq!(of("", Some("default"), &["a/*"]).unwrap(), ["a/x.jsonl"]);
    let there = vec!["default".to_owned()];
    assert_eq!(of("", Some("a"), &[]), Err(Unchosen::NoSubset { name: "a".to_owned(), there }));
    assert_eq!(of("configs:\n- config_name: only\n  data_files: '**'", None, &[]).unwrap(), files[..2]);
    let default = format!("{TWO}\n- config_name: c\n  default: true\n  data_files: b/y.jsonl");
    assert_eq!(of(&default, None, &[]).unwrap(), ["b/y.jsonl"]);
    let (first, second) = ("c".to_owned(), "default".to_owned());
    let two = format!("{default}\n- config_name: default\n  data_files: a/*");
    assert_eq!(of(&two, None, &[]), Err(Unchosen::TwoDefaults { first, second }));
    // Names must be there, patterns need not.
    assert_eq!(of("configs:\n- config_name: d\n  data_files: [a/*, no*.jsonl]", None, &[]).unwrap(), ["a/x.jsonl"]);
    let file = "no.jsonl".to_owned();
    assert_eq!(
        of("configs:\n- config_name: d\n  data_files: [a/*, no.jsonl]", None, &[]),
        Err(Unchosen::NoFile { file })
    );
    for wrong in ["../x", "/etc/*", "**.jsonl", "https://x.co/y"] {
        let configs = format!("configs:\n- config_name: d\n  data_files: '{wrong}'");
        assert!(matches!(of(&configs, None, &[]), Err(Unchosen::Pattern { .. })), "{wrong}");
    }
}

#[test]
fn a_folder_of_a_config_is_where_its_patterns_start() {
    let files = ["a/x.jsonl", "b/train.jsonl", "b/test.jsonl", "b/q/r.jsonl"];
    let configs = "configs:\n- config_name: a\n  data_dir: b\n- config_name: b\n  data_dir: ./b/\n  data_files: [{split: v, path: q/*}]";
    let of = |name: &str, split: &str| {
        let wanted = Wanted { name: Some(name), splits: vec![split], ..Wanted::default() };
        choose_of(&files, configs, &wanted).map(|mut chosen| chosen.splits.remove(0).1)
    };
    assert_eq!(of("a", "train").unwrap(), ["b/train.jsonl"]);
    assert_eq!(of("a", "test").unwrap(), ["b/test.jsonl"]);
    assert_eq!(of("b", "v").unwrap(), ["b/q/r.jsonl"]);
    assert!(matches!(of("b", "train"), Err(Unchosen::NoSplit { there, .. }) if there == ["v"]));
}

#[test]
fn a_loader_that_is_named_gets_its_files() {
    let files = ["a.csv", "b.tsv", "c.json", "d.csv", "e.py", "f.pkl", "g.xyz", "h.jsonl.zst"];
    let of = |loader: &str| {
        let wanted = Wanted { splits: vec!["train"], loader: Some(loader), ..Wanted::default() };
        let chosen = choose_of(&files, "", &wanted).unwrap();
        (chosen.splits[0].1.clone(), chosen.left_out)
    };
    assert_eq!(of("csv").0, ["a.csv", "b.tsv", "d.csv"]);
    assert_eq!(of("csv").1, ["c.json", "h.jsonl.zst"]);
    assert_eq!(of("jsonl").0, ["c.json", "h.jsonl.zst"]);
    assert_eq!(of("acme:rows").0, ["a.csv", "b.tsv", "c.json", "d.csv", "g.xyz", "h.jsonl.zst"]);
}

#[test]
fn splits_of_one_entry_have_one_loader() {
    let files = ["train.csv", "test.csv", "test.json", "validation.json"];
    let wanted = Wanted { splits: vec!["train", "test"], ..Wanted::default() };
    let chosen = choose_of(&files, "", &wanted).unwrap();
    assert_eq!((chosen.ds_type, chosen.left_out), (Some("csv"), vec!["test.json".to_owned()]));
    let wanted = Wanted { splits: vec!["train", "validation"], ..Wanted::default() };
    assert!(matches!(choose_of(&files, "", &wanted), Err(Unchosen::NoRows { split, .. }) if split == "train"));
}

/// The hub names them `CONFIG/SPLIT/0000.parquet`, and `partial-SPLIT` what is the first part of a large one.
#[test]
fn converted_files_are_of_the_config_and_the_split_that_their_folders_name() {
    let names = ["a[b]/test/0000.parquet", "a[b]/train/0000.parquet", "big/partial-train/0000.parquet", "x.parquet"];
    let names = names.map(ToOwned::to_owned);
    let subsets = converted(&names);
    let of = |name| {
        let wanted = Wanted { name: Some(name), splits: vec!["train"], ..Wanted::default() };
        choose(&names, &subsets, &wanted).unwrap().splits.remove(0).1
    };
    assert_eq!((of("a[b]"), of("big")), (vec![names[1].clone()], vec![names[2].clone()]));
    assert!(is_partial(&names[2]) && !is_partial(&names[1]));
}

#[test]
fn there_are_limits() {
    let many: Vec<String> = (0..5000).map(|index| format!("{index:05}.json")).collect();
    let wanted = Wanted { splits: vec!["train"], ..Wanted::default() };
    assert!(matches!(choose(&many, &[], &wanted), Err(Unchosen::TooMany { what: "files", .. })));
    let patterns: Vec<String> = (0..300).map(|index| format!("*{index}")).collect();
    let wanted = Wanted { splits: vec!["train"], data_files: &patterns, ..Wanted::default() };
    assert!(matches!(choose(&many, &[], &wanted), Err(Unchosen::TooMany { what: "patterns", .. })));
}

/// A listing may have so many.
#[test]
fn many_splits_and_long_names_take_no_time() {
    let start = std::time::Instant::now();
    let shards: Vec<String> = (0..150_000).map(|split| format!("data/s{split:06}-00000-of-00001.csv")).collect();
    let wanted = Wanted { splits: vec!["s000003"], ..Wanted::default() };
    assert_eq!(choose(&shards, &[], &wanted).unwrap().splits[0].1, [shards[3].as_str()]);
    let folders: Vec<String> = (0..150_000).map(|split| format!("a/s{split:06}/0000.parquet")).collect();
    assert_eq!(converted(&folders)[0].data_files.as_ref().unwrap().len(), 150_000);
    let long: Vec<String> = (0..150_000).map(|number| format!("{number:06}{}", "ab".repeat(60))).collect();
    let patterns: Vec<String> = (0..200).map(|number| format!("*.{number}")).collect();
    let wanted = Wanted { splits: vec!["train"], data_files: &patterns, ..Wanted::default() };
    assert!(matches!(choose(&long, &[], &wanted), Err(Unchosen::TooMany { limit: COMPARED, .. })));
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}
