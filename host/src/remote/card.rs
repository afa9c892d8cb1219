//! What the first lines of a dataset's `README.md` say of its files: its configs, as `datasets` of Hugging Face reads them.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
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
/// Bytes that `configs` may have once aliases are written out, an entry counting for some: what an alias names is copied.
const WRITTEN_OUT: usize = 32 << 20;
const ENTRY: usize = 64;
/// Brackets that are open at a time: each is looked at again with what is behind it, as in a config.
const BRACKETS: usize = 1000;
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

/// The key of a card that says something of files; nothing else of it is kept.
struct Configs;

impl<'de> DeserializeSeed<'de> for Configs {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Configs {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping")
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let left = Cell::new(WRITTEN_OUT);
        let mut configs = None;
        while let Some(key) = map.next_key_seed(Bounded(&left))? {
            if key.as_str() != Some("configs") {
                map.next_value::<IgnoredAny>()?;
            } else if configs.replace(map.next_value_seed(Bounded(&left))?).is_some() {
                return Err(de::Error::duplicate_field("configs"));
            }
        }
        Ok(configs.unwrap_or_default())
    }
}

/// A value that takes no more than is left. Tags say nothing of files.
struct Bounded<'a>(&'a Cell<usize>);

impl Bounded<'_> {
    fn take<E: de::Error>(&self, bytes: usize) -> Result<(), E> {
        let left = self.0.get().checked_sub(bytes);
        self.0.set(left.ok_or_else(|| {
            E::custom(format_args!("it has more than {} MiB once its aliases are written out", WRITTEN_OUT >> 20))
        })?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.take(ENTRY)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.take(value.len())?;
        Ok(value.into())
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(value) = list.next_element_seed(Bounded(self.0))? {
            all.push(value);
        }
        Ok(Value::Sequence(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut all = Mapping::new();
        while let Some(key) = map.next_key_seed(Bounded(self.0))? {
            if all.insert(key, map.next_value_seed(Bounded(self.0))?).is_some() {
                return Err(de::Error::custom("a key is there twice"));
            }
        }
        Ok(Value::Mapping(all))
    }

    fn visit_enum<A: de::EnumAccess<'de>>(self, tagged: A) -> Result<Value, A::Error> {
        use serde::de::VariantAccess as _;
        let (_, value) = tagged.variant::<String>()?;
        value.newtype_variant_seed(Bounded(self.0))
    }
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
    let mut open = 0_usize;
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > BRACKETS {
            return Err(format!("its YAML has more than {BRACKETS} open brackets"));
        }
    }
    let failed = |error: serde_yaml::Error| {
        let line: String = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        line.chars().take(REASON).collect::<String>()
    };
    let all = match Configs.deserialize(serde_yaml::Deserializer::from_str(&text)).map_err(failed)? {
        Value::Null => return Ok(Vec::new()),
        Value::Sequence(all) => all,
        _ => return Err("`configs` is no list".to_owned()),
    };
    let mut subsets: Vec<Subset> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for entry in &all {
        let Value::Mapping(entry) = entry else { return Err("an entry of `configs` is no mapping".to_owned()) };
        let subset = subset(entry)?;
        // Of two with one name the second counts, as in `datasets`.
        match *known.entry(subset.name.clone()).or_insert(subsets.len()) {
            at if at < subsets.len() => subsets[at] = subset,
            _ => subsets.push(subset),
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
            let mut known = BTreeSet::new();
            for entry in all {
                let entry = entry.as_mapping().filter(|entry| entry.len() == 2)?;
                let (name, patterns) = (entry.get("split")?.as_str()?, texts(entry.get("path")?)?);
                if !is_split(name) || !known.insert(name) {
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
            (&format!("x: {}", "[".repeat(100_000)), "more than 1000 open brackets"),
            (&format!("x: {}", "y".repeat(YAML_BYTES)), "more than 2 MiB"),
        ] {
            let reason = read(configs).unwrap_err();
            assert!(reason.contains(words) && reason.len() < 400 && !reason.contains('\n'), "{reason}");
        }
    }

    /// An alias of a long text is a copy of it.
    #[test]
    fn aliases_of_long_texts_are_counted() {
        let text = format!("x: &a {}\nconfigs: [{}]", "y".repeat(1 << 20), vec!["*a"; 250_000].join(","));
        assert!(read(&text).unwrap_err().contains("more than 32 MiB once its aliases are written out"));
        let text =
            "x: &a data/*.csv\nconfigs: [{config_name: a, data_files: *a}, {config_name: b, data_files: [*a, !t z]}]";
        let read = read(text).unwrap();
        assert_eq!(read[1].data_files.clone().unwrap()[0].1, ["data/*.csv", "z"]);
    }

    #[test]
    fn many_configs_and_splits_take_no_time() {
        let start = std::time::Instant::now();
        let configs: Vec<String> = (0..90_000).map(|number| format!("- config_name: a{number}\n")).collect();
        assert_eq!(read(&format!("configs:\n{}", configs.concat())).unwrap().len(), 90_000);
        let splits: Vec<String> = (0..70_000).map(|number| format!("{{split: a{number}, path: b}}")).collect();
        assert_eq!(of(&format!("[{}]", splits.join(","))).unwrap().len(), 70_000);
        assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
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
