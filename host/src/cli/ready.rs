//! What a command that reads a config begins with.

use super::{ConfigArgs, open_plugins, show};
use crate::check::ready::Ready;
use crate::diagnostic::Failure;

/// Reads and checks the config, and shows what is remarkable. Says also whether the config is the built-in one.
pub(super) fn ready(args: &ConfigArgs, locked: bool) -> Result<(Ready, bool), Failure> {
    let (path, built_in) = args.choose()?;
    let ready = Ready::new(&path, &args.set, open_plugins(&args.plugins)?, &args.grant, locked)?;
    show(&ready.remarks, args.output());
    Ok((ready, built_in))
}
