//! The samples of a run: what the datasets of a config become.

mod dataset;
pub mod rows;

use std::collections::BTreeSet;

use engine::rng::Philox;
use plugin_runtime::PluginHost;
use sha2::{Digest, Sha256};

use self::dataset::one;
use crate::check::facts::ModelFacts;
use crate::check::{curation, selection};
use crate::checkpoint::directory::hex;
use crate::config::{DatasetConfig, ExcessLengthStrategy, FilterRef, LoadedConfig};
use crate::data::dataset::{Dropped, Example, ExcessLength};
use crate::data::packing::shuffle;
use crate::data::render::{Learns, Making};
use crate::data::steps::StepFormat;
use crate::data::template::ChatTemplate;
use crate::data::tokenize::{Encoder, TextBudget};
use crate::diagnostic::{Diagnostic, Failure};

/// RNG stream of the split of training and evaluation rows.
const SPLIT_STREAM: u64 = 0x7370_6c69;

/// The samples of a run.
#[derive(Debug)]
pub struct Data {
    /// Trained on, in the order of the files.
    pub train: Vec<Example>,
    /// Evaluated on.
    pub eval: Vec<Example>,
    /// Rows read for training.
    pub rows: u64,
    /// Of those, the ones that have more tokens than `sequence_len` and were left out.
    pub too_long: u64,
    /// Rows left out, both sets together.
    pub dropped: Dropped,
    /// Digest of all training tokens and what of them is learned.
    pub digest: String,
    /// Warnings about the data.
    pub remarks: Vec<Diagnostic>,
}

/// Prepares all datasets of a config. `learns` says what samples there must be; with `keeps_text`, each has the text that it was
/// made of.
///
/// # Errors
/// What is wrong with the data.
pub fn samples(
    loaded: &LoadedConfig,
    plugins: &PluginHost,
    model: &ModelFacts,
    template: Option<&ChatTemplate>,
    learns: Learns,
    keeps_text: bool,
) -> Result<Data, Failure> {
    curation::refuse(loaded)?;
    let config = &loaded.config;
    let tokenizer = &model.tokenizer;
    let end_of_turn = selection::end_of_turn(loaded, model)?;
    let cuts = config.excess_length_strategy == ExcessLengthStrategy::Truncate;
    let budget = TextBudget::of(config.sequence_len as usize, cuts);
    let excess = match config.excess_length_strategy {
        ExcessLengthStrategy::Drop => ExcessLength::Drop,
        ExcessLengthStrategy::Truncate => ExcessLength::Truncate,
        ExcessLengthStrategy::Raise => ExcessLength::Raise,
    };
    let making = |dataset: &DatasetConfig| {
        let (end_of_turn, train_on_inputs) = (end_of_turn.clone(), config.train_on_inputs);
        let format = StepFormat::default();
        Making {
            encoder: Encoder { tokenizer, template, train_on_inputs, end_of_turn, keeps_text, budget },
            sequence_len: config.sequence_len as usize,
            excess,
            learns,
            steps: StepFormat {
                separator: dataset.step_separator.clone().unwrap_or(format.separator),
                max_completion_length: dataset.max_completion_length.map(|most| most as usize),
                last_only: dataset.train_on_last_step_only,
            },
        }
    };
    let mut dropped = Dropped::default();
    let (mut rows, mut too_long, mut remarks) = (0, 0, Vec::new());
    let mut read =
        |key: &str, datasets: &[DatasetConfig], filters: &[FilterRef], count: bool| -> Result<Vec<Example>, Failure> {
            let mut examples = Vec::new();
            for (index, dataset) in datasets.iter().enumerate() {
                let prepared =
                    one(loaded, plugins, &making(dataset), dataset, &format!("{key}[{index}]"), filters, &mut remarks)?;
                if count {
                    rows += prepared.rows;
                    too_long += prepared.dropped.too_long.rows;
                }
                dropped.add(&prepared.dropped);
                examples.extend(prepared.examples);
            }
            Ok(examples)
        };
    let mut train = read("datasets", &config.datasets, &config.row_filters, true)?;
    let mut eval = read("test_datasets", &config.test_datasets, &[], false)?;
    if !config.val_set_size.is_zero() {
        let count = config.val_set_size.of(train.len() as u64) as usize;
        if count >= train.len() {
            let message = format!("`val_set_size` takes {count} of {} rows; none is left to train on", train.len());
            return Err(Diagnostic::error("config::out-of-range", message)
                .at(loaded.source.nearest_place("val_set_size"))
                .into());
        }
        (train, eval) = split(train, count, config.seed);
    }
    let mut digest = digest(&train);
    if matches!(learns, Learns::Prompts { .. } | Learns::Episodes) {
        // Rewards and environments see all columns of a row, and not only what its text is made of.
        let mut hasher = Sha256::new_with_prefix(digest.as_bytes());
        for example in &train {
            hasher.update((example.row_json.len() as u64).to_le_bytes());
            hasher.update(example.row_json.as_bytes());
        }
        digest = hex(&hasher.finalize());
    }
    Ok(Data { train, eval, rows, too_long, dropped, digest, remarks })
}

/// Takes `count` samples out at random; both parts keep their order.
fn split(examples: Vec<Example>, count: usize, seed: u64) -> (Vec<Example>, Vec<Example>) {
    let mut order: Vec<usize> = (0..examples.len()).collect();
    shuffle(&mut order, &mut Philox::new(seed, SPLIT_STREAM));
    let held: BTreeSet<usize> = order.into_iter().take(count).collect();
    let (mut train, mut eval) = (Vec::new(), Vec::new());
    for (index, example) in examples.into_iter().enumerate() {
        if held.contains(&index) { eval.push(example) } else { train.push(example) }
    }
    (train, eval)
}

/// Digest of all tokens and of what of them is learned.
pub fn digest(examples: &[Example]) -> String {
    let mut hasher = Sha256::new();
    for (example, tokens) in
        examples.iter().flat_map(|example| example.documents().map(move |tokens| (example, tokens)))
    {
        if let Some(desirable) = example.desirable {
            hasher.update([u8::from(desirable)]);
        }
        if let Some(margin) = example.margin {
            hasher.update(margin.to_le_bytes());
        }
        for label in &example.labels {
            hasher.update(label.to_le_bytes());
        }
        hasher.update((tokens.ids.len() as u64).to_le_bytes());
        for (index, (id, trained)) in tokens.ids.iter().zip(&tokens.trained).enumerate() {
            let weight = tokens.weights.as_ref().map_or(1.0, |weights| weights[index]);
            hasher.update(id.to_le_bytes());
            hasher.update([u8::from(*trained)]);
            hasher.update(weight.to_le_bytes());
        }
    }
    hex(&hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tokenize::TokenSample;

    fn examples(count: u32) -> Vec<Example> {
        let tokens = |id| TokenSample { ids: vec![id], trained: vec![true], weights: None };
        (0..count)
            .map(|id| Example {
                tokens: tokens(id),
                rejected: None,
                desirable: None,
                margin: None,
                labels: Vec::new(),
                row_json: "{}".into(),
                origin: None,
            })
            .collect()
    }

    #[test]
    fn a_split_takes_the_asked_count_and_loses_nothing() {
        let ids = |examples: &[Example]| examples.iter().map(|example| example.tokens.ids[0]).collect::<Vec<_>>();
        let (train, eval) = split(examples(100), 7, 3);
        assert_eq!((train.len(), eval.len()), (93, 7));
        assert!(ids(&train).is_sorted() && ids(&eval).is_sorted());
        let (_, again) = split(examples(100), 7, 3);
        assert_eq!(ids(&eval), ids(&again));
        assert_ne!(ids(&eval), ids(&split(examples(100), 7, 4).1));
    }
}
