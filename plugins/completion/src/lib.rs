//! Plain texts, learned from the first word to the last, as Axolotl's `completion` type has them: the text of one column,
//! with nothing around it. The end of the text is learned too.

use plugin_sdk::Error;
use plugin_sdk::row::{Column, columns};
use plugin_sdk::strategy::{PromptStrategy, RowError, Sample, Text, bad_field, learn, render_row};
use serde::Deserialize;
use serde_json::{Map, Value};

/// What can be set.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Column with the text. Default: `text`.
    field: Option<String>,
}

/// The strategy.
pub struct Completion {
    field: String,
}

impl PromptStrategy for Completion {
    type Config = Config;
    type Row = Map<String, Value>;

    fn new(config: Config) -> Result<Self, Error> {
        Ok(Self { field: config.field.unwrap_or_else(|| "text".to_owned()) })
    }

    fn render(&self, row: Map<String, Value>) -> Result<Option<Sample>, RowError> {
        let field = &self.field;
        match row.get(field) {
            Some(Value::String(text)) => Ok(sample(text)),
            Some(Value::Null) => {
                Err(bad_field(field, format!("`{field}` is null (as `NaN` is read too), where a text belongs")))
            }
            Some(_) => Err(bad_field(field, format!("`{field}` must be a text"))),
            None => {
                let mut has: Vec<&str> = row.keys().take(8).map(String::as_str).collect();
                if row.len() > has.len() {
                    has.push("…");
                }
                let has = if has.is_empty() { "no column at all".to_owned() } else { has.join(", ") };
                Err(bad_field(field, format!("the row has no `{field}`; it has {has}")))
            }
        }
    }

    fn render_all(&self, rows: &[String]) -> Result<Vec<Result<Option<Sample>, RowError>>, Error> {
        // A row in which something is wrong is read again, whole, for the words.
        let quick = |row: &String| match columns(row, [self.field.as_str()]) {
            Ok([Column::Text(text)]) => Ok(sample(&text)),
            _ => render_row(self, row),
        };
        Ok(rows.iter().map(quick).collect())
    }
}

/// None for a text without a character: there is nothing to learn from it.
fn sample(text: &str) -> Option<Sample> {
    (!text.is_empty()).then(|| Sample::Supervised(Text::Segments(vec![learn(text)])))
}

plugin_sdk::register_prompt_strategy!(Completion, name: "completion", description: "Plain texts, learned as a whole");

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(config: Value, row: Value) -> Result<Option<String>, String> {
        let completion = Completion::new(serde_json::from_value(config).unwrap()).unwrap();
        let Value::Object(columns) = &row else { panic!("a row is an object") };
        let sample = completion.render(columns.clone());
        // The quick way is the same.
        assert_eq!(completion.render_all(&[row.to_string()]).unwrap(), std::slice::from_ref(&sample));
        match sample.map_err(|error| error.message)? {
            None => Ok(None),
            Some(Sample::Supervised(Text::Segments(segments))) => {
                assert!(segments.iter().all(|segment| segment.train));
                Ok(Some(segments.into_iter().map(|segment| segment.text).collect()))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_text_of_a_column_is_learned_as_a_whole() {
        assert_eq!(render(json!({}), json!({"text": "a \"b\"\n", "id": 1})), Ok(Some("a \"b\"\n".to_owned())));
        assert_eq!(render(json!({"field": "body"}), json!({"text": "x", "body": "y"})), Ok(Some("y".to_owned())));
        assert_eq!(render(json!({}), json!({"text": ""})), Ok(None));
    }

    #[test]
    fn bad_rows_name_the_column() {
        let told = |row: Value| render(json!({}), row).unwrap_err();
        assert_eq!(told(json!({"body": "x"})), "the row has no `text`; it has body");
        assert_eq!(told(json!({"text": null})), "`text` is null (as `NaN` is read too), where a text belongs");
        assert_eq!(told(json!({"text": 3})), "`text` must be a text");
    }
}
