//! LoRA (Hu et al., "LoRA: low-rank adaptation of large language models"): `y += s * B(A(dropout(x)))` beside a frozen
//! projection. `A [r, in]` and `B [out, r]` of all layers share one arena; the `A`s of projections that read the same
//! input are neighbours, so that without dropout they are one product.

use std::collections::BTreeMap;

use super::magnitude::{Lengths, MAGNITUDE, Magnitude};
use super::modules::{HEAD, Modules, Saved, expert_parameters, full_name};
use super::scratch::AdapterScratch;
use crate::architecture::config::ModelConfig;
use crate::architecture::layout::Slot;
use crate::architecture::tensors::{ExpertParameter, ExpertTensor, LinearKind, Unit};
use crate::kernels::{DropoutKey, Format, Gemm, Kernels, Precision, View, ViewMut, at, at_mut};
use crate::rng;

/// What is adapted, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Share of inputs of `A` that are dropped in training.
    pub dropout: f64,
    /// Scale by `alpha / sqrt(r)` instead of `alpha / r` (Kalajdzievski, "A rank stabilization scaling factor").
    pub use_rslora: bool,
    /// Train the length of each row of the adapted weights too; see [`super::dora`].
    pub use_dora: bool,
    /// What gets an adapter.
    pub modules: Modules,
    /// The model's own weights that are trained and saved with the adapter.
    pub saved: Saved,
    /// Ranks of modules whose rank is not `r`, by their full names (PEFT's `rank_pattern`).
    pub ranks: BTreeMap<String, usize>,
    /// The same of `alpha` (PEFT's `alpha_pattern`).
    pub alphas: BTreeMap<String, f64>,
}

impl LoraConfig {
    /// Rank of a module, and the factor of its adapter's output.
    pub fn of(&self, module: &str) -> (usize, f64) {
        let r = self.ranks.get(module).copied().unwrap_or(self.r);
        let alpha = self.alphas.get(module).copied().unwrap_or(self.alpha);
        let rank = r as f64;
        (r, alpha / if self.use_rslora { rank.sqrt() } else { rank })
    }
}

/// Where the adapter of one module lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// First element of `A`.
    pub a: usize,
    /// First element of `B`.
    pub b: usize,
    /// Rank.
    pub r: usize,
    /// Factor of its output.
    pub scale: f32,
    /// Where the lengths of its rows lie, with DoRA.
    pub magnitude: Option<Magnitude>,
    /// First column of its `A(x)` in the layer's row.
    column: usize,
}

/// The adapter: config, places and arena.
#[derive(Debug)]
pub struct Lora<B> {
    config: LoraConfig,
    slots: Vec<Slot>,
    places: Vec<[Option<Place>; LinearKind::ALL.len()]>,
    /// Those of experts, in the order of `ExpertTensor::ALL`: `A [rank * experts, in]` has each expert's rows together, `B [out,
    /// rank * experts]` the columns of one rank of all experts.
    experts: Vec<[Option<Place>; ExpertTensor::ALL.len()]>,
    /// Those of routers.
    routers: Vec<Option<Place>>,
    /// That of the output projection.
    head: Option<Place>,
    width: usize,
    /// The arena.
    pub params: B,
    /// The same in f32, where `params` are rounded.
    pub master: Option<B>,
    /// The lengths of the rows of what is adapted, with DoRA.
    pub(super) lengths: Option<Lengths<B>>,
}

/// An adapter that has no memory yet.
pub(crate) struct Plan {
    config: LoraConfig,
    /// Every tensor, PEFT's names, in the order of the arena.
    pub(crate) slots: Vec<Slot>,
    places: Vec<[Option<Place>; LinearKind::ALL.len()]>,
    experts: Vec<[Option<Place>; ExpertTensor::ALL.len()]>,
    routers: Vec<Option<Place>>,
    head: Option<Place>,
    width: usize,
    /// Rows of what is adapted, with DoRA.
    rows: usize,
    /// Elements of the arena.
    pub(super) len: usize,
}

/// What a training pass draws at random.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DropoutPass {
    /// Of the run.
    pub seed: u64,
    /// Optimizer steps done and micro-batch within the step: the same masks after a resume.
    pub step: u64,
    /// See `step`.
    pub micro_batch: u32,
    /// Noise of the embedding; see [`TrainerOptions::neftune`](crate::TrainerOptions::neftune).
    pub noise: Option<f64>,
}

impl DropoutPass {
    /// Random bits that no other pass of the run has.
    pub fn bits(&self) -> u64 {
        let stream = rng::stream_of(&format!("dropout {}", self.micro_batch));
        let [low, high, ..] = rng::block(self.seed, stream, self.step);
        u64::from(high) << 32 | u64::from(low)
    }

    /// Size of the noise of each token of documents.
    pub fn noise_of(&self, doc_lens: &[u32], config: &ModelConfig) -> Option<Vec<f32>> {
        let scale = config.embedding_scale.filter(|_| config.scales_noise).unwrap_or(1.0);
        let (alpha, h) = (self.noise? * f64::from(scale), config.hidden_size);
        let document = |&len: &u32| {
            let size = alpha / (f64::from(len) * h as f64).sqrt();
            std::iter::repeat_n(size as f32, len as usize)
        };
        Some(doc_lens.iter().flat_map(document).collect())
    }
}

/// The adapters of a unit of projections in one pass.
#[derive(Debug, Clone, Copy)]
pub struct UnitPass<'a, S> {
    /// The rows of the pass.
    pub rows: &'a S,
    /// Decoder layer.
    pub layer: usize,
    /// Which projections.
    pub unit: Unit,
    /// Tokens.
    pub n: usize,
    /// Width of the input.
    pub input: usize,
    /// Elements from one row of the output to the next.
    pub stride: usize,
    /// Factor of the output, of the projection and of what is beside it.
    pub alpha: f32,
    /// The seed of dropout, in training.
    pub dropout: Option<u64>,
    /// Sizes of the model.
    pub config: &'a ModelConfig,
}

/// An adapted projection of a unit.
#[derive(Debug, Clone, Copy)]
struct Member {
    kind: LinearKind,
    place: Place,
    /// First column of its output, and how many there are.
    column: usize,
    out: usize,
}

impl Plan {
    /// Lays an adapter out. Of one that is larger than any memory, sizes are only known to be so.
    pub(crate) fn new(model: &ModelConfig, config: LoraConfig) -> Self {
        let mut slots: Vec<Slot> = Vec::new();
        let mut places = Vec::new();
        let mut experts = vec![[None; ExpertTensor::ALL.len()]; model.num_hidden_layers];
        let mut routers = vec![None; model.num_hidden_layers];
        let (mut len, mut width, mut scaled_rows) = (0_usize, 0, 0);
        let mut add = |module: &str, part: &str, shape: &[usize], layer: Option<usize>| {
            let name = format!("base_model.model.{module}.{part}");
            let (offset, elements) = (len, shape.iter().fold(1, |len: usize, &side| len.saturating_mul(side)));
            slots.push(Slot { name, shape: shape.to_vec(), offset, len: elements, layer, role: None });
            len = len.saturating_add(elements);
            offset
        };
        for layer in 0..model.num_hidden_layers {
            let mut own = [None; LinearKind::ALL.len()];
            let mut column = 0;
            for unit in Unit::ALL {
                let is_adapted = |kind: &LinearKind| kind.unit() == unit && config.modules.has(layer, *kind);
                let kinds = model.adaptable_in(layer).filter(is_adapted);
                let kinds: Vec<(LinearKind, String)> =
                    kinds.map(|kind| (kind, full_name(model, layer, kind))).collect();
                let mut first = Vec::new();
                for (kind, module) in &kinds {
                    let shape = [config.of(module).0, kind.shape(model).1];
                    first.push(add(module, "lora_A.weight", &shape, Some(layer)));
                }
                for ((kind, module), a) in kinds.iter().zip(first) {
                    let ((r, scale), out) = (config.of(module), kind.shape(model).0);
                    let b = add(module, "lora_B.weight", &[out, r], Some(layer));
                    let magnitude = config.use_dora.then(|| {
                        let magnitude = Magnitude { m: add(module, MAGNITUDE, &[out], Some(layer)), norm: scaled_rows };
                        scaled_rows += out;
                        magnitude
                    });
                    own[*kind as usize] = Some(Place { a, b, r, scale: scale as f32, magnitude, column });
                    column += r;
                }
            }
            width = width.max(column);
            places.push(own);
        }
        for (layer, parameter, name) in expert_parameters(model) {
            let Some(of_layer) = model.experts_of(layer).filter(|_| config.modules.has_parameter(layer, parameter))
            else {
                continue;
            };
            let (r, scale) = config.of(&name);
            let parent = name.rsplit_once('.').map_or("", |(parent, _)| parent);
            let (module, [out, input], count) = match parameter {
                ExpertParameter::Router => (parent.to_owned(), [of_layer.count, model.hidden_size], 1),
                ExpertParameter::Experts(tensor) => {
                    // PEFT puts the module of one tensor's adapter around that of the other.
                    let outer = ExpertParameter::Experts(ExpertTensor::Down);
                    let is_inside = tensor == ExpertTensor::GateUp && config.modules.has_parameter(layer, outer);
                    let module = if is_inside { format!("{parent}.base_layer") } else { parent.to_owned() };
                    (module, tensor.shape(model, of_layer), of_layer.count)
                }
            };
            let all = r.saturating_mul(count);
            let a = add(&module, "lora_A.weight", &[all, input], Some(layer));
            let b = add(&module, "lora_B.weight", &[out, all], Some(layer));
            let place = Some(Place { a, b, r, scale: scale as f32, magnitude: None, column: 0 });
            match parameter {
                ExpertParameter::Router => routers[layer] = place,
                ExpertParameter::Experts(tensor) => experts[layer][tensor as usize] = place,
            }
        }
        let head = config.modules.has_head().then(|| {
            let (r, scale) = config.of(HEAD);
            let a = add(HEAD, "lora_A.weight", &[r, model.hidden_size], None);
            let b = add(HEAD, "lora_B.weight", &[model.vocab_size, r], None);
            width = width.max(r);
            Place { a, b, r, scale: scale as f32, magnitude: None, column: 0 }
        });
        Self { config, slots, places, experts, routers, head, width, rows: scaled_rows, len }
    }
}

impl<B> Lora<B> {
    /// Lays an adapter out and gives it PEFT's start: `A` uniform within `sqrt(6 / ((1 + 5) * in))` (Kaiming with
    /// `a = sqrt(5)`), `B` zero.
    pub fn new<K: Kernels<Buffer = B>>(kernels: &K, model: &ModelConfig, config: LoraConfig, seed: u64) -> Self {
        let mut lora = Self::zeroed(kernels, model, config);
        let start = |slot: &Slot| {
            let bound = (1.0 / slot.shape[1] as f64).sqrt() as f32;
            let stream = rng::stream_of(&slot.name);
            let word = |index: usize| rng::block(seed, stream, index as u64 / 4)[index % 4];
            let values: Vec<f32> = (0..slot.len).map(|index| (2.0 * rng::uniform(word(index)) - 1.0) * bound).collect();
            values
        };
        let slots = lora.slots.clone();
        for slot in slots.iter().filter(|slot| slot.name.contains(".lora_A.")) {
            lora.put(kernels, slot, &start(slot));
        }
        lora
    }

    /// Overwrites one of the adapter's tensors.
    pub fn put<K: Kernels<Buffer = B>>(&mut self, kernels: &K, slot: &Slot, values: &[f32]) {
        for buffer in std::iter::once(&mut self.params).chain(&mut self.master) {
            kernels.upload(values, at_mut(buffer, slot.offset));
        }
        self.outdate();
    }

    /// What was measured of the adapter is not true of it any more.
    pub(crate) fn outdate(&mut self) {
        if let Some(lengths) = &mut self.lengths {
            lengths.outdate();
        }
    }

    /// A copy of one of the adapter's tensors.
    pub fn get<K: Kernels<Buffer = B>>(&self, kernels: &K, slot: &Slot) -> Vec<f32> {
        let mut values = vec![0.0; slot.len];
        kernels.download(at(self.master.as_ref().unwrap_or(&self.params), slot.offset), &mut values);
        values
    }

    /// Makes room for an adapter; `A` and `B` are zero.
    pub(crate) fn zeroed<K: Kernels<Buffer = B>>(kernels: &K, model: &ModelConfig, config: LoraConfig) -> Self {
        Self::on(kernels, model, Plan::new(model, config))
    }

    pub(crate) fn on<K: Kernels<Buffer = B>>(kernels: &K, model: &ModelConfig, plan: Plan) -> Self {
        let Plan { config, slots, places, experts, routers, head, width, rows, len } = plan;
        let master = (kernels.precision() != Precision::F32).then(|| kernels.alloc(Format::F32, len));
        let lengths = config.use_dora.then(|| Lengths::alloc(kernels, model, rows));
        let params = kernels.alloc(Format::Working, len);
        Self { config, slots, places, experts, routers, head, width, params, master, lengths }
    }

    /// Its buffers.
    pub fn buffers(&self) -> impl Iterator<Item = &B> {
        let lengths = self.lengths.iter().flat_map(Lengths::buffers);
        std::iter::once(&self.params).chain(&self.master).chain(lengths)
    }

    /// What it was made from.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// Every tensor, PEFT's names, in the order of the arena.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Elements of a row of kept `A(x)`.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Elements of the arena.
    pub fn len(&self) -> usize {
        self.slots.last().map_or(0, |slot| slot.offset + slot.len)
    }

    /// True for an adapter of nothing.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The lowest adapted layer, counted as in `GradientLayout::lowest`.
    pub fn lowest(&self) -> usize {
        let is_adapted = |layer: &usize| {
            let parameters = self.experts[*layer].iter().chain(&self.routers[*layer..=*layer]);
            self.places[*layer].iter().chain(parameters).any(Option::is_some)
        };
        (0..self.places.len()).find(is_adapted).unwrap_or(self.places.len()) + 1
    }

    /// Where the adapter of a projection lies, where it has one.
    pub fn place(&self, layer: usize, kind: LinearKind) -> Option<Place> {
        self.places[layer][kind as usize]
    }

    /// Where the adapter of a layer's experts lies, where it has one.
    pub fn expert_place(&self, layer: usize, tensor: ExpertTensor) -> Option<Place> {
        self.experts[layer][tensor as usize]
    }

    /// Where the adapter of a layer's router lies, where it has one.
    pub fn router_place(&self, layer: usize) -> Option<Place> {
        self.routers[layer]
    }

    /// The largest rank of the adapters of experts and routers; 0 where there are none.
    pub(crate) fn expert_rank(&self) -> usize {
        self.experts.iter().flatten().chain(&self.routers).flatten().map(|place| place.r).max().unwrap_or(0)
    }

    /// Where that of the output projection lies, where it has one.
    pub fn head(&self) -> Option<Place> {
        self.head
    }

    fn members<S>(&self, pass: &UnitPass<'_, S>) -> Vec<Member> {
        let mut members = Vec::with_capacity(3);
        let mut column = 0;
        for &kind in pass.unit.kinds(pass.config) {
            let out = kind.shape(pass.config).0;
            let place = self.places[pass.layer][kind as usize];
            members.extend(place.map(|place| Member { kind, place, column, out }));
            column += out;
        }
        members
    }

    /// In a pass with dropout: what a projection's dropout leaves of `from [n, input]` into `to`, or added to it.
    pub(crate) fn drop_into<K: Kernels<Buffer = B>>(
        &self,
        kernels: &K,
        pass: &UnitPass<'_, K::Staged>,
        kind: LinearKind,
        add: bool,
        from: &B,
        to: &mut B,
    ) {
        if let Some(key) = self.key(pass, kind) {
            kernels.dropout(pass.rows, pass.n * pass.input, key, add, at(from, 0), at_mut(to, 0));
        }
    }

    /// True if the pass drops inputs.
    pub(crate) fn drops<S>(&self, pass: &UnitPass<'_, S>) -> bool {
        pass.dropout.is_some() && self.config.dropout > 0.0
    }

    fn key<S>(&self, pass: &UnitPass<'_, S>, kind: LinearKind) -> Option<DropoutKey> {
        let seed = pass.dropout.filter(|_| self.config.dropout > 0.0)?;
        let stream = rng::stream_of(&format!("dropout {} {kind:?}", pass.layer));
        Some(DropoutKey { seed, stream, probability: self.config.dropout as f32 })
    }

    /// Adds the adapters' part to `y [n, stride]`; keeps `A(x)` in `kept [n, width]`.
    pub fn forward<K: Kernels<Buffer = B>>(
        &self,
        kernels: &K,
        pass: &UnitPass<'_, K::Staged>,
        x: &B,
        y: &mut B,
        kept: &mut B,
        scratch: &mut AdapterScratch<B>,
    ) {
        let members = self.members(pass);
        let Some(first) = members.first() else { return };
        let (n, input) = (pass.n, pass.input);
        let down = |rows: usize, x: View<'_, B>, a: usize, out: ViewMut<'_, B>| {
            let product = Gemm::new([n, rows, input], (false, true), [input, input, self.width], 0.0);
            kernels.gemm(product, x, at(&self.params, a), out);
        };
        if self.key(pass, first.kind).is_none() {
            down(ranks(&members), at(x, 0), first.place.a, at_mut(kept, first.place.column));
        }
        for &Member { kind, place, column, out } in &members {
            if let Some(key) = self.key(pass, kind) {
                kernels.dropout(pass.rows, n * input, key, false, at(x, 0), at_mut(&mut scratch.dropped, 0));
                down(place.r, at(&scratch.dropped, 0), place.a, at_mut(kept, place.column));
            }
            let leading = [self.width, place.r, pass.stride];
            let product = Gemm::new([n, out, place.r], (false, true), leading, 1.0);
            let product = Gemm { alpha: place.scale * pass.alpha, ..product };
            kernels.gemm(product, at(kept, place.column), at(&self.params, place.b), at_mut(y, column));
        }
    }

    /// Gradients of the adapters from that of their output, over `beta` times what they held. Leaves in `scratch` what
    /// [`Self::add_input_gradient`] needs.
    pub fn learn<K: Kernels<Buffer = B>>(
        &self,
        kernels: &K,
        pass: &UnitPass<'_, K::Staged>,
        x: &B,
        dy: &B,
        kept: &B,
        beta: f32,
        gradients: &mut B,
        scratch: &mut AdapterScratch<B>,
    ) {
        let members = self.members(pass);
        let Some(first) = members.first() else { return };
        let AdapterScratch { small, dropped, .. } = scratch;
        let (n, input, row) = (pass.n, pass.input, ranks(&members));
        let mut taken = 0;
        for &Member { place, column, out, .. } in &members {
            let (r, alpha) = (place.r, place.scale * pass.alpha);
            let through_b = Gemm { alpha, ..Gemm::new([n, r, out], (false, false), [pass.stride, r, row], 0.0) };
            kernels.gemm(through_b, at(dy, column), at(&self.params, place.b), at_mut(small, taken));
            let of_b = Gemm { alpha, ..Gemm::new([out, r, n], (true, false), [pass.stride, self.width, r], beta) };
            kernels.gemm(of_b, at(dy, column), at(kept, place.column), at_mut(gradients, place.b));
            taken += r;
        }
        let of_a = |rows: usize| Gemm::new([rows, input, n], (true, false), [row, input, input], beta);
        if self.key(pass, first.kind).is_none() {
            return kernels.gemm(of_a(row), at(small, 0), at(x, 0), at_mut(gradients, first.place.a));
        }
        let mut taken = 0;
        for &Member { kind, place, .. } in &members {
            let Some(key) = self.key(pass, kind) else { continue };
            kernels.dropout(pass.rows, n * input, key, false, at(x, 0), at_mut(dropped, 0));
            kernels.gemm(of_a(place.r), at(small, taken), at(dropped, 0), at_mut(gradients, place.a));
            taken += place.r;
        }
    }

    /// Adds the gradient of the adapters' input to `dx [n, input]`, behind [`Self::learn`].
    pub fn add_input_gradient<K: Kernels<Buffer = B>>(
        &self,
        kernels: &K,
        pass: &UnitPass<'_, K::Staged>,
        dx: &mut B,
        scratch: &mut AdapterScratch<B>,
    ) {
        let members = self.members(pass);
        let Some(first) = members.first() else { return };
        let AdapterScratch { small, spread, .. } = scratch;
        let (n, input, row) = (pass.n, pass.input, ranks(&members));
        let through_a = |rows: usize, beta: f32| Gemm::new([n, input, rows], (false, false), [row, input, input], beta);
        if self.key(pass, first.kind).is_none() {
            return kernels.gemm(through_a(row, 1.0), at(small, 0), at(&self.params, first.place.a), at_mut(dx, 0));
        }
        let mut taken = 0;
        for &Member { kind, place, .. } in &members {
            let Some(key) = self.key(pass, kind) else { continue };
            kernels.gemm(through_a(place.r, 0.0), at(small, taken), at(&self.params, place.a), at_mut(spread, 0));
            kernels.dropout(pass.rows, n * input, key, true, at(spread, 0), at_mut(dx, 0));
            taken += place.r;
        }
    }
}

/// Columns that the `A(x)` of a unit take together.
fn ranks(members: &[Member]) -> usize {
    members.iter().map(|member| member.place.r).sum()
}
