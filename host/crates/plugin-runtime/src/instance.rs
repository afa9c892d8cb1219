//! Running plugins: one type per kind, each an instance of its own with its own memory. Every call runs under the
//! plugin's limits, and what comes back is checked before the host believes it.

use std::sync::Arc;
use std::time::Instant;

use wasmtime::Store;
use wasmtime::component::{InstancePre, ResourceAny};

use crate::bindings::loader::exports::trainer::plugin::dataset_loader::Source as GuestSource;
use crate::bindings::loader::{DatasetLoaderPlugin, DatasetLoaderPluginPre};
use crate::bindings::reward::{RewardPlugin, RewardPluginPre};
use crate::bindings::rules::{CompatRulesPlugin, CompatRulesPluginPre};
use crate::bindings::strategy::{PromptStrategyPlugin, PromptStrategyPluginPre};
use crate::error::{PluginError, one_line};
use crate::files::Opened;
use crate::sandbox::{Limits, Sandbox, State, explain, finish, prepare};
use crate::stats::Meter;
use crate::types::{Context, Facts, Finding, GuestError, Item, RowBatch, RowError, RuleInfo, Sample, Score};

/// Characters of a guest's message that are shown.
const MESSAGE: usize = 2000;

/// A store with its limits: everything that is the same for all kinds.
struct Cell {
    store: Store<State>,
    plugin: String,
    limits: Limits,
    meter: Arc<Meter>,
    /// Why no further call is possible: a component that trapped cannot be entered again.
    dead: Option<PluginError>,
}

impl Cell {
    fn new(sandbox: &Sandbox, plugin: &str, limits: Limits, meter: Arc<Meter>) -> Self {
        Self { store: sandbox.store(plugin, &limits), plugin: plugin.to_owned(), limits, meter, dead: None }
    }

    /// One call within the limits.
    fn call<T>(&mut self, call: impl FnOnce(&mut Store<State>) -> wasmtime::Result<T>) -> Result<T, PluginError> {
        if let Some(error) = &self.dead {
            return Err(error.clone());
        }
        prepare(&mut self.store, &self.limits);
        let start = Instant::now();
        let result = call(&mut self.store);
        self.meter.call(start.elapsed(), self.store.data().memory.peak, result.is_err());
        match result {
            Ok(value) => {
                finish(&mut self.store);
                Ok(value)
            }
            Err(error) => {
                let error = explain(&mut self.store, &error, &self.limits);
                self.dead = Some(error.clone());
                Err(error)
            }
        }
    }

    /// A guest's own error, in our shape.
    fn guest_error(&self, error: GuestError) -> PluginError {
        match error {
            GuestError::InvalidConfig(error) => {
                let message = format!("plugin `{}`: {}", self.plugin, one_line(&error.message, MESSAGE));
                PluginError {
                    help: error.help.map(|help| one_line(&help, MESSAGE)),
                    config_path: Some(one_line(&error.path, 200)),
                    ..PluginError::new("plugin::bad-config", message).plugin(&self.plugin)
                }
            }
            GuestError::Failed(message) => {
                let message = format!("plugin `{}`: {}", self.plugin, one_line(&message, MESSAGE));
                PluginError::new("plugin::failed", message).plugin(&self.plugin)
            }
        }
    }

    /// What the plugin returned is not what its kind must return.
    fn bad_result(&self, message: &str) -> PluginError {
        PluginError::new("plugin::bad-result", format!("plugin `{}` {message}", self.plugin))
            .plugin(&self.plugin)
            .help("this is a bug of the plugin; tell its author")
    }
}

macro_rules! instance {
    ($(#[$about:meta])* $name:ident, $world:ident) => {
        $(#[$about])*
        pub struct $name {
            cell: Cell,
            world: $world,
            handle: ResourceAny,
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).field("plugin", &self.cell.plugin).finish_non_exhaustive()
            }
        }
    };
}

instance! {
    /// A running dataset loader.
    Loader, DatasetLoaderPlugin
}
instance! {
    /// A running prompt strategy.
    Strategy, PromptStrategyPlugin
}
instance! {
    /// A running reward.
    Scorer, RewardPlugin
}
instance! {
    /// A running set of compatibility rules.
    Checker, CompatRulesPlugin
}

impl Loader {
    pub(crate) fn new(
        sandbox: &Sandbox,
        plugin: &str,
        limits: Limits,
        meter: Arc<Meter>,
        pre: &InstancePre<State>,
        config_json: &str,
        opened: Opened,
    ) -> Result<Self, PluginError> {
        let mut cell = Cell::new(sandbox, plugin, limits, meter);
        let world = cell.call(|store| DatasetLoaderPluginPre::new(pre.clone())?.instantiate(store))?;
        let guest = world.trainer_plugin_dataset_loader().loader();
        let created = cell.call(|store| {
            let source = match opened {
                Opened::File(file) => GuestSource::File(store.data_mut().table.push(file)?),
                Opened::Directory(directory) => GuestSource::Directory(store.data_mut().table.push(directory)?),
            };
            guest.call_create(store, config_json, source)
        })?;
        let handle = created.map_err(|error| cell.guest_error(error))?;
        Ok(Self { cell, world, handle })
    }

    /// Rows in all, where that is known without reading everything.
    pub fn len(&mut self) -> Result<Option<u64>, PluginError> {
        let Self { cell, world, handle } = self;
        cell.call(|store| world.trainer_plugin_dataset_loader().loader().call_len(store, *handle))
    }

    /// True if the loader knows that there is no row.
    pub fn is_empty(&mut self) -> Result<bool, PluginError> {
        Ok(self.len()? == Some(0))
    }

    /// The next rows: at least one unless done, at most `max_rows`.
    pub fn next(&mut self, max_rows: u32) -> Result<RowBatch, PluginError> {
        let Self { cell, world, handle } = self;
        let batch =
            cell.call(|store| world.trainer_plugin_dataset_loader().loader().call_next(store, *handle, max_rows))?;
        let batch = batch.map_err(|error| cell.guest_error(error))?;
        if batch.rows.len() > max_rows as usize {
            return Err(
                cell.bad_result(&format!("gave {} rows where at most {max_rows} were asked for", batch.rows.len()))
            );
        }
        if batch.rows.is_empty() && !batch.done {
            return Err(cell.bad_result("gave no row, and did not say that it is done"));
        }
        cell.meter.rows(batch.rows.len());
        Ok(batch)
    }

    /// Where the next call would go on.
    pub fn cursor(&mut self) -> Result<Vec<u8>, PluginError> {
        let Self { cell, world, handle } = self;
        cell.call(|store| world.trainer_plugin_dataset_loader().loader().call_cursor(store, *handle))
    }

    /// Goes on from a cursor of the same bytes and config.
    pub fn seek(&mut self, cursor: &[u8]) -> Result<(), PluginError> {
        let Self { cell, world, handle } = self;
        let result =
            cell.call(|store| world.trainer_plugin_dataset_loader().loader().call_seek(store, *handle, cursor))?;
        result.map_err(|error| cell.guest_error(error))
    }
}

impl Strategy {
    pub(crate) fn new(
        sandbox: &Sandbox,
        plugin: &str,
        limits: Limits,
        meter: Arc<Meter>,
        pre: &InstancePre<State>,
        config_json: &str,
    ) -> Result<Self, PluginError> {
        let mut cell = Cell::new(sandbox, plugin, limits, meter);
        let world = cell.call(|store| PromptStrategyPluginPre::new(pre.clone())?.instantiate(store))?;
        let guest = world.trainer_plugin_prompt_strategy().strategy();
        let created = cell.call(|store| guest.call_create(store, config_json))?;
        let handle = created.map_err(|error| cell.guest_error(error))?;
        Ok(Self { cell, world, handle })
    }

    /// Renders rows (JSON objects): one result a row, in order.
    pub fn render(&mut self, rows: &[String]) -> Result<Vec<Result<Option<Sample>, RowError>>, PluginError> {
        let Self { cell, world, handle } = self;
        let samples =
            cell.call(|store| world.trainer_plugin_prompt_strategy().strategy().call_render(store, *handle, rows))?;
        let samples = samples.map_err(|error| cell.guest_error(error))?;
        if samples.len() != rows.len() {
            return Err(cell.bad_result(&format!("gave {} results for {} rows", samples.len(), rows.len())));
        }
        cell.meter.rows(rows.len());
        Ok(samples)
    }
}

impl Scorer {
    pub(crate) fn new(
        sandbox: &Sandbox,
        plugin: &str,
        limits: Limits,
        meter: Arc<Meter>,
        pre: &InstancePre<State>,
        config_json: &str,
    ) -> Result<Self, PluginError> {
        let mut cell = Cell::new(sandbox, plugin, limits, meter);
        let world = cell.call(|store| RewardPluginPre::new(pre.clone())?.instantiate(store))?;
        let guest = world.trainer_plugin_reward().scorer();
        let created = cell.call(|store| guest.call_create(store, config_json))?;
        let handle = created.map_err(|error| cell.guest_error(error))?;
        Ok(Self { cell, world, handle })
    }

    /// Scores completions: one finite score (or none) an item, in order.
    pub fn score(&mut self, items: &[Item], context: &Context) -> Result<Vec<Score>, PluginError> {
        let Self { cell, world, handle } = self;
        let scores =
            cell.call(|store| world.trainer_plugin_reward().scorer().call_score(store, *handle, items, *context))?;
        let scores = scores.map_err(|error| cell.guest_error(error))?;
        if scores.len() != items.len() {
            return Err(cell.bad_result(&format!("gave {} scores for {} completions", scores.len(), items.len())));
        }
        let broken = scores.iter().position(|score| score.value.is_some_and(|value| !value.is_finite()));
        if let Some(index) = broken {
            let value = scores[index].value.unwrap_or_default();
            let completion = one_line(&items[index].completion, 200);
            let error = cell.bad_result(&format!("gave the score {value}; a score is a finite number"));
            return Err(error.note(format!("the completion was `{completion}`")));
        }
        cell.meter.rows(items.len());
        Ok(scores)
    }
}

impl Checker {
    pub(crate) fn new(
        sandbox: &Sandbox,
        plugin: &str,
        limits: Limits,
        meter: Arc<Meter>,
        pre: &InstancePre<State>,
        config_json: &str,
    ) -> Result<Self, PluginError> {
        let mut cell = Cell::new(sandbox, plugin, limits, meter);
        let world = cell.call(|store| CompatRulesPluginPre::new(pre.clone())?.instantiate(store))?;
        let guest = world.trainer_plugin_compat_rules().checker();
        let created = cell.call(|store| guest.call_create(store, config_json))?;
        let handle = created.map_err(|error| cell.guest_error(error))?;
        Ok(Self { cell, world, handle })
    }

    /// The rules that it has.
    pub fn rules(&mut self) -> Result<Vec<RuleInfo>, PluginError> {
        let Self { cell, world, handle } = self;
        cell.call(|store| world.trainer_plugin_compat_rules().checker().call_rules(store, *handle))
    }

    /// What is wrong with a config.
    pub fn check(&mut self, facts: &Facts) -> Result<Vec<Finding>, PluginError> {
        let Self { cell, world, handle } = self;
        let findings =
            cell.call(|store| world.trainer_plugin_compat_rules().checker().call_check(store, *handle, facts))?;
        findings.map_err(|error| cell.guest_error(error))
    }
}
