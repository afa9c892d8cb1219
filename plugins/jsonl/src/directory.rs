//! The files of a directory: which hold rows, and which are passed over and why.

use plugin_sdk::Error;

use crate::formats::extension;
use crate::shell::quoted;

/// Extensions of files with rows, in whatever case.
const DATA: [&str; 4] = ["jsonl", "json", "ndjson", "jsonlines"];
/// JSON files that describe a dataset: of the Hugging Face hub, and of `datasets`' own format.
const METADATA: [&str; 4] = ["dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"];
/// Files that a message names; the others are counted.
const NAMED: usize = 8;

/// The files of a directory.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Listed {
    /// Those with rows, in their order.
    pub(crate) data: Vec<String>,
    /// JSON files without rows.
    metadata: Vec<String>,
    /// Files of a validation or test split, where others are of the training split by name.
    other_split: Vec<String>,
    /// Everything else.
    others: Vec<String>,
}

impl Listed {
    pub(crate) fn of(names: Vec<String>) -> Self {
        let mut listed = Self::default();
        for name in names {
            if !DATA.contains(&extension(&name).as_str()) {
                listed.others.push(name);
            } else if METADATA.contains(&file_name(&name)) {
                listed.metadata.push(name);
            } else {
                listed.data.push(name);
            }
        }
        // As `datasets` tells splits apart: rows that are to be held out must not be trained on.
        if listed.data.iter().any(|name| has_word(name, &["train", "training"])) {
            let is_other = |name: &String| {
                !has_word(name, &["train", "training"])
                    && has_word(name, &["test", "testing", "eval", "evaluation", "validation", "valid", "dev", "val"])
            };
            (listed.other_split, listed.data) = listed.data.into_iter().partition(is_other);
        }
        listed
    }

    /// What is not read, in words for the user.
    pub(crate) fn passed_over(&self, directory: &str) -> Option<String> {
        let groups = [
            (&self.others, ""),
            (&self.metadata, " (which describe a dataset)"),
            (&self.other_split, " (of another split than `train`, by their names)"),
        ];
        let told: Vec<String> = groups
            .iter()
            .filter(|(names, _)| !names.is_empty())
            .map(|(names, why)| format!("{}{why}", named(names)))
            .collect();
        let count = self.others.len() + self.metadata.len() + self.other_split.len();
        let files = if count == 1 { "1 file is" } else { &format!("{count} files are") };
        (count > 0).then(|| {
            format!("in `{directory}`, {files} passed over: {}; rows are in .{}", told.join(", "), DATA.join(", ."))
        })
    }

    /// Why a directory without rows cannot be used.
    pub(crate) fn no_data(&self, directory: &str) -> Error {
        let message = format!("`{directory}` has no file with rows (.{})", DATA.join(", ."));
        let all: Vec<String> = self.others.iter().chain(&self.metadata).cloned().collect();
        if all.is_empty() {
            return Error::Failed(format!("{message}; it is empty"));
        }
        let message = format!("{message}; it has {}", named(&all));
        let of = |wanted: &str| self.others.iter().find(|name| extension(name) == wanted);
        let folder = quoted(directory.trim_end_matches('/'));
        let rows = quoted(&format!("{}.jsonl", directory.trim_end_matches('/')));
        let glob = |extension: &str| quoted(&format!("{}/**/*.{extension}", directory.trim_end_matches('/')));
        for (extension, tool) in [("gz", "gunzip -k"), ("zst", "unzstd"), ("xz", "unxz -k"), ("bz2", "bunzip2 -k")] {
            if of(extension).is_some() {
                return Error::failed_with_help(message, format!("{tool} {folder}/*.{extension}"));
            }
        }
        if self.metadata.iter().any(|name| file_name(name) == "state.json") && of("arrow").is_some() {
            let inner = self.metadata.iter().find_map(|name| name.strip_suffix("/state.json"));
            let from = inner.map_or_else(|| folder.clone(), |inner| quoted(&format!("{directory}/{inner}")));
            return Error::failed_with_help(
                message,
                format!(
                    "python3 -c 'import datasets, sys; datasets.load_from_disk(sys.argv[1]).to_json(sys.argv[2])' {from} {rows}"
                ),
            );
        }
        for format in ["parquet", "csv", "arrow", "text"] {
            let extension = if format == "text" { "txt" } else { format };
            if of(extension).is_some() {
                return Error::failed_with_help(
                    message,
                    format!(
                        "python3 -c 'import datasets, sys; datasets.load_dataset(\"{format}\", data_files=sys.argv[1], split=\"train\").to_json(sys.argv[2])' {} {rows}",
                        glob(extension)
                    ),
                );
            }
        }
        Error::Failed(message)
    }
}

fn named(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(NAMED).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > NAMED { format!(" and {} more", names.len() - NAMED) } else { String::new() };
    shown.join(", ") + &more
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// True if one of these words stands in a path: `data/train-00000.jsonl`, `my_test/a.json`.
fn has_word(path: &str, words: &[&str]) -> bool {
    let path = path.to_lowercase();
    path.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| words.contains(&part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(names: &[&str]) -> Listed {
        Listed::of(names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_is_not_read_is_named() {
        let found = listed(&["a.jsonl", "b.JSONL", "c.csv", "d.jsonl.gz", "sub/e.Json", "state.json"]);
        assert_eq!(found.data, ["a.jsonl", "b.JSONL", "sub/e.Json"]);
        assert_eq!(
            found.passed_over("dd").unwrap(),
            "in `dd`, 3 files are passed over: `c.csv`, `d.jsonl.gz`, `state.json` (which describe a dataset); rows are in .jsonl, .json, .ndjson, .jsonlines"
        );
        assert_eq!(listed(&["a.jsonl"]).passed_over("dd"), None);
        let many: Vec<String> = (0..20).map(|index| format!("{index}.csv")).collect();
        assert!(Listed::of(many).passed_over("dd").unwrap().contains("20 files are passed over: `0.csv`"));
    }

    #[test]
    fn rows_of_another_split_are_not_trained_on() {
        let found = listed(&["test.jsonl", "train.jsonl", "validation-00000.json"]);
        assert_eq!(found.data, ["train.jsonl"]);
        assert!(found.passed_over("d").unwrap().contains("`test.jsonl`, `validation-00000.json` (of another split"));
        assert_eq!(listed(&["a.jsonl", "test.jsonl"]).data, ["a.jsonl", "test.jsonl"], "nothing says which is which");
        assert_eq!(listed(&["latest.jsonl", "train.jsonl"]).data, ["latest.jsonl", "train.jsonl"]);
    }

    #[test]
    fn a_directory_without_rows_says_what_it_has() {
        let told = |names: &[&str]| match listed(names).no_data("my data") {
            Error::Failed(message) => message,
            error @ Error::Config { .. } => panic!("{error:?}"),
        };
        assert!(told(&[]).ends_with("it is empty"));
        assert!(told(&["README.md", "a.jsonl.gz"]).ends_with("\nhelp: gunzip -k 'my data'/*.gz"));
        assert!(told(&["data/train-0.parquet"]).contains("\"parquet\""));
        assert!(told(&["data-0.arrow", "dataset_info.json", "state.json"]).contains("load_from_disk"));
        assert!(told(&["train/data-0.arrow", "train/state.json"]).contains("'my data/train' 'my data.jsonl'"));
    }
}
