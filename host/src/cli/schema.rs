//! `host schema`: what a config may hold, for editors and for reading.

use clap::Args;
use serde_json::json;

use crate::config::json_schema;
use crate::diagnostic::{ExitStatus, Failure};
use crate::report::{Output, emit};
use crate::terminal::print_file;

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

pub(super) fn run(args: &SchemaArgs) -> Result<ExitStatus, Failure> {
    if args.json {
        emit("schema", json!({ "schema": json_schema::schema() }));
        return Ok(ExitStatus::Done);
    }
    let text = if args.markdown { json_schema::markdown() } else { format!("{:#}\n", json_schema::schema()) };
    print_file(&text)?;
    Ok(ExitStatus::Done)
}
