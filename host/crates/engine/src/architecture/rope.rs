//! Rotary position embeddings (Su et al., "RoFormer"): the frequencies of a model, stretched for long contexts as its config
//! says. Numbers are rounded to f32 where transformers rounds them
//! (`modeling_rope_utils.py`), so that far positions agree too.

/// Rotary frequencies of some layers of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Elements of a head that are rotated, its first.
    pub rotary_dim: usize,
    /// How the frequencies are stretched.
    pub scaling: Option<RopeScaling>,
    /// See [`Rotation::is_interleaved`](crate::kernels::Rotation::is_interleaved).
    pub is_interleaved: bool,
    /// Rotations that are longer the later a position is, where there are such.
    pub growth: Option<Growth>,
}

/// Rotations of length `1 + beta ln(1 + floor(position / original))`: attention of long texts stays as sharp as that of short
/// ones (Llama 4).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growth {
    /// How fast they grow.
    pub beta: f64,
    /// Context that the model was first trained with.
    pub original_max_position_embeddings: f64,
}

impl Growth {
    fn length(self, position: usize) -> f32 {
        let contexts = (position as f32 / self.original_max_position_embeddings as f32).floor();
        1.0 + self.beta as f32 * (1.0 + contexts).ln()
    }
}

/// How rotary frequencies are stretched for long contexts.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// All frequencies divided by `factor`.
    Linear {
        /// Stretch.
        factor: f64,
    },
    /// As they are up to the model's positions; beyond, the base would grow with the text (transformers' `dynamic`).
    Dynamic,
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
    /// Each frequency divided by a factor of its own, and rotations that are longer than one (Ding et al., "LongRoPE:
    /// Extending LLM context window beyond 2 million tokens").
    LongRope {
        /// For texts within the original context.
        short_factor: Vec<f32>,
        /// For longer ones.
        long_factor: Vec<f32>,
        /// Length of a rotation.
        attention_factor: f64,
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

impl Rope {
    /// Frequencies before they are stretched: one for each half of what is rotated.
    pub fn plain_frequencies(&self) -> Vec<f32> {
        (0..self.rotary_dim / 2).map(|index| 1.0 / self.period(index)).collect()
    }

    /// The base to the power of a dimension's share.
    fn period(&self, index: usize) -> f32 {
        let exponent = (2 * index) as f32 / self.rotary_dim as f32;
        self.theta.powf(f64::from(exponent)) as f32
    }

    /// Tokens beyond which a text has other frequencies than a short one.
    pub fn limit(&self) -> Option<usize> {
        match &self.scaling {
            Some(RopeScaling::LongRope { original_max_position_embeddings, .. }) => {
                Some(*original_max_position_embeddings as usize)
            }
            _ => None,
        }
    }

    /// Frequencies as the model uses them in texts beyond [`Self::limit`], or in the others; and the length of its rotations.
    pub fn frequencies(&self, long: bool) -> (Vec<f32>, f32) {
        let plain = self.plain_frequencies();
        match &self.scaling {
            None | Some(RopeScaling::Dynamic) => (plain, 1.0),
            Some(RopeScaling::Linear { factor }) => (plain.iter().map(|plain| plain / *factor as f32).collect(), 1.0),
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: original,
            }) => {
                let stretched = plain.iter().map(|&frequency| {
                    let wavelength = std::f64::consts::TAU / f64::from(frequency);
                    if wavelength > original / low_freq_factor {
                        frequency / *factor as f32
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
                let dim = self.rotary_dim as f64;
                // The dimension that turns so often in the original context.
                let dimension = |rotations: f64| {
                    let turns = original_max_position_embeddings / (rotations * std::f64::consts::TAU);
                    dim * turns.ln() / (2.0 * self.theta.ln())
                };
                let (mut low, mut high) = (dimension(*beta_fast), dimension(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(dim - 1.0));
                if low.to_bits() == high.to_bits() {
                    high += 0.001;
                }
                let stretched = plain.iter().enumerate().map(|(index, &kept)| {
                    let ramp = ((index as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    let keeps = 1.0 - ramp;
                    let stretched = 1.0 / (*factor as f32 * self.period(index));
                    stretched * (1.0 - keeps) + kept * keeps
                });
                (stretched.collect(), *attention_factor as f32)
            }
            Some(RopeScaling::LongRope { short_factor, long_factor, attention_factor, .. }) => {
                let factors = if long { long_factor } else { short_factor };
                let stretched = factors.iter().enumerate().map(|(index, factor)| 1.0 / (factor * self.period(index)));
                (stretched.collect(), *attention_factor as f32)
            }
        }
    }

    /// Cosines and sines per position, `[positions, rotary_dim]`: half a row each.
    pub(crate) fn table(&self, positions: usize, long: bool) -> impl Iterator<Item = f32> {
        let (frequencies, length) = self.frequencies(long);
        let growth = self.growth;
        (0..positions).flat_map(move |position| {
            let length = length * growth.map_or(1.0, |growth| growth.length(position));
            let angle = |frequency: &f32| f64::from(position as f32 * frequency);
            let cosines = frequencies.iter().map(|frequency| angle(frequency).cos() as f32 * length);
            let sines = frequencies.iter().map(|frequency| angle(frequency).sin() as f32 * length);
            cosines.chain(sines).collect::<Vec<_>>()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use crate::architecture::config::ModelConfig;

    /// `tests/fixtures/parity/rope.py` writes what transformers has.
    #[test]
    fn frequencies_are_those_of_transformers() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/fixtures/parity/rope.json");
        let file: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        for case in file["cases"].as_array().unwrap() {
            let config = ModelConfig::from_json(&case["config"].to_string(), Path::new("config.json")).unwrap();
            let is_long = case["long"].as_bool().unwrap_or(false);
            let (found, length) = config.ropes[0].frequencies(is_long);
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
