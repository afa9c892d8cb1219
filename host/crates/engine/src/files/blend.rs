//! Several models put together as one, tensor by tensor, so that none of them is ever in memory: as a weighted mean, or on the
//! arc between two of them (Shoemake, "Animating rotation with quaternion curves", 1985; of flattened tensors, as mergekit does it).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};

use super::export::write_json;
use super::merge::{Merged, write};
use crate::EngineError;
use crate::architecture::config::ModelConfig;
use crate::architecture::tensors::{TensorSpec, name_in_model};
use crate::weights::{self, WeightHeaders, map, parse, to_f32};

/// Cosine above which two tensors are taken to point the same way, so that the arc between them is a line.
const PARALLEL: f64 = 0.9995;
/// Length below which a tensor has no direction.
const LEAST: f64 = 1e-8;

/// How models become one.
#[derive(Debug, Clone, PartialEq)]
pub enum Blend {
    /// Their mean with these weights, one for each, whatever their sum, which is not 0.
    Linear(Vec<f64>),
    /// Of two models, what is this far on the way from the first to the second, from 0 to 1, on the arc between them.
    Slerp(f64),
}

impl Blend {
    /// The blend of the values that a tensor has in each model.
    fn of(&self, values: &[Vec<f32>]) -> Vec<f32> {
        let sum = |factors: &[f64]| -> Vec<f32> {
            let element = |index: usize| {
                values.iter().zip(factors).map(|(own, factor)| factor * f64::from(own[index])).sum::<f64>()
            };
            (0..values[0].len()).map(|index| element(index) as f32).collect()
        };
        match self {
            Self::Linear(weights) => {
                let all: f64 = weights.iter().sum();
                sum(&weights.iter().map(|weight| weight / all).collect::<Vec<_>>())
            }
            Self::Slerp(t) => sum(&arc(&values[0], &values[1], *t)),
        }
    }
}

/// The factors of two tensors for what is `t` of the way on the arc between them.
fn arc(a: &[f32], b: &[f32], t: f64) -> [f64; 2] {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let lengths = dot(a, a).sqrt() * dot(b, b).sqrt();
    let cosine = if lengths > LEAST * LEAST { (dot(a, b) / lengths).clamp(-1.0, 1.0) } else { 0.0 };
    if cosine.abs() > PARALLEL {
        return [1.0 - t, t];
    }
    let angle = cosine.acos();
    [((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()]
}

/// Writes the blend of models that are computed as `config` says: weights in the types of the first model, whose other parts go
/// along, its `config.json`, and an index where there are several files. Returns the files.
///
/// # Errors
/// [`EngineError`] says what is wrong with the files of a model, or names the file that cannot be written, or a tensor that
/// holds no numbers any more.
pub fn blend(
    config: &ModelConfig,
    models: &[PathBuf],
    how: &Blend,
    directory: &Path,
) -> Result<Vec<PathBuf>, EngineError> {
    let mut all = Vec::new();
    for model in models {
        let headers = weights::read_headers(model)?;
        weights::check_headers(model, &headers, config)?;
        all.push(headers);
    }
    let Some((first, others)) = all.split_first() else {
        return Err(EngineError::Options { reason: "there is no model to blend".into() });
    };
    let specs: BTreeMap<String, TensorSpec> =
        config.parameters().into_iter().map(|spec| (spec.name.clone(), spec)).collect();
    let (mut files, mut weight_map, mut total) = (Vec::new(), Map::new(), 0);
    for source in &first.files {
        let mapped = map(source)?;
        let tensors = parse(source, &mapped)?;
        let mut names = tensors.names();
        names.sort_unstable();
        let entries: Vec<Merged<'_>> = names
            .into_iter()
            .filter_map(|name| match specs.get(&name_in_model(name)) {
                Some(spec) => Some(Merged { spec: Some(spec), source: name }),
                None => weights::is_of_another_part(name, config).then_some(Merged { spec: None, source: name }),
            })
            .collect();
        let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
        weight_map.extend(entries.iter().map(|entry| (entry.name(config), name.clone().into())));
        let path = directory.join(&name);
        let mut values = |spec: &TensorSpec, view: &TensorView<'_>| -> Result<Option<Vec<f32>>, EngineError> {
            let mut all = vec![to_f32(view.data(), view.dtype())];
            for headers in others {
                all.push(read(headers, &spec.name)?);
            }
            Ok(Some(how.of(&all)))
        };
        total += write(&path, config, &tensors, &entries, &|_, own| own, &mut values)?;
        files.push(path);
    }
    if files.len() > 1 || first.files[0].file_name().is_some_and(|name| name != "model.safetensors") {
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        files.push(write_json(directory, "model.safetensors.index.json", &index)?);
    }
    files.push(write_json(directory, "config.json", &Value::Object(config.raw.clone()))?);
    Ok(files)
}

/// The values of a tensor, which the headers have been found to hold.
fn read(headers: &WeightHeaders, name: &str) -> Result<Vec<f32>, EngineError> {
    let header = &headers.tensors[name];
    let mapped = map(&header.file)?;
    let tensors = parse(&header.file, &mapped)?;
    let view = tensors
        .tensor(&header.name)
        .map_err(|error| weights::WeightsError::Invalid { file: header.file.clone(), reason: error.to_string() })?;
    Ok(to_f32(view.data(), view.dtype()))
}
