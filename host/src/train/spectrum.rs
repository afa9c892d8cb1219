//! `spectrum_top_fraction`: which projections are trained, chosen by how much signal they hold. Signals are kept by the digest of
//! the weights, so that they are measured once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use engine::architecture::tensors::Role;
use engine::weights::spectrum::{is_measured, signals};
use engine::weights::{WeightSource, digest};
use serde::{Deserialize, Serialize};

use crate::check::facts::ModelFacts;
use crate::checkpoint::directory::replace_file;
use crate::config::LoadedConfig;
use crate::diagnostic::{Diagnostic, Failure, Severity};
use crate::digest::hex;
use crate::directories::cache;

/// The format of what is kept.
const VERSION: u32 = 1;
/// Bytes that a kept file may have.
const LIMIT: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Kept {
    v: u32,
    signals: BTreeMap<String, f64>,
}

/// What is trained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Names of parameters.
    pub names: BTreeSet<String>,
    /// Projections among them.
    pub projections: usize,
    /// Projections that there are.
    pub all: usize,
    /// The weights are not on this machine yet, so these are only as many as there will be.
    pub is_estimate: bool,
}

impl Chosen {
    /// What was chosen, as a note at the key.
    pub fn remark(&self, loaded: &LoadedConfig) -> Diagnostic {
        let message = format!("`spectrum_top_fraction` trains {} of {} projections", self.projections, self.all);
        let note = Diagnostic { severity: Severity::Note, ..Diagnostic::error("train::spectrum", message) };
        let why = if self.is_estimate {
            "which ones is known when the weights are here"
        } else {
            "those with most signal of each kind, with embedding and output projection; norms and the others stay as they are"
        };
        note.at(loaded.source.nearest_place("spectrum_top_fraction")).why(why)
    }
}

/// What `spectrum_top_fraction` selects; none without it.
///
/// # Errors
/// Weights that cannot be read, and a fraction that leaves no projection.
pub fn chosen(loaded: &LoadedConfig, model: &ModelFacts) -> Result<Option<Chosen>, Failure> {
    let Some(fraction) = loaded.config.techniques.spectrum_top_fraction else { return Ok(None) };
    if model.config.parameters().iter().any(|spec| matches!(spec.role, Role::Experts(_))) {
        let message =
            "`spectrum_top_fraction` is not for a model whose files hold all experts of a layer as one tensor";
        let diagnostic = Diagnostic::error("config::unsupported-value", message);
        let place = loaded.source.nearest_place("spectrum_top_fraction");
        let help = "name what is trained in `unfrozen_parameters`";
        return Err(diagnostic.at(place).help(help).into());
    }
    let is_here = match &model.weights {
        WeightSource::Directory(directory) => !loaded.elsewhere.headers.contains_key(directory),
        WeightSource::Random { .. } => false,
    };
    let signals = if is_here { Some(kept_or_measured(model)?) } else { None };
    let mut kinds: BTreeMap<String, Vec<(String, f64)>> = BTreeMap::new();
    let mut names = BTreeSet::new();
    for spec in model.config.parameters() {
        match (spec.role, spec.layer) {
            (role, Some(_)) if is_measured(role) => {
                let signal = signals.as_ref().and_then(|signals| signals.get(&spec.name).copied()).unwrap_or(0.0);
                kinds.entry(kind(&spec.name)).or_default().push((spec.name, signal));
            }
            (Role::Embedding | Role::Head, _) => drop(names.insert(spec.name)),
            _ => {}
        }
    }
    let all = kinds.values().map(Vec::len).sum();
    let mut projections = 0;
    for of_kind in kinds.values_mut() {
        // Those with as much signal stay in the order of the layers.
        of_kind.sort_by(|a, b| b.1.total_cmp(&a.1));
        let count = (of_kind.len() as f64 * fraction) as usize;
        projections += count;
        names.extend(of_kind.drain(..count).map(|(name, _)| name));
    }
    if projections == 0 {
        let message = format!("`spectrum_top_fraction: {fraction}` leaves no projection to train");
        let diagnostic = Diagnostic::error("config::out-of-range", message)
            .at(loaded.source.nearest_place("spectrum_top_fraction"))
            .why("of each kind as many are trained as this share of the layers, rounded down")
            .help(format!("raise it to {:.3} or more", 1.0 / model.config.num_hidden_layers.max(1) as f64));
        return Err(diagnostic.into());
    }
    // A bias goes with its projection.
    let biases: Vec<String> = model
        .config
        .parameters()
        .into_iter()
        .filter(|spec| matches!(spec.role, Role::Bias(_)))
        .filter(|spec| names.contains(&format!("{}.weight", spec.name.trim_end_matches(".bias"))))
        .map(|spec| spec.name)
        .collect();
    names.extend(biases);
    Ok(Some(Chosen { names, projections, all, is_estimate: !is_here }))
}

/// A parameter's name without the number of its layer: what it is compared by.
fn kind(name: &str) -> String {
    name.split('.').filter(|part| !part.bytes().all(|byte| byte.is_ascii_digit())).collect::<Vec<_>>().join(".")
}

fn kept_or_measured(model: &ModelFacts) -> Result<BTreeMap<String, f64>, Failure> {
    let file = match &model.weights {
        WeightSource::Directory(directory) => {
            let digest = hex(&digest(directory).map_err(Diagnostic::from)?);
            cache().map(|cache| cache.join("spectrum").join(format!("{digest}.json")))
        }
        WeightSource::Random { .. } => None,
    };
    if let Some(signals) = file.as_ref().and_then(|file| kept(file, model)) {
        return Ok(signals);
    }
    let signals = signals(&model.weights, &model.config, &mut |_, _| {}).map_err(Diagnostic::from)?;
    // What cannot be kept is measured again the next time.
    if let Some(file) = file {
        let text = serde_json::to_vec(&Kept { v: VERSION, signals: signals.clone() }).unwrap_or_default();
        let _ = file.parent().map(std::fs::create_dir_all);
        let _ = replace_file(&file, &text);
    }
    Ok(signals)
}

/// What was kept of these weights, if it is whole.
fn kept(file: &Path, model: &ModelFacts) -> Option<BTreeMap<String, f64>> {
    let kept: Kept = serde_json::from_slice(&intake::read(file, LIMIT).ok()?).ok()?;
    let projections = model.config.parameters().into_iter().filter(|spec| is_measured(spec.role));
    let is_whole =
        projections.map(|spec| spec.name).all(|name| kept.signals.get(&name).is_some_and(|signal| signal.is_finite()));
    (kept.v == VERSION && is_whole).then_some(kept.signals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_compared_with_each_other() {
        assert_eq!(kind("model.layers.12.self_attn.q_proj.weight"), "model.layers.self_attn.q_proj.weight");
        assert_eq!(kind("model.layers.3.mlp.experts.7.up_proj.weight"), "model.layers.mlp.experts.up_proj.weight");
    }
}
