//! The samples of a run: what the datasets of a config become. They are made once and kept on disk, so that a run reads what it
//! needs, and another one makes nothing again.

mod dataset;
mod kept;
mod key;
mod maker;
pub mod rows;
pub mod stream;

use std::collections::BTreeMap;

use engine::rng::Philox;
use plugin_runtime::PluginHost;

use self::dataset::Dataset;
use self::key::{Key, tokenizer_digest};
use crate::check::facts::ModelFacts;
use crate::check::{curation, selection};
use crate::config::{DatasetConfig, ExcessLengthStrategy, FilterRef, LoadedConfig};
use crate::data::dataset::{Example, ExcessLength, First};
use crate::data::dropped::Dropped;
use crate::data::render::{Learns, Making};
use crate::data::set::Set;
use crate::data::shuffle::shuffle;
use crate::data::steps::StepFormat;
use crate::data::template::ChatTemplate;
use crate::data::tokenize::{Encoder, TextBudget};
use crate::diagnostic::{Diagnostic, Failure};

pub use self::kept::StoreOrigin;
pub use self::maker::{Maker, NoSample};

/// The keys of datasets.
const TRAINED: &str = "datasets";
const TESTED: &str = "test_datasets";
/// RNG stream of the split of training and evaluation rows.
const SPLIT_STREAM: u64 = 0x7370_6c69;

/// The samples of a run.
#[derive(Debug)]
pub struct Data {
    /// Trained on, in the order of the files. Of a stream, the first window.
    pub train: Set,
    /// Evaluated on.
    pub eval: Set,
    /// Rows read for training.
    pub rows: u64,
    /// Of those, the ones that have more tokens than `sequence_len` and were left out.
    pub too_long: u64,
    /// Rows left out, both sets together.
    pub dropped: Dropped,
    /// Digest of the training samples: of tokens, and what of them is learned; of rows too, where rewards see them.
    pub digest: String,
    /// Warnings about the data.
    pub remarks: Vec<Diagnostic>,
    /// Bytes that a window of a stream takes in memory; 0 where samples are on disk.
    pub window_bytes: u64,
    /// Where the samples of each dataset come from, by its place in the config (`datasets[0]`).
    pub origins: Vec<(String, StoreOrigin)>,
}

/// What samples are made with.
#[derive(Clone, Copy)]
pub struct Preparing<'a> {
    /// The config.
    pub loaded: &'a LoadedConfig,
    /// The plugins that it names, among others.
    pub plugins: &'a PluginHost,
    /// The model that it names.
    pub model: &'a ModelFacts,
    /// How conversations become text.
    pub template: Option<&'a ChatTemplate>,
    /// What samples there must be.
    pub learns: Learns,
}

impl<'a> Preparing<'a> {
    /// The samples of all datasets: those that were kept, and those that had to be made.
    ///
    /// # Errors
    /// What is wrong with the data, and a disk that is full.
    pub fn samples(&self) -> Result<Data, Failure> {
        curation::refuse(self.loaded)?;
        let (loaded, config) = (self.loaded, &self.loaded.config);
        let root = kept::place(loaded)?;
        let tokenizer = tokenizer_digest(self.model.tokenizer.directory())?;
        // Rewards and environments see all columns of a row, and not only what its text is made of.
        let with_rows = matches!(self.learns, Learns::Prompts { .. } | Learns::Episodes);
        let mut data = Data {
            train: Set::default(),
            eval: Set::default(),
            rows: 0,
            too_long: 0,
            dropped: Dropped::default(),
            digest: String::new(),
            remarks: Vec::new(),
            window_bytes: 0,
            origins: Vec::new(),
        };
        let stream = if config.streaming { Some(self.first_window(&mut data)?) } else { None };
        let mut all = |key: &str, datasets: &'a [DatasetConfig]| -> Result<Set, Failure> {
            let mut stores = Vec::new();
            for (index, dataset) in datasets.iter().enumerate() {
                let dataset = self.dataset(key, index, dataset, false)?;
                let kept =
                    kept::samples(&dataset, Key::of(&dataset, self.model, &tokenizer)?, root.as_deref(), with_rows)?;
                if key == TRAINED {
                    data.rows += kept.rows;
                    data.too_long += kept.dropped.too_long.rows;
                }
                data.dropped.add(&kept.dropped);
                data.remarks.extend(kept.remarks);
                data.origins.push((dataset.entry, kept.origin));
                stores.push(kept.store);
            }
            Ok(Set::new(stores).weighted(datasets.iter().map(|dataset| dataset.weight).collect()))
        };
        let train = stream.map_or_else(|| all(TRAINED, &config.datasets), Ok);
        let (mut train, mut eval) = (train?, all(TESTED, &config.test_datasets)?);
        if !config.val_set_size.is_zero() {
            let count = config.val_set_size.of(train.len() as u64) as usize;
            if count >= train.len() {
                let message = format!("`val_set_size` takes {count} of {} rows; none is left to train on", train.len());
                return Err(Diagnostic::error("config::out-of-range", message)
                    .at(loaded.source.nearest_place("val_set_size"))
                    .into());
            }
            let (trained, held) = split(train.len(), count, config.seed);
            (train, eval) = (train.choose(trained), train.choose(held));
        }
        Ok(Data { digest: train.digest(), train, eval, ..data })
    }

    /// What makes rows of a dataset of `datasets` into samples, one after another.
    ///
    /// # Errors
    /// Its prompt strategy does not start.
    pub fn maker(&self, dataset: usize) -> Result<Maker<'a>, Failure> {
        Maker::new(self.dataset(TRAINED, dataset, &self.loaded.config.datasets[dataset], false)?)
    }

    /// The first samples of the training set with the texts that they were made of.
    ///
    /// # Errors
    /// What is wrong with the data.
    pub fn shown(&self, data: &Data, count: usize) -> Result<Vec<Example>, Failure> {
        let places: Vec<(usize, usize)> =
            (0..count.min(data.train.len())).map(|sample| data.train.place(sample)).collect();
        let mut last: BTreeMap<usize, usize> = BTreeMap::new();
        for &(dataset, sample) in &places {
            last.insert(dataset, sample);
        }
        let mut made: BTreeMap<usize, Vec<Example>> = BTreeMap::new();
        for (index, last) in last {
            let mut first = First::new(last + 1);
            self.dataset(TRAINED, index, &self.loaded.config.datasets[index], true)?.make(&mut first)?;
            made.insert(index, first.examples);
        }
        let shown = places.iter().filter_map(|(dataset, sample)| made.get(dataset)?.get(*sample).cloned());
        Ok(shown.collect())
    }

    fn dataset(
        &self,
        key: &str,
        index: usize,
        dataset: &'a DatasetConfig,
        keeps_text: bool,
    ) -> Result<Dataset<'a>, Failure> {
        let (config, entry) = (&self.loaded.config, format!("{key}[{index}]"));
        let cuts = config.excess_length_strategy == ExcessLengthStrategy::Truncate;
        let format = StepFormat::default();
        let making = Making {
            encoder: Encoder {
                tokenizer: &self.model.tokenizer,
                template: self.template,
                train_on_inputs: config.train_on_inputs,
                end_of_turn: selection::end_of_turn(self.loaded, self.model)?,
                keeps_text,
                budget: TextBudget::of(config.sequence_len as usize, cuts),
            },
            sequence_len: config.sequence_len as usize,
            excess: match config.excess_length_strategy {
                ExcessLengthStrategy::Drop => ExcessLength::Drop,
                ExcessLengthStrategy::Truncate => ExcessLength::Truncate,
                ExcessLengthStrategy::Raise => ExcessLength::Raise,
            },
            learns: self.learns,
            steps: StepFormat {
                separator: dataset.step_separator.clone().unwrap_or(format.separator),
                max_completion_length: dataset.max_completion_length.map(|most| most as usize),
                last_only: dataset.train_on_last_step_only,
            },
        };
        let common: &[FilterRef] = if key == TRAINED { &config.row_filters } else { &[] };
        Ok(Dataset { loaded: self.loaded, plugins: self.plugins, config: dataset, entry, common, making })
    }
}

/// Takes `count` of so many samples out at random; both parts keep their order.
fn split(all: usize, count: usize, seed: u64) -> (Vec<u32>, Vec<u32>) {
    let mut order: Vec<u32> = (0..all as u32).collect();
    shuffle(&mut order, &mut Philox::new(seed, SPLIT_STREAM));
    let mut is_held = vec![false; all];
    order.into_iter().take(count).for_each(|sample| is_held[sample as usize] = true);
    (0..all as u32).partition(|&sample| !is_held[sample as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_takes_the_asked_count_and_loses_nothing() {
        let (train, eval) = split(100, 7, 3);
        assert_eq!((train.len(), eval.len()), (93, 7));
        assert!(train.is_sorted() && eval.is_sorted());
        let mut all = [train, eval.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<u32>>());
        assert_eq!(eval, split(100, 7, 3).1);
        assert_ne!(eval, split(100, 7, 4).1);
    }
}
