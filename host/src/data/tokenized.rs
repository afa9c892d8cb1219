//! Rows that are tokens already: the columns `input_ids`, `labels` and `attention_mask`, as transformers and Axolotl have them. A
//! dataset of such rows has an empty `type`, or `tokenized`.
//!
//! This strategy is the host's own. A plugin gives texts, which every model's tokenizer can read; the ids of a row belong to
//! one tokenizer, and whether they are ids of this model only the host can tell.

use plugin_runtime::PluginError;
use plugin_runtime::types::RowError;
use serde_json::{Map, Value};

use super::strategy::{Made, PromptStrategy};
use super::tokenize::TokenSample;

/// The label of a token that is not learned.
const MASKED: i64 = -100;

/// The strategy.
#[derive(Debug)]
pub struct Tokenized;

impl PromptStrategy for Tokenized {
    fn begin(&mut self) -> Result<(), PluginError> {
        Ok(())
    }

    fn render(&mut self, rows: &[String]) -> Result<Vec<Result<Option<Made>, RowError>>, PluginError> {
        Ok(rows.iter().map(|row| tokens(row).map(|tokens| Some(Made::Tokens(tokens)))).collect())
    }
}

fn bad(field: &str, message: impl Into<String>) -> RowError {
    RowError { message: message.into(), field: Some(field.to_owned()) }
}

fn tokens(row: &str) -> Result<TokenSample, RowError> {
    let row: Map<String, Value> = serde_json::from_str(row)
        .map_err(|error| RowError { message: format!("the row is not a JSON object: {error}"), field: None })?;
    let ids = needed(&row, "input_ids")?;
    let labels = needed(&row, "labels")?;
    let attended = numbers(&row, "attention_mask")?;
    let length = ids.len();
    for (name, list) in [("labels", Some(&labels)), ("attention_mask", attended.as_ref())] {
        if let Some(list) = list.filter(|list| list.len() != length) {
            return Err(bad(name, format!("`{name}` has {} numbers, and `input_ids` has {length}", list.len())));
        }
    }
    // Padding at either end is nothing that the model sees.
    let attended = attended.unwrap_or_else(|| vec![1; length]);
    if let Some(at) = attended.iter().position(|number| !matches!(number, 0 | 1)) {
        return Err(bad("attention_mask", format!("`attention_mask[{at}]` is {}, not 0 or 1", attended[at])));
    }
    let start = attended.iter().position(|&number| number == 1).unwrap_or(length);
    let end = attended.iter().rposition(|&number| number == 1).map_or(start, |last| last + 1);
    if let Some(at) = (start..end).find(|&at| attended[at] == 0) {
        let message = format!("`attention_mask[{at}]` is 0 in the middle of the row; only padding at its ends can be");
        return Err(bad("attention_mask", message));
    }
    if let Some(positions) = numbers(&row, "position_ids")? {
        let own = positions.get(start..end).unwrap_or_default();
        if own.len() != end - start || !own.iter().copied().eq(0..own.len() as i64) {
            let message = "`position_ids` does not count the tokens from 0; rows of several texts must be split";
            return Err(bad("position_ids", message));
        }
    }
    let mut sample = TokenSample { ids: Vec::new(), trained: Vec::new(), weights: None };
    for at in 0..length {
        let (id, label) = (ids[at], labels[at]);
        let is_learned = label != MASKED;
        if !(start..end).contains(&at) {
            if is_learned {
                return Err(bad("labels", format!("`labels[{at}]` is {label}, where `attention_mask` is 0")));
            }
            continue;
        }
        let Ok(id) = u32::try_from(id) else {
            return Err(bad("input_ids", format!("`input_ids[{at}]` is {id}, which is no token")));
        };
        if is_learned && label != i64::from(id) {
            let message = format!(
                "`labels[{at}]` is {label}, but `input_ids[{at}]` is {id}: a label is the token itself, or {MASKED} where it is not learned"
            );
            return Err(bad("labels", message));
        }
        sample.ids.push(id);
        sample.trained.push(is_learned);
    }
    if sample.ids.is_empty() {
        return Err(bad("input_ids", "the row has no token"));
    }
    Ok(sample)
}

fn needed(row: &Map<String, Value>, name: &str) -> Result<Vec<i64>, RowError> {
    numbers(row, name)?.ok_or_else(|| {
        let has: Vec<&str> = row.keys().take(8).map(String::as_str).collect();
        let has = if has.is_empty() { "no column at all".to_owned() } else { has.join(", ") };
        bad(name, format!("the row has no `{name}`, which rows of tokens have; it has {has}"))
    })
}

/// A list of whole numbers; none where there is no such column.
fn numbers(row: &Map<String, Value>, name: &str) -> Result<Option<Vec<i64>>, RowError> {
    match row.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(list)) => {
            let number = |(at, value): (usize, &Value)| {
                value.as_i64().ok_or_else(|| bad(name, format!("`{name}[{at}]` is not a whole number")))
            };
            list.iter().enumerate().map(number).collect::<Result<_, _>>().map(Some)
        }
        Some(_) => Err(bad(name, format!("`{name}` must be a list of whole numbers"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn made(row: Value) -> Result<(Vec<u32>, Vec<bool>), String> {
        tokens(&row.to_string()).map(|sample| (sample.ids, sample.trained)).map_err(|error| error.message)
    }

    #[test]
    fn labels_say_what_is_learned_and_padding_is_left_out() {
        let row = json!({"input_ids": [1, 5, 6], "labels": [-100, 5, -100], "attention_mask": [1, 1, 1], "x": null});
        assert_eq!(made(row), Ok((vec![1, 5, 6], vec![false, true, false])));
        let row = json!({"input_ids": [0, 5, 6, 0], "labels": [-100, 5, 6, -100], "attention_mask": [0, 1, 1, 0], "position_ids": [0, 0, 1, 0]});
        assert_eq!(made(row), Ok((vec![5, 6], vec![true, true])));
        assert_eq!(made(json!({"input_ids": [7], "labels": [7]})), Ok((vec![7], vec![true])));
    }

    #[test]
    fn rows_that_say_two_things_are_refused() {
        let told = |row: Value| made(row).unwrap_err();
        assert_eq!(told(json!({"text": "x"})), "the row has no `input_ids`, which rows of tokens have; it has text");
        let row = json!({"input_ids": [1]});
        assert_eq!(told(row), "the row has no `labels`, which rows of tokens have; it has input_ids");
        let ids = |ids: Value, labels: Value, mask: Value| json!({"input_ids": ids, "labels": labels, "attention_mask": mask});
        assert_eq!(told(ids(json!("1"), json!([]), json!([]))), "`input_ids` must be a list of whole numbers");
        assert_eq!(told(ids(json!([1.5]), json!([1]), json!([1]))), "`input_ids[0]` is not a whole number");
        assert_eq!(told(ids(json!([1, 2]), json!([1]), json!(null))), "`labels` has 1 numbers, and `input_ids` has 2");
        assert_eq!(told(ids(json!([-1]), json!([-100]), json!(null))), "`input_ids[0]` is -1, which is no token");
        let row = ids(json!([1, 2]), json!([1, 3]), json!(null));
        assert!(told(row).starts_with("`labels[1]` is 3, but `input_ids[1]` is 2: a label is the token itself"));
        assert_eq!(told(ids(json!([1]), json!([1]), json!([0]))), "`labels[0]` is 1, where `attention_mask` is 0");
        assert_eq!(told(ids(json!([1]), json!([1]), json!([2]))), "`attention_mask[0]` is 2, not 0 or 1");
        let row = ids(json!([1, 2, 3]), json!([-100, -100, 3]), json!([1, 0, 1]));
        assert!(told(row).starts_with("`attention_mask[1]` is 0 in the middle of the row"));
        assert_eq!(told(ids(json!([0]), json!([-100]), json!([0]))), "the row has no token");
        let row = json!({"input_ids": [1, 2], "labels": [1, 2], "position_ids": [0, 0]});
        assert!(told(row).starts_with("`position_ids` does not count"));
    }
}
