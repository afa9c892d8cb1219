//! Which modules get an adapter: PEFT's `target_modules` and `layers_to_transform`, as it reads and writes them.

use std::collections::{BTreeMap, BTreeSet};

use crate::architecture::config::{ExpertModules, ModelConfig};
use crate::architecture::tensors::{ExpertParameter, LinearKind, Role, TensorSpec};

/// The output projection's name.
pub const HEAD: &str = "lm_head";

/// Modules that get an adapter: projections of decoder layers, and the output projection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modules {
    /// Layers that differ from the others.
    listed: BTreeMap<usize, BTreeSet<LinearKind>>,
    /// Projections of every other layer.
    others: BTreeSet<LinearKind>,
    head: bool,
    /// Tensors of experts and routers (PEFT's `target_parameters`), each with its layer.
    experts: BTreeSet<(usize, ExpertParameter)>,
}

impl Modules {
    /// These projections of every layer.
    pub fn of(kinds: impl IntoIterator<Item = LinearKind>) -> Self {
        Self { others: kinds.into_iter().collect(), ..Self::default() }
    }

    /// The same in these layers alone, where some are named.
    #[must_use]
    pub fn in_layers(self, layers: Option<&BTreeSet<usize>>) -> Self {
        let Some(layers) = layers else { return self };
        let listed = layers.iter().map(|&layer| (layer, self.others.clone())).collect();
        Self { listed, others: BTreeSet::new(), ..self }
    }

    /// The modules of a model that `selects` picks by their full names (`model.layers.0.self_attn.q_proj`, `lm_head`).
    pub fn matching(config: &ModelConfig, selects: impl Fn(&str) -> bool) -> Self {
        let kinds = |layer: usize| {
            config.adaptable_in(layer).filter(|&kind| selects(&full_name(config, layer, kind))).collect::<BTreeSet<_>>()
        };
        let listed = (0..config.num_hidden_layers).map(|layer| (layer, kinds(layer))).collect();
        let head = config.scores.is_none() && selects(HEAD);
        Self { listed, head, ..Self::default() }
    }

    /// What PEFT picks by a list of names: a name that is in the list, whatever `layers` says, and one that ends in an entry
    /// after a dot, in these layers.
    pub fn listed(config: &ModelConfig, entries: &[String], layers: Option<&BTreeSet<usize>>) -> Self {
        Self::matching(config, |name| entries.iter().any(|entry| is_picked(name, entry, layers)))
    }

    /// True if the projection of this layer gets one.
    pub fn has(&self, layer: usize, kind: LinearKind) -> bool {
        self.listed.get(&layer).unwrap_or(&self.others).contains(&kind)
    }

    /// True if the output projection gets one.
    pub fn has_head(&self) -> bool {
        self.head
    }

    /// The output projection too.
    #[must_use]
    pub fn with_head(self) -> Self {
        Self { head: true, ..self }
    }

    /// Tensors of experts and routers too: those whose full names are an entry, or end in one after a dot (PEFT's `target_parameters`).
    ///
    /// # Errors
    /// The first entry that picks nothing.
    pub fn with_parameters(mut self, config: &ModelConfig, entries: &[String]) -> Result<Self, String> {
        let all = expert_parameters(config);
        for entry in entries {
            let is_picked = |name: &str| {
                name.strip_suffix(entry.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            };
            let picked = all.iter().filter(|(_, _, name)| !entry.is_empty() && is_picked(name));
            let picked: Vec<_> = picked.map(|&(layer, tensor, _)| (layer, tensor)).collect();
            if picked.is_empty() {
                return Err(entry.clone());
            }
            self.experts.extend(picked);
        }
        Ok(self)
    }

    /// True if this parameter of a layer of experts gets one.
    pub fn has_parameter(&self, layer: usize, tensor: ExpertParameter) -> bool {
        self.experts.contains(&(layer, tensor))
    }

    /// True if some tensor of experts, or a router, gets one.
    pub fn has_parameters(&self) -> bool {
        !self.experts.is_empty()
    }

    /// `target_parameters` that pick the same parameters of a model: their paths in a layer where all layers are alike, or
    /// else full names.
    pub fn to_parameters(&self, config: &ModelConfig) -> Vec<String> {
        let Some(experts) = config.experts else { return Vec::new() };
        let all = expert_parameters(config);
        let has = |layer: usize, tensor: ExpertParameter| self.has_parameter(layer, tensor);
        let of = |tensor: ExpertParameter| {
            let own: Vec<_> = all.iter().filter(|(layer, own, _)| *own == tensor && has(*layer, tensor)).collect();
            if own.len() == config.expert_layers() {
                return vec![tensor.path(experts)];
            }
            own.into_iter().map(|(_, _, name)| name.clone()).collect()
        };
        ExpertParameter::ALL.into_iter().flat_map(of).collect()
    }

    /// The modules of either.
    #[must_use]
    pub fn or(self, other: &Self, config: &ModelConfig) -> Self {
        let has = |layer: usize, kind: LinearKind| self.has(layer, kind) || other.has(layer, kind);
        let kinds = |layer: usize| config.adaptable_in(layer).filter(|&kind| has(layer, kind)).collect();
        let listed = (0..config.num_hidden_layers).map(|layer| (layer, kinds(layer))).collect();
        let experts = self.experts.union(&other.experts).copied().collect();
        Self { listed, others: BTreeSet::new(), head: self.head || other.head, experts }
    }

    /// The full names of those that get one.
    pub fn names(&self, config: &ModelConfig) -> Vec<String> {
        let of = |layer: usize| {
            config
                .adaptable_in(layer)
                .filter(move |&kind| self.has(layer, kind))
                .map(move |kind| full_name(config, layer, kind))
        };
        let experts = expert_parameters(config).into_iter();
        let experts = experts.filter(|(layer, tensor, _)| self.has_parameter(*layer, *tensor)).map(|(_, _, name)| name);
        let head = self.head.then(|| HEAD.to_owned());
        (0..config.num_hidden_layers).flat_map(of).chain(head).chain(experts).collect()
    }

    /// True if nothing gets one.
    pub fn is_empty(&self) -> bool {
        !self.head && self.experts.is_empty() && self.others.is_empty() && self.listed.values().all(BTreeSet::is_empty)
    }

    /// A layer that is named and that a model of `layers` does not have.
    pub fn beyond(&self, layers: usize) -> Option<usize> {
        self.listed.range(layers..).find(|(_, kinds)| !kinds.is_empty()).map(|(&layer, _)| layer)
    }

    /// `target_modules` and `layers_to_transform` that pick the same modules of a model.
    pub fn to_peft(&self, config: &ModelConfig) -> (Vec<String>, Option<Vec<usize>>) {
        let layers = config.num_hidden_layers;
        let own: Vec<BTreeSet<LinearKind>> = (0..layers)
            .map(|layer| config.adaptable_in(layer).filter(|&kind| self.has(layer, kind)).collect())
            .collect();
        let adapted: Vec<usize> = (0..layers).filter(|&layer| !own[layer].is_empty()).collect();
        let head = self.head.then(|| HEAD.to_owned());
        let Some(&first) = adapted.first() else { return (head.into_iter().collect(), None) };
        // Other parts of a model have modules of the same names.
        let is_whole = config.others.is_empty();
        if is_whole && adapted.iter().all(|&layer| own[layer] == own[first]) {
            let names = own[first].iter().map(|kind| kind.name().to_owned()).chain(head).collect();
            return (names, (adapted.len() < layers).then_some(adapted));
        }
        let full = |&layer: &usize| own[layer].iter().map(move |&kind| full_name(config, layer, kind));
        (adapted.iter().flat_map(full).chain(head).collect(), None)
    }
}

/// The model's own weights that are trained and saved beside an adapter (PEFT's `modules_to_save`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// Ends of the full names of modules, as they were asked for.
    pub modules: Vec<String>,
    /// The parameters of these modules.
    pub parameters: BTreeSet<String>,
}

impl Saved {
    /// What PEFT picks: every module whose full name ends so, with all that it has. Of a model whose output projection is the
    /// embedding, each of the two is trained by itself, so the model gets an output projection of its own.
    ///
    /// # Errors
    /// An entry that picks nothing, and an entry that picks weights which are packed, with the first of these.
    pub fn new(config: &mut ModelConfig, entries: &[String]) -> Result<Self, NotSaved> {
        let is_of = |module: &str, entry: &String| !entry.is_empty() && module.ends_with(entry.as_str());
        let picks = |module: &str| entries.iter().any(|entry| is_of(module, entry));
        if picks(HEAD) || picks(&format!("{}.embed_tokens", config.root)) {
            config.split_head();
        }
        let mut specs = config.parameters();
        // PEFT's module of all experts has two tensors, which files do not have so; some routers have another name there.
        let is_else = config.experts.is_some_and(|experts| experts.modules != ExpertModules::Mlp);
        specs.retain(|spec| match spec.role {
            Role::Expert(..) | Role::Experts(_) => false,
            Role::Router => !is_else,
            _ => true,
        });
        let module = |name: &str| name.rsplit_once('.').map_or("", |(module, _)| module).to_owned();
        if let Some(entry) = entries.iter().find(|entry| !specs.iter().any(|spec| is_of(&module(&spec.name), entry))) {
            return Err(NotSaved::Nothing(entry.clone()));
        }
        let picked = specs.iter().filter(|spec| picks(&module(&spec.name)));
        let is_packed = |spec: &&TensorSpec| config.quantization.is_some() && matches!(spec.role, Role::Linear(_));
        if let Some(spec) = picked.clone().find(is_packed) {
            let name = module(&spec.name);
            let entry = entries.iter().find(|entry| is_of(&name, entry)).cloned().unwrap_or_default();
            return Err(NotSaved::Packed(entry, name));
        }
        let parameters = picked.map(|spec| spec.name.clone()).collect();
        Ok(Self { modules: entries.to_vec(), parameters })
    }

    /// A module that has an adapter and is among these too.
    pub fn adapted(&self, config: &ModelConfig, modules: &Modules) -> Option<String> {
        modules.names(config).into_iter().find(|module| self.parameters.contains(&format!("{module}.weight")))
    }
}

/// Why an entry of `modules_to_save` cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotSaved {
    /// No module's name ends so.
    Nothing(String),
    /// The weights of this module, the second, are packed: they cannot be trained.
    Packed(String, String),
}

/// The names of the modules of a model that can have an adapter. A head of scores is trained itself.
pub fn names(config: &ModelConfig) -> Vec<String> {
    let layers = (0..config.num_hidden_layers)
        .flat_map(|layer| config.adaptable_in(layer).map(move |kind| full_name(config, layer, kind)));
    layers.chain(config.scores.is_none().then(|| HEAD.to_owned())).collect()
}

/// Every tensor of experts and every router: its layer, what it is, and its full name in transformers' memory.
pub(crate) fn expert_parameters(config: &ModelConfig) -> Vec<(usize, ExpertParameter, String)> {
    let of = |layer: usize| {
        let experts = config.experts_of(layer).into_iter();
        experts.flat_map(move |experts| {
            ExpertParameter::ALL.map(|tensor| {
                let path = tensor.path(experts);
                (layer, tensor, format!("{}.layers.{layer}.{path}", config.root))
            })
        })
    };
    (0..config.num_hidden_layers).flat_map(of).collect()
}

/// The full name of a projection's module.
pub(super) fn full_name(config: &ModelConfig, layer: usize, kind: LinearKind) -> String {
    format!("{}.layers.{layer}.{}", config.root, kind.path())
}

/// `check_target_module_exists` of PEFT, for an entry of a list.
fn is_picked(name: &str, entry: &str, layers: Option<&BTreeSet<usize>>) -> bool {
    if name == entry {
        return true;
    }
    let is_suffix = !entry.is_empty() && name.strip_suffix(entry).is_some_and(|rest| rest.ends_with('.'));
    let layer = || name.split_once(".layers.")?.1.split('.').next()?.parse().ok();
    is_suffix && layers.is_none_or(|layers| layer().is_some_and(|layer| layers.contains(&layer)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config() -> ModelConfig {
        let text = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "intermediate_size": 12,
            "num_hidden_layers": 12, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 10,
            "rms_norm_eps": 1e-5, "max_position_embeddings": 32, "hidden_act": "silu"}"#;
        ModelConfig::from_json(text, Path::new("config.json")).unwrap()
    }

    fn listed(entries: &[&str], layers: Option<&[usize]>) -> Vec<String> {
        let (config, layers) = (config(), layers.map(|layers| layers.iter().copied().collect::<BTreeSet<_>>()));
        let entries: Vec<String> = entries.iter().map(ToString::to_string).collect();
        let picked = Modules::listed(&config, &entries, layers.as_ref());
        let is_picked = |name: &String| match name.strip_prefix("model.layers.") {
            None => picked.has_head(),
            Some(rest) => {
                let (layer, path) = rest.split_once('.').unwrap();
                let kind = LinearKind::from_name(path.rsplit('.').next().unwrap()).unwrap();
                picked.has(layer.parse().unwrap(), kind)
            }
        };
        names(&config).into_iter().filter(is_picked).collect()
    }

    #[test]
    fn a_list_picks_names_and_what_they_end_in() {
        assert_eq!(listed(&["q_proj"], None).len(), 12);
        assert_eq!(listed(&["self_attn.q_proj"], None).len(), 12);
        assert_eq!(listed(&["1.self_attn.q_proj"], None), ["model.layers.1.self_attn.q_proj"]);
        assert_eq!(listed(&["proj"], None), [""; 0], "only whole parts of a name");
        assert_eq!(listed(&["lm_head", "q_proj"], Some(&[3])), ["model.layers.3.self_attn.q_proj", "lm_head"]);
        let full = "model.layers.5.mlp.up_proj";
        assert_eq!(listed(&[full], Some(&[3])), [full], "a full name is not held against the layers");
    }

    #[test]
    fn what_is_written_for_peft_picks_the_same() {
        let config = config();
        let layers = BTreeSet::from([2, 3]);
        for modules in [
            Modules::of([LinearKind::QProj, LinearKind::DownProj]),
            Modules::of([LinearKind::QProj]).in_layers(Some(&layers)).with_head(),
            Modules::default().with_head(),
            Modules::matching(&config, |name| name.contains(".1.") || name.ends_with("layers.2.mlp.up_proj")),
        ] {
            let (names, layers) = modules.to_peft(&config);
            let again = Modules::listed(&config, &names, layers.map(|layers| layers.into_iter().collect()).as_ref());
            for layer in 0..12 {
                for kind in LinearKind::ALL {
                    assert_eq!(again.has(layer, kind), modules.has(layer, kind), "{names:?} {layer} {kind:?}");
                }
            }
            assert_eq!(again.has_head(), modules.has_head());
        }
        assert_eq!(Modules::of([LinearKind::QProj]).to_peft(&config), (vec!["q_proj".to_owned()], None));
    }
}
