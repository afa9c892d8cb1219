//! `host recipe inspect`: what a recipe says of itself.

use super::super::{say, show};
use super::plan;
use crate::diagnostic::{ExitStatus, Failure};
use crate::recipe::opened::Opened;
use crate::report::{Output, emit};

pub(super) fn run(recipe: &str, output: Output) -> Result<ExitStatus, Failure> {
    let opened = Opened::new(recipe)?;
    show(&opened.loaded.remarks, output);
    match output {
        Output::Json => emit("recipe", plan::fields(&opened)),
        Output::Human => say(plan::text(&opened, None).trim_end()),
    }
    Ok(ExitStatus::Done)
}
