//! 1 where a completion is JSON that a schema allows, else 0. The schema stands in the config, or in a column of each row.
//!
//! Schemas are those of JSON Schema 2020-12 as `schema.rs` says. Of a completion, spaces around the JSON do not count; with
//! `fenced` it may stand in a block of Markdown.

mod schema;

use plugin_sdk::Error;
use plugin_sdk::reward::{Context, Item, Reward, Score, reference, value, value_because};
use serde::Deserialize;
use serde_json::Value;

use schema::Schema;

/// Bytes of a completion that is looked at: far more than any model writes at once.
const LIMIT: usize = 1 << 20;

/// What can be set: one of `schema` and `field`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The schema: `{type: object, required: [name]}`.
    schema: Option<Value>,
    /// Column with the schema of a row, as JSON or as a text that is JSON. A row without one has no score.
    field: Option<String>,
    /// Take the last block of Markdown (between lines of three backticks) where a completion has one. Default: false.
    fenced: bool,
    /// Score of a completion that is JSON, but not of the schema, from 0 to 1. Default: `0`.
    valid_json: f64,
}

/// The reward.
pub struct JsonSchema {
    config: Config,
    schema: Option<Schema>,
    /// The schema of the row before, by its text: completions of one row come one after another.
    of_row: Option<(String, Result<Schema, String>)>,
}

impl Reward for JsonSchema {
    type Config = Config;

    fn new(mut config: Config) -> Result<Self, Error> {
        if !(0.0..=1.0).contains(&config.valid_json) {
            return Err(Error::config("valid_json", "`valid_json` must be from 0 to 1"));
        }
        let schema = match (config.schema.take(), &config.field) {
            (Some(schema), None) => {
                Some(Schema::new(schema).map_err(|message| Error::config("schema", format!("`schema`: {message}")))?)
            }
            (None, Some(field)) if field.is_empty() => {
                return Err(Error::config("field", "`field` is empty; name a column of the data"));
            }
            (None, Some(_)) => None,
            (None, None) => return Err(Error::config_with_help("", "there is no schema", "set `schema` or `field`")),
            (Some(_), Some(_)) => {
                return Err(Error::config_with_help(
                    "field",
                    "there are two schemas",
                    "keep one of `schema` and `field`",
                ));
            }
        };
        Ok(Self { config, schema, of_row: None })
    }

    fn score(&mut self, item: &Item, _context: &Context) -> Result<Score, Error> {
        let schema = match (&self.schema, &self.config.field) {
            (Some(schema), _) => schema,
            (None, field) => {
                let Some(text) = reference(item, field.as_deref())? else {
                    return Ok(Score { value: None, note: Some("the row has no schema".to_owned()) });
                };
                let is_known = self.of_row.as_ref().is_some_and(|(known, _)| *known == text);
                if !is_known {
                    self.of_row = None;
                }
                let (_, schema) = self.of_row.get_or_insert_with(|| {
                    let read = serde_json::from_str(&text).map_err(|error| format!("it is not JSON: {error}"));
                    let schema = read.and_then(Schema::new);
                    (text, schema)
                });
                match schema {
                    Ok(schema) => schema,
                    Err(why) => return Ok(Score { value: None, note: Some(format!("the row's schema: {why}")) }),
                }
            }
        };
        if item.completion.len() > LIMIT {
            return Ok(value_because(0.0, format!("longer than {LIMIT} bytes")));
        }
        let text = if self.config.fenced { last_block(&item.completion) } else { &item.completion };
        // serde_json goes 128 values deep, and no further.
        let found: Value = match serde_json::from_str(text) {
            Ok(found) => found,
            Err(error) => return Ok(value_because(0.0, format!("not JSON: {error}"))),
        };
        Ok(match schema.judge(&found) {
            Ok(()) => value(1.0),
            Err(why) => value_because(self.config.valid_json, why),
        })
    }
}

/// What stands in the last block between lines that start with three backticks; without one, all of it.
fn last_block(text: &str) -> &str {
    const FENCE: &str = "```";
    let Some(close) = text.rfind(FENCE) else { return text };
    let Some(open) = text[..close].rfind(FENCE) else { return text };
    let inside = &text[open + FENCE.len()..close];
    // The rest of the first line names a language.
    inside.split_once('\n').map_or(inside, |(_, block)| block)
}

plugin_sdk::register_reward!(
    JsonSchema,
    name: "json-schema",
    description: "1 where a completion is JSON that a schema allows, else 0",
);

#[cfg(test)]
mod tests;
