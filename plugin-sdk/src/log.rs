//! Words for the user. In the sandbox they go to the host, which shows them with the plugin's name; in native tests they
//! go to stderr.

/// Shown only when the user asks for it.
pub fn debug(message: &str) {
    write(Level::Debug, message);
}

/// Good to know.
pub fn info(message: &str) {
    write(Level::Info, message);
}

/// Probably not what the user wants.
pub fn warn(message: &str) {
    write(Level::Warn, message);
}

/// Something is wrong. Beside a returned error or a panic, not instead of one.
pub fn error(message: &str) {
    write(Level::Error, message);
}

#[derive(Debug, Clone, Copy)]
enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

#[cfg(not(target_family = "wasm"))]
fn write(level: Level, message: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{level:?}: {message}");
}

#[cfg(target_family = "wasm")]
fn write(level: Level, message: &str) {
    use crate::bindings::shared::trainer::plugin::log as host;
    let level = match level {
        Level::Debug => host::Level::Debug,
        Level::Info => host::Level::Info,
        Level::Warn => host::Level::Warn,
        Level::Error => host::Level::Error,
    };
    host::write(level, message);
}

/// Makes a panic's message and place reach the user: without this, a trap says only that something trapped.
pub(crate) fn report_panics() {
    #[cfg(target_family = "wasm")]
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|place| format!(" at {}:{}", place.file(), place.line()));
        let message = info.payload_as_str().unwrap_or("a panic without a message");
        error(&format!("{message}{}", place.unwrap_or_default()));
    }));
}
