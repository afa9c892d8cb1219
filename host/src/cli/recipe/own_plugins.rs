//! The plugins that a recipe can name.

use std::path::{Path, PathBuf};

use plugin_runtime::PluginHost;

use super::super::open_own_plugins;
use crate::diagnostic::Failure;
use crate::recipe::opened::Opened;

/// The plugins of a recipe whose config is at `config`: the bundled ones, its own, and those of `more`.
pub(super) fn open(config: &Path, more: &[PathBuf]) -> Result<PluginHost, Failure> {
    let mut directories = Opened::plugins(config);
    let is_known = |directory: &&PathBuf| !directories.iter().any(|own| same(own, directory));
    let more: Vec<PathBuf> = more.iter().filter(is_known).cloned().collect();
    directories.extend(more);
    open_own_plugins(&directories)
}

fn same(a: &Path, b: &Path) -> bool {
    a == b || std::fs::canonicalize(a).ok().zip(std::fs::canonicalize(b).ok()).is_some_and(|(a, b)| a == b)
}
