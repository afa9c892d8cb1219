//! `host recipe list`: what an index has.

use clap::Args;
use serde_json::json;

use crate::diagnostic::{ExitStatus, Failure};
use crate::recipe::index::{self, read};
use crate::recipe::source::bytes_of;
use crate::report::{Output, emit};
use crate::terminal::{Safe, print};

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// The index: a file of JSON, or its https:// address
    index: String,
    /// Words that a recipe must have in its name, description or tags
    words: Vec<String>,
}

pub(super) fn run(args: &ListArgs, output: Output) -> Result<ExitStatus, Failure> {
    let all = read(&bytes_of(&args.index, index::BYTES)?, &args.index)?;
    let found = all.into_iter().filter(|entry| entry.has(&args.words));
    let mut text = String::new();
    for entry in found {
        if output == Output::Json {
            emit("recipe", json!(entry));
            continue;
        }
        let license = entry.license.as_deref().unwrap_or("no licence named");
        text += &format!("{} {}, {license}\n", entry.name, entry.version);
        if !entry.description.is_empty() {
            text += &format!("  {}\n", Safe::excerpt(&entry.description, 100));
        }
        text += &format!("  host recipe run {}\n", crate::commands::word(&entry.from));
    }
    if output == Output::Human {
        print(&Safe::text(&text))?;
    }
    Ok(ExitStatus::Done)
}
