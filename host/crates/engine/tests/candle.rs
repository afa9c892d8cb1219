//! A second oracle: the same model of candle's tensors, in f64, with candle's own derivatives and its AdamW. What files of
//! transformers fix for two models, this holds for models and documents of any shape.

use std::collections::HashMap;
use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::ops::{log_softmax, rms_norm_slow, softmax};
use candle_nn::rotary_emb::rope_slow;
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use engine::architecture::config::ModelConfig;
use engine::objective::{Metrics, Objective, accumulate};
use engine::optim::AdamWConfig;
use engine::weights::WeightSource;
use engine::{Batch, CrossEntropy, IGNORE, Trainable, Trainer, TrainerOptions};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestCaseError};

// An epsilon above what gradients in f32 are off by: where one is almost zero, its sign decides the step.
const ADAMW: AdamWConfig = AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-3, weight_decay: 0.1 };
const LEARNING_RATE: f64 = 1e-2;
const MAX_GRAD_NORM: f64 = 0.5;

/// The parameters of a model by name.
struct Candle<'a> {
    config: &'a ModelConfig,
    vars: HashMap<String, Var>,
}

impl Candle<'_> {
    fn var(&self, name: &str) -> &Tensor {
        self.vars[name].as_tensor()
    }

    fn layer(&self, layer: usize, name: &str) -> &Tensor {
        self.var(&format!("model.layers.{layer}.{name}.weight"))
    }

    /// Logits `[tokens, vocabulary]` of one document.
    fn logits(&self, ids: &[u32]) -> candle_core::Result<Tensor> {
        let config = self.config;
        let (tokens, head_dim) = (ids.len(), config.head_dim);
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let eps = config.rms_norm_eps;
        let angles: Vec<f64> = (0..tokens)
            .flat_map(|position| {
                (0..head_dim / 2)
                    .map(move |pair| position as f64 * config.ropes[0].theta.powf(-2.0 * pair as f64 / head_dim as f64))
            })
            .collect();
        let angles = Tensor::from_vec(angles, (tokens, head_dim / 2), &Device::Cpu)?;
        let (cosines, sines) = (angles.cos()?, angles.sin()?);
        let future: Vec<f64> = (0..tokens * tokens)
            .map(|index| if index % tokens > index / tokens { f64::NEG_INFINITY } else { 0.0 })
            .collect();
        let future = Tensor::from_vec(future, (1, 1, tokens, tokens), &Device::Cpu)?;
        let project = |x: &Tensor, weight: &Tensor| x.matmul(&weight.t()?);

        let mut x = self.var("model.embed_tokens.weight").embedding(&Tensor::new(ids, &Device::Cpu)?)?;
        for layer in 0..config.num_hidden_layers {
            let normed = rms_norm_slow(&x, self.layer(layer, "input_layernorm"), eps)?;
            let split = |name: &str, heads: usize| {
                let rows = project(&normed, self.layer(layer, &format!("self_attn.{name}")))?;
                rows.reshape((1, tokens, heads, head_dim))?.transpose(1, 2)?.contiguous()
            };
            let repeat = |x: Tensor| {
                let shape = (1, kv_heads, heads / kv_heads, tokens, head_dim);
                x.unsqueeze(2)?.broadcast_as(shape)?.reshape((1, heads, tokens, head_dim))
            };
            let q = rope_slow(&split("q_proj", heads)?, &cosines, &sines)?;
            let k = repeat(rope_slow(&split("k_proj", kv_heads)?, &cosines, &sines)?)?;
            let v = repeat(split("v_proj", kv_heads)?)?;
            let scores = (q.matmul(&k.t()?)? / (head_dim as f64).sqrt())?.broadcast_add(&future)?;
            let mixed = softmax(&scores, D::Minus1)?.matmul(&v)?;
            let mixed = mixed.transpose(1, 2)?.reshape((tokens, heads * head_dim))?;
            x = (x + project(&mixed, self.layer(layer, "self_attn.o_proj"))?)?;
            let normed = rms_norm_slow(&x, self.layer(layer, "post_attention_layernorm"), eps)?;
            let gate = project(&normed, self.layer(layer, "mlp.gate_proj"))?.silu()?;
            let up = project(&normed, self.layer(layer, "mlp.up_proj"))?;
            x = (x + project(&(gate * up)?, self.layer(layer, "mlp.down_proj"))?)?;
        }
        let normed = rms_norm_slow(&x, self.var("model.norm.weight"), eps)?;
        let tied = config.tie_word_embeddings;
        project(&normed, self.var(if tied { "model.embed_tokens.weight" } else { "lm_head.weight" }))
    }

    /// For each document, the sum over its targets of weight times log-probability.
    fn documents(&self, batch: &Batch) -> candle_core::Result<Vec<Tensor>> {
        let mut from = 0;
        let sum = |&length: &u32| {
            let document = from..from + length as usize;
            from = document.end;
            let logs = log_softmax(&self.logits(&batch.ids[document.clone()])?, 1)?;
            let mut sum = Tensor::zeros((), DType::F64, &Device::Cpu)?;
            for (row, at) in document.enumerate().filter(|(_, at)| batch.targets[*at] != IGNORE) {
                let weight = batch.weights.as_ref().map_or(1.0, |weights| f64::from(weights[at]));
                sum = (sum + (logs.get(row)?.get(batch.targets[at] as usize)? * weight)?)?;
            }
            Ok(sum)
        };
        batch.doc_lens.iter().map(sum).collect()
    }

    /// Holds a trainer's gradients against candle's, whose length is returned.
    fn compare(&self, trainer: &Trainer, gradients: &GradStore) -> Result<f64, TestCaseError> {
        let slope = |var: &Var| gradients.get(var).map_or_else(|| vec![0.0; var.elem_count()], values);
        let slopes: Vec<(&String, Vec<f64>)> = self.vars.iter().map(|(name, var)| (name, slope(var))).collect();
        let norm = length(slopes.iter().flat_map(|(_, slope)| slope.iter().copied()));
        for (name, expected) in &slopes {
            let off = distance(&trainer.gradient(name).unwrap(), expected, norm);
            prop_assert!(off < 1e-3, "the gradient of {name} is off by {off:e}");
        }
        Ok(norm)
    }

    /// Sum over the targets of weight times negative log-likelihood.
    fn loss(&self, batch: &Batch) -> candle_core::Result<Tensor> {
        let zero = Tensor::zeros((), DType::F64, &Device::Cpu)?;
        self.documents(batch)?.iter().try_fold(zero, |sum, document| sum - document)
    }
}

fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// Distance of two lists as a part of the second one's length, or of one hundredth of the `whole` that it is a part of:
/// a query that sees one key has no gradient but what is rounded.
fn distance(found: &[f32], expected: &[f64], whole: f64) -> f64 {
    assert_eq!(found.len(), expected.len());
    let size = length(expected.iter().copied()).max(whole / 100.0);
    length(found.iter().zip(expected).map(|(a, b)| f64::from(*a) - b)) / size
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Sizes of a model, and the lengths of its documents.
#[derive(Debug, Clone)]
struct Case {
    layers: usize,
    kv_heads: usize,
    group: usize,
    head_dim: usize,
    hidden: usize,
    intermediate: usize,
    vocabulary: usize,
    tied: bool,
    weighted: bool,
    checkpoint: bool,
    doc_lens: Vec<u32>,
    seed: u64,
}

prop_compose! {
    fn case()(
        layers in 1..4_usize,
        kv_heads in 1..4_usize,
        group in 1..4_usize,
        head_dim in prop::sample::select(vec![4_usize, 8, 16, 20]),
        hidden in prop::sample::select(vec![12_usize, 16, 40]),
        intermediate in 1..50_usize,
        vocabulary in 5..90_usize,
        (tied, weighted, checkpoint) in any::<(bool, bool, bool)>(),
        doc_lens in prop::collection::vec(1..12_u32, 1..5),
        seed in 0..1000_u64,
    ) -> Case {
        Case { layers, kv_heads, group, head_dim, hidden, intermediate, vocabulary, tied, weighted, checkpoint, doc_lens, seed }
    }
}

impl Case {
    fn config(&self) -> ModelConfig {
        let json = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "initializer_range": 0.3,
            "hidden_size": self.hidden, "intermediate_size": self.intermediate, "num_hidden_layers": self.layers,
            "num_attention_heads": self.kv_heads * self.group, "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim, "vocab_size": self.vocabulary, "rms_norm_eps": 1e-5, "rope_theta": 5000.0,
            "max_position_embeddings": 64, "tie_word_embeddings": self.tied,
        });
        ModelConfig::from_json(&json.to_string(), Path::new("config.json")).unwrap()
    }

    /// Its documents in the step with this number: the last position of each has no target, and some others have none.
    fn batch(&self, step: u32) -> Batch {
        let mut batch = Batch { doc_lens: self.doc_lens.clone(), ..Batch::default() };
        let mut state = self.seed as u32 * 7919 + step * 104_729 + 1;
        let mut next = |below: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below as u32
        };
        for &length in &self.doc_lens {
            let ids: Vec<u32> = (0..length).map(|_| next(self.vocabulary)).collect();
            let following = ids[1..].iter().copied().chain([IGNORE]);
            batch.targets.extend(following.map(|id| if next(4) == 0 { IGNORE } else { id }));
            batch.ids.extend(ids);
        }
        // One to learn in any case.
        batch.targets[0] = next(self.vocabulary);
        batch.weights = self.weighted.then(|| batch.ids.iter().map(|_| next(5) as f32 * 0.5 + 0.25).collect());
        batch
    }
}

impl Case {
    fn trainer(&self) -> Trainer {
        let options = TrainerOptions {
            trainable: Trainable::All,
            lora: None,
            gradient_checkpointing: self.checkpoint,
            seed: self.seed,
            adamw: ADAMW,
            ..TrainerOptions::default()
        };
        Trainer::new(self.config(), &WeightSource::Random { seed: self.seed }, options).unwrap()
    }
}

/// The parameters of a trainer, as candle's.
fn vars(trainer: &Trainer, config: &ModelConfig) -> HashMap<String, Var> {
    let var = |name: &str, shape: Vec<usize>| {
        let start: Vec<f64> = trainer.parameter(name).unwrap().into_iter().map(f64::from).collect();
        Var::from_tensor(&Tensor::from_vec(start, shape, &Device::Cpu).unwrap()).unwrap()
    };
    config.parameters().into_iter().map(|spec| (spec.name.clone(), var(&spec.name, spec.shape))).collect()
}

/// A loss that is no sum of log-probabilities: the square of the difference between those of the first document and those of
/// all others.
struct Contrast;

impl Objective for Contrast {
    type Batch = Batch;

    fn scale(&self, micro_batches: &[Batch]) -> Option<f64> {
        Some(1.0 / micro_batches.len() as f64)
    }

    fn loss(&self, batch: &Batch, log_probs: &[f32], _: &[f32], weights: &mut [f32], _: &mut Metrics) -> f64 {
        let first = batch.doc_lens[0] as usize;
        let sum = |values: &[f32]| values.iter().map(|&value| f64::from(value)).sum::<f64>();
        let difference = sum(&log_probs[..first]) - sum(&log_probs[first..]);
        weights[..first].fill(-2.0 * difference as f32);
        weights[first..].fill(2.0 * difference as f32);
        difference * difference
    }
}

/// Cross-entropy that does not say that it is a sum.
struct Apart;

impl Objective for Apart {
    type Batch = Batch;

    fn scale(&self, micro_batches: &[Batch]) -> Option<f64> {
        CrossEntropy.scale(micro_batches)
    }

    fn loss(
        &self,
        batch: &Batch,
        log_probs: &[f32],
        beside: &[f32],
        weights: &mut [f32],
        metrics: &mut Metrics,
    ) -> f64 {
        CrossEntropy.loss(batch, log_probs, beside, weights, metrics)
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(17),
        ..ProptestConfig::default()
    })]

    #[test]
    fn losses_gradients_and_steps_are_those_of_candle(case in case()) {
        let config = case.config();
        let mut trainer = case.trainer();
        let vars = vars(&trainer, &config);
        // Norms do not decay.
        let optimizer = |decays: bool| {
            let vars = vars.iter().filter(|(name, _)| name.contains("norm") != decays).map(|(_, var)| var.clone());
            let params = ParamsAdamW {
                lr: LEARNING_RATE,
                beta1: ADAMW.beta1,
                beta2: ADAMW.beta2,
                eps: ADAMW.eps,
                weight_decay: if decays { ADAMW.weight_decay } else { 0.0 },
            };
            AdamW::new(vars.collect(), params).unwrap()
        };
        let mut optimizers = [optimizer(true), optimizer(false)];
        let candle = Candle { config: &config, vars };

        for step in 0..3 {
            let batch = case.batch(step);
            let scale = 1.0 / batch.targets.iter().filter(|target| **target != IGNORE).count() as f64;
            let loss = candle.loss(&batch).unwrap();
            let mut gradients = (&loss * scale).unwrap().backward().unwrap();
            trainer.forward_backward(&batch, scale, 0).unwrap();
            let expected: f64 = loss.to_scalar().unwrap();
            prop_assert!((trainer.loss_sum() / expected - 1.0).abs() < 1e-5, "loss {} {expected}", trainer.loss_sum());
            let norm = candle.compare(&trainer, &gradients)?;
            let clip = (MAX_GRAD_NORM / (norm + 1e-6)).min(1.0);
            for var in candle.vars.values() {
                if let Some(gradient) = gradients.remove(var) {
                    gradients.insert(var, (gradient * clip).unwrap());
                }
            }
            for optimizer in &mut optimizers {
                optimizer.step(&gradients).unwrap();
            }
            let stats = trainer.apply(LEARNING_RATE, Some(MAX_GRAD_NORM)).unwrap();
            prop_assert!((stats.grad_norm / norm - 1.0).abs() < 1e-3);
            for (name, var) in &candle.vars {
                let off = distance(&trainer.parameter(name).unwrap(), &values(var), 0.0);
                prop_assert!(off < 1e-4, "step {step}: {name} is off by {off:e}");
            }
        }
    }

    #[test]
    fn a_loss_of_log_probabilities_has_the_gradients_of_candle(case in case()) {
        let config = case.config();
        let mut trainer = case.trainer();
        let candle = Candle { config: &config, vars: vars(&trainer, &config) };
        let batches = [case.batch(0), case.batch(1)].map(|batch| Batch { weights: None, ..batch });
        let mut expected = Tensor::zeros((), DType::F64, &Device::Cpu).unwrap();
        for batch in &batches {
            let documents = candle.documents(batch).unwrap();
            let others = documents[1..].iter().try_fold(documents[0].clone(), |sum, document| sum - document);
            expected = (expected + (others.unwrap().sqr().unwrap() / batches.len() as f64).unwrap()).unwrap();
        }
        let gradients = expected.backward().unwrap();
        let found = accumulate(&mut trainer, &Contrast, &batches).unwrap();
        let expected: f64 = expected.to_scalar().unwrap();
        prop_assert!(found.learns);
        prop_assert!((found.loss - expected).abs() < 1e-5 * expected.max(1.0), "loss {} {expected}", found.loss);
        candle.compare(&trainer, &gradients)?;
    }

    #[test]
    fn both_ways_to_a_gradient_have_the_same_bits(case in case()) {
        let (mut whole, mut halves) = (case.trainer(), case.trainer());
        let batches = [case.batch(0), case.batch(1)];
        let at_once = accumulate(&mut whole, &CrossEntropy, &batches).unwrap();
        let apart = accumulate(&mut halves, &Apart, &batches).unwrap();
        prop_assert_eq!((apart.scale, apart.learns), (at_once.scale, true));
        let loss = whole.loss_sum() * at_once.scale;
        prop_assert!((apart.loss / loss - 1.0).abs() < 1e-12, "{} {loss}", apart.loss);
        for spec in case.config().parameters() {
            prop_assert!(whole.gradient(&spec.name) == halves.gradient(&spec.name), "{}", spec.name);
        }
    }
}
