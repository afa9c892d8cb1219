//! A dataset that an entry of the config names and that is on the hub: found before a check, which reads its card and asks for
//! nothing more, brought before rows are read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hub::{Hub, HubError, Kind, Listing, MAIN, RemoteFile, Repository};
use serde_json::{Value, json};

use super::card::{CARD, CARD_BYTES, Subset, YAML, subsets};
use super::choice::{CONVERTED, Chosen, Unchosen, Wanted, choose, converted, is_partial, is_script};
use super::words;
use crate::config::{DatasetConfig, LoadedConfig};
use crate::diagnostic::{Diagnostic, Severity};
use crate::report::fetching::Fetching;

/// Extensions of files: a path with one is no name of the hub.
const FILES: [&str; 14] =
    ["jsonl", "json", "ndjson", "csv", "tsv", "parquet", "arrow", "txt", "gz", "zst", "zip", "xz", "yml", "yaml"];

/// The repository that `path` names where it is no path here: `org/name`, and no file's extension.
pub(super) fn repository(path: &str) -> Option<Repository> {
    let extension = path.rsplit_once('.').map_or(String::new(), |(_, extension)| extension.to_lowercase());
    Repository::new(Kind::Dataset, path).filter(|_| !FILES.contains(&extension.as_str()))
}

/// What was found of a repository at a revision.
#[derive(Debug, Clone)]
pub(super) struct Known {
    repository: Repository,
    revision: String,
    /// What the hub is asked for: the revision, or the commit that a lock names for it.
    asked: String,
    commit: String,
    directory: PathBuf,
    /// None where only the cache was asked, and has not been told.
    listing: Option<Listing>,
    /// Names of its files, sorted.
    names: Vec<String>,
    subsets: Vec<Subset>,
    remark: Option<Diagnostic>,
}

/// The files that an entry of the config means.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) directory: PathBuf,
    pub(super) splits: BTreeMap<String, Vec<String>>,
    /// What `ds_type` would be called, where the config does not say.
    pub(super) ds_type: Option<&'static str>,
    pub(super) remarks: Vec<Diagnostic>,
    /// Those that are not here, if any.
    pub(super) left: Option<LeftFiles>,
}

/// Files that are still to be brought.
#[derive(Debug)]
pub(super) struct LeftFiles {
    pub(super) repository: Repository,
    revision: String,
    listing: Listing,
    files: Vec<String>,
}

impl LeftFiles {
    fn remote(&self) -> Vec<&RemoteFile> {
        self.files.iter().filter_map(|name| self.listing.file(name)).collect()
    }

    /// How many, and their bytes together.
    pub(super) fn size(&self) -> (usize, u64) {
        (self.files.len(), self.remote().iter().fold(0, |sum, file| file.size.saturating_add(sum)))
    }

    pub(super) fn bring(&self, hub: &Hub) -> Result<(), HubError> {
        let told = Fetching::new(&self.repository);
        hub.fetch(&self.repository, &self.revision, &self.listing, &self.remote(), &told).map(drop)
    }
}

/// Finds a repository at a revision, and reads its card. A lock has said which commit that is.
///
/// # Errors
/// Why it cannot be had.
pub(super) fn find(
    hub: &Hub,
    repository: &Repository,
    revision: Option<&str>,
    locked: Option<&str>,
) -> Result<Known, Diagnostic> {
    let of = Asked { revision: revision.unwrap_or(MAIN), asked: locked.or(revision).unwrap_or(MAIN) };
    let revision = of.asked;
    let failed = |error| words::failed(error, repository);
    let cached = hub.cached(repository, revision).map_err(failed)?;
    // A commit means the same for ever; without a network, whatever the revision meant last.
    if let Some((commit, directory)) = cached.clone() {
        let listing = hub.listed(repository, &commit);
        let has_cards = |listing: &Listing| cards(listing).iter().all(|file| directory.join(&file.name).is_file());
        if hub.is_offline() || (commit == revision && listing.as_ref().is_some_and(has_cards)) {
            return known(hub, repository, of, commit, listing, None);
        }
    }
    let listing = match (hub.list(repository, revision), cached) {
        (Ok(listing), _) => listing,
        (Err(error @ HubError::Unreachable { .. }), Some((commit, _))) => {
            let message = format!("`{repository}` is taken from the cache: {error}");
            let remark = Diagnostic::new(Severity::Warning, "hub::unreachable", message);
            let help = format!("`revision: {commit}` says so, and asks nobody; `HF_HUB_OFFLINE=1` neither");
            let listing = hub.listed(repository, &commit);
            return known(hub, repository, of, commit, listing, Some(remark.help(help)));
        }
        (Err(error), _) => return Err(failed(error)),
    };
    let cards = cards(&listing);
    if let Some(large) = cards.iter().find(|file| file.size > CARD_BYTES) {
        let reason = format!("`{}` has more than {} MiB", large.name, CARD_BYTES >> 20);
        return Err(words::bad_card(repository, &hub.page(repository), reason));
    }
    let told = Fetching::new(repository);
    hub.fetch(repository, revision, &listing, &cards, &told).map_err(failed)?;
    let commit = listing.commit.clone();
    known(hub, repository, of, commit, Some(listing), None)
}

/// The files of a listing that say which others are meant.
fn cards(listing: &Listing) -> Vec<&RemoteFile> {
    [CARD, YAML].into_iter().filter_map(|name| listing.file(name)).collect()
}

/// A revision, and what the hub is asked for in its place.
#[derive(Debug, Clone, Copy)]
struct Asked<'a> {
    revision: &'a str,
    asked: &'a str,
}

/// A repository whose card is here.
fn known(
    hub: &Hub,
    repository: &Repository,
    Asked { revision, asked }: Asked<'_>,
    commit: String,
    listing: Option<Listing>,
    remark: Option<Diagnostic>,
) -> Result<Known, Diagnostic> {
    let directory = hub.snapshot(repository, &commit);
    let read = |name: &str| {
        let unreadable = |error: std::io::Error| {
            words::bad_card(repository, &hub.page(repository), format!("`{name}` cannot be read: {error}"))
        };
        let found = intake::read_inside_if_there(&directory.join(name), CARD_BYTES).map_err(unreadable)?;
        if found.is_none() && listing.as_ref().is_some_and(|listing| listing.file(name).is_some()) {
            return Err(words::failed(HubError::Offline { repository: repository.to_string() }, repository));
        }
        Ok(found)
    };
    let cards = [read(CARD)?, read(YAML)?];
    let names: Vec<String> = match &listing {
        Some(listing) => listing.files.iter().map(|file| file.name.clone()).collect(),
        None => hub.snapshot_files(repository, &commit),
    };
    let cards = cards.each_ref().map(Option::as_deref);
    let subsets = read_cards(repository, &hub.page(repository), revision, cards, &names)?;
    let mut remark = remark;
    if listing.is_none() {
        let message = format!("of `{repository}` only those files are known that are in the cache");
        let help = "run it once without `HF_HUB_OFFLINE` to know that none is missing";
        remark = Some(Diagnostic::warning("hub::cache", message).help(help));
    }
    let (repository, revision, asked) = (repository.clone(), revision.to_owned(), asked.to_owned());
    Ok(Known { repository, revision, asked, commit, directory, listing, names, subsets, remark })
}

/// The configs that a repository has by its card, by its file of YAML, and by the names of its files.
fn read_cards(
    repository: &Repository,
    page: &str,
    revision: &str,
    [card, yaml]: [Option<&[u8]>; 2],
    names: &[String],
) -> Result<Vec<Subset>, Diagnostic> {
    let subsets = subsets(card, yaml).map_err(|reason| words::bad_card(repository, page, reason))?;
    Ok(if subsets.is_empty() && revision == CONVERTED { converted(names) } else { subsets })
}

/// The files of a repository that are meant, or why there are none; the key of the entry that it is about is beside it.
fn chosen(
    repository: &Repository,
    page: &str,
    names: &[String],
    subsets: &[Subset],
    wanted: &Wanted<'_>,
) -> Result<Chosen, (&'static str, Diagnostic)> {
    // What a script would make of data nobody knows; `datasets` 5 refuses it as well.
    let own = repository.name().rsplit('/').next().unwrap_or_default();
    let script = names.iter().find(|name| **name == format!("{own}.py"));
    let is_silent = subsets.is_empty() && wanted.data_files.is_empty();
    if let Some(script) = script.filter(|_| is_silent) {
        return Err(("path", words::script(repository, script, CONVERTED)));
    }
    choose(names, subsets, wanted).map_err(|unchosen| {
        let script = names.iter().find(|name| is_script(name)).filter(|_| is_silent);
        match (&unchosen, script) {
            (Unchosen::NoRows { .. }, Some(script)) => ("path", words::script(repository, script, CONVERTED)),
            _ => match words::unchosen(unchosen, repository, page) {
                // Patterns of the card have no place in the config.
                ("data_files", diagnostic) if wanted.data_files.is_empty() => ("path", diagnostic),
                told => told,
            },
        }
    })
}

/// A dataset's repository without the hub that it is on.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The branch, tag or commit.
    pub revision: &'a str,
    /// Its `README.md` and its `.huggingface.yaml`.
    pub cards: [Option<&'a [u8]>; 2],
    /// Names of its files, sorted.
    pub names: &'a [String],
}

/// The files that an entry of the config means of its repository, split by split, and what is said of others; `is_given` says
/// that the entry names its loader. None where `path` is no name of the hub.
pub fn files_of(
    dataset: &DatasetConfig,
    is_given: bool,
    contents: &Contents<'_>,
) -> Option<Result<(Vec<(String, Vec<String>)>, Option<Diagnostic>), Diagnostic>> {
    let repository = repository(&dataset.path)?;
    let page = format!("https://huggingface.co/datasets/{repository}");
    let Contents { revision, cards, names } = contents;
    Some(read_cards(&repository, &page, revision, *cards, names).and_then(|subsets| {
        let chosen = chosen(&repository, &page, names, &subsets, &wanted(dataset, is_given));
        let chosen = chosen.map_err(|(_, diagnostic)| diagnostic)?;
        let remark = words::left_out(&repository, &chosen.left_out);
        Ok((chosen.splits, remark))
    }))
}

/// What an entry of the config says of files; `is_given` says that it names the loader.
pub(super) fn wanted(dataset: &DatasetConfig, is_given: bool) -> Wanted<'_> {
    let mut splits: Vec<&str> = Vec::new();
    for part in &dataset.split.parts {
        if !splits.contains(&part.name.as_str()) {
            splits.push(&part.name);
        }
    }
    let loader = Some(dataset.ds_type.name.as_str()).filter(|_| is_given);
    Wanted { name: dataset.name.as_deref(), splits, data_files: &dataset.data_files, loader }
}

/// What of an entry has no effect, since its path is one here.
pub(super) fn without_effect(loaded: &LoadedConfig, entry: &str, dataset: &DatasetConfig) -> Vec<Diagnostic> {
    let keys = [("name", &dataset.name, "hub::config"), ("revision", &dataset.revision, "hub::revision")];
    let told = |(key, value, code): (&str, &Option<String>, &str)| {
        let message = format!("`{key}` has no effect: `{}` is a path here", dataset.path);
        let place = loaded.source.nearest_place(&format!("{entry}.{key}"));
        value.as_ref().map(|_| Diagnostic::warning(code, message).help("delete the line").at(place))
    };
    keys.into_iter().filter_map(told).collect()
}

impl Known {
    /// What a run remembers of it, for the config path that names it.
    pub(super) fn pin(&self, key: &str) -> Value {
        json!({ "key": key, "name": self.repository.name(), "revision": self.revision, "commit": self.commit })
    }

    /// The files that are meant, and those of them that are not here; whether one of those may be had is asked.
    ///
    /// # Errors
    /// Why there are none; the key of the entry that it is about is beside it.
    pub(super) fn files(&self, hub: &Hub, wanted: &Wanted<'_>) -> Result<Files, (&'static str, Diagnostic)> {
        let page = hub.page(&self.repository);
        let chosen = chosen(&self.repository, &page, &self.names, &self.subsets, wanted)?;
        let left = self.left(hub, &chosen).map_err(|told| ("path", told))?;
        let mut remarks: Vec<Diagnostic> = self.remark.clone().into_iter().collect();
        remarks.extend(words::left_out(&self.repository, &chosen.left_out));
        let all = chosen.splits.iter().flat_map(|(_, files)| files);
        if self.revision == CONVERTED && all.clone().any(|name| is_partial(name)) {
            let message = format!("the hub has converted only the first part of `{}`", self.repository);
            remarks.push(Diagnostic::warning("hub::partial", message));
        }
        let Chosen { splits, ds_type, .. } = chosen;
        Ok(Files { directory: self.directory.clone(), splits: splits.into_iter().collect(), ds_type, remarks, left })
    }

    /// What of the files is not here.
    fn left(&self, hub: &Hub, chosen: &Chosen) -> Result<Option<LeftFiles>, Diagnostic> {
        // Without a listing, they are from the cache.
        let Some(listing) = &self.listing else { return Ok(None) };
        let is_here = |file: &RemoteFile| {
            let found = self.directory.join(&file.name).metadata();
            found.is_ok_and(|found| found.is_file() && found.len() == file.size)
        };
        let all = chosen.splits.iter().flat_map(|(_, files)| files).filter_map(|name| listing.file(name));
        let missing: Vec<&RemoteFile> = all.filter(|file| !is_here(file)).collect();
        let Some(first) = missing.iter().find(|file| file.size > 0).or(missing.first()) else { return Ok(None) };
        let files: Vec<String> = missing.iter().map(|file| file.name.clone()).collect();
        if hub.is_offline() {
            return Err(words::not_cached(&self.repository, &files));
        }
        if first.size > 0 {
            let asked = hub.first_bytes(&self.repository, listing, first, 1);
            asked.map_err(|error| words::failed(error, &self.repository))?;
        }
        let (repository, revision) = (self.repository.clone(), self.asked.clone());
        Ok(Some(LeftFiles { repository, revision, listing: listing.clone(), files }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_files_are_no_names_of_the_hub() {
        for name in ["tatsu-lab/alpaca", "teknium/OpenHermes-2.5", "HuggingFaceH4/ultrachat_200k"] {
            assert!(repository(name).is_some(), "{name}");
        }
        for path in
            ["data/train.jsonl", "train", "./a/b", "../data/train", "/abs/x", "a/b/c", "my data/x", "a/b.JSON.gz"]
        {
            assert!(repository(path).is_none(), "{path}");
        }
    }
}
