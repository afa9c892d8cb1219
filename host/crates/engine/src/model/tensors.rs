//! The tensors of a model: what each of them is, and its name and shape in a checkpoint. The one list from which the loader, the
//! weight arena, gradients, a random start, weight decay, export and the names of adapters follow. Whoever needs to know what a
//! tensor is matches on its [`Role`], so a role that is added is missing nowhere.

use super::config::ModelConfig;

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

    /// The unit that it is computed in.
    pub fn unit(self) -> Unit {
        match self {
            Self::QProj | Self::KProj | Self::VProj => Unit::Qkv,
            Self::OProj => Unit::O,
            Self::GateProj | Self::UpProj => Unit::GateUp,
            Self::DownProj => Unit::Down,
        }
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

/// Projections that read the same input: one product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Query, key and value.
    Qkv,
    /// Attention output.
    O,
    /// Gate and up.
    GateUp,
    /// Feed-forward output.
    Down,
}

impl Unit {
    /// All units of a layer, in the order of the arena.
    pub const ALL: [Self; 4] = [Self::Qkv, Self::O, Self::GateUp, Self::Down];

    /// Its projections, in the order of the arena.
    pub fn kinds(self) -> &'static [LinearKind] {
        match self {
            Self::Qkv => &[LinearKind::QProj, LinearKind::KProj, LinearKind::VProj],
            Self::O => &[LinearKind::OProj],
            Self::GateUp => &[LinearKind::GateProj, LinearKind::UpProj],
            Self::Down => &[LinearKind::DownProj],
        }
    }

    /// Its projections have a bias.
    pub fn has_bias(self, config: &ModelConfig) -> bool {
        match self {
            Self::Qkv => config.qkv_bias,
            Self::O => config.o_bias,
            Self::GateUp | Self::Down => config.mlp_bias,
        }
    }
}

/// What a tensor is to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Token embedding, `[vocab_size, hidden_size]`.
    Embedding,
    /// Norm before attention.
    InputNorm,
    /// Weight of a projection, `[out, in]`.
    Linear(LinearKind),
    /// Bias of a projection, `[out]`.
    Bias(LinearKind),
    /// Norm before the feed-forward layer.
    PostNorm,
    /// Norm behind the last layer.
    FinalNorm,
    /// Output projection, where it is not the embedding.
    Head,
}

/// What a tensor holds before training from scratch (`_init_weights` of transformers).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Normal with the config's `initializer_range`.
    Normal,
    /// One everywhere.
    Ones,
    /// Zero everywhere.
    Zeros,
}

impl Role {
    /// Weight decay applies: to all but norms and biases (`get_decay_parameter_names` of transformers).
    pub fn decays(self) -> bool {
        match self {
            Self::Embedding | Self::Linear(_) | Self::Head => true,
            Self::InputNorm | Self::PostNorm | Self::FinalNorm | Self::Bias(_) => false,
        }
    }

    /// Its values before training from scratch.
    pub fn start(self) -> Start {
        match self {
            Self::Embedding | Self::Linear(_) | Self::Head => Start::Normal,
            Self::InputNorm | Self::PostNorm | Self::FinalNorm => Start::Ones,
            Self::Bias(_) => Start::Zeros,
        }
    }

    /// Place in the arena, within its layer or outside of the layers. Tensors of one place follow each other without a gap:
    /// projections that read the same input are one matrix.
    pub(super) fn place(self) -> usize {
        match self {
            Self::Embedding | Self::InputNorm => 0,
            Self::Linear(kind) => 1 + kind.unit() as usize * 3,
            Self::Bias(kind) => 2 + kind.unit() as usize * 3,
            // Between attention's output and the feed-forward layer.
            Self::PostNorm => 3 + Unit::O as usize * 3,
            Self::FinalNorm => 13,
            Self::Head => 14,
        }
    }
}

/// A tensor as a checkpoint has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// What it is.
    pub role: Role,
    /// The decoder layer that it belongs to.
    pub layer: Option<usize>,
    /// Its name in transformers.
    pub name: String,
    /// Its shape in transformers, row-major.
    pub shape: Vec<usize>,
}

/// The tensors of a model with so many layers, in transformers' order.
pub(super) fn tensors(config: &ModelConfig, layers: usize) -> Vec<TensorSpec> {
    let h = config.hidden_size;
    let mut all = Vec::new();
    let mut add = |role, layer, name: String, shape: &[usize]| {
        all.push(TensorSpec { role, layer, name, shape: shape.to_vec() });
    };
    add(Role::Embedding, None, "model.embed_tokens.weight".into(), &[config.vocab_size, h]);
    for layer in 0..layers {
        let name = |module: &str| format!("model.layers.{layer}.{module}.weight");
        for kind in LinearKind::ALL {
            let (rows, columns) = kind.shape(config);
            add(Role::Linear(kind), Some(layer), name(&kind.path()), &[rows, columns]);
            if kind.unit().has_bias(config) {
                add(Role::Bias(kind), Some(layer), format!("model.layers.{layer}.{}.bias", kind.path()), &[rows]);
            }
        }
        add(Role::InputNorm, Some(layer), name("input_layernorm"), &[h]);
        add(Role::PostNorm, Some(layer), name("post_attention_layernorm"), &[h]);
    }
    add(Role::FinalNorm, None, "model.norm.weight".into(), &[h]);
    if !config.tie_word_embeddings {
        add(Role::Head, None, "lm_head.weight".into(), &[config.vocab_size, h]);
    }
    all
}
