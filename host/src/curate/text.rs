//! What of a row is compared: its texts.

use serde_json::Value;

/// The texts of a row, a line break between them: of some columns, or all that stand anywhere in it, in their order. Numbers
/// and the names of columns are no text.
pub(super) fn text_of(row: &Value, columns: &[String]) -> String {
    let mut out = String::new();
    if columns.is_empty() {
        push(row, &mut out);
    }
    for column in columns {
        if let Some(value) = row.get(column) {
            push(value, &mut out);
        }
    }
    out
}

fn push(value: &Value, out: &mut String) {
    match value {
        Value::String(text) if text.is_empty() => {}
        Value::String(text) => {
            if !out.is_empty() {
                out.push('\n');
            }
            out.push_str(text);
        }
        Value::Array(list) => list.iter().for_each(|value| push(value, out)),
        Value::Object(map) => map.values().for_each(|value| push(value, out)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_taken_in_their_order() {
        let row = json!({ "b": "one", "a": ["two", 3, { "x": "four" }], "n": null, "e": "" });
        assert_eq!(text_of(&row, &[]), "one\ntwo\nfour");
        assert_eq!(text_of(&row, &["a".into(), "b".into(), "z".into()]), "two\nfour\none");
    }
}
