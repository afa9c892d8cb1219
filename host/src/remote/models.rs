//! A model that a config names and that is on the hub: found before a check, which reads small files and the headers of weights,
//! brought when its weights are to be used.

use std::path::PathBuf;

use engine::weights::start::{FileStart, LENGTH, header_end, headers_of};
use engine::weights::{WeightHeaders, WeightsError};
use hub::{Hub, HubError, Listing, MAIN, RemoteFile, Repository};

use super::files::{ADAPTER_WEIGHTS, Uses, is_complete, is_small, weights_of};
use super::words;
use crate::config::Config;
use crate::diagnostic::{Diagnostic, Severity};
use crate::report::fetching::Fetching;

/// Bytes of a weight file that are asked for first: most headers fit.
const START: u64 = 1 << 18;

/// Weights that are still to be brought.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) key: &'static str,
    pub(super) repository: Repository,
    revision: String,
    listing: Listing,
    files: Vec<String>,
    pub(super) directory: PathBuf,
}

impl Left {
    pub(super) fn bring(&self, hub: &Hub) -> Result<(), HubError> {
        let files: Vec<&RemoteFile> = self.files.iter().filter_map(|name| self.listing.file(name)).collect();
        let told = Fetching::new(&self.repository);
        hub.fetch(&self.repository, &self.revision, &self.listing, &files, &told).map(drop)
    }
}

/// A name of the config that may be a model of the hub.
pub(super) struct Named {
    pub(super) key: &'static str,
    pub(super) name: String,
    pub(super) revision: Option<String>,
    pub(super) uses: Uses,
}

/// What was found of a model.
pub(super) struct Found {
    pub(super) commit: String,
    pub(super) directory: PathBuf,
    /// The headers of weights that are not here, and what is left to bring.
    pub(super) left: Option<(WeightHeaders, Left)>,
    pub(super) remark: Option<Diagnostic>,
}

/// The names of a config that may be of the hub, each once.
pub(super) fn named(config: &Config) -> Vec<Named> {
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
pub(super) fn find(hub: &Hub, named: &Named, repository: &Repository) -> Result<Found, Diagnostic> {
    let revision = named.revision.as_deref().unwrap_or(MAIN);
    let failed = |error| words::failed(error, repository);
    let cached = hub.cached(repository, revision).map_err(failed)?;
    let cached = cached.filter(|(_, directory)| is_complete(directory, named.uses));
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
    let told = Fetching::new(repository);
    let directory = hub.fetch(repository, revision, &listing, &small, &told).map_err(failed)?;
    let commit = listing.commit.clone();
    if named.uses != Uses::Weights || is_complete(&directory, Uses::Weights) {
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
