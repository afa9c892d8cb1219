//! Which loader reads a dataset for which the config names none, and what other names its loaders have.

use std::path::Path;

use super::defaults;
use super::schema::{Config, DatasetConfig};
use super::source::ConfigSource;
use super::values::PluginRef;

/// The loader where nothing says which.
const JSON: &str = "json";
/// Parts of names, and the loader of such files: those of Axolotl, and more.
const EXTENSIONS: [(&str, &str); 9] = [
    (".parquet", "parquet"),
    (".arrow", "arrow"),
    (".csv", "csv"),
    (".tsv", "tsv"),
    (".txt", "text"),
    (".jsonl", JSON),
    (".ndjson", JSON),
    (".jsonlines", JSON),
    (".json", JSON),
];
/// Files of `Dataset.save_to_disk` of Hugging Face, beside its Arrow files.
const SAVED: [&str; 2] = ["state.json", "dataset_dict.json"];
/// JSON files that have no rows.
const METADATA: [&str; 4] = ["state.json", "dataset_dict.json", "dataset_info.json", "dataset_infos.json"];
/// Files of a directory that are looked at, and directories inside one another.
const FILES: usize = 1000;
const DEPTH: usize = 8;

/// The loader by the names of files, without looking at any.
pub(super) fn of_names(path: &str, data_files: &[String]) -> PluginRef {
    let name = data_files.first().map_or(path, String::as_str);
    plugin(of_name(name).unwrap_or(JSON))
}

/// The plugin of a loader's name.
pub fn plugin(loader: &str) -> PluginRef {
    let mut plugin = PluginRef::named(loader);
    to_plugin(&mut plugin);
    plugin
}

fn of_name(path: &str) -> Option<&'static str> {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or(path).to_lowercase();
    EXTENSIONS.iter().find(|(part, _)| name.contains(part)).map(|(_, loader)| *loader)
}

/// Names a loader as its plugin is called: several names of Axolotl and `datasets` are one plugin.
pub(super) fn to_plugin(ds_type: &mut PluginRef) {
    let plugin = match ds_type.name.as_str() {
        JSON => "jsonl",
        "txt" => "text",
        "tsv" => {
            ds_type.config.entry("delimiter").or_insert_with(|| "\t".into());
            "csv"
        }
        _ => return,
    };
    plugin.clone_into(&mut ds_type.name);
}

/// Sets the loaders of directories by the files that they have, as `datasets` does.
/// A file of rows that is named outside of `datasets`, to be read as an entry of it would be.
pub fn rows_of(path: &str) -> DatasetConfig {
    let ds_type = of_names(path, &[]);
    DatasetConfig { ds_type, ..defaults::dataset(path.to_owned(), PluginRef::named("")) }
}

pub(super) fn of_directories(config: &mut Config, given: &[String], source: &ConfigSource) {
    for (key, datasets) in [("datasets", &mut config.datasets), ("test_datasets", &mut config.test_datasets)] {
        for (index, dataset) in datasets.iter_mut().enumerate() {
            let is_given = given.contains(&format!("{key}[{index}].ds_type"));
            if is_given || !dataset.data_files.is_empty() || of_name(&dataset.path).is_some() {
                continue;
            }
            if let Some(loader) = of_directory(&source.resolve(&dataset.path)) {
                dataset.ds_type = plugin(loader);
            }
        }
    }
}

/// The loader of most files of a directory; none without any.
fn of_directory(path: &Path) -> Option<&'static str> {
    let mut names = Vec::new();
    list(path, 0, &mut names);
    let of: Vec<&str> =
        names.iter().filter(|name| !METADATA.contains(&name.as_str())).filter_map(|name| of_name(name)).collect();
    if of.contains(&"arrow") && names.iter().any(|name| SAVED.contains(&name.as_str())) {
        return Some("arrow");
    }
    let count = |loader: &str| of.iter().filter(|other| **other == loader).count();
    // The first of those that are as many, in the order of their names.
    let most = of.iter().map(|loader| count(loader)).max()?;
    of.iter().find(|loader| count(loader) == most).map(|loader| &**loader)
}

fn list(directory: &Path, depth: usize, names: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let mut entries: Vec<_> = entries.flatten().take(FILES).collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') || names.len() >= FILES {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth < DEPTH {
                list(&entry.path(), depth + 1, names);
            }
        } else {
            names.push(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_loader() {
        for (path, loader) in [
            ("data/train.parquet", "parquet"),
            ("a.CSV.gz", "csv"),
            ("a.tsv", "tsv"),
            ("data.csv/notes", "json"),
            ("x.jsonl.zst", "json"),
            ("notes.txt", "text"),
            ("tatsu-lab/alpaca", "json"),
        ] {
            assert_eq!(of_names(path, &[]), plugin(loader), "{path}");
        }
        assert_eq!(of_names("data", &["*.arrow".to_owned()]), plugin("arrow"));
    }

    #[test]
    fn directories_are_of_most_of_their_files() {
        let folder = tempfile::tempdir().unwrap();
        let of = |files: &[&str]| {
            let inner = tempfile::tempdir_in(folder.path()).unwrap();
            for file in files {
                let path = inner.path().join(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "").unwrap();
            }
            of_directory(inner.path())
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["README.md"]), None);
        assert_eq!(of(&["README.md", "data/a.parquet", "data/b.parquet", "x.json"]), Some("parquet"));
        assert_eq!(of(&["a.jsonl", "b.csv"]), Some("json"));
        assert_eq!(of(&["train/d-0.arrow", "train/state.json", "dataset_dict.json"]), Some("arrow"));
        assert_eq!(of(&["d.csv", "state.json", "dataset_info.json"]), Some("csv"));
    }

    #[test]
    fn some_plugins_have_other_names() {
        let named = |name: &str| {
            let mut ds_type = PluginRef::named(name);
            to_plugin(&mut ds_type);
            (ds_type.name.clone(), ds_type.config_json())
        };
        assert_eq!(named("json"), ("jsonl".to_owned(), "{}".to_owned()));
        assert_eq!(named("tsv"), ("csv".to_owned(), "{\"delimiter\":\"\\t\"}".to_owned()));
        assert_eq!(named("acme:rows"), ("acme:rows".to_owned(), "{}".to_owned()));
    }
}
