//! What a run takes, before a weight is loaded: the model, the trainer and the generation made and driven on a device
//! that only counts ([`Counting`]). In go sizes and settings; out come bytes by purpose. No formula of its own to keep.

use crate::adapter::Lora;
use crate::architecture::config::ModelConfig;
use crate::files::peft::given;
use crate::generate::{GenerateOptions, Request, generate, logits_bytes, unobserved};
use crate::kernels::Queue as _;
use crate::kernels::counting::{Counting, Profile};
use crate::model::divergence::{Divergence, host_bytes};
use crate::model::{Model, Reader};
use crate::workload::{BatchShape, GenerationShape, Workload};
use crate::{EngineError, MemoryUse, Trainer, TrainerOptions};

/// What a run takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Elements that are trained.
    pub trainable_parameters: u64,
    /// Elements of model and adapter.
    pub total_parameters: u64,
    /// Memory of model and adapter.
    pub weights: u64,
    /// Memory of gradients.
    pub gradients: u64,
    /// Memory of the optimizer's moments.
    pub optimizer: u64,
    /// Memory of activations, training and evaluation, and of what threads keep for products and attention.
    pub activations: u64,
    /// Memory of logits, where none is lent for them.
    pub logits: u64,
    /// Memory of a generation, only while it runs.
    pub generation: u64,
    /// Memory of the largest tensor that is saved: a copy of one tensor at a time.
    pub largest_saved: u64,
    /// On disk: the model, or its adapter.
    pub saved_model: u64,
    /// On disk: the optimizer's moments.
    pub saved_optimizer: u64,
}

/// What a run with these sizes and settings takes on a device, with a `teacher` whose distributions are learned or without.
///
/// # Errors
/// [`EngineError::Options`] as for a [`Trainer`], [`EngineError::Device`] for a model of experts on a device that has none.
pub fn footprint(
    profile: Profile,
    config: &ModelConfig,
    options: &TrainerOptions,
    work: &Workload,
    teacher: Option<&ModelConfig>,
) -> Result<Footprint, EngineError> {
    let kernels = Counting::new(profile);
    for config in std::iter::once(config).chain(teacher) {
        kernels.prepare(config.demands())?;
        config.check_packing()?;
    }
    let mut model = Model::unloaded(kernels.clone(), config.clone());
    model.lora = options.lora.as_ref().map(|lora| Lora::zeroed(&kernels, config, lora.clone()));
    model.measure();
    let mut trainer = Trainer::with_model(model, options.clone())?;
    let batch = work.train.batch();
    let scores = config.scores.is_some();
    for micro_batch in 0..=u32::from(work.accumulates) {
        if scores {
            let pass = trainer.forward(&batch, micro_batch)?;
            let weights = vec![0.0; pass.outputs().len()];
            pass.backward(&weights, 1.0)?;
        } else {
            trainer.forward_backward(&batch, 1.0, micro_batch)?;
        }
    }
    if let Some(eval) = work.eval {
        if scores {
            trainer.outputs(&eval.batch())?;
        } else {
            trainer.evaluate(&eval.batch())?;
        }
    }
    if let Some(shape) = work.reference {
        trainer.keep_reference(shape);
        trainer.reference_outputs(&shape.batch())?;
    }
    let mut compared = 0;
    if let Some(teacher) = teacher {
        trainer.set_teacher(Model::unloaded(kernels.clone(), teacher.clone()), work.train)?;
        // A target is enough: logits have room for more at a time.
        trainer.distill(Divergence { beta: 1.0 }, &BatchShape { targets: 1, ..work.train }.batch(), 1.0, 0)?;
        compared = host_bytes(config, teacher, work.train.tokens);
    }
    let generation = work.generation.map_or(Ok(0), |shape| generation(&trainer, &kernels, shape))?;
    let MemoryUse { weights, gradients, optimizer, activations } = trainer.device_bytes();
    let threads = rayon::current_num_threads() as u64;
    let model = trainer.model();
    let saved = saved_elements(model);
    let trainable_parameters = trainer.trainable_parameters();
    Ok(Footprint {
        trainable_parameters,
        total_parameters: trainer.total_parameters(),
        weights,
        gradients,
        optimizer,
        activations: activations + threads * kernels.thread() + kernels.fixed(),
        logits: kernels.logits() + compared,
        generation,
        largest_saved: saved.iter().map(|elements| 4 * elements).max().unwrap_or(0),
        saved_model: saved.iter().map(|elements| 4 * elements).sum(),
        saved_optimizer: 2 * 4 * trainable_parameters,
    })
}

/// Bytes that a [`Reader`] takes on a device: weights, and the passes over batches of this size.
///
/// # Errors
/// [`EngineError::Options`] as for a [`Reader`], [`EngineError::Device`] for a model of experts on a device that has none.
pub fn reading(profile: Profile, config: &ModelConfig, shape: BatchShape) -> Result<u64, EngineError> {
    let kernels = Counting::new(profile);
    kernels.prepare(config.demands())?;
    config.check_packing()?;
    let mut reader = Reader::new(Model::unloaded(kernels.clone(), config.clone()))?;
    let batch = shape.batch();
    reader.log_probs(&batch)?;
    reader.next_logits(&batch)?;
    let threads = rayon::current_num_threads() as u64;
    Ok(reader.bytes() + threads * kernels.thread() + kernels.fixed() + kernels.logits())
}

/// Elements of each tensor that is saved of a model: all of its weights, or an adapter and what comes with it.
fn saved_elements(model: &Model<Counting>) -> Vec<u64> {
    let slots = model.layout.slots().iter();
    match &model.lora {
        None => slots.map(|slot| slot.len as u64).collect(),
        Some(lora) => {
            let beside = given(&model.config, &lora.config().saved).into_iter();
            let beside = beside.map(|(_, shape)| shape.iter().map(|&size| size as u64).product());
            lora.slots().iter().map(|slot| slot.len as u64).chain(beside).collect()
        }
    }
}

/// Bytes while `shape` is generated: the room for all of it, made for its first token.
fn generation(trainer: &Trainer<Counting>, kernels: &Counting, shape: GenerationShape) -> Result<u64, EngineError> {
    let model = trainer.model();
    let longest = shape.longest.clamp(1, model.config.max_position_embeddings);
    let requests = Request::one_each(vec![vec![0; longest]; shape.prompts]);
    // Logits are all zero here, so the likeliest token is 0: it ends the text.
    let (max_new_tokens, eos_token_ids) = (shape.max_new_tokens, vec![0]);
    let options = GenerateOptions { max_new_tokens, eos_token_ids, ..GenerateOptions::default() };
    let (done, bytes) = kernels.beyond(|| generate(model, &requests, &options, &mut unobserved));
    done?;
    Ok(bytes + logits_bytes(shape.prompts, &options, model.config.vocab_size))
}
