//! One dataset of a config: its plugins started, its rows made into samples.

use std::path::PathBuf;

use plugin_runtime::{Kind, PluginHost};

use super::rows::{row_filters, rows};
use crate::check::plugins::{Use, filters, loader, locate, strategy_config};
use crate::config::{DatasetConfig, FilterRef, LoadedConfig};
use crate::data::dataset::{DatasetError, Prepared, Sink, prepare};
use crate::data::render::Making;
use crate::data::strategy::PromptStrategy;
use crate::data::tokenized::Tokenized;
use crate::diagnostic::{Diagnostic, Failure};

/// A dataset of a config, and what its rows are to become.
pub(super) struct Dataset<'a> {
    pub(super) loaded: &'a LoadedConfig,
    pub(super) plugins: &'a PluginHost,
    pub(super) config: &'a DatasetConfig,
    /// Its place in the config (`datasets[0]`).
    pub(super) entry: String,
    /// Filters that it has in common with others.
    pub(super) common: &'a [FilterRef],
    pub(super) making: Making<'a>,
}

impl Dataset<'_> {
    /// Where it is.
    pub(super) fn path(&self) -> PathBuf {
        self.loaded.data_path(&self.entry, &self.config.path)
    }

    /// The loaders of its splits, its filters, its prompt strategy.
    pub(super) fn uses(&self) -> (Vec<Use>, Vec<Use>, Use) {
        let mut uses = filters(self.loaded, "row_filters", self.common);
        uses.extend(filters(self.loaded, &format!("{}.row_filters", self.entry), &self.config.row_filters));
        let strategy = Use {
            kind: Kind::PromptStrategy,
            name: self.config.strategy.name.clone(),
            config_json: strategy_config(self.loaded, self.config, &self.entry),
            path: format!("{}.type", self.entry),
            data: None,
        };
        let parts = self.config.split.parts.iter();
        let loaders = parts.map(|part| loader(self.loaded, self.config, &self.entry, &part.name)).collect();
        (loaders, uses, strategy)
    }

    /// The least scores of its filters, in the order of those.
    pub(super) fn min_scores(&self) -> impl Iterator<Item = Option<f64>> {
        self.common.iter().chain(&self.config.row_filters).map(|filter| filter.min_score)
    }

    /// Makes its rows into samples, which go to `sink`. What is remarkable about its rows comes with it.
    pub(super) fn make(&self, sink: &mut impl Sink) -> Result<(Prepared, Vec<Diagnostic>), Failure> {
        let (loaded, plugins) = (self.loaded, self.plugins);
        let mut remarks = Vec::new();
        let mut source = rows(loaded, plugins, self.config, &self.entry, &mut remarks)?;
        let (_, uses, strategy) = self.uses();
        let (_, mut started) = row_filters(loaded, plugins, self.config, &self.entry, self.common)?;
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut strategies = (0..threads).map(|_| self.strategy(&strategy)).collect::<Result<Vec<_>, _>>()?;
        let prepared = prepare(&self.path(), &mut *source, &mut started, &mut strategies, &self.making, sink);
        let prepared = prepared.map_err(|error| self.located(error, &uses, &strategy))?;
        Ok((prepared, remarks))
    }

    /// Starts its prompt strategy once.
    pub(super) fn strategy(&self, used: &Use) -> Result<Box<dyn PromptStrategy>, Failure> {
        if self.config.is_tokenized() {
            return Ok(Box::new(Tokenized));
        }
        let started = self.plugins.strategy(&used.name, &used.config_json);
        Ok(Box::new(started.map_err(|error| locate(self.loaded, used, error))?))
    }

    pub(super) fn located(&self, error: DatasetError, uses: &[Use], strategy: &Use) -> Failure {
        let source = &self.loaded.source;
        let filter_place = match error {
            DatasetError::Filter { index, error } => return locate(self.loaded, &uses[index], error).into(),
            DatasetError::NoScores { index, .. } => source.nearest_place(&format!("{}.min_score", uses[index].path)),
            _ => None,
        };
        let mut failure = Failure::from(error);
        for diagnostic in failure.0.iter_mut().filter(|diagnostic| diagnostic.place.is_none()) {
            if filter_place.is_some() {
                diagnostic.place.clone_from(&filter_place);
                continue;
            }
            let key = if diagnostic.plugin.as_deref() == Some(&strategy.name) { &strategy.path } else { &self.entry };
            diagnostic.place = source.nearest_place(key);
        }
        failure
    }
}
