//! The files of a directory: which hold the rows that are meant, and which are passed over and why.

use std::collections::{BTreeMap, BTreeSet};

use fast_glob::glob_match;
use plugin_sdk::Error;

use crate::{Selection, data_file_path};

/// JSON files that describe a dataset: of the Hugging Face hub, and of `datasets`' own format.
const METADATA: [&str; 4] = ["dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"];
/// Files that a message names; the others are counted.
const NAMED: usize = 8;
/// The split whose rows are read if none is named.
const TRAIN: &str = "train";
/// Words in a path that tell of a split, as `datasets` has them.
const SPLITS: [(&str, &[&str]); 3] = [
    (TRAIN, &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];
/// What a file with rows may be packed as.
const PACKED: [&str; 2] = ["gz", "zst"];

/// The files of a directory.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Listed {
    /// Those with the rows that are meant, in their order.
    pub(crate) data: Vec<String>,
    /// JSON files without rows.
    metadata: Vec<String>,
    /// Files of another split.
    other_split: Vec<String>,
    /// Everything else.
    others: Vec<String>,
    split: String,
    extensions: &'static [&'static str],
}

impl Listed {
    /// Of all files of a directory, those with one of these extensions in the split or of the names that are wanted.
    pub(crate) fn of(
        names: Vec<String>,
        extensions: &'static [&'static str],
        wanted: &Selection,
        directory: &str,
    ) -> Result<Self, Error> {
        let split = wanted.split.clone().unwrap_or_else(|| TRAIN.to_owned());
        let mut listed = Self { split, extensions, ..Self::default() };
        if !wanted.data_files.0.is_empty() {
            listed.data = named_files(&names, wanted, directory)?;
            return Ok(listed);
        }
        let is_saved = |name: &str| {
            let folder = &name[..name.len() - file_name(name).len()];
            names.iter().any(|other| other.strip_prefix(folder) == Some("state.json"))
        };
        for name in &names {
            // Beside data that `save_to_disk` wrote, `map` keeps what it made of it.
            let is_cache = file_name(name).starts_with("cache-") && extension(name) == "arrow" && is_saved(name);
            let name = name.clone();
            if is_cache {
                listed.others.push(name);
            } else if METADATA.contains(&file_name(&name)) {
                listed.metadata.push(name);
            } else if extensions.contains(&extension(&name).as_str()) {
                listed.data.push(name);
            } else {
                listed.others.push(name);
            }
        }
        listed.choose(directory)?;
        Ok(listed)
    }

    /// Keeps the files of the split that is wanted: rows that are to be held out must not be trained on.
    fn choose(&mut self, directory: &str) -> Result<(), Error> {
        let splits: Vec<Option<&str>> = self.data.iter().map(|name| split_of(name)).collect();
        let has = |split: &str| splits.contains(&Some(split));
        let wanted = self.split.clone();
        let is_wanted = |name: &str| match split_of(name) {
            _ if wanted == TRAIN && !has(TRAIN) => true,
            Some(split) => split == wanted,
            None if wanted == TRAIN => true,
            None => words(name).any(|word| word == wanted),
        };
        let data = std::mem::take(&mut self.data);
        let (chosen, other): (Vec<_>, Vec<_>) = data.into_iter().partition(|name| is_wanted(name));
        if chosen.is_empty() && !other.is_empty() {
            let found: Vec<String> =
                SPLITS.iter().filter(|(split, _)| has(split)).map(|(split, _)| format!("`{split}`")).collect();
            let has = if found.is_empty() {
                format!("all its files are of `{TRAIN}`: no name says otherwise")
            } else {
                format!("by the names of its files there are {}", found.join(", "))
            };
            return Err(Error::config("split", format!("`{directory}` has no split `{wanted}`; {has}")));
        }
        (self.data, self.other_split) = (chosen, other);
        Ok(())
    }

    /// What is not read, in words for the user.
    pub(crate) fn passed_over(&self, directory: &str) -> Option<String> {
        let other_split = format!(" (of another split than `{}`, by their names)", self.split);
        let groups = [
            (&self.others, ""),
            (&self.metadata, " (which describe a dataset)"),
            (&self.other_split, other_split.as_str()),
        ];
        let told: Vec<String> = groups
            .iter()
            .filter(|(names, _)| !names.is_empty())
            .map(|(names, why)| format!("{}{why}", named(names)))
            .collect();
        let count = self.others.len() + self.metadata.len() + self.other_split.len();
        let files = if count == 1 { "1 file is" } else { &format!("{count} files are") };
        (count > 0)
            .then(|| format!("in `{directory}`, {files} passed over: {}; rows are in {}", told.join(", "), self.ends()))
    }

    /// Shards that are not there, where names say how many there are (`train-00000-of-00003`), in words for the user.
    pub(crate) fn incomplete(&self, directory: &str) -> Vec<String> {
        let mut shards: BTreeMap<(&str, u64, &str), BTreeSet<u64>> = BTreeMap::new();
        for name in &self.data {
            let Some((before, rest)) = name.split_once("-of-") else { continue };
            let Some((stem, index)) = before.rsplit_once('-') else { continue };
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (count, end) = rest.split_at(digits);
            if let (Ok(index), Ok(count)) = (index.parse(), count.parse()) {
                shards.entry((stem, count, end)).or_default().insert(index);
            }
        }
        let missing = shards.into_iter().filter(|((_, count, _), found)| (found.len() as u64) < *count);
        let told = |((stem, count, end), found): ((&str, u64, &str), BTreeSet<u64>)| {
            format!("`{directory}` has {} of the {count} shards `{stem}-…-of-{count:05}{end}`", found.len())
        };
        missing.map(told).collect()
    }

    /// Why a directory without rows cannot be used.
    pub(crate) fn no_data(&self, directory: &str) -> Error {
        let message = format!("`{directory}` has no file with rows ({})", self.ends());
        let all: Vec<String> = self.others.iter().chain(&self.metadata).cloned().collect();
        if all.is_empty() {
            return Error::Failed(format!("{message}; it is empty"));
        }
        let message = format!("{message}; it has {}", named(&all));
        let loader = self.others.iter().find_map(|name| loader_of(&extension(name)));
        match loader {
            Some(loader) => Error::failed_with_help(message, format!("write `ds_type: {loader}`")),
            None => Error::Failed(message),
        }
    }

    fn ends(&self) -> String {
        format!(".{}", self.extensions.join(", ."))
    }
}

/// The files that `data_files` names, in its order.
fn named_files(names: &[String], wanted: &Selection, directory: &str) -> Result<Vec<String>, Error> {
    let mut found: Vec<String> = Vec::new();
    for (index, pattern) in wanted.data_files.0.iter().enumerate() {
        // Also with the directory in front, as a path from where `path` is one.
        let inside = pattern.strip_prefix(directory.trim_end_matches('/')).and_then(|rest| rest.strip_prefix('/'));
        let inside = inside.unwrap_or(pattern);
        let inside = inside.strip_prefix("./").unwrap_or(inside);
        let matches: Vec<&String> =
            names.iter().filter(|name| *name == inside || glob_match(inside, name.as_str())).collect();
        if matches.is_empty() {
            let there = if names.is_empty() { "it is empty".to_owned() } else { format!("it has {}", named(names)) };
            return Err(Error::config(
                data_file_path(index),
                format!("`{directory}` has no file `{pattern}`; {there}"),
            ));
        }
        for name in matches {
            if !found.contains(name) {
                found.push(name.clone());
            }
        }
    }
    Ok(found)
}

/// The loader for files of an extension.
pub(crate) fn loader_of(extension: &str) -> Option<&'static str> {
    Some(match extension {
        "json" | "jsonl" | "ndjson" | "jsonlines" => "json",
        "csv" | "tsv" => "csv",
        "parquet" => "parquet",
        "arrow" => "arrow",
        "txt" => "text",
        _ => return None,
    })
}

/// The split of a file by the words of its path. Where there are two, `train` counts, then the last.
fn split_of(name: &str) -> Option<&'static str> {
    let of = |word: &str| SPLITS.iter().find(|(_, words)| words.contains(&word)).map(|(split, _)| *split);
    let found: Vec<&str> = words(name).filter_map(|word| of(&word)).collect();
    if found.contains(&TRAIN) { Some(TRAIN) } else { found.last().copied() }
}

/// The words of a path in small letters: `data/train-00000.jsonl`, `my_test/a.json`.
fn words(path: &str) -> impl Iterator<Item = String> {
    let path = path.to_lowercase();
    let words: Vec<String> = path.split(|c: char| !c.is_ascii_alphanumeric()).map(ToOwned::to_owned).collect();
    words.into_iter()
}

fn named(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(NAMED).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > NAMED { format!(" and {} more", names.len() - NAMED) } else { String::new() };
    shown.join(", ") + &more
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Without the dot, in small letters, and without that of a packed file; empty where there is none.
pub fn extension(name: &str) -> String {
    let file = file_name(name).to_lowercase();
    let plain = PACKED.iter().find_map(|packed| file.strip_suffix(packed)?.strip_suffix('.')).unwrap_or(&file);
    plain.rsplit_once('.').map_or_else(String::new, |(_, extension)| extension.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DataFiles;

    const JSON: &[&str] = &["jsonl", "json", "ndjson", "jsonlines"];

    fn list(names: &[&str], split: Option<&str>, data_files: &[&str]) -> Result<Listed, Error> {
        let names = names.iter().map(ToString::to_string).collect();
        let data_files = DataFiles(data_files.iter().map(ToString::to_string).collect());
        Listed::of(names, JSON, &Selection { split: split.map(ToOwned::to_owned), data_files }, "dd")
    }

    fn listed(names: &[&str]) -> Listed {
        list(names, None, &[]).unwrap()
    }

    #[test]
    fn what_is_not_read_is_named() {
        let found = listed(&["a.jsonl", "b.JSONL", "c.csv", "d.jsonl.gz", "sub/e.Json", "state.json"]);
        assert_eq!(found.data, ["a.jsonl", "b.JSONL", "d.jsonl.gz", "sub/e.Json"]);
        assert_eq!(
            found.passed_over("dd").unwrap(),
            "in `dd`, 2 files are passed over: `c.csv`, `state.json` (which describe a dataset); rows are in .jsonl, .json, .ndjson, .jsonlines"
        );
        assert_eq!(listed(&["a.jsonl"]).passed_over("dd"), None);
        let many: Vec<String> = (0..20).map(|index| format!("{index}.csv")).collect();
        let many = listed(&many.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(many.passed_over("dd").unwrap().contains("20 files are passed over: `0.csv`"));
    }

    #[test]
    fn rows_of_another_split_are_not_trained_on() {
        let names = ["test.jsonl", "train.jsonl", "validation-00000.json"];
        assert_eq!(listed(&names).data, ["train.jsonl"]);
        let told = listed(&names).passed_over("d").unwrap();
        assert!(told.contains("`test.jsonl`, `validation-00000.json` (of another split than `train`"));
        let of = |split| list(&names, Some(split), &[]).map(|listed| listed.data);
        assert_eq!(of("test").unwrap(), ["test.jsonl"]);
        assert_eq!(of("validation").unwrap(), ["validation-00000.json"]);
        let Err(Error::Config { path, message, .. }) = of("dev2") else { panic!() };
        assert_eq!(path, "split");
        assert!(message.ends_with("there are `train`, `validation`, `test`"), "{message}");
        assert_eq!(listed(&["a.jsonl", "test.jsonl"]).data, ["a.jsonl", "test.jsonl"], "nothing says which is which");
        assert_eq!(listed(&["latest.jsonl", "train.jsonl"]).data, ["latest.jsonl", "train.jsonl"]);
        let own = list(&["train_sft-0.jsonl", "test_sft-0.jsonl", "gen-0.jsonl"], Some("gen"), &[]).unwrap();
        assert_eq!(own.data, ["gen-0.jsonl"]);
    }

    #[test]
    fn what_datasets_keeps_beside_saved_data_is_none_of_it() {
        let names = ["test/data-0.arrow", "train/cache-0a.arrow", "train/data-0.arrow", "train/state.json"];
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let listed = Listed::of(names, &["arrow"], &Selection::default(), "dd").unwrap();
        assert_eq!(listed.data, ["train/data-0.arrow"]);
        let names = vec!["cache-0a.arrow".to_owned()];
        assert_eq!(Listed::of(names.clone(), &["arrow"], &Selection::default(), "dd").unwrap().data, names);
    }

    #[test]
    fn shards_that_are_missing_are_told() {
        let all = ["a-00000-of-00002.json", "a-00001-of-00002.json", "b-of-c.json"];
        assert_eq!(listed(&all).incomplete("dd"), [""; 0]);
        assert_eq!(listed(&all[1..]).incomplete("dd"), ["`dd` has 1 of the 2 shards `a-…-of-00002.json`"]);
    }

    #[test]
    fn files_are_read_by_name_and_pattern() {
        let names = ["a.jsonl", "b/c.jsonl", "b/d.txt", "test.jsonl"];
        let of = |files: &[&str]| list(&names, None, files).map(|listed| listed.data);
        assert_eq!(of(&["test.jsonl", "dd/a.jsonl", "./a.jsonl"]).unwrap(), ["test.jsonl", "a.jsonl"]);
        assert_eq!(of(&["b/*"]).unwrap(), ["b/c.jsonl", "b/d.txt"]);
        assert_eq!(of(&["*.jsonl"]).unwrap(), ["a.jsonl", "test.jsonl"]);
        assert_eq!(of(&["**/*.jsonl"]).unwrap(), ["a.jsonl", "b/c.jsonl", "test.jsonl"]);
        assert_eq!(of(&["[ab].jsonl"]).unwrap(), ["a.jsonl"]);
        let Err(Error::Config { path, message, .. }) = of(&["a.jsonl", "x*.jsonl"]) else { panic!() };
        assert_eq!(path, "data_files[1]");
        assert!(message.contains("has no file `x*.jsonl`; it has `a.jsonl`"), "{message}");
    }

    #[test]
    fn a_directory_without_rows_says_what_it_has() {
        let told = |names: &[&str]| match listed(names).no_data("my data") {
            Error::Failed(message) => message,
            error @ Error::Config { .. } => panic!("{error:?}"),
        };
        assert!(told(&[]).ends_with("it is empty"));
        assert!(told(&["README.md"]).ends_with("it has `README.md`"));
        assert!(told(&["data/train-0.parquet"]).ends_with("\nhelp: write `ds_type: parquet`"));
        assert!(told(&["a.csv.gz"]).ends_with("\nhelp: write `ds_type: csv`"));
    }
}
