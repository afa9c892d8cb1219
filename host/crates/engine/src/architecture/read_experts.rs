//! What a `config.json` says of experts.

use std::collections::BTreeSet;

use serde_json::Value;

use super::config::{ConfigError, ExpertModules, Experts, ModelConfig};
use super::read::Reader;

/// Experts of all layers together: above this, a file is a mistake rather than a model.
const MOST: usize = 1 << 18;

/// What a class has where a file says nothing.
#[derive(Debug)]
pub(super) struct Keys {
    /// Experts of a layer.
    pub(super) count: usize,
    /// Experts of a token (`num_experts_per_tok`).
    pub(super) per_token: usize,
    /// The key of an expert's width, and its default.
    pub(super) width: (&'static str, usize),
    /// `router_aux_loss_coef`.
    pub(super) balance: f64,
}

impl Reader<'_> {
    /// The experts of a file. Their number has two names, which transformers' classes take for one.
    pub(super) fn experts(
        &self,
        keys: &Keys,
        renormalizes: bool,
        modules: ExpertModules,
    ) -> Result<Experts, ConfigError> {
        let (one, other) = (self.optional_size("num_experts")?, self.optional_size("num_local_experts")?);
        if let (Some(one), Some(other)) = (one, other)
            && one != other
        {
            return Err(self.invalid(format!("`num_experts` is {one} and `num_local_experts` {other}")));
        }
        let count = one.or(other).unwrap_or(keys.count);
        let per_token = self.optional_size("num_experts_per_tok")?.unwrap_or(keys.per_token);
        if per_token > count {
            let reason = format!("`num_experts_per_tok` is {per_token}, but layers have {count} experts");
            return Err(self.invalid(reason));
        }
        if self.is_packed() {
            let reason = "experts are not read packed; take the model that these weights were made from";
            return Err(self.unsupported("quantization_config of a model of experts".into(), reason));
        }
        let (key, width) = keys.width;
        let coefficient = self.number("router_aux_loss_coef")?.unwrap_or(keys.balance) as f32;
        let is_on = self.flag("output_router_logits")?;
        Ok(Experts {
            count,
            per_token,
            width: self.optional_size(key)?.unwrap_or(width),
            renormalizes,
            balance: Some(coefficient).filter(|_| is_on),
            has_shared: false,
            modules,
        })
    }

    /// A list of layers by their numbers; empty where it is absent.
    pub(super) fn layers(&self, key: &str) -> Result<BTreeSet<usize>, ConfigError> {
        let wrong = || self.invalid(format!("`{key}` is not a list of layers' numbers"));
        match self.raw_value(key) {
            None | Some(Value::Null) => Ok(BTreeSet::new()),
            Some(Value::Array(list)) => {
                let number = |value: &Value| value.as_u64().and_then(|layer| usize::try_from(layer).ok());
                list.iter().map(|value| number(value).ok_or_else(wrong)).collect()
            }
            Some(_) => Err(wrong()),
        }
    }
}

impl ModelConfig {
    /// Gives some layers experts.
    pub(super) fn set_experts(
        &mut self,
        read: &Reader<'_>,
        experts: Experts,
        has: impl Fn(usize) -> bool,
    ) -> Result<(), ConfigError> {
        for (layer, spec) in self.layers.iter_mut().enumerate() {
            spec.has_experts = has(layer);
        }
        let layers = self.layers.iter().filter(|layer| layer.has_experts).count();
        if layers.saturating_mul(experts.count) > MOST {
            let count = experts.count;
            return Err(read.invalid(format!("it has {layers} layers of {count} experts; the most are {MOST} in all")));
        }
        self.experts = (layers > 0).then_some(experts);
        Ok(())
    }
}
