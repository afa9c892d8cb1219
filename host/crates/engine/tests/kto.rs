//! Losses of answers that are wanted or not beside TRL's: of each the loss, what is told, and gradients of the weights
//! (`tests/fixtures/kto/make.py`).

mod fixture;
mod trl;

use std::collections::BTreeMap;

use engine::objective::{accumulate, evaluate};
use engine::{Batch, IGNORE, Kto, KtoLoss, Trainer, Unpaired};
use fixture::fixture;
use safetensors::SafeTensors;
use serde::Deserialize;
use trl::{agree, floats, integers, trainer_of};

#[derive(Deserialize)]
struct Case {
    loss_type: String,
    beta: f64,
    desirable_weight: f64,
    undesirable_weight: f64,
    kl_shift: f64,
    /// Those of the fixture that it is of; all.
    #[serde(default)]
    rows: Option<Vec<usize>>,
    metrics: BTreeMap<String, f64>,
}

impl Case {
    fn objective(&self) -> Kto {
        let loss = match self.loss_type.as_str() {
            "kto" => KtoLoss::Kto,
            "apo_zero_unpaired" => KtoLoss::ApoZeroUnpaired,
            other => panic!("no `{other}`"),
        };
        let Self { beta, desirable_weight, undesirable_weight, .. } = *self;
        Kto { loss, beta, desirable_weight, undesirable_weight }
    }

    fn answers(&self, tensors: &SafeTensors<'_>) -> Unpaired {
        let labels = integers(tensors, "labels");
        let rows = self.rows.clone().unwrap_or_else(|| (0..labels.len()).collect());
        let reference = |name: &str, shift: f64| -> Vec<f64> {
            let all = floats(tensors, name);
            rows.iter().map(|&row| f64::from(all[row]) + shift).collect()
        };
        let mut answers = Unpaired {
            batch: documents(tensors, "", &rows),
            desirable: rows.iter().map(|&row| labels[row] == 1).collect(),
            reference: reference("reference", 0.0),
            ..Unpaired::default()
        };
        if self.objective().loss == KtoLoss::Kto {
            answers.mismatched = documents(tensors, "kl_", &rows);
            answers.mismatched_reference = reference("kl_reference", self.kl_shift);
        }
        answers
    }
}

/// Some rows of the fixture; the targets are the answers.
fn documents(tensors: &SafeTensors<'_>, prefix: &str, rows: &[usize]) -> Batch {
    let [ids, mask, lens] = ["ids", "mask", "lens"].map(|name| integers(tensors, &format!("{prefix}{name}")));
    let width = ids.len() / lens.len();
    let mut batch = Batch::default();
    for &row in rows {
        let (first, length) = (row * width, lens[row] as usize);
        batch.ids.extend(&ids[first..first + length]);
        batch.targets.extend((first + 1..first + length).map(|at| if mask[at] == 1 { ids[at] } else { IGNORE }));
        batch.targets.push(IGNORE);
        batch.doc_lens.push(lens[row]);
    }
    batch
}

fn with_fixture(check: impl Fn(&SafeTensors<'_>, &str, &Case)) {
    trl::with_fixture("kto", check);
}

/// A trainer of the model that the fixture is of.
fn trainer() -> Trainer {
    trainer_of(fixture("untied"))
}

#[test]
fn losses_and_gradients_are_those_of_trl() {
    with_fixture(|tensors, name, case| {
        let (mut trainer, answers) = (trainer(), [case.answers(tensors)]);
        let judged = evaluate(&mut trainer, &case.objective(), &answers).unwrap().unwrap();
        let found = accumulate(&mut trainer, &case.objective(), &answers).unwrap();
        assert_eq!((found.loss, &found.metrics), (judged.0, &judged.1), "{name}: an evaluation says the same");
        agree(tensors, name, &trainer, &found, &case.metrics, [0.0, 1.0]);
    });
}

#[test]
fn what_does_not_fit_a_batch_is_named() {
    with_fixture(|tensors, name, case| {
        let answers = case.answers(tensors);
        let refused = |answers: Unpaired, words: &str| {
            let error = accumulate(&mut trainer(), &case.objective(), &[answers]).unwrap_err();
            assert!(error.to_string().contains(words), "{name}: {error}");
        };
        if name == "kto" {
            refused(Unpaired { desirable: vec![true], ..answers.clone() }, "5 documents but 1 labels");
            refused(Unpaired { reference: Vec::new(), ..answers.clone() }, "but 0 numbers of the reference");
            refused(Unpaired { mismatched: Batch::default(), ..answers.clone() }, "but 0 mismatched documents");
            refused(Unpaired { mismatched_reference: vec![0.0; 6], ..answers }, "but 6 numbers of the reference for");
        }
    });
}
