//! Shapes that datasets have in common, made plain: JSON inside texts, nulls, and contents in parts.

use serde::Deserialize;
use serde_json::{Map, Value};

/// A part of a text: characters from `begin_offset` to `end_offset`, both included.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Detail {
    pub(crate) begin_offset: u32,
    pub(crate) end_offset: u32,
    pub(crate) train: bool,
}

/// Nulls are columns that other rows have (Arrow fills them in); a template must not see them.
pub(crate) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key, without_nulls(value)))
                .collect(),
        ),
        Value::Array(list) => Value::Array(list.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// A list; some datasets hold it as JSON in a text.
pub(crate) fn list(value: Value, field: &str, of: &str) -> Result<Vec<Value>, String> {
    let value = match value {
        Value::String(text) => {
            serde_json::from_str(&text).map_err(|error| format!("`{field}` is a text, but not JSON: {error}"))?
        }
        other => other,
    };
    match value {
        Value::Array(list) => Ok(list),
        _ => Err(format!("`{field}` must be a list of {of}")),
    }
}

/// Replaces the JSON text at `key` by what it says: templates write it as JSON again, and would write it twice.
pub(crate) fn unfold(map: &mut Map<String, Value>, key: &str) -> Result<(), String> {
    let Some(Value::String(text)) = map.get(key) else { return Ok(()) };
    let read: Value = serde_json::from_str(text).map_err(|error| {
        let name = map.get("name").and_then(Value::as_str).unwrap_or("a function");
        format!("`{key}` of `{name}` is not JSON: {error}")
    })?;
    map.insert(key.to_owned(), read);
    Ok(())
}

/// A content in parts (`[{"type": "text", "text": …}, …]`) as one text, with what is learned of it where the parts say so
/// (`train`, or `weight` 0).
pub(crate) fn joined(parts: &[Value], field: &str) -> Result<(String, Option<Vec<Detail>>), String> {
    let mut text = String::new();
    let mut details = Vec::new();
    let (mut length, mut says) = (0_u32, false);
    for part in parts {
        let Value::Object(part) = part else { return Err(format!("a part of `{field}` is not an object")) };
        if let Some(kind) = part.get("type").and_then(Value::as_str).filter(|kind| *kind != "text") {
            return Err(format!("a part of `{field}` is `{kind}`; only texts can be learned from"));
        }
        let own = ["text", "content", "value"].iter().find_map(|key| part.get(*key).and_then(Value::as_str));
        let own = own.ok_or_else(|| format!("a part of `{field}` has no `text`"))?;
        let train = part.get("train").or_else(|| part.get("weight")).map(|value| is_true(value, "train"));
        says |= train.is_some();
        let train = train.transpose()?.unwrap_or(true);
        let characters = own.chars().count() as u32;
        if characters > 0 {
            details.push(Detail { begin_offset: length, end_offset: length + characters - 1, train });
        }
        length += characters;
        text.push_str(own);
    }
    Ok((text, says.then_some(details)))
}

/// True, false, or a weight.
pub(crate) fn is_true(value: &Value, field: &str) -> Result<bool, String> {
    match value {
        Value::Bool(value) => Ok(*value),
        Value::Number(number) => Ok(number.as_f64() != Some(0.0)),
        _ => Err(format!("`{field}` must be true or false")),
    }
}
