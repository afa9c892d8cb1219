//! Pieces of text as they are, as Axolotl's `input_output` type has them: the column `segments`, a list of
//! `{"label": true, "text": "…"}`, of which those with a true label are learned. Each piece is tokenized by itself, and no special
//! token is added: what the model needs of those stands in the texts (`<s>`, `</s>`).

use plugin_sdk::strategy::{PromptStrategy, RowError, Sample, Text, apart, bad_field, learn, read};
use plugin_sdk::{Error, NoConfig};
use serde_json::{Map, Value};

const COLUMN: &str = "segments";

/// The strategy.
pub struct InputOutput;

impl PromptStrategy for InputOutput {
    type Config = NoConfig;
    type Row = Map<String, Value>;

    fn new(_: NoConfig) -> Result<Self, Error> {
        Ok(Self)
    }

    fn render(&self, row: Map<String, Value>) -> Result<Option<Sample>, RowError> {
        let bad = |message: String| bad_field(COLUMN, message);
        let list = match row.get(COLUMN) {
            Some(Value::Array(list)) if list.is_empty() => return Err(bad(format!("`{COLUMN}` is an empty list"))),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(bad(format!("`{COLUMN}` must be a list of pieces with `label` and `text`"))),
            None => {
                let mut has: Vec<&str> = row.keys().take(8).map(String::as_str).collect();
                if row.len() > has.len() {
                    has.push("…");
                }
                let has = if has.is_empty() { "no column at all".to_owned() } else { has.join(", ") };
                return Err(bad(format!("the row has no `{COLUMN}`; it has {has}")));
            }
        };
        let mut segments = vec![apart()];
        for (index, piece) in list.iter().enumerate() {
            let what = |words: &str| bad(format!("piece {}: {words}", index + 1));
            let Some(Value::String(text)) = piece.get("text") else { return Err(what("`text` must be a text")) };
            let Some(Value::Bool(label)) = piece.get("label") else {
                return Err(what("`label` must be true, where the piece is learned, or false"));
            };
            segments.extend([if *label { learn(text) } else { read(text) }, apart()]);
        }
        Ok(Some(Sample::Supervised(Text::Segments(segments))))
    }
}

plugin_sdk::register_prompt_strategy!(
    InputOutput,
    name: "input_output",
    description: "Pieces of text, each with a label that says whether it is learned",
);

#[cfg(test)]
mod tests {
    use plugin_sdk::strategy::Segment;
    use serde_json::json;

    use super::*;

    fn render(row: Value) -> Result<Vec<Segment>, String> {
        let Value::Object(row) = row else { panic!("a row is an object") };
        match InputOutput.render(row).map_err(|error| error.message)? {
            Some(Sample::Supervised(Text::Segments(segments))) => Ok(segments),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pieces_stand_apart() {
        let row =
            json!({"segments": [{"label": false, "text": "<s>Hi"}, {"label": true, "text": " you</s>"}], "id": 1});
        assert_eq!(render(row).unwrap(), [apart(), read("<s>Hi"), apart(), learn(" you</s>"), apart()]);
    }

    #[test]
    fn bad_rows_say_which_piece() {
        let told = |row: Value| render(row).unwrap_err();
        assert_eq!(told(json!({"text": "x"})), "the row has no `segments`; it has text");
        assert_eq!(told(json!({})), "the row has no `segments`; it has no column at all");
        assert_eq!(told(json!({"segments": "x"})), "`segments` must be a list of pieces with `label` and `text`");
        assert_eq!(told(json!({"segments": []})), "`segments` is an empty list");
        assert_eq!(told(json!({"segments": ["x"]})), "piece 1: `text` must be a text");
        let row = json!({"segments": [{"label": true, "text": "a"}, {"label": "yes", "text": "b"}]});
        assert_eq!(told(row), "piece 2: `label` must be true, where the piece is learned, or false");
    }
}
