//! The rows of a dataset, as its config entry means them: through its loader, and of them the slice and the shard.

use plugin_runtime::{PluginError, PluginHost};

use crate::check::plugins::{Use, filters, loader, locate};
use crate::config::{DatasetConfig, FilterRef, LoadedConfig};
use crate::data::filter::DatasetFilter;
use crate::data::slices::{Shard, Slices, count};
use crate::data::source::Source;
use crate::diagnostic::{Diagnostic, Failure};

/// The rows of a dataset that its `split` and `shards` mean; `entry` is its place in the config (`datasets[0]`).
///
/// # Errors
/// What its loader says, and a slice or a shard without a row.
pub fn rows(
    loaded: &LoadedConfig,
    plugins: &PluginHost,
    dataset: &DatasetConfig,
    entry: &str,
    remarks: &mut Vec<Diagnostic>,
) -> Result<Box<dyn Source>, Failure> {
    let file = loaded.data_path(entry, &dataset.path);
    let at = |diagnostic: Diagnostic, key: &str| diagnostic.at(loaded.source.nearest_place(&format!("{entry}.{key}")));
    let (mut sources, mut total): (Vec<(Box<dyn Source>, _)>, u64) = (Vec::new(), 0);
    for part in &dataset.split.parts {
        let used = loader(loaded, dataset, entry, &part.name);
        let open = || plugins.loader(&used.name, &used.config_json, &file);
        let failed = |error: PluginError| Failure::from(locate(loaded, &used, error));
        let mut source = open().map_err(failed)?;
        if part.is_whole() && dataset.shards.is_none() {
            sources.push((Box::new(source), 0..u64::MAX));
            continue;
        }
        let count = match source.len().map_err(failed)? {
            Some(count) => count,
            None => {
                let enough = part.enough().filter(|_| dataset.shards.is_none());
                count(&mut open().map_err(failed)?, enough).map_err(failed)?
            }
        };
        let range = part.of(count);
        let rows = if count == 1 { "1 row".to_owned() } else { format!("{count} rows") };
        if range.is_empty() && count > 0 {
            let message = format!("`{}` selects no row of `{}`, which has {rows}", part.text, dataset.path);
            let help = "name more: `split: train[:100]`, or `split: train` for all of them";
            return Err(at(Diagnostic::error("data::empty", message), "split").help(help).into());
        }
        if part.farthest().is_some_and(|farthest| farthest > count) {
            let message = format!("`{}` goes beyond `{}`, which has {rows}", part.text, dataset.path);
            let why =
                format!("it selects {} rows: like `datasets`, a slice ends at the last row", range.end - range.start);
            remarks.push(at(Diagnostic::warning("data::slice", message), "split").why(why));
        }
        total += range.end - range.start;
        sources.push((Box::new(source), range));
    }
    let source = Box::new(Slices::new(sources));
    let Some(shards) = dataset.shards else { return Ok(source) };
    let shard = Shard::new(source, total, shards.into(), dataset.shards_idx.into(), loaded.config.seed);
    if shard.rows() == 0 && total > 0 {
        let message = format!("shard {} of {shards} has no row: there are {total}", dataset.shards_idx);
        return Err(at(Diagnostic::error("data::empty", message), "shards").help("lower `shards`").into());
    }
    Ok(Box::new(shard))
}

/// The row filters of a dataset, started for it, in their order: those of the top level (`common`), then its own.
///
/// # Errors
/// One of them does not start.
pub fn row_filters(
    loaded: &LoadedConfig,
    plugins: &PluginHost,
    dataset: &DatasetConfig,
    entry: &str,
    common: &[FilterRef],
) -> Result<(Vec<Use>, Vec<DatasetFilter>), Failure> {
    let mut uses = filters(loaded, "row_filters", common);
    uses.extend(filters(loaded, &format!("{entry}.row_filters"), &dataset.row_filters));
    let mut started: Vec<DatasetFilter> = Vec::new();
    for (used, config) in uses.iter().zip(common.iter().chain(&dataset.row_filters)) {
        let filter = plugins.filter(&used.name, &used.config_json).map_err(|error| locate(loaded, used, error))?;
        let (plugin, path, min_score) = (used.name.clone(), used.path.clone(), config.min_score);
        started.push(DatasetFilter { plugin, path, min_score, filter: Box::new(filter) });
    }
    Ok((uses, started))
}
