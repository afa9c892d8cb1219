//! Tensors that a file has and a model does not: what they hold, told by their values and not by their names. They are
//! left out where they say the same as what is there, as transformers 5 does; otherwise somebody must be told.

use super::files::{PIECE, TensorHeader, WeightHeaders, WeightsError, map, parse, to_f32, width_of};
use crate::architecture::config::ModelConfig;
use crate::architecture::rope::Rope;

const HEAD: &str = "lm_head.weight";
/// Rotary frequencies may differ by this share: files have them in bfloat16 too, which rounds to 1/256.
const ROUNDING: f32 = 0.01;

/// True where the config ties the output projection to the embedding and the file has another one. transformers 5 uses
/// that one (`PreTrainedModel.tie_weights`); [`ModelConfig::untie`] makes a config of it.
///
/// # Errors
/// [`WeightsError`] for files that cannot be read.
pub fn has_own_head(headers: &WeightHeaders, config: &ModelConfig) -> Result<bool, WeightsError> {
    let embedding = headers.tensors.get(&format!("{}.embed_tokens.weight", config.root));
    let (Some(head), Some(embedding)) = (headers.tensors.get(HEAD), embedding) else {
        return Ok(false);
    };
    Ok(config.tie_word_embeddings && config.scores.is_none() && !is_same(embedding, head)?)
}

/// The first tensor of rotary frequencies that are not those of the config. Readers of today compute them; the reader that
/// wrote such a file may have used them.
///
/// # Errors
/// [`WeightsError`] for files that cannot be read.
pub fn other_frequencies(headers: &WeightHeaders, config: &ModelConfig) -> Result<Option<String>, WeightsError> {
    let is_near = |found: &[f32], expected: &[f32]| {
        let near = |(found, expected): (&f32, &f32)| (found - expected).abs() <= ROUNDING * expected.abs();
        found.len() == expected.len() && found.iter().zip(expected).all(near)
    };
    for (name, header) in headers.tensors.iter().filter(|(name, _)| name.ends_with(".rotary_emb.inv_freq")) {
        // One value for each half of a head: what is much larger is none.
        let len = header.shape.iter().product::<usize>();
        let found = if len <= config.head_dim { values(header)? } else { None };
        // Old files have them before they are stretched.
        let is_known = |found: &[f32]| {
            let frequencies =
                |rope: &Rope| [rope.plain_frequencies(), rope.frequencies(false).0, rope.frequencies(true).0];
            config.ropes.iter().flat_map(frequencies).any(|expected| is_near(found, &expected))
        };
        if !found.is_some_and(|found| is_known(&found)) {
            return Ok(Some(name.clone()));
        }
    }
    Ok(None)
}

fn is_same(one: &TensorHeader, other: &TensorHeader) -> Result<bool, WeightsError> {
    if one.shape != other.shape {
        return Ok(false);
    }
    let maps = (map(&one.file)?, map(&other.file)?);
    let tensors = (parse(&one.file, &maps.0)?, parse(&other.file, &maps.1)?);
    let (Ok(one), Ok(other)) = (tensors.0.tensor(&one.name), tensors.1.tensor(&other.name)) else { return Ok(false) };
    if one.dtype() == other.dtype() {
        return Ok(one.data() == other.data());
    }
    // One was saved with another precision: equal as numbers is equal.
    let (Some(left), Some(right)) = (width_of(one.dtype()), width_of(other.dtype())) else { return Ok(false) };
    let mut pieces = one.data().chunks(PIECE * left).zip(other.data().chunks(PIECE * right));
    Ok(pieces.all(|(a, b)| to_f32(a, one.dtype()) == to_f32(b, other.dtype())))
}

fn values(header: &TensorHeader) -> Result<Option<Vec<f32>>, WeightsError> {
    let map = map(&header.file)?;
    let tensors = parse(&header.file, &map)?;
    let Ok(view) = tensors.tensor(&header.name) else { return Ok(None) };
    Ok(width_of(view.dtype()).map(|_| to_f32(view.data(), view.dtype())))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use safetensors::Dtype;
    use safetensors::tensor::{TensorView, serialize_to_file};

    use super::*;
    use crate::weights::read_headers;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn half(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes()).collect()
    }

    fn headers(directory: &Path, tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> WeightHeaders {
        let views: HashMap<&str, TensorView<'_>> = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()))
            .collect();
        serialize_to_file(views, None, &directory.join("model.safetensors")).unwrap();
        read_headers(directory).unwrap()
    }

    fn config(more: &str) -> ModelConfig {
        let text = format!(
            r#"{{"model_type": "llama", "hidden_size": 2, "intermediate_size": 2, "num_hidden_layers": 1, "head_dim": 4,
            "num_attention_heads": 1, "vocab_size": 2, {more}}}"#
        );
        ModelConfig::from_json(&text, Path::new("config.json")).unwrap()
    }

    #[test]
    fn a_head_is_the_embedding_by_its_values() {
        let embedding = [1.0, 2.0, 3.0, 4.0];
        for (head, dtype, expected) in [
            (bytes(&embedding), Dtype::F32, false),
            (half(&embedding), Dtype::BF16, false),
            (bytes(&[1.0, 2.0, 3.0, 4.5]), Dtype::F32, true),
            (half(&[1.0, 2.0, 3.0, 5.0]), Dtype::BF16, true),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let embed = ("model.embed_tokens.weight", Dtype::F32, vec![2, 2], bytes(&embedding));
            let headers = headers(directory.path(), &[embed, (HEAD, dtype, vec![2, 2], head)]);
            assert_eq!(
                has_own_head(&headers, &config(r#""tie_word_embeddings": true"#)).unwrap(),
                expected,
                "{dtype:?}"
            );
            assert!(!has_own_head(&headers, &config(r#""tie_word_embeddings": false"#)).unwrap());
        }
    }

    #[test]
    fn frequencies_of_another_base_are_noticed() {
        let name = "model.layers.0.self_attn.rotary_emb.inv_freq";
        // 10000^(-2i/4), as LlamaRotaryEmbedding of transformers has them.
        for (values, expected) in [([1.0, 0.01], None), ([1.0, 0.001], Some(name.to_owned()))] {
            let directory = tempfile::tempdir().unwrap();
            let headers = headers(directory.path(), &[(name, Dtype::BF16, vec![2], half(&values))]);
            assert_eq!(other_frequencies(&headers, &config(r#""rope_theta": 10000.0"#)).unwrap(), expected);
            let linear = r#""rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 4.0}"#;
            assert_eq!(other_frequencies(&headers, &config(linear)).unwrap(), expected);
        }
    }
}
