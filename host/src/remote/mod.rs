//! What a config names that is not on this machine but on the Hugging Face hub: found before a check, brought before a run.
//!
//! A check reads small files, the headers of weights and the cards of datasets; weights and data come when they are to be used.
//! Files that a config needs are chosen by name: safetensors, JSON, templates, files with rows. Nothing else of a repository is
//! ever fetched.

mod card;
mod choice;
mod datasets;
mod files;
mod glob;
mod models;
mod recipes;
mod words;

use std::collections::BTreeMap;
use std::path::PathBuf;

use hub::{Hub, HubError, Kind, MAIN, Repository, Settings};
use serde_json::json;

pub use self::datasets::{Contents, files_of};
use self::datasets::{Known, LeftFiles};
use self::files::Uses;
use self::models::{Found, Left, Named, find, named};
pub use self::recipes::HubRecipe;
use crate::config::{HubData, LoadedConfig, loader_named};
use crate::diagnostic::{Diagnostic, Failure, Severity};
use crate::report::progress::bytes;

/// Models and datasets of a config that are on the hub, as far as their weights and rows are not here yet.
#[derive(Debug, Default)]
pub struct Remote {
    hub: Option<Hub>,
    left: Vec<Left>,
    /// By the entry of the config.
    left_data: Vec<(String, LeftFiles)>,
}

impl Remote {
    /// Finds the models and datasets that a config names and that are no paths here, and notes in the config where they are, or
    /// why they cannot be had.
    pub fn find(loaded: &mut LoadedConfig) -> Self {
        let mut remote = Self::default();
        remote.find_models(loaded);
        remote.find_datasets(loaded);
        remote
    }

    /// The same of datasets alone.
    pub fn find_data(loaded: &mut LoadedConfig) -> Self {
        let mut remote = Self::default();
        remote.find_datasets(loaded);
        remote
    }

    fn find_models(&mut self, loaded: &mut LoadedConfig) {
        if loaded.config.revision_of_model.is_some() && loaded.resolve(&loaded.config.base_model).exists() {
            let message = "`revision_of_model` has no effect: `base_model` is a directory here";
            let remark = Diagnostic::warning("hub::revision", message).help("delete the line");
            loaded.remarks.push(remark.at(loaded.source.nearest_place("revision_of_model")));
        }
        for mut named in named(&loaded.config) {
            let is_known = loaded.elsewhere.directories.contains_key(&named.name);
            if is_known || loaded.resolve(&named.name).exists() {
                continue;
            }
            let Some(repository) = Repository::new(Kind::Model, &named.name) else { continue };
            let revision = named.revision.clone();
            named.revision =
                loaded.config.locked_commit(named.key, &named.name, revision.as_deref()).or(named.revision);
            let found = match self.hub() {
                Ok(hub) => find(hub, &named, &repository),
                Err(error) => Err(words::failed(error, &repository)),
            };
            let Named { key, name, .. } = named;
            match found {
                Ok(Found { commit, directory, left, remark }) => {
                    let revision = revision.unwrap_or_else(|| MAIN.to_owned());
                    let pin = json!({ "key": key, "name": name, "revision": revision, "commit": commit });
                    loaded.elsewhere.pins.push(pin);
                    loaded.remarks.extend(remark.map(|remark| remark.at(loaded.source.nearest_place(key))));
                    if let Some((headers, left)) = left {
                        loaded.elsewhere.headers.insert(directory.clone(), headers);
                        self.left.push(left);
                    }
                    loaded.elsewhere.directories.insert(name, directory);
                }
                Err(diagnostic) => drop(loaded.elsewhere.missing.insert(name, diagnostic)),
            }
        }
    }

    fn find_datasets(&mut self, loaded: &mut LoadedConfig) {
        let (datasets, tests) = (loaded.config.datasets.clone(), loaded.config.test_datasets.clone());
        let mut known: BTreeMap<(String, Option<String>), Result<Known, Diagnostic>> = BTreeMap::new();
        for (is_test, all) in [(false, datasets), (true, tests)] {
            for (index, dataset) in all.iter().enumerate() {
                let entry = format!("{}[{index}]", if is_test { "test_datasets" } else { "datasets" });
                if loaded.source.resolve(&dataset.path).exists() {
                    loaded.remarks.extend(datasets::without_effect(loaded, &entry, dataset));
                    continue;
                }
                let Some(repository) = datasets::repository(&dataset.path) else { continue };
                let is_given = loaded.is_given(&format!("{entry}.ds_type"));
                let revision = dataset.revision.as_deref();
                let locked = loaded.config.locked_commit(&format!("{entry}.path"), &dataset.path, revision);
                let found = match self.hub() {
                    Ok(hub) => {
                        let known = known.entry((dataset.path.clone(), dataset.revision.clone()));
                        let revision = dataset.revision.as_deref();
                        let locked = locked.as_deref();
                        let known = known.or_insert_with(|| datasets::find(hub, &repository, revision, locked));
                        known.as_ref().map_err(|told| ("path", told.clone())).and_then(|known| {
                            let wanted = datasets::wanted(dataset, is_given);
                            Ok((known.pin(&format!("{entry}.path")), known.files(hub, &wanted)?))
                        })
                    }
                    Err(error) => Err(("path", words::failed(error, &repository))),
                };
                let at = |diagnostic: Diagnostic, key: &str| {
                    diagnostic.at(loaded.source.nearest_place(&format!("{entry}.{key}")))
                };
                let data = match found {
                    Ok((pin, files)) => {
                        loaded.remarks.extend(files.remarks.into_iter().map(|remark| at(remark, "path")));
                        loaded.elsewhere.pins.push(pin);
                        if let Some(ds_type) = files.ds_type {
                            let config = &mut loaded.config;
                            let all = if is_test { &mut config.test_datasets } else { &mut config.datasets };
                            all[index].ds_type = loader_named(ds_type);
                        }
                        let is_here = files.left.is_none();
                        self.left_data.extend(files.left.map(|left| (entry.clone(), left)));
                        Ok(HubData { directory: files.directory, splits: files.splits, is_here })
                    }
                    Err((key, diagnostic)) => Err(at(diagnostic, key)),
                };
                loaded.elsewhere.data.insert(entry, data);
            }
        }
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

    /// What a check cannot look at, since it is not here yet.
    pub fn notes(&self, loaded: &LoadedConfig) -> Vec<Diagnostic> {
        let note = |(entry, left): &(String, LeftFiles)| {
            let (count, size) = left.size();
            let files = if count == 1 { "1 file".to_owned() } else { format!("{count} files") };
            let message =
                format!("rows of `{}` are not looked at: {files} ({}) are not here yet", left.repository, bytes(size));
            let help = "`host train` and `host preprocess` fetch them, and `host check --plan`";
            let note = Diagnostic::new(Severity::Note, "hub::data", message).help(help);
            note.at(loaded.source.nearest_place(&format!("{entry}.path")))
        };
        self.left_data.iter().map(note).collect()
    }

    /// Brings the rows that are left.
    ///
    /// # Errors
    /// Why they cannot be had.
    pub fn bring_data(&mut self, loaded: &mut LoadedConfig) -> Result<(), Failure> {
        for (entry, left) in std::mem::take(&mut self.left_data) {
            let brought = self.hub().and_then(|hub| left.bring(hub));
            brought.map_err(|error| {
                let place = loaded.source.nearest_place(&format!("{entry}.path"));
                words::failed(error, &left.repository).at(place)
            })?;
            if let Some(Ok(data)) = loaded.elsewhere.data.get_mut(&entry) {
                data.is_here = true;
            }
        }
        Ok(())
    }

    /// Brings the weights that are left.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub fn bring(&mut self, loaded: &mut LoadedConfig) -> Result<(), Failure> {
        for left in std::mem::take(&mut self.left) {
            let brought = self.hub().and_then(|hub| left.bring(hub));
            brought
                .map_err(|error| words::failed(error, &left.repository).at(loaded.source.nearest_place(left.key)))?;
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
    let hub = hub.map_err(|error| words::failed(error, &repository))?;
    let uses = if is_adapter { Uses::Adapter } else { Uses::Weights };
    let named = Named { key: "", name: name.to_owned(), revision: None, uses };
    let Found { directory, left, .. } = find(&hub, &named, &repository)?;
    if let Some((_, left)) = left {
        left.bring(&hub).map_err(|error| words::failed(error, &repository))?;
    }
    Ok(Some(directory))
}
