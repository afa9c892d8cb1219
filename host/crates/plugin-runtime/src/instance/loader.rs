//! Dataset loaders.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Live, Origin, POSITION, bound, debug_by_name};
use crate::bindings::loader::exports::trainer::plugin::dataset_loader::Source as GuestSource;
use crate::bindings::loader::{DatasetLoaderPlugin, DatasetLoaderPluginPre};
use crate::error::{PluginError, one_line};
use crate::files::{Directory, Opened};
use crate::kind::Kind;
use crate::limits::Limits;
use crate::registry::PluginHost;
use crate::types::{BadRow, Row, RowBatch, RowError};

/// A running dataset loader.
pub struct Loader {
    live: Live<DatasetLoaderPlugin>,
    budget: Budget,
}

/// Bytes that one row may have.
const ROW_LIMIT: usize = 32 << 20;
/// Bytes that all rows may have where there is no data, and for each byte of the data beside that.
const ROWS_BASE: u64 = 64 << 20;
const ROWS_TIMES: u64 = 32;
/// Bytes that a row takes beside its text.
const ROW_COST: usize = 64;
/// The longest calls that a loader may make in all, and without a row that can be used; for each row, a tenth of a second.
const CALLS: u32 = 20;
const IDLE_CALLS: u32 = 4;
const ROW_TIME: Duration = Duration::from_millis(100);

/// What a loader has given and taken so far.
#[derive(Debug, Default)]
struct Budget {
    /// Bytes of its data.
    data: u64,
    bytes: u64,
    rows: u32,
    time: Duration,
    idle: Duration,
}

impl Budget {
    /// Counts a batch. What is over the budget, in words, and the limit that would let it pass.
    fn count(&mut self, rows: &[Result<Row, BadRow>], time: Duration, limits: &Limits) -> Result<(), (String, String)> {
        let good = rows.iter().flatten();
        let bytes: usize = rows
            .iter()
            .map(|row| {
                ROW_COST
                    + match row {
                        Ok(row) => row.json.len() + row.position.len(),
                        Err(row) => row.error.message.len() + row.position.len(),
                    }
            })
            .sum();
        let count = good.count() as u32;
        self.bytes += bytes as u64;
        self.rows = self.rows.saturating_add(count);
        self.time += time;
        self.idle = if count == 0 { self.idle + time } else { Duration::ZERO };
        let most = limits.rows_bytes.unwrap_or_else(|| ROWS_BASE.saturating_add(self.data.saturating_mul(ROWS_TIMES)));
        let slow = |time: Duration, words: &str| {
            let call = limits.call.as_millis();
            Err((format!("took {} s {words}", time.as_secs()), format!("call_ms: {}", call * 4)))
        };
        if self.bytes > most {
            let (given, data) = (self.bytes.div_ceil(1 << 20), self.data);
            return Err((
                format!("gave {given} MiB of rows out of {data} bytes of data, and went on"),
                format!("rows_mb: {}", given * 4),
            ));
        }
        if self.idle > limits.call * IDLE_CALLS {
            return slow(self.idle, "without a row that can be used");
        }
        if self.time > limits.call * CALLS + ROW_TIME * self.rows {
            return slow(self.time, &format!("for {} rows, and went on", self.rows));
        }
        Ok(())
    }
}

debug_by_name!(Loader);

impl PluginHost {
    /// A loader over a file or directory.
    pub fn loader(&self, name: &str, config_json: &str, path: &Path) -> Result<Loader, PluginError> {
        let origin = self.origin(name, Kind::DatasetLoader, config_json)?;
        let grants = self.find(name, Kind::DatasetLoader)?.open_grants()?;
        Loader::new(origin, Opened::open(path)?, grants)
    }
}

/// Makes what is shown of a row one short line, and a row that is too large a bad one.
fn check(row: &mut Result<Row, BadRow>) {
    match row {
        Ok(good) => {
            good.position = one_line(&good.position, POSITION);
            if good.json.len() > ROW_LIMIT {
                let (is, limit) = (good.json.len().div_ceil(1 << 20), ROW_LIMIT >> 20);
                let message = format!("it has {is} MiB; a row may have {limit}");
                let position = std::mem::take(&mut good.position);
                *row = Err(BadRow { error: RowError { message, field: None }, position });
            }
        }
        Err(bad) => {
            bad.position = one_line(&bad.position, POSITION);
            bound(&mut bad.error);
        }
    }
}

impl Loader {
    fn new(origin: Origin, opened: Opened, grants: Vec<Directory>) -> Result<Self, PluginError> {
        let data = opened.bytes() + grants.iter().map(Directory::bytes).sum::<u64>();
        let live = Live::start(
            origin,
            |store, pre| {
                store.data_mut().grants = grants;
                DatasetLoaderPluginPre::new(pre)?.instantiate(store)
            },
            |store, world, config| {
                let source = match opened {
                    Opened::File(file) => GuestSource::File(store.data_mut().table.push(file)?),
                    Opened::Directory(directory) => GuestSource::Directory(store.data_mut().table.push(directory)?),
                };
                world.trainer_plugin_dataset_loader().loader().call_create(store, config, source)
            },
        )?;
        Ok(Self { live, budget: Budget { data, ..Budget::default() } })
    }

    /// Rows in all, where that is known without reading everything.
    pub fn len(&mut self) -> Result<Option<u64>, PluginError> {
        self.live.call(|store, world, handle| {
            Ok(Ok(world.trainer_plugin_dataset_loader().loader().call_len(store, handle)?))
        })
    }

    /// True if the loader knows that there is no row.
    pub fn is_empty(&mut self) -> Result<bool, PluginError> {
        Ok(self.len()? == Some(0))
    }

    /// The next rows: at least one unless done, at most `max_rows`.
    pub fn next(&mut self, max_rows: u32) -> Result<RowBatch, PluginError> {
        let start = Instant::now();
        let batch = self.live.call(|store, world, handle| {
            world.trainer_plugin_dataset_loader().loader().call_next(store, handle, max_rows)
        });
        let mut batch = batch.map_err(|error| match error.code {
            "plugin::trap" => error.help(
                "the data may be damaged; if another program reads it, this is a bug of the plugin: tell its author",
            ),
            _ => error,
        })?;
        let cell = &self.live.cell;
        if batch.rows.len() > max_rows as usize {
            let message = format!("gave {} rows where at most {max_rows} were asked for", batch.rows.len());
            return Err(cell.bad_result(&message));
        }
        if batch.rows.is_empty() && !batch.done {
            return Err(cell.bad_result("gave no row, and did not say that it is done"));
        }
        if let Err((words, limit)) = self.budget.count(&batch.rows, start.elapsed(), &cell.origin.limits) {
            let plugin = &cell.origin.plugin;
            return Err(PluginError::new("plugin::limit", format!("plugin `{plugin}` {words}"))
                .plugin(&**plugin)
                .help(format!("if you trust it with more: `plugins: [{{name: {plugin}, limits: {{{limit}}}}}]`")));
        }
        for row in &mut batch.rows {
            check(row);
        }
        cell.rows(batch.rows.len());
        Ok(batch)
    }

    /// Where the next call would go on.
    pub fn cursor(&mut self) -> Result<Vec<u8>, PluginError> {
        self.live.call(|store, world, handle| {
            Ok(Ok(world.trainer_plugin_dataset_loader().loader().call_cursor(store, handle)?))
        })
    }

    /// Goes on from a cursor of the same bytes and config.
    pub fn seek(&mut self, cursor: &[u8]) -> Result<(), PluginError> {
        self.live.call(|store, world, handle| {
            world.trainer_plugin_dataset_loader().loader().call_seek(store, handle, cursor)
        })
    }
}
