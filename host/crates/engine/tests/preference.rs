//! Losses of preferences beside TRL's: of each the loss, what is told, its derivatives with respect to the log-probabilities,
//! and gradients of the weights (`tests/fixtures/preference/make.py`).

mod fixture;
mod trl;

use std::cell::RefCell;
use std::collections::BTreeMap;

use engine::objective::{Accumulated, Metrics, accumulate};
use engine::{
    Batch, Cpo, CpoLoss, EngineError, IGNORE, Objective, Orpo, PairLoss, Pairs, Preference, Trainer, WholePairs,
};
use fixture::fixture;
use safetensors::SafeTensors;
use serde::Deserialize;
use trl::{agree, distance, floats, integers, trainer_of};

#[derive(Deserialize)]
struct Case {
    loss_type: Vec<String>,
    #[serde(default)]
    loss_weights: Option<Vec<f64>>,
    beta: f64,
    #[serde(default)]
    label_smoothing: f64,
    /// `cpo`, `orpo`, or TRL's `DPOTrainer`.
    #[serde(default)]
    trainer: Option<String>,
    #[serde(default)]
    cpo_alpha: f64,
    #[serde(default)]
    simpo_gamma: f64,
    metrics: BTreeMap<String, f64>,
}

impl Case {
    fn cpo(&self) -> Option<Cpo> {
        self.trainer.as_ref().filter(|trainer| *trainer == "cpo")?;
        let loss = match self.loss_type[0].as_str() {
            "sigmoid" => CpoLoss::Sigmoid,
            "hinge" => CpoLoss::Hinge,
            "ipo" => CpoLoss::Ipo,
            "simpo" => CpoLoss::Simpo { gamma: self.simpo_gamma },
            other => panic!("no `{other}`"),
        };
        Some(Cpo { loss, beta: self.beta, label_smoothing: self.label_smoothing, alpha: self.cpo_alpha })
    }

    fn accumulate(&self, trainer: &mut Trainer, pairs: &[Pairs]) -> Accumulated {
        if self.trainer.as_deref() == Some("orpo") {
            let pairs: Vec<_> = pairs.iter().map(|pairs| WholePairs::of_answers(pairs.batch.clone())).collect();
            return accumulate(trainer, &Orpo { beta: self.beta }, &pairs).unwrap();
        }
        match self.cpo() {
            Some(cpo) => accumulate(trainer, &cpo, pairs).unwrap(),
            None => accumulate(trainer, &self.objective(), pairs).unwrap(),
        }
    }

    fn objective(&self) -> Preference {
        let weights = self.loss_weights.clone().unwrap_or_else(|| vec![1.0; self.loss_type.len()]);
        let losses = self.loss_type.iter().map(|name| PairLoss::named(name).unwrap_or_else(|| panic!("no `{name}`")));
        Preference {
            losses: losses.zip(weights).collect(),
            beta: self.beta,
            label_smoothing: self.label_smoothing,
            discopop_tau: 0.05,
        }
    }
}

/// The fixture's pairs; the first half of its rows are chosen answers, the second half rejected ones.
struct Rows {
    pairs: Pairs,
    /// For each token of the batch with a target, the place of that among TRL's derivatives, which has one for the others too.
    places: Vec<Option<usize>>,
}

impl Rows {
    fn read(tensors: &SafeTensors<'_>) -> Self {
        let (ids, mask, lens) = (integers(tensors, "ids"), integers(tensors, "mask"), integers(tensors, "lens"));
        let reference = floats(tensors, "reference");
        let width = ids.len() / lens.len();
        let (mut pairs, mut places) = (Pairs::default(), Vec::new());
        for row in (0..lens.len() / 2).flat_map(|pair| [pair, pair + lens.len() / 2]) {
            let length = lens[row] as usize;
            let Batch { ids: all, targets, doc_lens, .. } = &mut pairs.batch;
            all.extend(&ids[row * width..][..length]);
            doc_lens.push(lens[row]);
            for at in 1..length {
                let is_answer = mask[row * width + at] == 1;
                targets.push(if is_answer { ids[row * width + at] } else { IGNORE });
                places.push(is_answer.then_some(row * (width - 1) + at - 1));
            }
            targets.push(IGNORE);
            places.push(None);
            pairs.reference.push(f64::from(reference[row]));
        }
        Self { pairs, places }
    }

    /// The pairs from `first` on, as a batch of their own.
    fn part(&self, pairs: std::ops::Range<usize>) -> Pairs {
        let lens = &self.pairs.batch.doc_lens;
        let tokens = |pairs: usize| lens[..2 * pairs].iter().map(|&length| length as usize).sum::<usize>();
        let (from, to) = (tokens(pairs.start), tokens(pairs.end));
        let batch = Batch {
            ids: self.pairs.batch.ids[from..to].to_vec(),
            targets: self.pairs.batch.targets[from..to].to_vec(),
            weights: None,
            doc_lens: lens[2 * pairs.start..2 * pairs.end].to_vec(),
        };
        Pairs { batch, reference: self.pairs.reference[2 * pairs.start..2 * pairs.end].to_vec() }
    }
}

fn with_fixture(check: impl Fn(&SafeTensors<'_>, &str, &Case)) {
    trl::with_fixture("preference", check);
}

/// A trainer of the model that the fixture is of.
fn trainer() -> Trainer {
    trainer_of(fixture("untied"))
}

#[test]
fn every_loss_has_a_case() {
    let seen = RefCell::new(Vec::new());
    with_fixture(|_, _, case| {
        if case.trainer.is_none() {
            seen.borrow_mut().extend(case.loss_type.clone());
        }
    });
    for loss in PairLoss::ALL {
        assert!(seen.borrow().iter().any(|name| name == loss.name()), "{loss:?}");
    }
}

#[test]
fn losses_and_gradients_are_those_of_trl() {
    with_fixture(|tensors, name, case| {
        let rows = Rows::read(tensors);
        let mut trainer = trainer();
        let found = case.accumulate(&mut trainer, std::slice::from_ref(&rows.pairs));
        agree(tensors, name, &trainer, &found, &case.metrics, [0.0, 1.0]);
    });
}

#[test]
fn derivatives_of_log_probabilities_are_those_of_trl() {
    with_fixture(|tensors, name, case| {
        if case.trainer.is_some() {
            return;
        }
        let (rows, objective) = (Rows::read(tensors), case.objective());
        let log_probs = trainer().outputs(&rows.pairs.batch).unwrap();
        let mut weights = vec![0.0; log_probs.len()];
        objective.loss(&rows.pairs, &log_probs, &[], &mut weights, &mut Metrics::default());
        let scale = objective.scale(std::slice::from_ref(&rows.pairs)).unwrap() as f32;
        let slopes = floats(tensors, &format!("{name}/slopes"));
        let expected: Vec<f32> = rows.places.iter().map(|place| place.map_or(0.0, |place| slopes[place])).collect();
        let found: Vec<f32> = weights.iter().map(|weight| -weight * scale).collect();
        let off = distance(&found, &expected);
        assert!(off <= 2e-5, "{name}: {off:e} off\n{found:?}\n{expected:?}");
    });
}

#[test]
fn pairs_count_the_same_however_they_are_divided() {
    with_fixture(|tensors, name, case| {
        let rows = Rows::read(tensors);
        // TRL's cross-entropy is a mean over the tokens of a batch.
        if case.loss_type.iter().any(|loss| loss == "sft" || loss == "orpo") || case.cpo_alpha > 0.0 {
            return;
        }
        let (mut whole, mut parts) = (trainer(), trainer());
        let at_once = case.accumulate(&mut whole, std::slice::from_ref(&rows.pairs));
        let apart = case.accumulate(&mut parts, &[rows.part(0..1), rows.part(1..3)]);
        assert!((at_once.loss - apart.loss).abs() <= 1e-6 * at_once.loss.abs(), "{name}");
        for weight in ["lm_head.weight", "model.layers.0.self_attn.q_proj.weight"] {
            let off = distance(&parts.gradient(weight).unwrap(), &whole.gradient(weight).unwrap());
            assert!(off <= 1e-5, "{name}: {weight} is {off:e} off");
        }
    });
}

#[test]
fn an_answer_that_is_certain_has_finite_odds() {
    let batch =
        Batch { ids: vec![5, 6, 5, 7], targets: vec![6, IGNORE, 7, IGNORE], weights: None, doc_lens: vec![2, 2] };
    let (orpo, pairs) = (Orpo { beta: 0.1 }, WholePairs::of_answers(batch));
    for log_probs in [[0.0, 0.0, -1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0; 4]] {
        let (mut weights, mut metrics) = ([0.0; 4], Metrics::default());
        assert!(orpo.loss(&pairs, &log_probs, &[], &mut weights, &mut metrics).is_finite());
        assert!(weights.iter().all(|weight| weight.is_finite()) && weights[0] > 0.0 && weights[2] < 0.0, "{weights:?}");
    }
}

#[test]
fn a_pass_without_its_second_half_leaves_nothing_behind() {
    with_fixture(|tensors, name, _| {
        if name != "sigmoid" {
            return;
        }
        let batch = Rows::read(tensors).pairs.batch;
        let (mut plain, mut other) = (trainer(), trainer());
        assert!(matches!(plain.apply(1e-3, None), Err(EngineError::NothingToLearn)));
        plain.forward_backward(&batch, 1.0, 0).unwrap();
        // A step whose gradients are not those of the next.
        other.forward_backward(&batch, 3.0, 0).unwrap();
        drop(other.forward(&batch, 0).unwrap());
        assert!(matches!(other.apply(1e-3, None), Err(EngineError::NothingToLearn)));
        other.forward_backward(&batch, 1.0, 1).unwrap();
        for weight in ["lm_head.weight", "model.layers.0.self_attn.q_proj.weight"] {
            assert!(plain.gradient(weight) == other.gradient(weight), "{weight}");
        }
    });
}

#[test]
fn what_does_not_fit_a_batch_is_named() {
    with_fixture(|tensors, name, case| {
        let pairs = Rows::read(tensors).pairs;
        let refused = |pairs: &Pairs, words: &str| {
            let error = accumulate(&mut trainer(), &case.objective(), std::slice::from_ref(pairs)).unwrap_err();
            assert!(error.to_string().contains(words), "{name}: {error}");
        };
        if name == "sigmoid" {
            refused(&Pairs { reference: Vec::new(), ..pairs.clone() }, "the reference has 0");
            let lens = [&pairs.batch.doc_lens[..4], &[pairs.batch.doc_lens[4] + pairs.batch.doc_lens[5]]].concat();
            let batch = Batch { doc_lens: lens, ..pairs.batch.clone() };
            refused(&Pairs { batch, ..pairs }, "5 documents are not pairs");
        }
    });
}
