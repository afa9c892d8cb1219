//! Which files of a dataset's repository are meant, as `datasets` of Hugging Face chooses them: by the configs of its card, or
//! by the names of its files.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use regex::Regex;

use super::card::{DEFAULT, Subset, is_split};
use super::glob::{Pattern, escape};

/// Files of an entry of the config.
const FILES: usize = 4096;
/// Patterns of a split that are no names.
const PATTERNS: usize = 256;
/// Bytes of names that the patterns of a split are held against, all together: the slowest patterns take 25 ns a byte.
const COMPARED: usize = 512 << 20;
/// The split whose files are meant where names do not tell.
const TRAIN: &str = "train";
/// The branch on which the hub keeps what it made of other formats: `CONFIG/SPLIT/0000.parquet`.
pub(super) const CONVERTED: &str = "refs/convert/parquet";
/// What a folder of that branch is called that has only the first part of a split.
const PARTIAL: &str = "partial-";
/// Splits in the order in which `datasets` looks for them, and the words that tell of them.
const SPLITS: [(&str, &[&str]); 3] = [
    (TRAIN, &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];
/// What stands beside such a word.
const BESIDE: &str = "[-._ 0-9]";
/// Extensions of files with rows, and the loader of such files.
const FORMATS: [(&str, &str); 9] = [
    ("parquet", "parquet"),
    ("arrow", "arrow"),
    ("jsonl", "json"),
    ("json", "json"),
    ("csv", "csv"),
    ("tsv", "tsv"),
    ("txt", "text"),
    ("ndjson", "json"),
    ("jsonlines", "json"),
];
/// What a file with rows may be packed as.
const PACKED: [&str; 2] = ["gz", "zst"];
/// What it may be packed as elsewhere.
const ARCHIVES: [&str; 8] = ["zip", "tar", "tgz", "7z", "rar", "xz", "bz2", "lz4"];
/// Extensions of files that run code when they are read, or are code: they are never fetched.
const CODE: [&str; 12] = ["py", "pyc", "ipynb", "sh", "pkl", "pickle", "pt", "pth", "bin", "ckpt", "joblib", "npy"];

/// Why no files can be chosen.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unchosen {
    /// There is no config of that name, but these.
    NoSubset { name: String, there: Vec<String> },
    /// One of these must be named.
    Which { there: Vec<String> },
    /// Both of these are the default.
    TwoDefaults { first: String, second: String },
    /// The config has no such split, but these.
    NoSplit { subset: String, split: String, there: Vec<String> },
    /// Files are of a split whose name is none.
    SplitName { split: String },
    /// A pattern cannot be used.
    Pattern { pattern: String, reason: &'static str },
    /// A file is named that is not there.
    NoFile { file: String },
    /// No file is of that split.
    NoFiles { split: String, patterns: Vec<String> },
    /// Too many.
    TooMany { limit: usize, what: &'static str },
    /// Files are of that split, but none has rows that a loader reads.
    NoRows { split: String, there: Vec<String> },
}

/// What an entry of the config says of files.
#[derive(Debug, Default)]
pub(super) struct Wanted<'a> {
    /// The config.
    pub(super) name: Option<&'a str>,
    /// The splits, each once.
    pub(super) splits: Vec<&'a str>,
    /// Patterns, in place of all that the repository says.
    pub(super) data_files: &'a [String],
    /// The plugin that reads them, where that is said.
    pub(super) loader: Option<&'a str>,
}

/// What is meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    /// The files of each split, in the order in which they are read.
    pub(super) splits: Vec<(String, Vec<String>)>,
    /// What `ds_type` would be called.
    pub(super) ds_type: Option<&'static str>,
    /// Files that are meant but that no loader reads, or another one than the other files'.
    pub(super) left_out: Vec<String>,
}

/// Chooses of the names of all files, which are sorted.
pub(super) fn choose(names: &[String], subsets: &[Subset], wanted: &Wanted<'_>) -> Result<Chosen, Unchosen> {
    let subset = subset(subsets, wanted)?;
    let base = if subset.data_dir.is_empty() { String::new() } else { format!("{}/", subset.data_dir) };
    let below: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix(&base)).collect();
    let known = match (&subset.data_files, wanted.data_files) {
        (_, [_, ..]) => vec![(TRAIN.to_owned(), wanted.data_files.to_vec())],
        (Some(known), []) => known.clone(),
        (None, []) => splits(&below)?,
    };
    let mut found = Vec::new();
    for &split in &wanted.splits {
        let Some((_, patterns)) = known.iter().find(|(name, _)| name == split) else {
            let there = known.iter().map(|(name, _)| name.clone()).collect();
            return Err(Unchosen::NoSplit { subset: subset.name, split: split.to_owned(), there });
        };
        let files = resolve(&below, patterns)?;
        if files.is_empty() {
            return Err(Unchosen::NoFiles { split: split.to_owned(), patterns: patterns.clone() });
        }
        found.push((split.to_owned(), files));
    }
    let ds_type = if wanted.loader.is_none() { format(found.iter().flat_map(|(_, files)| files)) } else { None };
    let is_read = |name: &str| match (wanted.loader, ds_type) {
        (Some(loader), _) => is_of_loader(name, loader),
        (None, Some(ds_type)) => format_of(name) == Some(ds_type),
        (None, None) => false,
    };
    let mut chosen = Chosen { splits: Vec::new(), ds_type, left_out: Vec::new() };
    let mut count = 0;
    for (split, files) in found {
        let (read, others): (Vec<&str>, Vec<&str>) = files.iter().copied().partition(|name| is_read(name));
        let whole = |names: Vec<&str>| names.iter().map(|name| format!("{base}{name}")).collect::<Vec<_>>();
        if read.is_empty() {
            return Err(Unchosen::NoRows { split, there: whole(others) });
        }
        count += read.len();
        chosen.left_out.extend(whole(others.into_iter().filter(|name| has_rows(name)).collect()));
        chosen.splits.push((split, whole(read)));
    }
    if count > FILES {
        return Err(Unchosen::TooMany { limit: FILES, what: "files" });
    }
    Ok(chosen)
}

/// The config that is meant, as `DatasetBuilder._create_builder_config` finds it.
fn subset(subsets: &[Subset], wanted: &Wanted<'_>) -> Result<Subset, Unchosen> {
    let there = || subsets.iter().map(|subset| subset.name.clone()).collect::<Vec<_>>();
    let alone = Subset { name: DEFAULT.to_owned(), ..Subset::default() };
    if let Some(name) = wanted.name {
        let found = subsets.iter().find(|subset| subset.name == name).cloned();
        return match found {
            None if subsets.is_empty() && name == DEFAULT => Ok(alone),
            None if subsets.is_empty() => Err(Unchosen::NoSubset { name: name.to_owned(), there: vec![alone.name] }),
            found => found.ok_or_else(|| Unchosen::NoSubset { name: name.to_owned(), there: there() }),
        };
    }
    if let [only] = subsets {
        return Ok(only.clone());
    }
    let defaults: Vec<&Subset> = subsets.iter().filter(|subset| subset.is_default || subset.name == DEFAULT).collect();
    match defaults.as_slice() {
        [] if subsets.is_empty() || !wanted.data_files.is_empty() => Ok(alone),
        [] => Err(Unchosen::Which { there: there() }),
        [only] => Ok((*only).clone()),
        [first, second, ..] => Err(Unchosen::TwoDefaults { first: first.name.clone(), second: second.name.clone() }),
    }
}

/// The configs of the branch on which the hub keeps what it converted, by its folders.
pub(super) fn converted(names: &[String]) -> Vec<Subset> {
    let mut subsets: Vec<Subset> = Vec::new();
    // Places of the last one's splits.
    let mut places: HashMap<String, usize> = HashMap::new();
    for name in names {
        let [subset, split, _] = name.split('/').collect::<Vec<_>>()[..] else { continue };
        let pattern = format!("{}/{}/*", escape(subset), escape(split));
        let split = split.strip_prefix(PARTIAL).unwrap_or(split);
        if subset.starts_with('.') || !is_split(split) {
            continue;
        }
        if subsets.last().is_none_or(|last| last.name != subset) {
            let data_files = Some(Vec::new());
            places.clear();
            subsets.push(Subset { name: subset.to_owned(), data_files, ..Subset::default() });
        }
        let splits = subsets.last_mut().and_then(|last| last.data_files.as_mut()).expect("it was just made");
        let place = *places.entry(split.to_owned()).or_insert(splits.len());
        match splits.get_mut(place) {
            Some((_, patterns)) if patterns.contains(&pattern) => {}
            Some((_, patterns)) => patterns.push(pattern),
            None => splits.push((split.to_owned(), vec![pattern])),
        }
    }
    subsets
}

/// True for a file of that branch that is of the first part of a split alone.
pub(super) fn is_partial(name: &str) -> bool {
    name.split('/').nth(1).is_some_and(|folder| folder.starts_with(PARTIAL))
}

/// Patterns of each split by the names of files: the first way to name them that some file has.
fn splits(names: &[&str]) -> Result<Vec<(String, Vec<String>)>, Unchosen> {
    static SHARD: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\A(.+)-[0-9]{5}-of-[0-9]{5}").expect("it is a constant"));
    let digits = "[0-9]".repeat(5);
    let shards = |split: &str| format!("data/{split}-{digits}-of-{digits}*.*");
    let all = resolve(names, &[shards("*")])?;
    if !all.is_empty() {
        let mut found = BTreeSet::new();
        for name in all {
            let split = SHARD.captures(&name["data/".len()..]).map_or_else(String::new, |parts| parts[1].to_owned());
            if !is_split(&split) {
                return Err(Unchosen::SplitName { split });
            }
            found.insert(split);
        }
        let mut found: Vec<String> = found.into_iter().collect();
        let place = |split: &String| SPLITS.iter().position(|(name, _)| name == split).unwrap_or(SPLITS.len());
        found.sort_by_key(|split| (place(split), split.clone()));
        return Ok(found.into_iter().map(|split| (split.clone(), vec![shards(&split)])).collect());
    }
    let of_words = |shapes: &[String]| {
        let patterns = |words: &[&str]| {
            let of = |word: &&str| shapes.iter().map(|shape| shape.replace('@', word)).collect::<Vec<_>>();
            words.iter().flat_map(of).collect::<Vec<_>>()
        };
        SPLITS.iter().map(|(split, words)| ((*split).to_owned(), patterns(words))).collect::<Vec<_>>()
    };
    let one = |split: &str, patterns: &[&str]| {
        vec![(split.to_owned(), patterns.iter().map(ToString::to_string).collect::<Vec<_>>())]
    };
    let ways = [
        one("logs", &["**/*.eval"]),
        one("test", &["**/task.toml", "**/instruction.md"]),
        of_words(&[
            "**/@/**".to_owned(),
            format!("**/@{BESIDE}*/**"),
            format!("**/*{BESIDE}@/**"),
            format!("**/*{BESIDE}@{BESIDE}*/**"),
        ]),
        of_words(&[format!("**/@{BESIDE}*"), format!("**/*{BESIDE}@{BESIDE}*")]),
        one(TRAIN, &["**"]),
    ];
    for way in ways {
        let mut found = Vec::new();
        for (split, patterns) in way {
            if !resolve(names, &patterns)?.is_empty() {
                found.push((split, patterns));
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

/// The files that patterns mean, in the order of the patterns and of their names. One that two patterns mean is there once;
/// `datasets` 5.2 reads it twice.
fn resolve<'a>(names: &[&'a str], patterns: &[String]) -> Result<Vec<&'a str>, Unchosen> {
    let mut all = Vec::new();
    let mut is_there = vec![false; names.len()];
    let mut count = 0;
    let bytes: usize = names.iter().map(|name| name.len()).sum();
    for text in patterns {
        let pattern = Pattern::new(text).map_err(|reason| Unchosen::Pattern { pattern: text.clone(), reason })?;
        if pattern.is_name() {
            let name = text.strip_prefix("./").unwrap_or(text);
            let at = names.binary_search(&name).ok().filter(|&at| pattern.matches(names[at]));
            let at = at.ok_or_else(|| Unchosen::NoFile { file: text.clone() })?;
            if !std::mem::replace(&mut is_there[at], true) {
                all.push(names[at]);
            }
            continue;
        }
        count += 1;
        if count > PATTERNS {
            return Err(Unchosen::TooMany { limit: PATTERNS, what: "patterns" });
        }
        if count * bytes > COMPARED {
            return Err(Unchosen::TooMany { limit: COMPARED, what: "bytes of names for its patterns" });
        }
        for (at, name) in names.iter().enumerate() {
            if !is_there[at] && pattern.matches(name) {
                is_there[at] = true;
                all.push(*name);
            }
        }
    }
    Ok(all)
}

/// The format that most files have; of those that are as many, the one that `datasets` prefers.
fn format<'a>(files: impl Iterator<Item = &'a &'a str> + Clone) -> Option<&'static str> {
    let count = |extension: &str| files.clone().filter(|name| extension_of(name) == extension).count();
    let most = FORMATS.iter().map(|(extension, ds_type)| (count(extension), *extension, *ds_type));
    let most = most.filter(|(count, ..)| *count > 0);
    let liked = |extension: &str| ["csv", "json", "jsonl", "arrow", "parquet"].iter().position(|one| *one == extension);
    let most = most.max_by_key(|(count, extension, _)| (*count, liked(extension), *extension));
    most.map(|(.., ds_type)| ds_type)
}

fn format_of(name: &str) -> Option<&'static str> {
    let own = extension_of(name);
    FORMATS.iter().find(|(extension, _)| *extension == own).map(|(_, ds_type)| *ds_type)
}

/// Whether a loader reads a file. What that of somebody else reads nobody knows here: all that is no code.
fn is_of_loader(name: &str, loader: &str) -> bool {
    match (loader, format_of(name)) {
        ("jsonl", format) => format == Some("json"),
        ("csv", format) => matches!(format, Some("csv" | "tsv")),
        ("parquet" | "arrow" | "text", format) => format == Some(loader),
        _ => !is_code(name),
    }
}

/// True for a script of Python.
pub(super) fn is_script(name: &str) -> bool {
    extension_of(name) == "py"
}

/// True for a script or a pickle.
fn is_code(name: &str) -> bool {
    CODE.contains(&extension_of(name).as_str())
}

/// True for a file whose name says that it has rows, packed in whatever way.
fn has_rows(name: &str) -> bool {
    let is_data = |part: &str| FORMATS.iter().any(|(extension, _)| *extension == part) || ARCHIVES.contains(&part);
    file_name(name).to_lowercase().split('.').skip(1).any(is_data)
}

/// In small letters, without that of a packed file; empty where there is none.
fn extension_of(name: &str) -> String {
    let file = file_name(name).to_lowercase();
    let plain = PACKED.iter().find_map(|packed| file.strip_suffix(packed)?.strip_suffix('.')).unwrap_or(&file);
    plain.rsplit_once('.').map_or_else(String::new, |(_, extension)| extension.to_owned())
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests;
