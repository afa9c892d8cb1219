//! Where each tensor lies in the flat arenas. Weights are laid out so that the projections that read the same input are
//! one matrix (query, key, value; gate, up); gradients and optimizer state hold the trained tensors only, in that order.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use super::config::{ModelConfig, Quantization};
use super::tensors::{ExpertKind, ExpertTensor, LinearKind, NormKind, Role, TensorSpec};
use crate::kernels::Packed;

/// Elements that each matrix group starts at a multiple of: one cache line.
const ALIGNMENT: usize = 16;

/// One tensor of an arena.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// As transformers or PEFT names it.
    pub name: String,
    /// As transformers or PEFT stores it, row-major.
    pub shape: Vec<usize>,
    /// First element in the arena.
    pub offset: usize,
    /// Elements.
    pub len: usize,
    /// Decoder layer it belongs to.
    pub layer: Option<usize>,
    /// What it is to the model; none for a tensor of an adapter.
    pub role: Option<Role>,
}

impl Slot {
    /// Weight decay applies.
    pub fn decays(&self) -> bool {
        self.role.is_none_or(Role::decays)
    }
}

/// First elements of a unit's weights and biases, each one matrix and one row of all its projections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnitOffsets {
    /// Weights, `[out, in]`.
    pub weight: usize,
    /// Biases, `[out]`.
    pub bias: Option<usize>,
}

/// First elements of the weights of a layer's router and experts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExpertOffsets {
    /// The router, `[experts, hidden_size]`.
    pub router: usize,
    /// Gates and inputs, `[experts, 2 * width, hidden_size]`.
    pub gate_up: usize,
    /// Outputs, `[experts, hidden_size, width]`.
    pub down: usize,
}

/// First elements of a layer's weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerOffsets {
    /// Norms, where it has them, in the order of [`NormKind`].
    pub norms: [Option<usize>; NormKind::COUNT],
    /// The projections, in the order of `Unit::ALL`; those of a feed-forward layer mean nothing where there are experts.
    pub units: [UnitOffsets; 4],
    /// The activation's own numbers, in the order of `XieluWeight::ALL`, where it has some.
    pub activation: Option<usize>,
    /// Router and experts, where it has them.
    pub experts: Option<ExpertOffsets>,
    /// Projections that are packed, in the order of `LinearKind::ALL`; their weights are not in the arena.
    pub packed: [Option<Packed>; LinearKind::ALL.len()],
}

/// A tensor that is packed: it lies in the buffer of words, not in the arena.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedSlot {
    /// As transformers names it.
    pub name: String,
    /// Where it lies.
    pub packed: Packed,
}

/// Where a projection's weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// From this element of the arena on.
    At(usize),
    /// In the buffer of words.
    Packed(Packed),
}

/// The weight arena.
#[derive(Debug, Clone)]
pub struct Layout {
    slots: Vec<Slot>,
    by_name: HashMap<String, usize>,
    /// Embedding.
    pub embed: usize,
    /// Decoder layers.
    pub layers: Vec<LayerOffsets>,
    /// Last norm.
    pub norm: usize,
    /// Output projection, or the head of scores; the embedding where they are tied.
    pub head: usize,
    /// Bias of the head of scores, where it has one.
    pub head_bias: Option<usize>,
    /// Elements of the arena.
    pub len: usize,
    /// Tensors that are packed.
    pub packed: Vec<PackedSlot>,
    /// Words of the buffer that they lie in.
    pub words: usize,
}

impl Layout {
    /// Lays out the weights of a model: the embedding, the layers one after the other, and what follows them.
    pub fn new(config: &ModelConfig) -> Self {
        let mut specs = config.parameters();
        let place = |spec: &TensorSpec| (section(spec, config.num_hidden_layers), spec.role.place());
        // Stable: tensors of one place stay in the order of the list.
        specs.sort_by_key(place);
        let mut layout = Self {
            slots: Vec::with_capacity(specs.len()),
            by_name: HashMap::with_capacity(specs.len()),
            embed: 0,
            layers: vec![LayerOffsets::default(); config.num_hidden_layers],
            norm: 0,
            head: 0,
            head_bias: None,
            len: 0,
            packed: Vec::new(),
            words: 0,
        };
        let mut before = None;
        for spec in specs {
            if let (Role::Linear(kind), Some(layer), Some(quantization)) = (spec.role, spec.layer, config.quantization)
            {
                layout.pack(spec.name, kind, layer, quantization, config);
                continue;
            }
            let here = Some(place(&spec));
            let is_first = before != here;
            before = here;
            if is_first {
                layout.len = layout.len.next_multiple_of(ALIGNMENT);
            }
            let offset = layout.len;
            layout.len += spec.shape.iter().product::<usize>();
            if is_first {
                layout.note(&spec, offset);
            }
            layout.by_name.insert(spec.name.clone(), layout.slots.len());
            let TensorSpec { role, layer, name, shape } = spec;
            layout.slots.push(Slot { name, shape, offset, len: layout.len - offset, layer, role: Some(role) });
        }
        if config.tie_word_embeddings && config.scores.is_none() {
            layout.head = layout.embed;
        }
        layout
    }

    /// Lays out a projection that is packed.
    fn pack(&mut self, name: String, kind: LinearKind, layer: usize, quantization: Quantization, config: &ModelConfig) {
        let Quantization { packing, is_nested } = quantization;
        let (rows, columns) = kind.shape(config);
        let (packed, end) = Packed::new(packing, [rows, columns], is_nested, self.words);
        // As much as the widest loads take.
        self.words = end.next_multiple_of(ALIGNMENT);
        self.layers[layer].packed[kind as usize] = Some(packed);
        self.packed.push(PackedSlot { name, packed });
    }

    /// Keeps where the first tensor of a place begins.
    fn note(&mut self, spec: &TensorSpec, offset: usize) {
        let layer = spec.layer.map(|layer| &mut self.layers[layer]);
        match (spec.role, layer) {
            (Role::Embedding, _) => self.embed = offset,
            (Role::FinalNorm, _) => self.norm = offset,
            (Role::Head | Role::Score, _) => self.head = offset,
            (Role::ScoreBias, _) => self.head_bias = Some(offset),
            (Role::Norm(kind), Some(own)) => own.norms[kind as usize] = Some(offset),
            (Role::Linear(kind), Some(own)) => own.units[kind.unit() as usize].weight = offset,
            (Role::Bias(kind), Some(own)) => own.units[kind.unit() as usize].bias = Some(offset),
            (Role::Activation(_), Some(own)) => own.activation = Some(offset),
            (Role::Router, Some(own)) => own.experts.get_or_insert_default().router = offset,
            (Role::Expert(_, ExpertKind::Down) | Role::Experts(ExpertTensor::Down), Some(own)) => {
                own.experts.get_or_insert_default().down = offset;
            }
            (Role::Expert(..) | Role::Experts(_), Some(own)) => own.experts.get_or_insert_default().gate_up = offset,
            (
                Role::Norm(_)
                | Role::Linear(_)
                | Role::Bias(_)
                | Role::Activation(_)
                | Role::Router
                | Role::Expert(..)
                | Role::Experts(_),
                None,
            ) => {
                unreachable!("`{}` belongs to a layer", spec.name)
            }
        }
    }

    /// Where the weights of one projection are.
    pub fn linear(&self, config: &ModelConfig, layer: usize, kind: LinearKind) -> Weight {
        let offsets = &self.layers[layer];
        if let Some(packed) = offsets.packed[kind as usize] {
            return Weight::Packed(packed);
        }
        let before = kind.unit().kinds(config).iter().take_while(|&&other| other != kind);
        let elements = |other: &LinearKind| other.shape(config).0 * other.shape(config).1;
        Weight::At(offsets.units[kind.unit() as usize].weight + before.map(elements).sum::<usize>())
    }

    /// Every tensor, in the order of the arena.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The tensor of this name.
    pub fn slot(&self, name: &str) -> Option<&Slot> {
        self.index(name).map(|index| &self.slots[index])
    }

    /// Which of the tensors has this name.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }
}

/// Gradients of experts in a tensor of all of them, `[experts, out, in]`, whose first element is `place`.
fn each_expert(
    tensor: ExpertTensor,
    shape: &[usize],
    place: usize,
) -> impl Iterator<Item = (usize, ExpertKind, usize)> {
    let kinds: &[ExpertKind] = match tensor {
        ExpertTensor::GateUp => &[ExpertKind::Gate, ExpertKind::Up],
        ExpertTensor::Down => &[ExpertKind::Down],
    };
    let len = shape[1] * shape[2] / kinds.len();
    let of = move |expert: usize| {
        let part =
            move |(index, &kind): (usize, &ExpertKind)| (expert, kind, place + (expert * kinds.len() + index) * len);
        kinds.iter().enumerate().map(part)
    };
    (0..shape[0]).flat_map(of)
}

/// Which part of the arena a tensor is in: what precedes the layers, one of them, or what follows.
fn section(spec: &TensorSpec, layers: usize) -> usize {
    match (spec.role, spec.layer) {
        (_, Some(layer)) => layer + 1,
        (Role::Embedding, None) => 0,
        (_, None) => layers + 1,
    }
}

/// First elements of a layer's gradients; none for a frozen tensor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerGradients {
    /// Norms, in the order of [`NormKind`].
    pub norms: [Option<usize>; NormKind::COUNT],
    /// The projections' weights, in the order of `LinearKind::ALL`.
    pub linears: [Option<usize>; LinearKind::ALL.len()],
    /// The projections' biases, in the same order.
    pub biases: [Option<usize>; LinearKind::ALL.len()],
    /// The activation's own weights, the two that are trained.
    pub activation: [Option<usize>; 2],
    /// The router's weight.
    pub router: Option<usize>,
    /// Experts' weights that are trained: which, and the first element of its gradient, in the order of the arena.
    pub experts: Vec<(usize, ExpertKind, usize)>,
}

/// The gradient arena: the trained tensors of a weight arena, without gaps.
#[derive(Debug, Clone, Default)]
pub struct GradientLayout {
    /// Trained tensors: index into the slots, and first element of the gradient.
    pub trained: Vec<(usize, usize)>,
    /// Per layer, where its gradients are.
    pub layers: Vec<LayerGradients>,
    /// All of the layers' gradients, and nothing else.
    pub layers_span: Range<usize>,
    /// Embedding.
    pub embed: Option<usize>,
    /// Last norm.
    pub norm: Option<usize>,
    /// Output projection, where it is not the embedding, or the head of scores.
    pub head: Option<usize>,
    /// Bias of the head of scores.
    pub head_bias: Option<usize>,
    /// Elements of the arena.
    pub len: usize,
}

impl GradientLayout {
    /// Gradients for the tensors whose names are in `trained`, or for all, but for constants.
    pub fn new(layout: &Layout, layers: usize, trained: Option<&BTreeSet<String>>) -> Self {
        Self::of(layout, layers, |slot| trained.is_none_or(|trained| trained.contains(&slot.name)))
    }

    /// Gradients for the tensors that are picked.
    pub fn of(layout: &Layout, layers: usize, is_trained: impl Fn(&Slot) -> bool) -> Self {
        let mut all = Self { layers: vec![LayerGradients::default(); layers], ..Self::default() };
        for (index, slot) in layout.slots.iter().enumerate() {
            if slot.role.is_some_and(Role::is_constant) || !is_trained(slot) {
                continue;
            }
            let gradient = all.len;
            all.trained.push((index, gradient));
            all.len += slot.len;
            if let Some(layer) = slot.layer {
                if all.layers_span.is_empty() {
                    all.layers_span.start = gradient;
                }
                all.layers_span.end = all.len;
                let own = &mut all.layers[layer];
                match slot.role {
                    Some(Role::Linear(kind)) => own.linears[kind as usize] = Some(gradient),
                    Some(Role::Bias(kind)) => own.biases[kind as usize] = Some(gradient),
                    Some(Role::Norm(kind)) => own.norms[kind as usize] = Some(gradient),
                    Some(Role::Activation(weight)) => own.activation[weight as usize] = Some(gradient),
                    Some(Role::Router) => own.router = Some(gradient),
                    Some(Role::Expert(expert, kind)) => own.experts.push((expert, kind, gradient)),
                    Some(Role::Experts(tensor)) => own.experts.extend(each_expert(tensor, &slot.shape, gradient)),
                    Some(Role::Embedding | Role::FinalNorm | Role::Head | Role::Score | Role::ScoreBias) | None => {
                        unreachable!("`{}` belongs to no layer", slot.name)
                    }
                }
                continue;
            }
            match slot.role {
                Some(Role::Embedding) => all.embed = Some(gradient),
                Some(Role::FinalNorm) => all.norm = Some(gradient),
                Some(Role::Head | Role::Score) => all.head = Some(gradient),
                Some(Role::ScoreBias) => all.head_bias = Some(gradient),
                Some(
                    Role::Linear(_)
                    | Role::Bias(_)
                    | Role::Norm(_)
                    | Role::Activation(_)
                    | Role::Router
                    | Role::Expert(..)
                    | Role::Experts(_),
                )
                | None => {
                    unreachable!("`{}` belongs to a layer", slot.name)
                }
            }
        }
        all
    }

    /// The lowest layer in which anything is trained, counted so that the embedding is 0 and layer `i` is `i + 1`;
    /// `layers + 1` if only what follows the layers is.
    pub fn lowest(&self) -> usize {
        if self.embed.is_some() {
            return 0;
        }
        let trains = |layer: &LayerGradients| *layer != LayerGradients::default();
        self.layers.iter().position(trains).unwrap_or(self.layers.len()) + 1
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(tied: bool) -> ModelConfig {
        let text = format!(
            r#"{{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "intermediate_size": 12,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 10,
            "rms_norm_eps": 1e-5, "max_position_embeddings": 32, "hidden_act": "silu", "tie_word_embeddings": {tied}}}"#
        );
        ModelConfig::from_json(&text, Path::new("config.json")).unwrap()
    }

    #[test]
    fn holds_every_parameter_once_and_packs_projections() {
        for tied in [true, false] {
            let (config, layout) = (config(tied), Layout::new(&config(tied)));
            for spec in config.parameters() {
                assert_eq!(layout.slot(&spec.name).unwrap().shape, spec.shape, "{}", spec.name);
            }
            assert_eq!(layout.slots().len(), config.parameters().len());
            for pair in layout.slots().windows(2) {
                assert!(pair[0].offset + pair[0].len <= pair[1].offset);
            }
            let k = layout.slot("model.layers.1.self_attn.k_proj.weight").unwrap();
            assert_eq!(k.offset, layout.layers[1].units[0].weight + 64);
            let up = layout.slot("model.layers.1.mlp.up_proj.weight").unwrap();
            assert_eq!(up.offset, layout.layers[1].units[2].weight + 96);
            assert_eq!(layout.head == layout.embed, tied);
        }
    }

    #[test]
    fn frozen_tensors_have_no_gradient() {
        let layout = Layout::new(&config(false));
        let trained = ["model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.gate_proj.weight", "lm_head.weight"];
        let gradients = GradientLayout::new(&layout, 2, Some(&trained.map(String::from).into()));
        assert_eq!(gradients.len, 2 * 96 + 80);
        assert_eq!(gradients.lowest(), 2);
        assert_eq!(GradientLayout::new(&layout, 2, None).lowest(), 0);
    }

    fn experts() -> ModelConfig {
        let text = r#"{"architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3,
            "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 10, "num_experts": 3, "num_experts_per_tok": 2,
            "moe_intermediate_size": 5, "mlp_only_layers": [1]}"#;
        ModelConfig::from_json(text, Path::new("config.json")).unwrap()
    }

    #[test]
    fn experts_of_a_layer_follow_each_other() {
        let (config, layout) = (experts(), Layout::new(&experts()));
        for spec in config.parameters() {
            assert_eq!(layout.slot(&spec.name).unwrap().shape, spec.shape, "{}", spec.name);
        }
        for pair in layout.slots().windows(2) {
            assert!(pair[0].offset + pair[0].len <= pair[1].offset);
        }
        assert_eq!(layout.layers[1].experts, None);
        let own = layout.layers[2].experts.unwrap();
        let at = |name: &str| layout.slot(&format!("model.layers.2.mlp.{name}.weight")).unwrap().offset;
        assert_eq!(at("gate"), own.router);
        for expert in 0..3 {
            assert_eq!(at(&format!("experts.{expert}.gate_proj")), own.gate_up + expert * 80);
            assert_eq!(at(&format!("experts.{expert}.up_proj")), own.gate_up + expert * 80 + 40);
            assert_eq!(at(&format!("experts.{expert}.down_proj")), own.down + expert * 40);
        }
        let trained = ["model.layers.2.mlp.experts.1.up_proj.weight", "model.layers.2.mlp.gate.weight"];
        let gradients = GradientLayout::new(&layout, 3, Some(&trained.map(String::from).into()));
        assert_eq!((gradients.len, gradients.lowest()), (24 + 40, 3));
        assert_eq!(gradients.layers[2].router, Some(0));
        assert_eq!(gradients.layers[2].experts, [(1, ExpertKind::Up, 24)]);
    }

    #[test]
    fn the_span_of_the_layers_holds_their_gradients_and_nothing_else() {
        for tied in [true, false] {
            let layout = Layout::new(&config(tied));
            let gradients = GradientLayout::new(&layout, 2, None);
            for &(index, place) in &gradients.trained {
                let slot = &layout.slots[index];
                let (span, end) = (&gradients.layers_span, place + slot.len);
                if slot.layer.is_some() {
                    assert!(span.start <= place && end <= span.end, "{}", slot.name);
                } else {
                    assert!(end <= span.start || span.end <= place, "{}", slot.name);
                }
            }
            let only = ["model.norm.weight"].map(String::from).into();
            assert!(GradientLayout::new(&layout, 2, Some(&only)).layers_span.is_empty());
        }
    }
}
