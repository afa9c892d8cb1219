//! The whole model: embedding, decoder layers, last norm, output projection or head of scores, loss; forward, and backward as far down as
//! anything is trained.

use std::collections::{BTreeMap, HashMap};

use super::decoder::{Saved, Scratch};
use super::pass::{LayerGrads, Pass};
use super::rope::RopeTables;
use super::scores::{ScorePlaces, ScoresScratch};
use super::sharing::Sharing;
use super::workspace::Workspace;
use crate::adapter::head::{HeadPass, HeadScratch};
use crate::adapter::lora::{DropoutPass, Lora};
use crate::architecture::config::ModelConfig;
use crate::architecture::layout::{GradientLayout, Layout, Slot};
use crate::kernels::cpu::CpuKernels;
use crate::kernels::{Format, Kernels, LossGradients, Norm, Normed, Packed, Rows, Targets, View, at, at_mut};
use crate::weights::packed::{PackedTensor, Packer};
use crate::weights::{self, TensorHeader, WeightSource};
use crate::{Batch, EngineError, rng};

/// Weights, and an adapter beside them.
#[derive(Debug)]
pub struct Model<K: Kernels = CpuKernels> {
    /// The device.
    pub kernels: K,
    /// Sizes and constants.
    pub config: ModelConfig,
    /// Where each weight lies.
    pub layout: Layout,
    /// The weight arena.
    pub params: K::Buffer,
    /// Words of the weights that are packed.
    pub words: K::Buffer,
    /// The trained weights in f32, where those of the arena are rounded.
    pub master: Option<MasterWeights<K::Buffer>>,
    /// The adapter.
    pub lora: Option<Lora<K::Buffer>>,
    /// Tensors of other parts of the model, where they are.
    pub others: Vec<TensorHeader>,
    /// Logits are divided by this wherever the model is asked for them: the policy of reinforcement learning. 1 otherwise.
    pub(crate) temperature: f32,
    /// None of its own weights is trained.
    pub is_frozen: bool,
}

/// Weights beside the arena.
#[derive(Debug)]
pub struct MasterWeights<B> {
    /// Which: index into the layout's slots, ascending, and first element.
    pub places: Vec<(usize, usize)>,
    /// The weights.
    pub buffer: B,
    /// Those of slots that are not trained now, but were or will be.
    pub parked: BTreeMap<usize, Vec<f32>>,
}

impl<B> MasterWeights<B> {
    /// First element of a slot's weights.
    fn place(&self, slot: usize) -> Option<usize> {
        let found = self.places.binary_search_by_key(&slot, |&(index, _)| index).ok()?;
        Some(self.places[found].1)
    }

    /// The same weights where others are trained: `places` in a buffer of their own, the others parked.
    pub(crate) fn moved<K: Kernels<Buffer = B>>(self, kernels: &K, slots: &[Slot], places: &[(usize, usize)]) -> Self {
        let Self { places: before, buffer, mut parked } = self;
        for (index, place) in before {
            let mut values = vec![0.0; slots[index].len];
            kernels.download(at(&buffer, place), &mut values);
            parked.insert(index, values);
        }
        drop(buffer);
        let len = places.last().map_or(0, |&(index, place)| place + slots[index].len);
        let mut buffer = kernels.alloc(Format::F32, len);
        for &(index, place) in places {
            if let Some(values) = parked.remove(&index) {
                kernels.upload(&values, at_mut(&mut buffer, place));
            }
        }
        Self { places: places.to_vec(), buffer, parked }
    }

    /// Overwrites some of a slot's weights, from its element `start` on, where it has any here.
    fn put<K: Kernels<Buffer = B>>(&mut self, kernels: &K, slot: usize, start: usize, values: &[f32]) {
        if let Some(parked) = self.parked.get_mut(&slot) {
            parked[start..start + values.len()].copy_from_slice(values);
        } else if let Some(place) = self.place(slot) {
            kernels.upload(values, at_mut(&mut self.buffer, place + start));
        }
    }
}

/// Where gradients go.
#[derive(Debug)]
pub struct Grads<'a, B> {
    /// Places of the weights' gradients.
    pub layout: &'a GradientLayout,
    /// The weights' gradient arena.
    pub weights: &'a mut B,
    /// The adapter's gradient arena.
    pub adapter: Option<&'a mut B>,
    /// Factor of what the arenas held.
    pub beta: f32,
}

/// The stream that the noise of embeddings is of.
fn noise_stream() -> u64 {
    rng::stream_of("neftune")
}

/// What a pass over a batch is part of. A device keeps work by it, and by the factor of the gradients that there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// The loss alone.
    Loss,
    /// The loss and its gradients at once.
    Whole,
    /// The first half of a training pass: log-probabilities.
    Forward,
    /// The second half: gradients for weights that were made of them.
    Backward,
    /// The layers and the last norm alone.
    Hidden,
    /// Back from the last norm.
    HiddenBackward,
}

impl<K: Kernels> Model<K> {
    /// Fills the arena, and the master weights where there are some.
    ///
    /// # Errors
    /// [`EngineError`] says what is wrong with the files, or that the device has no room.
    pub fn load_weights(&mut self, source: &WeightSource) -> Result<(), EngineError> {
        self.kernels.check()?;
        let Self { kernels, config, layout, params, words, master, .. } = self;
        let mut packers: HashMap<&str, (Packer, usize)> = HashMap::new();
        let packed: HashMap<&str, Packed> =
            layout.packed.iter().map(|slot| (slot.name.as_str(), slot.packed)).collect();
        let words = std::cell::RefCell::new(words);
        let mut plain = |name: &str, start: usize, values: &[f32]| {
            if let Some((&name, &packed)) = packed.get_key_value(name) {
                let (packer, taken) = packers.entry(name).or_insert_with(|| (Packer::new(packed), 0));
                packer.take(values);
                *taken += values.len();
                if *taken == packed.len()
                    && let Some((packer, _)) = packers.remove(name)
                {
                    packer.finish(kernels, &mut words.borrow_mut());
                }
                return;
            }
            let Some(index) = layout.index(name) else { return };
            let slot = &layout.slots()[index];
            kernels.upload(values, at_mut(params, slot.offset + start));
            if let Some(master) = master {
                master.put(kernels, index, start, values);
            }
        };
        let mut whole = |name: &str, tensor: PackedTensor| {
            if let Some(&packed) = packed.get(name) {
                tensor.put(kernels, packed, &mut words.borrow_mut());
            }
        };
        weights::load(source, config, &mut plain, &mut whole)?;
        self.others = weights::others(source, &self.config)?;
        Ok(self.kernels.check()?)
    }

    /// Overwrites one weight that is not packed.
    pub(crate) fn put(&mut self, name: &str, values: &[f32]) {
        let Some(index) = self.layout.index(name) else { return };
        self.kernels.upload(values, at_mut(&mut self.params, self.layout.slots()[index].offset));
        if let Some(master) = &mut self.master {
            master.put(&self.kernels, index, 0, values);
        }
    }

    /// Measures what an adapter reads of the weights and of itself; needed whenever either has changed.
    pub(crate) fn measure(&mut self) {
        let Self { kernels, config, layout, params, words, lora, .. } = self;
        if let Some(lora) = lora {
            lora.measure(kernels, config, layout, params, words);
        }
    }

    /// A model whose weights are all zero.
    pub(crate) fn unloaded(kernels: K, config: ModelConfig) -> Self {
        let layout = Layout::new(&config);
        let params = kernels.alloc(Format::Working, layout.len);
        let words = kernels.alloc(Format::F32, layout.words);
        let (others, temperature) = (Vec::new(), 1.0);
        Self { kernels, config, layout, params, words, master: None, lora: None, others, temperature, is_frozen: true }
    }

    /// A copy of one weight, as transformers stores it, unpacked if it is packed.
    pub fn parameter(&self, name: &str) -> Option<Vec<f32>> {
        if let Some(slot) = self.layout.packed.iter().find(|slot| slot.name == name) {
            let mut buffer = self.kernels.alloc(Format::Working, slot.packed.len());
            self.kernels.unpack(slot.packed, &self.words, at_mut(&mut buffer, 0));
            let mut values = vec![0.0; slot.packed.len()];
            self.kernels.download(at(&buffer, 0), &mut values);
            return Some(values);
        }
        let index = self.layout.index(name)?;
        let slot = &self.layout.slots()[index];
        if let Some(parked) = self.master.as_ref().and_then(|master| master.parked.get(&index)) {
            return Some(parked.clone());
        }
        let master = self.master.as_ref().and_then(|master| Some(at(&master.buffer, master.place(index)?)));
        let mut values = vec![0.0; slot.len];
        self.kernels.download(master.unwrap_or(at(&self.params, slot.offset)), &mut values);
        Some(values)
    }

    /// What every layer of a pass over `n` tokens needs.
    pub fn pass<'a>(
        &'a self,
        rope: &'a RopeTables<K::Buffer>,
        n: usize,
        rows: &'a K::Staged,
        dropout: Option<u64>,
    ) -> Pass<'a, K> {
        let Self { kernels, config, params, words, lora, .. } = self;
        Pass { kernels, config, params, words, lora: lora.as_ref(), rope, n, rows, dropout, compact: None }
    }

    /// Tokens of the rows, `[n, h]`, as the first layer takes them.
    pub(crate) fn embed(&self, n: usize, rows: &K::Staged, out: &mut K::Buffer) {
        let (kernels, h) = (&self.kernels, self.config.hidden_size);
        kernels.embed(h, rows, at(&self.params, self.layout.embed), at_mut(out, 0));
        if let Some(factor) = self.config.embedding_scale {
            kernels.scale(n * h, factor, at_mut(out, 0));
        }
    }

    /// The norm behind the last layer of `n` rows; its output is what the output projection reads, or the head of scores.
    pub(crate) fn last_norm(&self, n: usize) -> Norm {
        let gain = if self.config.scores.is_some() { 1.0 } else { self.config.logits_scale / self.temperature };
        Norm { gain, ..self.config.norm(n) }
    }

    /// Adds the loss of a batch to `accumulator`, without gradients. A workspace is used with one accumulator only.
    ///
    /// # Errors
    /// [`EngineError::Batch`] for a batch that does not fit together, [`EngineError::Options`] for a model with a head of
    /// scores, which has no loss of its own.
    pub fn loss(
        &self,
        workspace: &mut Workspace<K>,
        batch: &Batch,
        accumulator: &mut K::Accumulator,
    ) -> Result<(), EngineError> {
        self.has_own_loss()?;
        let n = self.start(workspace, batch, batch.weights.as_deref(), 0.0, None, false)?;
        self.replay(workspace, Work::Loss, 0.0, |workspace, rows| {
            let last = self.forward(workspace, rows, n, None);
            self.head(workspace, rows, n, last, None, None);
            self.add_loss(workspace, rows, accumulator);
        });
        Ok(())
    }

    /// Adds the loss of a batch to `accumulator`, and makes its gradients times `scale` of whatever has a place in `grads`. A
    /// workspace is used with one accumulator and the same gradients only.
    ///
    /// # Errors
    /// As [`Self::loss`].
    pub fn loss_and_gradients(
        &self,
        workspace: &mut Workspace<K>,
        batch: &Batch,
        scale: f32,
        dropout: Option<DropoutPass>,
        grads: &mut Grads<'_, K::Buffer>,
        accumulator: &mut K::Accumulator,
    ) -> Result<(), EngineError> {
        self.has_own_loss()?;
        let n = self.start(workspace, batch, batch.weights.as_deref(), scale, dropout, true)?;
        let dropout = dropout.map(|dropout| dropout.seed);
        self.replay(workspace, Work::Whole, grads.beta, |workspace, rows| {
            let last = self.forward(workspace, rows, n, dropout);
            self.head(workspace, rows, n, last, dropout, Some(&mut *grads));
            self.add_loss(workspace, rows, accumulator);
            self.backward(workspace, rows, n, dropout, grads);
        });
        Ok(())
    }

    /// The first half of a training pass, for a loss whose derivatives depend on what the model says
    /// (`Workspace::outputs` copies it); without `learns`, what it says and nothing else. The weights of the batch are not
    /// looked at.
    ///
    /// # Errors
    /// [`EngineError::Batch`] for a batch that does not fit together.
    pub fn forward_pass(
        &self,
        workspace: &mut Workspace<K>,
        batch: &Batch,
        dropout: Option<DropoutPass>,
        learns: bool,
    ) -> Result<(), EngineError> {
        let weights = vec![0.0; batch.ids.len()];
        let n = self.start(workspace, batch, Some(&weights), 0.0, dropout, learns)?;
        let dropout = dropout.map(|dropout| dropout.seed);
        self.replay(workspace, Work::Forward, 0.0, |workspace, rows| {
            let last = self.forward(workspace, rows, n, dropout);
            self.head(workspace, rows, n, last, dropout, None);
        });
        Ok(())
    }

    /// The second half: gradients of the sum of `-scale * weights[i]` times number `i` of what the model said, after
    /// [`Self::forward_pass`] in the same workspace with the same `dropout`.
    pub fn backward_pass(
        &self,
        workspace: &mut Workspace<K>,
        weights: &[f32],
        scale: f32,
        dropout: Option<DropoutPass>,
        grads: &mut Grads<'_, K::Buffer>,
    ) {
        let labels = self.config.outputs();
        let of_rows = workspace.sharing.as_ref().map(|sharing| sharing.sum_by_row(weights, labels));
        let weights = of_rows.as_deref().unwrap_or(weights);
        let (n, last) =
            (self.kernels.padded(weights.len() / labels), workspace.recompute.slot(self.layout.layers.len()));
        match &mut workspace.scores {
            Some(scores) => scores.take(&self.kernels, labels, n, weights, scale),
            None => {
                let rows = workspace.staged.as_mut().expect("the first half staged a batch");
                self.kernels.weigh(weights, scale, rows);
            }
        }
        let dropout = dropout.map(|dropout| dropout.seed);
        self.replay(workspace, Work::Backward, grads.beta, |workspace, rows| {
            self.head(workspace, rows, n, last, dropout, Some(&mut *grads));
            self.backward(workspace, rows, n, dropout, grads);
        });
    }

    /// What the output projection reads where a batch has targets, `[targets, h]`, in a copy; the rest of the pass is for the
    /// caller. Waits for the device.
    ///
    /// # Errors
    /// [`EngineError::Batch`] for a batch that does not fit together.
    pub(crate) fn hidden(
        &self,
        workspace: &mut Workspace<K>,
        batch: &Batch,
        dropout: Option<DropoutPass>,
        learns: bool,
    ) -> Result<Vec<f32>, EngineError> {
        let learned: Vec<usize> = batch.learned().flatten().collect();
        self.hidden_at(workspace, batch, &learned, dropout, learns)
    }

    /// The same at some positions of a batch, whatever targets it has: `[positions, h]`.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn hidden_at(
        &self,
        workspace: &mut Workspace<K>,
        batch: &Batch,
        positions: &[usize],
        dropout: Option<DropoutPass>,
        learns: bool,
    ) -> Result<Vec<f32>, EngineError> {
        let n = self.start(workspace, batch, None, 0.0, dropout, learns)?;
        let dropout = dropout.map(|dropout| dropout.seed);
        self.replay(workspace, Work::Hidden, 0.0, |workspace, rows| {
            let last = self.forward(workspace, rows, n, dropout);
            let Workspace { inputs, scratch: Some(scratch), head_root: Some(root), .. } = workspace else {
                unreachable!("`start` made room");
            };
            let (x, weight) = (at(&inputs[last], 0), at(&self.params, self.layout.norm));
            let normed = at_mut(&mut scratch.normed, 0);
            self.kernels.rmsnorm(self.last_norm(n), x, weight, None, normed, at_mut(root, 0));
        });
        let h = self.config.hidden_size;
        let mut rows = vec![0.0; workspace.rows(batch) * h];
        let scratch = workspace.scratch.as_ref().expect("`start` made room");
        self.kernels.download(at(&scratch.normed, 0), &mut rows);
        let wanted = positions.iter().map(|&position| workspace.row(position));
        Ok(wanted.flat_map(|row| rows[row * h..][..h].iter().copied()).collect())
    }

    /// Gradients from those of [`Self::hidden`], of the same batch in the same workspace with the same `dropout`, where the
    /// output projection's are made already.
    pub(crate) fn hidden_backward(
        &self,
        workspace: &mut Workspace<K>,
        batch: &Batch,
        gradients: &[f32],
        dropout: Option<DropoutPass>,
        grads: &mut Grads<'_, K::Buffer>,
    ) {
        let (n, h) = (self.kernels.padded(workspace.rows(batch)), self.config.hidden_size);
        let mut all = vec![0.0; n * h];
        for (position, gradient) in batch.learned().flatten().zip(gradients.chunks_exact(h)) {
            all[workspace.row(position) * h..][..h].copy_from_slice(gradient);
        }
        let scratch = workspace.scratch.as_mut().expect("`hidden` made room");
        self.kernels.upload(&all, at_mut(&mut scratch.inner, 0));
        let (last, dropout) = (workspace.recompute.slot(self.layout.layers.len()), dropout.map(|dropout| dropout.seed));
        self.replay(workspace, Work::HiddenBackward, grads.beta, |workspace, rows| {
            let Workspace { inputs, scratch: Some(scratch), dx: Some(dx), head_root: Some(root), .. } = workspace
            else {
                unreachable!("`hidden` made room");
            };
            self.through_norm(self.last_norm(n), at(&inputs[last], 0), root, &scratch.inner, dx, n, grads);
            self.backward(workspace, rows, n, dropout, grads);
        });
    }

    /// That the loss of a batch is the cross-entropy of its targets.
    fn has_own_loss(&self) -> Result<(), EngineError> {
        let reason = "the model has a head of scores: its loss is that of an objective".to_owned();
        if self.config.scores.is_some() { Err(EngineError::Options { reason }) } else { Ok(()) }
    }

    /// Makes room in a workspace for a batch of `tokens` with positions below `positions`, if there is less; `learns` says whether there
    /// will be gradients.
    pub(crate) fn make_room(&self, workspace: &mut Workspace<K>, tokens: usize, positions: usize, learns: bool) {
        let (kernels, config) = (&self.kernels, &self.config);
        if positions > workspace.positions {
            workspace.positions = positions.next_multiple_of(128);
            workspace.graphs = K::Graphs::default();
            workspace.rope = Some(RopeTables::new(kernels, config, workspace.positions));
        }
        let tokens = kernels.padded(tokens);
        if tokens <= workspace.tokens {
            return;
        }
        // What there was goes first, so that both are never there together.
        workspace.graphs = K::Graphs::default();
        workspace.inputs.clear();
        workspace.saved.clear();
        (workspace.scratch, workspace.dx, workspace.head_root, workspace.log_probs) = (None, None, None, None);
        (workspace.head, workspace.scores) = (None, None);
        let (layers, h) = (config.num_hidden_layers, config.hidden_size);
        let remembered = layers - workspace.recompute.from.min(layers);
        workspace.inputs = (0..2 + remembered).map(|_| kernels.alloc(Format::Working, tokens * h)).collect();
        let saved = if workspace.recompute.checkpoint { 1 } else { remembered.max(1) };
        let recompute = workspace.recompute;
        let kept_at = |place: usize| (0..layers).filter(move |&layer| recompute.place(layer) == place);
        workspace.saved =
            (0..saved).map(|place| Saved::alloc(kernels, config, tokens, self.lora.as_ref(), kept_at(place))).collect();
        workspace.scratch = Some(Scratch::alloc(kernels, config, tokens, self.lora.as_ref()));
        workspace.dx = Some(kernels.alloc(Format::Working, tokens * h));
        workspace.head_root = Some(kernels.alloc(Format::F32, tokens));
        workspace.scores = ScoresScratch::alloc(kernels, config, tokens);
        workspace.log_probs = workspace.scores.is_none().then(|| kernels.alloc(Format::F32, tokens));
        workspace.head = self
            .lora
            .as_ref()
            .filter(|lora| lora.head().is_some())
            .map(|lora| HeadScratch::alloc(kernels, config, lora, &self.params, self.layout.head, tokens, learns));
        workspace.tokens = tokens;
    }

    /// Makes room for a batch and stages it; returns the rows of its pass.
    fn start(
        &self,
        workspace: &mut Workspace<K>,
        batch: &Batch,
        weights: Option<&[f32]>,
        scale: f32,
        dropout: Option<DropoutPass>,
        learns: bool,
    ) -> Result<usize, EngineError> {
        batch.validate(self.config.vocab_size, self.config.targets())?;
        // Documents that share rows would share what is dropped of them, and their noise.
        let drops = dropout.is_some() && self.lora.as_ref().is_some_and(|lora| lora.config().dropout > 0.0);
        let noise = dropout.and_then(|dropout| dropout.noise_of(&batch.doc_lens, &self.config));
        // The load-balancing loss is of every position.
        let is_balanced = learns && self.config.balance().is_some();
        let shares = !drops && noise.is_none() && !is_balanced && self.kernels.continues_documents();
        let sharing = shares.then(|| Sharing::of(batch, &self.config)).flatten();
        let n = sharing.as_ref().map_or(batch.ids.len(), Sharing::len);
        let longest = batch.doc_lens.iter().max().map_or(0, |&longest| longest as usize);
        self.make_room(workspace, n, longest, learns);
        let rope = workspace.rope.as_ref().expect("`make_room` made the tables");
        let document = |&len: &u32| (0..len).map(move |position| rope.row(position, len as usize));
        let positions: Vec<u32> = batch.doc_lens.iter().flat_map(document).collect();
        let dropout = dropout.map_or(0, |dropout| dropout.bits());
        let stage = |rows: Rows<'_>, targets: &[u32], weights: Option<&[f32]>, staged: &mut Option<K::Staged>| {
            let targets = Some(Targets { tokens: targets, weights, scale });
            self.kernels.stage(Rows { targets, cached: None, dropout, ..rows }, staged);
        };
        match &sharing {
            None => {
                let (ids, doc_lens, noise) = (&batch.ids, &batch.doc_lens, noise.as_deref());
                let rows = Rows { ids, positions: &positions, doc_lens, noise, ..Rows::default() };
                stage(rows, &batch.targets, weights, &mut workspace.staged);
            }
            Some(sharing) => {
                let (doc_lens, continues) = sharing.documents();
                let [ids, positions, targets] =
                    [&batch.ids, &positions, &batch.targets].map(|values| sharing.by_row(values));
                let weights = weights.map(|weights| sharing.by_row(weights));
                let rows = Rows { ids: &ids, positions: &positions, doc_lens, continues, ..Rows::default() };
                stage(rows, &targets, weights.as_deref(), &mut workspace.staged);
            }
        }
        workspace.sharing = sharing;
        Ok(self.kernels.padded(n))
    }

    /// Does work on what was staged, or what the device kept of it; see [`replay`](crate::kernels::Queue::replay).
    fn replay(
        &self,
        workspace: &mut Workspace<K>,
        kind: Work,
        beta: f32,
        mut work: impl FnMut(&mut Workspace<K>, &K::Staged),
    ) {
        let key = (kind as u64) << 32 | u64::from(beta.to_bits());
        let (mut graphs, rows) = (std::mem::take(&mut workspace.graphs), workspace.staged.take());
        let rows = rows.expect("`start` staged a batch");
        self.kernels.replay(&mut graphs, &rows, key, || work(workspace, &rows));
        (workspace.graphs, workspace.staged) = (graphs, Some(rows));
    }

    /// Runs the layers; returns which of `inputs` holds the last layer's output.
    fn forward(&self, workspace: &mut Workspace<K>, rows: &K::Staged, n: usize, dropout: Option<u64>) -> usize {
        let recompute = workspace.recompute;
        let Workspace { inputs, saved, scratch: Some(scratch), rope: Some(rope), .. } = workspace else {
            unreachable!("`start` made room");
        };
        let pass = self.pass(rope, n, rows, dropout);
        let embedded = &mut inputs[recompute.slot(0)];
        self.embed(n, rows, embedded);
        if let Some(seed) = dropout {
            self.kernels.noise(self.config.hidden_size, rows, seed, noise_stream(), at_mut(embedded, 0));
        }
        for (layer, offsets) in self.layout.layers.iter().enumerate() {
            let (x, out) = pair(inputs, recompute.slot(layer), recompute.slot(layer + 1));
            pass.layer(layer, offsets, x, &mut saved[recompute.place(layer)], scratch, out, None);
        }
        recompute.slot(self.layout.layers.len())
    }

    /// Last norm, and projection with log-probabilities or scores; with `grads`, leaves the gradient of the last layer's output
    /// in `dx`.
    fn head(
        &self,
        workspace: &mut Workspace<K>,
        rows: &K::Staged,
        n: usize,
        last: usize,
        dropout: Option<u64>,
        grads: Option<&mut Grads<'_, K::Buffer>>,
    ) {
        let head = self.config.head();
        let Workspace {
            inputs,
            scratch: Some(scratch),
            dx,
            head_root: Some(root),
            head: of_head,
            log_probs,
            scores,
            ..
        } = workspace
        else {
            unreachable!("`start` made room");
        };
        let (x, norm, weight) = (at(&inputs[last], 0), self.last_norm(n), at(&self.params, self.layout.norm));
        self.kernels.rmsnorm(norm, x, weight, None, at_mut(&mut scratch.normed, 0), at_mut(root, 0));
        let (kernels, config) = (&self.kernels, &self.config);
        if let Some(scores) = scores {
            let (layout, params) = (&self.layout, &self.params);
            let (Some(grads), Some(dx)) = (grads, dx) else {
                return scores.forward(kernels, config, layout, params, n, &scratch.normed);
            };
            let places = ScorePlaces { weight: grads.layout.head, bias: grads.layout.head_bias };
            let Scratch { normed, inner, .. } = scratch;
            scores.backward(kernels, config, layout, params, n, normed, inner, places, grads.weights, grads.beta);
            return self.through_norm(norm, x, root, inner, dx, n, grads);
        }
        let log_probs = log_probs.as_mut().expect("`start` made room");
        let adapted = self
            .lora
            .as_ref()
            .zip(of_head.as_mut())
            .map(|(lora, of_head)| (HeadPass { kernels, config, lora, rows, n, dropout }, of_head));
        let (normed, projection) = (at(&scratch.normed, 0), at(&self.params, self.layout.head));
        let (Some(grads), Some(dx)) = (grads, dx) else {
            if let Some((pass, of_head)) = adapted {
                return of_head.log_probs(pass, &scratch.normed, &mut scratch.linear.adapter, log_probs);
            }
            return self.kernels.linear_log_probs(head, rows, normed, projection, at_mut(log_probs, 0), None);
        };
        let adapted = adapted.zip(grads.adapter.as_deref_mut());
        let dw = self.head_place(grads.layout).map(|place| (at_mut(grads.weights, place), grads.beta));
        // Until the layers' backward pass of the first micro-batch, their gradients are still to be written.
        let idle = if grads.beta == 0.0 { grads.layout.layers_span.clone() } else { 0..0 };
        if let Some(((pass, of_head), adapter)) = adapted {
            let Scratch { normed, inner, linear: scratch, .. } = scratch;
            of_head.gradients(pass, normed, inner, adapter, grads.beta, &mut scratch.adapter, log_probs);
        } else {
            let gradients = LossGradients { dx: at_mut(&mut scratch.inner, 0), dw, idle };
            self.kernels.linear_log_probs(head, rows, normed, projection, at_mut(log_probs, 0), Some(gradients));
        }
        self.through_norm(norm, x, root, &scratch.inner, dx, n, grads);
    }

    /// Where the gradient of the output projection goes, where it is trained.
    pub(crate) fn head_place(&self, layout: &GradientLayout) -> Option<usize> {
        if self.layout.head == self.layout.embed { layout.embed } else { layout.head }
    }

    /// From the gradient of the last norm's output to that of its input, in `dx`.
    fn through_norm(
        &self,
        norm: Norm,
        x: View<'_, K::Buffer>,
        root: &K::Buffer,
        dnormed: &K::Buffer,
        dx: &mut K::Buffer,
        n: usize,
        grads: &mut Grads<'_, K::Buffer>,
    ) {
        self.kernels.zero(n * self.config.hidden_size, at_mut(dx, 0));
        let dnorm = grads.layout.norm.map(|place| (at_mut(grads.weights, place), grads.beta));
        let normed = Normed { x, w: at(&self.params, self.layout.norm), r: at(root, 0) };
        self.kernels.rmsnorm_backward(norm, normed, Some(at(dnormed, 0)), at_mut(dx, 0), dnorm);
    }

    fn add_loss(&self, workspace: &Workspace<K>, rows: &K::Staged, accumulator: &mut K::Accumulator) {
        let log_probs = workspace.log_probs.as_ref().expect("`start` made room");
        self.kernels.add_loss(rows, at(log_probs, 0), accumulator);
    }

    fn backward(
        &self,
        workspace: &mut Workspace<K>,
        rows: &K::Staged,
        n: usize,
        dropout: Option<u64>,
        grads: &mut Grads<'_, K::Buffer>,
    ) {
        let (recompute, layers, h) = (workspace.recompute, self.layout.layers.len(), self.config.hidden_size);
        let Workspace { inputs, saved, scratch: Some(scratch), rope: Some(rope), dx: Some(dx), .. } = workspace else {
            unreachable!("`start` made room");
        };
        let pass = self.pass(rope, n, rows, dropout);
        pass.balance(scratch.experts.as_mut());
        for layer in (recompute.from..layers).rev() {
            let offsets = &self.layout.layers[layer];
            let saved = &mut saved[recompute.place(layer)];
            let (x, above) = pair(inputs, recompute.slot(layer), recompute.slot(layer + 1));
            // The last layer's activations are still there from the forward pass.
            if recompute.checkpoint && layer + 1 < layers {
                pass.layer(layer, offsets, x, saved, scratch, above, None);
            }
            let mut own = LayerGrads {
                weights: grads.weights,
                places: &grads.layout.layers[layer],
                adapter: grads.adapter.as_deref_mut(),
                beta: grads.beta,
            };
            let wants_dx = layer > recompute.from || grads.layout.embed.is_some();
            pass.layer_backward(layer, offsets, x, saved, scratch, dx, wants_dx, &mut own);
        }
        if let Some(place) = grads.layout.embed {
            // A tied embedding already holds the projection's gradient.
            if self.layout.head != self.layout.embed && grads.beta == 0.0 {
                self.kernels.zero(self.config.vocab_size * h, at_mut(grads.weights, place));
            }
            if let Some(factor) = self.config.embedding_scale {
                self.kernels.scale(n * h, factor, at_mut(dx, 0));
            }
            self.kernels.embed_backward(h, rows, at(dx, 0), at_mut(grads.weights, place));
        }
    }
}

/// Two of the buffers, one to read and one to write.
fn pair<B>(buffers: &mut [B], read: usize, write: usize) -> (&B, &mut B) {
    let [read, write] = buffers.get_disjoint_mut([read, write]).expect("neighbouring layers use different buffers");
    (read, write)
}
