//! Where rows come from. The loop cannot tell a sandboxed loader from a native one.

use plugin_runtime::PluginError;
use plugin_runtime::types::RowBatch;

/// Gives rows in order, some at a time.
pub trait Source {
    /// At least one row unless done, at most `max_rows`.
    fn next(&mut self, max_rows: u32) -> Result<RowBatch, PluginError>;
}

impl Source for plugin_runtime::Loader {
    fn next(&mut self, max_rows: u32) -> Result<RowBatch, PluginError> {
        Self::next(self, max_rows)
    }
}
