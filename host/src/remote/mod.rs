//! What a config names that is not on this machine but on the Hugging Face hub: found before a check, brought before a run.
//!
//! A check reads small files and the headers of weights; the weights come when they are to be used. Files that a config needs are
//! chosen by name: safetensors, JSON, templates. Nothing else of a repository is ever fetched.

mod files;
mod progress;
mod words;

use std::path::PathBuf;

use engine::weights::start::{FileStart, LENGTH, header_end, headers_of};
use engine::weights::{WeightHeaders, WeightsError};
use hub::{Hub, HubError, Kind, Listing, RemoteFile, Repository, Settings};
use serde_json::json;

use self::files::{ADAPTER_WEIGHTS, Uses, is_small, weights_of};
use self::progress::Told;
use crate::config::{Config, LoadedConfig};
use crate::diagnostic::{Diagnostic, Failure, Severity};

/// What the hub's default branch is called.
const MAIN: &str = "main";
/// Bytes of a weight file that are asked for first: most headers fit.
const START: u64 = 1 << 18;

/// Models of a config that are on the hub, as far as their weights are not here yet.
#[derive(Debug, Default)]
pub struct Remote {
    hub: Option<Hub>,
    left: Vec<Left>,
}

/// Weights that are still to be brought.
#[derive(Debug)]
struct Left {
    key: &'static str,
    repository: Repository,
    revision: String,
    listing: Listing,
    files: Vec<String>,
    directory: PathBuf,
}

impl Left {
    fn bring(&self, hub: &Hub) -> Result<(), HubError> {
        let files: Vec<&RemoteFile> = self.files.iter().filter_map(|name| self.listing.file(name)).collect();
        let told = Told::new(&self.repository);
        hub.fetch(&self.repository, &self.revision, &self.listing, &files, &told).map(drop)
    }
}

/// A name of the config that may be a model of the hub.
struct Named {
    key: &'static str,
    name: String,
    revision: Option<String>,
    uses: Uses,
}

/// What was found of a model.
struct Found {
    commit: String,
    directory: PathBuf,
    /// The headers of weights that are not here, and what is left to bring.
    left: Option<(WeightHeaders, Left)>,
    remark: Option<Diagnostic>,
}

impl Remote {
    /// Finds the models that a config names and that are no directories here, and notes in the config where they are, or why
    /// they cannot be had.
    pub fn find(loaded: &mut LoadedConfig) -> Self {
        let mut remote = Self::default();
        if loaded.config.revision_of_model.is_some() && loaded.resolve(&loaded.config.base_model).exists() {
            let message = "`revision_of_model` has no effect: `base_model` is a directory here";
            let remark = Diagnostic::warning("hub::revision", message).help("delete the line");
            loaded.remarks.push(remark.at(loaded.source.nearest_place("revision_of_model")));
        }
        for named in named(&loaded.config) {
            let is_known = loaded.elsewhere.directories.contains_key(&named.name);
            if is_known || loaded.resolve(&named.name).exists() {
                continue;
            }
            let Some(repository) = Repository::new(Kind::Model, &named.name) else { continue };
            let found = match remote.hub() {
                Ok(hub) => find(hub, &named, &repository),
                Err(error) => Err(words::failed(error, &named.name)),
            };
            let Named { key, name, revision, .. } = named;
            match found {
                Ok(Found { commit, directory, left, remark }) => {
                    let revision = revision.unwrap_or_else(|| MAIN.to_owned());
                    let pin = json!({ "key": key, "name": name, "revision": revision, "commit": commit });
                    loaded.elsewhere.pins.push(pin);
                    loaded.remarks.extend(remark.map(|remark| remark.at(loaded.source.nearest_place(key))));
                    if let Some((headers, left)) = left {
                        loaded.elsewhere.headers.insert(directory.clone(), headers);
                        remote.left.push(left);
                    }
                    loaded.elsewhere.directories.insert(name, directory);
                }
                Err(diagnostic) => drop(loaded.elsewhere.missing.insert(name, diagnostic)),
            }
        }
        remote
    }

    fn hub(&mut self) -> Result<&Hub, HubError> {
        if self.hub.is_none() {
            self.hub = Some(Hub::new(Settings::from_variables(|name| std::env::var_os(name))?)?);
        }
        Ok(self.hub.as_ref().expect("it was just made"))
    }

    /// True if all weights are here.
    pub fn is_complete(&self) -> bool {
        self.left.is_empty()
    }

    /// Brings what is left.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub fn bring(&mut self, loaded: &mut LoadedConfig) -> Result<(), Failure> {
        for left in std::mem::take(&mut self.left) {
            let brought = self.hub().and_then(|hub| left.bring(hub));
            brought.map_err(|error| {
                words::failed(error, left.repository.name()).at(loaded.source.nearest_place(left.key))
            })?;
            loaded.elsewhere.headers.remove(&left.directory);
        }
        Ok(())
    }
}

/// A model of the hub, or an adapter, with all that it takes to use it; none for what is no name of the hub.
///
/// # Errors
/// Why it cannot be had.
pub fn model(name: &str, is_adapter: bool) -> Result<Option<PathBuf>, Diagnostic> {
    let Some(repository) = Repository::new(Kind::Model, name) else { return Ok(None) };
    let hub = Settings::from_variables(|name| std::env::var_os(name)).and_then(Hub::new);
    let hub = hub.map_err(|error| words::failed(error, name))?;
    let uses = if is_adapter { Uses::Adapter } else { Uses::Weights };
    let named = Named { key: "", name: name.to_owned(), revision: None, uses };
    let Found { directory, left, .. } = find(&hub, &named, &repository)?;
    if let Some((_, left)) = left {
        left.bring(&hub).map_err(|error| words::failed(error, name))?;
    }
    Ok(Some(directory))
}

/// The names of a config that may be of the hub, each once.
fn named(config: &Config) -> Vec<Named> {
    let teacher = config.trl.as_ref().and_then(|trl| trl.teacher_model_name_or_path.as_deref());
    let weights = if config.reinit_weights { Uses::Files } else { Uses::Weights };
    let all = [
        ("base_model", Some(config.base_model.as_str()), weights),
        ("base_model_config", Some(config.base_model_config.as_str()), Uses::Files),
        ("tokenizer_config", Some(config.tokenizer_config.as_str()), Uses::Files),
        ("trl.teacher_model_name_or_path", teacher, Uses::Weights),
        ("lora_model_dir", config.lora_model_dir.as_deref(), Uses::Adapter),
    ];
    let mut names: Vec<Named> = Vec::new();
    for (key, name, uses) in all {
        let Some(name) = name.filter(|name| !name.is_empty()) else { continue };
        if let Some(known) = names.iter_mut().find(|known| known.name == name) {
            known.uses = known.uses.max(uses);
            continue;
        }
        let revision = config.revision_of_model.clone().filter(|_| name == config.base_model);
        names.push(Named { key, name: name.to_owned(), revision, uses });
    }
    names
}

/// Finds a model, and brings what a check reads of it.
fn find(hub: &Hub, named: &Named, repository: &Repository) -> Result<Found, Diagnostic> {
    let revision = named.revision.as_deref().unwrap_or(MAIN);
    let failed = |error| words::failed(error, &named.name);
    let cached = hub.cached(repository, revision).map_err(failed)?;
    let cached = cached.filter(|(_, directory)| files::is_complete(directory, named.uses));
    // A commit means the same for ever; without a network, whatever the revision meant last.
    if let Some((commit, directory)) = cached.clone().filter(|(commit, _)| hub.is_offline() || commit == revision) {
        return Ok(Found { commit, directory, left: None, remark: None });
    }
    let listing = match (hub.list(repository, revision), cached) {
        (Ok(listing), _) => listing,
        (Err(error @ HubError::Unreachable { .. }), Some((commit, directory))) => {
            let message = format!("`{repository}` is taken from the cache: {error}");
            let remark = Diagnostic::new(Severity::Warning, "hub::unreachable", message);
            let help = format!("`revision_of_model: {commit}` says so, and asks nobody; `HF_HUB_OFFLINE=1` neither");
            return Ok(Found { commit, directory, left: None, remark: Some(remark.help(help)) });
        }
        (Err(error), _) => return Err(failed(error)),
    };
    let small: Vec<&RemoteFile> = listing
        .files
        .iter()
        .filter(|file| is_small(&file.name) || (file.name == ADAPTER_WEIGHTS && named.uses == Uses::Adapter))
        .collect();
    let told = Told::new(repository);
    let directory = hub.fetch(repository, revision, &listing, &small, &told).map_err(failed)?;
    let commit = listing.commit.clone();
    if named.uses != Uses::Weights || files::is_complete(&directory, Uses::Weights) {
        return Ok(Found { commit, directory, left: None, remark: None });
    }
    let files = weights_of(&directory, &listing)
        .map_err(|missing| words::no_weights(repository, &hub.page(repository), missing))?;
    let mut starts = Vec::with_capacity(files.len());
    for file in &files {
        let Some(remote) = listing.file(file) else {
            return Err(failed(HubError::NoFile { repository: repository.to_string(), file: file.clone() }));
        };
        starts.push(start(hub, repository, &listing, remote, directory.join(file)).map_err(failed)?);
    }
    let headers = headers_of(&starts).map_err(|error: WeightsError| Diagnostic::from(error))?;
    let (repository, revision) = (repository.clone(), revision.to_owned());
    let left = Left { key: named.key, repository, revision, listing, files, directory: directory.clone() };
    Ok(Found { commit, directory, left: Some((headers, left)), remark: None })
}

/// The beginning of a weight file, with its header.
fn start(
    hub: &Hub,
    repository: &Repository,
    listing: &Listing,
    remote: &RemoteFile,
    file: PathBuf,
) -> Result<FileStart, HubError> {
    let mut bytes = hub.first_bytes(repository, listing, remote, START)?;
    let end = bytes.get(..LENGTH as usize).and_then(header_end).unwrap_or(0);
    if end > bytes.len() as u64 {
        bytes = hub.first_bytes(repository, listing, remote, end)?;
    }
    Ok(FileStart { file, bytes, size: remote.size })
}
