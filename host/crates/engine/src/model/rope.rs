//! Rotary position embeddings (Su et al., "RoFormer"): the frequencies of a model, stretched for long contexts as its config
//! says, and the table of rotations that devices read. Numbers are rounded to f32 where transformers rounds them
//! (`modeling_rope_utils.py`), so that far positions agree too.

use super::config::ModelConfig;
use crate::kernels::{Format, Kernels, at_mut};

/// How rotary frequencies are stretched for long contexts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// All frequencies divided by `factor`.
    Linear {
        /// Stretch.
        factor: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, a ramp between (Llama 3.1).
    Llama3 {
        /// Stretch of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are stretched.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context that the model was first trained with.
        original_max_position_embeddings: f64,
    },
    /// A ramp over the dimensions, and rotations that are longer than one (Peng et al., "YaRN: Efficient context window
    /// extension of large language models").
    Yarn {
        /// Stretch of the low frequencies.
        factor: f64,
        /// Length of a rotation.
        attention_factor: f64,
        /// Dimensions with more rotations than this in the original context are kept.
        beta_fast: f64,
        /// Dimensions with fewer are stretched whole.
        beta_slow: f64,
        /// The ends of the ramp are whole dimensions.
        truncate: bool,
        /// Context that the model was first trained with.
        original_max_position_embeddings: f64,
    },
}

/// The attention factor of YaRN where a config gives none: `get_mscale` of transformers.
pub(super) fn yarn_attention_factor(factor: f64, mscale: Option<f64>, mscale_all_dim: Option<f64>) -> f64 {
    let scale = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    match (mscale.filter(|&mscale| mscale != 0.0), mscale_all_dim.filter(|&mscale| mscale != 0.0)) {
        (Some(mscale), Some(all)) => scale(mscale) / scale(all),
        _ => scale(1.0),
    }
}

/// Frequencies before they are stretched: one for each half of a head.
pub fn plain_frequencies(config: &ModelConfig) -> Vec<f32> {
    (0..config.head_dim / 2).map(|index| 1.0 / period(config, index)).collect()
}

/// The base to the power of a dimension's share.
fn period(config: &ModelConfig, index: usize) -> f32 {
    let exponent = (2 * index) as f32 / config.head_dim as f32;
    config.rope_theta.powf(f64::from(exponent)) as f32
}

/// Frequencies as the model uses them, and the length of its rotations.
pub fn frequencies(config: &ModelConfig) -> (Vec<f32>, f32) {
    let plain = plain_frequencies(config);
    match config.rope_scaling {
        None => (plain, 1.0),
        Some(RopeScaling::Linear { factor }) => (plain.iter().map(|plain| plain / factor as f32).collect(), 1.0),
        Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }) => {
            let original = original_max_position_embeddings;
            let stretched = plain.iter().map(|&frequency| {
                let wavelength = std::f64::consts::TAU / f64::from(frequency);
                if wavelength > original / low_freq_factor {
                    frequency / factor as f32
                } else if wavelength < original / high_freq_factor {
                    frequency
                } else {
                    let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    let frequency = f64::from(frequency);
                    ((1.0 - smooth) * frequency / factor + smooth * frequency) as f32
                }
            });
            (stretched.collect(), 1.0)
        }
        Some(RopeScaling::Yarn {
            factor,
            attention_factor,
            beta_fast,
            beta_slow,
            truncate,
            original_max_position_embeddings,
        }) => {
            let dim = config.head_dim as f64;
            // The dimension that turns so often in the original context.
            let dimension = |rotations: f64| {
                let turns = original_max_position_embeddings / (rotations * std::f64::consts::TAU);
                dim * turns.ln() / (2.0 * config.rope_theta.ln())
            };
            let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
            if truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            (low, high) = (low.max(0.0), high.min(dim - 1.0));
            if low.to_bits() == high.to_bits() {
                high += 0.001;
            }
            let stretched = plain.iter().enumerate().map(|(index, &kept)| {
                let ramp = ((index as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                let keeps = 1.0 - ramp;
                let stretched = 1.0 / (factor as f32 * period(config, index));
                stretched * (1.0 - keeps) + kept * keeps
            });
            (stretched.collect(), attention_factor as f32)
        }
    }
}

/// Cosines and sines per position, `[positions, head_dim]`: half a row each.
pub fn rope_table<K: Kernels>(kernels: &K, config: &ModelConfig, positions: usize) -> K::Buffer {
    let (frequencies, length) = frequencies(config);
    let mut table = Vec::with_capacity(positions * config.head_dim);
    for position in 0..positions {
        let angle = |frequency: &f32| f64::from(position as f32 * frequency);
        table.extend(frequencies.iter().map(|frequency| angle(frequency).cos() as f32 * length));
        table.extend(frequencies.iter().map(|frequency| angle(frequency).sin() as f32 * length));
    }
    let mut buffer = kernels.alloc(Format::Exact, table.len());
    kernels.upload(&table, at_mut(&mut buffer, 0));
    buffer
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;

    /// `tests/fixtures/parity/rope.py` writes what transformers has.
    #[test]
    fn frequencies_are_those_of_transformers() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/fixtures/parity/rope.json");
        let file: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        for case in file["cases"].as_array().unwrap() {
            let config = ModelConfig::from_json(&case["config"].to_string(), Path::new("config.json")).unwrap();
            let (found, length) = frequencies(&config);
            let expected: Vec<f64> = case["frequencies"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                // A unit in the last place of f32, or two.
                assert!((f64::from(*found) / expected - 1.0).abs() < 3e-7, "{found} {expected} {}", case["config"]);
            }
            assert!((f64::from(length) / case["length"].as_f64().unwrap() - 1.0).abs() < 1e-7, "{}", case["config"]);
        }
    }
}
