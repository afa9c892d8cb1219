//! What `datasets[].path` is that names nothing on this machine and on the hub: a pattern, an address.

use crate::commands::word;
use crate::diagnostic::Diagnostic;

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
                format!("write `path: {}`, the name of the dataset", name.join("/"))
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
    diagnostic
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
    fn paths_that_are_plain_stay_as_they_are() {
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
        assert!(told("hf://datasets/tatsu-lab/alpaca/x.json").contains("write `path: tatsu-lab/alpaca`"));
    }
}
