//! A config that can be worked with: read, with its plugins and its model's facts, everything checked.

use std::path::Path;

use plugin_runtime::PluginHost;

use super::facts::ModelFacts;
use super::plugins::{self, Grant};
use super::{check, check_examined, curation, lock, recipe};
use crate::config::{self, LoadedConfig};
use crate::diagnostic::{Diagnostic, Failure};
use crate::remote::Remote;

/// What a config and its files make, where nothing is wrong with them.
pub struct Ready {
    /// The config.
    pub loaded: LoadedConfig,
    /// All plugins that there are, those of the config set up as it says.
    pub plugins: PluginHost,
    /// The model's files, but for the weights.
    pub model: ModelFacts,
    /// Warnings and notes.
    pub remarks: Vec<Diagnostic>,
    /// Weights and rows that are not here yet.
    remote: Remote,
}

impl Ready {
    /// Reads the config at `path`, with `set` (`key=value`) in place of what it says, and checks it. `grants` let dataset
    /// loaders read more than their data; with `locked`, plugins must be those of `plugins.lock`, and a recipe what its lock says.
    ///
    /// # Errors
    /// Everything that is wrong, with all that is remarkable beside.
    pub fn new(
        path: &Path,
        set: &[String],
        mut plugins: PluginHost,
        grants: &[Grant],
        locked: bool,
    ) -> Result<Self, Failure> {
        let mut examined = config::examine(path, set);
        let remote = examined.loaded.as_mut().map(Remote::find).unwrap_or_default();
        if let Some(loaded) = &examined.loaded {
            plugins::configure(loaded, grants, &mut plugins)?;
        }
        if examined.has_errors() {
            return Err(Failure(check_examined(&examined, &plugins).0));
        }
        let mut loaded = examined.loaded.ok_or_else(|| Failure(examined.problems.clone()))?;
        loaded.remarks.extend(examined.problems);
        let mut remarks = std::mem::take(&mut loaded.remarks);
        let is_recipe = loaded.config.recipe.is_some();
        if is_recipe && locked {
            // Before a plugin is started that may be another.
            remarks.extend(Failure::check(recipe::check_file(path, set, &loaded, &plugins)?)?);
        }
        let (mut found, model) = check(&loaded, &plugins);
        if !(is_recipe && locked) {
            found.extend(lock::check(&loaded, &plugins, locked));
        }
        remarks.extend(Failure::check(found)?);
        let Some(model) = model else { return Err(Failure(remarks)) };
        Ok(Self { loaded, plugins, model, remarks, remote })
    }

    /// Brings the rows of datasets that are not here yet.
    ///
    /// # Errors
    /// Why they cannot be had, and rows that are to be curated first.
    pub fn bring_data(&mut self) -> Result<(), Failure> {
        curation::refuse(&self.loaded)?;
        self.bring_rows()
    }

    /// The same of rows that are to be curated.
    ///
    /// # Errors
    /// Why they cannot be had.
    pub fn bring_rows(&mut self) -> Result<(), Failure> {
        self.remote.bring_data(&mut self.loaded)
    }

    /// Brings weights that are not here yet, and looks at the model again, as it is then. Returns what that has brought to light.
    ///
    /// # Errors
    /// Why they cannot be had, and what is wrong with them.
    pub fn bring(&mut self) -> Result<Vec<Diagnostic>, Failure> {
        if self.remote.is_complete() {
            return Ok(Vec::new());
        }
        self.remote.bring(&mut self.loaded)?;
        let before = std::mem::replace(&mut self.model, ModelFacts::read(&self.loaded)?);
        let is_new = |remark: &&Diagnostic| !before.remarks.contains(remark);
        let remarks = Failure::check(self.model.remarks.iter().filter(is_new).cloned().collect())?;
        self.remarks.extend(remarks.iter().cloned());
        Ok(remarks)
    }
}
