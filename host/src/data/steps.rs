//! Labelled steps as tokens: a prompt, then each step with a separator behind it, whose last token has the step's label. As
//! TRL's `PRMTrainer` has it: every text is encoded by itself, and the token that begins texts stands before the prompt.

use std::collections::BTreeSet;
use std::ops::Range;

use plugin_runtime::types::{Stepwise, Text};

use super::tokenize::{Encoded, Encoder, TokenSample, TokenizeError};

/// How the steps of a dataset become a text (`step_separator` and what stands beside it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepFormat {
    /// What stands behind each step.
    pub separator: String,
    /// Tokens that all steps together may have; what is beyond is cut off.
    pub max_completion_length: Option<usize>,
    /// Only the last step of a text is learned.
    pub last_only: bool,
}

impl Default for StepFormat {
    fn default() -> Self {
        Self { separator: "\n".to_owned(), max_completion_length: None, last_only: false }
    }
}

/// Why steps could not become tokens.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepsError {
    /// A text of them.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
    /// A label that is none of the model's.
    #[error("step {step} has the label {label}; labels are whole numbers below {labels}, or true and false")]
    Label {
        /// Which, counted from 1.
        step: usize,
        /// Its label.
        label: f32,
        /// Labels that the model has.
        labels: usize,
    },
    /// A step without a token that its label could stand at.
    #[error("step {step} has no token, and neither has `step_separator`")]
    Empty {
        /// Which, counted from 1.
        step: usize,
    },
}

/// The tokens of labelled steps, those with a label marked as learned, and the labels in their order. `labels` is how many the
/// model has.
pub(super) fn encode(
    encoder: &Encoder<'_>,
    labelled: &Stepwise,
    format: &StepFormat,
    labels: usize,
) -> Result<(Encoded, Vec<u32>), StepsError> {
    let mut encoded = prompt(encoder, &labelled.prompt)?;
    let steps = &labelled.steps;
    let bytes: usize = steps.iter().map(|step| step.text.len() + format.separator.len()).sum();
    if bytes > encoder.budget.bytes && !encoder.budget.cuts {
        return Err(TokenizeError::TooLong { bytes: bytes + encoded.text.len() }.into());
    }
    let (start, mut own) = (encoded.tokens.ids.len(), Vec::new());
    for (index, step) in steps.iter().enumerate() {
        let number = index + 1;
        let label = step.label as u32;
        let is_label = step.label >= 0.0 && step.label.fract() <= 0.0 && (label as usize) < labels;
        if !is_label {
            return Err(StepsError::Label { step: number, label: step.label, labels });
        }
        if encoded.text.len() > encoder.budget.bytes {
            break;
        }
        let before = encoded.tokens.ids.len();
        push(encoder, &mut encoded, &step.text)?;
        push(encoder, &mut encoded, &format.separator)?;
        if encoded.tokens.ids.len() == before {
            return Err(StepsError::Empty { step: number });
        }
        if number == steps.len() || !format.last_only {
            if let Some(last) = encoded.tokens.trained.last_mut() {
                *last = true;
            }
            own.push(label);
        }
    }
    if let Some(most) = format.max_completion_length {
        encoded.tokens.truncate(start + most);
    }
    Ok((encoded, own))
}

/// The tokens of the prompt.
fn prompt(encoder: &Encoder<'_>, prompt: &Text) -> Result<Encoded, TokenizeError> {
    let Text::Segments(segments) = prompt else { return encoder.encode_prompt(prompt) };
    let text: String = segments.iter().map(|segment| segment.text.as_str()).collect();
    if text.len() > encoder.budget.bytes && !encoder.budget.cuts {
        return Err(TokenizeError::TooLong { bytes: text.len() });
    }
    let text = text[..text.floor_char_boundary(encoder.budget.bytes)].to_owned();
    let bos: Vec<u32> = encoder.tokenizer.bos().into_iter().collect();
    let tokens = TokenSample { trained: vec![false; bos.len()], ids: bos, weights: None };
    let places = vec![0..0; tokens.ids.len()];
    let mut encoded = Encoded { tokens, text: String::new(), places, unwritten: BTreeSet::new() };
    push(encoder, &mut encoded, &text)?;
    Ok(encoded)
}

/// Adds the tokens of a text.
fn push(encoder: &Encoder<'_>, encoded: &mut Encoded, text: &str) -> Result<(), TokenizeError> {
    if text.is_empty() {
        return Ok(());
    }
    let start = encoded.text.len();
    for token in encoder.tokenizer.encode(text)? {
        encoded.tokens.ids.push(token.id);
        encoded.tokens.trained.push(false);
        let place: Range<usize> = start + token.start..start + token.end;
        encoded.places.push(place);
    }
    encoded.text.push_str(text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use plugin_runtime::types::{Segment, Step};

    use super::super::tokenize::TextBudget;
    use super::super::tokenizer::{Changes, Tokenizer};
    use super::*;

    fn labelled(steps: &[(&str, f32)]) -> Stepwise {
        let prompt = Text::Segments(vec![Segment { text: "2+2?".to_owned(), train: false, weight: None }]);
        let step = |&(text, label): &(&str, f32)| Step { text: text.to_owned(), label };
        Stepwise { prompt, steps: steps.iter().map(step).collect() }
    }

    fn with_encoder(check: impl Fn(&Encoder<'_>)) {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/quickstart/model");
        let tokenizer = Tokenizer::load(&model, &Changes::default()).unwrap();
        check(&Encoder {
            tokenizer: &tokenizer,
            template: None,
            train_on_inputs: false,
            end_of_turn: Vec::new(),
            keeps_text: true,
            budget: TextBudget::of(64, false),
        });
    }

    #[test]
    fn a_label_stands_at_the_end_of_its_step() {
        with_encoder(|encoder| {
            let ids =
                |text: &str| encoder.tokenizer.encode(text).unwrap().iter().map(|token| token.id).collect::<Vec<_>>();
            let steps = labelled(&[("It is two", 1.0), ("so five.", 0.0)]);
            let (encoded, labels) = encode(encoder, &steps, &StepFormat::default(), 2).unwrap();
            let (prompt, one, two, end) = (ids("2+2?"), ids("It is two"), ids("so five."), ids("\n"));
            let bos: Vec<u32> = encoder.tokenizer.bos().into_iter().collect();
            assert_eq!(bos.len(), 1);
            assert_eq!(encoded.tokens.ids, [&bos[..], &prompt, &one, &end, &two, &end].concat());
            let first = 1 + prompt.len() + one.len() + end.len() - 1;
            let all: Vec<usize> = (0..encoded.tokens.ids.len()).filter(|&at| encoded.tokens.trained[at]).collect();
            assert_eq!((all, labels), (vec![first, encoded.tokens.ids.len() - 1], vec![1, 0]));
            assert_eq!(encoded.text, "2+2?It is two\nso five.\n");
            assert_eq!(encoded.text[encoded.places[first].clone()], *"\n");
            let last = StepFormat { last_only: true, ..StepFormat::default() };
            let (encoded, labels) = encode(encoder, &steps, &last, 2).unwrap();
            assert_eq!((encoded.tokens.trained.iter().filter(|&&at| at).count(), labels), (1, vec![0]));
            let short = StepFormat { max_completion_length: Some(one.len() + end.len() + 1), ..StepFormat::default() };
            let (encoded, _) = encode(encoder, &steps, &short, 2).unwrap();
            assert_eq!(encoded.tokens.ids.len(), first + 2);
            assert_eq!(encoded.tokens.trained.iter().filter(|&&at| at).count(), 1);
        });
    }

    #[test]
    fn what_is_no_step_is_named() {
        with_encoder(|encoder| {
            let told = |steps: &[(&str, f32)], format: &StepFormat| {
                encode(encoder, &labelled(steps), format, 2).unwrap_err().to_string()
            };
            let plain = StepFormat::default();
            for label in [2.0, 0.5, -1.0, f32::NAN] {
                let words =
                    format!("step 2 has the label {label}; labels are whole numbers below 2, or true and false");
                assert_eq!(told(&[("a", 1.0), ("b", label)], &plain), words);
            }
            let none = StepFormat { separator: String::new(), ..plain };
            assert_eq!(told(&[("a", 1.0), ("", 0.0)], &none), "step 2 has no token, and neither has `step_separator`");
        });
    }
}
