//! The plugins that a command can name.

use std::path::PathBuf;

use plugin_runtime::{CompilerCommand, PluginHost};

use crate::check::plugins;
use crate::diagnostic::Failure;

/// The command that compiles plugins, for [`open_plugins`].
pub(super) const COMPILE: &str = "compile-plugin";

/// All bundled plugins, those that the user has added, and those of `directories`. This program itself, whatever it is called, compiles those of others in
/// a process of its own.
pub(super) fn open_plugins(directories: &[PathBuf]) -> Result<PluginHost, Failure> {
    plugins::open_added(directories, Some(compiler()?))
}

/// The same without those that the user has added.
pub(super) fn open_own_plugins(directories: &[PathBuf]) -> Result<PluginHost, Failure> {
    plugins::open(directories, Some(compiler()?))
}

#[cfg_attr(target_os = "linux", expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail"))]
fn compiler() -> Result<CompilerCommand, Failure> {
    // This name holds even where the file was renamed or replaced since the start.
    #[cfg(target_os = "linux")]
    let program = PathBuf::from("/proc/self/exe");
    #[cfg(not(target_os = "linux"))]
    let program = std::env::current_exe().map_err(|error| {
        crate::diagnostic::Diagnostic::error("plugin::engine", "this program's own file is not to be found")
            .why(error.to_string())
    })?;
    Ok(vec![program.into(), COMPILE.into()])
}
