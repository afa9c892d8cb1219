//! Runs a plugin over the input of a case, in a fresh instance, some at a time; what comes out is JSON.

use std::path::Path;

use plugin_runtime::types::Context;
use plugin_runtime::{Kind, PluginError, PluginHost, json};
use serde_json::Value;

/// When the completions of a case are scored, and its episodes played.
pub const CONTEXT: Context = Context { step: 0, total_steps: 1, seed: 0 };
/// Rows that one call of a loader gives at most.
const ALL: usize = 4096;
/// Rows that a loader's input may have.
const ROWS: usize = 1_000_000;

/// What is run.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// Where it is.
    pub plugins: &'a PluginHost,
    /// Its name.
    pub name: &'a str,
    /// What it is for.
    pub kind: Kind,
    /// Its config, as JSON.
    pub config_json: &'a str,
    /// When completions are scored and episodes played; none for kinds that do neither.
    pub context: Option<Context>,
}

/// Why there is no result.
#[derive(Debug)]
pub enum Trouble {
    /// The plugin failed, in the call that began with this input.
    Plugin(usize, PluginError),
    /// An input is not what the kind takes.
    Input(usize, String),
}

impl std::fmt::Debug for Subject<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").field("name", &self.name).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Subject<'_> {
    /// The same as [`run`](Self::run), with the inputs divided among instances that run at the same time.
    pub fn run_on(
        &self,
        threads: usize,
        inputs: &[Value],
        total_steps: Option<u64>,
        batch: usize,
    ) -> Result<Vec<Value>, Trouble> {
        if threads <= 1 {
            return self.run(inputs, total_steps, batch);
        }
        let share = inputs.len().div_ceil(threads).max(1);
        let parts: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> =
                inputs.chunks(share).map(|inputs| scope.spawn(move || self.run(inputs, total_steps, batch))).collect();
            let done = |worker: std::thread::ScopedJoinHandle<'_, _>| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            workers.into_iter().map(done).collect()
        });
        let mut results = Vec::new();
        for (part, result) in parts.into_iter().enumerate() {
            let before = part * share;
            results.extend(result.map_err(|trouble| match trouble {
                Trouble::Plugin(index, error) => Trouble::Plugin(before + index, error),
                Trouble::Input(index, why) => Trouble::Input(before + index, why),
            })?);
        }
        Ok(results)
    }

    /// The rows of a loader's input, `batch` of them a call. With `resume`, each call is made by a new instance that goes
    /// on at the cursor of the one before.
    pub fn load(&self, path: &Path, batch: usize, resume: bool) -> Result<Vec<Value>, Trouble> {
        let mut rows = Vec::new();
        let step = |rows: &mut Vec<Value>| -> Result<(), PluginError> {
            let open = || self.plugins.loader(self.name, self.config_json, path);
            let mut loader = open()?;
            let known = loader.len()?;
            loop {
                let given = loader.next(batch.min(ALL) as u32)?;
                rows.extend(given.rows.iter().map(json::loaded));
                if given.done {
                    break;
                }
                if rows.len() > ROWS {
                    let message = format!("plugin `{}` gives more than {ROWS} rows", self.name);
                    return Err(PluginError::new("plugin::bad-result", message).plugin(self.name));
                }
                if resume {
                    let cursor = loader.cursor()?;
                    loader = open()?;
                    loader.seek(&cursor)?;
                }
            }
            match known {
                Some(known) if known != rows.len() as u64 => {
                    let message =
                        format!("plugin `{}` said that there are {known} rows, and gave {}", self.name, rows.len());
                    Err(PluginError::new("plugin::bad-result", message).plugin(self.name))
                }
                _ => Ok(()),
            }
        };
        match step(&mut rows) {
            Ok(()) => Ok(rows),
            Err(error) => Err(Trouble::Plugin(rows.len(), error)),
        }
    }
}
