//! `host plugin list`: which plugins there are, and where each comes from.

use std::path::PathBuf;

use serde_json::json;

use crate::check::plugins::shown_source;
use crate::cli::open_plugins;
use crate::diagnostic::{ExitStatus, Failure, escape};
use crate::report::{Output, emit};
use crate::terminal::{Safe, print};

pub(super) fn run(directories: &[PathBuf], output: Output) -> Result<ExitStatus, Failure> {
    let plugins = open_plugins(directories)?;
    let mut rows = vec![["NAME", "KIND", "VERSION", "FROM", "DESCRIPTION"].map(str::to_owned)];
    for plugin in plugins.plugins() {
        let manifest = &plugin.inspection.manifest;
        if output == Output::Json {
            emit(
                "plugin",
                json!({
                    "name": manifest.name,
                    "kind": manifest.kind.name(),
                    "version": manifest.version,
                    "api": manifest.api,
                    "sha256": plugin.inspection.sha256,
                    "source": shown_source(&plugin.source),
                    "description": manifest.description,
                }),
            );
        }
        rows.push([
            manifest.name.clone(),
            manifest.kind.name().to_owned(),
            manifest.version.clone(),
            shown_source(&plugin.source),
            manifest.description.clone(),
        ]);
    }
    if output == Output::Human {
        let width = |column: usize| rows.iter().map(|row| escape(&row[column]).chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..4).map(width).collect();
        let mut text = String::new();
        for row in &rows {
            let cells: Vec<String> = row.iter().map(|cell| escape(cell).replace('\n', " ")).collect();
            text += &format!(
                "{:<w0$}  {:<w1$}  {:<w2$}  {:<w3$}  {}\n",
                cells[0],
                cells[1],
                cells[2],
                cells[3],
                cells[4],
                w0 = widths[0],
                w1 = widths[1],
                w2 = widths[2],
                w3 = widths[3]
            );
        }
        print(&Safe::text(&text))?;
    }
    Ok(ExitStatus::Done)
}
