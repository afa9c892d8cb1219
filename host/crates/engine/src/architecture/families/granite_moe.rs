//! Granite 3 with experts in all layers.

use super::family::{Defaults, Family, NORMS_BEFORE};
use super::granite;
use crate::architecture::config::{ConfigError, ExpertModules, ModelConfig};
use crate::architecture::read::Reader;
use crate::architecture::read_experts::Keys;

pub(super) const GRANITE_MOE: Family = Family {
    model_type: "granitemoe",
    architecture: "GraniteMoeForCausalLM",
    classifiers: [None; 2],
    defaults: Defaults::LLAMA,
    norms: NORMS_BEFORE,
    build,
};

/// Those of Granite 4 too.
pub(super) const KEYS: Keys = Keys { count: 8, per_token: 2, width: ("intermediate_size", 11_008), balance: 0.001 };

fn build(read: &Reader<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    granite::multiply(read, config, &GRANITE_MOE, &["attention_bias"])?;
    let experts = read.experts(&KEYS, true, ExpertModules::Joined)?;
    config.set_experts(read, experts, |_| true)
}
