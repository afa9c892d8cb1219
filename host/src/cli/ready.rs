//! A config that a command can work with: read, with its plugins and its model's facts, everything checked.

use plugin_runtime::PluginHost;

use super::{ConfigArgs, open_plugins, show};
use crate::check::facts::ModelFacts;
use crate::check::{self, plugins};
use crate::config::{self, LoadedConfig};
use crate::diagnostic::{Diagnostic, Failure};

/// What a config and its files make, where nothing is wrong with them.
pub(super) struct Ready {
    pub(super) plugins: PluginHost,
    pub(super) loaded: LoadedConfig,
    pub(super) model: ModelFacts,
    /// Warnings and notes, which have been shown.
    pub(super) remarks: Vec<Diagnostic>,
    /// The config is the built-in one.
    pub(super) built_in: bool,
}

impl Ready {
    /// Reads and checks the config, and shows what is remarkable. With `locked`, plugins must be those of `plugins.lock`.
    pub(super) fn new(args: &ConfigArgs, locked: bool) -> Result<Self, Failure> {
        let (path, built_in) = args.choose()?;
        let mut plugins = open_plugins(&args.plugins)?;
        let examined = config::examine(&path, &args.set);
        if let Some(loaded) = &examined.loaded {
            plugins::configure(loaded, &args.grant, &mut plugins)?;
        }
        if examined.has_errors() {
            return Err(Failure(check::check_examined(&examined, &plugins).0));
        }
        let mut loaded = examined.loaded.ok_or_else(|| Failure(examined.problems.clone()))?;
        loaded.remarks = examined.problems;
        let (mut found, model) = check::check(&loaded, &plugins);
        found.extend(check::lock::check(&loaded, &plugins, locked));
        let mut remarks = std::mem::take(&mut loaded.remarks);
        remarks.extend(Failure::check(found)?);
        show(&remarks, args.output());
        let Some(model) = model else { return Err(Failure(remarks)) };
        Ok(Self { plugins, loaded, model, remarks, built_in })
    }
}
