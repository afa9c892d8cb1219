//! Policy gradients beside TRL's: of each kind the loss, what is told, and gradients of the weights
//! (`tests/fixtures/grpo/make.py`).

mod fixture;
mod trl;

use std::collections::BTreeMap;

use engine::adapter::{LoraConfig, Modules, Saved};
use engine::architecture::tensors::LinearKind;
use engine::objective::{Grpo, GrpoLoss, Ratio, Rollouts, accumulate};
use engine::workload::BatchShape;
use engine::{Batch, IGNORE, Trainer};
use fixture::fixture;
use safetensors::SafeTensors;
use serde::Deserialize;
use trl::{agree, distance, floats, integers, trainer_of, trainer_with};

#[derive(Deserialize)]
struct Case {
    loss_type: String,
    importance_sampling_level: String,
    epsilon: f64,
    epsilon_high: Option<f64>,
    delta: Option<f64>,
    beta: f64,
    use_bias_correction_kl: bool,
    #[serde(default)]
    on_policy: bool,
    metrics: BTreeMap<String, f64>,
}

impl Case {
    fn objective(&self) -> Grpo {
        Grpo {
            loss: match self.loss_type.as_str() {
                "grpo" => GrpoLoss::Grpo,
                "bnpo" => GrpoLoss::Bnpo,
                "dr_grpo" => GrpoLoss::DrGrpo { max_completion_length: 16 },
                "dapo" => GrpoLoss::Dapo,
                "cispo" => GrpoLoss::Cispo,
                other => panic!("no `{other}`"),
            },
            ratio: if self.importance_sampling_level == "token" { Ratio::Token } else { Ratio::Sequence },
            epsilon_low: self.epsilon,
            epsilon_high: self.epsilon_high.unwrap_or(self.epsilon),
            delta: self.delta,
            beta: self.beta,
            corrects_divergence: self.use_bias_correction_kl,
        }
    }
}

/// Some of the fixture's texts.
fn rollouts(tensors: &SafeTensors<'_>, case: &Case, texts: std::ops::Range<usize>) -> Rollouts {
    let [prompts, prompt_mask, completions, mask] =
        ["prompts", "prompt_mask", "completions", "mask"].map(|name| integers(tensors, name));
    let [advantages, old, reference] = ["advantages", "old", "reference"].map(|name| floats(tensors, name));
    let (left, right) = (prompts.len() / advantages.len(), completions.len() / advantages.len());
    let mut found = Rollouts::default();
    let (mut olds, mut references) = (Vec::new(), Vec::new());
    for text in texts {
        let (before, after) = (text * left..(text + 1) * left, text * right..(text + 1) * right);
        let prompt: Vec<u32> = before.filter(|&at| prompt_mask[at] == 1).map(|at| prompts[at]).collect();
        let written: Vec<usize> = after.filter(|&at| mask[at] == 1).collect();
        let Batch { ids, targets, doc_lens, .. } = &mut found.batch;
        ids.extend(prompt.iter().copied().chain(written.iter().map(|&at| completions[at])));
        doc_lens.push((prompt.len() + written.len()) as u32);
        // The last token of a prompt writes the first of the completion.
        let unlearned = prompt.len() - 1;
        let spread = |own: &mut dyn FnMut(Option<usize>)| {
            for _ in 0..unlearned {
                own(None);
            }
            for &at in &written {
                own(Some(at));
            }
            own(None);
        };
        spread(&mut |at| targets.push(at.map_or(IGNORE, |at| completions[at])));
        spread(&mut |at| olds.push(at.map_or(0.0, |at| old[at])));
        spread(&mut |at| references.push(at.map_or(0.0, |at| reference[at])));
        found.advantages.push(f64::from(advantages[text]));
    }
    found.old = (!case.on_policy).then_some(olds);
    found.reference = (case.beta > 0.0).then_some(references);
    found
}

fn with_fixture(check: impl Fn(&SafeTensors<'_>, &str, &Case)) {
    trl::with_fixture("grpo", check);
}

/// A trainer of the model that the fixture is of.
fn trainer() -> Trainer {
    trainer_of(fixture("untied"))
}

#[test]
fn losses_and_gradients_are_those_of_trl() {
    with_fixture(|tensors, name, case| {
        let mut trainer = trainer();
        let found = accumulate(&mut trainer, &case.objective(), &[rollouts(tensors, case, 0..4)]).unwrap();
        // A policy's own loss is near zero: advantages cancel.
        agree(tensors, name, &trainer, &found, &case.metrics, [0.1, 0.1]);
    });
}

#[test]
fn texts_count_the_same_however_they_are_divided() {
    with_fixture(|tensors, name, case| {
        // That one is a mean over the tokens of a batch.
        if case.loss_type == "bnpo" {
            return;
        }
        let (mut whole, mut parts) = (trainer(), trainer());
        let at_once = accumulate(&mut whole, &case.objective(), &[rollouts(tensors, case, 0..4)]).unwrap();
        let apart = [rollouts(tensors, case, 0..1), rollouts(tensors, case, 1..4)];
        let apart = accumulate(&mut parts, &case.objective(), &apart).unwrap();
        assert!((at_once.loss - apart.loss).abs() <= 1e-6 * at_once.loss.abs().max(0.1), "{name}");
        for weight in ["lm_head.weight", "model.layers.0.self_attn.q_proj.weight"] {
            let off = distance(&parts.gradient(weight).unwrap(), &whole.gradient(weight).unwrap());
            assert!(off <= 1e-5, "{name}: {weight} is {off:e} off");
        }
    });
}

#[test]
fn a_policy_that_is_said_to_have_sampled_is_held_to_it() {
    with_fixture(|tensors, name, case| {
        let mut trainer = trainer();
        let mut own = Rollouts { is_on_policy: true, ..rollouts(tensors, case, 0..4) };
        own.old = Some(trainer.outputs(&own.batch).unwrap());
        let found = accumulate(&mut trainer, &case.objective(), &[own.clone()]).unwrap();
        let ratio = found.metrics.means().find(|(name, _)| *name == "sampling/importance_sampling_ratio/mean");
        assert_eq!(ratio.map(|(_, ratio)| ratio), Some(1.0), "{name}");
        let target = own.batch.learned().next().unwrap()[0];
        let old = own.old.as_mut().unwrap();
        old[target] = old[target].next_up();
        let error = accumulate(&mut trainer, &case.objective(), &[own]).unwrap_err().to_string();
        assert!(error.starts_with("1 tokens have another probability"), "{name}: {error}");
    });
}

#[test]
fn a_group_without_advantages_learns_nothing() {
    with_fixture(|tensors, name, case| {
        let mut trainer = trainer();
        let rollouts = Rollouts { advantages: vec![0.0; 4], reference: None, ..rollouts(tensors, case, 0..4) };
        let objective = Grpo { beta: 0.0, ..case.objective() };
        let found = accumulate(&mut trainer, &objective, &[rollouts]).unwrap();
        assert!(!found.learns && found.loss == 0.0, "{name}");
        assert!(trainer.gradient_report().iter().all(|report| report.norm == 0.0), "{name}");
    });
}

#[test]
fn what_does_not_fit_a_batch_is_named() {
    with_fixture(|tensors, name, case| {
        let whole = || rollouts(tensors, case, 0..4);
        let refused = |rollouts: Rollouts, words: &str| {
            let error = accumulate(&mut trainer(), &case.objective(), &[rollouts]).unwrap_err().to_string();
            assert!(error.contains(words), "{name}: {error}");
        };
        refused(Rollouts { advantages: vec![1.0; 3], ..whole() }, "4 documents but 3 advantages");
        refused(Rollouts { old: Some(vec![0.0; 2]), ..whole() }, "tokens but 2 log-probabilities");
        if case.beta > 0.0 {
            refused(Rollouts { reference: None, ..whole() }, "no log-probabilities of the reference");
        }
    });
}

#[test]
fn a_reference_says_what_the_model_said_before_it_was_trained() {
    let batch =
        Batch { ids: vec![5, 9, 3, 7, 11], targets: vec![9, IGNORE, 7, 11, 2], weights: None, doc_lens: vec![2, 3] };
    let shape = BatchShape { tokens: 5, targets: 4, longest: 3 };
    let lora = |use_dora| LoraConfig {
        r: 2,
        alpha: 4.0,
        dropout: 0.1,
        use_rslora: false,
        use_dora,
        modules: Modules::of(LinearKind::ALL),
        saved: Saved::default(),
        ranks: BTreeMap::new(),
        alphas: BTreeMap::new(),
    };
    for adapter in [None, Some(lora(false)), Some(lora(true))] {
        let mut trainer = trainer_with(fixture("untied"), adapter);
        assert!(trainer.reference_outputs(&batch).is_err(), "nothing was kept");
        let step = |trainer: &mut Trainer| {
            trainer.forward_backward(&batch, 1.0, 0).unwrap();
            trainer.apply(1e-2, None).unwrap();
        };
        // An adapter that adds nothing is no adapter.
        step(&mut trainer);
        let before = trainer.outputs(&batch).unwrap();
        trainer.keep_reference(shape);
        assert_eq!(trainer.reference_outputs(&batch).unwrap(), before);
        step(&mut trainer);
        let after = trainer.outputs(&batch).unwrap();
        assert_ne!(after, before);
        assert_eq!(trainer.reference_outputs(&batch).unwrap(), before);
        // What is trained is where it was.
        assert_eq!(trainer.outputs(&batch).unwrap(), after);
    }
}
