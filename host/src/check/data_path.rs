//! What `datasets[].path` is that names nothing on this machine: a name of the Hugging Face hub, a pattern, an address.

use hub::{Kind, Repository};

use crate::commands::{download_dataset, word};
use crate::diagnostic::Diagnostic;

/// Extensions of files: a name with one is no name of the hub.
const FILES: [&str; 14] =
    ["jsonl", "json", "ndjson", "csv", "tsv", "parquet", "arrow", "txt", "gz", "zst", "zip", "xz", "yml", "yaml"];

/// Says of a missing file what its path seems to be.
pub(super) fn explain(diagnostic: Diagnostic, path: &str) -> Diagnostic {
    if let Some((scheme, rest)) = path.split_once("://") {
        let why = "nothing is downloaded during a run, so that it stays the same";
        let local = format!("data/{}", rest.rsplit('/').find(|part| !part.is_empty()).unwrap_or("data"));
        let from = word(path);
        let help = match scheme {
            "http" | "https" => format!("curl -L --create-dirs -o {} {from}", word(&local)),
            "s3" => format!("aws s3 cp {from} {}", word(&local)),
            "gs" | "gcs" => format!("gcloud storage cp {from} {}", word(&local)),
            "hf" => {
                let name = rest.strip_prefix("datasets/").unwrap_or(rest);
                let name: Vec<&str> = name.split('/').take(2).collect();
                download(&name.join("/"))
            }
            _ => "download it first, and name the file here".to_owned(),
        };
        return Diagnostic { message: format!("`{path}` is an address, not a file on this machine"), ..diagnostic }
            .why(why)
            .help(help);
    }
    if path.contains(['*', '?']) || (path.contains('[') && path.contains(']')) {
        let start = path.split(['*', '?', '[']).next().unwrap_or_default();
        let (folder, files) = match start.rsplit_once('/') {
            None => (".", path),
            Some(("", _)) => ("/", &path[1..]),
            Some((folder, _)) => (folder, &path[folder.len() + 1..]),
        };
        return diagnostic
            .why("`*`, `?` and `[…]` are characters of a name here, no pattern")
            .help(format!("write `path: {folder}` and `data_files: '{files}'`"));
    }
    if is_hub_name(path) {
        return diagnostic
            .why("datasets are not downloaded; a name of the Hugging Face hub is a path here")
            .help(download(path));
    }
    diagnostic
}

/// The command that downloads, and what to write then.
fn download(name: &str) -> String {
    let local = format!("data/{}", name.rsplit('/').next().unwrap_or(name));
    format!("if it is on the Hugging Face hub: `{}`, then `path: {local}`", download_dataset(name, &local))
}

/// `tatsu-lab/alpaca`: a name as the hub has them, and no file's extension.
fn is_hub_name(path: &str) -> bool {
    let extension = path.rsplit_once('.').map_or(String::new(), |(_, extension)| extension.to_lowercase());
    Repository::new(Kind::Dataset, path).is_some() && !FILES.contains(&extension.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(path: &str) -> String {
        let missing = Diagnostic::error("data::missing-file", format!("there is no file or directory `{path}`"));
        let told = explain(missing.help("as it was"), path);
        format!("{}\n{}", told.message, told.help.unwrap_or_default())
    }

    #[test]
    fn names_of_the_hub_come_with_the_command_that_downloads_them() {
        for name in ["tatsu-lab/alpaca", "teknium/OpenHermes-2.5", "HuggingFaceH4/ultrachat_200k"] {
            let told = told(name);
            assert!(told.contains(&format!("hf download {name} --repo-type dataset --local-dir data/")), "{told}");
        }
        for path in ["data/train.jsonl", "train", "./a/b", "../data/train", "/abs/x", "a/b/c", "my data/x"] {
            assert!(told(path).ends_with("\nas it was"), "{path}");
        }
    }

    #[test]
    fn patterns_and_addresses_are_named() {
        assert!(told("data/*.jsonl").contains("`path: data` and `data_files: '*.jsonl'`"));
        assert!(told("*.jsonl").contains("`path: .` and"));
        assert!(
            told("https://x.org/a b.jsonl")
                .contains("curl -L --create-dirs -o 'data/a b.jsonl' 'https://x.org/a b.jsonl'")
        );
        assert!(
            told("hf://datasets/tatsu-lab/alpaca/x.json").contains("hf download tatsu-lab/alpaca --repo-type dataset")
        );
    }
}
