//! A loader in the sandbox.

use std::sync::LazyLock;

use plugin_runtime::{PluginError, PluginHost};
use serde_json::Value;

use super::{Batch, Row};

static PLUGINS: LazyLock<PluginHost> =
    LazyLock::new(|| host::check::plugins::open_with(&[], None, None).expect("the bundled plugins"));

pub(super) struct Loader {
    loader: plugin_runtime::Loader,
    /// It has the file.
    _folder: tempfile::TempDir,
}

impl Loader {
    pub(super) fn open(loader: &str, config: &Value, file: &[u8]) -> Result<Self, String> {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("memory");
        std::fs::write(&path, file).expect("a file");
        let loader = PLUGINS.loader(loader, &config.to_string(), &path).map_err(words)?;
        Ok(Self { loader, _folder: folder })
    }

    pub(super) fn len(&mut self) -> Result<Option<u64>, String> {
        self.loader.len().map_err(words)
    }

    pub(super) fn next(&mut self, max_rows: u32) -> Result<Batch, String> {
        let batch = self.loader.next(max_rows).map_err(words)?;
        let rows = batch.rows.into_iter().map(|row| match row {
            Ok(row) => Row { json: Ok(row.json), position: row.position },
            Err(row) => Row { json: Err(row.error.message), position: row.position },
        });
        Ok(Batch { rows: rows.collect(), is_last: batch.done })
    }

    pub(super) fn cursor(&mut self) -> Result<Vec<u8>, String> {
        self.loader.cursor().map_err(words)
    }

    pub(super) fn seek(&mut self, cursor: &[u8]) -> Result<(), String> {
        self.loader.seek(cursor).map_err(words)
    }
}

/// A loader says what is wrong with a file. It does not stop in the middle but where a library that it uses does, and no limit
/// stops it.
fn words(error: PluginError) -> String {
    let is_library = |note: &String| super::LIBRARIES.iter().any(|library| note.contains(library));
    let is_told =
        error.code == "plugin::failed" || (error.code == "plugin::trap" && error.notes.iter().any(is_library));
    assert!(is_told, "{error:?}");
    error.message
}
