//! Where each tensor lies in the flat arenas. Weights are laid out so that the projections that read the same input are
//! one matrix (query, key, value; gate, up); gradients and optimizer state hold the trained tensors only, in that order.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use super::config::ModelConfig;
use crate::kernels::Segment;

/// Elements that each matrix group starts at a multiple of: one cache line.
const ALIGNMENT: usize = 16;

/// The seven projections of a decoder layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinearKind {
    /// Queries.
    QProj,
    /// Keys.
    KProj,
    /// Values.
    VProj,
    /// Attention output.
    OProj,
    /// Gate of the feed-forward layer.
    GateProj,
    /// Input of the feed-forward layer.
    UpProj,
    /// Output of the feed-forward layer.
    DownProj,
}

impl LinearKind {
    /// All of them, in the order of the arena.
    pub const ALL: [Self; 7] =
        [Self::QProj, Self::KProj, Self::VProj, Self::OProj, Self::GateProj, Self::UpProj, Self::DownProj];

    /// The module's own name: what `lora_target_modules` says.
    pub fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }

    /// The module's path inside a layer.
    pub fn path(self) -> String {
        let parent = match self {
            Self::QProj | Self::KProj | Self::VProj | Self::OProj => "self_attn",
            Self::GateProj | Self::UpProj | Self::DownProj => "mlp",
        };
        format!("{parent}.{}", self.name())
    }

    /// The kind with this module name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Rows and columns of its weight.
    pub fn shape(self, config: &ModelConfig) -> (usize, usize) {
        let (h, ffn) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
        match self {
            Self::QProj => (q, h),
            Self::KProj | Self::VProj => (kv, h),
            Self::OProj => (h, q),
            Self::GateProj | Self::UpProj => (ffn, h),
            Self::DownProj => (h, ffn),
        }
    }
}

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
    /// Weight decay applies: all but norms and biases (transformers' `get_decay_parameter_names`).
    pub decays: bool,
}

/// First elements of a layer's weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerOffsets {
    /// Norm before attention.
    pub input_norm: usize,
    /// Query, key and value rows, one matrix.
    pub qkv: usize,
    /// Attention output.
    pub o: usize,
    /// Norm before the feed-forward layer.
    pub post_norm: usize,
    /// Gate and up rows, one matrix.
    pub gate_up: usize,
    /// Feed-forward output.
    pub down: usize,
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
    /// Output projection; the embedding where they are tied.
    pub head: usize,
    /// Elements of the arena.
    pub len: usize,
}

/// Builds an arena slot by slot.
struct Builder {
    slots: Vec<Slot>,
    len: usize,
}

impl Builder {
    fn align(&mut self) {
        self.len = self.len.next_multiple_of(ALIGNMENT);
    }

    fn add(&mut self, name: String, shape: &[usize], layer: Option<usize>, decays: bool) -> usize {
        let (offset, len) = (self.len, shape.iter().product());
        self.slots.push(Slot { name, shape: shape.to_vec(), offset, len, layer, decays });
        self.len += len;
        offset
    }
}

impl Layout {
    /// Lays out the weights of a model.
    pub fn new(config: &ModelConfig) -> Self {
        let mut arena = Builder { slots: Vec::new(), len: 0 };
        let (h, v) = (config.hidden_size, config.vocab_size);
        let embed = arena.add("model.embed_tokens.weight".into(), &[v, h], None, true);
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for layer in 0..config.num_hidden_layers {
            let mut offsets = LayerOffsets::default();
            let prefix = format!("model.layers.{layer}");
            let linear = |arena: &mut Builder, kind: LinearKind| {
                let (rows, columns) = kind.shape(config);
                arena.add(format!("{prefix}.{}.weight", kind.path()), &[rows, columns], Some(layer), true)
            };
            let norm = |arena: &mut Builder, name: &str| {
                arena.align();
                arena.add(format!("{prefix}.{name}.weight"), &[h], Some(layer), false)
            };
            offsets.input_norm = norm(&mut arena, "input_layernorm");
            arena.align();
            offsets.qkv = linear(&mut arena, LinearKind::QProj);
            linear(&mut arena, LinearKind::KProj);
            linear(&mut arena, LinearKind::VProj);
            arena.align();
            offsets.o = linear(&mut arena, LinearKind::OProj);
            offsets.post_norm = norm(&mut arena, "post_attention_layernorm");
            arena.align();
            offsets.gate_up = linear(&mut arena, LinearKind::GateProj);
            linear(&mut arena, LinearKind::UpProj);
            arena.align();
            offsets.down = linear(&mut arena, LinearKind::DownProj);
            layers.push(offsets);
        }
        arena.align();
        let norm = arena.add("model.norm.weight".into(), &[h], None, false);
        arena.align();
        let head =
            if config.tie_word_embeddings { embed } else { arena.add("lm_head.weight".into(), &[v, h], None, true) };
        let by_name = arena.slots.iter().enumerate().map(|(index, slot)| (slot.name.clone(), index)).collect();
        Self { slots: arena.slots, by_name, embed, layers, norm, head, len: arena.len }
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

/// First elements of a layer's gradients; none for a frozen tensor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerGradients {
    /// Norm before attention.
    pub input_norm: Option<usize>,
    /// Norm before the feed-forward layer.
    pub post_norm: Option<usize>,
    /// The projections, in the order of [`LinearKind::ALL`].
    pub linears: [Option<usize>; 7],
}

/// The gradient arena: the trained tensors of a weight arena, without gaps.
#[derive(Debug, Clone, Default)]
pub struct GradientLayout {
    /// Trained tensors: index into the slots, and first element of the gradient.
    pub trained: Vec<(usize, usize)>,
    /// Neighbours with one rule of decay, joined.
    pub segments: Vec<Segment>,
    /// Per layer, where its gradients are.
    pub layers: Vec<LayerGradients>,
    /// All of the layers' gradients, and nothing else.
    pub layers_span: Range<usize>,
    /// Embedding.
    pub embed: Option<usize>,
    /// Last norm.
    pub norm: Option<usize>,
    /// Output projection, where it is not the embedding.
    pub head: Option<usize>,
    /// Elements of the arena.
    pub len: usize,
}

impl GradientLayout {
    /// Gradients for the tensors whose names are in `trained`, or for all.
    pub fn new(layout: &Layout, layers: usize, trained: Option<&BTreeSet<String>>) -> Self {
        let mut all = Self { layers: vec![LayerGradients::default(); layers], ..Self::default() };
        for (index, slot) in layout.slots.iter().enumerate() {
            if trained.is_some_and(|trained| !trained.contains(&slot.name)) {
                continue;
            }
            let gradient = all.len;
            all.trained.push((index, gradient));
            all.len += slot.len;
            match all.segments.last_mut() {
                Some(last)
                    if last.decays == slot.decays
                        && last.parameter + last.len == slot.offset
                        && last.gradient + last.len == gradient =>
                {
                    last.len += slot.len;
                }
                _ => {
                    all.segments.push(Segment { parameter: slot.offset, gradient, len: slot.len, decays: slot.decays });
                }
            }
            let place = Some(gradient);
            match slot.layer {
                None if slot.name == "model.embed_tokens.weight" => all.embed = place,
                None if slot.name == "model.norm.weight" => all.norm = place,
                None => all.head = place,
                Some(layer) => {
                    if all.layers_span.is_empty() {
                        all.layers_span.start = gradient;
                    }
                    all.layers_span.end = all.len;
                    let own = &mut all.layers[layer];
                    let module = slot.name.trim_end_matches(".weight").rsplit('.').next().unwrap_or_default();
                    match LinearKind::from_name(module) {
                        Some(kind) => own.linears[kind as usize] = place,
                        None if module == "input_layernorm" => own.input_norm = place,
                        None => own.post_norm = place,
                    }
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
            assert_eq!(k.offset, layout.layers[1].qkv + 64);
            let up = layout.slot("model.layers.1.mlp.up_proj.weight").unwrap();
            assert_eq!(up.offset, layout.layers[1].gate_up + 96);
            assert_eq!(layout.head == layout.embed, tied);
        }
    }

    #[test]
    fn frozen_tensors_have_no_gradient() {
        let layout = Layout::new(&config(false));
        let trained = ["model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.gate_proj.weight", "lm_head.weight"];
        let gradients = GradientLayout::new(&layout, 2, Some(&trained.map(String::from).into()));
        assert_eq!(gradients.len, 2 * 96 + 80);
        assert_eq!(gradients.segments.len(), 2);
        assert_eq!(gradients.lowest(), 2);
        assert_eq!(GradientLayout::new(&layout, 2, None).lowest(), 0);
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
