//! One dataset of a config: its plugins started, its rows made into samples.

use plugin_runtime::PluginHost;

use super::rows::{row_filters, rows};
use crate::check::plugins::{Use, locate, strategy_config};
use crate::config::{DatasetConfig, FilterRef, LoadedConfig};
use crate::data::dataset::{DatasetError, Prepared, prepare};
use crate::data::render::Making;
use crate::data::strategy::PromptStrategy;
use crate::data::tokenized::Tokenized;
use crate::diagnostic::{Diagnostic, Failure};

pub(super) fn one(
    loaded: &LoadedConfig,
    plugins: &PluginHost,
    making: &Making<'_>,
    dataset: &DatasetConfig,
    path: &str,
    common: &[FilterRef],
    remarks: &mut Vec<Diagnostic>,
) -> Result<Prepared, Failure> {
    let file = loaded.resolve(&dataset.path);
    let mut source = rows(loaded, plugins, dataset, path, remarks)?;
    let (uses, mut started) = row_filters(loaded, plugins, dataset, path, common)?;
    let strategy = Use {
        kind: plugin_runtime::Kind::PromptStrategy,
        name: dataset.strategy.name.clone(),
        config_json: strategy_config(loaded, dataset, path),
        path: format!("{path}.type"),
        data: None,
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut strategies: Vec<Box<dyn PromptStrategy>> = Vec::new();
    for _ in 0..threads {
        if dataset.is_tokenized() {
            strategies.push(Box::new(Tokenized));
            continue;
        }
        let instance = plugins
            .strategy(&strategy.name, &strategy.config_json)
            .map_err(|error| locate(loaded, &strategy, error))?;
        strategies.push(Box::new(instance));
    }
    prepare(&file, &mut *source, &mut started, &mut strategies, making).map_err(|error| {
        let filter_place = match error {
            DatasetError::Filter { index, error } => return locate(loaded, &uses[index], error).into(),
            DatasetError::NoScores { index, .. } => {
                loaded.source.nearest_place(&format!("{}.min_score", uses[index].path))
            }
            _ => None,
        };
        let mut failure = Failure::from(error);
        for diagnostic in failure.0.iter_mut().filter(|diagnostic| diagnostic.place.is_none()) {
            if filter_place.is_some() {
                diagnostic.place.clone_from(&filter_place);
                continue;
            }
            let key = if diagnostic.plugin.as_deref() == Some(&strategy.name) { &strategy.path } else { path };
            diagnostic.place = loaded.source.nearest_place(key);
        }
        failure
    })
}
