//! The tensors of a model: what each of them is, and its name and shape in a checkpoint. The one list from which the loader, the
//! weight arena, gradients, a random start, weight decay, export and the names of adapters follow. Whoever needs to know what a
//! tensor is matches on its [`Role`], so a role that is added is missing nowhere.

pub use super::config::NormKind;
use super::config::{ExpertModules, Experts, LayerModules, ModelConfig, TEXT_ROOT};
use super::scores::{SCORE, Scores};
use crate::kernels::{Activation, Demands};

/// The projections of a decoder layer. Families that keep several of them as one have that one instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinearKind {
    /// Queries.
    QProj,
    /// Keys.
    KProj,
    /// Values.
    VProj,
    /// Queries, keys and values below each other.
    QkvProj,
    /// Attention output.
    OProj,
    /// Gate of the feed-forward layer.
    GateProj,
    /// Input of the feed-forward layer.
    UpProj,
    /// Gate and input below each other.
    GateUpProj,
    /// Output of the feed-forward layer.
    DownProj,
    /// Gate and input of a feed-forward layer that stands where others have one beside their experts.
    InputLinear,
    /// Its output.
    OutputLinear,
}

impl LinearKind {
    /// All that any family has, in the order of the arena.
    pub const ALL: [Self; 11] = [
        Self::QProj,
        Self::KProj,
        Self::VProj,
        Self::QkvProj,
        Self::OProj,
        Self::GateProj,
        Self::UpProj,
        Self::GateUpProj,
        Self::DownProj,
        Self::InputLinear,
        Self::OutputLinear,
    ];

    /// The module's own name: what `lora_target_modules` says.
    pub fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::QkvProj => "qkv_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::GateUpProj => "gate_up_proj",
            Self::DownProj => "down_proj",
            Self::InputLinear => "input_linear",
            Self::OutputLinear => "output_linear",
        }
    }

    /// The module's path inside a layer.
    pub fn path(self) -> String {
        let parent = match self {
            Self::QProj | Self::KProj | Self::VProj | Self::QkvProj | Self::OProj => "self_attn",
            Self::GateProj | Self::UpProj | Self::GateUpProj | Self::DownProj => "mlp",
            Self::InputLinear | Self::OutputLinear => "shared_mlp",
        };
        format!("{parent}.{}", self.name())
    }

    /// The unit that it is computed in.
    pub fn unit(self) -> Unit {
        match self {
            Self::QProj | Self::KProj | Self::VProj | Self::QkvProj => Unit::Qkv,
            Self::OProj => Unit::O,
            Self::GateProj | Self::UpProj | Self::GateUpProj | Self::InputLinear => Unit::GateUp,
            Self::DownProj | Self::OutputLinear => Unit::Down,
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
            Self::QkvProj => (q + 2 * kv, h),
            Self::OProj => (h, q),
            Self::GateProj | Self::UpProj => (ffn, h),
            Self::GateUpProj | Self::InputLinear => (2 * ffn, h),
            Self::DownProj | Self::OutputLinear => (h, ffn),
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

    /// Its projections in one layer of a model; none for the feed-forward layer of one that has nothing but experts.
    pub fn kinds_in(self, config: &ModelConfig, layer: usize) -> &'static [LinearKind] {
        match self {
            Self::GateUp | Self::Down if !config.is_dense(layer) => &[],
            _ => self.kinds(config),
        }
    }

    /// Its projections in the layers of a model that have it, in the order of the arena.
    pub fn kinds(self, config: &ModelConfig) -> &'static [LinearKind] {
        match (self, config.modules) {
            (Self::Qkv, LayerModules::Fused) => &[LinearKind::QkvProj],
            (Self::Qkv, _) => &[LinearKind::QProj, LinearKind::KProj, LinearKind::VProj],
            (Self::O, _) => &[LinearKind::OProj],
            (Self::GateUp, LayerModules::Apart) => &[LinearKind::GateProj, LinearKind::UpProj],
            (Self::GateUp, LayerModules::NoGate) => &[LinearKind::UpProj],
            (Self::GateUp, LayerModules::Fused | LayerModules::FusedGate) => &[LinearKind::GateUpProj],
            (Self::GateUp, LayerModules::Shared) => &[LinearKind::InputLinear],
            (Self::Down, LayerModules::Shared) => &[LinearKind::OutputLinear],
            (Self::Down, _) => &[LinearKind::DownProj],
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

impl ModelConfig {
    /// What it asks of a device.
    pub fn demands(&self) -> Demands {
        Demands {
            attention: self.attention(),
            window: self.smallest_window(),
            widest_norm: self.norms.iter().map(|(kind, _)| kind.width(self)).fold(self.hidden_size, usize::max),
            is_packed: self.quantization.is_some(),
            has_experts: self.experts.is_some(),
        }
    }

    /// Every layer has this norm.
    pub fn has_norm(&self, kind: NormKind) -> bool {
        self.norms.iter().any(|(own, _)| *own == kind)
    }

    /// The projections that some layer has, in the order of the arena; those of experts are not among them.
    pub fn linears(&self) -> impl Iterator<Item = LinearKind> {
        let has = |unit: &Unit| matches!(unit, Unit::Qkv | Unit::O) || self.has_dense_layers();
        Unit::ALL.into_iter().filter(has).flat_map(|unit| unit.kinds(self)).copied()
    }

    /// The projections of one layer, in the order of the arena.
    pub fn linears_in(&self, layer: usize) -> impl Iterator<Item = LinearKind> {
        Unit::ALL.into_iter().flat_map(move |unit| unit.kinds_in(self, layer)).copied()
    }

    /// The projections of one layer that may have an adapter. Of a model of experts, these are not those whose names PEFT takes for
    /// those of experts.
    pub fn adaptable_in(&self, layer: usize) -> impl Iterator<Item = LinearKind> {
        let is_taken =
            |kind: &LinearKind| matches!(kind, LinearKind::GateProj | LinearKind::UpProj | LinearKind::DownProj);
        self.linears_in(layer).filter(move |kind| self.experts.is_none() || !is_taken(kind))
    }

    /// Elements of all parameters, without a list of them: what a file asks for is known before anything is made of it. Layers
    /// are of two kinds at most, and all of one kind have the same tensors.
    pub(super) fn elements(&self) -> u128 {
        let count = |layers: &[usize]| -> u128 {
            let shapes = tensors(self, layers.iter().copied()).into_iter();
            shapes.map(|spec| spec.shape.iter().map(|&size| size as u128).product::<u128>()).sum()
        };
        let without = count(&[]);
        let of_kind = |has_experts: bool| {
            let mut layers =
                (0..self.num_hidden_layers).filter(|&layer| self.experts_of(layer).is_some() == has_experts);
            layers.next().map_or(0, |first| (count(&[first]) - without) * (1 + layers.count() as u128))
        };
        without + of_kind(false) + of_kind(true)
    }

    /// Every tensor, in transformers' order.
    pub fn parameters(&self) -> Vec<TensorSpec> {
        tensors(self, 0..self.num_hidden_layers)
    }
}

impl NormKind {
    /// How many there are.
    pub const COUNT: usize = 6;

    /// Elements of its weight.
    pub fn width(self, config: &ModelConfig) -> usize {
        let heads = match self {
            Self::Query => config.num_attention_heads,
            Self::Key => config.num_key_value_heads,
            _ => return config.hidden_size,
        };
        if config.norms_whole_heads { heads * config.head_dim } else { config.head_dim }
    }
}

/// The projections of an expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExpertKind {
    /// Its gate.
    Gate,
    /// Its input.
    Up,
    /// Its output.
    Down,
}

impl ExpertKind {
    /// All of them, in the order of the arena.
    pub const ALL: [Self; 3] = [Self::Gate, Self::Up, Self::Down];

    /// Rows and columns of its weight.
    pub fn shape(self, config: &ModelConfig, experts: Experts) -> [usize; 2] {
        match self {
            Self::Gate | Self::Up => [experts.width, config.hidden_size],
            Self::Down => [config.hidden_size, experts.width],
        }
    }
}

/// The tensors that transformers holds all experts of a layer in; PEFT adapts each as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExpertTensor {
    /// Gates and inputs, `[experts, 2 * width, hidden_size]`.
    GateUp,
    /// Outputs, `[experts, hidden_size, width]`.
    Down,
}

impl ExpertTensor {
    /// Both, in the order of the arena.
    pub const ALL: [Self; 2] = [Self::GateUp, Self::Down];

    /// Rows and columns of an expert's part.
    pub fn shape(self, config: &ModelConfig, experts: Experts) -> [usize; 2] {
        match self {
            Self::GateUp => [2 * experts.width, config.hidden_size],
            Self::Down => [config.hidden_size, experts.width],
        }
    }

    /// Its path inside a layer, in transformers' memory.
    pub fn path(self, experts: Experts) -> String {
        let name = match self {
            Self::GateUp => "gate_up_proj",
            Self::Down => "down_proj",
        };
        format!("{}.{name}", experts.modules.experts())
    }
}

/// What of a layer of experts may have an adapter by the name of its parameter (PEFT's `target_parameters`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExpertParameter {
    /// A tensor of all experts.
    Experts(ExpertTensor),
    /// The router's weight.
    Router,
}

impl ExpertParameter {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Experts(ExpertTensor::GateUp), Self::Experts(ExpertTensor::Down), Self::Router];

    /// Its path inside a layer, in transformers' memory.
    pub fn path(self, experts: Experts) -> String {
        match self {
            Self::Experts(tensor) => tensor.path(experts),
            Self::Router => format!("{}.weight", experts.modules.router_in_memory()),
        }
    }
}

impl ExpertModules {
    /// The path of the router inside a layer, in transformers' memory.
    fn router_in_memory(self) -> &'static str {
        match self {
            Self::Mlp | Self::BlockSparse => "mlp.gate",
            Self::Joined => "block_sparse_moe.router",
        }
    }

    /// The path of the module of all experts inside a layer, in transformers' memory.
    pub fn experts(self) -> &'static str {
        match self {
            Self::Mlp | Self::BlockSparse => "mlp.experts",
            Self::Joined => "block_sparse_moe.experts",
        }
    }

    /// The path of the router inside a layer.
    fn router(self) -> &'static str {
        match self {
            Self::Mlp => "mlp.gate",
            Self::BlockSparse => "block_sparse_moe.gate",
            Self::Joined => "block_sparse_moe.router.layer",
        }
    }

    /// The tensors of a layer's experts, each with its path and its shape, in the order of files.
    fn tensors(self, config: &ModelConfig, experts: Experts) -> Vec<(Role, String, Vec<usize>)> {
        let apart = |parent: &str, modules: [&str; 3]| {
            let of = |expert: usize| {
                ExpertKind::ALL.into_iter().zip(modules).map(move |(kind, module)| {
                    let path = format!("{parent}.experts.{expert}.{module}");
                    (Role::Expert(expert, kind), path, kind.shape(config, experts).to_vec())
                })
            };
            (0..experts.count).flat_map(of).collect()
        };
        match self {
            Self::Mlp => apart("mlp", ["gate_proj", "up_proj", "down_proj"]),
            Self::BlockSparse => apart("block_sparse_moe", ["w1", "w3", "w2"]),
            Self::Joined => ExpertTensor::ALL
                .into_iter()
                .zip(["input_linear", "output_linear"])
                .map(|(tensor, module)| {
                    let [out, input] = tensor.shape(config, experts);
                    (Role::Experts(tensor), format!("block_sparse_moe.{module}"), vec![experts.count, out, input])
                })
                .collect(),
        }
    }
}

/// What a tensor is to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Token embedding, `[vocab_size, hidden_size]`.
    Embedding,
    /// Norm of a layer.
    Norm(NormKind),
    /// Weight of a projection, `[out, in]`.
    Linear(LinearKind),
    /// Bias of a projection, `[out]`.
    Bias(LinearKind),
    /// Weight of an activation that has some, `[1]`, or a constant of it, `[]`.
    Activation(XieluWeight),
    /// Weight of a layer's router, `[experts, hidden_size]`.
    Router,
    /// Weight of a projection of the expert with this number, `[out, in]`.
    Expert(usize, ExpertKind),
    /// Weights of all experts of a layer, `[experts, out, in]`, where files have them as one.
    Experts(ExpertTensor),
    /// Norm behind the last layer.
    FinalNorm,
    /// Output projection, where it is not the embedding.
    Head,
    /// Weight of a head of scores, `[labels, hidden_size]`, which a model has for its output projection.
    Score,
    /// Its bias, `[labels]`.
    ScoreBias,
}

/// The numbers of xIELU, in the order of [`TensorOps::xielu`](crate::kernels::TensorOps::xielu).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum XieluWeight {
    /// What the factor above zero is made of.
    AlphaP,
    /// What the factor below zero is made of.
    AlphaN,
    /// The slope at zero; a constant.
    Beta,
    /// Where the curve below zero begins; a constant.
    Eps,
}

impl XieluWeight {
    /// All, in their order.
    pub const ALL: [Self; 4] = [Self::AlphaP, Self::AlphaN, Self::Beta, Self::Eps];

    /// Its own name in a checkpoint, and its value before training from scratch.
    fn name(self) -> (&'static str, f32) {
        match self {
            // 0.8, and 0.8 - beta, before softplus.
            Self::AlphaP => ("alpha_p", 0.203_382_3),
            Self::AlphaN => ("alpha_n", -1.050_225_6),
            Self::Beta => ("beta", 0.5),
            Self::Eps => ("eps", -1e-6),
        }
    }
}

/// What a tensor holds before training from scratch (`_init_weights` of transformers).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Start {
    /// Normal with the config's `initializer_range`.
    Normal,
    /// One everywhere.
    Ones,
    /// Zero everywhere.
    Zeros,
    /// This number everywhere.
    Constant(f32),
}

impl Role {
    /// It is never trained: a buffer in transformers.
    pub fn is_constant(self) -> bool {
        matches!(self, Self::Activation(XieluWeight::Beta | XieluWeight::Eps))
    }

    /// Weight decay applies: to all but norms and biases (`get_decay_parameter_names` of transformers).
    pub fn decays(self) -> bool {
        match self {
            Self::Embedding
            | Self::Linear(_)
            | Self::Activation(_)
            | Self::Router
            | Self::Expert(..)
            | Self::Experts(_)
            | Self::Head
            | Self::Score => true,
            Self::Norm(_) | Self::FinalNorm | Self::Bias(_) | Self::ScoreBias => false,
        }
    }

    /// Its values before training from scratch.
    pub fn start(self, config: &ModelConfig) -> Start {
        match self {
            Self::Embedding
            | Self::Linear(_)
            | Self::Router
            | Self::Expert(..)
            | Self::Experts(_)
            | Self::Head
            | Self::Score => Start::Normal,
            Self::Activation(weight) => Start::Constant(weight.name().1),
            Self::Norm(_) | Self::FinalNorm if config.norm_offset == 0.0 => Start::Ones,
            Self::Norm(_) | Self::FinalNorm | Self::Bias(_) | Self::ScoreBias => Start::Zeros,
        }
    }

    /// Place in the arena, within its layer or outside of the layers. Tensors of one place follow each other without a gap:
    /// projections that read the same input are one matrix, and so are an expert's gate and input, each expert's behind that of
    /// the one before.
    pub(super) fn place(self) -> usize {
        match self {
            Self::Embedding | Self::Norm(NormKind::BeforeAttention) => 0,
            Self::Linear(kind) => 10 + kind.unit() as usize * 10,
            Self::Bias(kind) => 11 + kind.unit() as usize * 10,
            Self::Norm(NormKind::Query) => 12 + Unit::Qkv as usize * 10,
            Self::Norm(NormKind::Key) => 13 + Unit::Qkv as usize * 10,
            Self::Norm(NormKind::AfterAttention) => 12 + Unit::O as usize * 10,
            Self::Norm(NormKind::BeforeFeedForward) => 13 + Unit::O as usize * 10,
            Self::Norm(NormKind::AfterFeedForward) => 12 + Unit::Down as usize * 10,
            Self::Activation(_) => 14 + Unit::GateUp as usize * 10,
            Self::Router => 14 + Unit::O as usize * 10,
            Self::Expert(_, ExpertKind::Gate | ExpertKind::Up) | Self::Experts(ExpertTensor::GateUp) => {
                14 + Unit::GateUp as usize * 10
            }
            Self::Expert(_, ExpertKind::Down) | Self::Experts(ExpertTensor::Down) => 14 + Unit::Down as usize * 10,
            Self::FinalNorm => 50,
            Self::Head | Self::Score => 51,
            Self::ScoreBias => 52,
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

/// The tensors of a model that has these of its layers alone, in transformers' order.
fn tensors(config: &ModelConfig, layers: impl Iterator<Item = usize>) -> Vec<TensorSpec> {
    let h = config.hidden_size;
    let mut all = Vec::new();
    let mut add = |role, layer, name: String, shape: &[usize]| {
        all.push(TensorSpec { role, layer, name, shape: shape.to_vec() });
    };
    let root = config.root;
    add(Role::Embedding, None, format!("{root}.embed_tokens.weight"), &[config.vocab_size, h]);
    for layer in layers {
        let name = |module: &str| format!("{root}.layers.{layer}.{module}.weight");
        for kind in config.linears_in(layer) {
            let (rows, columns) = kind.shape(config);
            add(Role::Linear(kind), Some(layer), name(&kind.path()), &[rows, columns]);
            if kind.unit().has_bias(config) {
                add(Role::Bias(kind), Some(layer), format!("{root}.layers.{layer}.{}.bias", kind.path()), &[rows]);
            }
        }
        for weight in XieluWeight::ALL.into_iter().filter(|_| config.activation == Activation::Xielu) {
            let role = Role::Activation(weight);
            let name = format!("{root}.layers.{layer}.mlp.act_fn.{}", weight.name().0);
            add(role, Some(layer), name, if role.is_constant() { &[] } else { &[1] });
        }
        if let Some(experts) = config.experts_of(layer) {
            add(Role::Router, Some(layer), name(experts.modules.router()), &[experts.count, h]);
            for (role, path, shape) in experts.modules.tensors(config, experts) {
                add(role, Some(layer), name(&path), &shape);
            }
        }
        for &(kind, module) in config.norms {
            add(Role::Norm(kind), Some(layer), name(module), &[kind.width(config)]);
        }
    }
    add(Role::FinalNorm, None, format!("{root}.norm.weight"), &[h]);
    match config.scores {
        Some(Scores { labels, has_bias, .. }) => {
            add(Role::Score, None, format!("{SCORE}.weight"), &[labels, h]);
            if has_bias {
                add(Role::ScoreBias, None, format!("{SCORE}.bias"), &[labels]);
            }
        }
        None if config.tie_word_embeddings => {}
        None => add(Role::Head, None, "lm_head.weight".into(), &[config.vocab_size, h]),
    }
    all
}

/// What the names of a text model's tensors begin with in files of a model of several parts; transformers renames them when it
/// loads and when it saves.
const IN_FILES: [(&str, &str); 2] =
    [("language_model.model.", "model.language_model."), ("language_model.lm_head.", "lm_head.")];

/// The name that a tensor of a file has in the model.
pub fn name_in_model(name: &str) -> String {
    let known = IN_FILES.iter().find_map(|(file, model)| Some(format!("{model}{}", name.strip_prefix(file)?)));
    known.unwrap_or_else(|| name.to_owned())
}

/// The name that a tensor of a model has in files.
pub fn name_in_files(config: &ModelConfig, name: &str) -> String {
    if config.root != TEXT_ROOT {
        return name.to_owned();
    }
    let known = IN_FILES.iter().find_map(|(file, model)| Some(format!("{file}{}", name.strip_prefix(model)?)));
    known.unwrap_or_else(|| name.to_owned())
}
