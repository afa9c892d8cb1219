//! Families of models: what transformers' classes make of a `config.json`. A file each; what a family can say is in
//! [`ModelConfig`](super::config::ModelConfig), so a family that needs nothing new is a page.

mod apertus;
mod arcee;
mod cwm;
mod ernie;
mod exaone4;
pub(super) mod family;
mod gemma;
mod glm;
mod granite;
mod granite4;
mod granite_moe;
mod helium;
mod hunyuan;
mod hyperclova_x;
mod llama;
mod ministral3;
mod mistral;
mod mixtral;
mod olmo;
mod olmoe;
mod phi3;
mod qwen;
mod qwen_moe;
mod seed_oss;
mod smollm3;

use self::family::{Composite, Family};
use super::config::ConfigError;
use super::read::Reader;

const FAMILIES: [&Family; 31] = [
    &llama::LLAMA,
    &mistral::MISTRAL,
    &mistral::MINISTRAL,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &gemma::GEMMA2,
    &gemma::GEMMA3,
    &phi3::PHI3,
    &smollm3::SMOLLM3,
    &granite::GRANITE,
    &granite4::GRANITE4,
    &olmo::OLMO2,
    &olmo::OLMO3,
    &seed_oss::SEED_OSS,
    &arcee::ARCEE,
    &ernie::ERNIE4_5,
    &glm::GLM,
    &glm::GLM4,
    &exaone4::EXAONE4,
    &hunyuan::HUNYUAN,
    &ministral3::MINISTRAL3,
    &gemma::GEMMA,
    &gemma::VAULT_GEMMA,
    &helium::HELIUM,
    &cwm::CWM,
    &apertus::APERTUS,
    &hyperclova_x::HYPERCLOVA_X,
    &qwen_moe::QWEN3_MOE,
    &mixtral::MIXTRAL,
    &olmoe::OLMOE,
    &granite_moe::GRANITE_MOE,
];

const COMPOSITES: [&Composite; 2] = [&gemma::GEMMA3_WITH_IMAGES, &ministral3::MISTRAL3_WITH_IMAGES];

/// Models whose text models can be trained, by transformers' names.
pub const COMPOSITE_ARCHITECTURES: [&str; COMPOSITES.len()] = [COMPOSITES[0].architecture, COMPOSITES[1].architecture];

/// The model of several parts that a file is of, if it is of one.
pub(super) fn composite(read: &Reader<'_>) -> Option<&'static Composite> {
    let named = |model: &&Composite| match (read.text("model_type"), read.listed_architecture()) {
        (Some(name), _) => name == model.model_type,
        (None, name) => name == Some(model.architecture),
    };
    COMPOSITES.into_iter().find(named).filter(|_| read.raw_value("text_config").is_some())
}

/// The architectures that can be trained, by transformers' names.
pub const ARCHITECTURES: [&str; FAMILIES.len()] = {
    let mut names = [""; FAMILIES.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = FAMILIES[index].architecture;
        index += 1;
    }
    names
};

/// The family of a file: `model_type` decides, as it does for transformers' `AutoConfig`; `architectures` must be one of
/// these too.
pub(super) fn of(read: &Reader<'_>) -> Result<&'static Family, ConfigError> {
    let known = || format!("{} can be trained", ARCHITECTURES.join(", "));
    let find = |is_it: &dyn Fn(&Family) -> bool| FAMILIES.into_iter().find(|family| is_it(family));
    let (listed, model_type) = (read.listed_architecture(), read.text("model_type"));
    let has = |family: &Family, name: &str| family.architecture == name || family.classifiers.contains(&Some(name));
    let by_name = listed.and_then(|name| find(&|family| has(family, name)));
    let by_type = model_type.and_then(|name| find(&|family| family.model_type == name));
    match (listed, model_type) {
        (Some(name), _) if by_name.is_none() => Err(read.unsupported(format!("architecture {name}"), &known())),
        (_, Some(name)) if by_type.is_none() => Err(read.unsupported(format!("model_type {name}"), &known())),
        _ => {
            by_type.or(by_name).ok_or_else(|| read.invalid("it names neither `architectures` nor `model_type`".into()))
        }
    }
}
