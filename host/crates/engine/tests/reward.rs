//! Models that score, beside TRL's and transformers': of pairs and of labelled steps the scores, the loss, what is told, and
//! gradients of the weights (`tests/fixtures/reward-model/make.py`).

mod fixture;
mod trl;

use std::collections::BTreeMap;
use std::path::PathBuf;

use engine::architecture::config::ModelConfig;
use engine::architecture::scores::{Classifier, NoScores};
use engine::objective::{Metrics, accumulate};
use engine::optim::AdamWConfig;
use engine::weights::WeightSource;
use engine::{
    Batch, EngineError, IGNORE, LabelCrossEntropy, Objective, RewardModel, ScoredPairs, Trainable, Trainer,
    TrainerOptions,
};
use fixture::fixture;
use safetensors::SafeTensors;
use serde::Deserialize;
use trl::{agree, distance, floats, integers, trainer_of};

#[derive(Deserialize)]
struct Case {
    #[serde(default)]
    center_rewards_coefficient: f64,
    #[serde(default)]
    margin: bool,
    metrics: BTreeMap<String, f64>,
}

impl Case {
    fn objective(&self) -> RewardModel {
        RewardModel { center: self.center_rewards_coefficient }
    }
}

fn directory(name: &str) -> PathBuf {
    fixture("../reward-model").join(name)
}

fn options() -> TrainerOptions {
    let adamw = AdamWConfig { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.0 };
    TrainerOptions {
        trainable: Trainable::All,
        lora: None,
        gradient_checkpointing: false,
        seed: 0,
        adamw,
        ..TrainerOptions::default()
    }
}

fn with_fixture(check: impl Fn(&SafeTensors<'_>, &str, &Case)) {
    trl::with_fixture("reward-model", check);
}

/// Rows of the fixture, in this order, as documents; `target` says what stands at a place of a row.
fn documents(tensors: &SafeTensors<'_>, rows: &[usize], target: impl Fn(usize, usize, usize) -> u32) -> Batch {
    let (ids, lens) = (integers(tensors, "ids"), integers(tensors, "lens"));
    let width = ids.len() / lens.len();
    let mut batch = Batch::default();
    for &row in rows {
        let length = lens[row] as usize;
        batch.ids.extend(&ids[row * width..][..length]);
        batch.targets.extend((0..length).map(|at| target(row, at, length)));
        batch.doc_lens.push(lens[row]);
    }
    batch
}

/// Some of the fixture's pairs; the first half of its rows are chosen texts, the second half rejected ones.
fn pairs(tensors: &SafeTensors<'_>, case: &Case, pairs: std::ops::Range<usize>) -> ScoredPairs {
    let rows: Vec<usize> = pairs.clone().flat_map(|pair| [pair, pair + 3]).collect();
    let batch = documents(tensors, &rows, |_, at, length| if at + 1 == length { 0 } else { IGNORE });
    let margins = floats(tensors, "margins")[pairs].iter().map(|&margin| f64::from(margin)).collect();
    ScoredPairs { batch, margins: if case.margin { margins } else { Vec::new() } }
}

#[test]
fn scores_are_those_of_transformers() {
    with_fixture(|tensors, _, case| {
        let expected = floats(tensors, "scores");
        let pairs = pairs(tensors, case, 0..3);
        let scores = trainer_of(directory("texts")).outputs(&pairs.batch).unwrap();
        assert_eq!(scores.len(), pairs.batch.ids.len());
        for (place, row) in pairs.batch.learned().flatten().zip([0, 3, 1, 4, 2, 5]) {
            assert!((scores[place] - expected[row]).abs() <= 1e-5, "{} {}", scores[place], expected[row]);
        }
    });
}

#[test]
fn losses_and_gradients_are_those_of_trl() {
    with_fixture(|tensors, name, case| {
        let mut trainer = trainer_of(directory("texts"));
        let found = accumulate(&mut trainer, &case.objective(), &[pairs(tensors, case, 0..3)]).unwrap();
        agree(tensors, name, &trainer, &found, &case.metrics, [1.0, 1.0]);
    });
}

#[test]
fn pairs_count_the_same_however_they_are_divided() {
    with_fixture(|tensors, name, case| {
        let (mut whole, mut parts) = (trainer_of(directory("texts")), trainer_of(directory("texts")));
        let at_once = accumulate(&mut whole, &case.objective(), &[pairs(tensors, case, 0..3)]).unwrap();
        let apart = [pairs(tensors, case, 0..1), pairs(tensors, case, 1..3)];
        let apart = accumulate(&mut parts, &case.objective(), &apart).unwrap();
        assert!((at_once.loss - apart.loss).abs() <= 1e-6 * at_once.loss.abs(), "{name}");
        for weight in ["score.weight", "model.layers.0.self_attn.q_proj.weight"] {
            let off = distance(&parts.gradient(weight).unwrap(), &whole.gradient(weight).unwrap());
            assert!(off <= 1e-5, "{name}: {weight} is {off:e} off");
        }
    });
}

#[test]
fn labels_of_steps_are_learned_as_transformers_does() {
    with_fixture(|tensors, name, _| {
        if name != "plain" {
            return;
        }
        let labels = integers(tensors, "labels");
        let width = labels.len() / 6;
        let label = |row: usize, at: usize, _| match labels[row * width + at] {
            label @ (0 | 1) => label,
            _ => IGNORE,
        };
        let rows = [0, 1, 2, 3, 4, 5];
        let batch = documents(tensors, &rows, label);
        let mut trainer = trainer_of(directory("steps"));
        let (scores, expected) = (trainer.outputs(&batch).unwrap(), floats(tensors, "steps/scores"));
        let mut place = 0;
        for (row, &length) in batch.doc_lens.iter().enumerate() {
            for (found, expected) in scores[2 * place..].iter().zip(&expected[2 * row * width..][..2 * length as usize])
            {
                assert!((found - expected).abs() <= 1e-5, "{found} {expected}");
            }
            place += length as usize;
        }
        let right = batch.learned().flatten().filter(|&at| {
            let said = u32::from(scores[2 * at + 1] > scores[2 * at]);
            said == batch.targets[at]
        });
        let right = right.count() as f64 / batch.learned().flatten().count() as f64;
        let apart = [documents(tensors, &rows[..2], label), documents(tensors, &rows[2..], label)];
        for batches in [&[batch][..], &apart] {
            let found = accumulate(&mut trainer, &LabelCrossEntropy { labels: 2 }, batches).unwrap();
            let metrics = BTreeMap::from([("accuracy".to_owned(), right)]);
            agree(tensors, "steps", &trainer, &found, &metrics, [0.0, 1.0]);
        }
    });
}

#[test]
fn a_language_model_gets_a_head_that_its_seed_decides() {
    let source = fixture("untied");
    let head = |seed: u64| {
        let mut config = ModelConfig::from_dir(&source).unwrap();
        config.score(Classifier::Token, 2, seed).unwrap();
        let weights = WeightSource::Directory(source.clone());
        let trainer = Trainer::new(config, &weights, options()).unwrap();
        assert!(trainer.parameter("lm_head.weight").is_none());
        let embedding = trainer.parameter("model.embed_tokens.weight").unwrap();
        assert!(embedding.iter().any(|&value| value != 0.0));
        assert_eq!(trainer.parameter("score.bias").unwrap(), [0.0; 2]);
        trainer.parameter("score.weight").unwrap()
    };
    let own = head(3);
    assert!(own == head(3) && own != head(4));
    // `initializer_range` of the fixture.
    let deviation = (own.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>() / own.len() as f64).sqrt();
    assert!((deviation / 0.15 - 1.0).abs() < 0.3, "{deviation}");
}

#[test]
fn a_head_is_that_of_transformers_or_none() {
    let texts = ModelConfig::from_dir(&directory("texts")).unwrap();
    let mut again = texts.clone();
    again.score(Classifier::Sequence, 1, 0).unwrap();
    assert_eq!(again, texts);
    let other = again.score(Classifier::Token, 2, 0).unwrap_err();
    assert_eq!(other.to_string(), "it has a head of 1 scores of texts already");
    let mut fresh = ModelConfig::from_dir(&fixture("untied")).unwrap();
    fresh.score(Classifier::Sequence, 1, 0).unwrap();
    for key in ["architectures", "id2label", "label2id"] {
        assert_eq!(fresh.raw[key], texts.raw[key], "{key}");
    }
    let mut granite = ModelConfig::from_dir(&fixture("granite")).unwrap();
    let none = granite.score(Classifier::Sequence, 1, 0).unwrap_err();
    assert_eq!(none, NoScores::Class("GraniteForCausalLM".to_owned()));
}

#[test]
fn what_cannot_be_is_refused() {
    with_fixture(|tensors, name, case| {
        if name != "plain" {
            return;
        }
        let mut trainer = trainer_of(directory("texts"));
        let good = pairs(tensors, case, 0..3);
        let mut refused = |pairs: ScoredPairs, words: &str| {
            let error = accumulate(&mut trainer, &case.objective(), &[pairs]).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        };
        refused(ScoredPairs { margins: vec![1.0], ..good.clone() }, "3 pairs, but 1 margins");
        let mut twice = good.clone();
        twice.batch.targets[0] = 0;
        refused(twice, "scored at 2 positions");
        let mut beyond = good.clone();
        let place = beyond.batch.learned().flatten().next().unwrap();
        beyond.batch.targets[place] = 1;
        refused(beyond, "target id 1 is outside the labels of 1");
        assert!(matches!(trainer.forward_backward(&good.batch, 1.0, 0), Err(EngineError::Options { .. })));
        assert!(matches!(trainer.evaluate(&good.batch), Err(EngineError::Options { .. })));
    });
}

#[test]
fn scores_that_are_far_apart_have_a_finite_loss() {
    let batch = Batch { ids: vec![5, 6], targets: vec![0, 0], weights: None, doc_lens: vec![1, 1] };
    let pairs = ScoredPairs { batch: batch.clone(), margins: Vec::new() };
    for scores in [[1e4, -1e4], [-1e4, 1e4], [0.0, 0.0]] {
        let mut weights = [0.0; 2];
        let loss = RewardModel { center: 0.0 }.loss(&pairs, &scores, &[], &mut weights, &mut Metrics::default());
        assert!(loss.is_finite() && weights.iter().all(|weight| weight.is_finite()), "{scores:?}");
        let (mut weights, scores) = ([0.0; 4], [scores[0], scores[1], scores[1], scores[0]]);
        let labels = LabelCrossEntropy { labels: 2 };
        let loss = labels.loss(&batch, &scores, &[], &mut weights, &mut Metrics::default());
        assert!(loss.is_finite() && weights.iter().all(|weight| weight.is_finite()), "{scores:?}");
    }
}
