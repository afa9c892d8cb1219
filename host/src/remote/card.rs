//! What the first lines of a dataset's `README.md` say of its files: its configs, as `datasets` of Hugging Face reads them.

use serde::Deserialize;
use serde_yaml::{Mapping, Value};

use super::glob::is_inside;

/// The card of a repository.
pub(super) const CARD: &str = "README.md";
/// A file of YAML whose keys count in place of the card's.
pub(super) const YAML: &str = ".huggingface.yaml";
/// Bytes of either.
pub(super) const CARD_BYTES: u64 = 16 << 20;
/// Bytes of YAML that are read.
const YAML_BYTES: usize = 2 << 20;
/// Characters of what a parser says.
const REASON: usize = 200;
/// The config of a repository that names none.
pub(super) const DEFAULT: &str = "default";

/// A part of a dataset that is read by itself: what the card calls a config.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Subset {
    pub(super) name: String,
    /// The folder that patterns start from.
    pub(super) data_dir: String,
    /// Patterns of each split; none where names of files tell.
    pub(super) data_files: Option<Vec<(String, Vec<String>)>>,
    /// It is the one that is meant where none is named.
    pub(super) is_default: bool,
}

/// The keys of a card that say something of files.
#[derive(Debug, Default, Deserialize)]
struct Card {
    #[serde(default)]
    configs: Value,
}

/// The configs of a repository by its card and by its file of YAML; none where they name none.
///
/// # Errors
/// Why they cannot be read, in a line.
pub(super) fn subsets(card: Option<&[u8]>, yaml: Option<&[u8]>) -> Result<Vec<Subset>, String> {
    let of_card = card.map(|card| front_matter(&String::from_utf8_lossy(card)).map(configs)).unwrap_or_default();
    let of_yaml = yaml.map(|yaml| configs(String::from_utf8_lossy(yaml).into_owned()));
    let named = |file: &'static str| move |reason: String| format!("`{file}`: {reason}");
    match of_yaml.transpose().map_err(named(YAML))? {
        Some(subsets) if !subsets.is_empty() => Ok(subsets),
        _ => of_card.transpose().map_err(named(CARD)).map(Option::unwrap_or_default),
    }
}

/// What stands between the two lines `---` at the beginning.
fn front_matter(card: &str) -> Option<String> {
    let mut lines = card.trim_start_matches('\u{feff}').trim_start().lines();
    if lines.next()?.trim_end() != "---" {
        return None;
    }
    let mut text = String::new();
    for line in lines {
        if line.trim_end() == "---" {
            return Some(text);
        }
        text.push_str(line);
        text.push('\n');
    }
    None
}

fn configs(text: String) -> Result<Vec<Subset>, String> {
    if text.len() > YAML_BYTES {
        return Err(format!("its YAML has more than {} MiB", YAML_BYTES >> 20));
    }
    let failed = |error: serde_yaml::Error| {
        let line: String = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        line.chars().take(REASON).collect::<String>()
    };
    let card: Option<Card> = serde_yaml::from_str(&text).map_err(failed)?;
    let all = match card.unwrap_or_default().configs {
        Value::Null => return Ok(Vec::new()),
        Value::Sequence(all) => all,
        _ => return Err("`configs` is no list".to_owned()),
    };
    let mut subsets: Vec<Subset> = Vec::new();
    for entry in &all {
        let Value::Mapping(entry) = entry else { return Err("an entry of `configs` is no mapping".to_owned()) };
        let subset = subset(entry)?;
        // Of two with one name the second counts, as in `datasets`.
        match subsets.iter_mut().find(|known| known.name == subset.name) {
            Some(known) => *known = subset,
            None => subsets.push(subset),
        }
    }
    Ok(subsets)
}

fn subset(entry: &Mapping) -> Result<Subset, String> {
    let name = match entry.get("config_name") {
        Some(Value::String(name)) if !name.is_empty() => name.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => return Err("an entry of `configs` has no `config_name`".to_owned()),
    };
    let data_dir = match entry.get("data_dir") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(folder)) => folder.trim_start_matches("./").trim_end_matches('/').to_owned(),
        Some(_) => return Err(format!("`data_dir` of the config `{name}` is no text")),
    };
    if !is_inside(&data_dir) {
        return Err(format!("`data_dir` of the config `{name}` leads out of the repository"));
    }
    let is_default = entry.get("default").and_then(Value::as_bool).unwrap_or(false);
    let data_files = match entry.get("data_files") {
        None | Some(Value::Null) => None,
        Some(value) => Some(splits(value).ok_or_else(|| {
            format!("`data_files` of the config `{name}` is neither a text, nor a list of texts, nor one of `split` and `path`")
        })?),
    };
    Ok(Subset { name, data_dir, data_files, is_default })
}

/// Patterns by split; none for what has another shape.
fn splits(value: &Value) -> Option<Vec<(String, Vec<String>)>> {
    let of_train = |patterns| Some(vec![("train".to_owned(), patterns)]);
    match value {
        Value::Sequence(all) if all.iter().any(Value::is_mapping) => {
            let mut splits: Vec<(String, Vec<String>)> = Vec::new();
            for entry in all {
                let entry = entry.as_mapping().filter(|entry| entry.len() == 2)?;
                let (name, patterns) = (entry.get("split")?.as_str()?, texts(entry.get("path")?)?);
                if !is_split(name) || splits.iter().any(|(known, _)| known == name) {
                    return None;
                }
                splits.push((name.to_owned(), patterns));
            }
            Some(splits)
        }
        value => of_train(texts(value)?),
    }
}

fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Sequence(all) => all.iter().map(|text| text.as_str().map(ToOwned::to_owned)).collect(),
        _ => None,
    }
}

/// True for what `datasets` takes for the name of a split.
pub(super) fn is_split(name: &str) -> bool {
    name.split('.').all(|part| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(configs: &str) -> Result<Vec<Subset>, String> {
        subsets(Some(format!("---\nlicense: mit\n{configs}\n---\n# A card\n").as_bytes()), None)
    }

    fn of(data_files: &str) -> Option<Vec<(String, Vec<String>)>> {
        read(&format!("configs:\n- config_name: a\n  data_files: {data_files}")).unwrap().remove(0).data_files
    }

    #[test]
    fn files_have_four_shapes() {
        let patterns = |split: &str, patterns: &[&str]| {
            (split.to_owned(), patterns.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(of("x.csv").unwrap(), [patterns("train", &["x.csv"])]);
        assert_eq!(of("[x.csv, 'y/*']").unwrap(), [patterns("train", &["x.csv", "y/*"])]);
        let two = of("[{split: train, path: a}, {split: test.x, path: [b, c]}]").unwrap();
        assert_eq!(two, [patterns("train", &["a"]), patterns("test.x", &["b", "c"])]);
        let all = read("configs:\n- config_name: 2024\n  data_dir: ./en/\n  default: true").unwrap();
        let (name, data_dir) = ("2024".to_owned(), "en".to_owned());
        assert_eq!(all, [Subset { name, data_dir, data_files: None, is_default: true }]);
    }

    #[test]
    fn a_card_without_configs_has_none() {
        for card in
            ["", "# Words", "---\nno end", "---\nlicense: mit\n---\n", "---\n---\n", "---\nconfigs:\n---\n", "\u{feff}"]
        {
            assert_eq!(subsets(Some(card.as_bytes()), None).unwrap(), [], "{card}");
        }
        assert_eq!(subsets(None, None).unwrap(), []);
        let windows = b"\n---\r\nconfigs:\r\n- config_name: a\r\n---\r\n";
        assert_eq!(subsets(Some(windows), None).unwrap().len(), 1);
        let yaml = b"configs: [{config_name: b}]";
        assert_eq!(subsets(Some(windows), Some(yaml)).unwrap()[0].name, "b");
    }

    #[test]
    fn what_cannot_be_read_is_told_in_a_line() {
        for (configs, words) in [
            ("configs: [", "did not find expected"),
            ("configs: 3", "no list"),
            ("configs: [3]", "no mapping"),
            ("configs: [{}]", "no `config_name`"),
            ("configs: [{config_name: a, data_files: 3}]", "neither a text"),
            ("configs: [{config_name: a, data_files: {train: x}}]", "neither a text"),
            ("configs: [{config_name: a, data_files: [{split: x, path: y}, z]}]", "neither a text"),
            ("configs: [{config_name: a, data_files: [{split: x-y, path: y}]}]", "neither a text"),
            ("configs: [{config_name: a, data_files: [{split: x, path: y}, {split: x, path: z}]}]", "neither a text"),
            ("configs: [{config_name: a, data_dir: ../x}]", "leads out"),
            ("configs: [{config_name: a, data_dir: /etc}]", "leads out"),
            (&format!("x: {}", "[".repeat(100_000)), ""),
            (&format!("x: {}", "y".repeat(YAML_BYTES)), "more than 2 MiB"),
        ] {
            let reason = read(configs).unwrap_err();
            assert!(reason.contains(words) && reason.len() < 400 && !reason.contains('\n'), "{reason}");
        }
    }

    /// Anchors that grow with each line are read, refused or passed over; they take neither memory nor time.
    #[test]
    fn anchors_do_not_grow() {
        let mut yaml = "a0: &a0 [x]\n".to_owned();
        for level in 1..40 {
            let nine = vec![format!("*a{}", level - 1); 9].join(", ");
            yaml.push_str(&format!("a{level}: &a{level} [{nine}]\n"));
        }
        let start = std::time::Instant::now();
        let _ = read(&format!("{yaml}configs: *a39"));
        assert!(start.elapsed().as_secs() < 10);
    }
}
