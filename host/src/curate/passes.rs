//! One pass over the rows of all datasets: through their loaders and row filters, in order, a batch at a time.

use plugin_runtime::PluginHost;
use serde_json::Value;

use crate::check::plugins::locate;
use crate::config::{DatasetConfig, FilterRef, LoadedConfig};
use crate::data::dataset::{BadRow, DatasetError};
use crate::data::filter::FilterReport;
use crate::data::render::BATCH;
use crate::diagnostic::{Diagnostic, Failure};
use crate::samples::rows::{row_filters, rows};

/// Bad rows that are told.
const SHOWN: usize = 5;
/// Bad rows after which nothing more is read.
const BAD_ROWS: u64 = 10_000;
/// Rows that are numbered.
const MOST: u64 = u32::MAX as u64;

/// A row where it stands.
pub(super) struct Row<'a> {
    /// Its number over all datasets, from 0.
    pub(super) index: u32,
    /// Its dataset.
    pub(super) dataset: usize,
    /// As its loader gave it, in one line.
    pub(super) json: &'a str,
    /// The same.
    pub(super) value: Value,
    /// What a person finds it by.
    pub(super) position: &'a str,
}

/// What a pass met beside rows.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// Rows that were handed out.
    pub(super) rows: u64,
    /// What each row filter did.
    pub(super) filters: Vec<FilterReport>,
    /// Warnings about the data.
    pub(super) remarks: Vec<Diagnostic>,
}

/// Hands out the rows of `datasets`, which are the entries of the config's list `key`.
pub(super) fn each(
    loaded: &LoadedConfig,
    plugins: &PluginHost,
    (key, datasets): (&str, &[DatasetConfig]),
    common: &[FilterRef],
    take: &mut dyn FnMut(Row<'_>) -> Result<(), Failure>,
) -> Result<Pass, Failure> {
    let mut pass = Pass::default();
    for (number, dataset) in datasets.iter().enumerate() {
        let entry = loaded.entry_path(key, number);
        of_dataset(loaded, plugins, (number, dataset, &entry), common, take, &mut pass)?;
    }
    Ok(pass)
}

fn of_dataset(
    loaded: &LoadedConfig,
    plugins: &PluginHost,
    (number, dataset, entry): (usize, &DatasetConfig, &str),
    common: &[FilterRef],
    take: &mut dyn FnMut(Row<'_>) -> Result<(), Failure>,
    pass: &mut Pass,
) -> Result<(), Failure> {
    let path = loaded.data_path(entry, &dataset.path);
    let placed = |mut failure: Failure| {
        for diagnostic in failure.0.iter_mut().filter(|diagnostic| diagnostic.place.is_none()) {
            diagnostic.place = loaded.source.nearest_place(entry);
        }
        failure
    };
    let mut source = rows(loaded, plugins, dataset, entry, &mut pass.remarks)?;
    let (uses, mut filters) = row_filters(loaded, plugins, dataset, entry, common)?;
    let mut reports: Vec<FilterReport> = filters.iter().map(FilterReport::new).collect();
    let (mut bad, mut total, mut read) = (Vec::new(), 0, 0_u64);
    loop {
        let batch = source.next(BATCH).map_err(|error| placed(error.into()))?;
        let (mut jsons, mut positions) = (Vec::new(), Vec::new());
        for row in batch.rows {
            match row {
                Ok(row) => {
                    // Line breaks in JSON stand between values only.
                    let json =
                        if row.json.contains(['\n', '\r']) { row.json.replace(['\n', '\r'], " ") } else { row.json };
                    jsons.push(json);
                    positions.push(row.position);
                }
                Err(row) => {
                    total += 1;
                    if bad.len() < SHOWN {
                        let (message, field) = (row.error.message, row.error.field);
                        bad.push(BadRow { position: row.position, message, field });
                    }
                }
            }
        }
        read += jsons.len() as u64;
        for ((used, filter), report) in uses.iter().zip(&mut filters).zip(&mut reports) {
            if jsons.is_empty() {
                break;
            }
            let stays = filter
                .judge(&jsons, report)
                .map_err(|error| Failure::from(locate(loaded, used, error.at_row(&positions))))?;
            let mut stays_too = stays.iter();
            jsons.retain(|_| stays_too.next() == Some(&true));
            let mut stays = stays.iter();
            positions.retain(|_| stays.next() == Some(&true));
        }
        // Once a row is bad, only more bad ones are looked for.
        for (json, position) in jsons.iter().zip(&positions).filter(|_| total == 0) {
            if pass.rows >= MOST {
                return Err(Diagnostic::error("curation::too-many", format!("more than {MOST} rows")).into());
            }
            let value = serde_json::from_str(json).unwrap_or_default();
            take(Row { index: pass.rows as u32, dataset: number, json, value, position })?;
            pass.rows += 1;
        }
        if batch.done || total > BAD_ROWS {
            break;
        }
    }
    if total > 0 {
        return Err(placed(DatasetError::BadRows { path, rows: bad, total }.into()));
    }
    if read == 0 {
        return Err(placed(DatasetError::Empty { path }.into()));
    }
    for (index, report) in reports.iter().enumerate() {
        let min_score = filters[index].min_score.filter(|_| report.kept > 0 && report.mean_score().is_none());
        if let Some(min_score) = min_score {
            let (plugin, rows) = (report.plugin.clone(), report.rows);
            let mut failure = Failure::from(DatasetError::NoScores { index, plugin, min_score, path, rows });
            failure.0[0].place = loaded.source.nearest_place(&format!("{}.min_score", uses[index].path));
            return Err(failure);
        }
    }
    for report in reports {
        match pass.filters.iter_mut().find(|known| known.path == report.path) {
            Some(known) => known.add(&report),
            None => pass.filters.push(report),
        }
    }
    Ok(())
}

/// The data is not what it was in an earlier pass.
pub(super) fn changed(loaded: &LoadedConfig) -> Failure {
    Diagnostic::error("curation::changed", "the data changed while it was read")
        .at(loaded.source.nearest_place("datasets"))
        .why("it is read more than once, and had other rows another time; nothing was written")
        .help("run the command again once nothing writes to it")
        .into()
}
