//! Training: a model, gradients, an optimizer, and what moves between them in one step.

mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use crate::adapter::lora::{DropoutPass, Lora};
use crate::architecture::config::ModelConfig;
use crate::architecture::layout::{GradientLayout, Layout, Slot};
use crate::architecture::tensors::Role;
use crate::files::peft;
use crate::kernels::cpu::CpuKernels;
use crate::kernels::{Format, Kernels, Precision, at, at_mut};
use crate::model::Model;
use crate::model::divergence::{Divergence, Divergences};
use crate::model::{Grads, MasterWeights, Recompute, Routed, Workspace};
use crate::optim::{AdamW, Elements, Lisa, Part, Rules};
use crate::options::{Trainable, TrainerOptions, check_lisa, check_lora};
use crate::reference::Reference;
use crate::teacher::{Learning, Teacher};
use crate::weights::WeightSource;
use crate::workload::{BatchShape, Workload};
use crate::{Batch, EngineError};

/// The gradient of one trained tensor, in a glance.
#[derive(Debug, Clone, PartialEq)]
pub struct GradientReport {
    /// As transformers or PEFT names the tensor.
    pub name: String,
    /// Euclidean length.
    pub norm: f64,
    /// Neither NaN nor infinite anywhere.
    pub finite: bool,
}

/// What an optimizer step found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepStats {
    /// Sum over the targets of all micro-batches of weight times negative log-likelihood, in nats.
    pub loss_sum: f64,
    /// Length of the whole gradient before clipping.
    pub grad_norm: f64,
    /// Experts, of all layers together, that no token of the step went to; their gradients are zero.
    pub idle_experts: usize,
}

/// How the tokens of a step's micro-batches went to the experts.
#[derive(Debug, Default)]
struct Routes {
    /// Tokens of each expert, `[layers of experts, experts]`.
    tokens: Vec<u64>,
    /// Sum of the micro-batches' load-balancing losses, before their coefficient.
    balance: f64,
    micro_batches: u64,
}

impl Routes {
    fn add(&mut self, routed: Routed) {
        self.tokens.resize(routed.tokens.len(), 0);
        for (sum, tokens) in self.tokens.iter_mut().zip(routed.tokens) {
            *sum += tokens;
        }
        self.balance += routed.loss;
        self.micro_batches += 1;
    }
}

/// Bytes by purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// Model and adapter, and what is trained of them in f32 where they are rounded.
    pub weights: u64,
    /// Gradients.
    pub gradients: u64,
    /// Moments.
    pub optimizer: u64,
    /// Activations of the largest batch so far.
    pub activations: u64,
}

/// A micro-batch between its halves; dropped without the second, nothing is kept of it.
#[derive(Debug)]
pub struct TrainPass<'a, K: Kernels> {
    trainer: &'a mut Trainer<K>,
    dropout: DropoutPass,
    outputs: Vec<f32>,
    routed: Option<Routed>,
}

impl<K: Kernels> TrainPass<'_, K> {
    /// What the model says: the log-probability of each position's target, `[tokens]`, in nats, 0 where there is none; with a
    /// head of scores those of each position, `[tokens, labels]`.
    pub fn outputs(&self) -> &[f32] {
        &self.outputs
    }

    /// The second half: gradients of the sum of `-scale * weights[i]` times number `i` of [`Self::outputs`], kept
    /// (micro-batch 0) or added to what was kept. With `L` the step's loss, `-scale * weights[i]` is its derivative with
    /// respect to that number.
    ///
    /// # Errors
    /// [`EngineError::Batch`] for another number of weights than of outputs, [`EngineError::Device`] for a device that fails.
    pub fn backward(self, weights: &[f32], scale: f64) -> Result<(), EngineError> {
        let outputs = self.outputs.len();
        if weights.len() != outputs {
            return Err(EngineError::Batch { reason: format!("{outputs} outputs but {} weights", weights.len()) });
        }
        let Trainer { model, layout, gradients, adapter_gradients, has_gradients, workspace, routes, .. } =
            self.trainer;
        let mut grads = Grads {
            layout,
            weights: gradients,
            adapter: adapter_gradients.as_mut(),
            beta: if *has_gradients { 1.0 } else { 0.0 },
        };
        let (model, dropout) = (&*model, Some(self.dropout));
        model.kernels.within(|| model.backward_pass(workspace, weights, scale as f32, dropout, &mut grads));
        *has_gradients = true;
        if let Some(routed) = self.routed {
            routes.add(routed);
        }
        self.trainer.forget_still();
        Ok(self.trainer.model.kernels.check()?)
    }
}

/// A model in training.
#[derive(Debug)]
pub struct Trainer<K: Kernels = CpuKernels> {
    model: Model<K>,
    options: TrainerOptions,
    layout: GradientLayout,
    /// The same if all that is ever trained were trained at once.
    trainable: GradientLayout,
    /// The round of layers that are trained; see [`Lisa`].
    round: u64,
    /// Gradients of rows that stay as they are.
    still: Vec<Range<usize>>,
    /// Gradients of the model's own weights.
    gradients: K::Buffer,
    /// Gradients of the adapter.
    adapter_gradients: Option<K::Buffer>,
    /// Some of the step are kept; what is there is of an earlier step otherwise.
    has_gradients: bool,
    /// Where the tokens of the step went.
    routes: Routes,
    /// A group each of the arenas that have something to train: the model's, the adapter's.
    optimizer: AdamW<K>,
    workspace: Workspace<K>,
    evaluation: Workspace<K>,
    /// The model as it was.
    reference: Option<Reference<K>>,
    /// Another model, whose distributions are learned.
    teacher: Option<Teacher<K>>,
    /// Losses and squares of the step.
    accumulator: K::Accumulator,
    /// Of whatever else is asked for.
    aside: K::Accumulator,
}

impl Trainer<CpuKernels> {
    /// Loads a model on the CPU and prepares its training.
    ///
    /// # Errors
    /// [`EngineError`] says what is wrong with the files or the options.
    pub fn new(config: ModelConfig, weights: &WeightSource, options: TrainerOptions) -> Result<Self, EngineError> {
        Self::on(CpuKernels, config, weights, options)
    }
}

impl<K: Kernels> Trainer<K> {
    /// Loads a model on a device and prepares its training.
    ///
    /// # Errors
    /// [`EngineError`] says what is wrong with the files or the options, or what the device lacks.
    pub fn on(
        kernels: K,
        config: ModelConfig,
        weights: &WeightSource,
        options: TrainerOptions,
    ) -> Result<Self, EngineError> {
        kernels.prepare(config.demands())?;
        let mut trainer = Self::with_model(Model::unloaded(kernels, config), options)?;
        trainer.model.load_weights(weights)?;
        trainer.model.measure();
        let Model { kernels, config, lora, .. } = &mut trainer.model;
        if let Some(lora) = lora {
            lora.start_magnitudes(kernels, config);
        }
        kernels.check()?;
        Ok(trainer)
    }

    /// Prepares the training of a model whose weights are still to be loaded.
    ///
    /// # Errors
    /// [`EngineError::Options`] for names that the model does not have, or nothing to train.
    pub(crate) fn with_model(mut model: Model<K>, options: TrainerOptions) -> Result<Self, EngineError> {
        model.config.check_packing()?;
        let layers = model.config.num_hidden_layers;
        if let Some(lora) = &options.lora {
            check_lora(lora, &model.config)?;
            if model.lora.is_none() {
                model.lora = Some(Lora::new(&model.kernels, &model.config, lora.clone(), options.seed));
            }
        }
        if model.config.quantization.is_some() && model.lora.is_none() {
            let reason = "weights that are quantized cannot be trained: train an adapter beside them".into();
            return Err(EngineError::Options { reason });
        }
        let trained = match (&options.trainable, &model.lora) {
            (_, Some(lora)) => Some(&lora.config().saved.parameters),
            (Trainable::All, None) => None,
            (Trainable::Named(names), None) => Some(names),
        };
        if let Some(name) = trained.into_iter().flatten().find(|name| model.layout.slot(name).is_none()) {
            return Err(EngineError::Options { reason: format!("the model has no tensor `{name}` to train") });
        }
        if let Some(lisa) = options.lisa {
            check_lisa(lisa, layers, &options)?;
        }
        let trainable = GradientLayout::new(&model.layout, layers, trained);
        let layout = match options.lisa {
            None => trainable.clone(),
            Some(lisa) => active(&model.layout, &trainable, &lisa.draw(options.seed, 0, layers)),
        };
        model.is_frozen = layout.len == 0;
        let adapter_len = model.lora.as_ref().map_or(0, Lora::len);
        if layout.len + adapter_len == 0 {
            return Err(EngineError::Options { reason: "nothing is left to train".into() });
        }
        let lowest = trainable.lowest().min(model.lora.as_ref().map_or(usize::MAX, Lora::lowest));
        let recompute = Recompute { from: lowest.saturating_sub(1), checkpoint: options.gradient_checkpointing };
        let kernels = &model.kernels;
        if kernels.precision() != Precision::F32 && layout.len > 0 {
            let buffer = kernels.alloc(Format::F32, layout.len);
            let is_active = |index: usize| layout.trained.binary_search_by_key(&index, |&(index, _)| index).is_ok();
            let parked = trainable.trained.iter().filter(|(index, _)| !is_active(*index));
            let parked = parked.map(|&(index, _)| (index, vec![0.0; model.layout.slots()[index].len])).collect();
            model.master = Some(MasterWeights { places: layout.trained.clone(), buffer, parked });
        }
        if let Some(reason) = options.rules.problem(|name| model.layout.slot(name)) {
            return Err(EngineError::Options { reason });
        }
        let (slots, rules) = (model.layout.slots(), &options.rules);
        let adapter = model.lora.iter().flat_map(|lora| lora.slots().iter().map(|slot| (slot, slot.offset)));
        let still = rules.still(own(slots, &layout));
        let of_adapter = vec![Part { segments: rules.segments(adapter), since: 0 }];
        let groups = [(parts(slots, &layout, rules, options.lisa.map(|_| 0)), layout.len), (of_adapter, adapter_len)];
        let groups: Vec<_> = groups.into_iter().filter(|(_, len)| *len > 0).collect();
        Ok(Self {
            gradients: kernels.alloc(Format::F32, layout.len),
            adapter_gradients: model.lora.as_ref().map(|lora| kernels.alloc(Format::F32, lora.len())),
            has_gradients: false,
            routes: Routes::default(),
            optimizer: AdamW::new(kernels, options.adamw, &groups),
            workspace: Workspace::new(recompute),
            evaluation: Workspace::new(Recompute::none(&model.config)),
            reference: None,
            teacher: None,
            accumulator: kernels.accumulator(),
            aside: kernels.accumulator(),
            model,
            options,
            layout,
            trainable,
            round: 0,
            still,
        })
    }

    /// Gives the adapter the values of one that was trained before, in PEFT's form.
    ///
    /// # Errors
    /// [`EngineError::Peft`] for an adapter that is not like that of the options, [`EngineError::Options`] without one.
    pub fn start_from(&mut self, adapter: &Path) -> Result<(), EngineError> {
        let Model { kernels, config, lora, .. } = &mut self.model;
        let Some(lora) = lora else {
            return Err(EngineError::Options { reason: "there is no adapter to start from another".into() });
        };
        let found = peft::load_like(&CpuKernels, config, adapter, lora.config())?;
        for slot in found.lora.slots() {
            lora.put(kernels, slot, &found.lora.get(&CpuKernels, slot));
        }
        for (name, values) in &found.given {
            self.model.put(name, values);
        }
        self.model.measure();
        Ok(self.model.kernels.check()?)
    }

    /// Trains, and samples, the distribution of logits that are divided by `temperature`, above 0.
    ///
    /// # Errors
    /// [`EngineError::Options`] for another temperature than 1 of a model whose logits have a cap, which comes after.
    pub fn set_temperature(&mut self, temperature: f64) -> Result<(), EngineError> {
        let is_plain = (temperature - 1.0).abs() < f64::EPSILON;
        if !is_plain && self.model.config.logits_cap.is_some() {
            let reason = "the model's logits have a cap, so they are trained at a temperature of 1 alone".to_owned();
            return Err(EngineError::Options { reason });
        }
        self.model.temperature = temperature as f32;
        Ok(())
    }

    /// Makes room for the largest batches of `work` at once: room that grows from batch to batch leaves holes behind.
    ///
    /// # Errors
    /// [`EngineError::Device`] where the device has no room.
    pub fn reserve(&mut self, work: &Workload) -> Result<(), EngineError> {
        let Self { model, workspace, evaluation, .. } = self;
        model.make_room(workspace, work.train.tokens, work.train.longest, true);
        if let Some(eval) = work.eval {
            model.make_room(evaluation, eval.tokens, eval.longest, false);
        }
        Ok(model.kernels.check()?)
    }

    /// Loss of one micro-batch, and its gradients times `scale`: kept (`micro_batch` 0) or added to what was kept. With
    /// `scale` one over the targets of the whole step, the sum over micro-batches is the gradient of the mean. A device
    /// may still be at work on it when this returns.
    ///
    /// # Errors
    /// [`EngineError::Batch`] for a batch that does not fit together, [`EngineError::Device`] for a device that fails.
    pub fn forward_backward(&mut self, batch: &Batch, scale: f64, micro_batch: u32) -> Result<(), EngineError> {
        let dropout = self.begin(micro_batch);
        let mut grads = Grads {
            layout: &self.layout,
            weights: &mut self.gradients,
            adapter: self.adapter_gradients.as_mut(),
            beta: if self.has_gradients { 1.0 } else { 0.0 },
        };
        let (model, workspace, accumulator) = (&self.model, &mut self.workspace, &mut self.accumulator);
        model.kernels.within(|| {
            if micro_batch == 0 {
                model.kernels.clear(accumulator);
            }
            model.loss_and_gradients(workspace, batch, scale as f32, Some(dropout), &mut grads, accumulator)
        })?;
        self.has_gradients = true;
        self.forget_still();
        self.note_routes(batch);
        Ok(self.model.kernels.check()?)
    }

    /// The first half of a micro-batch whose loss has derivatives that depend on what the model says. The weights of the batch are not looked at. Waits for the device.
    ///
    /// # Errors
    /// [`EngineError::Batch`] for a batch that does not fit together, [`EngineError::Device`] for a device that fails.
    pub fn forward(&mut self, batch: &Batch, micro_batch: u32) -> Result<TrainPass<'_, K>, EngineError> {
        let dropout = self.begin(micro_batch);
        let (model, workspace, accumulator) = (&self.model, &mut self.workspace, &mut self.accumulator);
        let outputs = model.kernels.within(|| {
            if micro_batch == 0 {
                model.kernels.clear(accumulator);
            }
            model.forward_pass(workspace, batch, Some(dropout), true)?;
            Ok::<_, EngineError>(workspace.outputs(&model.kernels, &model.config, batch))
        })?;
        self.model.kernels.check()?;
        let routed = self.workspace.routed(&self.model.kernels, &self.model.config, batch);
        Ok(TrainPass { trainer: self, dropout, outputs, routed })
    }

    /// What the model says of a batch as the weights are, like [`TrainPass::outputs`]: no gradients, no dropout. Waits for the
    /// device.
    ///
    /// # Errors
    /// [`EngineError::Batch`] for a batch that does not fit together, [`EngineError::Device`] for a device that fails.
    pub fn outputs(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
        let (model, workspace) = (&self.model, &mut self.evaluation);
        let outputs = model.kernels.within(|| {
            model.forward_pass(workspace, batch, None, false)?;
            Ok::<_, EngineError>(workspace.outputs(&model.kernels, &model.config, batch))
        })?;
        self.model.kernels.check()?;
        Ok(outputs)
    }

    /// Keeps the weights as they are now, beside those that training moves: [`Self::reference_outputs`] asks them about
    /// batches of up to this size.
    pub fn keep_reference(&mut self, shape: BatchShape) {
        self.reference = Some(Reference::of(&self.model, shape));
    }

    /// As [`Self::outputs`], as the weights were at [`Self::keep_reference`].
    ///
    /// # Errors
    /// As there, and [`EngineError::Options`] where no weights were kept.
    pub fn reference_outputs(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
        let Some(reference) = &mut self.reference else {
            return Err(EngineError::Options { reason: "the weights of a reference were not kept".into() });
        };
        let outputs = reference.outputs(&mut self.model, batch)?;
        self.model.kernels.check()?;
        Ok(outputs)
    }

    /// Loads another model, whose distributions [`Self::distill`] has this one learn, with room for batches of this size. It has
    /// a device for itself, which may be the same one opened again.
    ///
    /// # Errors
    /// [`EngineError`] says what is wrong with its files, or that the two do not go together.
    pub fn load_teacher(
        &mut self,
        kernels: K,
        config: ModelConfig,
        weights: &WeightSource,
        shape: BatchShape,
    ) -> Result<(), EngineError> {
        kernels.prepare(config.demands())?;
        config.check_packing()?;
        let mut model = Model::unloaded(kernels, config);
        model.load_weights(weights)?;
        self.set_teacher(model, shape)
    }

    pub(crate) fn set_teacher(&mut self, model: Model<K>, shape: BatchShape) -> Result<(), EngineError> {
        self.teacher = Some(Teacher::new(&self.model, model, shape)?);
        Ok(self.model.kernels.check()?)
    }

    /// How far the model's distributions are from its teacher's where a micro-batch has targets, and the gradients of that
    /// times `scale`: kept (`micro_batch` 0) or added to what was kept. Waits for the device.
    ///
    /// # Errors
    /// [`EngineError::Batch`] for a batch that does not fit together, [`EngineError::Options`] without a teacher,
    /// [`EngineError::Device`] for a device that fails.
    pub fn distill(
        &mut self,
        divergence: Divergence,
        batch: &Batch,
        scale: f64,
        micro_batch: u32,
    ) -> Result<Divergences, EngineError> {
        let dropout = self.begin(micro_batch);
        let Self {
            model, layout, gradients, adapter_gradients, has_gradients, workspace, accumulator, teacher, ..
        } = self;
        let teacher = teacher.as_mut().ok_or_else(no_teacher)?;
        let mut grads = Grads {
            layout,
            weights: gradients,
            adapter: adapter_gradients.as_mut(),
            beta: if *has_gradients { 1.0 } else { 0.0 },
        };
        let model = &*model;
        let found = model.kernels.within(|| {
            if micro_batch == 0 {
                model.kernels.clear(accumulator);
            }
            let learning = Learning { dropout, scale, grads: &mut grads };
            teacher.compare(divergence, model, workspace, batch, Some(learning))
        })?;
        *has_gradients = true;
        self.forget_still();
        self.note_routes(batch);
        self.model.kernels.check()?;
        Ok(found)
    }

    /// As [`Self::distill`], as the weights are: no gradients, no dropout.
    ///
    /// # Errors
    /// As there.
    pub fn divergence(&mut self, divergence: Divergence, batch: &Batch) -> Result<Divergences, EngineError> {
        let Self { model, evaluation, teacher, .. } = self;
        let teacher = teacher.as_mut().ok_or_else(no_teacher)?;
        let model = &*model;
        let found = model.kernels.within(|| teacher.compare(divergence, model, evaluation, batch, None))?;
        self.model.kernels.check()?;
        Ok(found)
    }

    /// Makes the gradients of rows that stay zero.
    fn forget_still(&mut self) {
        for rows in &self.still {
            self.model.kernels.zero(rows.len(), at_mut(&mut self.gradients, rows.start));
        }
    }

    /// What a micro-batch drops. The first of a step forgets the gradients of the step before.
    fn begin(&mut self, micro_batch: u32) -> DropoutPass {
        self.has_gradients &= micro_batch > 0;
        if micro_batch == 0 {
            self.routes = Routes::default();
        }
        if let Some(lisa) = self.options.lisa.filter(|_| micro_batch == 0) {
            self.draw(lisa, lisa.round(self.optimizer.steps));
        }
        DropoutPass { seed: self.options.seed, step: self.optimizer.steps, micro_batch, noise: self.options.neftune }
    }

    /// Trains the layers of a round, with moments of zero, where it is another one.
    fn draw(&mut self, lisa: Lisa, round: u64) {
        if self.round == round {
            return;
        }
        self.round = round;
        let Self { model, layout, trainable, gradients, optimizer, options, still, .. } = self;
        let drawn = lisa.draw(options.seed, round, model.config.num_hidden_layers);
        let after = active(&model.layout, trainable, &drawn);
        let (kernels, slots) = (&model.kernels, model.layout.slots());
        let parts = parts(slots, &after, &options.rules, Some(round * lisa.interval));
        optimizer.set_parts(kernels, 0, &parts);
        let span = after.layers_span.clone();
        if span == layout.layers_span && after.len == layout.len {
            for moments in optimizer.state_mut(0) {
                kernels.zero(span.len(), at_mut(moments, span.start));
            }
        } else {
            let moments = optimizer.clear(kernels, 0, after.len);
            // What is in no layer goes on with its own.
            let before: BTreeMap<usize, usize> = layout.trained.iter().copied().collect();
            let stays = after.trained.iter().filter(|(index, _)| slots[*index].layer.is_none());
            for (&(index, to), from) in stays.filter_map(|place| Some((place, *before.get(&place.0)?))) {
                for (old, new) in moments.iter().zip(optimizer.state_mut(0)) {
                    kernels.copy(slots[index].len, at(old, from), at_mut(new, to));
                }
            }
            drop(moments);
            *gradients = kernels.alloc(Format::F32, after.len);
        }
        if let Some(master) = model.master.take() {
            model.master = Some(master.moved(kernels, slots, &after.trained));
        }
        *still = options.rules.still(own(slots, &after));
        *layout = after;
        self.workspace.forget_passes();
    }

    /// Keeps where the tokens of a micro-batch went whose gradients were kept.
    fn note_routes(&mut self, batch: &Batch) {
        if let Some(routed) = self.workspace.routed(&self.model.kernels, &self.model.config, batch) {
            self.routes.add(routed);
        }
    }

    /// Tokens that went to each expert in the step's micro-batches so far, `[layers of experts, experts]`; empty for a model
    /// without experts.
    pub fn expert_tokens(&self) -> &[u64] {
        &self.routes.tokens
    }

    /// True for a weight of an expert: in a step whose learned tokens go to other experts, its gradient is rightly zero. So is
    /// that of a router whose tokens go to one expert each, with a share of one.
    pub fn is_of_expert(&self, name: &str) -> bool {
        let role = self.model.layout.slot(name).and_then(|slot| slot.role);
        let goes_to_one = self.model.config.experts.is_some_and(|experts| experts.per_token == 1);
        matches!(role, Some(Role::Expert(..))) || (goes_to_one && role == Some(Role::Router))
    }

    /// What the load-balancing loss adds to the loss of the step's micro-batches so far: its coefficient times the sum of theirs,
    /// as transformers' `Trainer` has it. 0 where the config does not turn it on (`output_router_logits`).
    pub fn auxiliary_loss(&self) -> f64 {
        self.model.config.balance().map_or(0.0, |coefficient| f64::from(coefficient) * self.routes.balance)
    }

    /// The sum of the micro-batches' load-balancing losses before their coefficient, and how many these are; none where they are
    /// not trained.
    pub(crate) fn balance_losses(&self) -> Option<(f64, u64)> {
        self.model.config.balance().map(|_| (self.routes.balance, self.routes.micro_batches))
    }

    /// Sum over the targets of the step's micro-batches so far of weight times negative log-likelihood, in nats. Waits for
    /// the device.
    pub fn loss_sum(&self) -> f64 {
        self.model.kernels.totals(&self.accumulator).loss_sum
    }

    /// Loss of a batch as the weights are, summed like [`Self::loss_sum`]: no gradients, no dropout.
    ///
    /// # Errors
    /// [`EngineError::Batch`] for a batch that does not fit together, [`EngineError::Device`] for a device that fails.
    pub fn evaluate(&mut self, batch: &Batch) -> Result<f64, EngineError> {
        let (model, workspace, aside) = (&self.model, &mut self.evaluation, &mut self.aside);
        let loss_sum = model.kernels.within(|| {
            model.kernels.clear(aside);
            model.loss(workspace, batch, aside)?;
            Ok::<f64, EngineError>(model.kernels.totals(aside).loss_sum)
        })?;
        self.model.kernels.check()?;
        Ok(loss_sum)
    }

    /// Every trained tensor's gradient.
    pub fn gradient_report(&self) -> Vec<GradientReport> {
        let report = |Trained { slot, arena, offset }: Trained<'_>| {
            let (kernels, mut accumulator) = (&self.model.kernels, self.model.kernels.accumulator());
            kernels.sum_of_squares(slot.len, at(self.gradients_of(arena), offset), &mut accumulator);
            let square = kernels.totals(&accumulator).squares;
            GradientReport { name: slot.name.clone(), norm: square.sqrt(), finite: square.is_finite() }
        };
        self.trained().into_iter().map(report).collect()
    }

    /// A copy of one trained tensor's gradient.
    pub fn gradient(&self, name: &str) -> Option<Vec<f32>> {
        let Trained { slot, arena, offset } = self.trained().into_iter().find(|trained| trained.slot.name == name)?;
        let mut values = vec![0.0; slot.len];
        self.model.kernels.download(at(self.gradients_of(arena), offset), &mut values);
        Some(values)
    }

    /// A copy of one weight or adapter tensor.
    pub fn parameter(&self, name: &str) -> Option<Vec<f32>> {
        if let Some(lora) = &self.model.lora
            && let Some(slot) = lora.slots().iter().find(|slot| slot.name == name)
        {
            return Some(lora.get(&self.model.kernels, slot));
        }
        self.model.parameter(name)
    }

    /// One optimizer step with the gradients kept so far, clipped to `max_grad_norm` as torch's `clip_grad_norm_` does.
    /// Waits for the device.
    ///
    /// # Errors
    /// [`EngineError::NonFiniteGradient`] names the tensors, [`EngineError::NothingToLearn`] says that none were kept,
    /// [`EngineError::Device`] tells of a device that fails; nothing is changed then.
    pub fn apply(&mut self, lr: f64, max_grad_norm: Option<f64>) -> Result<StepStats, EngineError> {
        if !self.has_gradients {
            return Err(EngineError::NothingToLearn);
        }
        let Self { model, layout, gradients, adapter_gradients, optimizer, accumulator, .. } = self;
        let Model { kernels, params, master, lora, .. } = model;
        let master = master.as_mut().map(|master| &mut master.buffer);
        let own = (layout.len, Elements { gradients, params, master });
        let adapter = lora.as_mut().zip(adapter_gradients.as_ref()).map(|(lora, gradients)| {
            (lora.len(), Elements { gradients, params: &mut lora.params, master: lora.master.as_mut() })
        });
        let groups = std::iter::once(own).chain(adapter).filter(|(len, _)| *len > 0);
        let groups: Vec<(usize, Elements<'_, K::Buffer>)> = groups.collect();
        for (len, Elements { gradients, .. }) in &groups {
            kernels.sum_of_squares(*len, at(*gradients, 0), accumulator);
        }
        kernels.clip(max_grad_norm, accumulator);
        optimizer.step(kernels, lr, accumulator, groups.into_iter().map(|(_, elements)| elements));
        let totals = kernels.totals(accumulator);
        kernels.check()?;
        let grad_norm = totals.squares.sqrt();
        if !grad_norm.is_finite() {
            let mut bad = self.gradient_report().into_iter().filter(|report| !report.finite).map(|report| report.name);
            let first = bad.next().unwrap_or_else(|| "the sum of all".into());
            return Err(EngineError::NonFiniteGradient { first, count: 1 + bad.count() });
        }
        self.optimizer.done();
        if let Some(lora) = &mut self.model.lora {
            lora.outdate();
            self.model.measure();
        }
        let idle_experts = self.routes.tokens.iter().filter(|&&tokens| tokens == 0).count();
        Ok(StepStats { loss_sum: totals.loss_sum, grad_norm, idle_experts })
    }

    /// Optimizer steps done.
    pub fn optimizer_step(&self) -> u64 {
        self.optimizer.steps
    }

    /// Elements that are trained.
    pub fn trainable_parameters(&self) -> u64 {
        self.trained().iter().map(|trained| trained.slot.len as u64).sum()
    }

    /// Elements of model and adapter.
    pub fn total_parameters(&self) -> u64 {
        let adapter = self.model.lora.iter().flat_map(super::adapter::lora::Lora::slots);
        let packed = self.model.layout.packed.iter().map(|slot| slot.packed.len() as u64);
        self.model.layout.slots().iter().chain(adapter).map(|slot| slot.len as u64).chain(packed).sum()
    }

    /// Bytes by purpose.
    pub fn device_bytes(&self) -> MemoryUse {
        let kernels = &self.model.kernels;
        let bytes = |buffer: &K::Buffer| kernels.bytes(buffer);
        let Model { params, words, master, lora, .. } = &self.model;
        let adapter = lora.iter().flat_map(Lora::buffers);
        let master = master.iter().map(|master| &master.buffer);
        let reference = self.reference.as_ref();
        let of_reference = reference.map_or(0, |reference| reference.activation_bytes(kernels));
        let teacher = self.teacher.as_ref();
        let of_teacher = teacher.map_or(0, Teacher::activation_bytes);
        MemoryUse {
            weights: [params, words].into_iter().chain(master).chain(adapter).map(bytes).sum::<u64>()
                + reference.map_or(0, |reference| reference.weight_bytes(kernels))
                + teacher.map_or(0, Teacher::weight_bytes),
            gradients: bytes(&self.gradients) + self.adapter_gradients.as_ref().map_or(0, bytes),
            optimizer: self.optimizer.buffers().map(bytes).sum(),
            activations: self.workspace.bytes(kernels) + self.evaluation.bytes(kernels) + of_reference + of_teacher,
        }
    }

    /// The model as it is now.
    pub fn model(&self) -> &Model<K> {
        &self.model
    }

    /// Every trained tensor, those of the adapter first.
    fn trained(&self) -> Vec<Trained<'_>> {
        let adapter = self.model.lora.iter().flat_map(Lora::slots);
        let adapter = adapter.map(|slot| Trained { slot, arena: Arena::Adapter, offset: slot.offset });
        let slots = self.model.layout.slots();
        let own = self.layout.trained.iter();
        let own = own.map(|&(index, offset)| Trained { slot: &slots[index], arena: Arena::Model, offset });
        adapter.chain(own).collect()
    }

    /// Every tensor that is trained at some time, those of the adapter first.
    fn trainable(&self) -> Vec<&Slot> {
        let slots = self.model.layout.slots();
        let own = self.trainable.trained.iter().map(|&(index, _)| &slots[index]);
        self.model.lora.iter().flat_map(Lora::slots).chain(own).collect()
    }

    fn gradients_of(&self, arena: Arena) -> &K::Buffer {
        match (arena, &self.adapter_gradients) {
            (Arena::Adapter, Some(gradients)) => gradients,
            _ => &self.gradients,
        }
    }

    /// The optimizer's group of an arena.
    fn group(&self, arena: Arena) -> usize {
        usize::from(arena == Arena::Adapter && self.layout.len > 0)
    }
}

fn no_teacher() -> EngineError {
    EngineError::Options { reason: "there is no teacher to learn from".into() }
}

/// An arena that has trained tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arena {
    /// The model's own weights.
    Model,
    /// The adapter.
    Adapter,
}

/// A trained tensor.
#[derive(Debug, Clone, Copy)]
struct Trained<'a> {
    slot: &'a Slot,
    arena: Arena,
    /// First element of its gradient, and of what the optimizer keeps of it.
    offset: usize,
}

/// Trained tensors, each with the first element of its gradient.
fn own<'s>(slots: &'s [Slot], layout: &'s GradientLayout) -> impl Iterator<Item = (&'s Slot, usize)> + use<'s> {
    layout.trained.iter().map(|&(index, gradient)| (&slots[index], gradient))
}

/// The optimizer's parts of a model's own weights: all of them, or those of layers whose moments were zero at step `since` apart.
fn parts(slots: &[Slot], layout: &GradientLayout, rules: &Rules, since: Option<u64>) -> Vec<Part> {
    let Some(since) = since else { return vec![Part { segments: rules.segments(own(slots, layout)), since: 0 }] };
    let part = |in_layer: bool, since: u64| Part {
        segments: rules.segments(own(slots, layout).filter(|(slot, _)| slot.layer.is_some() == in_layer)),
        since,
    };
    vec![part(false, 0), part(true, since)]
}

/// Of what is trained at some time, that which is in none of the layers or in one that was drawn.
fn active(layout: &Layout, trainable: &GradientLayout, drawn: &BTreeSet<usize>) -> GradientLayout {
    let names: BTreeSet<&str> = own(layout.slots(), trainable)
        .filter(|(slot, _)| slot.layer.is_none_or(|layer| drawn.contains(&layer)))
        .map(|(slot, _)| slot.name.as_str())
        .collect();
    GradientLayout::of(layout, trainable.layers.len(), |slot| names.contains(slot.name.as_str()))
}
