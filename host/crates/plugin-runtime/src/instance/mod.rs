//! Running plugins: one file per kind, with its type and how [`PluginHost`](crate::PluginHost) starts one. Each is an instance
//! of its own with its own memory. Every call runs under the plugin's limits, and what comes back is checked before the host
//! believes it.
//!
//! A component that trapped cannot be entered again. Kinds whose calls stand alone (strategies, rewards, environments, rules, schedules)
//! are then started anew for the next call; those that remember earlier calls (loaders, filters, monitors) are over.

mod environment;
mod failed;
mod filter;
mod health;
mod loader;
mod reward;
mod rules;
mod schedule;
mod strategy;

use std::sync::Arc;
use std::time::Instant;

use wasmtime::Store;
use wasmtime::component::{InstancePre, ResourceAny};

pub use self::environment::Environment;
pub use self::filter::Filter;
pub use self::health::Monitor;
pub use self::loader::Loader;
pub use self::reward::Scorer;
pub use self::rules::Checker;
pub use self::schedule::Curve;
pub use self::strategy::Strategy;
use crate::error::{PluginError, one_line};
use crate::origin::Origin;
use crate::sandbox::{explain, finish, prepare};
use crate::state::State;
use crate::types::{GuestError, RowError};

/// Characters of a guest's message that are shown.
const MESSAGE: usize = 2000;
/// Characters of what a row or a field is found by that are shown.
const POSITION: usize = 200;

/// A store with its limits: everything that is the same for all kinds.
struct Cell {
    origin: Origin,
    /// What is entered, or why that cannot be any more.
    store: Result<Store<State>, PluginError>,
}

impl Cell {
    fn new(origin: Origin) -> Self {
        let store = origin.stores.store(&origin.plugin, &origin.limits, &origin.meter);
        Self { origin, store: Ok(store) }
    }

    /// One call within the limits.
    fn call<T>(&mut self, call: impl FnOnce(&mut Store<State>) -> wasmtime::Result<T>) -> Result<T, PluginError> {
        let store = self.store.as_mut().map_err(|error| error.clone())?;
        let limits = &self.origin.limits;
        prepare(store, limits);
        let start = Instant::now();
        let result = call(store);
        self.origin.meter.call(start.elapsed(), store.data().memory.peak, result.is_err());
        match result {
            Ok(value) => {
                finish(store);
                Ok(value)
            }
            Err(error) => {
                let error = explain(store, &error, limits);
                // Its memory goes now: who looks into the failure starts another instance.
                self.store = Err(error.clone());
                Err(error)
            }
        }
    }

    fn rows(&self, rows: usize) {
        self.origin.meter.rows(rows);
    }

    /// A guest's own error, in our shape.
    fn guest_error(&self, error: GuestError) -> PluginError {
        let plugin = &self.origin.plugin;
        match error {
            GuestError::InvalidConfig(error) => {
                let message = format!("plugin `{plugin}`: {}", one_line(&error.message, MESSAGE));
                PluginError {
                    help: error.help.map(|help| one_line(&help, MESSAGE)),
                    config_path: Some(one_line(&error.path, 200)),
                    // serde's words, which the SDK passes on.
                    is_key: error.message.starts_with("unknown field "),
                    ..PluginError::new("plugin::bad-config", message).plugin(&**plugin)
                }
            }
            GuestError::Failed(message) => {
                let (message, help) = message.split_once("\nhelp: ").unwrap_or((&message, ""));
                let message = format!("plugin `{plugin}`: {}", one_line(message, MESSAGE));
                let help = (!help.is_empty()).then(|| one_line(help, MESSAGE));
                PluginError { help, ..PluginError::new("plugin::failed", message).plugin(&**plugin) }
            }
        }
    }

    /// What the plugin returned is not what its kind must return.
    fn bad_result(&self, message: &str) -> PluginError {
        let plugin = &self.origin.plugin;
        PluginError::new("plugin::bad-result", format!("plugin `{plugin}` {message}"))
            .plugin(&**plugin)
            .help("this is a bug of the plugin; tell its author")
    }
}

/// Makes what a guest says of a row one short line.
fn bound(error: &mut RowError) {
    error.message = one_line(&error.message, MESSAGE);
    error.field = error.field.take().map(|field| one_line(&field, POSITION));
}

/// A started guest: its exports, and the resource that its `create` gave.
struct Live<W> {
    cell: Cell,
    world: W,
    handle: ResourceAny,
}

impl<W> Live<W> {
    /// Instantiates a guest and creates its resource.
    fn start(
        origin: Origin,
        instantiate: impl FnOnce(&mut Store<State>, InstancePre<State>) -> wasmtime::Result<W>,
        create: impl FnOnce(&mut Store<State>, &W, &str) -> wasmtime::Result<Result<ResourceAny, GuestError>>,
    ) -> Result<Self, PluginError> {
        let (pre, config) = (origin.pre.clone(), Arc::clone(&origin.config_json));
        let mut cell = Cell::new(origin);
        let world = cell.call(|store| instantiate(store, pre))?;
        let created = cell.call(|store| create(store, &world, &config))?;
        let handle = created.map_err(|error| cell.guest_error(error))?;
        Ok(Self { cell, world, handle })
    }

    /// One call of the resource; a guest's own error is an error too.
    fn call<T>(
        &mut self,
        call: impl FnOnce(&mut Store<State>, &W, ResourceAny) -> wasmtime::Result<Result<T, GuestError>>,
    ) -> Result<T, PluginError> {
        let Self { cell, world, handle } = self;
        let result = cell.call(|store| call(store, world, *handle))?;
        result.map_err(|error| cell.guest_error(error))
    }

    fn is_dead(&self) -> bool {
        self.cell.store.is_err()
    }

    fn origin(&self) -> Origin {
        self.cell.origin.clone()
    }
}

/// Prints an instance as its plugin's name.
macro_rules! debug_by_name {
    ($name:ident) => {
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).field("plugin", &self.live.cell.origin.plugin).finish_non_exhaustive()
            }
        }
    };
}
use debug_by_name;
