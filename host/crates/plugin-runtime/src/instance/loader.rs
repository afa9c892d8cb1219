//! Dataset loaders.

use super::{Live, Origin, debug_by_name};
use crate::bindings::loader::exports::trainer::plugin::dataset_loader::Source as GuestSource;
use crate::bindings::loader::{DatasetLoaderPlugin, DatasetLoaderPluginPre};
use crate::error::PluginError;
use crate::files::{Directory, Opened};
use crate::types::RowBatch;

/// A running dataset loader.
pub struct Loader {
    live: Live<DatasetLoaderPlugin>,
}

debug_by_name!(Loader);

impl Loader {
    pub(crate) fn new(origin: Origin, opened: Opened, grants: Vec<Directory>) -> Result<Self, PluginError> {
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
        Ok(Self { live })
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
        let batch = self.live.call(|store, world, handle| {
            world.trainer_plugin_dataset_loader().loader().call_next(store, handle, max_rows)
        })?;
        let cell = &self.live.cell;
        if batch.rows.len() > max_rows as usize {
            let message = format!("gave {} rows where at most {max_rows} were asked for", batch.rows.len());
            return Err(cell.bad_result(&message));
        }
        if batch.rows.is_empty() && !batch.done {
            return Err(cell.bad_result("gave no row, and did not say that it is done"));
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
