//! `config.json` of a model: sizes and constants, and what its family makes of them. Whatever differs from family to family
//! is data here; the schedule of a layer ([`crate::model::decoder`]) reads it.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::rope::Rope;
use super::scores::Scores;
use super::stored::{NewRows, Stored};
use crate::kernels::{Activation, AttentionShape, Head, Norm, Packing};

/// Why a `config.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read `{path}`: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not JSON, or a key is missing or has the wrong type.
    #[error("`{path}` is not a valid model config: {reason}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It asks for something that this trainer does not have.
    #[error("`{path}` asks for `{feature}`, which is not supported: {reason}", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key and value.
        feature: String,
        /// Why, and what is.
        reason: String,
    },
}

/// Sizes and constants of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// `LlamaForCausalLM` and so on.
    pub architecture: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Positions that the model was made for.
    pub max_position_embeddings: usize,
    /// The output projection is the embedding.
    pub tie_word_embeddings: bool,
    /// Standard deviation of a random start.
    pub initializer_range: f64,
    /// Beginning-of-text id.
    pub bos_token_id: Option<u32>,
    /// End-of-text ids.
    pub eos_token_id: Vec<u32>,
    /// Padding id.
    pub pad_token_id: Option<u32>,

    /// The norms of a layer, each with its module's name.
    pub norms: &'static [(NormKind, &'static str)],
    /// Added to the mean square of a norm.
    pub rms_norm_eps: f32,
    /// Added to the weights of norms: one where a checkpoint keeps differences to one.
    pub norm_offset: f32,
    /// Norms of queries and keys are over all heads together, not over each.
    pub norms_whole_heads: bool,
    /// Queries and keys are rotated before their norms, not behind them.
    pub rotates_before_norms: bool,
    /// Which projections are modules of their own.
    pub modules: LayerModules,
    /// Query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// The output projection of attention has one.
    pub o_bias: bool,
    /// The projections of the feed-forward layer have one.
    pub mlp_bias: bool,
    /// What gates go through.
    pub activation: Activation,
    /// Rotary frequencies, each for the layers that name them.
    pub ropes: Vec<Rope>,
    /// Which of them rotates queries in all layers that rotate, where that is not the one of the keys.
    pub query_rope: Option<usize>,
    /// What layers have that others may not have, one of each.
    pub layers: Vec<LayerSpec>,
    /// The experts that layers have in the place of a feed-forward layer, where some do.
    pub experts: Option<Experts>,
    /// Factor of attention's scores.
    pub attention_scale: f32,
    /// See [`AttentionShape::cap`].
    pub attention_cap: Option<f32>,
    /// Factor of the embedding, where it has one.
    pub embedding_scale: Option<f32>,
    /// That factor is of the model, not of its embedding's module: noise of the embedding grows by it too.
    pub scales_noise: bool,
    /// Factor of what a layer's two halves add to the residual stream, behind their norms where they have some.
    pub residual_scale: f32,
    /// Factor of the logits.
    pub logits_scale: f32,
    /// See [`Head::cap`].
    pub logits_cap: Option<f32>,

    /// The head of scores that the model has for its output projection, where it has one.
    pub scores: Option<Scores>,
    /// transformers' classes of the family with a head of scores, in the order of
    /// [`Classifier`](super::scores::Classifier).
    pub classifiers: [Option<&'static str>; 2],

    /// What the checkpoint has otherwise, where it has.
    pub stored: Option<Stored>,
    /// How the layers' projections are packed, where they are.
    pub quantization: Option<Quantization>,
    /// The checkpoint has them packed already.
    pub stores_packed: bool,
    /// What the names of its modules begin with: `model`, or more where it is a part of another model.
    pub root: &'static str,
    /// What the names of tensors begin with that belong to other parts of the model: they are not read, and go along.
    pub others: &'static [&'static str],
    /// The file as it was, for export.
    pub raw: Map<String, Value>,
}

/// The norms that a layer may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NormKind {
    /// Of attention's input.
    BeforeAttention,
    /// Of queries.
    Query,
    /// Of keys.
    Key,
    /// Of attention's output, before it is added to the residual stream.
    AfterAttention,
    /// Of the feed-forward layer's input.
    BeforeFeedForward,
    /// Of the feed-forward layer's output, before it is added to the residual stream.
    AfterFeedForward,
}

/// How the projections of decoder layers are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantization {
    /// Bits and what they stand for.
    pub packing: Packing,
    /// Scales are packed too (`bnb_4bit_use_double_quant`); of four bits only.
    pub is_nested: bool,
}

/// The modules that a layer has for its projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerModules {
    /// One each.
    Apart,
    /// One for query, key and value, and one for gate and input (Phi-3).
    Fused,
    /// One for gate and input, and names of models of experts (Granite 4).
    Shared,
    /// One each, and none for a gate.
    NoGate,
    /// One for gate and input, and one each of the others (GLM).
    FusedGate,
}

/// What a layer has that others of its model may not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSpec {
    /// A token sees itself and the `window - 1` tokens before it; none sees the whole document.
    pub window: Option<usize>,
    /// Which of [`ModelConfig::ropes`] rotates queries and keys; none leaves them.
    pub rope: Option<usize>,
    /// Its feed-forward layer is a choice of [`ModelConfig::experts`].
    pub has_experts: bool,
}

/// The experts of a layer, and how tokens go to them (Shazeer et al., "Outrageously large neural networks"). A router gives
/// each expert a logit; a token goes to those with the largest, and each weighs as much as the softmax of all logits says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Experts {
    /// Experts of a layer.
    pub count: usize,
    /// Experts that a token goes to.
    pub per_token: usize,
    /// Width of an expert.
    pub width: usize,
    /// The weights of a token's experts are divided by their sum.
    pub renormalizes: bool,
    /// Coefficient of the load-balancing loss (Fedus et al., "Switch transformers", equations 4 to 6), which training adds to the
    /// loss of each micro-batch; none where the config does not turn it on.
    pub balance: Option<f32>,
    /// A feed-forward layer stands beside them, and gives its part to every token (Granite 4).
    pub has_shared: bool,
    /// What the modules are called.
    pub modules: ExpertModules,
}

/// What a layer's router and experts are called in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpertModules {
    /// `mlp.gate`, and `mlp.experts.0.gate_proj`, `up_proj` and `down_proj`.
    Mlp,
    /// `block_sparse_moe.gate`, and `block_sparse_moe.experts.0.w1`, `w3` and `w2` (Mixtral).
    BlockSparse,
    /// `block_sparse_moe.router.layer`, and all experts as one `input_linear` and one `output_linear` (Granite).
    Joined,
}

/// What the config of a text model that is a part is called.
pub(super) const TEXT_CONFIG: &str = "text_config";
/// What the names of its modules begin with.
pub(super) const TEXT_ROOT: &str = "model.language_model";

impl ModelConfig {
    /// True if it is computed as the other one is, whatever else their files say.
    pub fn is_computed_as(&self, other: &Self) -> bool {
        Self { raw: Map::new(), ..self.clone() } == Self { raw: Map::new(), ..other.clone() }
    }

    /// Writes a key of the config that is exported.
    pub(super) fn set_raw(&mut self, key: &str, value: Value) {
        let text = Some(()).filter(|()| self.root == TEXT_ROOT).and_then(|()| self.raw.get_mut(TEXT_CONFIG));
        let is_whole = ["tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"].contains(&key);
        match text {
            Some(Value::Object(text)) if !is_whole => drop(text.insert(key.to_owned(), value)),
            Some(Value::Object(text)) => {
                text.insert(key.to_owned(), value.clone());
                self.raw.insert(key.to_owned(), value);
            }
            _ => drop(self.raw.insert(key.to_owned(), value)),
        }
    }

    /// Layers without a window rotate as the first rope says, those with one as the second.
    pub(super) fn rope_by_window(&mut self) {
        for layer in &mut self.layers {
            layer.rope = Some(usize::from(layer.window.is_some()));
        }
    }

    /// True if some layer has a feed-forward layer that every token goes through.
    pub fn has_dense_layers(&self) -> bool {
        (0..self.num_hidden_layers).any(|layer| self.is_dense(layer))
    }

    /// True if a layer has a feed-forward layer that every token goes through, in the place of experts or beside them.
    pub fn is_dense(&self, layer: usize) -> bool {
        self.experts_of(layer).is_none_or(|experts| experts.has_shared)
    }

    /// The experts of a layer, where it has some.
    pub fn experts_of(&self, layer: usize) -> Option<Experts> {
        self.experts.filter(|_| self.layers[layer].has_experts)
    }

    /// Layers that have experts.
    pub fn expert_layers(&self) -> usize {
        self.experts.map_or(0, |_| self.layers.iter().filter(|layer| layer.has_experts).count())
    }

    /// The coefficient of the load-balancing loss, where training adds it; classes with a head of scores do not.
    pub fn balance(&self) -> Option<f32> {
        self.experts.and_then(|experts| experts.balance).filter(|_| self.scores.is_none())
    }

    /// The shape of attention.
    pub fn attention(&self) -> AttentionShape {
        AttentionShape {
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            scale: self.attention_scale,
            cap: self.attention_cap,
        }
    }

    /// The smallest window of any layer.
    pub fn smallest_window(&self) -> Option<usize> {
        self.layers.iter().filter_map(|layer| layer.window).min()
    }

    /// Tokens beyond which a text is rotated otherwise than a short one; see [`Rope::limit`].
    pub fn rope_limit(&self) -> Option<usize> {
        self.ropes.iter().find_map(Rope::limit)
    }

    /// A norm of `n` rows of the residual stream.
    pub fn norm(&self, n: usize) -> Norm {
        Norm { offset: self.norm_offset, ..Norm::whole(n, self.hidden_size, self.rms_norm_eps) }
    }

    /// The same of what a half of a layer adds to it.
    pub fn norm_after(&self, n: usize) -> Norm {
        Norm { gain: self.residual_scale, ..self.norm(n) }
    }

    /// Sizes of the output projection.
    pub fn head(&self) -> Head {
        Head { width: self.hidden_size, vocabulary: self.vocab_size, cap: self.logits_cap }
    }

    /// True where `rope_scaling` and `rope_parameters` are both there and say different things.
    pub fn has_two_ropes(&self) -> bool {
        let table = |key: &str| self.raw.get(key).and_then(Value::as_object).filter(|table| !table.is_empty());
        match (table("rope_scaling"), table("rope_parameters")) {
            (Some(old), Some(new)) => {
                let base = |table: &Map<String, Value>| {
                    table.get("rope_theta").or_else(|| self.raw.get("rope_theta")).and_then(Value::as_f64)
                };
                let kind = |table: &Map<String, Value>| table.get("rope_type").or_else(|| table.get("type")).cloned();
                let differs = |key: &str| old.get(key).and_then(Value::as_f64) != new.get(key).and_then(Value::as_f64);
                let numbers = ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"];
                base(old) != base(new) || kind(old) != kind(new) || numbers.into_iter().any(differs)
            }
            _ => false,
        }
    }

    /// Gives the model an output projection of its own, in what is exported too.
    pub fn untie(&mut self) {
        self.tie_word_embeddings = false;
        self.set_raw("tie_word_embeddings", false.into());
    }

    /// The ids with which a text begins, ends and is filled, in what is exported too. What is empty stays as it is.
    pub fn set_token_ids(&mut self, bos: Option<u32>, eos: &[u32], pad: Option<u32>) {
        if let Some(id) = bos {
            self.bos_token_id = Some(id);
            self.set_raw("bos_token_id", id.into());
        }
        if let Some(ids) = one_or_list(eos) {
            self.eos_token_id = eos.to_vec();
            self.set_raw("eos_token_id", ids);
        }
        if let Some(id) = pad {
            self.pad_token_id = Some(id);
            self.set_raw("pad_token_id", id.into());
        }
    }

    /// The config of the checkpoint.
    #[must_use]
    pub fn as_stored(&self) -> Self {
        let mut config = self.clone();
        if let Some(stored) = config.stored.take() {
            config.vocab_size = stored.vocab_size;
            config.tie_word_embeddings = stored.tie_word_embeddings;
        }
        config
    }

    pub(crate) fn stored(&self) -> Stored {
        let (vocab_size, tie_word_embeddings) = (self.vocab_size, self.tie_word_embeddings);
        self.stored.unwrap_or(Stored { vocab_size, tie_word_embeddings, new_rows: NewRows::Mean })
    }

    /// Gives embedding and output projection rows for more tokens, in what is exported too.
    pub fn grow(&mut self, vocab_size: usize, new_rows: NewRows) {
        if vocab_size > self.vocab_size {
            self.stored = Some(Stored { new_rows, ..self.stored() });
            self.vocab_size = vocab_size;
            self.set_raw("vocab_size", vocab_size.into());
        }
    }

    /// Gives the model an output projection of its own that starts as its embedding, in what is exported too. A head of
    /// scores is its own already.
    pub fn split_head(&mut self) {
        if self.tie_word_embeddings && self.scores.is_none() {
            self.stored = Some(self.stored());
            self.untie();
        }
    }

    /// Rows that the checkpoint does not have.
    pub fn new_rows(&self) -> usize {
        self.vocab_size - self.stored().vocab_size
    }
}

/// Ids as Hugging Face's files have them: one alone, several as a list; none for none.
pub fn one_or_list(ids: &[u32]) -> Option<Value> {
    match ids {
        [] => None,
        [id] => Some((*id).into()),
        ids => Some(ids.into()),
    }
}
