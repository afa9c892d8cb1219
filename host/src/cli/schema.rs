//! `host schema`: what a config may hold, for editors and for reading.

use std::io::Write as _;

use clap::Args;
use serde_json::json;

use crate::config::json_schema;
use crate::diagnostic::ExitStatus;
use crate::report::{Output, emit};

#[derive(Debug, Args)]
pub(super) struct SchemaArgs {
    /// The reference page instead of the JSON Schema
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// One JSON object on one line
    #[arg(long)]
    json: bool,
}

impl SchemaArgs {
    pub(super) fn output(&self) -> Output {
        if self.json { Output::Json } else { Output::Human }
    }
}

pub(super) fn run(args: &SchemaArgs) -> ExitStatus {
    if args.json {
        emit("schema", json!({ "schema": json_schema::schema() }));
        return ExitStatus::Done;
    }
    let text = if args.markdown { json_schema::markdown() } else { format!("{:#}\n", json_schema::schema()) };
    // A closed pipe is not an error: whoever read it has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitStatus::Done
}
